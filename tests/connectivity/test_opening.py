# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Ends of every kind: what is between them is the same line, whatever it takes to be there."""

import copy
import logging

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    ViTForImageClassification,
)

from hf_cbft import ConnectivityEvaluator, LinearPath, PolylinePath, QuadraticPath
from hf_cbft.checkpoints.loading import LoadOptions, StoredWeights, load_model, stored_weights
from hf_cbft.connectivity.ends import AdapterEnds, WeightEnds
from hf_cbft.connectivity.opening import open_ends
from hf_cbft.paths.interpolation import named_weights

CLOSE = {"rtol": 1e-6, "atol": 0.0}


def make_rows(name, rows=6):
    generator = torch.Generator().manual_seed(0)
    labels = [index % 4 for index in range(rows)]
    if name == "vit":
        return datasets.Dataset.from_dict(
            {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator).tolist(), "labels": labels}
        )
    ids = torch.randint(1, 50, (rows, 8), generator=generator)
    return datasets.Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": labels}
    )


@torch.no_grad()
def plain_losses(model, dataset):
    batch = {name: torch.tensor(values) for name, values in dataset.with_format(None)[:].items()}
    labels = batch.pop("labels")
    return F.cross_entropy(model.eval()(**batch).logits.double(), labels, reduction="none").numpy()


def between(anchors, coefficients):
    """A fresh model whose state dict is a combination of others, in float64."""
    states = [model.state_dict() for model in anchors]
    model = copy.deepcopy(anchors[0])
    model.load_state_dict(
        {
            name: sum(c * state[name].double() for c, state in zip(coefficients, states, strict=True)).to(value.dtype)
            for name, value in states[0].items()
        }
    )
    return model


def measured(start, end, dataset, path="linear", alphas=(0.0, 0.3, 1.0), **options):
    result = ConnectivityEvaluator(start, end, batch_size=4, **options).evaluate(
        dataset, path=path, alphas=alphas, num_resamples=20
    )
    return result.example_losses["data"]


def assert_line(losses, first, second, dataset, alphas=(0.0, 0.3, 1.0)):
    for point, alpha in enumerate(alphas):
        expected = plain_losses(between([first, second], [1.0 - alpha, alpha]), dataset)
        np.testing.assert_allclose(losses[point], expected, **CLOSE)


# Weights in folders


@pytest.fixture
def folders(make_model, tmp_path):
    """`folders(name)`: two models, and the folders that they are saved in."""

    def make(name, **options):
        models = [make_model(name, seed=1), make_model(name, seed=2)]
        for index, model in enumerate(models):
            model.save_pretrained(tmp_path / str(index), **options)
        return models, [str(tmp_path / "0"), str(tmp_path / "1")]

    return make


@pytest.mark.parametrize("kinds", ["folder folder", "model folder", "folder model", "model model"])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_the_line_does_not_depend_on_where_its_ends_are(folders, name, kinds):
    # Transformers saves ViT under other names than its model has: reading by name would find next to nothing.
    models, stored = folders(name)
    ends = [models[i] if kind == "model" else stored[i] for i, kind in enumerate(kinds.split())]
    assert_line(measured(*ends, make_rows(name)), *models, make_rows(name))


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "resnet"])
def test_nothing_of_a_stored_end_is_kept_in_memory(folders, name):
    # A second model in memory, where the promise is one.
    models, stored = folders(name)
    weights = stored_weights(stored[1], LoadOptions())
    assert weights._kept == {}
    expected = named_weights(models[1])
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


def test_shards_are_read(folders):
    # Checkpoints of some size come in several files.
    models, stored = folders("bert", max_shard_size="10KB")
    weights = stored_weights(stored[1], LoadOptions())
    assert len(weights._files) > 2
    assert weights._kept == {}
    assert_line(measured(*stored, make_rows("bert")), *models, make_rows("bert"))


def test_another_dtype_is_asked_for_by_name(folders):
    # Both ends in float64: rounding each read would move the end.
    models, stored = folders("bert")
    losses = measured(*stored, make_rows("bert"), dtype="float64")
    assert_line(losses, *(model.double() for model in models), make_rows("bert"))
    weights = stored_weights(stored[1], LoadOptions(dtype="float64"))
    assert weights._kept == {}
    assert {weights[name].dtype for name in weights} == {torch.float64}


