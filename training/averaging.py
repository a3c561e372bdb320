"""One model out of several runs: `python -m roc.training.averaging --models RUN RUN ... --output_dir FOLDER`.

Its weights are the mean of theirs, so it costs no more than one of them. The runs must have started alike: those of one
recipe with different seeds take the same `start_seed`, or the same `start_from`. Adapters are joined side by side, to
one whose rank is the sum of theirs and whose correction is the mean of theirs. The mean of the factors would be none.

The model is calibrated and scored on the runs' validation split, and its folder is one of a run: `score.py`,
`publish.py` and `roc.publishing.small_checkpoints` take it.

Source:
    Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time" (2022), the uniform soup of section 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.messages_roc import few, quote, shorten
from roc.support.programs import run_program
from roc.support.reading import read_json
from roc.training.settings import ENVIRONMENT_FILE, METRICS_FILE, RUN_FILE, RunConfig, load_run_config
from roc.training.starting import CONFIG, PROCESSOR, RECORD

if TYPE_CHECKING:
    from torch import Tensor

    from roc.modeling_roc import RocModel
    from roc.processing_roc import RocProcessor

AVERAGED = "averaged"  # in `environment.json`: the runs
TOKENIZER = "tokenizer.json"
# What a model's configuration may say otherwise: it was chosen on validation, or tells of files and versions.
MAY_DIFFER = {"none_threshold", "probability_temperature", "encoder_sources"}
MAY_DIFFER |= {"transformers_version", "dtype", "_name_or_path"}
START = ("start_from", "text_model", "text_overrides", "vision_model", "markers_like")


@dataclass(frozen=True)
class Ingredient:
    """A run whose weights are averaged: its folder, settings, scores and record."""

    folder: Path
    config: RunConfig
    metrics: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Ingredient:
        """Read a run's folder; raise a FileNotFoundError where it is none, or the run has not ended."""
        path = Path(folder)
        for file in (CONFIG, PROCESSOR, TOKENIZER, RUN_FILE, ENVIRONMENT_FILE, METRICS_FILE):
            if not (path / file).is_file():
                raise FileNotFoundError(f"{path} has no {file}. Give folders of runs of train.py that have ended.")
        config = load_run_config(str(path / RUN_FILE))
        return cls(path, config, read_json(path / METRICS_FILE), read_json(path / ENVIRONMENT_FILE))

    @property
    def start(self) -> dict[str, Any]:
        """Where the run started: encoders and their revisions, or a trained model, and the seed of all else."""
        config, record = self.config, self.environment.get(RECORD) or {}
        seed = config.seed if config.start_seed is None else config.start_seed
        revisions = {"revisions": self.environment.get("base_revisions"), "sha256": record.get("sha256")}
        own = {name: getattr(config, name) for name in START} | revisions
        return own if config.start_from is not None else own | {"start_seed": seed}

    def record(self) -> dict[str, Any]:
        """Return what is recorded of it beside the average."""
        from roc.dataset_scripts.building.raw_files import sha256_of_file

        weights = sorted(self.folder.glob("*.safetensors"))
        return {
            "name": str(self.folder),
            "seed": self.config.seed,
            "micro_f1": self.metrics["val"]["micro_f1"],
            "sha256": {file.name: sha256_of_file(file) for file in weights},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Average runs with the given command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m roc.training.averaging", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--models", nargs="+", required=True, metavar="RUN", help="folders of runs that started alike")
    add("--output_dir", required=True, help="where to write the averaged model")
    add("--data_dir", help="folder of the data, to validate (default: the first run's)")
    add("--overwrite", action="store_true", help="replace the folder of an earlier run")
    options = parser.parse_args(arguments)
    changes = {"output_dir": options.output_dir, "overwrite": options.overwrite}
    if options.data_dir is not None:
        changes["data_dir"] = options.data_dir
    return run_program(lambda: average_runs(options.models, **changes))


