"""What a dry run tells about the data: counts, lengths, pictures, what needs a look, and the first batch."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from transformers import BatchFeature

from roc.messages_roc import shorten
from roc.processing_images_roc import identify_image
from roc.processing_roc import RocProcessor
from roc.samples.findings import list_findings, name_of
from roc.samples.grouping import GroupedSamples, Sample, UnreadableRow
from roc.samples.reading import count_tokens

SHOWN = 5  # entries of a list that is printed
KINDS = ("text-text", "text-object", "object-object")


@dataclass(frozen=True)
class SplitReport:
    """What is known of one split. A text here is one with its picture and all its pairs."""

    samples: Sequence[Sample]
    num_tokens: Sequence[int]  # of each text, as the model would read it if it were not cut off
    unreadable: Sequence[UnreadableRow]  # rows that are in none of the samples
    sizes: Sequence[tuple[int, int]] | None  # of each picture, smallest area first; None where the run reads none

    @property
    def relations(self) -> Counter[str]:
        """The number of pairs of each relation."""
        return Counter(relation for sample in self.samples for relation in sample.relations)

    @property
    def texts_per_picture(self) -> Counter[bytes]:
        """The number of texts that show each picture."""
        return Counter(sample.image_digest for sample in self.samples if sample.image_digest is not None)

    def too_long(self, max_length: int) -> list[str]:
        """Return the first row of each text with more tokens than that."""
        return [own.row_ids[0] for own, length in zip(self.samples, self.num_tokens) if length > max_length]


def report_data(
    train_set: GroupedSamples, val_set: GroupedSamples, processor: RocProcessor, relations: Sequence[Mapping[str, Any]]
) -> None:
    """Look at every text and at the head of every picture file, and print what there is to know to stderr.

    Args:
        train_set: The training samples, after `roc.samples.reading.leave_out_unreadable`.
        val_set: The validation samples, likewise.
        processor: The model's processor.
        relations: The relations that training sees, as in `RocConfig`.
    """
    train, val = report_on_split(train_set, processor), report_on_split(val_set, processor)
    print(format_report(train, val, relations=relations, max_length=processor.max_length), file=sys.stderr)


def report_on_split(samples: GroupedSamples, processor: RocProcessor) -> SplitReport:
    """Look at every text of a split, and at the head of every picture file; no picture is decoded."""
    sizes = sorted(_picture_sizes(samples), key=math.prod) if samples.use_image else None
    return SplitReport(samples.samples, count_tokens(samples, processor), samples.unreadable, sizes)


def format_report(
    train: SplitReport, val: SplitReport, *, relations: Sequence[Mapping[str, Any]], max_length: int
) -> str:
    """Write the reports of a run's splits as tables and lists."""
    splits = {"training": train, "validation": val}
    counts = [_counts(report, max_length) for report in splits.values()]
    pairs = [report.relations for report in splits.values()]
    names = dict.fromkeys([*(relation["name"] for relation in relations), *sorted(pairs[1])])  # some only validate
    parts = [
        _table([("", *splits), *((label, *(own[label] for own in counts)) for label in counts[0])]),
        _table([("pairs of", *splits), *((name, *(own[name] for own in pairs)) for name in names)]),
        *(_longest(name, report) for name, report in splits.items()),
        "\n".join(_findings(splits, relations, max_length)),
    ]
    return "\n\n".join(part for part in parts if part)


def format_batch(
    row_ids: Sequence[str],
    batch: BatchFeature,
    samples: Sequence[Sample],
    processor: RocProcessor,
    relations: Sequence[str],
) -> str:
    """Write a batch of `SampleCollator` as the model sees it: decoded tokens, pairs and labels of its first texts."""
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
            lines.append(f"        {row_id}: {name_of(head, sample)}, {name_of(tail, sample)}: {relations[label]}")
    return "\n".join([*lines, *_more(batch["input_ids"])])


def _picture_sizes(samples: GroupedSamples) -> Iterator[tuple[int, int]]:
    seen: set[bytes | None] = {None}
    for number, sample in enumerate(samples.samples):
        if sample.image_digest not in seen:
            seen.add(sample.image_digest)
            image = samples[number][1]
            assert isinstance(image, bytes), "a dry run uses no cache of features"
            yield identify_image(image, f"row {sample.row_ids[0]!r}").size


def _counts(report: SplitReport, max_length: int) -> dict[str, Any]:
    samples, lengths, shown = report.samples, sorted(report.num_tokens), report.texts_per_picture
    kinds = Counter(sum(own.entities[entity].is_object for entity in pair) for own in samples for pair in own.pairs)
    sizes = [f"{width} x {height}" for width, height in report.sizes or ()] or ["-"]
    pixels = {"  pixels, smallest": sizes[0], "  pixels, median": _quantile(sizes, 0.5), "  pixels, largest": sizes[-1]}
    return {
        "texts": len(samples),
        "pairs": kinds.total(),
        **{f"  {kind}": kinds[num_objects] for num_objects, kind in enumerate(KINDS)},
        "tokens of a text, least": lengths[0],
        "  median": _quantile(lengths, 0.5),
        "  95 % have at most": _quantile(lengths, 0.95),
        "  most": lengths[-1],
        f"  texts cut off at {max_length}": len(report.too_long(max_length)),
        "texts without a picture": sum(sample.image_digest is None for sample in samples),
        "pictures": len(shown),
        "  shown with several texts": sum(number > 1 for number in shown.values()),
        **({"  pixels": "not read"} if report.sizes is None else pixels),
    }


def _quantile(values: Sequence[Any], share: float) -> Any:
    """Return the least of the sorted values that at least this share of them does not exceed."""
    return values[math.ceil(share * len(values)) - 1]


def _longest(name: str, report: SplitReport) -> str:
    longest = sorted(zip(report.num_tokens, report.samples), key=lambda entry: entry[0], reverse=True)[:SHOWN]
    lines = [f"    {length} tokens, {own.row_ids[0]}: {shorten(own.text)}" for length, own in longest]
    return "\n".join([f"the longest texts of {name}:", *lines])


def _findings(splits: dict[str, SplitReport], relations: Sequence[Mapping[str, Any]], max_length: int) -> Iterator[str]:
    """Give what a person should look at before the run."""
    train, val = splits.values()
    for name, report in splits.items():
        unreadable = [f"{row.row_id}: {row.reason}" for row in report.unreadable]
        yield from _listed(unreadable, f"{name} rows cannot be read by this model; they are in no other count")
        what = f"{name} texts are longer than max_length={max_length} and are cut off"
        yield from _listed(report.too_long(max_length), what)
    for what, entries in list_findings(train.samples, val.samples, relations):
        yield from _listed(entries, what)


def _listed(entries: Sequence[str], what: str) -> list[str]:
    lines = [f"check: {len(entries)} {what}", *(f"    {entry}" for entry in entries[:SHOWN]), *_more(entries)]
    return lines if entries else []


def _more(entries: Sized) -> list[str]:
    return [f"    and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Make columns as wide as their widest entry: the first to the left, numbers to the right."""
    first, *others = [max(len(str(entry)) for entry in column) for column in zip(*rows)]
    return "\n".join(
        "  ".join([f"{label:<{first}}", *(f"{entry!s:>{width}}" for entry, width in zip(numbers, others))])
        for label, *numbers in rows
    )
