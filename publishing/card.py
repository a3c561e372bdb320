"""The model card: `README.md` of a Hub folder, written from the files of the run that trained the model.

Every figure comes from a file of a run; the answers of the example come from the model itself, when the card is
written. What is not known is said to be missing.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers.utils import CONFIG_NAME

from roc.configuration_roc import CUSTOM_PIPELINES
from roc.inference.posts import load_model
from roc.pipeline_roc import RocPipeline
from roc.publishing import card_sections as sections
from roc.publishing.run_records import SCORES, RunRecord, read_robustness, read_runs, read_test_scores
from roc.support.files import atomic_write
from roc.support.markdown import code, fence, prose
from roc.support.resources import PACKAGE_ROOT

TEMPLATE = PACKAGE_ROOT / "model_card.md"
CARD = "README.md"
(TASK,) = CUSTOM_PIPELINES
TITLES = {"mnre": "MNRE", "more": "MORE", "fewrel": "FewRel", "jsonl": "JSON lines of the trainer"}
TITLES |= {"synthetic": "ROC's generated picture-text set", "scenes": "ROC's generated scenes"}
TOP_K = 2  # relations that the example prints for its pair

# Written for the cards: nobody's posts, so that a card never shows data. `image` lies in the folder of the model.
POST_OF_THE_DAY = "Picture of the day: Pavel, Kestra, town hall, yesterday."
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "synthetic": [
        {"text": POST_OF_THE_DAY, "image": "assets/couple.png", "head": "Pavel", "tail": "Kestra"},
        {"text": POST_OF_THE_DAY, "image": "assets/teammates.png", "head": "Pavel", "tail": "Kestra"},
    ],
    "more": [
        {
            "text": "Pavel at the opening of the town hall",
            "image": "assets/couple.png",
            "head": "Pavel",
            "tail": {"bbox": [0.69, 0.34, 0.98, 0.59]},
        }
    ],
    "fewrel": [{"text": "Albert Einstein was born in Ulm.", "head": "Albert Einstein", "tail": "Ulm"}],
}
OTHER_EXAMPLES = [
    {"text": "Maria and her husband Tom are back from Lisbon", "head": "Maria", "tail": "Tom"},
    {"text": "Had lunch with Ann near the Eiffel Tower", "head": "Ann", "tail": "Eiffel Tower"},
]
NOT_OF_THE_DATA = "The post was written for this card and is not of the data."
NOTES = {
    "synthetic": "Sentence and picture are of the kind that the generated set has.",
    "more": f"{NOT_OF_THE_DATA} Its picture is a drawing; pictures in news are photographs.",
}


def write_model_card(
    folder: str | Path,
    runs: Sequence[str | Path],
    *,
    repo_id: str,
    revision: str | None = None,
    test_scores: Sequence[str | Path] = (),
    robustness: str | Path | None = None,
    examples: Sequence[Mapping[str, Any]] | None = None,
    data_note: str | None = None,
    dataset_id: str | None = None,
    language: str | None = None,
    license: str = "apache-2.0",
) -> Path:
    """Write `README.md` into the folder of a model that is to be published.

    Args:
        folder: The model with its code, as it will be on the Hub, or a small checkpoint
            (`roc.publishing.small_folder`); the model answers the examples.
        runs: Folders of `train.py`: of the run that trained this model, then of others that differ in the seed alone.
        repo_id: USER/NAME on the Hub; of a small checkpoint that stays in a repository, its folder there.
        revision: Tag or commit that the example names; None for none.
        test_scores: Per run, in their order, a file with what `score.py --split test` printed; fewer leave the last
            runs without.
        robustness: File with what `benchmarks/robustness.py` printed about the first run's model.
        examples: Posts as the pipeline takes them, with `head` and `tail`, and `image` as a path in `folder`; the card
            shows the first one's code, the widget all. None for some that suit the data set.
        data_note: Markdown that says where the data come from and under which licence, which a run does not record.
        dataset_id: The data set on the Hub, if it is there.
        language: Code of the texts' language; None where it is not known and the data set is a user's own.
        license: Licence of code and weights, as the Hub names it.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If a file of a run, the model or a picture is missing.
        ValueError: If a file is malformed or of another model, the folder has no pipeline, an example is no post, or
            what should name something on the Hub cannot.
    """
    folder, name = Path(folder), repo_id.rpartition("/")[2]
    _check_names(repo_id, dataset_id)
    records = read_runs(runs)
    model, processor = load_model(str(folder))
    left_out = _encoders_left_out(folder)
    tests = read_test_scores(test_scores, records, model.config.relation_names)
    robust = None if robustness is None else read_robustness(robustness, records[0])
    dataset = records[0].settings["dataset"]
    posts = _posts(folder, examples, dataset, sees_pictures=model.config.vision_config is not None)
    answers = _answers(RocPipeline(model=model, processor=processor), folder, posts)
    values = {
        "name": prose(name),
        **_about_example(repo_id, revision, posts[0], answers[0], has_code=not left_out),
        "example_note": "" if examples is not None else NOTES.get(dataset, NOT_OF_THE_DATA),
        **_about_model(model.config, processor, records[0], left_out or {}),
        **_about_results(records, tests, robust, model.config),
        **_about_data(dataset, dataset_id, data_note),
        "license": prose(license),
    }
    front = _what_it_is(model.config, records[0], posts, answers, has_code=not left_out)
    front["language"] = language or (None if dataset == "jsonl" else "en")
    front |= {"license": license, "datasets": [dataset_id] if dataset_id else None, "model_name": name}
    front["eval_results"] = _eval_results(records[0], tests[0], dataset_id or dataset)
    card = RocModelCard.from_template(CardData(**front), template_path=str(TEMPLATE), **values)
    return _written(card, folder / CARD)


class CardData(ModelCardData):
    """Front matter without `<`: what does not know front matter takes it for Markdown, and HTML in it for HTML."""

    def to_yaml(self, *arguments: Any, **options: Any) -> str:
        """The front matter; YAML reads `\\x3C` in double quotes as `<`."""
        text = yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
        return text.rstrip().replace("<", r"\x3C")


class RocModelCard(ModelCard):
    """A card with such front matter."""

    card_data_class = CardData


class _Dumper(yaml.SafeDumper):
    """Puts every text that has a `<` or several lines in double quotes, on one line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "<" in text or "\n" in text else None
    ),
)


