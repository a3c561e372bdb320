"""Features of a frozen vision encoder on disk: a picture is decoded and encoded once, not in every epoch."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset
from tqdm.auto import tqdm

from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import encode_patches
from roc.processing_roc import RocProcessor
from roc.relations_file_roc import encoder_fingerprint
from roc.samples.grouping import GroupedSamples, Sample
from roc.support.files import atomic_write
from roc.support.programs import shows_progress

FORMAT = 1  # of the files, and of what happens to a picture before the image processor

logger = logging.getLogger("roc.samples.vision_cache")


def use_vision_cache(
    folder: str | os.PathLike[str],
    model: RocModel,
    processor: RocProcessor,
    splits: Sequence[GroupedSamples],
    accelerator: Accelerator,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> None:
    """Have splits give features instead of pictures; those that the cache lacks are encoded first.

    The model's vision encoder is frozen; it is moved to the accelerator's device. Features are computed in float32 and
    stored as float16, `batch_size` pictures a file. They are found by the SHA-256 of a picture's file, in a subfolder
    for the `backbone_revision`. Each process encodes its share; several runs may use one folder at the same time.

    Raises:
        ValueError: If a file of the cache is damaged or another encoder's, a picture cannot be decoded, features are
            too large for float16, or pictures are not in the cache although all have been encoded.
    """
    own = Path(folder) / backbone_revision(model, processor)
    pictures = _distinct_pictures(splits)
    known = read_features(own)
    share = sorted(pictures)[accelerator.process_index :: accelerator.num_processes]
    missing = [digest for digest in share if digest not in known]
    loader = DataLoader(
        Subset(ConcatDataset(splits), [pictures[digest] for digest in missing]),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=functools.partial(_decode, processor),
        generator=torch.Generator(),  # a run's random numbers do not depend on what the cache holds already
    )
    assert model.vision_model is not None
    encoder = model.vision_model.to(accelerator.device)
    with tqdm(total=len(missing), desc="encoding pictures", disable=not shows_progress()) as bar:
        for digests, pixels in loader:
            write_features(own, digests, _encode(encoder, pixels.to(accelerator.device)))
            bar.update(len(digests))
    accelerator.wait_for_everyone()
    features = read_features(own)
    if absent := pictures.keys() - features.keys():
        raise ValueError(
            f"{len(absent)} of {len(pictures)} pictures are not in {own} although all have been encoded. Either they "
            "changed meanwhile: start again. Or the processes do not share this folder: name one that they share."
        )
    logger.info("%d pictures encoded by this process, %d in all, in %s", len(missing), len(pictures), own)
    for split in splits:
        split.features = features


def backbone_revision(model: RocModel, processor: RocProcessor) -> str:
    """Return the SHA-256 of what features depend on: the vision encoder, the image processor, the format."""
    assert model.vision_model is not None
    settings = {name: value for name, value in processor.image_processor.to_dict().items() if name != "auto_map"}
    parts = [FORMAT, encoder_fingerprint(model.vision_model), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def write_features(folder: Path, digests: Sequence[bytes], features: Tensor) -> Path:
    """Write the features of some pictures, and return the file: all of it is written, or nothing.

    Its name depends on the digests only: two runs that encode the same pictures write the same file.

    Args:
        folder: The folder of one backbone, named by its revision; made where it is missing.
        digests: SHA-256 of each picture's file.
        features: `(len(digests), rows, columns, vision_hidden)`.
    """
    content = {"digests": torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)}
    content["features"] = features.to("cpu", torch.float16).contiguous()
    metadata = {"revision": folder.name, "checksum": str(_checksum(content))}
    path = folder / f"{hashlib.sha256(b''.join(digests)).hexdigest()}.safetensors"
    with atomic_write(path, "wb") as file:
        file.write(save(content, metadata=metadata))
    return path


def read_features(folder: Path) -> dict[bytes, Tensor]:
    """Map all features of one backbone into memory, by the SHA-256 of the picture's file.

    Args:
        folder: As for `write_features`; may be missing.

    Returns:
        Features `(rows, columns, vision_hidden)` in float16, which are read from disk when they are used, and always
        the same object for the same picture.

    Raises:
        ValueError: If a file is damaged, cut off, or another backbone's; the message names it.
    """
    known: dict[bytes, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        known.update(_read(path, folder.name))
    return known


def _read(path: Path, revision: str) -> Iterator[tuple[bytes, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in ("digests", "features")}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut off ({error}). Delete it: it will be written anew.") from error
    if metadata.get("checksum") != str(_checksum(content)):
        raise ValueError(f"{path} is damaged: its checksum is another one. Delete it: it will be written anew.")
    if metadata.get("revision") != revision:
        raise ValueError(
            f"{path} holds features of another vision encoder or image processor ({metadata.get('revision')}). "
            "Delete it, or move it back to its own folder."
        )
    return zip(map(bytes, content["digests"].tolist()), content["features"], strict=True)


def _checksum(content: Mapping[str, Tensor]) -> int:
    digests, features = (content[name].reshape(-1).view(torch.uint8).numpy() for name in ("digests", "features"))
    return zlib.crc32(features, zlib.crc32(digests))


def _distinct_pictures(splits: Sequence[GroupedSamples]) -> dict[bytes, int]:
    """Return each picture's SHA-256, with the number of a sample that shows it, counted over all splits."""
    pictures: dict[bytes, int] = {}
    for number, sample in enumerate(itertools.chain.from_iterable(split.samples for split in splits)):
        if sample.image_digest is not None:
            pictures.setdefault(sample.image_digest, number)
    return pictures


def _decode(processor: RocProcessor, items: Sequence[tuple[Sample, bytes]]) -> tuple[list[bytes], Tensor]:
    """Return the SHA-256 of the bytes that are decoded, and `(len(items), channels, height, width)`."""
    digests = [hashlib.sha256(image).digest() for _, image in items]
    return digests, torch.cat([processor.pixels(image, f"row {sample.row_ids[0]!r}") for sample, image in items])


@torch.no_grad()
def _encode(encoder: torch.nn.Module, pixels: Tensor) -> Tensor:
    features = encode_patches(encoder, pixels).to(torch.float16)
    if not torch.isfinite(features).all():
        raise ValueError(
            "The vision encoder's patch states are not finite in float16, in which they are stored. Train without "
            "vision_cache."
        )
    return features