def test_a_device_map_places_the_live_model_alone(folders, monkeypatch):
    # An accelerator has room for one of the two.
    models, stored = folders("bert")
    asked = []
    load = BertForSequenceClassification.from_pretrained

    def from_pretrained(source, **options):
        asked.append((source, options.get("device_map")))
        return load(source, **options)

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", from_pretrained)
    losses = measured(*stored, make_rows("bert"), device_map={"": "cpu"})
    assert asked == [(stored[1], None), (stored[0], {"": "cpu"})]
    assert_line(losses, *models, make_rows("bert"))


def test_weights_that_are_nowhere_are_refused(make_model):
    # Writing a point into a model whose weights are offloaded changes nothing, without a word.
    model = make_model("bert")
    model.bert.pooler.dense.weight = torch.nn.Parameter(torch.empty(16, 16, device="meta"))
    with pytest.raises(NotImplementedError, match=r"has bert.pooler.dense.weight offloaded or without values"):
        ConnectivityEvaluator(model, make_model("bert"))


def test_weights_that_no_file_holds_stay_in_memory(folders, tmp_path):
    # What Transformers converts on loading is in no file as the model has it.
    models, stored = folders("bert")
    file = tmp_path / "1" / "model.safetensors"
    weights = load_file(file)
    # Stored in another dtype, and rounded by it: what is read as float32 still has the same bits.
    weights["classifier.weight"] = weights["classifier.weight"].to(torch.float64) + 1e-12
    save_file(weights, file, metadata={"format": "pt"})
    found = stored_weights(stored[1], LoadOptions(dtype="float32"))
    assert isinstance(found, StoredWeights)
    assert torch.equal(found["classifier.weight"], models[1].classifier.weight)


def test_a_checkpoint_that_lacks_weights_is_refused(folders, tmp_path):
    # Transformers draws what is missing at random, with a warning: the barrier would be that of a random head.
    _, stored = folders("bert")
    weights = load_file(tmp_path / "1" / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "1" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"/1 has no weights for classifier.weight"):
        ConnectivityEvaluator(*stored)


