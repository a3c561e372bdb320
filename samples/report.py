"""What a dry run tells about the data: counts, lengths, pictures, what is cut off or leaks, and the first batch."""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from transformers import BatchFeature

from roc.messages_roc import shorten
from roc.processing_entities_roc import Entity
from roc.processing_images_roc import identify_image
from roc.processing_roc import RocProcessor
from roc.samples.grouping import GroupedSamples, Sample

SHOWN = 5  # entries of a list that is printed
TEXTS_PER_CALL = 256

KINDS = ("text-text", "text-object", "object-object")


@dataclass(frozen=True)
class SplitReport:
    """What is known of one split. A text here is one with its picture and all its pairs.

    Args:
        samples: Its texts.
        num_tokens: Of each text, as the model would read it if it were not cut off; with a row per pair, the most.
        unreadable: What the processor says of texts that it cannot encode.
        reads_pictures: Whether the run reads pictures.
        picture_sizes: Width and height of each distinct picture, smallest area first; empty where none is read.
    """

    samples: Sequence[Sample]
    num_tokens: Sequence[int]
    unreadable: Sequence[str]
    reads_pictures: bool
    picture_sizes: Sequence[tuple[int, int]]

    @property
    def relations(self) -> Counter[str]:
        """Pairs of each relation."""
        return Counter(relation for sample in self.samples for relation in sample.relations)

    @property
    def kinds(self) -> Counter[str]:
        """Pairs of each of `KINDS`."""
        return Counter(_kind(sample, pair) for sample in self.samples for pair in sample.pairs)

    @property
    def texts_per_picture(self) -> Counter[bytes]:
        """How many texts show each picture."""
        return Counter(sample.image_digest for sample in self.samples if sample.image_digest is not None)


def report_data(
    train_set: GroupedSamples, val_set: GroupedSamples, processor: RocProcessor, relations: Sequence[str]
) -> None:
    """Look at every text and at the head of every picture file, and print what there is to know to stderr.

    Args:
        train_set: The samples to learn from.
        val_set: The samples that choose the best epoch.
        processor: The model's processor.
        relations: Names of the relations of the inventory.

    Raises:
        ValueError: If a text cannot be encoded; what is known of the others is printed before.
    """
    train, val = report_on_split(train_set, processor), report_on_split(val_set, processor)
    print(format_report(train, val, relations=relations, max_length=processor.max_length), file=sys.stderr)
    unreadable = [*train.unreadable, *val.unreadable]
    if unreadable:
        raise ValueError(f"{len(unreadable)} texts cannot be read. {' '.join(unreadable[:SHOWN])}")


def report_on_split(samples: GroupedSamples, processor: RocProcessor) -> SplitReport:
    """Look at every text of a split, and at the head of every picture file; no picture is decoded.

    Args:
        samples: The split.
        processor: The model's processor.

    Returns:
        The report.
    """
    num_tokens = count_tokens(samples.samples, processor)
    return SplitReport(
        samples=samples.samples,
        num_tokens=num_tokens,
        unreadable=list(_unreadable(samples.samples, num_tokens, processor)),
        reads_pictures=samples.use_image,
        picture_sizes=sorted(_picture_sizes(samples), key=lambda size: size[0] * size[1]),
    )


def count_tokens(samples: Sequence[Sample], processor: RocProcessor) -> list[int]:
    """How many tokens each text has with its markers and types, before anything is cut off.

    Args:
        samples: The texts.
        processor: The model's processor.

    Returns:
        One number per text; where each pair is a row of its own, the most of its rows.
    """
    unlimited = copy.copy(processor)
    unlimited.max_length = sys.maxsize
    counts = [0] * len(samples)
    order = sorted(range(len(samples)), key=lambda number: samples[number].approximate_length)  # little is padded
    for start in range(0, len(order), TEXTS_PER_CALL):
        numbers = order[start : start + TEXTS_PER_CALL]
        rows = iter(_encode([samples[number] for number in numbers], unlimited)["attention_mask"].sum(dim=-1).tolist())
        for number in numbers:
            num_rows = len(samples[number].pairs) if processor.markers == "pair" else 1
            counts[number] = max(next(rows) for _ in range(num_rows))
    return counts


def format_report(train: SplitReport, val: SplitReport, *, relations: Sequence[str], max_length: int) -> str:
    """The reports of a run's splits as tables and lists.

    Args:
        train: Of the training split.
        val: Of the validation split.
        relations: Names of the relations of the inventory.
        max_length: Most tokens that the model reads.

    Returns:
        Text of several lines.
    """
    splits = {"training": train, "validation": val}
    columns = [_counts(report, max_length) for report in splits.values()]
    pairs = [report.relations for report in splits.values()]
    parts = [
        _table([("", *splits), *((label, *(column[label] for column in columns)) for label in columns[0])]),
        _table([("pairs of", *splits), *((name, *(column[name] for column in pairs)) for name in relations)]),
        *(_longest(name, report) for name, report in splits.items()),
        "\n".join(_findings(train, val, relations=relations, max_length=max_length)),
    ]
    return "\n\n".join(part for part in parts if part)