def average_runs(folders: Sequence[str | Path], **changes: Any) -> dict[str, Any]:
    """Write the mean of several runs as the folder of a run, calibrated and scored on their validation split.

    Args:
        folders: The folders of the runs; the settings that are recorded are the first one's.
        **changes: Settings to change: `output_dir` and, where they are not the first run's, `data_dir` and `overwrite`.

    Returns:
        `output_dir`, `val`, its scores, and `averaged`, the runs with their seeds and their own scores.

    Raises:
        FileNotFoundError: If a folder is not that of a run that has ended.
        ValueError: If there is one run alone, or they have not the same architecture, relations, texts or start; or
            `output_dir` holds something else.
    """
    runs = [Ingredient.read(folder) for folder in folders]
    _check_alike(runs)
    config = dataclasses.replace(runs[0].config, resume=None, dry_run=False, **changes)
    from roc.training.run_folder import check_output_dir, own_output_dir, without_details  # here: PyTorch takes seconds

    if Path(config.output_dir).resolve() in {run.folder.resolve() for run in runs}:
        raise ValueError(f"output_dir={config.output_dir!r} is one of the runs. Choose another folder.")
    with own_output_dir(config):
        check_output_dir(config)
        val = _write_average(config, runs)
    averaged = [{name: run.record()[name] for name in ("name", "seed", "micro_f1")} for run in runs]
    return {"output_dir": config.output_dir, "val": without_details(val), AVERAGED: averaged}


def _check_alike(runs: Sequence[Ingredient]) -> None:
    """Raise a ValueError that says in what runs differ that have no mean, or are no several ones."""
    if len({run.folder.resolve() for run in runs}) < max(2, len(runs)):
        raise ValueError(f"{[str(run.folder) for run in runs]} are not several runs. Give two or more, each once.")
    first = runs[0]
    for run in runs[1:]:
        for file, what in ((CONFIG, "architecture or relations"), (PROCESSOR, "processor")):
            own, other = (_comparable(read_json(path / file)) for path in (first.folder, run.folder))
            if different := {key for key in own.keys() | other.keys() if own.get(key) != other.get(key)}:
                found = shorten(str(sorted(different)))
                raise ValueError(f"{first.folder} and {run.folder} differ in {what}, see {found}. They have no mean.")
        if (first.folder / TOKENIZER).read_bytes() != (run.folder / TOKENIZER).read_bytes():
            raise ValueError(f"{first.folder} and {run.folder} have different tokenizers. They have no mean.")
        others = sorted(name for name, value in first.start.items() if run.start.get(name, value) != value)
        if others:
            raise ValueError(
                f"{first.folder} and {run.folder} started otherwise, see {others} "
                f"({quote(first.start[others[0]])} and {quote(run.start.get(others[0]))}): the mean of weights "
                "that have nothing in common is none. Train runs with different --seed and the same --start_seed, or "
                "with the same --start_from."
            )


def _comparable(content: Any) -> Any:
    """Return a configuration, with those in it, without what may differ."""
    if not isinstance(content, dict):
        return content
    return {key: _comparable(value) for key, value in content.items() if key not in MAY_DIFFER}


def _write_average(config: RunConfig, runs: Sequence[Ingredient]) -> dict[str, Any]:
    """Write the folder, and return the model's scores on the validation split."""
    from roc.processing_roc import RocProcessor
    from roc.relations.files import RelationInventory
    from roc.samples.reading import count_unreadable
    from roc.support.machine import set_num_threads
    from roc.training.building import load_data
    from roc.training.processes import start_accelerator
    from roc.training.run_folder import save_run, write_metrics
    from roc.training.sources import choose_sources
    from roc.training.state import Progress
    from roc.training.validation import Validator

    started = time.perf_counter()
    set_num_threads(config.num_threads)
    accelerator = start_accelerator()
    processor = RocProcessor.from_pretrained(runs[0].folder)
    model, config = average_models([run.folder for run in runs], processor, config)
    data = load_data(config, choose_sources(config, model), processor)
    if data.training != RelationInventory(list(model.config.relations), model.config.none_relation):
        raise ValueError(
            f"relations={config.relations!r} has changed since the runs, which were trained on other relations. "
            "Restore the file."
        )
    record = {AVERAGED: [run.record() for run in runs], "base_revisions": runs[0].environment.get("base_revisions")}
    save_run(config, model, processor, start=runs[0].environment.get(RECORD), more=record)
    validator = Validator(config, accelerator, processor, data)
    predictions, calibration = validator.calibrate(model)
    progress = Progress(best_val=validator.scores_of(predictions), calibration=calibration)
    progress.seconds = time.perf_counter() - started + sum(run.metrics.get("seconds", 0.0) for run in runs)
    write_metrics(config.output_dir, progress, model, unreadable_rows={"val": count_unreadable(data.val_set)})
    return progress.best_val