def test_pickles_are_refused_unless_asked_for(folders, tmp_path):
    # Loading one can run code.
    models, stored = folders("bert")
    weights = load_file(tmp_path / "1" / "model.safetensors")
    (tmp_path / "1" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "1" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights in a pickle only .*: load it once and save it"):
        ConnectivityEvaluator(*stored)
    assert_line(measured(*stored, make_rows("bert"), allow_pickle=True), *models, make_rows("bert"))


def test_a_missing_shard_and_a_file_cut_short_are_named(folders, tmp_path):
    # A traceback out of the reader does not say which checkpoint is meant.
    _, stored = folders("bert", max_shard_size="10KB")
    shard = sorted((tmp_path / "1").glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    with pytest.raises(ValueError, match="/1 cannot be read"):
        ConnectivityEvaluator(*stored)
    shard.unlink()
    with pytest.raises((OSError, ValueError), match=shard.name):
        ConnectivityEvaluator(*stored)


# Curved paths


def test_a_curve_and_a_polyline_go_through_their_anchors(make_model):
    # Coefficients that are off by a factor still give a smooth picture.
    models = [make_model("bert", seed=seed) for seed in (1, 2, 3)]
    dataset = make_rows("bert")
    start, middle, end = models
    curve = QuadraticPath(None, named_weights(middle), named_weights(end))
    losses = measured(start, end, dataset, path=curve, alphas=(0.0, 0.25, 0.5, 1.0))
    for point, coefficients in enumerate([(1, 0, 0), (0.5625, 0.375, 0.0625), (0.25, 0.5, 0.25), (0, 0, 1)]):
        expected = plain_losses(between(models, coefficients), dataset)
        np.testing.assert_allclose(losses[point], expected, **CLOSE)
    polyline = PolylinePath([named_weights(start), named_weights(middle), named_weights(end)])
    losses = measured(start, end, dataset, path=polyline, alphas=(0.0, 0.25, 0.5, 0.9, 1.0))
    for point, coefficients in enumerate([(1, 0, 0), (0.5, 0.5, 0), (0, 1, 0), (0, 0.2, 0.8), (0, 0, 1)]):
        expected = plain_losses(between(models, coefficients), dataset)
        np.testing.assert_allclose(losses[point], expected, **CLOSE)


def test_a_polyline_goes_through_checkpoints(folders, make_model, tmp_path):
    # A training run's own checkpoints, by their folders.
    models, stored = folders("bert")
    middle = make_model("bert", seed=3)
    middle.save_pretrained(tmp_path / "middle")
    losses = measured(*stored, make_rows("bert"), path=[str(tmp_path / "middle")], alphas=(0.0, 0.5, 1.0))
    for point, model in enumerate((models[0], middle, models[1])):
        np.testing.assert_allclose(losses[point], plain_losses(model, make_rows("bert")), **CLOSE)


def test_a_curve_between_other_ends_is_refused(make_model):
    # Its losses would be those of another path.
    start, middle, end, other = (make_model("bert", seed=seed) for seed in range(1, 5))
    evaluator = ConnectivityEvaluator(start, end)
    curve = QuadraticPath(None, named_weights(middle), named_weights(other))
    with pytest.raises(ValueError, match="The path ends at other weights than those of the evaluator"):
        evaluator.evaluate(make_rows("bert"), path=curve)
    polyline = PolylinePath([named_weights(other), None, named_weights(end)])
    with pytest.raises(ValueError, match="The path starts at other weights"):
        evaluator.evaluate(make_rows("bert"), path=polyline)
    with pytest.raises(ValueError, match=r"The path LinearPath\(.* is unknown"):
        evaluator.evaluate(make_rows("bert"), path=LinearPath(end={}))


# Heads


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("head_from", ["start", "end"])
def test_one_head_is_used_all_along_where_it_is_asked_for(make_model, tmp_path, head_from, stored):
    # The bodies of two tasks can be compared; their heads cannot.
    start, end = make_model("bert", seed=1), make_model("bert", seed=2)
    end.classifier = torch.nn.Linear(16, 6)
    end.config.num_labels = end.num_labels = 6
    dataset = make_rows("bert")
    heads = {"start": start, "end": end}
    expected = []
    for alpha in (0.0, 0.3, 1.0):
        model = copy.deepcopy(heads[head_from])
        own = model.state_dict()
        for name, value in start.state_dict().items():
            if not name.startswith(("classifier", "bert.pooler")):
                own[name] = (1.0 - alpha) * value + alpha * end.state_dict()[name]
        model.load_state_dict(own)
        expected.append(plain_losses(model, dataset))
    ends = [start, end]
    if stored:
        for index, model in enumerate(ends):
            model.save_pretrained(tmp_path / str(index))
            ends[index] = tmp_path / str(index)
    with pytest.raises(ValueError, match=r"classifier.weight has shape \(6, 16\), not \(4, 16\)"):
        ConnectivityEvaluator(*ends)
    losses = measured(*ends, dataset, head_from=head_from)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


@pytest.mark.parametrize("stored", [False, True])
def test_classes_in_another_order_are_refused(make_model, tmp_path, stored):
    # Both models are right, and everything between them is confused: a barrier of the labels.
    start, end = make_model("bert", seed=1), make_model("bert", seed=2)
    start.config.id2label = dict(enumerate(["cat", "dog", "cow", "hen"]))
    end.config.id2label = dict(enumerate(["dog", "cat", "cow", "hen"]))
    ends = [start, end]
    if stored:
        for index, model in enumerate(ends):
            model.save_pretrained(tmp_path / str(index))
            ends[index] = tmp_path / str(index)
    with pytest.raises(ValueError, match="the classes stand in another order: cat is 0 at the start and 1 at the end"):
        ConnectivityEvaluator(*ends)
    ConnectivityEvaluator(*ends, head_from="start")
    with pytest.raises(ValueError, match='say whose head is used, "start" or "end"'):
        ConnectivityEvaluator(*ends, head_from="both")


# Adapters


KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 4},
    "head": {"modules_to_save": ["classifier"]},
    "bias": {"bias": "lora_only"},
    "tokens": {"trainable_token_indices": {"word_embeddings": [3, 7]}},
    "dora": {"use_dora": True},
}