def _written(card: ModelCard, path: Path) -> Path:
    with atomic_write(path) as file:
        file.write(str(card).rstrip() + "\n")
    return path


def _check_names(*names: str | None) -> None:
    """Refuse what cannot name something on the Hub."""
    for name in names:
        if name is not None:
            validate_repo_id(name)


def _encoders_left_out(folder: Path) -> dict[str, Any] | None:
    """The sources of the encoders that a small checkpoint leaves out; None for a model that is whole.

    Only the latter has its code beside it: to load a small checkpoint, ROC must be installed.
    """
    settings = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))  # a loaded configuration hides some of it
    if settings.get("encoder_sources"):
        return settings["encoder_sources"]
    _check_pipeline(folder, settings)
    return None


def _check_pipeline(folder: Path, settings: Mapping[str, Any]) -> None:
    declared = settings.get("custom_pipelines") or {}
    file = declared.get(TASK, {}).get("impl", "").partition(".")[0] + ".py"
    if not (folder / file).is_file():
        raise ValueError(
            f"{folder} has no pipeline {TASK!r}: its {CONFIG_NAME} names none, or the file is missing. Build it by "
            "publish.py."
        )


def _posts(
    folder: Path, examples: Sequence[Mapping[str, Any]] | None, dataset: str, *, sees_pictures: bool
) -> list[dict[str, Any]]:
    """The examples, with their pictures in the folder; without pictures for a model that sees none."""
    if examples is not None and not examples:
        raise ValueError("A card shows one example at least. Give one, or None for those that suit the data set.")
    posts = [dict(post) for post in (EXAMPLES.get(dataset, OTHER_EXAMPLES) if examples is None else examples)]
    for post in posts:
        if not {"text", "head", "tail"} <= post.keys() <= {"text", "head", "tail", "image"}:
            raise ValueError(f"An example has the keys text, head, tail, and image or not; given {sorted(post)}.")
        if not sees_pictures:
            post.pop("image", None)
        elif "image" in post:
            _bring_picture(folder, post["image"], is_own=examples is not None)
    return posts


def _bring_picture(folder: Path, name: str, *, is_own: bool) -> None:
    """Copy one of ROC's pictures into the folder; a picture of the caller must lie there already."""
    target = folder / name
    if not is_own and not target.is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(PACKAGE_ROOT / "examples" / target.name, target)
    if folder.resolve() not in target.resolve().parents or not target.is_file():
        raise FileNotFoundError(f"The example's picture {name!r} is not in {folder}: put it there, such as in assets/.")


