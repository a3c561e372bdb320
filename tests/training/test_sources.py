"""Training on several data sets at once: what a pair is compared with, what is drawn, and what is reported."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from tiny import RELATIONS, tiny_model, tiny_processor
from tiny_runs import NAMES, arguments, error_of, history, line, main, weights, write_inputs, write_lines
from torch import Tensor
from torch.nn import functional

from roc.modeling_roc import RocModel
from roc.modeling_training_roc import retrieval_loss
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory
from roc.samples.batching import LengthBucketBatchSampler, draw_samples
from roc.studies.plan import effective_settings
from roc.training.competitors import find_competitors
from roc.training.data_settings import SourceConfig
from roc.training.learner import Learner
from roc.training.settings import RunConfig, load_run_config
from roc.training.sources import RunData, Source, join_relations, name_relations

OTHERS: list[dict[str, Any]] = [
    {"name": "Other", "descriptions": ["the two are in a post", RELATIONS[0]["descriptions"][0]]},
    {"name": "met", "descriptions": ["the head met the tail"]},
    {"name": NAMES[1], "descriptions": ["paris is in berlin"]},  # the name of a relation of the first source
    RELATIONS[2],  # a relation of the first source
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, the second smaller and with relations of its own."""
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    (folder / "second").mkdir()
    renamed = dict(zip(NAMES, ("Other", "met", NAMES[2], NAMES[1])))
    for split, number in (("train", 5), ("val", 4)):
        lines = [line(entry, split) for entry in range(number)]
        for own in lines:
            own.pop("image", None)
            own["text"] += " with"
            own["entities"] = [entity for entity in own["entities"] if "start" in entity]
            own["relations"] = [
                {**pair, "relation": renamed[pair["relation"]]} for pair in own["relations"] if pair["tail"] < 3
            ]
        write_lines(folder / "second" / f"{split}.jsonl", lines)
    content = {"version": 1, "language": "en", "none_relation": "Other", "relations": OTHERS}
    (folder / "others.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def sources(inputs: Path) -> list[dict[str, Any]]:
    return [
        {"name": "posts", "dataset": "jsonl", "data_dir": "data", "relations": str(inputs / "relations.yaml")},
        {"name": "second", "dataset": "jsonl", "data_dir": "second", "relations": str(inputs / "others.yaml")},
    ]


def command(
    inputs: Path, folder: Path, *more: str, given: list[dict[str, Any]] | None = None, **changes: Any
) -> list[str]:
    """The command line of a run on both."""
    file = folder.parent / "sources.yaml"
    file.write_text(yaml.safe_dump({"sources": sources(inputs) if given is None else given}), encoding="utf-8")
    options = arguments(inputs, folder, **{"vision_model": "null", "max_resemblance": 0.99} | changes)
    place = options.index("--relations")
    return [str(file), *options[:place], *options[place + 2 :], "--data_dir", str(inputs), *more]


def source(name: str, relations: list[dict[str, Any]], none_relation: str | None, **settings: Any) -> Source:
    return Source(SourceConfig(name=name, **settings), RelationInventory(relations, none_relation))


def pair_of_sources() -> list[Source]:
    plain = [{"head_types": [], "tail_types": [], **own} for own in OTHERS]
    known = [{"head_types": [], "tail_types": [], **own} for own in RELATIONS]
    return name_relations([source("posts", known, "None"), source("second", plain, "Other")])


# --- relations of several sources ---------------------------------------------------------------------------------


def test_names_stay_where_they_are_unique_and_none_is_one_relation() -> None:
    named = pair_of_sources()
    assert named[0].trained_names == ["None", f"posts: {NAMES[1]}", NAMES[2], NAMES[3]]
    assert named[1].trained_names == ["None", "met", f"second: {NAMES[1]}", NAMES[2]]
    joined = join_relations([(own, own.training) for own in named])
    assert joined.names == [*named[0].trained_names, "met", f"second: {NAMES[1]}"]
    assert joined.none_relation == "None"
    assert joined.relations[0]["descriptions"] == [RELATIONS[0]["descriptions"][0], OTHERS[0]["descriptions"][0]]
    assert joined.relations[2]["descriptions"] == RELATIONS[2]["descriptions"]


def test_what_head_and_tail_of_none_are_is_taken_from_the_first_source_that_says_it() -> None:
    bare = {"name": "none", "descriptions": ["nothing"], "head_types": [], "tail_types": []}
    given = [bare, {**bare, "tail": "a name"}, {**bare, "head": "a word", "tail": "a thing"}]
    named = name_relations([source(str(number), [own], "none") for number, own in enumerate(given)])
    [joined] = join_relations([(own, own.training) for own in named]).relations
    assert joined == {**bare, "head": "a word", "tail": "a name"}
    assert "head" not in bare


def test_names_do_not_depend_on_what_is_held_out() -> None:
    whole = pair_of_sources()
    held_out = [Source(own.settings, own.inventory, held_out=[NAMES[1]]) for own in whole]
    assert [own.names for own in name_relations(held_out)] == [own.names for own in whole]


def test_a_name_that_means_none_elsewhere_is_told_apart() -> None:
    known = [{"head_types": [], "tail_types": [], **own} for own in RELATIONS]
    named = name_relations([source("one", known, "None"), source("two", known, None)])
    assert named[1].trained_names[0] == "two: None"
    assert named[0].trained_names[0] == "None"


# --- with which relations a pair is compared ----------------------------------------------------------------------


@pytest.fixture
def processor() -> RocProcessor:
    return tiny_processor(vision=False)


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    joined = join_relations([(own, own.training) for own in pair_of_sources()])
    return tiny_model(processor, vision=False, relations=joined.relations, none_relation="None")


def with_features(model: RocModel, vectors: list[list[float]]) -> RocModel:
    """Give each of the model's six relations the same vector for all its descriptions."""
    features = torch.zeros_like(model.relation_bank.features)
    for row, relation in enumerate(model.relation_bank.relation_index.tolist()):
        features[row, : len(vectors[relation])] = torch.tensor(vectors[relation])
    model.relation_bank.features = features
    return model


def test_a_pair_is_compared_with_its_own_source_and_what_means_something_else(model: RocModel) -> None:
    data = RunData(pair_of_sources(), [], [])
    names = data.training.names  # None, posts: couple, place_of_birth (of both), holds, met, second: couple
    # the couple of posts is like `met`, holds is a little like it
    vectors = [[1.0, 0, 0, 0], [0, 1.0], [0, 0, 1.0], [0, 0.3, 0, 0, 1.0], [0, 1.0], [0, 0, 0, 0, 0, 1.0]]
    found = find_competitors(data, with_features(model, vectors), max_resemblance=0.4)
    assert found is not None
    posts, second = range(2)
    allowed = {
        (at, label): {name for name, allows in zip(names, row) if allows}
        for at, table in enumerate(found.table.tolist())
        for label, row in zip(names, table)
    }
    assert allowed[posts, names[1]] == set(names) - {"met"}
    assert allowed[second, "met"] == set(names) - {names[1]}
    assert allowed[posts, names[3]] == set(names)
    assert allowed[posts, "None"] == {"None", *names[1:4]}
    assert allowed[second, "None"] == {"None", NAMES[2], "met", names[5]}
    assert all(label in own for (_, label), own in allowed.items()), "a relation does not compete for its own pairs"
    assert all("None" in own for own in allowed.values())
    first, last = data.sources
    thorough = replace(first, settings=replace(first.settings, annotates_all=True))
    of_all = find_competitors(RunData([thorough, last], [], []), model, max_resemblance=0.4)
    assert of_all is not None
    assert of_all.table[posts, names.index("None")].all(), "none of all sources' relations holds"
    assert torch.equal(of_all.table[posts, 1:], found.table[posts, 1:])
    assert torch.equal(of_all.table[second], found.table[second])
    [entry] = found.left_out
    assert entry["relations"] == [names[1], "met"]
    assert entry["sources"] == ["posts", "second"]
    assert entry["cosine"] == pytest.approx(1.0)
    assert yaml.safe_load(found.to_yaml()) == found.left_out
    assert f"1 pairs of relations of different sources may mean the same and are not compared: {names[1]}" in (
        found.summary()
    )


def test_the_relations_that_are_left_out_come_with_the_most_alike_first(model: RocModel) -> None:
    data = RunData(pair_of_sources(), [], [])
    vectors = [[1.0, 0, 0, 0], [0, 1.0], [0, 0, 1.0], [0, 0.5, 0, 0, 1.0], [0, 1.0], [0, 0, 0, 0, 1.0]]
    found = find_competitors(data, with_features(model, vectors), max_resemblance=0.4)
    assert found is not None
    cosines = [own["cosine"] for own in found.left_out]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 3  # couple ~ met, holds ~ second: couple, holds ~ met


def test_one_source_compares_everything(model: RocModel) -> None:
    data = RunData([pair_of_sources()[0]], [], [])
    assert find_competitors(data, model, max_resemblance=0.4) is None


def losses(logits: Tensor, labels: Tensor, allowed: Tensor) -> Tensor:
    """The loss by its formula: the softmax over what competes."""
    rows = [
        -(row[label] - row[own].logsumexp(0)) for row, label, own in zip(logits, labels.tolist(), allowed, strict=True)
    ]
    return torch.stack(rows).mean()


def test_the_loss_is_that_over_the_competitors_and_the_label_always_competes(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = processor("ann met bob in paris", entities=[(0, 3), (8, 11)], pairs=[(0, 1), (1, 0)], labels=[4, 2])
    allowed = torch.tensor([[[True, False, False, True, False, True], [True, True, True, False, True, True]]])
    assert not allowed[0, 0, 4], "the label of the first pair is not among its competitors"
    output = model(**batch, competitors=allowed)
    with_label = allowed[0].clone()
    with_label[0, 4] = True
    torch.testing.assert_close(output.loss, losses(output.logits[0], batch["labels"][0], with_label))
    plain = model(**batch)
    torch.testing.assert_close(output.logits, plain.logits)
    assert output.loss < plain.loss
    torch.testing.assert_close(model(**batch, competitors=torch.ones_like(allowed)).loss, plain.loss)


def test_what_does_not_compete_gets_no_gradient(model: RocModel, processor: RocProcessor) -> None:
    batch = processor("ann met bob in paris", entities=[(0, 3), (8, 11)], pairs=[(0, 1)], labels=[0])
    allowed = torch.tensor([[[True, True, True, True, False, False]]])
    output = model(**batch, competitors=allowed)
    output.logits.retain_grad()
    output.loss.backward()
    assert (output.logits.grad[0, 0, 4:] == 0).all()
    assert (output.logits.grad[0, 0, :4] != 0).all()


def test_negative_descriptions_and_dropped_relations_go_with_competitors(
    model: RocModel, processor: RocProcessor
) -> None:
    batch = processor("ann met bob in paris", entities=[(0, 3), (8, 11)], pairs=[(0, 1)], labels=[0])
    allowed = torch.tensor([[[True, True, False, True, False, False]]])
    negatives = model.relation_bank.features[:2] * -1
    loss = model(**batch, competitors=allowed, negative_features=negatives).loss
    output = model(**batch)
    target = functional.normalize(model.relation_projection(negatives), dim=-1)
    more = output.pair_embeds[0, 0] @ target.T / model.temperature
    logits = torch.cat([output.logits[0, 0][allowed[0, 0]], more])
    torch.testing.assert_close(loss, logits.logsumexp(0) - logits[0])
    model.config.relation_dropout, model.config.label_smoothing = 0.5, 0.1
    model.train()
    for seed in range(5):
        torch.manual_seed(seed)
        assert torch.isfinite(model(**batch, competitors=allowed).loss)


def test_smoothing_spreads_over_what_competes() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5), torch.tensor([1, -100, 4])
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(retrieval_loss(logits, labels, label_smoothing=0.2), expected)
    padded = torch.cat([logits, torch.full((3, 2), -torch.inf)], dim=-1)
    torch.testing.assert_close(retrieval_loss(padded, labels, label_smoothing=0.2), expected)


# --- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1000.0])
def test_sources_get_the_shares_of_the_formula(temperature: float) -> None:
    sizes = (700, 50, 10)
    of = [number for number, size in enumerate(sizes) for _ in range(size)]
    weights_of = [size ** (1 / temperature) for size in sizes]
    for epoch in range(1, 4):
        drawn = draw_samples(of, temperature, seed=3, epoch=epoch)
        assert len(drawn) == sum(sizes)
        counts = Counter(of[number] for number in drawn)
        for number, weight in enumerate(weights_of):
            assert counts[number] == pytest.approx(sum(sizes) * weight / sum(weights_of), abs=1)
        assert drawn == draw_samples(of, temperature, seed=3, epoch=epoch)
    if temperature == 1:
        assert sorted(drawn) == list(range(len(of)))


def test_a_large_source_shows_other_samples_each_epoch_and_a_small_one_repeats() -> None:
    of = [0] * 90 + [1] * 10
    epochs = [draw_samples(of, 1e6, seed=0, epoch=epoch) for epoch in range(9)]  # half of each
    large = [[number for number in drawn if number < 90] for drawn in epochs]
    assert all(len(own) == 50 for own in large)
    seen = Counter(itertools.chain(*large))
    assert set(seen.values()) == {5}, "450 draws of 90 samples"
    assert set(large[0]) != set(large[1])
    for drawn in epochs:
        assert set(Counter(number for number in drawn if number >= 90).values()) == {5}


def test_batches_hold_what_was_drawn() -> None:
    of = [0] * 30 + [1] * 6
    sampler = LengthBucketBatchSampler(range(36), 4, seed=1, sources=of, temperature=3.0)
    sampler.set_epoch(2)
    drawn = sorted(itertools.chain(*sampler))
    assert drawn == sorted(draw_samples(of, 3.0, seed=1, epoch=2))
    assert len(list(sampler)) == len(sampler) == 9
    sampler.set_epoch(3)
    assert sorted(itertools.chain(*sampler)) != drawn


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_on_two_sources_learns_and_reports_each(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    given = {"num_epochs": 6, "learning_rate": 3e-3, "head_learning_rate": 3e-3, "source_temperature": 2}
    assert main(command(inputs, folder, **given)) == 0
    printed = capsys.readouterr()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for val in (json.loads(printed.out)["val"], metrics["val"], *(record["val"] for record in metrics["history"])):
        assert val["sources"].keys() == {"posts", "second"}
        for name in ("micro_f1", "macro_f1", "accuracy"):
            assert val[name] == pytest.approx(sum(own[name] for own in val["sources"].values()) / 2)
        assert val["n"] == sum(own["n"] for own in val["sources"].values())
    best = max(metrics["history"], key=lambda record: record["val"]["micro_f1"])
    assert metrics["best_epoch"] == best["epoch"]
    assert history(folder)[-1]["loss"] < history(folder)[0]["loss"] / 2
    assert metrics["val"]["micro_f1"] > history(folder)[0]["val"]["micro_f1"]
    names = RocModel.from_pretrained(folder).config.relation_names
    assert names == ["None", f"posts: {NAMES[1]}", NAMES[2], NAMES[3], "met", f"second: {NAMES[1]}"]
    assert set(metrics["val"]["per_relation"]) <= set(names)
    assert yaml.safe_load((folder / "resemblances.yaml").read_text(encoding="utf-8")) == []
    saved = load_run_config(str(folder / "run_config.yaml"))
    assert [own.name for own in saved.data_sources] == ["posts", "second"]
    assert saved.data_sources[1].data_dir == str(inputs / "second")


def test_each_source_is_validated_among_its_own_relations(inputs: Path, tmp_path: Path) -> None:
    predicted: list[list[set[str]]] = []

    def validate(validator: Any, model: RocModel) -> Any:
        found = validator._predict(model)
        predicted.append([set(own.predicted) | set(own.expected) for own in found])
        return validator.scores_of(found)

    assert main(command(inputs, tmp_path / "model", num_epochs=2), validate=validate) == 0
    posts, second = (set.union(*own) for own in zip(*predicted))
    assert posts <= {"None", f"posts: {NAMES[1]}", NAMES[2], NAMES[3]}
    assert second <= {"None", "met", f"second: {NAMES[1]}", NAMES[2]}


def test_a_source_may_have_relations_that_alone_validate(inputs: Path, tmp_path: Path) -> None:
    given = sources(inputs)
    given[1]["eval_relations"] = ["met", NAMES[2]]
    assert main(command(inputs, tmp_path / "model", given=given, num_epochs=1)) == 0
    names = RocModel.from_pretrained(tmp_path / "model").config.relation_names
    assert names == ["None", f"posts: {NAMES[1]}", NAMES[2], NAMES[3], f"second: {NAMES[1]}"]
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))
    assert "met" in metrics["val"]["per_relation"]