def format_batch(
    row_ids: Sequence[str],
    batch: BatchFeature,
    *,
    samples: Sequence[Sample],
    processor: RocProcessor,
    relations: Sequence[str],
) -> str:
    """A batch as the model sees it: the decoded tokens of its first texts, their pairs and labels.

    Args:
        row_ids: As `SampleCollator` gives them.
        batch: Likewise.
        samples: The texts from which the batch was drawn.
        processor: The model's processor.
        relations: Names of the relations, in the order of the labels.

    Returns:
        Text of several lines.
    """
    sample_of = {row_id: sample for sample in samples for row_id in sample.row_ids}
    remaining = iter(row_ids)
    lines = ["the first batch as the model reads it:"]
    for number, ids in enumerate(batch["input_ids"][:SHOWN]):
        text = processor.tokenizer.decode(ids[batch["attention_mask"][number].bool()])
        has_picture = "image_index" in batch and batch["image_index"][number] >= 0
        lines.append(f"    {text}{' [picture]' if has_picture else ''}")
        for label in batch["labels"][number][batch["pair_mask"][number].bool()].tolist():
            row_id = next(remaining)
            sample = sample_of[row_id]
            head, tail = (sample.entities[entity] for entity in sample.pairs[sample.row_ids.index(row_id)])
            lines.append(f"        {row_id}: {_name(head, sample)}, {_name(tail, sample)}: {relations[label]}")
    return "\n".join([*lines, *_more(batch["input_ids"])])


def _encode(samples: Sequence[Sample], processor: RocProcessor) -> BatchFeature:
    return processor(
        text=[sample.text for sample in samples],
        entities=[sample.entities for sample in samples],
        pairs=[sample.pairs for sample in samples],
        where=[f"row {sample.row_ids[0]!r}" for sample in samples],
    )


def _unreadable(samples: Sequence[Sample], num_tokens: Sequence[int], processor: RocProcessor) -> Iterator[str]:
    """Only a text that is cut off can have a pair that does not fit."""
    for sample, length in zip(samples, num_tokens):
        if length > processor.max_length:
            try:
                _encode([sample], processor)
            except ValueError as error:
                yield str(error)


def _picture_sizes(samples: GroupedSamples) -> Iterator[tuple[int, int]]:
    seen: set[bytes] = set()
    for number, sample in enumerate(samples.samples):
        if samples.use_image and sample.image_digest is not None and sample.image_digest not in seen:
            seen.add(sample.image_digest)
            yield identify_image(samples[number][1], f"row {sample.row_ids[0]!r}").size


def _kind(sample: Sample, pair: tuple[int, int]) -> str:
    return KINDS[sum(sample.entities[number].is_object for number in pair)]


def _counts(report: SplitReport, max_length: int) -> dict[str, Any]:
    lengths, kinds, shown = sorted(report.num_tokens), report.kinds, report.texts_per_picture
    return {
        "texts": len(report.samples),
        "pairs": kinds.total(),
        **{f"  {kind}": kinds[kind] for kind in KINDS},
        "tokens of a text, least": lengths[0],
        "  median": _quantile(lengths, 0.5),
        "  95 % have at most": _quantile(lengths, 0.95),
        "  most": lengths[-1],
        f"  texts cut off at {max_length}": sum(length > max_length for length in lengths),
        "texts without a picture": sum(sample.image_digest is None for sample in report.samples),
        "pictures": len(shown),
        "  shown with several texts": sum(number > 1 for number in shown.values()),
        **_sizes(report),
    }


def _sizes(report: SplitReport) -> dict[str, str]:
    if not report.reads_pictures:
        return {"  pixels": "not read"}
    sizes = [f"{width} x {height}" for width, height in report.picture_sizes] or ["-"]
    return {
        "  pixels, smallest": sizes[0],
        "  pixels, median": _quantile(sizes, 0.5),
        "  pixels, largest": sizes[-1],
    }


def _quantile(values: Sequence[Any], share: float) -> Any:
    """The least of the sorted values that at least this share of them does not exceed."""
    return values[math.ceil(share * len(values)) - 1]


def _longest(name: str, report: SplitReport) -> str:
    order = sorted(range(len(report.samples)), key=report.num_tokens.__getitem__, reverse=True)
    lines = [f"the longest texts of {name}:"]
    for number in order[:SHOWN]:
        sample = report.samples[number]
        lines.append(f"    {report.num_tokens[number]} tokens, {sample.row_ids[0]}: {shorten(sample.text)}")
    return "\n".join(lines)


def _findings(train: SplitReport, val: SplitReport, *, relations: Sequence[str], max_length: int) -> Iterator[str]:
    """What a person should look at before the run."""
    for name, report in (("training", train), ("validation", val)):
        cut_off = [s.row_ids[0] for s, length in zip(report.samples, report.num_tokens) if length > max_length]
        yield from _listed(cut_off, f"{name} texts are longer than max_length={max_length} and are cut off")
    pairs = train.relations
    unseen = [relation for relation in relations if not pairs[relation]]
    yield from _listed(unseen, "relations have no pair in training")
    known, pictures = {_normalised(sample.text) for sample in train.samples}, train.texts_per_picture
    leaked = [sample.row_ids[0] for sample in val.samples if _normalised(sample.text) in known]
    yield from _listed(leaked, "validation texts are in training too: scores on them say little about new ones")
    shared = [sample.row_ids[0] for sample in val.samples if sample.image_digest in pictures]
    yield from _listed(shared, "validation texts show a picture that training texts show")


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _listed(entries: Sequence[str], what: str) -> Iterator[str]:
    if entries:
        yield "\n".join(
            [f"check: {len(entries)} {what}", *(f"    {entry}" for entry in entries[:SHOWN]), *_more(entries)]
        )


def _more(entries: Sized) -> list[str]:
    return [f"    and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []


def _name(entity: Entity, sample: Sample) -> str:
    if entity.bbox is None:
        return repr(sample.text[entity.start : entity.end])
    return f"{entity.name or 'object'!r} at {[round(side, 2) for side in entity.bbox]}"


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest entry: the first to the left, numbers to the right."""
    texts = [[str(entry) for entry in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(entry.rjust(width) for entry, width in zip(row[1:], widths[1:]))])
        for row in texts
    )
