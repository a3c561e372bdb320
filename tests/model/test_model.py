"""The model: equalities in value and gradient, what learns and what does not, saving and loading."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from posts import POSTS, SIZE, encode, halves
from tiny import RELATIONS, louder, tiny_model, tiny_processor
from torch import Tensor, nn
from torch.nn import functional

from roc.modeling_fusion_roc import IMAGE, gather_rows
from roc.modeling_roc import RocModel, RocOutput
from roc.modeling_training_roc import retrieval_loss
from roc.processing_roc import RocProcessor
from roc.relations_bank_roc import pool_descriptions


def logits_of(output: RocOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """`(real pairs, relations)`."""
    return output.logits[batch["pair_mask"].bool()]


def gradients(model: RocModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def value_and_gradients(
    model: RocModel, batches: Sequence[Mapping[str, Tensor]], **inputs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of all real pairs and the gradients of the mean loss, with the batches given one after another."""
    model.zero_grad()
    num_pairs = sum(int(batch["pair_mask"].sum()) for batch in batches)
    logits = []
    for batch in batches:
        output = model(**batch, **inputs, num_items_in_batch=num_pairs)
        output.loss.backward()
        logits.append(logits_of(output, batch).detach())
    return torch.cat(logits), gradients(model)


def assert_same(
    first: tuple[Tensor, dict[str, Tensor]],
    second: tuple[Tensor, dict[str, Tensor]],
    *,
    atol: float = 1e-5,
    tolerance: float = 1e-4,
) -> None:
    """Equal logits and gradients, gradients measured against the largest of their parameter."""
    torch.testing.assert_close(first[0], second[0], rtol=tolerance, atol=tolerance)
    scale = max(gradient.abs().max() for gradient in first[1].values())
    for name in first[1].keys() | second[1].keys():
        zero = torch.zeros(())
        difference = (first[1].get(name, zero) - second[1].get(name, zero)).abs().max()
        assert difference <= atol * scale, f"{name}: gradients differ by {difference} of {scale}"


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    """In evaluation mode, and attention and pictures matter."""
    return louder(tiny_model(processor))


# --- equalities --------------------------------------------------------------------------------------------------