def test_a_resumed_run_is_the_uninterrupted_one(inputs: Path, tmp_path: Path) -> None:
    options = {"num_epochs": 2, "batch_size": 6, "checkpoint_steps": 1, "source_temperature": 3}
    assert main(command(inputs, tmp_path / "whole", **options)) == 0

    def killed(learner: Learner, batches: list[Any]) -> float:
        if learner.progress.step == 4:
            raise KeyboardInterrupt
        return learner.step(batches)

    given = command(inputs, tmp_path / "parts", "--resume", "auto", **options)
    with pytest.raises(KeyboardInterrupt):
        main(given, step=killed)
    AcceleratorState._reset_state(True)
    assert main(given) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [own["loss"] for own in history(tmp_path / "whole")] == [own["loss"] for own in history(tmp_path / "parts")]
    resemblances = [(tmp_path / name / "resemblances.yaml").read_bytes() for name in ("whole", "parts")]
    assert resemblances[0] == resemblances[1]


def test_a_run_goes_on_with_the_same_sources_alone(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(learner: Learner, batches: list[Any]) -> float:
        if learner.progress.step == 1:
            raise KeyboardInterrupt
        return learner.step(batches)

    with pytest.raises(KeyboardInterrupt):
        main(command(inputs, tmp_path / "model", checkpoint_steps=1), step=killed)
    AcceleratorState._reset_state(True)
    given = sources(inputs)
    given[1]["train_share"] = 0.5
    assert main(command(inputs, tmp_path / "model", "--resume", "auto", given=given, checkpoint_steps=1)) == 1
    told = error_of(capsys)
    assert "sources was" in told
    assert "the training samples are other ones" in told


def test_a_dry_run_reports_on_each_source_and_shows_what_is_not_compared(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(inputs, tmp_path / "model", "--dry_run", max_resemblance=-1)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["num_samples"] == 12 + 5
    for name in ("posts", "second"):
        assert f"source {name}:" in printed.err
    assert "pairs of relations of different sources may mean the same and are not compared" in printed.err
    assert f"- met\n  - 'posts: {NAMES[1]}'" in printed.err or f"- 'posts: {NAMES[1]}'\n  - met" in printed.err
    assert not (tmp_path / "model").exists()


def test_rows_that_cannot_be_read_are_named_by_their_source(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(inputs, tmp_path / "model", max_length=8)) == 1
    assert "rows of training of posts" in error_of(capsys)


def test_a_trained_model_goes_on_with_several_sources(inputs: Path, tmp_path: Path) -> None:
    assert main(command(inputs, tmp_path / "first", max_steps=1)) == 0
    file = tmp_path / "further.yaml"
    content: dict[str, Any] = {"start_from": str(tmp_path / "first"), "data_dir": str(inputs), "max_steps": 1}
    content |= {"output_dir": str(tmp_path / "further"), "sources": sources(inputs), "mixed_precision": "no"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main([str(file), "--num_threads", "1"]) == 0
    assert (tmp_path / "further" / "resemblances.yaml").is_file()


# --- settings -----------------------------------------------------------------------------------------------------


def test_a_source_has_the_settings_of_the_run_where_it_gives_none(inputs: Path) -> None:
    given = copy.deepcopy(sources(inputs))
    given[1] |= {"val_share": 0.3, "held_out_relations": ["met"]}
    first, second = RunConfig(data_dir="root", sources=given, val_share=0.2, train_share=0.5).data_sources
    assert (first.val_share, second.val_share) == (0.2, 0.3)
    assert (first.train_share, second.train_share) == (0.5, 0.5)
    assert (first.held_out_relations, second.held_out_relations) == (None, ["met"])
    assert first.data_dir == str(Path("root") / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datset": "jsonl"}, "has no setting 'datset'. Did you mean 'dataset'?"),
        ({"num_epochs": 3}, "source 'second' has no setting 'num_epochs'"),
        ({"relations": None}, "source 'second' needs relations"),
        ({"name": "posts"}, "each with a name of its own; given the names \\['posts', 'posts'\\]"),
        ({"val_share": 2}, "source 'second': val_share=2.0 is out of range"),
        ({"dataset": "mrne"}, "source 'second': dataset='mrne' is not allowed"),
        ({"train_split": "test"}, "train_split='test', val_split='val': nothing is ever trained"),
    ],
)
def test_a_source_that_cannot_be_is_refused(changes: dict[str, Any], message: str, inputs: Path) -> None:
    given = sources(inputs)
    with pytest.raises(ValueError, match=message):
        RunConfig(sources=[given[0], given[1] | changes])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relations": "relations/scenes.yaml"}, "sources and relations: .* under each source"),
        ({"dataset": "mnre", "num_unseen": 3}, "sources and dataset, num_unseen"),
        ({"eval_relations": ["a"]}, "sources and eval_relations"),
        ({"source_temperature": 0.5}, "source_temperature=0.5 is out of range"),
    ],
)
def test_sources_exclude_what_a_single_data_set_has(settings: dict[str, Any], message: str, inputs: Path) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(sources=sources(inputs), **settings)


def test_what_is_for_sources_needs_some() -> None:
    with pytest.raises(ValueError, match="source_temperature=2 is for a run with sources"):
        RunConfig(source_temperature=2)
    with pytest.raises(ValueError, match="given the names \\[\\]"):
        RunConfig(sources=[])


def test_a_relation_that_cannot_validate_is_named_with_its_source(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = sources(inputs)
    given[1]["eval_relations"] = ["mett"]
    assert main(command(inputs, tmp_path / "model", given=given)) == 1
    assert "source 'second': eval_relations: 'mett' is not among" in error_of(capsys)


def test_a_study_knows_the_relation_files_of_sources(inputs: Path) -> None:
    settings = effective_settings(RunConfig(sources=sources(inputs)))
    assert {f"content of relations of {name}" for name in ("posts", "second")} <= settings.keys()
