"""Evidence: which tokens and which patches moved a pair towards the description that was retrieved for it.

Integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, section 3):
gradient x input, averaged along a straight path from an uninformative input to the given one. For the picture that is
its mean colour, for the text the vocabulary's mean embedding, each with the other as it is.

Limits: relevance is what the score gains over that uninformative input, so a patch that has the mean colour gets none
whatever it shows; two patches that say the same share their relevance; text and picture are explained one at a time,
not in their interplay; and what moved this model is not thereby true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_roc import RocConfig
from .messages_roc import did_you_mean
from .modeling_vision_roc import patch_grid


@dataclass(frozen=True)
class Explanation:
    """Why a pair has its relation.

    Args:
        relation: The explained relation's name.
        description: The description of it that is nearest to the pair.
        score: The relation's cosine to the pair before `type_constraints`; its logit for the classification head.
        ranked: The best relations, as `RocModel.rank_relations` gives them.
        token_relevance: `(length,)`, of each token the part that it adds to `score`; 0 for padding, and for tokens that
            are not of the text where `offset_mapping` was given. They sum to the score less that of a text in which
            the vocabulary's mean embedding stands in their places.
        patch_relevance: `(rows, columns)`, likewise of each patch; they sum to the score less that of a picture of the
            mean colour. None without a picture.
    """

    relation: str
    description: str
    score: float
    ranked: list[dict[str, Any]]
    token_relevance: Tensor
    patch_relevance: Tensor | None


class Explaining(nn.Module):
    """The part of `RocModel` that explains what it predicts."""

    config: RocConfig

    def explain(
        self,
        inputs: Mapping[str, Tensor],
        *,
        row: int = 0,
        pair: int = 0,
        relation: str | None = None,
        top_k: int = 3,
        num_steps: int = 16,
    ) -> Explanation:
        """Explain one prediction.

        Args:
            inputs: What the processor gave; with `return_offsets_mapping`, markers, types and special tokens stay as
                they are and only the text is explained.
            row: Which row of the batch.
            pair: Which of its pairs.
            relation: Name of the relation to explain; None for the best one.
            top_k: How many relations `ranked` has.
            num_steps: Points on the path; more are more exact. They make one batch.

        Returns:
            An `Explanation`.

        Raises:
            ValueError: If there is no such row, pair or relation, a number is below 1, or the inputs hold
                `patch_features` in place of pixels.
        """
        self._check_explainable(inputs, row, pair, relation, top_k, num_steps)
        was_training = self.training
        self.eval()
        try:
            with torch.enable_grad():
                return self._explain(_one_row(inputs, row, pair), relation, top_k, num_steps)
        finally:
            self.train(was_training)

    def _explain(self, inputs: dict[str, Tensor], relation: str | None, top_k: int, num_steps: int) -> Explanation:
        with torch.no_grad():
            output = self(**inputs)
        num_relations = self.config.num_relations
        [everything] = self.rank_relations(output, inputs["pair_mask"], top_k=num_relations)
        chosen = next(entry for entry in everything if relation in (None, entry["relation"]))
        number = self.config.relation_names.index(chosen["relation"])
        unit = 1.0 if self.config.head == "classification" else self.temperature  # cosine rather than logit

        def score(batch: Mapping[str, Tensor]) -> Tensor:
            """`(steps,)`."""
            return self(**batch).logits[:, 0, number] * unit

        untyped = {name: tensor for name, tensor in inputs.items() if name != "entity_type_ids"}
        with torch.no_grad():
            [cosine] = score(untyped).tolist()
        return Explanation(
            relation=chosen["relation"],
            description=chosen["description"],
            score=cosine,
            ranked=everything[:top_k],
            token_relevance=self._explain_tokens(untyped, score, num_steps),
            patch_relevance=self._explain_patches(untyped, score, num_steps),
        )

    def _explain_tokens(self, inputs: dict[str, Tensor], score: Callable[..., Tensor], num_steps: int) -> Tensor:
        embedding = self.get_input_embeddings()
        given = embedding(inputs["input_ids"]).detach()
        moving = inputs["attention_mask"].bool()
        if "offset_mapping" in inputs:
            moving = moving & (inputs["offset_mapping"][..., 1] > 0)
        average = embedding.weight.detach().mean(dim=0).to(given.dtype)
        baseline = torch.where(moving[..., None], average, given)

        def score_of(embedded: Tensor) -> Tensor:
            handle = embedding.register_forward_hook(lambda *_: embedded)
            try:
                return score(_repeated(inputs, len(embedded)))
            finally:
                handle.remove()

        return _integrated_gradients(score_of, given, baseline, num_steps).sum(dim=-1)[0]

    def _explain_patches(
        self, inputs: dict[str, Tensor], score: Callable[..., Tensor], num_steps: int
    ) -> Tensor | None:
        if "pixel_values" not in inputs:
            return None
        given = inputs["pixel_values"]
        baseline = given.mean(dim=(2, 3), keepdim=True).expand_as(given)

        def score_of(pixels: Tensor) -> Tensor:
            steps = torch.arange(len(pixels), device=pixels.device)
            return score({**_repeated(inputs, len(pixels)), "pixel_values": pixels, "image_index": steps})

        relevance = _integrated_gradients(score_of, given, baseline, num_steps).sum(dim=1)[0]  # (height, width)
        rows, columns = patch_grid(self.config.vision_config, *relevance.shape)
        height, width = relevance.shape[0] // rows, relevance.shape[1] // columns
        whole = relevance[: rows * height, : columns * width]
        return whole.reshape(rows, height, columns, width).sum(dim=(1, 3))

    def _check_explainable(
        self, inputs: Mapping[str, Tensor], row: int, pair: int, relation: str | None, top_k: int, num_steps: int
    ) -> None:
        if top_k < 1 or num_steps < 1:
            raise ValueError(f"top_k={top_k} and num_steps={num_steps} must be 1 or more.")
        if "patch_features" in inputs:
            raise ValueError("patch_features cannot be explained: give the processor the picture itself.")
        if not 0 <= row < len(inputs["input_ids"]):
            raise ValueError(f"row={row} is out of range: the inputs have {len(inputs['input_ids'])} rows, from 0.")
        num_pairs = int(inputs["pair_mask"][row].sum())
        if not 0 <= pair < num_pairs:
            raise ValueError(f"pair={pair} is out of range: row {row} has {num_pairs} pairs, counted from 0.")
        names = self.config.relation_names
        if relation is not None and relation not in names:
            raise ValueError(f"The model has no relation {relation!r}; it has {names}.{did_you_mean(relation, names)}")


def _one_row(inputs: Mapping[str, Tensor], row: int, pair: int) -> dict[str, Tensor]:
    """The inputs of one row with one pair, and its picture alone."""
    picture = int(inputs["image_index"][row]) if "image_index" in inputs else -1
    one: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        if name in ("pair_index", "pair_mask"):
            one[name] = tensor[row : row + 1, pair : pair + 1]
        elif name == "pixel_values":
            if picture >= 0:
                one[name] = tensor[picture : picture + 1]
        elif name == "image_index":
            one[name] = tensor.new_tensor([min(picture, 0)])
        elif name != "labels":
            one[name] = tensor[row : row + 1]
    return one


def _repeated(inputs: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """The row several times; its picture is shared."""
    return {
        name: tensor if name == "pixel_values" else tensor.expand(times, *tensor.shape[1:])
        for name, tensor in inputs.items()
    }


def _integrated_gradients(score: Callable[[Tensor], Tensor], given: Tensor, baseline: Tensor, num_steps: int) -> Tensor:
    """Gradient x (given - baseline), averaged over the midpoints of `num_steps` equal parts of the path.

    Args:
        score: Takes `(steps, ...)`, returns `(steps,)`.
        given: `(1, ...)`, where the path ends.
        baseline: `(1, ...)`, where it starts.
        num_steps: How many points.

    Returns:
        `(1, ...)`; sums to `score(given) - score(baseline)`, but for the error of the sum over points.
    """
    shares = (torch.arange(num_steps, device=given.device, dtype=given.dtype) + 0.5) / num_steps
    shares = shares.view(-1, *[1] * (given.dim() - 1))
    path = (baseline + shares * (given - baseline)).requires_grad_(True)
    [gradient] = torch.autograd.grad(score(path).sum(), path)
    return gradient.mean(dim=0, keepdim=True) * (given - baseline)
