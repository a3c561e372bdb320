"""What a sentence encoder makes of a pair that was not trained on relations: the baseline for unseen relations.

A pair is asked for in words, "SENTENCE The relation between HEAD and TAIL.", and compared with each relation's
descriptions by the cosine of their embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from roc.evaluation.predictions import ABSTAINED
from roc.evaluation.scoring import relation_scores
from roc.modeling_backbones_roc import load_backbone, most_tokens, resolve_model
from roc.modeling_fusion_roc import mean_of_tokens
from roc.relations_bank_roc import descriptions_of, pool_descriptions, relation_index_of
from roc.support.programs import shows_progress


class UntrainedEncoder:
    """A pretrained text encoder as it comes; each text is embedded once, however often it is asked for.

    Args:
        name: Hub id, folder or packaged model, on the accelerator where there is one.
        batch_size: Texts per forward pass.
    """

    def __init__(self, name: str, *, batch_size: int = 64) -> None:
        folder = resolve_model(name)
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._device = accelerator or torch.device("cpu")
        self._model: PreTrainedModel = load_backbone(folder, part="text_model").eval().to(self._device)
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._max_length = min(most_tokens(self._model) or 512, 512)
        self._batch_size, self._known = batch_size, dict[str, Tensor]()

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: the mean of the real tokens' last states, L2-normalised; `(len(texts), dim)`, on the CPU."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        for start in tqdm(range(0, len(new), self._batch_size), desc="untrained encoder", disable=not shows_progress()):
            own = new[start : start + self._batch_size]
            batch = self._tokenizer(
                own, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
            ).to(self._device)
            states = self._model(**batch).last_hidden_state
            embeds = functional.normalize(mean_of_tokens(states, batch["attention_mask"]), dim=-1)
            self._known.update(zip(own, embeds.cpu()))
        return torch.stack([self._known[text] for text in texts])

    def similarities(self, rows: Sequence[Mapping[str, Any]], relations: Sequence[Mapping[str, Any]]) -> Tensor:
        """Compare pairs with relations.

        Args:
            rows: Rows of the schema.
            relations: Relations with `descriptions`; the mean of several is taken, and normalised again.

        Returns:
            `(rows, relations)`, cosines.
        """
        descriptions = self.embed(descriptions_of(relations))
        keys = pool_descriptions(descriptions, relation_index_of(relations), len(relations))
        return self.embed([query(row) for row in rows]) @ keys.T


def query(row: Mapping[str, Any]) -> str:
    """Return the sentence, and the question about its pair."""
    return f"{row['text']} The relation between {row['head']['name']} and {row['tail']['name']}."


def nearest(similarities: Tensor, names: Sequence[str], *, threshold: float | None = None) -> list[str]:
    """Name for each pair the nearest of the relations, or `ABSTAINED` where its cosine is below the threshold.

    Args:
        similarities: `(pairs, relations)`, cosines.
        names: The relations' names.
        threshold: The least cosine of a relation; None for any.
    """
    best = similarities.max(dim=-1)
    lowest = -1.0 if threshold is None else threshold
    return [
        names[number] if value >= lowest else ABSTAINED
        for value, number in zip(best.values.tolist(), best.indices.tolist())
    ]


def choose_threshold(seen: Sequence[tuple[Tensor, Sequence[str], Sequence[str]]]) -> float:
    """Return the least cosine of a relation that gives the best macro-F1, in the mean of several data sets.

    Args:
        seen: The cosines `(pairs, relations)` of each set, the relations' names, and the true relation of each pair,
            `ABSTAINED` for one without a relation.
    """
    best = torch.cat([similarities.amax(dim=-1) for similarities, _, _ in seen])
    candidates = sorted({-1.0, *best.quantile(torch.linspace(0, 1, 51, dtype=best.dtype)).tolist()})

    def score(threshold: float) -> float:
        return mean(
            relation_scores(nearest(own, names, threshold=threshold), expected, none_relation=ABSTAINED)["macro_f1"]
            for own, names, expected in seen
        )

    return max(candidates, key=score)