def _answers(pipe: RocPipeline, folder: Path, posts: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What the model says about the examples."""
    given = [post | ({"image": (folder / post["image"]).read_bytes()} if "image" in post else {}) for post in posts]
    return [pipe(post, top_k=TOP_K) for post in given]


def _code(repo_id: str, revision: str | None, post: Mapping[str, Any], *, has_code: bool) -> Iterator[str]:
    """The lines that ask the model about a post: ten at most."""
    repo, pinned = json.dumps(repo_id), f", revision={json.dumps(revision)}" if revision else ""
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in post.items()}
    if "image" in post:
        if has_code:
            yield "from huggingface_hub import hf_hub_download"
        yield "from PIL import Image"
    yield "from transformers import pipeline"
    yield ""
    if not has_code:
        yield from ("import roc.register", "")
    trusted = ", trust_remote_code=True" if has_code else ""
    yield f'extract = pipeline("{TASK}", model={repo}{pinned}{trusted})'
    if "image" in post:
        file = f"hf_hub_download({repo}, {values['image']}{pinned})"
        yield f"image = Image.open({file if has_code else json.dumps(repo_id + '/' + post['image'])})"
        values["image"] = "image"
    yield "post = {" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}"
    yield f"for found in extract(post, top_k={TOP_K}):"
    yield "    print(f\"{found['score']:.3f} {found['relation']}: {found['description']}\")"


def _about_example(
    repo_id: str, revision: str | None, post: Mapping[str, Any], answer: Sequence[Mapping[str, Any]], *, has_code: bool
) -> dict[str, str]:
    """The first example's code, and what it prints."""
    return {
        "code": fence("\n".join(_code(repo_id, revision, post, has_code=has_code)), "python"),
        "output": fence("\n".join(_printed(answer)), "text"),
    }


def _about_data(dataset: str, dataset_id: str | None, data_note: str | None) -> dict[str, str | None]:
    return {"dataset": dataset, "dataset_code": code(dataset), "dataset_id": dataset_id, "data_note": data_note}


def _printed(answer: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What those lines print."""
    for found in answer:
        yield f"{found['score']:.3f} {found['relation']}: {found['description']}"


def _widget(post: Mapping[str, Any], answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    title = " and ".join(post[side] if isinstance(post[side], str) else "a box" for side in ("head", "tail"))
    return {
        "text": post["text"],
        **({"src": post["image"]} if "image" in post else {}),
        "example_title": title,
        "output": [{"label": found["relation"], "score": round(found["score"], 4)} for found in answer],
    }


def _what_it_is(
    config: Any,
    run: RunRecord,
    posts: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[Mapping[str, Any]]],
    *,
    has_code: bool,
) -> dict[str, Any]:
    """Where the Hub lists the model. It has no task of relation extraction; with a picture, this one is the nearest."""
    sees_pictures = config.vision_config is not None
    tags = {"relation-extraction": True, "multimodal": sees_pictures, config.head: True, "custom_code": has_code}
    return {
        "library_name": "transformers",
        "pipeline_tag": "visual-question-answering" if sees_pictures else "text-classification",
        "tags": [tag for tag, applies in tags.items() if applies],
        "base_model": sections.base_models(run) or None,
        "metrics": ["f1", "accuracy"],
        "widget": [_widget(post, answer) for post, answer in zip(posts, answers)],
    }


def _eval_results(run: RunRecord, test: Mapping[str, Any] | None, dataset: str) -> list[EvalResult]:
    """The published weights' scores, validation and test apart."""
    kinds = {"micro_f1": "f1", "macro_f1": "f1"}  # as the Hub names metrics
    splits = {"validation": run.metrics["val"], "test": test}
    return [
        EvalResult(
            task_type="relation-extraction",
            task_name="Multimodal relation extraction",
            dataset_type=dataset,
            dataset_name=TITLES.get(run.settings["dataset"], run.settings["dataset"]),
            dataset_split=split,
            metric_type=kinds.get(name, name),
            metric_name=f"{label} ({split})",
            metric_value=round(scores[name], 4),
        )
        for split, scores in splits.items()
        if scores is not None
        for name, label in SCORES.items()
    ]


def _about_model(config: Any, processor: Any, run: RunRecord, left_out: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is made of, and what limits it."""
    settings, typer = run.settings, processor.entity_typer
    has_threshold = config.none_relation is None and config.none_threshold is not None
    return {
        "retrieves": config.head == "retrieval",
        "sees_pictures": config.vision_config is not None,
        "num_relations": config.num_relations,
        "none_relation": code(config.none_relation) if config.none_relation else "",
        "none_threshold": f"{config.none_threshold:.3f}" if has_threshold else "",
        "relations": sections.relation_table(config, run.metrics["val"]),
        "parts": sections.part_table(run),
        "num_parameters": sections.parameter_counts(run.metrics),
        "random_vision": config.vision_config is not None and not isinstance(settings["vision_model"], str),
        "max_length": processor.max_length,
        "max_regions": processor.max_regions,
        "entity_typer": typer and _typer(typer),
        "entity_finder": _typer(typer or "spacy"),
        "missing_images": settings["missing_images"],
        "swap_none_pairs": settings["swap_none_pairs"],
        "settings": sections.setting_table(run),
        "versions": sections.versions(run.environment),
        "left_out": ", ".join({code(sections.public(source["name"])) for source in left_out.values()}),
    }


def _about_results(
    runs: Sequence[RunRecord],
    tests: Sequence[Mapping[str, Any] | None],
    robust: Mapping[str, Any] | None,
    config: Any,
) -> dict[str, Any]:
    """What was measured."""
    first = runs[0]
    return {
        "none_counts": sections.none_counts(config),
        "num_runs": len(runs),
        "seed": first.seed,
        "val_split": code(first.settings["val_split"]),
        "val_scores": sections.score_table(runs, [run.metrics["val"] for run in runs]),
        "test_scores": sections.score_table(runs, tests),
        "calibration": sections.calibration(first.metrics.get("calibration")),
        "robustness": sections.robustness(robust),
        "costs": sections.costs(first.metrics),
    }


def _typer(name: str) -> str:
    return "spaCy's small English model" if name == "spacy" else code(sections.public(name))