def test_the_equalities_below_are_not_vacuous(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    logits, grads = value_and_gradients(model, [batch])
    assert logits.std(dim=0).min() > 0.1, "pairs hardly differ"
    assert len(grads) == sum(parameter.requires_grad for parameter in model.parameters())
    for changed in ({"pixel_values": batch["pixel_values"].flip(-1)}, {"region_boxes": 1 - batch["region_boxes"]}):
        other = logits_of(model(**{**batch, **changed}), batch)
        assert (other - logits).abs().max() > 0.01, f"{changed.keys()} hardly matters"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_gives_what_its_posts_give_one_by_one(model: RocModel, processor: RocProcessor, attention: str) -> None:
    model.set_attn_implementation(attention)
    together = value_and_gradients(model, [encode(processor, POSTS)])
    alone = value_and_gradients(model, [encode(processor, [post]) for post in POSTS])
    assert_same(together, alone)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_accumulating_uneven_batches_gives_what_one_batch_gives(
    model: RocModel, processor: RocProcessor, cut: int
) -> None:
    together = value_and_gradients(model, [encode(processor, POSTS)])
    parts = value_and_gradients(model, [encode(processor, POSTS[:cut]), encode(processor, POSTS[cut:])])
    assert_same(together, parts)


def padded(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with more padding everywhere, filled with numbers that would show if they were read."""
    wide = dict(batch)
    for name, columns, filling in (
        ("input_ids", 5, 7),
        ("attention_mask", 5, 0),
        ("entity_positions", 2, 1),
        ("entity_is_region", 2, True),
        ("pair_index", 3, 1),
        ("pair_mask", 3, 0),
        ("labels", 3, -100),
        ("region_boxes", 2, 0.5),
        ("region_mask", 2, 0),
    ):
        tensor = batch[name]
        more = torch.full((len(tensor), columns, *tensor.shape[2:]), filling, dtype=tensor.dtype)
        wide[name] = torch.cat([tensor, more], dim=1)
    return wide


def test_padding_changes_nothing(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    assert_same(value_and_gradients(model, [batch]), value_and_gradients(model, [padded(batch)]))


def test_eager_and_sdpa_attention_give_the_same(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    results = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert model.config._attn_implementation == model.text_model.config._attn_implementation == attention
        results.append(value_and_gradients(model, [batch]))
    assert_same(*results)


def test_training_on_the_cpu_takes_the_attention_that_is_faster_with_dropout(
    model: RocModel, processor: RocProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, losses = encode(processor, POSTS), []
    model.text_model.eval()
    for attention in ("eager", "sdpa"):
        model.fusion_layers.train()
        model.set_attn_implementation(attention)
        torch.manual_seed(1)
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "other random numbers: not the same function"


def test_activation_checkpointing_changes_nothing(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    model.train()  # dropout included: checkpointing restores the random state
    torch.manual_seed(1)
    plain = value_and_gradients(model, [batch])
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert model.fusion_layers[0].gradient_checkpointing
    torch.manual_seed(1)
    assert_same(plain, value_and_gradients(model, [batch]))


def test_several_pairs_at_once_give_what_each_pair_gives_alone(model: RocModel, processor: RocProcessor) -> None:
    post = POSTS[2]
    together = encode(processor, [post])
    single = [
        encode(processor, [{**post, "pairs": [pair], "labels": [label]}])
        for pair, label in zip(post["pairs"], post["labels"], strict=True)
    ]
    assert all(torch.equal(batch["input_ids"], together["input_ids"]) for batch in single)
    assert_same(value_and_gradients(model, [together]), value_and_gradients(model, single))


def test_the_order_of_pairs_is_the_order_of_scores(model: RocModel, processor: RocProcessor) -> None:
    post, order = POSTS[0], [2, 0, 1]
    permuted = {**post, **{name: [post[name][number] for number in order] for name in ("pairs", "labels")}}
    logits = model(**encode(processor, [post])).logits[0]
    torch.testing.assert_close(model(**encode(processor, [permuted])).logits[0], logits[order])


def test_a_pair_and_its_reverse_are_two_questions(model: RocModel, processor: RocProcessor) -> None:
    logits = model(**encode(processor, [POSTS[2]])).logits[0]
    assert (logits[2] - logits[3]).abs().max() > 0.01


def test_permuted_relations_have_permuted_scores(model: RocModel, processor: RocProcessor) -> None:
    batch, order = encode(processor, POSTS), [2, 0, 3, 1]
    before = value_and_gradients(model, [batch])
    model.set_relations([RELATIONS[number] for number in order], processor, none_relation="None")
    place = torch.tensor([order.index(number) for number in range(len(order))])
    relabelled = {**batch, "labels": torch.where(batch["labels"] < 0, -100, place[batch["labels"].clamp(min=0)])}
    logits, grads = value_and_gradients(model, [relabelled])
    assert_same(before, (logits[:, place], grads))


def test_permuted_descriptions_of_a_relation_change_nothing(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    before = value_and_gradients(model, [batch])
    permuted = [{**relation, "descriptions": relation["descriptions"][::-1]} for relation in RELATIONS]
    model.set_relations(permuted, processor, none_relation="None")
    assert_same(before, value_and_gradients(model, [batch]))


@pytest.mark.parametrize("with_regions", [False, True])
def test_a_missing_picture_beside_others_is_a_missing_picture_alone(
    model: RocModel, processor: RocProcessor, with_regions: bool
) -> None:
    missing = {**POSTS[2], "image": None}
    if not with_regions:
        missing = {**missing, "entities": [(0, 3), (4, 9)], "pairs": [(0, 1)], "labels": [1]}
    alone, beside = encode(processor, [missing]), encode(processor, [POSTS[3], missing])
    beside["labels"][0] = -100
    pairs = len(missing["pairs"])
    logits, grads = value_and_gradients(model, [alone])
    model.zero_grad()
    output = model(**beside, num_items_in_batch=pairs)
    output.loss.backward()
    assert_same((logits, grads), (output.logits[1, :pairs].detach(), gradients(model)))
    assert not any(name.startswith("vision_model") for name in grads)


def test_which_picture_a_post_is_beside_does_not_matter_to_it(model: RocModel, processor: RocProcessor) -> None:
    first = model(**encode(processor, [POSTS[3], POSTS[0]])).logits[0, 0]
    second = model(**encode(processor, [POSTS[3], POSTS[1]])).logits[0, 0]
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_a_picture_shared_by_two_posts_is_encoded_once(model: RocModel, processor: RocProcessor) -> None:
    batch = encode(processor, [POSTS[0], POSTS[2]])
    seen: list[int] = []
    handle = model.vision_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model(**batch)
    handle.remove()
    assert seen == [1]


def test_pair_markers_score_what_they_score_one_pair_at_a_time() -> None:
    processor = tiny_processor(markers="pair")
    model = louder(tiny_model(processor))
    post = POSTS[0]
    single = [
        encode(processor, [{**post, "pairs": [pair], "labels": [label]}])
        for pair, label in zip(post["pairs"], post["labels"], strict=True)
    ]
    assert_same(value_and_gradients(model, [encode(processor, [post])]), value_and_gradients(model, single))


def test_fresh_descriptions_of_an_unchanged_encoder_give_what_the_bank_gives(processor: RocProcessor) -> None:
    model = louder(tiny_model(processor, relation_config=None))
    model.set_relations(RELATIONS, processor, none_relation="None")
    batch = encode(processor, POSTS)
    tokens = processor.tokenize_descriptions([text for r in RELATIONS for text in r["descriptions"]])
    fresh = model(**batch, **{f"relation_{name}": tensor for name, tensor in tokens.items()})
    torch.testing.assert_close(fresh.logits, model(**batch).logits, rtol=1e-4, atol=1e-4)


def fuse_everything(self: RocModel, parts: Sequence[tuple[Tensor, Tensor, int]], positions: Tensor) -> Tensor:
    """`_fuse` with every state of every layer computed; then patches are put back, and in the end entities picked."""
    given = torch.cat([part + self.modality_embeddings.weight[modality] for part, _, modality in parts], dim=1)
    mask = torch.cat([part_mask for _, part_mask, _ in parts], dim=1)
    is_patch = torch.cat([torch.full((part.shape[1], 1), modality == IMAGE) for part, _, modality in parts])
    states = given
    for layer in self.fusion_layers:
        states = layer(states, mask[:, None, None].expand(-1, 1, mask.shape[1], -1))
        states = torch.where(is_patch, given, states)
    return gather_rows(self.fusion_norm(states), positions)


@pytest.mark.parametrize("fusion_num_layers", [0, 1, 2])
@pytest.mark.parametrize("kind", [{}, {"head": "classification"}, {"alignment": "residual"}], ids=str)
@pytest.mark.parametrize("way", ["eager", "sdpa", "checkpointing", "bfloat16"])
def test_fusion_layers_may_leave_out_what_is_not_read(
    way: str, kind: dict[str, Any], fusion_num_layers: int, processor: RocProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = louder(tiny_model(processor, fusion_num_layers=fusion_num_layers, dropout=0.0, **kind))
    if way in ("eager", "sdpa"):
        model.set_attn_implementation(way)
    if way == "checkpointing":
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
        model.fusion_layers.train()  # it is for training only
    batch, results = encode(processor, POSTS), []
    for reference in (None, fuse_everything):
        if reference is not None:
            monkeypatch.setattr(RocModel, "_fuse", reference)
        with torch.autocast("cpu", enabled=way == "bfloat16"):
            results.append(value_and_gradients(model, [batch]))
    assert_same(*results, atol=0.02 if way == "bfloat16" else 1e-5, tolerance=0.05 if way == "bfloat16" else 1e-4)


def test_the_last_fusion_layer_computes_the_entities_alone(model: RocModel, processor: RocProcessor) -> None:
    batch, rows = encode(processor, POSTS), []
    handle = model.fusion_layers[-1].feed_forward.register_forward_hook(
        lambda module, given, output: rows.append(output.shape[:2])
    )
    model(**batch)
    handle.remove()
    assert rows == [batch["entity_positions"].shape]


def test_an_entity_is_the_fused_state_of_its_opening_marker_or_of_its_region(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = encode(processor, POSTS)
    seen: dict[str, Any] = {}
    handles = [
        model.fusion_layers[-1].register_forward_pre_hook(lambda module, given: seen.update(sequence=given[:2])),
        model.pair_head.register_forward_pre_hook(lambda module, given: seen.update(entities=given[0])),
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    fused = model.fusion_norm(model.fusion_layers[-1](*seen["sequence"]))
    opening = processor.tokenizer.convert_tokens_to_ids("[ENT]")
    length = batch["input_ids"].shape[1]
    for number, post in enumerate(POSTS):
        markers = (batch["input_ids"][number] == opening).nonzero().flatten().tolist()
        regions = list(range(length, length + sum("bbox" in entity for entity in post["entities"])))
        expected = fused[number, markers + regions]  # the entities of POSTS are in this order
        torch.testing.assert_close(seen["entities"][number, : len(post["entities"])], expected)


# --- closed forms ------------------------------------------------------------------------------------------------


def test_logits_are_cosines_over_the_temperature(processor: RocProcessor) -> None:
    model = tiny_model(processor, initial_temperature=0.2)
    batch = encode(processor, POSTS)
    output = model(**batch)
    assert model.temperature == pytest.approx(0.2)
    for embeds in (output.pair_embeds, output.relation_embeds):
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(embeds.shape[:-1]))
    cosines = torch.einsum("bpd,rd->bpr", output.pair_embeds, output.relation_embeds)
    torch.testing.assert_close(output.logits, cosines / 0.2)
    torch.testing.assert_close(output.loss, retrieval_loss(output.logits, batch["labels"]))
    torch.testing.assert_close(output.pair_embeds, model.get_pair_features(**pair_inputs(batch)))


def pair_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name not in ("pair_mask", "truncated", "labels")}


def test_relation_embeddings_are_the_pooled_projections_of_the_bank(model: RocModel) -> None:
    descriptions = model.get_description_features()
    assert descriptions.shape == (5, 16)
    expected = pool_descriptions(descriptions, torch.tensor([0, 1, 1, 2, 3]), 4)
    torch.testing.assert_close(model.get_relation_features(), expected)


def test_a_description_is_the_mean_of_its_real_tokens(model: RocModel, processor: RocProcessor) -> None:
    tokens = processor.tokenize_descriptions(["the head loves the tail", "the two"])
    features = model.encode_descriptions(**tokens)
    for row, ids, mask in zip(features, tokens["input_ids"], tokens["attention_mask"], strict=True):
        states = model.relation_model(input_ids=ids[mask.bool()][None]).last_hidden_state[0]
        torch.testing.assert_close(row, states.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_residual_pair_starts_between_its_text_and_its_entities_before_fusion(processor: RocProcessor) -> None:
    model = tiny_model(processor, alignment="residual")
    batch = encode(processor, [POSTS[0]])
    embeds = model.get_pair_features(**pair_inputs(batch))
    text = model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    own = batch["pair_index"][0, 0]
    assert not batch["entity_is_region"][0, own].any()
    head, tail = batch["entity_positions"][0, own].tolist()
    whole = text[0, batch["attention_mask"][0].bool()].mean(dim=0)
    expected = functional.normalize(whole + (text[0, head] + text[0, tail]) / 2, dim=-1)
    torch.testing.assert_close(embeds[0, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.get_description_features(), functional.normalize(model.relation_bank.features, dim=-1)
    )


def test_the_nearest_description_decides_if_asked_for(processor: RocProcessor) -> None:
    model = tiny_model(processor, description_pooling="max")
    batch = encode(processor, POSTS)
    output = model(**batch)
    cosines = output.pair_embeds @ model.get_description_features().T
    nearest = torch.stack([cosines[..., 0], cosines[..., 1:3].amax(-1), cosines[..., 3], cosines[..., 4]], dim=-1)
    torch.testing.assert_close(output.logits, nearest / model.temperature)


def test_relation_dropout_is_for_the_loss_in_training_only(processor: RocProcessor) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = transformers.BertConfig(vocab_size=len(processor.tokenizer), **SIZE, **still)
    model = tiny_model(processor, text_config=text, vision=False, dropout=0.0, relation_dropout=0.9)
    batch = processor("ann kissed bob", entities=[(0, 3), (11, 14)], pairs=[(0, 1)], labels=[1])
    still_loss, still_logits = model(**batch).loss, model(**batch).logits
    outputs = [model.train()(**batch) for _ in range(8)]
    torch.testing.assert_close(outputs[0].logits, still_logits)
    losses = {round(output.loss.item(), 4) for output in outputs}
    assert len(losses) > 1
    assert max(losses) <= still_loss.item() + 1e-4  # fewer relations to tell apart


def test_label_smoothing_is_for_training_only(processor: RocProcessor) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_model(processor, label_smoothing=0.3, dropout=0.0)
    for backbone in (model.text_model, model.vision_model):
        for module in backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for name, value in still.items():
            setattr(backbone.config, name, value)
    batch = encode(processor, POSTS)
    output = model.eval()(**batch)
    torch.testing.assert_close(output.loss, retrieval_loss(output.logits, batch["labels"]))
    output = model.train()(**batch)
    torch.testing.assert_close(output.loss, retrieval_loss(output.logits, batch["labels"], label_smoothing=0.3))


def test_ranked_relations_are_the_softmax_with_the_nearest_description(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = encode(processor, POSTS[:2])
    output = model(**batch)
    ranked = model.rank_relations(output, batch["pair_mask"], top_k=4)
    probabilities = logits_of(output, batch).softmax(dim=-1)
    assert len(ranked) == 4
    names = [relation["name"] for relation in RELATIONS]
    for own, row in zip(ranked, probabilities, strict=True):
        scores = [entry["score"] for entry in own]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        for entry in own:
            number = names.index(entry["relation"])
            assert entry["score"] == pytest.approx(row[number].item(), abs=1e-6)
            assert entry["description"] in RELATIONS[number]["descriptions"]
    couple = model.get_description_features()[1:3]
    pair = output.pair_embeds[0, 0]
    nearest = RELATIONS[1]["descriptions"][int((couple @ pair).argmax())]
    assert next(entry for entry in ranked[0] if entry["relation"] == names[1])["description"] == nearest
    assert [len(own) for own in model.rank_relations(output, batch["pair_mask"], top_k=99)] == [4] * 4


# --- what learns -------------------------------------------------------------------------------------------------


def kinds() -> Iterator[Any]:
    yield pytest.param({}, id="retrieval")
    yield pytest.param({"vision": False}, id="text only")
    yield pytest.param({"head": "classification"}, id="classification")
    yield pytest.param({"relation_config": None}, id="shared description encoder")
    yield pytest.param({"alignment": "residual"}, id="residual")
    yield pytest.param({"freeze_vision": True}, id="frozen vision encoder")
    yield pytest.param({"description_pooling": "max"}, id="nearest description")


def without_pictures(posts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**post, "image": None} for post in posts]


def batch_for(model: RocModel) -> dict[str, Tensor]:
    vision = model.vision_model is not None
    processor = tiny_processor(vision=vision)
    batch = encode(processor, POSTS if vision else without_pictures(POSTS))
    if model.config.head == "retrieval" and model.relation_model is None:
        tokens = processor.tokenize_descriptions([text for r in RELATIONS for text in r["descriptions"]])
        batch |= {f"relation_{name}": tensor for name, tensor in tokens.items()}
    return batch


@pytest.mark.parametrize("kind", kinds())
def test_every_trainable_parameter_moves_in_a_step_and_no_other(kind: dict[str, Any]) -> None:
    model = tiny_model(tiny_processor(), **kind).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    buffers = copy.deepcopy(dict(model.named_buffers()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    # behind a weight that starts at zero there is no gradient in the first step
    for _ in range(2 if model.config.alignment == "residual" else 1):
        model(**batch_for(model)).loss.backward()
        optimizer.step()
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == frozen
    encoders = {"relation_model"} if getattr(model, "relation_model", None) is not None else set()
    encoders |= {"vision_model"} if model.config.freeze_vision else set()
    assert {name.split(".")[0] for name in frozen} == encoders
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("switch", [lambda model: model.train(), lambda model: model.eval()], ids=["train", "eval"])
def test_frozen_encoders_stay_in_evaluation_mode(
    processor: RocProcessor, switch: Callable[[RocModel], RocModel]
) -> None:
    model = tiny_model(processor, freeze_vision=True)
    switch(model)
    assert not any(module.training for module in [*model.relation_model.modules(), *model.vision_model.modules()])


def test_the_frozen_encoders_of_a_new_model_are_in_evaluation_mode(processor: RocProcessor) -> None:
    fresh = RocModel(tiny_model(processor, freeze_vision=True).config)  # no call of train() or eval() yet
    assert not any(module.training for module in [*fresh.relation_model.modules(), *fresh.vision_model.modules()])


@pytest.mark.parametrize("relation_config", [{}, {"relation_config": None}], ids=["frozen", "shared"])
def test_relations_set_in_training_mode_have_no_dropout(
    processor: RocProcessor, relation_config: dict[str, Any]
) -> None:
    model = tiny_model(processor, **relation_config)
    features = model.relation_bank.features.clone()
    model.train()
    model.set_relations(RELATIONS, processor, none_relation="None")
    torch.testing.assert_close(model.relation_bank.features, features)
    assert model.training, "the mode was not restored"


def learns_by_heart(model: RocModel, batch: Mapping[str, Tensor], *, most_steps: int = 300) -> bool:
    """Whether training on one batch gets all its pairs right. Without dropout: such a tiny model cannot afford it."""
    optimizer = torch.optim.AdamW(louder(model).eval().parameters(), lr=2e-3)
    labels = batch["labels"][batch["pair_mask"].bool()]
    for _ in range(most_steps):
        output = model(**batch)
        if torch.equal(logits_of(output, batch).argmax(dim=-1), labels):
            return True
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return False


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_eight_samples_can_be_learnt_by_heart(head: str) -> None:
    processor = tiny_processor(vision=False)
    names = ["ann", "bob", "eve"]
    pairs = [(head, tail) for head in names for tail in names if head != tail] + [("ann", "paris"), ("bob", "berlin")]
    posts = [
        {
            "text": f"{first} met {second}",
            "image": None,
            "entities": [(0, len(first)), (len(first) + 5, len(first) + 5 + len(second))],
            "pairs": [(0, 1)],
            "labels": [number % len(RELATIONS)],
        }
        for number, (first, second) in enumerate(pairs)
    ]
    assert len(posts) == 8
    assert learns_by_heart(tiny_model(processor, vision=False, head=head), encode(processor, posts))


def test_eight_samples_that_differ_in_the_picture_alone_can_be_learnt_by_heart(processor: RocProcessor) -> None:
    colours = [("red", "red"), ("red", "blue"), ("blue", "red"), ("blue", "blue")]
    colours += [("white", "black"), ("black", "white"), ("white", "green"), ("green", "black")]
    posts = [
        {
            "text": "ann met bob",
            "image": halves(*colour),
            "entities": [(0, 3), (8, 11)],
            "pairs": [(0, 1)],
            "labels": [number % len(RELATIONS)],
        }
        for number, colour in enumerate(colours)
    ]
    assert learns_by_heart(tiny_model(processor), encode(processor, posts))


def test_eight_samples_that_differ_in_the_box_alone_can_be_learnt_by_heart(processor: RocProcessor) -> None:
    picture = halves("red", "blue")
    boxes = [(x / 4, y / 2, (x + 1) / 4, (y + 1) / 2) for x in range(4) for y in range(2)]
    post = {
        "text": "ann holds",
        "image": picture,
        "entities": [(0, 3), *({"bbox": box} for box in boxes)],
        "pairs": [(0, number + 1) for number in range(8)],
        "labels": [number % len(RELATIONS) for number in range(8)],
    }
    assert learns_by_heart(tiny_model(processor, seed=2), encode(processor, [post]))


# --- temperature -------------------------------------------------------------------------------------------------

BORDERS = {"min_temperature": 0.02, "initial_temperature": 0.1, "max_temperature": 0.5}


@pytest.mark.parametrize(("log_scale", "temperature"), [(99.0, 0.02), (-99.0, 0.5), (math.log(5), 0.2)])
def test_the_temperature_is_clamped_in_value(processor: RocProcessor, log_scale: float, temperature: float) -> None:
    model = tiny_model(processor, **BORDERS)
    nn.init.constant_(model.logit_scale, log_scale)
    output = model(**encode(processor, POSTS))
    assert model.temperature == pytest.approx(temperature)
    cosines = torch.einsum("bpd,rd->bpr", output.pair_embeds, output.relation_embeds)
    torch.testing.assert_close(output.logits, cosines / temperature)


def loss_gradient_of_the_scale(model: RocModel, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """The gradient of the loss with respect to `logit_scale`, and its closed form sum((p - y) * logits) / pairs."""
    output = model(**batch)
    [gradient] = torch.autograd.grad(output.loss, model.logit_scale)
    logits, labels = logits_of(output, batch), batch["labels"][batch["pair_mask"].bool()]
    target = nn.functional.one_hot(labels, logits.shape[-1])
    return gradient.item(), ((logits.softmax(-1) - target) * logits).sum(-1).mean().item()


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
def test_the_temperature_has_its_gradient_up_to_and_on_both_borders(
    processor: RocProcessor, temperature: float
) -> None:
    model = tiny_model(processor, **BORDERS | {"initial_temperature": temperature})
    given, expected = loss_gradient_of_the_scale(model, encode(processor, POSTS))
    assert abs(expected) > 1e-3
    assert given == pytest.approx(expected, rel=1e-3)


def test_a_fixed_temperature_is_not_trained(processor: RocProcessor, tmp_path: Path) -> None:
    model = tiny_model(processor, learn_temperature=False).train()
    model(**encode(processor, POSTS)).loss.backward()
    assert model.logit_scale.grad is None
    model.save_pretrained(tmp_path)
    assert not RocModel.from_pretrained(tmp_path).logit_scale.requires_grad


# --- saving and loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_a_saved_model_loads_with_the_same_logits_and_buffers(kind: dict[str, Any], tmp_path: Path) -> None:
    model = louder(tiny_model(tiny_processor(), **kind))
    batch = batch_for(model)
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(loaded.named_buffers()).keys()
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    for field in ("relations", "none_relation", "id2label", "label2id", "entity_types", "head", "projection_dim"):
        assert getattr(loaded.config, field) == getattr(model.config, field), field
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["model.safetensors"]
    assert not [path for suffix in ("bin", "pt", "pth", "pkl") for path in tmp_path.rglob(f"*.{suffix}")]


@pytest.mark.parametrize("kind", kinds())
def test_a_loaded_model_trains_the_same_parameters(kind: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tiny_processor(), **kind)
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path)
    trainable = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, loaded)]
    assert trainable[0] == trainable[1]


def test_a_new_model_knows_which_description_belongs_to_which_relation(model: RocModel) -> None:
    fresh = RocModel(model.config)  # its bank has no content before set_relations
    assert fresh.relation_bank.relation_index.tolist() == [0, 1, 1, 2, 3]
    assert not fresh.relation_bank.features.any()


def test_relations_are_numbered_anew_in_a_loaded_model(model: RocModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path)
    assert loaded.relation_bank.relation_index.tolist() == [0, 1, 1, 2, 3]
    assert loaded.relation_bank.features.any(dim=-1).all()
    assert loaded.config.id2label == {number: relation["name"] for number, relation in enumerate(RELATIONS)}


@pytest.mark.parametrize("kind", kinds())
def test_a_model_loads_and_scores_in_bfloat16(kind: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tiny_processor(), **kind, initial_temperature=1.0)
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    batch = batch_for(model)
    assert "region_boxes" in batch
    output = loaded(**batch)
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(logits_of(output, batch), logits_of(model(**batch), batch), rtol=0.1, atol=0.1)


def test_relations_can_be_set_in_bfloat16(processor: RocProcessor, tmp_path: Path) -> None:
    tiny_model(processor).save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    loaded.set_relations(RELATIONS[:2], processor)
    assert loaded.relation_bank.features.dtype == torch.bfloat16
    assert loaded.get_relation_features().shape == (2, 16)


OTHER_RELATIONS: list[dict[str, Any]] = [
    {"name": "visits", "descriptions": ["the head visits the tail", "the head is in the tail today"]},
    {"name": "kissed", "descriptions": ["the head kissed the tail"]},
]


def test_other_relations_change_the_ranks_and_survive_saving(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    batch = encode(processor, POSTS)
    del batch["labels"]  # they number the old relations
    model.save_pretrained(tmp_path / "first")
    loaded = RocModel.from_pretrained(tmp_path / "first")
    loaded.set_relations(OTHER_RELATIONS, processor)
    output = loaded(**batch)
    assert output.logits.shape[-1] == 2
    ranked = loaded.rank_relations(output, batch["pair_mask"])
    assert {entry["relation"] for own in ranked for entry in own} == {"visits", "kissed"}
    loaded.save_pretrained(tmp_path / "second")
    again = RocModel.from_pretrained(tmp_path / "second")
    torch.testing.assert_close(again(**batch).logits, output.logits, rtol=1e-5, atol=1e-5)
    assert again.config.none_relation is None
    assert again.config.label2id == {"visits": 0, "kissed": 1}
    assert again.relation_bank.relation_index.tolist() == [0, 0, 1]


def test_a_reworded_description_changes_the_score_of_its_relation_only(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = encode(processor, POSTS)
    before = logits_of(model(**batch), batch)
    reworded = [*RELATIONS[:3], {**RELATIONS[3], "descriptions": ["berlin and paris met today"]}]
    model.set_relations(reworded, processor, none_relation="None")
    after = logits_of(model(**batch), batch)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3] - before[:, 3]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("relations", "none_relation", "message"),
    [
        ([], None, "relations is empty"),
        ([RELATIONS[0], RELATIONS[0]], None, "Relation names must differ"),
        ([{"name": "a"}], None, "needs at least one description"),
        ([{"name": "a", "descriptions": ["a " * 200]}], None, "Shorten it, or split it"),
        (RELATIONS, "Nonee", "Did you mean 'None'"),
    ],
)
def test_relations_that_cannot_be_set_leave_the_model_as_it_was(
    model: RocModel, processor: RocProcessor, relations: Any, none_relation: str | None, message: str
) -> None:
    bank = copy.deepcopy(model.relation_bank.state_dict())
    with pytest.raises(ValueError, match=message):
        model.set_relations(relations, processor, none_relation=none_relation)
    assert all(torch.equal(tensor, bank[name]) for name, tensor in model.relation_bank.state_dict().items())
    assert model.config.num_relations == 4


def test_a_classification_head_knows_no_descriptions(processor: RocProcessor) -> None:
    model = tiny_model(processor, head="classification")
    batch = encode(processor, POSTS)
    tokens = processor.tokenize_descriptions(["the head"])
    for method, call in {
        "set_relations": lambda: model.set_relations(RELATIONS, processor),
        "encode_descriptions": lambda: model.encode_descriptions(**tokens),
        "get_relation_features": lambda: model.get_relation_features(),
        "get_description_features": lambda: model.get_description_features(),
        "get_pair_features": lambda: model.get_pair_features(**pair_inputs(batch)),
    }.items():
        with pytest.raises(ValueError, match=rf"{method} needs head='retrieval'"):
            call()
    output = model(**batch)
    assert output.relation_embeds is None
    [first, *_] = model.rank_relations(output, batch["pair_mask"], top_k=4)
    shown = {entry["relation"]: entry["description"] for entry in first}
    assert shown == {relation["name"]: relation["descriptions"][0] for relation in RELATIONS}


def test_a_model_without_relations_says_how_to_get_some(processor: RocProcessor) -> None:
    model = tiny_model(processor)
    bare = copy.deepcopy(model.config)
    bare.relations, bare.none_relation = [], None
    with pytest.raises(ValueError, match=r"call model.set_relations\(relations, processor\)"):
        RocModel(bare)(**encode(processor, POSTS))


def test_a_low_rank_adapter_trains_itself_and_nothing_else(model: RocModel, processor: RocProcessor) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model,
        LoraConfig(r=2, target_modules=r"text_model.*(query|value)", modules_to_save=["pair_projection"]),
    )
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # the first step leaves lora_A alone: lora_B starts at 0
        adapted.train()(**encode(processor, POSTS)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert sum("lora_" in name for name in moved) == 2 * 2 * 2  # layers x (query, value) x (A, B)
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
