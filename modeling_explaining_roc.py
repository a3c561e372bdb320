"""Explanations: which tokens and which patches moved a pair towards the description that was retrieved for it.

Integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, section 3):
gradient x input, averaged along a straight path from an uninformative input to the given one. For the picture that is
its mean colour, for the text the vocabulary's mean embedding, each with the other as it is.

Limits: relevance is what the score gains over that uninformative input, so a patch that has the mean colour gets none
whatever it shows. Two patches that say the same share their relevance. Text and picture are explained one at a time,
not in their interplay. What moved the model need not be true.
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
        relation: Name of the explained relation.
        description: The relation's description that is nearest to the pair.
        score: The relation's cosine to the pair before `type_constraints`; its logit for the classification head.
        ranked: The best relations, as `RocModel.rank_relations` gives them.
        token_relevance: `(length,)`, the part that each token adds to `score`. It is 0 for padding, and for tokens that
            are not of the text where `offset_mapping` was given. The sum is the score less the score of a text that has
            the vocabulary's mean embedding in the place of these tokens.
        patch_relevance: `(rows, columns)`, the part that each patch adds to `score`. The sum is the score less the
            score of a picture of the mean colour. None without a picture.
    """

    relation: str
    description: str
    score: float
    ranked: list[dict[str, Any]]
    token_relevance: Tensor
    patch_relevance: Tensor | None


class Explaining:
    """The part of `RocModel` that explains what it predicts."""

    def explain(
        self: Any,
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
            inputs: What the processor gave. With `return_offsets_mapping`, markers, types and special tokens stay as
                they are and only the text is explained.
            row: Number of the batch's row to explain.
            pair: Number of the row's pair to explain.
            relation: Name of the relation to explain; None for the best one.
            top_k: How many relations `ranked` has.
            num_steps: Number of points on the path, which make one batch. More points are more exact.

        Returns:
            An `Explanation`.

        Raises:
            ValueError: If there is no such row, pair or relation, a number is below 1, the inputs hold
                `patch_features` in place of pixels, or the model was made in `torch.inference_mode()` or quantised by
                PyTorch.
        """
        if top_k < 1 or num_steps < 1:
            raise ValueError(f"top_k={top_k} and num_steps={num_steps} must be 1 or more.")
        _check_request(self.config, inputs, row, pair, relation)
        _check_differentiable(self)
        was_training = self.training
        self.train(False)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                one = {name: tensor.clone() for name, tensor in _one_row(inputs, row, pair).items()}
                return _explain(self, one, relation, top_k, num_steps)
        finally:
            self.train(was_training)


def _explain(model: Any, inputs: dict[str, Tensor], relation: str | None, top_k: int, num_steps: int) -> Explanation:
    with torch.no_grad():
        output = model(**inputs)
    [everything] = model.rank_relations(output, inputs["pair_mask"], top_k=model.config.num_relations)
    chosen = next(entry for entry in everything if relation in (None, entry["relation"]))
    number, temperature = model.config.relation_names.index(chosen["relation"]), model.temperature

    def score(batch: Mapping[str, Tensor]) -> Tensor:
        """Give the chosen relation's cosine, or logit, at each point of the path: `(steps,)`."""
        return model(**batch).logits[:, 0, number] * temperature

    untyped = {name: tensor for name, tensor in inputs.items() if name != "entity_type_ids"}
    with torch.no_grad():
        [cosine] = score(untyped).tolist()
    return Explanation(
        relation=chosen["relation"],
        description=chosen["description"],
        score=cosine,
        ranked=everything[:top_k],
        token_relevance=_explain_tokens(model.get_input_embeddings(), untyped, score, num_steps),
        patch_relevance=_explain_patches(model.config, untyped, score, num_steps),
    )


def _explain_tokens(
    embedding: nn.Module, inputs: dict[str, Tensor], score: Callable[..., Tensor], num_steps: int
) -> Tensor:
    given = embedding(inputs["input_ids"]).detach()
    moving = inputs["attention_mask"].bool()
    if "offset_mapping" in inputs:
        moving = moving & (inputs["offset_mapping"][..., 1] > 0)
    average = _mean_embedding(embedding, given.device).to(given.dtype)
    baseline = torch.where(moving[..., None], average, given)

    def score_of(embedded: Tensor) -> Tensor:
        handle = embedding.register_forward_hook(lambda *_: embedded)
        try:
            return score(_repeated(inputs, len(embedded)))
        finally:
            handle.remove()

    return _integrated_gradients(score_of, given, baseline, num_steps).sum(dim=-1)[0]


@torch.no_grad()
def _mean_embedding(embedding: nn.Module, device: torch.device) -> Tensor:
    """Average the vocabulary's embeddings, `(hidden,)`, by calls: its weight may be offloaded between them."""
    vocabulary = torch.arange(len(embedding.weight), device=device)
    return sum(embedding(part).float().sum(dim=0) for part in vocabulary.split(32_768)) / len(vocabulary)


def _explain_patches(
    config: RocConfig, inputs: dict[str, Tensor], score: Callable[..., Tensor], num_steps: int
) -> Tensor | None:
    if "pixel_values" not in inputs:
        return None
    given = inputs["pixel_values"]
    baseline = given.mean(dim=(2, 3), keepdim=True).expand_as(given)

    def score_of(pixels: Tensor) -> Tensor:
        steps = torch.arange(len(pixels), device=pixels.device)
        return score({**_repeated(inputs, len(pixels)), "pixel_values": pixels, "image_index": steps})

    relevance = _integrated_gradients(score_of, given, baseline, num_steps).sum(dim=1)[0]  # (height, width)
    rows, columns = patch_grid(config.vision_config, *relevance.shape)
    height, width = relevance.shape[0] // rows, relevance.shape[1] // columns
    whole = relevance[: rows * height, : columns * width]
    return whole.reshape(rows, height, columns, width).sum(dim=(1, 3))


def _check_request(config: RocConfig, inputs: Mapping[str, Tensor], row: int, pair: int, relation: str | None) -> None:
    if "patch_features" in inputs:
        raise ValueError("patch_features cannot be explained: give the processor the picture itself.")
    if not 0 <= row < len(inputs["input_ids"]):
        raise ValueError(f"row={row} is out of range: the inputs have {len(inputs['input_ids'])} rows, from 0.")
    num_pairs = int(inputs["pair_mask"][row].sum())
    if not 0 <= pair < num_pairs:
        raise ValueError(f"pair={pair} is out of range: row {row} has {num_pairs} pairs, counted from 0.")
    names = config.relation_names
    if relation is not None and relation not in names:
        raise ValueError(f"The model has no relation {relation!r}; it has {names}.{did_you_mean(relation, names)}")


def _check_differentiable(model: nn.Module) -> None:
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "Explaining needs gradients, but this model was made in torch.inference_mode(). Make it outside."
        )
    if any(type(module).__module__.startswith("torch.ao.nn.quantized") for module in model.modules()):
        raise ValueError(
            "Explaining needs gradients, which layers that PyTorch has quantised do not give. Explain the model as it "
            "was before."
        )