def add_adapter(base, kind, seed):
    torch.manual_seed(seed)
    config = LoraConfig(target_modules=["query", "value"], lora_alpha=8, init_lora_weights=False, **KINDS[kind])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def adapters(make_model, tmp_path):
    """`adapters(kind)`: a base, two adapters on it, all saved, and all three as ordinary models."""

    def make(kind):
        make_model("bert", seed=1).save_pretrained(tmp_path / "base")
        plain = {"base": AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")}
        for seed, name in enumerate(("a", "b")):
            base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
            model = add_adapter(base, kind, seed)
            model.save_pretrained(tmp_path / name)
            plain[name] = copy.deepcopy(model).merge_and_unload()
        return plain

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "second"), [("base", "a"), ("a", "base"), ("a", "b")])
def test_adapters_lie_on_the_line_between_the_merged_models(adapters, tmp_path, kind, first, second):
    # Interpolating the factors of LoRA is another path, 64 % off.
    plain = adapters(kind)
    base = tmp_path / "base"
    names = {"base": str(base), "a": f"{base}+{tmp_path / 'a'}", "b": str(tmp_path / "b")}
    dataset = make_rows("bert")
    losses = measured(names[first], names[second], dataset)
    for point, alpha in enumerate((0.0, 0.3, 1.0)):
        expected = plain_losses(between([plain[first], plain[second]], [1.0 - alpha, alpha]), dataset)
        np.testing.assert_allclose(losses[point], expected, rtol=2e-6)


@pytest.mark.parametrize("kind", ["lora", "head", "bias", "dora"])
@pytest.mark.parametrize("trainable", [False, True])
def test_adapters_in_memory_are_measured_and_left_alone(adapters, tmp_path, kind, trainable):
    # A model that was loaded to be used has nothing that needs gradients, and its new head still lies on the path.
    plain = adapters(kind)

    def load(name):
        base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        return PeftModel.from_pretrained(base, tmp_path / name, is_trainable=trainable)

    first, second = load("a"), load("b")
    before = [{n: p.detach().clone() for n, p in m.state_dict().items()} for m in (first, second)]
    wanted = [[p.requires_grad for p in m.parameters()] for m in (first, second)]
    dataset = make_rows("bert")
    pairs = [(first, second, "ab"), (second, first, "ba")]
    if kind != "bias":  # PEFT keeps no copy of a base's biases that an adapter trained
        pairs.append((plain["base"], first, ("base", "a")))
    for start, end, names in pairs:
        losses = measured(start, end, dataset)
        for point, alpha in enumerate((0.0, 0.3, 1.0)):
            expected = plain_losses(between([plain[n] for n in names], [1.0 - alpha, alpha]), dataset)
            np.testing.assert_allclose(losses[point], expected, rtol=2e-6)
    for model, state, flags in zip((first, second), before, wanted, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == flags


def test_an_adapter_on_one_base_needs_no_second_model(adapters, tmp_path):
    # The promise of 1.15 times one model.
    adapters("lora")
    ends = open_ends(str(tmp_path / "base"), str(tmp_path / "a"), LoadOptions())
    assert isinstance(ends, AdapterEnds)
    ends = open_ends(str(tmp_path / "b"), f"{tmp_path / 'base'}+{tmp_path / 'a'}", LoadOptions())
    assert isinstance(ends, AdapterEnds)
    adapters("dora")
    assert isinstance(open_ends(str(tmp_path / "base"), str(tmp_path / "a"), LoadOptions()), WeightEnds)


def test_an_adapter_on_another_base_is_refused(adapters, make_model, tmp_path):
    # The sum of one model's weights and another's differences is neither.
    adapters("lora")
    make_model("bert", seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"trained on {tmp_path / 'base'}, not on {tmp_path / 'other'}: give"):
        ConnectivityEvaluator(tmp_path / "other", f"{tmp_path / 'other'}+{tmp_path / 'a'}")
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "other")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="The other end is on another base"):
        ConnectivityEvaluator(other, PeftModel.from_pretrained(base, tmp_path / "a"))
    with pytest.raises(ValueError, match="adapters share a path on one base only"):
        ConnectivityEvaluator(tmp_path / "other", tmp_path / "a")
    with pytest.raises(ValueError, match="holds no adapter"):
        ConnectivityEvaluator(tmp_path / "base", f"{tmp_path / 'base'}+{tmp_path / 'other'}")


