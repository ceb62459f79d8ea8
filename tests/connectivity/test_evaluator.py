# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics along a path: the right numbers, nothing changed, and a result that can be kept."""

import copy
import json
import logging
import random
import xml.etree.ElementTree as ElementTree

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_cbft import ConnectivityEvaluator, ConnectivityResult, compute_barrier
from hf_cbft.data.inputs import InputCollator

# Losses are float64 sums of float32 logits.
CLOSE = {"rtol": 1e-6, "atol": 0.0}


# What the tests measure with


def bits(tensor):
    return tensor.detach().clone().reshape(-1).view(torch.uint8)


def state_of(model):
    """Every bit of the model, and the mode of each of its modules."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: bits(tensor) for name, tensor in tensors.items()}, [module.training for module in model.modules()]


def assert_state(model, expected):
    tensors, modes = state_of(model)
    assert [name for name in expected[0] if not torch.equal(tensors[name], expected[0][name])] == []
    assert modes == expected[1]


def mix_modes(model):
    model.train()
    for index, module in enumerate(model.modules()):
        if index % 3 == 1:
            module.training = False


@pytest.fixture
def pair(make_model):
    """`pair(name)`: start and end, of other weights and, where there are any, other running statistics."""

    def make(name):
        models = make_model(name, seed=1), make_model(name, seed=2)
        for seed, model in enumerate(models):
            generator = torch.Generator().manual_seed(seed)
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("running_mean"):
                    buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
                elif buffer_name.endswith("running_var"):
                    buffer.add_(torch.rand(buffer.shape, generator=generator))
                elif buffer_name.endswith("num_batches_tracked"):
                    buffer.add_(3 + seed)
        return tuple(model.eval() for model in models)

    return make


def make_rows(name, rows=10, seed=0, shift=0.0):
    """A map-style data set of model inputs with labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = [(index + seed) % 4 for index in range(rows)]
    if name == "bert":
        input_ids = torch.randint(1, 50, (rows, 8), generator=generator)
        columns = {"input_ids": input_ids.tolist(), "attention_mask": torch.ones_like(input_ids).tolist()}
    else:
        size = 8 if name == "vit" else 32
        pixel_values = torch.randn(rows, 3, size, size, generator=generator) + shift
        columns = {"pixel_values": pixel_values.tolist()}
    return datasets.Dataset.from_dict({**columns, "labels": labels})


def in_batches(dataset, batch_size):
    rows = dataset.with_format(None)[:]
    for first in range(0, len(dataset), batch_size):
        yield {name: torch.tensor(values[first : first + batch_size]) for name, values in rows.items()}


@torch.no_grad()
def plain_losses(model, dataset, batch_size=4):
    """(N,) per-example losses and predictions of a model in eval mode: a loop without this library."""
    losses, predictions = [], []
    for batch in in_batches(dataset, batch_size):
        labels = batch.pop("labels")
        logits = model(**batch).logits
        losses += [
            -F.log_softmax(row.double(), dim=0)[label].item() for row, label in zip(logits, labels, strict=True)
        ]
        predictions += logits.argmax(dim=1).tolist()
    return np.array(losses), np.array(predictions)


def interpolated_model(start, end, alpha):
    """A fresh model whose state dict is interpolated in float64."""
    first, second = start.state_dict(), end.state_dict()
    model = copy.deepcopy(start)
    model.load_state_dict(
        {
            name: ((1.0 - alpha) * first[name].double() + alpha * second[name].double()).to(first[name].dtype)
            for name in first
        }
    )
    return model.eval()