def average_models(folders: Sequence[Path], processor: RocProcessor, config: RunConfig) -> tuple[RocModel, RunConfig]:
    """Load models of one architecture, and make the one whose weights are the mean of theirs.

    Args:
        folders: Where the models are, with their adapters if they have any.
        processor: Their processor, which encodes the descriptions anew.
        config: The settings of the first model's run.

    Returns:
        The model in float32, in evaluation mode, and the settings, with the adapter's rank as it is now.

    Raises:
        ValueError: If models have different weights, such as an adapter beside a merged one, or adapters of different
            rank.
    """
    import torch

    from roc.modeling_roc import RocModel
    from roc.modeling_saving_roc import has_adapter
    from roc.training.adapters import add_lora, without_adapter

    first = RocModel.from_pretrained(folders[0], dtype=torch.float32)
    others = (RocModel.from_pretrained(folder, dtype=torch.float32).state_dict() for folder in folders[1:])
    mean = mean_of_weights(itertools.chain([first.state_dict()], others))
    if has_adapter(first):
        [adapter] = first.peft_config.values()
        wider = {"rank": len(folders) * adapter.r, "alpha": len(folders) * adapter.lora_alpha}
        first = without_adapter(first, merge=False)
        add_lora(first, encoders=config.lora_encoders, marker_ids=processor.marker_ids, **wider)
        config = dataclasses.replace(config, lora_rank=wider["rank"], lora_alpha=wider["alpha"])
    first.load_state_dict(mean)
    if first.config.head == "retrieval":  # an encoder of descriptions that was trained gives others now
        relations, none_relation = list(first.config.relations), first.config.none_relation
        first.set_relations(relations, processor, none_relation=none_relation)
    first.config.none_threshold, first.config.probability_temperature = None, 1.0
    return first.eval(), config


def mean_of_weights(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of models, in double precision, one model in memory at a time.

    The corrections of adapters, `scale * B @ A`, are averaged as such: their `A` are stacked, and so are their `B`,
    divided by the number of models. What are no fractions, such as digests, is the first model's.

    Raises:
        ValueError: If a model has other weights than the first, or of another shape.
    """
    import torch

    sums: dict[str, Tensor] = {}
    factors: dict[str, list[Tensor]] = {}
    shapes: dict[str, Any] = {}
    number = 0
    for number, state in enumerate(states, 1):
        own = {name: tensor.shape for name, tensor in state.items()}
        shapes = shapes or own
        if different := sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name)):
            raise ValueError(
                f"Model {number} has not the weights of the first, see {few(different)}. Adapters must have one rank, "
                "and all be merged or none."
            )
        for name, tensor in state.items():
            if ".lora_A." in name or ".lora_B." in name:
                factors.setdefault(name, []).append(tensor.clone())
            elif tensor.is_floating_point():
                sums[name] = sums[name] + tensor if name in sums else tensor.double()
            else:
                sums.setdefault(name, tensor)
    mean = {name: (total / number).float() if total.is_floating_point() else total for name, total in sums.items()}
    for name, tensors in factors.items():
        mean[name] = torch.cat(tensors) if ".lora_A." in name else torch.cat(tensors, dim=1) / number
    return mean


if __name__ == "__main__":
    sys.exit(main())
