"""Which rows a model cannot read: found before the first step, and then the reason to stop, or left out and counted."""

from __future__ import annotations

import copy
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from transformers import BatchFeature

from roc.messages_roc import shorten
from roc.processing_images_roc import DECODING_ERRORS, identify_image, is_animated
from roc.processing_roc import RocProcessor
from roc.samples.grouping import GroupedSamples, Sample, UnreadableRow

UnreadablePolicy = Literal["stop", "skip"]

TOO_FAR_APART = "entities too far apart for max_length"
TOO_MANY_OBJECTS = "more objects than max_regions"
NO_PICTURE = "a picture that cannot be opened"
REFUSED = "refused by the processor"
SHOWN = 3  # rows that an error names
BATCH_SIZE = 64  # texts that are encoded together

logger = logging.getLogger("roc.samples.reading")


def leave_out_unreadable(samples: GroupedSamples, processor: RocProcessor) -> None:
    """Take the rows that a processor cannot encode out of the samples, and list them in `samples.unreadable`.

    Every text is encoded once, and of every picture the head of its file is read. A file that is damaged further on is
    found when it is decoded: by the builder of the data set, or in the step that needs it.
    """
    broken = dict(_broken_pictures(samples))
    suspects = set(_suspects(samples, processor))
    kept: list[Sample] = []
    unreadable: list[UnreadableRow] = []
    for place, sample in enumerate(samples.samples):
        found: dict[int, UnreadableRow] = {}
        if sample.image_digest in broken:
            found = _all_rows(sample, NO_PICTURE, broken[sample.image_digest])
        elif place in suspects:
            found = _find_unreadable(sample, processor)
        unreadable += found.values()
        if readable := [number for number in range(len(sample.pairs)) if number not in found]:
            kept.append(_with_pairs(sample, readable) if found else sample)
    samples.samples, samples.unreadable = kept, unreadable


def settle_unreadable(splits: Mapping[str, GroupedSamples], policy: UnreadablePolicy) -> None:
    """Stop where rows cannot be read, or say how many are left out.

    Args:
        splits: Samples after `leave_out_unreadable`, by the words that name them in a message.
        policy: `"stop"` refuses unreadable rows; `"skip"` goes on without them.

    Raises:
        ValueError: If there are such rows and they are not to be skipped, or a split has no other row. The message
            counts them by split and reason, names the first and says what to do. Or if there is no such policy.
    """
    if policy not in get_args(UnreadablePolicy):
        raise ValueError(f"unreadable_rows={policy!r} is not allowed: give 'stop' or 'skip'.")
    found = [row for samples in splits.values() for row in samples.unreadable]
    if not found:
        return
    summary = "; ".join(_summary(name, samples) for name, samples in splits.items() if samples.unreadable)
    first = " ".join(shorten(message, 200) for message in list(dict.fromkeys(row.message for row in found))[:SHOWN])
    if policy == "stop":
        raise ValueError(
            f"Rows that this model cannot read: {summary}. The first: {first} Mend these rows; or give the model a "
            "larger max_length or max_regions; or go on without them by --unreadable_rows skip."
        )
    if empty := [name for name, samples in splits.items() if not samples.samples]:
        raise ValueError(f"No row is left of {empty[0]} that this model can read: {summary}. The first: {first}")
    logger.warning("Rows that this model cannot read are left out: %s. The first: %s", summary, first)


def count_unreadable(samples: GroupedSamples) -> dict[str, int]:
    """Count the rows that were left out, by reason."""
    return dict(Counter(row.reason for row in samples.unreadable))


def count_tokens(samples: GroupedSamples, processor: RocProcessor) -> list[int]:
    """Count each text's tokens, uncut, with markers and types; where pairs are rows of their own, the longest row's."""
    unlimited = _without_limit(processor)
    encoded = (_encode([sample], unlimited) for sample in samples.samples)
    return [int(batch["attention_mask"].sum(dim=-1).max()) for batch in encoded]