@torch.no_grad()
def reestimate(model, dataset, batch_size=4):
    """BatchNorm statistics as averages over batches, from what enters each layer."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen = {layer: [] for layer in layers}
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args: seen[module].append((args[0].mean((0, 2, 3)), args[0].var((0, 2, 3), unbiased=True)))
        )
        for layer in layers
    ]
    for layer in layers:
        layer.train()
    for batch in in_batches(dataset, batch_size):
        model(pixel_values=batch["pixel_values"])
    for layer, handle in zip(layers, handles, strict=True):
        handle.remove()
        layer.eval()
        means, variances = zip(*seen[layer], strict=True)
        layer.running_mean.copy_(torch.stack(means).mean(0))
        layer.running_var.copy_(torch.stack(variances).mean(0))


def quick(evaluator, sets, num_points=5, **options):
    return evaluator.evaluate(sets, num_points=num_points, num_resamples=50, **options)


@pytest.fixture
def result(pair):
    """A result with two sets."""
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    return quick(evaluator, {"no_cue": make_rows("vit"), "cue": make_rows("vit", rows=7, seed=1)})


# The numbers


@pytest.mark.parametrize(
    ("name", "style"), [("vit", "torch"), ("vit", "lists"), ("vit", "rows"), ("bert", "torch"), ("bert", "lists")]
)
def test_losses_at_every_point_are_those_of_an_interpolated_model(pair, name, style):
    # The whole measurement: another path, other rows or another loss would show here.
    start, end = pair(name)
    dataset = make_rows(name)
    given = {"torch": dataset.with_format("torch"), "lists": dataset, "rows": list(dataset)}[style]
    result = quick(ConnectivityEvaluator(start, end, batch_size=4), given)
    assert result.alphas.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    for point, alpha in enumerate(result.alphas):
        losses, predictions = plain_losses(interpolated_model(start, end, alpha), dataset)
        np.testing.assert_allclose(result.example_losses["data"][point], losses, **CLOSE)
        np.testing.assert_allclose(result.losses["data"][point], losses.sum() / len(losses), **CLOSE)
        assert result.predictions["data"][point].tolist() == predictions.tolist()
        accuracy = np.mean(predictions == np.array(dataset["labels"]))
        assert result.metrics["data"]["accuracy"][point] == accuracy
    assert result.references["data"].tolist() == dataset["labels"]


def test_losses_of_a_batchnorm_model_use_statistics_estimated_anew(pair):
    # Interpolated statistics fit no point: part of the barrier would be theirs.
    start, end = pair("resnet")
    dataset, calibration = make_rows("resnet"), make_rows("resnet", rows=14, seed=5, shift=0.5)
    result = quick(ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=calibration), dataset)
    for point, alpha in enumerate(result.alphas):
        model = interpolated_model(start, end, alpha)
        stale, _ = plain_losses(model, dataset)
        if 0.0 < alpha < 1.0:
            reestimate(model, calibration)
        losses, predictions = plain_losses(model, dataset)
        np.testing.assert_allclose(result.example_losses["data"][point], losses, **CLOSE)
        assert result.predictions["data"][point].tolist() == predictions.tolist()
        assert np.allclose(losses, stale, rtol=1e-2) == (alpha in (0.0, 1.0))


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_the_ends_are_exactly_the_untouched_models(pair, name):
    # A barrier is the excess over the models that the user gave, not over rounded or recalibrated ones.
    start, end = pair(name)
    dataset = make_rows(name)
    calibration = make_rows("resnet", seed=5) if name == "resnet" else None
    result = quick(ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=calibration), dataset)
    for point, model in ((0, start), (-1, end)):
        expected = []
        for batch in in_batches(dataset, 4):
            labels = batch.pop("labels")
            with torch.no_grad():
                logits = model(**batch).logits
            expected.append(F.cross_entropy(logits.double(), labels, reduction="none").numpy())
        assert result.example_losses["data"][point].tolist() == np.concatenate(expected).tolist()


def test_a_model_against_itself_has_no_barrier(pair):
    # Start and end are one object here: writing one end moves the other.
    start, _ = pair("resnet")
    before = state_of(start)
    result = quick(ConnectivityEvaluator(start, start, batch_size=4), make_rows("resnet"))
    assert result.barriers["data"].height == 0.0
    assert result.barriers["data"].connected is True
    assert len(set(result.losses["data"].tolist())) == 1
    assert_state(start, before)


def test_barriers_come_from_the_losses_and_the_arguments(pair):
    # Another convention, level or seed than asked for.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    options = {"baseline": "max", "tolerance": 0.3, "confidence": 0.8, "num_resamples": 77, "seed": 3}
    result = evaluator.evaluate(make_rows("vit"), num_points=4, **options)
    # A guess among all classes is the least that rows nobody saw are taken to lie away.
    expected = compute_barrier(result.alphas, result.example_losses["data"], guess_loss=np.log(4), **options)
    assert result.barriers["data"] == expected
    for name, value in {**options, "num_points": 4, "path": "linear", "batch_size": 4}.items():
        assert result.settings[name] == value
    assert result.settings["start"] == result.settings["end"] == "ViTForImageClassification"


def test_dropout_is_off_whatever_the_modes(pair):
    # A model fresh from training is in training mode: its losses would be noise.
    start, end = pair("vit")
    expected = quick(ConnectivityEvaluator(start, end, batch_size=4), make_rows("vit")).to_dict()
    for model in (start, end):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
    assert quick(ConnectivityEvaluator(start, end, batch_size=4), make_rows("vit")).to_dict() == expected


def test_a_second_run_gives_the_same_result(pair):
    # The first run would have changed the models, or drawn from a generator.
    evaluator = ConnectivityEvaluator(
        *pair("resnet"), batch_size=4, calibration_dataset=make_rows("resnet", rows=8, seed=5)
    )
    first, second = (quick(evaluator, make_rows("resnet")) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert np.array_equal(first.example_losses["data"], second.example_losses["data"])


def test_end_points_from_folders(pair, tmp_path):
    # What a user has are checkpoints; the report names them.
    start, end = pair("vit")
    expected = quick(ConnectivityEvaluator(start, end, batch_size=4), make_rows("vit"))
    start.save_pretrained(tmp_path / "start")
    end.save_pretrained(tmp_path / "end")
    result = quick(ConnectivityEvaluator(tmp_path / "start", str(tmp_path / "end"), batch_size=4), make_rows("vit"))
    assert np.array_equal(result.example_losses["data"], expected.example_losses["data"])
    assert result.settings["start"] == str(tmp_path / "start")
    assert result.settings["end"] == str(tmp_path / "end")


# The sets and their batches


def test_one_data_set_is_called_data_and_several_keep_their_names(pair):
    # Each set under its own name, with its own rows.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    first, second = make_rows("vit"), make_rows("vit", rows=7, seed=1)
    assert list(quick(evaluator, first).losses) == ["data"]
    for sets in ({"cue": first, "no_cue": second}, datasets.DatasetDict({"cue": first, "no_cue": second})):
        result = quick(evaluator, sets)
        for part in (result.losses, result.metrics, result.barriers, result.example_losses, result.references):
            assert list(part) == ["cue", "no_cue"]
        assert result.example_losses["cue"].shape == result.predictions["cue"].shape == (5, 10)
        assert result.example_losses["no_cue"].shape == result.predictions["no_cue"].shape == (5, 7)
        assert np.array_equal(result.losses["cue"], quick(evaluator, first).losses["data"])
        assert np.array_equal(result.losses["no_cue"], quick(evaluator, second).losses["data"])


def test_columns_that_the_model_does_not_take_are_left_out(pair):
    # Data sets have ids, names and texts beside the inputs; labels may be called `label`.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    dataset = make_rows("vit")
    extra = dataset.rename_column("labels", "label").add_column("id", [f"row {i}" for i in range(10)])
    for given in (extra, list(extra)):
        assert quick(evaluator, given).to_dict() == quick(evaluator, dataset).to_dict()


def test_images_beside_the_model_inputs_are_not_decoded(pair):
    # Decoding at every point of the path would take most of the time; here it would fail as well.
    dataset = make_rows("vit")
    broken = dataset.add_column("image", [{"bytes": b"no image", "path": None}] * 10).cast_column(
        "image", datasets.Image()
    )
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    assert quick(evaluator, broken).to_dict() == quick(evaluator, dataset).to_dict()


def rows_per_batch(evaluator):
    """The sizes of the batches that the collator makes from now on."""
    sizes, collate = [], evaluator.measurer.collator

    def note(features):
        sizes.append(len(features))
        return collate(features)

    evaluator.measurer.collator = note
    return sizes


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"), [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [1])]
)
def test_a_last_batch_of_one_row_joins_the_one_before(pair, rows, batch_size, expected):
    # One row has no batch statistics: calibration would raise, or estimate a variance of nothing.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=batch_size)
    sizes = rows_per_batch(evaluator)
    dataset = make_rows("vit", rows=rows)
    result = quick(evaluator, dataset, num_points=3)
    assert sizes == 2 * expected[:1] + expected  # first rows are made twice, to see that they are the same
    assert result.references["data"].tolist() == dataset["labels"]


def test_calibration_with_one_row_left_over(pair):
    # 9 rows in batches of 4: the last one alone would have no variance in the deepest layer.
    calibration = make_rows("resnet", rows=9, seed=5)
    evaluator = ConnectivityEvaluator(*pair("resnet"), batch_size=4, calibration_dataset=calibration)
    sizes = rows_per_batch(evaluator)
    result = quick(evaluator, make_rows("resnet", rows=4), num_points=3)
    assert sizes == [4, 4] + [4] + [4, 5]  # twice to see that they are the same, the rows, the calibration
    assert np.isfinite(result.example_losses["data"]).all()


def test_batches_of_one_row_stay_batches_of_one_row(pair):
    # batch_size=1 is how rows of different lengths go without padding: a batch of two could not be stacked.
    rows = [
        {"input_ids": list(range(1, 4 + index)), "attention_mask": [1] * (3 + index), "labels": index % 4}
        for index in range(4)
    ]
    evaluator = ConnectivityEvaluator(*pair("bert"), batch_size=1)
    sizes = rows_per_batch(evaluator)
    result = quick(evaluator, rows, num_points=3)
    assert sizes == [1, 1] + 4 * [1]
    assert result.example_losses["data"].shape == (3, 4)


@pytest.mark.parametrize(("name", "calibrated"), [("resnet", True), ("resnet", False), ("vit", True), ("bert", False)])
def test_the_number_of_forward_passes(pair, name, calibrated):
    # A sweep costs points x sets x batches, one calibration pass a point however many sets, and nothing for LayerNorm.
    start, end = pair(name)
    calibration = make_rows(name, rows=6, seed=5) if calibrated else None
    evaluator = ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=calibration)
    passes = {"start": 0, "end": 0}
    start.register_forward_hook(lambda *_: passes.update(start=passes["start"] + 1))
    end.register_forward_hook(lambda *_: passes.update(end=passes["end"] + 1))
    quick(evaluator, {"a": make_rows(name, rows=10), "b": make_rows(name, rows=8), "c": make_rows(name, rows=3)})
    calibration_passes = 3 * 2 if name == "resnet" and calibrated else 0
    assert passes == {"start": 5 * (3 + 2 + 1) + calibration_passes, "end": 0}


def test_batchnorm_without_calibration_warns_once(pair, caplog):
    # The reader must know that part of the barrier may be stale statistics, but not five times.
    start, end = pair("resnet")
    dataset = make_rows("resnet")
    evaluator = ConnectivityEvaluator(start, end, batch_size=4)
    with caplog.at_level(logging.WARNING):
        result = quick(evaluator, {"a": dataset, "b": dataset})
    warnings = [record.getMessage() for record in caplog.records if "BatchNorm" in record.getMessage()]
    assert len(warnings) == 1
    assert "no calibration_dataset was given: interior points use interpolated" in warnings[0]
    losses, _ = plain_losses(interpolated_model(start, end, 0.25), dataset)
    np.testing.assert_allclose(result.example_losses["a"][1], losses, **CLOSE)


@pytest.mark.parametrize(("name", "calibrated"), [("resnet", True), ("vit", False)])
def test_no_warning_where_there_is_nothing_to_warn_of(pair, caplog, name, calibrated):
    # Warnings that are always there are not read.
    calibration = make_rows(name, rows=6, seed=5) if calibrated else None
    with caplog.at_level(logging.WARNING):
        quick(ConnectivityEvaluator(*pair(name), batch_size=4, calibration_dataset=calibration), make_rows(name))
    assert [record for record in caplog.records if record.name.startswith("hf_cbft")] == []


# Nothing changes


def failing_after(calls, function):
    """`function`, but the given call raises."""
    seen = []

    def wrapped(*args, **kwargs):
        seen.append(1)
        if len(seen) == calls:
            raise RuntimeError(f"call {calls}")
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("fails", [None, "forward", "calibration", "collator", "metric"])
@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_models_are_bit_for_bit_what_they_were(pair, name, fails):
    # An evaluator in the middle of training would change the run that it measures.
    start, end = pair(name)
    mix_modes(start)
    mix_modes(end)
    end.get_parameter(next(name for name, _ in end.named_parameters())).requires_grad_(False)
    trainable = [parameter.requires_grad for model in (start, end) for parameter in model.parameters()]
    before = state_of(start), state_of(end)
    options = {}
    if fails == "collator":
        options["data_collator"] = failing_after(4, InputCollator(start))
    if fails == "metric":
        options["metrics"] = [failing_after(3, lambda predictions, references: 0.5)]
    calibration = make_rows(name, rows=8, seed=5) if name == "resnet" else None
    evaluator = ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=calibration, **options)
    if fails in ("forward", "calibration"):
        # With calibration the passes are 3 (start), 2 (calibration), 3, 2, ...
        start.register_forward_pre_hook(failing_after(10 if fails == "calibration" else 7, lambda *_: None))
    if fails is None:
        quick(evaluator, make_rows(name))
    else:
        with pytest.raises(ValueError if fails == "metric" else RuntimeError, match="call"):
            quick(evaluator, make_rows(name))
    assert_state(start, before[0])
    assert_state(end, before[1])
    assert [p.requires_grad for model in (start, end) for p in model.parameters()] == trainable
    assert all(parameter.grad is None for model in (start, end) for parameter in model.parameters())


def test_momentum_survives_a_failing_calibration(pair):
    # Training afterwards would average its statistics in another way.
    start, end = pair("resnet")
    layers = [module for module in start.modules() if isinstance(module, nn.BatchNorm2d)]
    layers[0].momentum = 0.3
    momenta = [layer.momentum for layer in layers]
    calibration = make_rows("resnet", rows=8, seed=5)
    evaluator = ConnectivityEvaluator(start, end, batch_size=4, calibration_dataset=calibration)
    start.register_forward_pre_hook(failing_after(5, lambda *_: None))
    with pytest.raises(RuntimeError, match="call 5"):
        quick(evaluator, make_rows("resnet"))
    assert [layer.momentum for layer in layers] == momenta
    assert all(layer.track_running_stats for layer in layers)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_global_random_states_are_left_alone(pair, name):
    # A training run that evaluates now and then would draw other batches and dropout masks than one that does not.
    calibration = make_rows(name, rows=8, seed=5) if name == "resnet" else None
    evaluator = ConnectivityEvaluator(*pair(name), batch_size=4, calibration_dataset=calibration)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    quick(evaluator, make_rows(name))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# The result


def assert_same_result(loaded, result):
    assert loaded.to_dict() == result.to_dict()
    assert loaded.barriers == result.barriers
    assert np.array_equal(loaded.alphas, result.alphas)
    for kind in ("losses", "example_losses", "predictions", "references"):
        ours, theirs = getattr(loaded, kind), getattr(result, kind)
        assert list(ours) == list(theirs)
        for name in theirs:
            assert ours[name].dtype == theirs[name].dtype
            assert np.array_equal(ours[name], theirs[name])


def test_a_result_survives_saving_and_loading(result, tmp_path):
    # The numbers in a report come from the saved result.
    result.save(tmp_path / "deep" / "saved")
    assert_same_result(ConnectivityResult.load(tmp_path / "deep" / "saved"), result)
    assert str(ConnectivityResult.load(str(tmp_path / "deep" / "saved"))) == str(result)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_result_of_few_examples_can_be_saved(pair, tmp_path, rows):
    # A first try is made on a handful of rows; hours later the same line saves the result of all of them.
    result = quick(ConnectivityEvaluator(*pair("vit"), batch_size=4), make_rows("vit", rows=rows))
    assert "connected" in str(result)
    result.save(tmp_path / "saved")
    assert_same_result(ConnectivityResult.load(tmp_path / "saved"), result)


def test_saved_files_are_json_and_safetensors(result, tmp_path):
    # Loading somebody's result must not be able to run code.
    result.save(tmp_path / "saved")
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "examples.safetensors",
        "result.json",
    ]
    assert json.loads((tmp_path / "saved" / "result.json").read_text(encoding="utf-8")) == result.to_dict()
    arrays = load_file(tmp_path / "saved" / "examples.safetensors")
    assert np.array_equal(arrays["example_losses/cue"], result.example_losses["cue"])


def test_saving_into_a_folder_with_files_is_refused(result, tmp_path):
    # An older result would be overwritten, or mixed with this one.
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        result.save(tmp_path / "saved")
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    assert_same_result(ConnectivityResult.load(tmp_path / "empty"), result)


@pytest.mark.parametrize("version", [99, None])
def test_a_result_of_another_version_is_refused(result, tmp_path, version):
    # Fields that changed their meaning would be read with the old one.
    result.save(tmp_path / "saved")
    data = json.loads((tmp_path / "saved" / "result.json").read_text(encoding="utf-8"))
    data["schema_version"] = version
    (tmp_path / "saved" / "result.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=f"result of schema version {version}, this version reads 1 and 2"):
        ConnectivityResult.load(tmp_path / "saved")


def test_a_folder_without_a_result_is_refused(tmp_path):
    # An empty result would look like one without barriers.
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        ConnectivityResult.load(tmp_path)


def test_to_dict_is_plain_json(result):
    # Arrays or numpy numbers would fail when it is written.
    data = result.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["num_examples"] == {"no_cue": 10, "cue": 7}
    assert data["alphas"] == result.alphas.tolist()
    assert data["barriers"]["cue"]["height"] == result.barriers["cue"].height
    assert "example_losses" not in data


def test_to_pandas_has_a_row_for_each_set_and_point(result):
    # The table that users plot from.
    frame = result.to_pandas()
    assert list(frame.columns) == ["set", "alpha", "loss", "accuracy"]
    assert frame.index.tolist() == list(range(10))
    for name in ("no_cue", "cue"):
        part = frame[frame["set"] == name]
        assert part["alpha"].tolist() == result.alphas.tolist()
        assert part["loss"].tolist() == result.losses[name].tolist()
        assert part["accuracy"].tolist() == result.metrics[name]["accuracy"].tolist()


@pytest.mark.parametrize(("tolerance", "verdict"), [(1e6, "yes"), (-1e6, "no"), (None, "undecided")])
def test_the_text_shows_sets_verdicts_and_all_conventions(pair, tolerance, verdict):
    # Papers use three conventions: a number without its name cannot be compared.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4)
    sets = {"no_cue": make_rows("vit"), "cue": make_rows("vit", rows=7, seed=1)}
    first = quick(evaluator, {"cue": sets["cue"]})
    tolerance = first.barriers["cue"].height if tolerance is None else tolerance
    result = quick(evaluator, sets, tolerance=tolerance)
    lines = str(result).splitlines()
    assert lines[0] == (
        "linear path, 5 points, from ViTForImageClassification (alpha 0) to ViTForImageClassification (alpha 1)"
    )
    (row,) = (line.split() for line in lines[1:4] if line.startswith("cue "))
    assert row[1] == "7"
    assert row[-1] == verdict
    assert f"{result.barriers['cue'].height:.3f}" in row
    assert f"{result.losses['cue'][0]:.3f}" in row
    assert "95 % band" in lines[1]
    header = lines.index("barrier in nats, by convention; drop in accuracy, in points, with its band:") + 1
    assert lines[header].split() == ["set", "chord", "mean", "max", "accuracy", "drop", "95", "%", "band"]
    for line, name in zip(lines[header + 1 : -1], ("no_cue", "cue"), strict=True):
        heights = [compute_barrier(result.alphas, result.losses[name], b).height for b in ("chord", "mean", "max")]
        drop = 100 * result.error_barriers[name].height
        assert line.split()[:5] == [name, *(f"{height:.3f}" for height in heights), f"{drop:.1f}"]
    assert lines[-1] == "Each 95 % band holds for its own row, not for all rows together."


@pytest.mark.parametrize("metrics", [("accuracy",), ()])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_writes_a_picture(pair, tmp_path, suffix, metrics):
    # The picture is there whole or not at all, in the format of its suffix.
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4, metrics=metrics)
    result = quick(evaluator, {"cue": make_rows("vit"), "mine": make_rows("vit", rows=7, seed=1)})
    file = tmp_path / "figures" / f"path.{suffix}"
    result.plot(file)
    content = file.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert b"IEND" in content[-12:]
    else:
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    assert [other.name for other in file.parent.iterdir()] == [file.name]


# Metrics


def error_rate(predictions, references):
    return np.mean(predictions != references)


def test_a_users_metric_comes_under_its_own_name(pair):
    # It gets predictions and references of one point, in the order of the rows.
    seen = []

    def labels_seen(predictions, references):
        seen.append((predictions, references))
        return int(references.sum())

    dataset = make_rows("vit")
    evaluator = ConnectivityEvaluator(*pair("vit"), batch_size=4, metrics=("accuracy", error_rate, labels_seen))
    result = quick(evaluator, dataset)
    assert list(result.metrics["data"]) == ["accuracy", "error_rate", "labels_seen"]
    np.testing.assert_allclose(result.metrics["data"]["error_rate"], 1.0 - result.metrics["data"]["accuracy"])
    assert result.metrics["data"]["labels_seen"].tolist() == 5 * [sum(dataset["labels"])]
    for point, (predictions, references) in enumerate(seen):
        assert np.array_equal(predictions, result.predictions["data"][point])
        assert references.tolist() == dataset["labels"]
    assert list(result.to_pandas().columns) == ["set", "alpha", "loss", "accuracy", "error_rate", "labels_seen"]
    assert "error_rate at 0" in str(result)


def test_a_metric_that_is_undefined_somewhere_can_be_saved(pair, tmp_path):
    # Precision without a positive prediction is nan; a sweep must not be lost for it.
    def undefined(predictions, references):
        return float("nan")

    result = quick(ConnectivityEvaluator(*pair("vit"), batch_size=4, metrics=[undefined]), make_rows("vit"))
    result.save(tmp_path / "saved")
    assert np.isnan(ConnectivityResult.load(tmp_path / "saved").metrics["data"]["undefined"]).all()


# Errors


def without_labels(rows):
    return make_rows("vit", rows).remove_columns("labels")


def with_label(value):
    dataset = make_rows("vit")
    return dataset.remove_columns("labels").add_column("labels", dataset["labels"][:-1] + [value])


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        (make_rows("vit"), {"num_points": 2}, "num_points = 2: a barrier needs at least 3, both ends among them"),
        (make_rows("vit"), {"path": "bezier"}, "The path 'bezier' is unknown: \"linear\" is the straight line"),
        ({"cue": make_rows("vit"), "b": make_rows("vit").select([])}, {}, "The data set 'b' is empty"),
        (without_labels(4), {}, "The data set 'data' has no label column: it has pixel_values"),
        (with_label(4), {}, "The data set 'data' has the label 4, but the classes are 0 to 3"),
        (with_label(-100), {}, "The data set 'data' has the label -100, but the classes are 0 to 3"),
        (make_rows("vit").to_iterable_dataset(), {}, "rows cannot be drawn by number: give a map-style data set"),
        (make_rows("vit"), {"baseline": "median"}, "baseline 'median' is unknown: use one of chord, mean, max"),
        (make_rows("vit"), {"confidence": 1.0}, "confidence = 1.0 is not a level"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(pair, sets, options, message):
    # Each would otherwise give a number that means something else.
    start, end = pair("vit")
    mix_modes(start)
    before = state_of(start), state_of(end)
    evaluator = ConnectivityEvaluator(start, end, batch_size=4)
    with pytest.raises(ValueError, match=message):
        evaluator.evaluate(sets, **{"num_points": 3, **options})
    assert_state(start, before[0])
    assert_state(end, before[1])


@pytest.mark.parametrize("options", [{"baseline": "median"}, {"confidence": 1.0}, {"confidence": 95}])
def test_wrong_arguments_are_refused_before_the_sweep(pair, options):
    # A sweep over checkpoints of some size takes an hour; a typing error must not cost it.
    start, end = pair("vit")
    passes = []
    start.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match="|".join(options)):
        quick(ConnectivityEvaluator(start, end, batch_size=4), make_rows("vit"), **options)
    assert passes == []


def test_no_data_set_at_all_is_refused(pair):
    # An empty result has no barrier, which reads like "connected".
    with pytest.raises(ValueError, match="data"):
        quick(ConnectivityEvaluator(*pair("vit")), {})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size = 0: give at least 1"),
        ({"calibration_dataset": []}, ValueError, "calibration_dataset is empty"),
        ({"metrics": ["recall"]}, ValueError, r"The metric 'recall' is not built in \(accuracy, .* are\)"),
        ({"metrics": ["accuracy", "accuracy"]}, ValueError, "The metric 'accuracy' is given twice"),
        ({"metrics": [3]}, TypeError, "A metric is a name, an evaluate module or a function; got a int"),
    ],
)
def test_wrong_options_are_refused(pair, options, error, message):
    # Before anything is loaded or measured.
    with pytest.raises(error, match=message):
        ConnectivityEvaluator(*pair("vit"), **options)


def small_vit(**changes):
    return ViTForImageClassification(
        ViTConfig(
            **{
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "image_size": 8,
                "patch_size": 4,
                "num_labels": 4,
                **changes,
            }
        )
    )


@pytest.mark.parametrize(
    ("changes", "phrases"),
    [
        (
            {"num_labels": 3},
            ["classifier.weight has shape (3, 16), not (4, 16)", "classifier.bias has shape (3,), not (4,). "],
        ),
        ({"num_hidden_layers": 1}, [" is missing; vit.layers.1.", "and 13 more)"]),
        ({"num_hidden_layers": 3}, [" is not in the model; vit.layers.2.", "and 13 more)"]),
    ],
)
def test_end_points_of_other_sizes_are_refused_by_name(pair, changes, phrases):
    # A trimmed head or a layer left out gives a barrier of something else.
    start, _ = pair("vit")
    before = state_of(start)
    with pytest.raises(ValueError, match="The end point cannot be interpolated with the model") as raised:
        ConnectivityEvaluator(start, small_vit(**changes))
    message = str(raised.value)
    assert all(phrase in message for phrase in phrases)
    assert message.count("vit.layers.") == (3 if "num_hidden_layers" in changes else 0)
    assert_state(start, before)


def test_another_architecture_is_refused_by_name(make_model):
    # A ViT and a BERT have no path between them.
    with pytest.raises(ValueError, match=r"is missing; .* is missing; .* is missing \(and \d+ more\)"):
        ConnectivityEvaluator(make_model("vit"), make_model("bert"))


def test_one_class_a_row_is_refused_for_a_language_model(make_model):
    # Its labels are tokens: a class would be taken for one.
    start, end = make_model("gpt2", seed=1), make_model("gpt2", seed=2)
    before = state_of(start)
    rows = [{"input_ids": [1, 2, 3], "labels": index % 2, "attention_mask": [1, 1, 1]} for index in range(4)]
    message = r"GPT2LMHeadModel gives logits of shape \(4, 3, 50\) for labels of shape \(4,\)"
    with pytest.raises(NotImplementedError, match=message):
        quick(ConnectivityEvaluator(start, end, batch_size=4), rows)
    assert_state(start, before)


def test_classifiers_that_read_the_last_token_are_measured():
    # A decoder with a classification head is a classifier like any other, padding included.
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        num_labels=4,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    start, end = (GPT2ForSequenceClassification(config).eval() for _ in range(2))
    ids = [[1 + (7 * i + j) % 49 if j < 3 + i % 4 else 0 for j in range(6)] for i in range(8)]
    dataset = datasets.Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[int(t != 0) for t in row] for row in ids], "labels": [0, 1, 2, 3] * 2}
    )
    result = quick(ConnectivityEvaluator(start, end, batch_size=4), dataset, num_points=3)
    for point, alpha in enumerate((0.0, 0.5, 1.0)):
        losses, _ = plain_losses(interpolated_model(start, end, alpha), dataset)
        np.testing.assert_allclose(result.example_losses["data"][point], losses, **CLOSE)


def test_a_collator_that_drops_the_labels_is_refused(pair):
    # There is no loss without them.
    def no_labels(features):
        return {"pixel_values": torch.stack([torch.tensor(row["pixel_values"]) for row in features])}

    start, end = pair("vit")
    before = state_of(start)
    with pytest.raises(ValueError, match="made a batch without labels"):
        quick(ConnectivityEvaluator(start, end, data_collator=no_labels), make_rows("vit"))
    assert_state(start, before)


def test_a_loss_that_is_not_finite_is_refused(pair):
    # It would fail every comparison and read like "undecided"; and a sweep of hours would go on to its end.
    start, end = pair("vit")
    with torch.no_grad():
        end.classifier.bias[0] = float("inf")
    before = state_of(start)
    with pytest.raises(ValueError, match=r"The loss at alpha = 0\.25 is not finite on 'data'"):
        quick(ConnectivityEvaluator(start, end, batch_size=4), make_rows("vit"))
    assert_state(start, before)


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("stored", [False, True])
def test_nan_in_the_weights_is_named(pair, place, stored, tmp_path):
    # A model that diverged has no barrier, and the sweep would say so only when it comes there.
    models = dict(zip(("start", "end"), pair("vit"), strict=True))
    with torch.no_grad():
        models[place].vit.layernorm.weight[3] = float("nan")
    if stored:
        for name, model in models.items():
            model.save_pretrained(tmp_path / name)
            models[name] = tmp_path / name
    where = str(tmp_path / place) if stored else "ViTForImageClassification"
    with pytest.raises(ValueError, match=f"{where} has NaN in vit.layernorm.weight: its training diverged"):
        ConnectivityEvaluator(models["start"], models["end"])


def test_rows_of_images_without_a_processing_class_say_what_is_missing(pair):
    # The message of the model's forward would name an argument that the user never wrote.
    rows = [{"image": np.zeros((8, 8, 3), dtype=np.uint8), "label": index % 4} for index in range(4)]
    with pytest.raises(ValueError, match="pass the model's image processor or tokenizer as processing_class"):
        quick(ConnectivityEvaluator(*pair("vit")), rows)


def test_ends_in_different_dtypes_are_refused(make_model):
    # bfloat16 cannot hold a float32 end: alpha = 1 would not be the end.
    with pytest.raises(ValueError, match=r"is torch.bfloat16 at the start and torch.float32 at the end"):
        ConnectivityEvaluator(make_model("vit").bfloat16(), make_model("vit"))
