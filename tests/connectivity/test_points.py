# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Sweeps that stop and go on: nothing is measured twice, and nothing of another sweep is taken over."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from transformers import default_data_collator

from hf_cbft import ConnectivityEvaluator
from hf_cbft.connectivity import batches
from hf_cbft.connectivity.points import Point, PointStore
from hf_cbft.tasks.classification import Classification
from hf_cbft.tasks.task import Scores, Task

ROWS = 10
BATCHES = 3  # of 4 rows


def make_rows(seed, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": index % 4} for index in range(rows)]


@pytest.fixture
def sweep(make_model, tmp_path):
    """`sweep(stop_after=None, ...)`: a sweep that keeps its points, and how many passes it took."""
    start, end = make_model("vit", seed=1), make_model("vit", seed=2)
    sets = {"no_cue": make_rows(1), "cue": make_rows(2)}

    def run(stop_after=None, num_points=5, data=None, other=None, folder=tmp_path / "points", batch_size=4, **options):
        passes = []

        def count(*_):
            if stop_after is not None and len(passes) == stop_after:
                raise KeyboardInterrupt
            passes.append(1)

        evaluator = ConnectivityEvaluator(other or start, end, batch_size=batch_size, **options)
        handle = evaluator.model.register_forward_pre_hook(count)
        try:
            result = evaluator.evaluate(data or sets, num_points=num_points, num_resamples=50, resume_dir=folder)
        except KeyboardInterrupt:
            result = None
        finally:
            handle.remove()
        return result, len(passes)

    return run


@pytest.mark.parametrize("stop_after", [0, 4, 6, 17, 29])
def test_an_interrupted_sweep_measures_only_what_is_missing(sweep, stop_after, tmp_path):
    # Hours of a sweep are lost, or a point of before and after do not belong together.
    whole, passes = sweep(folder=tmp_path / "other")
    assert passes == 5 * 2 * BATCHES
    assert sweep(stop_after=stop_after)[0] is None
    kept = len(list((tmp_path / "points").glob("point-*.safetensors")))
    assert kept == stop_after // (2 * BATCHES)
    resumed, passes = sweep()
    assert passes == (5 - kept) * 2 * BATCHES
    assert resumed.to_dict() == whole.to_dict()
    for name in ("no_cue", "cue"):
        assert np.array_equal(resumed.example_losses[name], whole.example_losses[name])
        assert np.array_equal(resumed.predictions[name], whole.predictions[name])
    again, passes = sweep()
    assert passes == 0
    assert again.to_dict() == whole.to_dict()


def test_points_of_another_sweep_are_refused(sweep, make_model, tmp_path):
    # Half of a path to one model and half of one to another.
    sweep()
    with pytest.raises(ValueError, match=r"another sweep \(alphas was \[.*; settings was .*\): name another folder"):
        sweep(num_points=4)
    with pytest.raises(ValueError, match=r"another sweep \(weights was "):
        sweep(other=make_model("vit", seed=3))
    with pytest.raises(ValueError, match=r"another sweep \(rows was \{\"no_cue\": 10, \"cue\": 10\}"):
        sweep(data={"no_cue": make_rows(1), "cue": make_rows(2, rows=8)})
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds no sweep to go on with, and is not empty"):
        sweep(folder=tmp_path)


def test_rows_that_changed_since_are_refused(sweep):
    # As many rows, of other content: the points would not belong together, also where none is missing.
    sweep(stop_after=7)
    changed = {"no_cue": make_rows(1), "cue": make_rows(5)}
    with pytest.raises(ValueError, match="'cue' is not the same each time it is read: its rows changed"):
        sweep(data=changed)
    sweep()
    with pytest.raises(ValueError, match="'cue' is not the same each time it is read"):
        sweep(data=changed)


def test_a_damaged_point_is_measured_again(sweep, tmp_path):
    # A disk that was full, or a copy that was cut.
    whole, _ = sweep()
    file = tmp_path / "points" / "point-0002.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    resumed, passes = sweep()
    assert passes == 2 * BATCHES
    assert resumed.to_dict() == whole.to_dict()
    (tmp_path / "points" / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match=r"sweep.json is damaged: remove"):
        sweep()


def test_a_point_comes_back_as_it_was(tmp_path):
    # Language models have no predictions: what is missing must stay missing.
    scores = Scores(np.array([0.5, 1.5]), np.array([3.0, 1.0]), np.array([1.0, 0.0]), None, None)
    store = PointStore(tmp_path / "points", {"alphas": [0.0, 1.0]})
    assert store.load("point-0000") is None
    store.save("point-0000", Point({"a/b": scores}, {"a/b": "digest"}, 8))
    point = PointStore(tmp_path / "points", {"alphas": [0.0, 1.0]}).load("point-0000")
    assert point.digests == {"a/b": "digest"}
    assert point.batch_size == 8
    assert point.scores["a/b"].predictions is None
    assert point.scores["a/b"].losses.tolist() == [0.5, 1.5]
    assert json.loads((tmp_path / "points" / "sweep.json").read_text())["schema_version"] == 1


@pytest.mark.parametrize(("room", "times"), [(1 << 20, ROWS), (4 * 3 * 8 * 8 * 4, 5 * ROWS), (0, 5 * ROWS)])
def test_batches_are_made_once_where_there_is_room(make_model, monkeypatch, room, times):
    # Decoding the same images at each of eleven points takes longer than the model; keeping all of them, more memory.
    monkeypatch.setattr("hf_cbft.connectivity.batches._KEPT_BYTES", room)
    rows, seen = make_rows(1), []

    class Counted:
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            seen.append(index)
            return rows[index]

    dataset = Counted()
    start, end = make_model("vit", seed=1), make_model("vit", seed=2)
    evaluator = ConnectivityEvaluator(start, end, batch_size=4)
    expected = evaluator.evaluate(rows, num_points=5, num_resamples=20).to_dict()
    looked_at = len(dataset)
    result = evaluator.evaluate(dataset, num_points=5, num_resamples=20)
    assert result.to_dict() == expected
    # Columns and labels are looked at first, and the first rows are made twice; then each batch is made once.
    assert len(seen) - times - 2 * 4 in (looked_at, looked_at + 1, looked_at + 2)


def test_a_batch_that_does_not_fit_is_halved(sweep, make_model, monkeypatch, tmp_path):
    # The batch size of a training run is too large for an evaluation now and then; losing the sweep helps nobody.
    whole, _ = sweep()
    seen = []

    def crowded(self, model, batch):
        seen.append(len(batch["labels"]))
        if seen[-1] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return measure(self, model, batch)

    measure = Task.outputs
    monkeypatch.setattr(Task, "outputs", crowded)
    result, _ = sweep(folder=tmp_path / "halved", stop_after=None)
    assert seen[:4] == [4, 2, 2, 2]
    assert max(seen[1:]) == 2
    np.testing.assert_allclose(result.losses["cue"], whole.losses["cue"], rtol=1e-6)
    # A sweep that goes on starts with what fitted.
    seen.clear()
    (tmp_path / "halved" / "point-0003.safetensors").unlink()
    sweep(folder=tmp_path / "halved")
    assert set(seen) == {2}
    monkeypatch.setattr(Task, "outputs", lambda self, model, batch: crowded(self, model, {"labels": [0] * 3}))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        sweep(folder=tmp_path / "never")


def test_a_model_that_writes_into_its_batch_is_noticed(make_model):
    # Batches are kept from point to point: the second point would be measured on what the first one left.
    class Dimming(type(make_model("vit"))):
        def forward(self, pixel_values, **others):
            pixel_values.mul_(0.5)
            return super().forward(pixel_values, **others)

    start, end = (Dimming(make_model("vit").config) for _ in range(2))
    with pytest.raises(ValueError, match="'data' is not the same each time it is read"):
        ConnectivityEvaluator(start, end, batch_size=4).evaluate(make_rows(1), num_points=3)


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_model_that_reuses_the_memory_of_its_output_is_scored_right(make_model, monkeypatch, room):
    # Losses wait for a few batches; a CUDA graph writes each output to the same place.
    monkeypatch.setattr("hf_cbft.connectivity.batches._WAITING_BYTES", room)

    class Graph(type(make_model("vit"))):
        def forward(self, pixel_values, **others):
            output = super().forward(pixel_values, **others)
            if not hasattr(self, "place"):
                self.place = torch.empty_like(output.logits)
            output.logits = self.place.copy_(output.logits)
            return output

    plain, dataset = make_model("vit"), make_rows(1, rows=8)
    graph, other = Graph(plain.config), Graph(plain.config)
    graph.load_state_dict(plain.state_dict())
    result = ConnectivityEvaluator(graph, other, batch_size=4).evaluate(dataset, num_points=3, num_resamples=20)
    expected = ConnectivityEvaluator(plain, other, batch_size=4).evaluate(dataset, num_points=3, num_resamples=20)
    assert np.array_equal(result.example_losses["data"], expected.example_losses["data"])


def test_rows_that_do_not_fit_are_given_up_with_their_pass(make_model, monkeypatch):
    # Losses wait for a few batches; rows that waited with them would fill the memory.
    monkeypatch.setattr("hf_cbft.connectivity.batches._KEPT_BYTES", 0)
    alive, most = weakref.WeakSet(), []

    class Batch(dict):
        __hash__ = object.__hash__

    def collate(rows):
        most.append(len(alive))
        batch = Batch(default_data_collator(rows))
        alive.add(batch)
        return batch

    evaluator = ConnectivityEvaluator(make_model("vit"), make_model("vit"), batch_size=2, data_collator=collate)
    evaluator.evaluate(make_rows(1, rows=20), num_points=3, num_resamples=20)
    assert len(most) == 2 + 3 * 10
    assert max(most) <= 2


def test_nothing_of_a_pass_without_memory_is_alive_while_the_ranks_talk(make_model, monkeypatch):
    # The gathering needs memory of the device that has just run out of it.
    alive, seen = weakref.WeakSet(), []
    outputs, gather = Classification.outputs, batches.gather_objects

    def without_memory(self, model, batch):
        activation = torch.zeros(8)
        alive.add(activation)
        if len(batch["labels"]) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return outputs(self, model, batch)

    monkeypatch.setattr(Classification, "outputs", without_memory)
    monkeypatch.setattr(batches, "gather_objects", lambda value: seen.append(len(alive)) or gather(value))
    gc.disable()  # which may come late
    try:
        ConnectivityEvaluator(make_model("vit"), make_model("vit", seed=1), batch_size=4).evaluate(
            make_rows(1), num_points=3, num_resamples=20
        )
    finally:
        gc.enable()
    assert len(seen) > 3
    assert not any(seen)
