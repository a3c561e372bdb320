"""The card of a written dataset: what the Hub shows of it, and what whoever loads it has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from roc.dataset_scripts.exporting.provenance import NO_LICENSE, Provenance
from roc.dataset_scripts.features import FEATURES
from roc.support.markdown import code, table

COLUMNS = (
    ("`id`", "string", "unique in its split"),
    ("`text`", "string", "the text"),
    ("`image`", "image or null", "the picture that belongs to it: the bytes of its file, as they were found"),
    ("`head`, `tail`", "struct", "the two entities, each with the next five"),
    ("`head.name`", "string", "the text that the span covers, or what an object is called"),
    ("`head.start`", "int32 or null", "first character of the span in `text`, counted from 0 in Unicode code points"),
    ("`head.end`", "int32 or null", "one past its last character: `text[start:end] == name`"),
    ("`head.type`", "string or null", "lower-case words such as `person`; never read from the relation"),
    (
        "`head.bbox`",
        "4 x float32 or null",
        "x0, y0, x1, y1 as shares of the picture's width and height, in [0, 1], origin top left, of the picture as "
        "shown (EXIF orientation applied)",
    ),
    ("`relation`", "string", "the relation of head to tail"),
)

UNLICENSED = """**No licence is known for this data.** Without one nobody but the authors of its texts and pictures may
copy or pass them on, and this copy gives you no such right. Ask them, or build the dataset from the raw files."""


def write_card(
    marker: Mapping[str, Any],
    provenance: Provenance,
    *,
    num_bytes: Mapping[str, Mapping[str, int]],
    repo_id: str | None = None,
) -> str:
    """Write the card of a dataset.

    Args:
        marker: The content of the folder's marker file.
        provenance: Where the data comes from.
        num_bytes: Bytes of the rows with their pictures, by configuration and split.
        repo_id: Where it will be on the Hub, or None for a folder that stays where it is.

    Returns:
        Markdown with the Hub's YAML in front.
    """
    sections = [
        f"# {provenance.title}\n\n{provenance.description.strip()}",
        _loading(marker, repo_id) if repo_id else "",
        f"## Rows\n\n{_rows()}",
        f"## Configurations\n\n{_configurations(marker['configs'])}",
        f"## Counts\n\n{_count_table(marker['splits'])}\n\n{_relation_table(marker['splits'])}",
        f"## Missing pictures\n\n{_missing_pictures(marker)}",
        f"## Licence\n\n{_licence(provenance)}",
        f"## What gives the relation away\n\n{provenance.leak_note.strip()}" if provenance.leak_note else "",
        f"## How it was built\n\n{_how_it_was_built(marker)}",
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{_card_data(marker, provenance, num_bytes).to_yaml()}\n---\n\n{body}\n"


def _card_data(
    marker: Mapping[str, Any], provenance: Provenance, num_bytes: Mapping[str, Mapping[str, int]]
) -> DatasetCardData:
    configs = [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": f"{config['folder']}/{split}-*.parquet"} for split in config["splits"]
            ],
        }
        for name, config in marker["configs"].items()
    ]
    configs[0]["default"] = True
    data = DatasetCardData(
        pretty_name=provenance.title,
        license=provenance.license,
        tags=["relation-extraction", "multimodal", "roc"],
        configs=configs,
    )
    infos = {name: _info(config["splits"], num_bytes[name]) for name, config in marker["configs"].items()}
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data


def _info(splits: Mapping[str, Mapping[str, Any]], num_bytes: Mapping[str, int]) -> DatasetInfo:
    split_dict = SplitDict()
    for name, counts in splits.items():
        split_dict.add(SplitInfo(name, num_bytes=num_bytes[name], num_examples=counts["rows"]))
    return DatasetInfo(features=FEATURES, splits=split_dict)


def _loading(marker: Mapping[str, Any], repo_id: str) -> str:
    name, config = list(marker["configs"].items())[-1]
    return f"""```python
from datasets import load_dataset

rows = load_dataset("{repo_id}", split="{next(iter(marker["splits"]))}")
rows = load_dataset("{repo_id}", "{name}", split="{next(iter(config["splits"]))}", streaming=True)
```

Name a commit with `revision=` to get the same rows next year."""


def _rows() -> str:
    return f"""One row is one ordered pair of entities and the relation between them.

{table(("column", "type", "what"), COLUMNS)}

An entity is in the text, and then has `start` and `end` and a null `bbox`; or it is an object in the picture, and then
has a `bbox` and null offsets. The pairs of one text are rows of their own and share text and picture."""


def _configurations(configs: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (f"`{name}`", config["about"], split, counts["rows"], counts["rows_with_image"])
        for name, config in configs.items()
        for split, counts in config["splits"].items()
    ]
    listed = _table(("configuration", "what", "split", "rows", "with picture"), rows)
    return f"{listed}\n\nAll have the same columns; a row has the same `id` in each."


def _count_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for counts in splits.values() for name in counts if name != "relations"))
    rows = [(split, *(counts.get(name, 0) for name in names)) for split, counts in splits.items()]
    return _table(("split", *(name.replace("_", " ") for name in names)), rows)


def _relation_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    totals: Counter[str] = Counter()
    for counts in splits.values():
        totals.update(counts["relations"])
    rows = [
        (code(relation), *(counts["relations"].get(relation, 0) for counts in splits.values()))
        for relation, _ in totals.most_common()
    ]
    return _table(("relation", *splits), rows)


def _missing_pictures(marker: Mapping[str, Any]) -> str:
    missing = {split: counts.get("missing_images", 0) for split, counts in marker["splits"].items()}
    if any(missing.values()):
        lost = {split: counts.get("dropped_rows", 0) for split, counts in marker["splits"].items()}
        cells = [(split, missing[split], lost[split], missing[split] - lost[split]) for split in missing]
        listed = _table(
            ("split", "raw rows whose picture was not there", "of them dropped", "kept with a null `image`"), cells
        )
        note = "Not all pictures were there when this was built, so figures on it may not compare with others."
        return f"{note}\n\n{listed}"
    without = sum(counts["rows"] - counts["rows_with_image"] for counts in marker["splits"].values())
    if without:
        return f"None: the raw data name no picture for the {without} rows whose `image` is null."
    return "None: every row has its picture."


def _licence(provenance: Provenance) -> str:
    licence = UNLICENSED if provenance.license == NO_LICENSE else f"`{provenance.license}`."
    return "\n\n".join(part for part in (licence, provenance.license_note.strip()) if part)


def _how_it_was_built(marker: Mapping[str, Any]) -> str:
    options = ", ".join(f"`{key}={value}`" for key, value in marker["options"].items()) or "none"
    facts = f"""- builder: `{marker["builder"]}` {marker["builder_version"]}, options: {options}
- types of untyped text entities: {f"`{marker['entity_typer']}`" if marker["entity_typer"] else "left null"}
- versions: {", ".join(f"{name} {number}" for name, number in marker["versions"].items())}"""
    command = f"```bash\n{marker['command']}\n```" if marker["command"] else ""
    raw, written = _checksums("raw file", marker["source_files"]), _checksums("file", marker["files"])
    return "\n\n".join(part for part in (command, facts, raw, written) if part)


def _checksums(what: str, files: Mapping[str, str]) -> str:
    return _table((what, "sha256"), [(code(name), f"`{digest}`") for name, digest in files.items()]) if files else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts that are Markdown already, and of numbers."""
    return table(header, [[str(cell) for cell in row] for row in rows])
