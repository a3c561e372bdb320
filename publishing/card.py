"""The model card: `README.md` of a Hub folder, written from the files of the run that trained the model.

Every figure comes from a file of a run; the answers of the example come from the model itself, when the card is
written. What is not known is said to be missing. The text is `model_card.md`, a jinja template.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, StrictUndefined
from transformers.utils import CONFIG_NAME

from roc.configuration_roc import CUSTOM_PIPELINES
from roc.dataset_scripts.exporting.marker import NO_LICENSE
from roc.dataset_scripts.loading import BUILDERS
from roc.evaluation.calibration import MIN_PAIRS
from roc.inference.posts import load_model
from roc.pipeline_roc import RocPipeline
from roc.publishing.run_records import (
    SCORES,
    RunRecord,
    public,
    read_robustness,
    read_runs,
    read_scores,
    read_test_scores,
    read_zero_shot,
)
from roc.support.files import atomic_write
from roc.support.markdown import code, fence, prose
from roc.support.resources import PACKAGE_ROOT

TEMPLATE = PACKAGE_ROOT / "model_card.md"
CARD = "README.md"
(TASK,) = CUSTOM_PIPELINES
TITLES = {name: builder.TITLE for name, builder in BUILDERS.items()} | {"jsonl": "JSON lines of the trainer"}
TITLES |= {"synthetic": "ROC's generated picture-text set", "scenes": "ROC's generated scenes"}
LICENSE = "apache-2.0"  # of code and weights, as the Hub names it
TOP_K = 2  # relations that the example prints for its pair

# Written for the cards, so that these never show posts of a data set. `image` lies in the folder of the model.
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

# In the template every text of other people passes through `prose`, `code` or `fence`. A missing value is an error.
ENVIRONMENT = Environment(undefined=StrictUndefined)
ENVIRONMENT.filters |= {"prose": prose, "code": code, "fence": fence, "public": public, "mean": mean, "stdev": stdev}
ENVIRONMENT.globals |= {"task": TASK, "top_k": TOP_K, "score_names": SCORES, "license": LICENSE}
ENVIRONMENT.globals |= {"min_pairs": MIN_PAIRS, "builders": BUILDERS, "no_license": NO_LICENSE}
ENVIRONMENT.filters["json"] = partial(json.dumps, ensure_ascii=False)
ENVIRONMENT.filters["number"] = "{:,.0f}".format
ENVIRONMENT.filters["percent"] = lambda share: f"{100 * share:.1f}"


def write_model_card(
    folder: Path,
    runs: Sequence[str | Path],
    *,
    repo_id: str,
    revision: str | None = None,
    test_scores: Sequence[str | Path] = (),
    robustness: str | Path | None = None,
    zero_shot: str | Path | None = None,
    everyday: str | Path | None = None,
    examples: Sequence[Mapping[str, Any]] | None = None,
    data_note: str | None = None,
    dataset_id: str | None = None,
    language: str | None = None,
) -> Path:
    """Write `README.md` into the folder of a model that is to be published.

    Args:
        folder: The model with its code, as it will be on the Hub, or a small checkpoint
            (`roc.publishing.small_checkpoints`); the model answers the examples.
        runs: Folders that `train.py` wrote: first the run that trained this model, then others that differ in the seed
            alone.
        repo_id: USER/NAME on the Hub, or the folder of a small checkpoint that stays in a repository.
        revision: Tag or commit that the example names; None for none.
        test_scores: Files with what `score.py --split test` printed of the runs, in their order; the last runs may
            have none.
        robustness: File with what `benchmarks/robustness.py` printed about the first run's model.
        zero_shot: File `results.json` of the zero-shot protocol about the recipe of the runs.
        everyday: File with what `score.py` printed of this model about the sentences in `tests/everyday`.
        examples: Posts as the pipeline takes them, with `head` and `tail`, and `image` as a path in `folder`; the card
            shows code for the first, the widget shows all. None takes some that suit the data set.
        data_note: Markdown that says where the data come from and under which licence, which a run does not record.
        dataset_id: The data set's name on the Hub, if it is there.
        language: Code of the texts' language; None means English, and for a user's own data that it is not known.

    Raises:
        FileNotFoundError: If a file of a run, the model or a picture is missing.
        ValueError: If a file is malformed or of another model, the folder has no pipeline, an example is no post, or
            what should name something on the Hub cannot.
    """
    for name in filter(None, (repo_id, dataset_id)):
        validate_repo_id(name)
    records, left_out = read_runs(runs), _encoders_left_out(folder)
    model, processor = load_model(str(folder))
    tests = read_test_scores(test_scores, records, model.config.relation_names)
    posts = _posts(folder, examples, records[0].datasets, sees_pictures=bool(model.config.vision_config))
    pipe = RocPipeline(model=model, processor=processor)
    shown = [(post, pipe(_with_picture(post, folder), top_k=TOP_K)) for post in posts]
    data = _card_data(records[0], tests[0], model.config, dataset_id=dataset_id, has_code=not left_out)
    data.language, data.model_name = language or data.language, repo_id.rpartition("/")[2]
    data.widget = [_widget(post, answer) for post, answer in shown]
    return _write(
        folder / CARD,
        data,
        repo_id=repo_id,
        revision=revision,
        example=shown[0],
        own_examples=examples is not None,
        pipe=pipe,
        runs=records,
        tests=tests,
        **_measured(records[0], model.config, robustness=robustness, zero_shot=zero_shot, everyday=everyday),
        data_note=data_note,
        left_out=sorted({source["name"] for source in left_out.values()}),
    )


def _measured(run: RunRecord, config: Any, **files: str | Path | None) -> dict[str, Any]:
    """Read what was measured besides a run's own scores, by the names of `write_model_card`; None where no file is."""
    robustness, zero_shot, everyday = (files[name] for name in ("robustness", "zero_shot", "everyday"))
    return {
        "robust": None if robustness is None else read_robustness(robustness, run),
        "zero_shot": None if zero_shot is None else read_zero_shot(zero_shot),
        "everyday": None if everyday is None else read_scores(everyday, config.relation_names),
    }