def test_a_curve_between_adapters_is_refused(adapters, tmp_path):
    adapters("lora")
    evaluator = ConnectivityEvaluator(tmp_path / "base", tmp_path / "a")
    with pytest.raises(NotImplementedError, match="merge each adapter into its base"):
        evaluator.evaluate(make_rows("bert"), path=[str(tmp_path / "base")])


# Saved points


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_saved_point_gives_the_measured_loss_with_plain_transformers(folders, tmp_path, alpha):
    # The model soup that is used is the one that was measured.
    _, stored = folders("vit")
    evaluator = ConnectivityEvaluator(*stored)
    result = evaluator.evaluate(make_rows("vit"), alphas=(0.0, 0.4, 1.0), num_resamples=20)
    evaluator.save_point(alpha, tmp_path / "point")
    model = ViTForImageClassification.from_pretrained(tmp_path / "point")
    index = result.alphas.tolist().index(alpha)
    np.testing.assert_allclose(plain_losses(model, make_rows("vit")), result.example_losses["data"][index], **CLOSE)
    card = (tmp_path / "point" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"alpha = {alpha:g}" in card
    with pytest.raises(FileExistsError, match="is not empty"):
        evaluator.save_point(alpha, tmp_path / "point")


def test_a_saved_point_of_adapters_is_an_ordinary_checkpoint(adapters, tmp_path):
    plain = adapters("head")
    evaluator = ConnectivityEvaluator(tmp_path / "b", tmp_path / "a")
    evaluator.save_point(0.3, tmp_path / "point")
    assert not (tmp_path / "point" / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "point")
    expected = plain_losses(between([plain["b"], plain["a"]], [0.7, 0.3]), make_rows("bert"))
    np.testing.assert_allclose(plain_losses(model, make_rows("bert")), expected, rtol=2e-6)
    np.testing.assert_allclose(measured(tmp_path / "b", tmp_path / "a", make_rows("bert"))[1], expected, rtol=2e-6)


def test_statistics_of_a_saved_batchnorm_point_are_estimated_anew(make_model, tmp_path):
    # Interpolated ones fit no point.
    start, end = make_model("resnet", seed=1), make_model("resnet", seed=2)
    generator = torch.Generator().manual_seed(0)
    rows = datasets.Dataset.from_dict(
        {"pixel_values": torch.randn(8, 3, 32, 32, generator=generator).tolist(), "labels": [0, 1, 2, 3] * 2}
    )
    evaluator = ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=rows)
    result = evaluator.evaluate(rows, num_points=3, num_resamples=20)
    evaluator.save_point(0.5, tmp_path / "point")
    model = load_model(tmp_path / "point")
    np.testing.assert_allclose(plain_losses(model, rows), result.example_losses["data"][1], **CLOSE)


def test_a_disk_that_fills_up_leaves_nothing_behind(folders, tmp_path, monkeypatch):
    # Half a checkpoint loads with a warning.
    _, stored = folders("bert")
    evaluator = ConnectivityEvaluator(*stored)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_cbft.connectivity.evaluator.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        evaluator.save_point(0.5, tmp_path / "out" / "point")
    assert list((tmp_path / "out").iterdir()) == []


def test_remote_code_runs_only_when_asked_for(folders, tmp_path, caplog):
    # A checkpoint is data until its user says otherwise.
    _, stored = folders("bert")
    config = AutoConfig.from_pretrained(stored[1])
    config.architectures = ["OwnClassifier"]
    config.save_pretrained(stored[1])
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="names the class OwnClassifier"):
        ConnectivityEvaluator(*stored)