def _one_row(inputs: Mapping[str, Tensor], row: int, pair: int) -> dict[str, Tensor]:
    """Cut the inputs down to one row with one pair, and the row's own picture."""
    picture = int(inputs["image_index"][row]) if "image_index" in inputs else -1
    others = ("labels", "pixel_values", "whole_batch")
    one = {name: tensor[row : row + 1] for name, tensor in inputs.items() if name not in others}
    for name in ("pair_index", "pair_mask"):
        one[name] = one[name][:, pair : pair + 1]
    if "image_index" in one:
        one["image_index"] = one["image_index"].clamp(max=0)
    if picture >= 0:
        one["pixel_values"] = inputs["pixel_values"][picture : picture + 1]
    return one


def _repeated(inputs: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """Repeat the row, which shares its picture with its copies."""
    return {
        name: tensor if name == "pixel_values" else tensor.expand(times, *tensor.shape[1:])
        for name, tensor in inputs.items()
    }


def _integrated_gradients(score: Callable[[Tensor], Tensor], given: Tensor, baseline: Tensor, num_steps: int) -> Tensor:
    """Average gradient x (given - baseline) over the midpoints of `num_steps` equal parts of the path between them.

    `score` makes `(steps,)` of `(steps, ...)`; all others are `(1, ...)`. The sum of the result is
    `score(given) - score(baseline)`, up to the error of taking points for the path.
    """
    shares = (torch.arange(num_steps, device=given.device, dtype=given.dtype) + 0.5) / num_steps
    shares = shares.view(-1, *[1] * (given.dim() - 1))
    path = (baseline + shares * (given - baseline)).requires_grad_(True)
    [gradient] = torch.autograd.grad(score(path).sum(), path)
    return gradient.mean(dim=0, keepdim=True) * (given - baseline)
