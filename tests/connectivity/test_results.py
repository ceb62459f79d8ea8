# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a result says of itself: groups, accuracy, the best point, and results of an earlier version."""

import json
from dataclasses import asdict

import datasets
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hf_cbft import ConnectivityEvaluator, ConnectivityResult, compute_barrier


def make_rows(rows=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return datasets.Dataset.from_dict(
        {
            "pixel_values": torch.randn(rows, 3, 8, 8, generator=generator).tolist(),
            "labels": [index % 4 for index in range(rows)],
            "place": [("water", "land", "Wüste")[index % 3] for index in range(rows)],
        }
    )


@pytest.fixture
def result(make_model):
    """Two sets with groups."""
    evaluator = ConnectivityEvaluator(
        make_model("vit", seed=1),
        make_model("vit", seed=2),
        batch_size=4,
        metrics=("accuracy", "worst_group_accuracy", "f1"),
    )
    sets = {"no_cue": make_rows(), "cue": make_rows(9, seed=1)}
    return evaluator.evaluate(sets, num_points=5, num_resamples=50, group_column="place", error_tolerance=0.2)


def test_each_group_has_a_barrier_of_its_own_rows(result):
    # A barrier for the minority alone is what a mean over all rows hides.
    for name, by_group in result.group_barriers.items():
        assert list(by_group) == ["Wüste", "land", "water"]
        for group, barrier in by_group.items():
            rows = [index for index, place in enumerate(result.groups[name]) if place == group]
            losses = result.example_losses[name][:, rows]
            expected = compute_barrier(result.alphas, losses, num_resamples=50, guess_loss=np.log(4))
            assert barrier == expected
    lines = str(result).splitlines()
    assert "barrier of each group, in nats:" in lines
    assert any(line.split()[:3] == ["cue", "land", "3"] for line in lines)


def test_worst_group_accuracy_is_that_of_the_worst_group(result):
    for name in ("no_cue", "cue"):
        for point in range(5):
            right = result.predictions[name][point] == result.references[name]
            accuracies = [right[result.groups[name] == group].mean() for group in ("water", "land", "Wüste")]
            assert result.metrics[name]["worst_group_accuracy"][point] == min(accuracies)


def test_the_error_barrier_is_that_of_the_errors(result):
    # A barrier of the loss without one in accuracy is a question of calibration.
    for name, barrier in result.error_barriers.items():
        errors = (result.predictions[name] != result.references[name]).astype(float)
        assert barrier == compute_barrier(result.alphas, errors, num_resamples=50, tolerance=0.2, errors=True)
        accuracy = result.metrics[name]["accuracy"]
        chord = (1 - result.alphas) * accuracy[0] + result.alphas * accuracy[-1]
        assert barrier.height == pytest.approx((chord - accuracy)[1:-1].max())


def test_the_best_point_is_the_best_of_the_grid(result):
    # The point that is saved and used.
    assert result.best_alpha("cue") == result.alphas[result.losses["cue"].argmin()]
    assert result.best_alpha("cue", "accuracy") == result.alphas[result.metrics["cue"]["accuracy"].argmax()]
    result.metrics["cue"]["f1"][:] = [np.nan, 0.1, 0.5, np.nan, 0.2]
    assert result.best_alpha("cue", "f1") == 0.5
    with pytest.raises(ValueError, match="There is no set 'clean': the result has no_cue, cue"):
        result.best_alpha("clean")
    with pytest.raises(ValueError, match="There is no metric 'recall' for cue: the result has loss, accuracy, worst"):
        result.best_alpha("cue", "recall")
    result.metrics["cue"]["f1"][:] = np.nan
    with pytest.raises(ValueError, match="The metric 'f1' of cue is undefined at every point"):
        result.best_alpha("cue", "f1")


def test_everything_comes_back_from_a_file(result, tmp_path):
    # Groups are text, which a file of tensors does not hold as such.
    result.save(tmp_path / "saved")
    loaded = ConnectivityResult.load(tmp_path / "saved")
    assert loaded.to_dict() == result.to_dict()
    assert str(loaded) == str(result)
    for kind in ("example_losses", "example_correct", "weights", "predictions", "references", "groups"):
        first, second = getattr(result, kind), getattr(loaded, kind)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["examples.safetensors", "result.json"]


def test_a_result_of_the_first_version_is_read(result, tmp_path):
    # Papers are written over months: an update must not lose what was measured.
    barriers = {name: asdict(barrier) for name, barrier in result.barriers.items()}
    data = {**result.to_dict(), "schema_version": 1, "barriers": barriers}
    del data["error_barriers"], data["group_barriers"]
    arrays = {}
    for kind in ("example_losses", "predictions", "references"):
        arrays.update({f"{kind}/{name}": values for name, values in getattr(result, kind).items()})
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "result.json").write_text(json.dumps(data))
    save_file(arrays, tmp_path / "old" / "examples.safetensors")
    loaded = ConnectivityResult.load(tmp_path / "old")
    assert loaded.barriers == result.barriers
    for name in ("no_cue", "cue"):
        assert np.array_equal(loaded.example_correct[name], result.example_correct[name])
        assert np.array_equal(loaded.weights[name], result.weights[name])
    assert "cue" in str(loaded)