def _suspects(samples: GroupedSamples, processor: RocProcessor) -> Iterator[int]:
    """Yield the numbers of all samples of each batch that cannot be encoded: batches take half the time."""
    for start in range(0, len(samples), BATCH_SIZE):
        batch = samples.samples[start : start + BATCH_SIZE]
        if _problem(batch, processor):
            yield from range(start, start + len(batch))


def _find_unreadable(sample: Sample, processor: RocProcessor) -> dict[int, UnreadableRow]:
    """Return the pairs of a sample that cannot be encoded, by their number."""
    if (problem := _problem([sample], processor)) is None:
        return {}
    found: dict[int, UnreadableRow] = {}
    for number in range(len(sample.pairs)):
        if own := _problem([_with_pairs(sample, [number])], processor):
            found[number] = UnreadableRow(sample.row_ids[number], sample.relations[number], *own)
    left = [number for number in range(len(sample.pairs)) if number not in found]
    # each can be read alone, but not together: too many objects
    if left and (not found or (problem := _problem([_with_pairs(sample, left)], processor))):
        rows = _all_rows(sample, *problem)
        found |= {number: rows[number] for number in left}
    return found


def _problem(samples: Sequence[Sample], processor: RocProcessor) -> tuple[str, str] | None:
    """Return the reason, of the first sample, and the message where a processor cannot encode samples, else None."""
    try:
        _encode(samples, processor)
    except (ValueError, TypeError) as error:
        return _reason(samples[0], processor), str(error)
    return None


def _reason(sample: Sample, processor: RocProcessor) -> str:
    if sum(entity.is_object for entity in sample.entities) > processor.max_regions:
        return TOO_MANY_OBJECTS
    try:
        _encode([sample], _without_limit(processor))
    except (ValueError, TypeError):
        return REFUSED
    return TOO_FAR_APART


def _encode(samples: Sequence[Sample], processor: RocProcessor) -> BatchFeature:
    """Encode the texts of samples, and the boxes, without their pictures."""
    return processor(
        text=[sample.text for sample in samples],
        pictures_left_out=True,
        entities=[sample.entities for sample in samples],
        pairs=[sample.pairs for sample in samples],
        where=[f"row {sample.row_ids[0]!r}" for sample in samples],
    )


def _without_limit(processor: RocProcessor) -> RocProcessor:
    unlimited = copy.copy(processor)
    unlimited.max_length = sys.maxsize
    return unlimited


def _broken_pictures(samples: GroupedSamples) -> Iterator[tuple[bytes | None, str]]:
    """Yield the digest of each picture that cannot be opened, and what is wrong with it."""
    seen: set[bytes | None] = {None}
    if not samples.use_image:
        return
    for number, sample in enumerate(samples.samples):
        if sample.image_digest in seen:
            continue
        seen.add(sample.image_digest)
        where = f"row {sample.row_ids[0]!r}"
        try:
            image = samples[number][1]
            assert isinstance(image, bytes), "no cache of features is in use yet"
            if is_animated(identify_image(image, where)):
                yield sample.image_digest, f"{where}: the picture has several frames."
        except DECODING_ERRORS as error:
            yield sample.image_digest, str(error)


def _all_rows(sample: Sample, reason: str, message: str) -> dict[int, UnreadableRow]:
    rows = enumerate(zip(sample.row_ids, sample.relations))
    return {number: UnreadableRow(row_id, relation, reason, message) for number, (row_id, relation) in rows}


def _with_pairs(sample: Sample, numbers: Sequence[int]) -> Sample:
    """Return a sample with some of its pairs, and the entities that these have."""
    used = sorted({entity for number in numbers for entity in sample.pairs[number]})
    return replace(
        sample,
        entities=[sample.entities[entity] for entity in used],
        pairs=[(used.index(head), used.index(tail)) for head, tail in (sample.pairs[number] for number in numbers)],
        relations=[sample.relations[number] for number in numbers],
        row_ids=[sample.row_ids[number] for number in numbers],
    )


def _summary(name: str, samples: GroupedSamples) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in count_unreadable(samples).items())
    return f"{len(samples.unreadable)} of {samples.num_pairs + len(samples.unreadable)} rows of {name} ({counts})"
