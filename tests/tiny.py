"""Tiny random models, processors and pictures for tests: built in code, nothing is downloaded."""

from __future__ import annotations

import io
import string
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil

from roc.configuration_roc import RocConfig
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.training.adapters import add_lora

NONE_RELATION = "None"
RELATIONS: list[dict[str, Any]] = [
    {"name": "None", "descriptions": ["nothing in the post relates the head to the tail"]},
    {
        "name": "/per/per/couple",
        "descriptions": ["the head loves the tail", "the two are a couple"],
        "head_types": ["person"],
        "tail_types": ["person"],
    },
    {"name": "/per/loc/place_of_birth", "descriptions": ["the head was born in the tail"], "head_types": ["person"]},
    {"name": "/per/misc/holds", "descriptions": ["the head holds the tail"], "tail_types": ["object"]},
]
WORDS = [
    *("the", "a", "of", "in", "and", "to", "is", "was", "with", "nothing", "post", "relates", "head", "tail", "loves"),
    *("two", "are", "couple", "born", "holds", "ann", "bob", "eve", "paris", "berlin", "met", "kissed", "visits"),
    *("today", "person", "organization", "location", "miscellaneous", "object"),
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A BERT-like WordPiece tokenizer: `WORDS` are one token each, everything else in ASCII falls into characters."""
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def tiny_byte_tokenizer() -> PreTrainedTokenizerFast:
    """A RoBERTa-like byte-level BPE tokenizer: any text falls into bytes, a space is part of the word after it."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [("Ġ", "A"), ("n", "n"), ("ĠA", "nn")]
    ids = {token: number for number, token in enumerate([*symbols, *(left + right for left, right in merges)])}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
    )


def tiny_processor(
    markers: str = "entities", *, vision: bool = True, tokenizer: PreTrainedTokenizerFast | None = None, **kwargs: Any
) -> RocProcessor:
    """A processor for 32 x 32 pictures (none without `vision`); further settings as `RocProcessor`."""
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32}) if vision else None
    return RocProcessor(image_processor, tokenizer or tiny_tokenizer(), markers=markers, **kwargs)


def tiny_model(
    processor: RocProcessor, *, head: str = "retrieval", vision: bool = True, seed: int = 0, **kwargs: Any
) -> RocModel:
    """A random model in evaluation mode that knows `RELATIONS`; further settings as `RocConfig`."""
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = BertConfig(vocab_size=len(processor.tokenizer), **size)
    settings: dict[str, Any] = {
        "text_config": text,
        "vision_config": ViTConfig(image_size=32, patch_size=8, **size) if vision else None,
        "relation_config": BertConfig(vocab_size=len(processor.tokenizer), **size) if head == "retrieval" else None,
        "head": head,
        "fusion_num_layers": 1,
        "fusion_num_heads": 2,
        "projection_dim": 16,
        "relations": RELATIONS,
        "none_relation": NONE_RELATION,
    }
    settings |= kwargs
    model = RocModel(RocConfig(**settings)).eval()
    if head == "retrieval":
        relations = [dict(relation) for relation in model.config.relations]
        model.set_relations(relations, processor, none_relation=model.config.none_relation)
    return model


def tiny_adapted_model(processor: RocProcessor, encoders: Any = "text", **kwargs: Any) -> RocModel:
    """A tiny model whose adapter has learnt something; further settings as `tiny_model`."""
    model = tiny_model(processor, **kwargs)
    add_lora(model, encoders=encoders, rank=2, alpha=4, marker_ids=processor.marker_ids)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter.normal_()
    return model.eval()


def save_tiny(folder: Path, **kwargs: Any) -> RocProcessor:
    """Save a tiny model and its processor, and return the processor."""
    processor = tiny_processor()
    tiny_model(processor, **kwargs).save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


def louder(model: RocModel) -> RocModel:
    """The model with weights large enough that attention and pictures matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "relation_model" not in name and "embeddings" not in name:
                parameter.mul_(4)
    return model


def scores(model: RocModel, processor: RocProcessor) -> dict[str, float]:
    """Give the logit of each relation for one pair."""
    batch = processor("ann kissed bob", entities=[(0, 3), (11, 14)], pairs=[(0, 1)])
    with torch.no_grad():
        logits = model(**batch).logits[0, 0].tolist()
    return dict(zip(model.config.relation_names, logits, strict=True))


def tiny_picture(colour: Any = "red", *, size: tuple[int, int] = (40, 24), mode: str = "RGB") -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, size, colour)


def picture_bytes(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG file whose head states any size, without pixels."""
    return _png(width, height, depth=8, colour_type=2, rows=b"")


def white_png(side: int) -> bytes:
    """A whole white PNG of `side` x `side` pixels, one bit each; small as a file and large when decoded."""
    row = b"\0" + b"\xff" * -(-side // 8)
    return _png(side, side, depth=1, colour_type=0, rows=row * side)


def _png(width: int, height: int, *, depth: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