class _Dumper(yaml.SafeDumper):
    """Puts every text that has a `<` or several lines in double quotes, on one line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "<" in text or "\n" in text else None
    ),
)


def _write(path: Path, data: ModelCardData, **values: Any) -> Path:
    front_matter = yaml.dump(data.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
    # some readers would take `<` for the start of HTML; in double quotes YAML has another way to write it
    values |= {"front_matter": front_matter.rstrip().replace("<", r"\x3C"), "data": data}
    card = ENVIRONMENT.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**values)
    with atomic_write(path) as file:
        file.write(card.rstrip() + "\n")
    return path


def _encoders_left_out(folder: Path) -> dict[str, Any]:
    """Return the sources of the encoders that a small checkpoint leaves out; a whole model has none, but its code."""
    settings = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))  # a loaded configuration hides some of it
    if settings.get("encoder_sources"):
        return settings["encoder_sources"]
    declared = (settings.get("custom_pipelines") or {}).get(TASK, {})
    if not (folder / (declared.get("impl", "").partition(".")[0] + ".py")).is_file():
        raise ValueError(
            f"{folder} has no pipeline {TASK!r}: its {CONFIG_NAME} names none, or the file is missing. Build it by "
            "publish.py."
        )
    return {}


def _posts(
    folder: Path, examples: Sequence[Mapping[str, Any]] | None, names: Sequence[str], *, sees_pictures: bool
) -> list[dict[str, Any]]:
    """Return the examples, with their pictures in the folder, or without pictures for a model that sees none."""
    if examples is not None and not examples:
        raise ValueError("A card shows one example at least. Give one, or None for those that suit the data set.")
    suitable = EXAMPLES.get(names[0], OTHER_EXAMPLES) if len(names) == 1 else OTHER_EXAMPLES
    posts = [dict(post) for post in (suitable if examples is None else examples)]
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


def _with_picture(post: dict[str, Any], folder: Path) -> dict[str, Any]:
    return post | {"image": (folder / post["image"]).read_bytes()} if "image" in post else post


def _widget(post: Mapping[str, Any], answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    title = " and ".join(post[side] if isinstance(post[side], str) else "a box" for side in ("head", "tail"))
    return {
        "text": post["text"],
        **({"src": post["image"]} if "image" in post else {}),
        "example_title": title,
        "output": [{"label": found["relation"], "score": round(found["score"], 4)} for found in answer],
    }


def _card_data(
    run: RunRecord, test: Mapping[str, Any] | None, config: Any, *, dataset_id: str | None, has_code: bool
) -> ModelCardData:
    """Return what the Hub sorts models by; it has no task of relation extraction, so the nearest one is named."""
    sees_pictures = config.vision_config is not None
    tags = {"relation-extraction": True, "multimodal": sees_pictures, config.head: True, "custom_code": has_code}
    return ModelCardData(
        library_name="transformers",
        license=LICENSE,
        language=None if {"jsonl", "joint"} & {*run.datasets} else "en",
        pipeline_tag="visual-question-answering" if sees_pictures else "text-classification",
        tags=[tag for tag, applies in tags.items() if applies],
        base_model=run.base_models or None,
        metrics=["f1", "accuracy"],
        datasets=[dataset_id] if dataset_id else None,
        model_name="",
        eval_results=_eval_results(run, test, dataset_id),
    )


def _eval_results(run: RunRecord, test: Mapping[str, Any] | None, dataset_id: str | None) -> list[EvalResult]:
    """Return the published weights' scores, validation and test apart."""
    names, kinds = run.datasets, {"micro_f1": "f1", "macro_f1": "f1"}  # as the Hub names metrics
    return [
        EvalResult(
            task_type="relation-extraction",
            task_name="Multimodal relation extraction",
            dataset_type=dataset_id or "+".join(names),
            dataset_name=", ".join(TITLES.get(name, name) for name in names),
            dataset_split=split,
            metric_type=kinds.get(name, name),
            metric_name=f"{label} ({split})",
            metric_value=round(scores[name], 4),
        )
        for split, scores in (("validation", run.metrics["val"]), ("test", test))
        if scores is not None
        for name, label in SCORES.items()
    ]