def test_a_damaged_result_is_refused(result, tmp_path):
    # A traceback out of the JSON parser names no file.
    result.save(tmp_path / "saved")
    (tmp_path / "saved" / "result.json").write_text("[]")
    with pytest.raises(ValueError, match=r"result.json is damaged: measure again"):
        ConnectivityResult.load(tmp_path / "saved")


def test_points_are_those_of_the_caller(make_model):
    # The grid of another paper, or a closer look at one stretch.
    evaluator = ConnectivityEvaluator(make_model("vit", seed=1), make_model("vit", seed=2))
    grid = [0.0, 0.05, 0.1, 1.0]
    result = evaluator.evaluate(make_rows(), alphas=grid, num_resamples=20)
    assert result.alphas.tolist() == grid
    whole = evaluator.evaluate(make_rows(), num_points=21, num_resamples=20)
    assert result.losses["data"].tolist() == whole.losses["data"][[0, 1, 2, 20]].tolist()
    for wrong in ([0.0, 1.0], [0.1, 0.5, 1.0], [0.0, 0.5, 0.9], [0.0, 0.5, 0.5, 1.0], [0.0, 0.6, 0.5, 1.0]):
        with pytest.raises(ValueError, match=r"give at least 3 points in rising order, from 0\.0 to 1\.0"):
            evaluator.evaluate(make_rows(), alphas=wrong)


@pytest.mark.parametrize(
    ("column", "message"),
    [("colour", "'data' has no column 'colour'"), ("gaps", "[Rr]ow 3 .*gaps")],
)
def test_groups_that_are_not_there_are_named(make_model, column, message):
    # An empty group would be a mean over nothing.
    rows = make_rows().add_column("gaps", ["a", "b", "a", None] * 3)
    evaluator = ConnectivityEvaluator(make_model("vit", seed=1), make_model("vit", seed=2))
    with pytest.raises(ValueError, match=message):
        evaluator.evaluate(rows, group_column=column)


def test_an_unreadable_image_is_named(make_model, tmp_path):
    # One broken download among ten thousand files.
    from PIL import Image
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    for index in range(4):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / f"{i}.png") for i in range(4)], "label": [0, 1, 2, 3]})
    rows = rows.cast_column("image", datasets.Image())
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    evaluator = ConnectivityEvaluator(make_model("vit", seed=1), make_model("vit", seed=2), processor)
    with pytest.raises(ValueError, match="Row 2 of the data set 'data' cannot be read from its column 'image'"):
        evaluator.evaluate(rows)
