"""How a run validates: a model's scores among the relations that validate, and its calibration on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from transformers.utils import CONFIG_NAME

from roc.evaluation.calibration import calibrate
from roc.evaluation.predictions import Predictions, predict_relations, score_predictions
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.support.files import atomic_write
from roc.training.adapters import without_adapter
from roc.training.processes import memory_errors_explained
from roc.training.run_folder import without_details
from roc.training.settings import RunConfig
from roc.training.sources import RunData

AVERAGED = ("accuracy", "precision", "recall", "micro_f1", "macro_f1")  # over sources


@dataclass
class Validator:
    """Scores and calibrates a model on the validation split. All processes call its methods together."""

    config: RunConfig
    accelerator: Accelerator
    processor: RocProcessor
    data: RunData

    def score(self, model: RocModel) -> dict[str, Any]:
        """Score a model in training; where it learns to read descriptions, they are encoded anew."""
        if self.config.model.head == "retrieval" and self.config.share_description_encoder:
            relations, none_relation = self.data.training.relations, self.data.training.none_relation
            model.set_relations(relations, self.processor, none_relation=none_relation)
        advice = f"Lower --eval_batch_size ({self.config.eval_batch_size}), with which --resume auto can go on."
        with memory_errors_explained("in validation", advice):
            predictions = self._predict(self._among_validating(model))
        return self.scores_of(predictions)

    def scores_of(self, predictions: Sequence[Predictions]) -> dict[str, Any]:
        """Score what a model of the run has predicted about each source.

        Returns:
            What `score_predictions` gives. Of several sources the scores are means, which choose the epoch; `n` and
            `per_relation` are of all pairs together, and `sources` has the scores of each.
        """
        none_relation = self.data.validating.none_relation
        scored = [score_predictions(own, none_relation) for own in predictions]
        if len(scored) == 1:
            return scored[0]
        by_source = {source.name: without_details(own) for source, own in zip(self.data.sources, scored)}
        means = {name: fmean(own[name] for own in scored) for name in AVERAGED}
        return score_predictions(Predictions.joined(predictions), none_relation) | means | {"sources": by_source}

    def calibrate(self, trained: RocModel) -> tuple[list[Predictions], dict[str, Any]]:
        """Calibrate the model in the run's folder, on pictures as `score.py` reads them.

        Processes that may not see the folder copy the model that was `trained`, and get its weights sent.

        Returns:
            The predictions of the saved model about each source, and what `roc.evaluation.calibration.calibrate`
            reports.
        """
        for samples in self.data.val_sets:
            samples.features = None
        saved = self._among_validating(self._saved_model(trained))
        predictions = self._predict(saved)
        unseen = all(source.settings.eval_relations for source in self.data.sources)
        report = calibrate(saved, Predictions.joined(predictions), unseen=unseen)
        if self.accelerator.is_main_process:
            saved.config.replace_relations(self.data.training.relations, self.data.training.none_relation)
            with atomic_write(Path(self.config.output_dir) / CONFIG_NAME) as file:
                file.write(saved.config.to_json_string())
        return predictions, report

    def _among_validating(self, model: RocModel) -> RocModel:
        """Return the model, or one of the same weights that chooses among the relations that validate."""
        training, validating = self.data.training, self.data.validating
        if validating == training:
            return model
        relations, none_relation = validating.relations, validating.none_relation
        return model.with_relations(relations, self.processor, none_relation=none_relation)

    def _predict(self, model: RocModel) -> list[Predictions]:
        """Predict the pairs of each source, among its own relations."""
        options: dict[str, Any] = {"batch_size": self.config.eval_batch_size, "accelerator": self.accelerator}
        return [
            predict_relations(model, self.processor, samples, among=set(source.validated_names), **options)
            for source, samples in zip(self.data.sources, self.data.val_sets)
        ]

    def _saved_model(self, trained: RocModel) -> RocModel:
        """Load the model of the run's folder on the main process, and send its weights to the others."""
        if self.accelerator.is_main_process:
            saved = RocModel.from_pretrained(self.config.output_dir, dtype=torch.float32)
        elif self.config.merge_adapter:
            saved = without_adapter(trained, merge=True)
        else:
            saved = copy.deepcopy(trained)
        saved = saved.to(self.accelerator.device)
        broadcast(saved.state_dict())
        return saved
