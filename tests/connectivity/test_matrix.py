# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""All pairs of several checkpoints: the figures of the pairs, at the least cost, and clusters that hold."""

import json
import logging
from itertools import combinations
from xml.etree import ElementTree

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from transformers import (
    PreTrainedModel,
    ResNetForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_cbft import ConnectivityEvaluator
from hf_cbft.analysis.barriers import Barrier
from hf_cbft.connectivity.batches import BatchRunner
from hf_cbft.connectivity.matrix import MatrixEvaluator, connectivity_matrix, short_names
from hf_cbft.connectivity.matrix_results import MatrixResult, clusters
from hf_cbft.connectivity.results import ConnectivityResult
from hf_cbft.connectivity.soups import Soup, soup_card
from hf_cbft.paths.interpolation import named_weights
from hf_cbft.tasks.classification import Classification

ROWS, BATCH = 8, 4
OPTIONS = {"num_points": 4, "num_resamples": 20}


def make_rows(seed=0, rows=ROWS, size=8):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, size, size, generator=generator)
    labels = [index % 4 for index in range(rows)]
    return datasets.Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": labels})


@pytest.fixture(scope="module")
def sets():
    return {"plain": make_rows(0), "cue": make_rows(1)}


@pytest.fixture
def folders(make_model, tmp_path):
    """`folders(name, number)`: checkpoints of other weights, in folders called a, b, c, ..."""

    def make(name="vit", number=4):
        made = []
        for seed in range(1, number + 1):
            folder = tmp_path / "abcdef"[seed - 1]
            model = make_model(name, seed=seed)
            generator = torch.Generator().manual_seed(seed)
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("running_mean"):
                    buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            model.save_pretrained(folder)
            made.append(str(folder))
        return made

    return make


@pytest.fixture
def passes_of_batches(monkeypatch):
    """How many batches the model has seen: `["count"]`; a failure after `["fail_after"]` of them."""
    state = {"count": 0, "fail_after": None}
    measure = Classification.outputs

    def counting(self, model, batch):
        if state["count"] == state["fail_after"]:
            raise KeyboardInterrupt
        state["count"] += 1
        return measure(self, model, batch)

    monkeypatch.setattr(Classification, "outputs", counting)
    return state


def batches(number, points=4, of_sets=2):
    """Batches of a whole matrix: each checkpoint once, and what lies between each pair."""
    return (number + number * (number - 1) // 2 * (points - 2)) * of_sets * (ROWS // BATCH)


def assert_same(first, second):
    assert first.to_dict() == second.to_dict()
    assert first.pairs.keys() == second.pairs.keys()
    for key, pair in first.pairs.items():
        assert pair.to_dict() == second.pairs[key].to_dict()
        for part, losses in pair.example_losses.items():
            np.testing.assert_array_equal(losses, second.pairs[key].example_losses[part])


# The figures


def test_every_pair_is_what_the_evaluator_gives_for_it(folders, sets):
    """The short cuts (one live model, shared ends) would show as other figures."""
    checkpoints = folders()
    matrix = connectivity_matrix(checkpoints, sets, batch_size=BATCH, **OPTIONS)
    assert matrix.names == ["a", "b", "c", "d"]
    assert matrix.settings["on"] == "cue"
    for i, j in combinations(range(4), 2):
        alone = ConnectivityEvaluator(checkpoints[i], checkpoints[j], batch_size=BATCH).evaluate(sets, **OPTIONS)
        for part in sets:
            np.testing.assert_allclose(
                matrix.pairs[i, j].example_losses[part], alone.example_losses[part], rtol=0, atol=1e-12
            )
            np.testing.assert_array_equal(matrix.pairs[i, j].predictions[part], alone.predictions[part])
        assert matrix.pairs[i, j].settings == alone.settings
        assert abs(matrix.heights[i, j] - alone.barriers["cue"].height) <= 1e-12
        assert matrix.heights[j, i] == matrix.heights[i, j]
        assert matrix.verdicts[i, j] is matrix.verdicts[j, i] is alone.barriers["cue"].connected
        assert matrix.barrier(matrix.names[j], matrix.names[i]) == matrix.pairs[i, j].barriers["cue"]
        assert abs(matrix.losses["plain"][j] - alone.losses["plain"][-1]) <= 1e-12
        assert matrix.metrics["cue"]["accuracy"][i] == alone.metrics["cue"]["accuracy"][0]
    assert len(set(matrix.losses["cue"].tolist())) == 4
    np.testing.assert_array_equal(np.diag(matrix.heights), 0.0)


def test_batchnorm_is_calibrated_as_for_a_pair(folders):
    """Interpolated running statistics would make barriers of their own."""
    checkpoints = folders("resnet", 3)
    rows, calibration = make_rows(0, size=32), make_rows(5, size=32)
    options = {"batch_size": BATCH, "calibration_dataset": calibration}
    matrix = MatrixEvaluator(checkpoints, **options).evaluate(rows, num_points=3, num_resamples=20)
    uncalibrated = MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(rows, num_points=3, num_resamples=20)
    for i, j in combinations(range(3), 2):
        alone = ConnectivityEvaluator(checkpoints[i], checkpoints[j], **options)
        losses = alone.evaluate(rows, num_points=3, num_resamples=20).example_losses["data"]
        np.testing.assert_allclose(matrix.pairs[i, j].example_losses["data"], losses, rtol=0, atol=1e-12)
        assert not np.allclose(uncalibrated.pairs[i, j].losses["data"][1], matrix.pairs[i, j].losses["data"][1])


def test_what_is_missing_for_batchnorm_is_said_once(folders, caplog):
    """A warning for each of many pairs is read by nobody."""
    evaluator = MatrixEvaluator(folders("resnet", 3), batch_size=BATCH)
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate(make_rows(size=32), num_points=3, num_resamples=20)
    assert caplog.text.count("no calibration_dataset was given") == 1


def test_the_set_that_decides_can_be_chosen(folders, sets):
    """Verdicts on another set than the one that was asked about."""
    evaluator = MatrixEvaluator(folders(number=2), batch_size=BATCH)
    for on, expected in (("plain", "plain"), (None, "cue")):
        matrix = evaluator.evaluate(sets, on=on, **OPTIONS)
        assert matrix.settings["on"] == expected
        assert matrix.heights[0, 1] == matrix.pairs[0, 1].barriers[expected].height
    assert evaluator.evaluate(sets["plain"], **OPTIONS).settings["on"] == "data"


# What it costs


def test_each_checkpoint_is_loaded_once(folders, sets, monkeypatch):
    """Loading for each pair: for 10 checkpoints of 10 GB, 900 GB read rather than 100."""
    checkpoints = folders()
    loaded = []
    load = PreTrainedModel.from_pretrained.__func__

    def counting(cls, source, *args, **options):
        loaded.append(source)
        return load(cls, source, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counting))
    matrix = MatrixEvaluator(checkpoints, batch_size=BATCH)
    result = matrix.evaluate(sets, **OPTIONS)
    assert sorted(loaded) == checkpoints
    assert len(result.pairs) == 6
    assert all(weights._kept == {} for weights in matrix._stored.values())


def test_each_checkpoint_itself_is_measured_once(folders, sets, passes_of_batches):
    """The ends of all pairs are N models, not N (N - 1)."""
    MatrixEvaluator(folders(), batch_size=BATCH).evaluate(sets, **OPTIONS)
    assert passes_of_batches["count"] == batches(4)


def test_the_live_model_is_what_it_was(folders, sets, passes_of_batches):
    """A point that stays written would make the next pair start elsewhere."""
    checkpoints = folders(number=3)
    evaluator = MatrixEvaluator(checkpoints, batch_size=BATCH)
    evaluator.evaluate(sets, **OPTIONS)
    passes_of_batches["fail_after"] = passes_of_batches["count"] + 15
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(sets, **OPTIONS)
    expected = named_weights(ViTForImageClassification.from_pretrained(checkpoints[0]))
    assert all(torch.equal(weight, expected[name]) for name, weight in named_weights(evaluator.model).items())


# Going on


def test_an_interrupted_matrix_goes_on_where_it_stopped(folders, sets, tmp_path, passes_of_batches):
    """Hours of measuring are lost, or the figures are others than without the interruption."""
    checkpoints = folders(number=3)
    expected = MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, **OPTIONS)
    assert passes_of_batches["count"] == batches(3) == 36
    # In the middle of a point of the second pair: what is whole is kept, 4 points of the first and 2 of it.
    passes_of_batches.update(count=0, fail_after=26)
    with pytest.raises(KeyboardInterrupt):
        MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, resume_dir=tmp_path / "points", **OPTIONS)
    passes_of_batches.update(count=0, fail_after=None)
    evaluator = MatrixEvaluator(checkpoints, batch_size=BATCH)
    result = evaluator.evaluate(sets, resume_dir=tmp_path / "points", **OPTIONS)
    assert passes_of_batches["count"] == 36 - 6 * 4
    assert_same(result, expected)


def test_what_is_all_there_is_not_measured_again(folders, sets, tmp_path, passes_of_batches, monkeypatch):
    """A finished matrix costs one reading of the data, which might have changed, and not one for each pair."""
    checkpoints = folders(number=3)
    folder = tmp_path / "points"
    expected = MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, resume_dir=folder, **OPTIONS)
    passes_of_batches["count"] = 0
    read = []
    run = BatchRunner._on_all_ranks
    monkeypatch.setattr(
        BatchRunner, "_on_all_ranks", lambda self, rows, what, *f: read.append(what) or run(self, rows, what, *f)
    )
    result = MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, resume_dir=folder, **OPTIONS)
    assert passes_of_batches["count"] == 0
    assert read == ["the data set 'plain'", "the data set 'cue'"]
    assert_same(result, expected)


def test_a_checkpoint_more_costs_its_own_pairs(folders, sets, tmp_path, passes_of_batches):
    """Whoever adds a checkpoint behind the others would pay for all pairs again."""
    checkpoints = folders()
    folder = tmp_path / "points"
    MatrixEvaluator(checkpoints[:3], batch_size=BATCH).evaluate(sets, resume_dir=folder, **OPTIONS)
    passes_of_batches["count"] = 0
    MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, resume_dir=folder, **OPTIONS)
    assert passes_of_batches["count"] == batches(4) - batches(3)


@pytest.mark.parametrize("changed", ["first", "last", "data", "points"])
def test_points_of_another_matrix_are_refused(make_model, folders, sets, tmp_path, changed):
    """Figures of two matrices in one."""
    checkpoints = folders(number=3)
    options = {**OPTIONS, "resume_dir": tmp_path / "points"}
    MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, **options)
    message = r"holds the points of another sweep \(.*weights was"
    if changed in ("first", "last"):
        make_model("vit", seed=9).save_pretrained(checkpoints[0 if changed == "first" else 2])
    elif changed == "data":
        sets = {**sets, "cue": make_rows(7)}
        message = "The data set 'cue' is not the same each time it is read"
    else:
        options["num_points"] = 5
        message = r"holds the points of another sweep \(alphas was"
    with pytest.raises(ValueError, match=message):
        MatrixEvaluator(checkpoints, batch_size=BATCH).evaluate(sets, **options)


# Clusters


def matrix_of(pairs, number, rest=0.9):
    """(N, N) heights and verdicts from those of some pairs; the others are not connected."""
    heights, verdicts = np.full((number, number), rest), np.full((number, number), False, dtype=object)
    np.fill_diagonal(heights, 0.0)
    np.fill_diagonal(verdicts, True)
    for (i, j), (height, verdict) in pairs.items():
        heights[i, j] = heights[j, i] = height
        verdicts[i, j] = verdicts[j, i] = verdict
    return heights, verdicts


@pytest.mark.parametrize(
    ("number", "pairs", "expected"),
    [
        (2, {}, [[0], [1]]),
        (2, {(0, 1): (-0.3, True)}, [[0, 1]]),
        (2, {(0, 1): (0.02, None)}, [[0], [1]]),
        # A chain: its ends are not connected.
        (3, {(0, 1): (0.05, True), (1, 2): (0.01, True)}, [[0], [1, 2]]),
        (3, {(0, 1): (0.01, True), (1, 2): (0.05, True), (0, 2): (0.03, None)}, [[0, 1], [2]]),
        (3, {(0, 1): (0.05, True), (1, 2): (0.01, True), (0, 2): (0.09, True)}, [[0, 1, 2]]),
        # Two pairs, whatever the order in which they were given.
        (4, {(0, 3): (0.0, True), (1, 2): (0.0, True)}, [[0, 3], [1, 2]]),
        (4, {(0, 3): (0.0, True), (1, 2): (0.0, True), (0, 1): (0.01, True)}, [[0, 3], [1, 2]]),
        # A barrier that is low for want of data only.
        (3, {(0, 1): (0.0, None), (1, 2): (0.0, None), (0, 2): (0.0, None)}, [[0], [1], [2]]),
        # The tolerance is the caller's: what counts is the verdict.
        (3, {(0, 1): (5.0, True), (1, 2): (4.0, True), (0, 2): (3.0, True)}, [[0, 1, 2]]),
    ],
)
def test_clusters_hold_only_connected_pairs(number, pairs, expected):
    """Averaging a cluster would go across a barrier."""
    heights, verdicts = matrix_of(pairs, number)
    found, order = clusters(heights, verdicts)
    assert found == expected
    assert sorted(order) == list(range(number))
    assert clusters(heights, verdicts) == (found, order)


def test_random_verdicts_give_clusters_that_hold():
    """For any verdicts: members are connected pair by pair, and stand side by side."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        number = int(generator.integers(2, 9))
        pairs = {
            pair: (generator.uniform(-0.1, 0.2), [True, True, False, None][generator.integers(4)])
            for pair in combinations(range(number), 2)
        }
        heights, verdicts = matrix_of(pairs, number)
        found, order = clusters(heights, verdicts)
        assert sorted(member for members in found for member in members) == list(range(number))
        for members in found:
            assert all(verdicts[i, j] is True for i, j in combinations(members, 2))
            places = sorted(order.index(member) for member in members)
            assert places == list(range(places[0], places[0] + len(members)))


# Kept and shown


def hand_made(heights, verdicts, names="abcdef"):
    """A matrix whose barriers are given."""
    number = len(heights)
    pairs = {}
    for i, j in combinations(range(number), 2):
        barrier = Barrier(
            heights[i, j], 0.5, heights[i, j] - 0.1, heights[i, j] + 0.1, verdicts[i, j], "chord", 0.1, 0.95
        )
        losses = np.array([i, 0.5, j], dtype=float)
        pairs[i, j] = ConnectivityResult(
            alphas=np.array([0.0, 0.5, 1.0]),
            losses={"cue": losses},
            metrics={"cue": {"accuracy": 0.1 * losses}},
            barriers={"cue": barrier},
            error_barriers={},
            group_barriers={},
            example_losses={"cue": losses[:, None]},
            example_correct={"cue": losses[:, None]},
            weights={"cue": np.ones(1)},
            predictions={},
            references={},
            groups={},
            settings={"start": names[i], "end": names[j], "path": "linear", "confidence": 0.95},
        )
    settings = {
        "checkpoints": [f"runs/{name}" for name in names[:number]],
        "on": "cue",
        "baseline": "chord",
        "num_points": 3,
        "tolerance": 0.1,
        "confidence": 0.95,
    }
    return MatrixResult.of_pairs(list(names[:number]), pairs, settings)


@pytest.fixture
def chain():
    pairs = {(0, 1): (-0.02, True), (1, 2): (0.03, True), (0, 3): (0.15, None), (1, 3): (0.01, True)}
    return hand_made(*matrix_of({**pairs, (2, 3): (0.02, True)}, 4))


def test_the_text_says_who_is_connected_and_what_is_not_known(chain):
    """What a user reads before deciding what to merge."""
    assert str(chain).splitlines() == [
        "barrier on 'cue' in nats (baseline: chord), of 4 checkpoints: 6 straight lines of 3 points, tolerance 0.1; "
        "no: not connected, ?: undecided",
        "          1          2         3         4      loss  accuracy  cluster",
        "1 a       -     -0.020     0.900 no  0.150 ?   0.000     0.000        1",
        "2 b  -0.020          -     0.030     0.010     1.000     0.100        1",
        "3 c   0.900 no   0.030         -     0.020     2.000     0.200        2",
        "4 d   0.150 ?    0.010     0.020         -     3.000     0.300        2",
        "Cluster 1: a and b; every pair is connected, with a barrier of at most -0.020.",
        "Cluster 2: c and d; every pair is connected, with a barrier of at most 0.020.",
        "Connected across clusters: b and c; b and d. Being connected is not transitive: in one cluster, some other "
        "pair would not be, or is undecided.",
        "Undecided: a and d (0.050 to 0.250). More examples would tell.",
        "Each verdict comes from the 95 % band of its own pair, not of all pairs together.",
    ]


def test_the_text_of_larger_and_smaller_clusters():
    """One alone, and the worst pair of three, are said as such."""
    pairs = {(0, 1): (0.01, True), (0, 2): (0.05, True), (1, 2): (0.02, True)}
    text = str(hand_made(*matrix_of(pairs, 4)))
    assert "Cluster 1: a, b and c; every pair is connected, with a barrier of at most 0.050 between a and c." in text
    assert "Cluster 2: d alone." in text
    assert "Undecided" not in text
    assert "across" not in text
    assert "own pair" not in str(hand_made(*matrix_of({}, 2)))


def test_a_matrix_survives_saving_and_loading(folders, sets, tmp_path):
    """What was measured for hours is read again, each pair with its examples."""
    matrix = MatrixEvaluator(folders(number=3), batch_size=BATCH).evaluate(sets, **OPTIONS)
    matrix.save(tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["matrix.json", "pairs"]
    assert sorted(path.name for path in (tmp_path / "kept" / "pairs").iterdir()) == ["0-1", "0-2", "1-2"]
    loaded = MatrixResult.load(tmp_path / "kept")
    assert_same(loaded, matrix)
    assert str(loaded) == str(matrix)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        matrix.save(tmp_path / "kept")


def test_to_dict_is_plain_json(chain):
    """A report in another language reads it; None is null, an undefined metric too."""
    chain.metrics["cue"]["accuracy"][1] = np.nan
    data = json.loads(json.dumps(chain.to_dict(), allow_nan=False))
    assert data == chain.to_dict()
    assert data["schema_version"] == 1
    assert data["verdicts"][0] == [True, True, False, None]
    assert data["clusters"] == [["a", "b"], ["c", "d"]]
    assert data["metrics"]["cue"]["accuracy"][:2] == [0.0, None]
    assert data["barriers"][0] == {
        "start": "a",
        "end": "b",
        "height": -0.02,
        "alpha": 0.5,
        "low": -0.12000000000000001,
        "high": 0.08,
        "connected": True,
        "baseline": "chord",
        "tolerance": 0.1,
        "confidence": 0.95,
    }


def test_files_that_are_no_matrix_are_refused(chain, tmp_path):
    """A traceback out of the middle of a reader tells nobody what to do."""
    chain.save(tmp_path / "kept")
    file = tmp_path / "kept" / "matrix.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "schema_version": 99}))
    with pytest.raises(ValueError, match="holds a matrix of schema version 99, this version reads 1: measure again"):
        MatrixResult.load(tmp_path / "kept")
    file.write_text('{"schema_version": 1, "na')
    with pytest.raises(ValueError, match=r"matrix\.json is damaged: measure again"):
        MatrixResult.load(tmp_path / "kept")
    with pytest.raises(FileNotFoundError):
        MatrixResult.load(tmp_path)


def test_the_picture_shows_every_pair(chain, tmp_path):
    """Clusters side by side, the number of each pair, and hatching where nothing is decided."""
    chain.plot(tmp_path / "matrix.svg")
    with_none = (tmp_path / "matrix.svg").read_text()
    root = ElementTree.fromstring(with_none)
    assert root.tag.endswith("svg")
    comments = [line.strip() for line in with_none.splitlines() if line.strip().startswith("<!--")]
    texts = [comment.removeprefix("<!-- ").removesuffix(" -->") for comment in comments]
    assert texts.count("0.90") == texts.count("0.15") == 2
    assert texts.count("-0.02") == 2
    assert [text for text in texts if text in "abcd"] == chain.order * 2
    hand_made(*matrix_of({(0, 1): (0.0, True)}, 2)).plot(tmp_path / "sure.svg")
    assert "<pattern" in with_none
    assert "<pattern" not in (tmp_path / "sure.svg").read_text()


# The soup


@torch.no_grad()
def plain_loss(model, rows):
    pixels, labels = (torch.tensor(rows[name]) for name in ("pixel_values", "labels"))
    return F.cross_entropy(model.eval()(pixels).logits.double(), labels).item()


def averaged(files):
    states = [load_file(f"{folder}/model.safetensors") for folder in files]
    return {name: sum(state[name].double() for state in states) / len(states) for name in states[0]}


def test_a_soup_is_the_average_of_its_members_and_loads_with_transformers(folders, sets, tmp_path):
    """The checkpoint that is written is the one that was measured, and nothing but the average."""
    checkpoints = folders()
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    evaluator = MatrixEvaluator(checkpoints, processor, batch_size=BATCH)
    result = evaluator.evaluate(sets, tolerance=100.0, **OPTIONS)
    assert result.clusters == [["a", "b", "c", "d"]]
    # With the live model among the members, and without it.
    for members in (["a", "c", "d"], ["b", "c", "d"]):
        folder = tmp_path / "".join(members)
        soup = evaluator.soup(result, members, folder, sets)
        expected = averaged([tmp_path / name for name in members])
        stored = load_file(folder / "model.safetensors")
        assert stored.keys() == expected.keys()
        for name, tensor in stored.items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)
        model = ViTForImageClassification.from_pretrained(folder)
        for part, rows in sets.items():
            assert soup.losses[part] == pytest.approx(plain_loss(model, rows), rel=1e-6)
        assert soup.metrics["cue"].keys() == {"accuracy"}
        assert json.loads((folder / "soup.json").read_text()) == soup.to_dict()
        assert ViTImageProcessor.from_pretrained(folder).size == {"height": 8, "width": 8}
        card = (folder / "README.md").read_text()
        assert (
            f"The uniform average of the weights of 3 checkpoints, written by hf_cbft:\n\n- {tmp_path / members[0]}"
            in card
        )
        own = result.losses["cue"][[result.names.index(name) for name in members]]
        assert f"| cue | {soup.losses['cue']:.3f} | {own.min():.3f} | {own.max():.3f} |" in card
    expected = named_weights(ViTForImageClassification.from_pretrained(checkpoints[0]))
    assert all(torch.equal(weight, expected[name]) for name, weight in named_weights(evaluator.model).items())


def test_a_soup_has_batchnorm_statistics_of_the_calibration_data(folders, tmp_path):
    """Averaged running statistics belong to none of the averaged weights."""
    checkpoints = folders("resnet", 2)
    calibration = make_rows(5, size=32)
    options = {"batch_size": BATCH, "calibration_dataset": calibration}
    evaluator = MatrixEvaluator(checkpoints, **options)
    rows = make_rows(0, size=32)
    result = evaluator.evaluate(rows, num_points=3, num_resamples=20)
    soup = evaluator.soup(result, ["a", "b"], tmp_path / "soup", rows, across_barriers=True)
    # The middle of two is their soup, and is written by another way.
    ConnectivityEvaluator(*checkpoints, **options).save_point(0.5, tmp_path / "middle")
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("soup", "middle"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    model = ResNetForImageClassification.from_pretrained(tmp_path / "soup")
    assert soup.losses["data"] == pytest.approx(plain_loss(model, rows), rel=1e-6)
    assert soup.losses["data"] == pytest.approx(result.pairs[0, 1].losses["data"][1], rel=1e-5)


def test_a_soup_without_data_is_written_and_not_measured(folders, sets, tmp_path):
    """Whoever has no time for a pass still gets the checkpoint."""
    evaluator = MatrixEvaluator(folders(number=2), batch_size=BATCH)
    result = evaluator.evaluate(sets, tolerance=100.0, **OPTIONS)
    soup = evaluator.soup(result, ["a", "b"], tmp_path / "soup")
    assert soup.losses == soup.metrics == {}
    assert (tmp_path / "soup" / "model.safetensors").exists()
    assert "| set |" not in (tmp_path / "soup" / "README.md").read_text()


def test_no_soup_across_a_barrier_unless_asked_for(folders, sets, tmp_path):
    """The average of two that are not connected is worse than both, and nobody would know."""
    evaluator = MatrixEvaluator(folders(number=2), batch_size=BATCH)
    apart = evaluator.evaluate(sets, tolerance=-100.0, **OPTIONS)
    assert apart.verdicts[0, 1] is False
    with pytest.raises(ValueError, match=r"a and b are not connected on 'cue' \(barrier .* across_barriers=True"):
        evaluator.soup(apart, ["a", "b"], tmp_path / "soup", sets)
    assert not (tmp_path / "soup").exists()
    evaluator.soup(apart, ["a", "b"], tmp_path / "soup", sets, across_barriers=True)
    undecided = evaluator.evaluate(sets, tolerance=apart.heights[0, 1], **OPTIONS)
    assert undecided.verdicts[0, 1] is None
    with pytest.raises(ValueError, match="a and b are not known to be connected"):
        evaluator.soup(undecided, ["a", "b"], tmp_path / "other", sets)


def test_a_metric_called_loss_does_not_take_the_place_of_the_soups(folders, sets, tmp_path):
    def loss(predictions, references):
        return 99.0

    evaluator = MatrixEvaluator(folders(number=2), batch_size=BATCH, metrics=[loss])
    result = evaluator.evaluate(sets, **OPTIONS)
    soup = evaluator.soup(result, ["a", "b"], tmp_path / "soup", sets, across_barriers=True)
    assert soup.metrics == {name: {"loss": 99.0} for name in sets}
    assert all(0.0 < loss < 99.0 for loss in soup.losses.values())


def test_a_soup_of_batchnorm_without_calibration_warns(folders, tmp_path, caplog):
    rows = make_rows(size=32)
    evaluator = MatrixEvaluator(folders("resnet", 2), batch_size=BATCH)
    result = evaluator.evaluate({"cue": rows}, **OPTIONS)
    caplog.clear()
    evaluator.soup(result, ["a", "b"], tmp_path / "soup", rows, across_barriers=True)
    assert "no calibration_dataset was given" in caplog.text


def test_offloaded_weights_are_refused(folders, monkeypatch):
    # Writing a point into them changes nothing, without a word.
    load = ViTForImageClassification.from_pretrained.__func__

    def offloading(cls, *args, **options):
        model, found = load(cls, *args, **options)
        model.classifier.to("meta")
        return model, found

    checkpoints = folders(number=2)
    monkeypatch.setattr(ViTForImageClassification, "from_pretrained", classmethod(offloading))
    with pytest.raises(NotImplementedError, match=r"has classifier.weight offloaded or without values"):
        MatrixEvaluator(checkpoints)


def test_a_soup_that_cannot_be_made_is_refused_before_it_is_measured(folders, sets, tmp_path, passes_of_batches):
    """A pass for nothing, or somebody's files written over."""
    checkpoints = folders(number=3)
    evaluator = MatrixEvaluator(checkpoints[:2], batch_size=BATCH)
    result = evaluator.evaluate(sets, tolerance=100.0, **OPTIONS)
    other = MatrixEvaluator(checkpoints, batch_size=BATCH)
    passes_of_batches["fail_after"] = passes_of_batches["count"]
    with pytest.raises(ValueError, match="A soup of a is no average"):
        evaluator.soup(result, ["a"], tmp_path / "soup", sets)
    with pytest.raises(ValueError, match="There is no checkpoint 'z' in the matrix: it has a, b"):
        evaluator.soup(result, ["a", "z"], tmp_path / "soup", sets)
    with pytest.raises(ValueError, match="The result is that of other checkpoints"):
        other.soup(result, ["a", "b"], tmp_path / "soup", sets)
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        evaluator.soup(result, ["a", "b"], tmp_path / "soup", sets)


def test_the_card_of_a_soup_names_repositories_as_the_hub_wants_them():
    """The Hub draws the tree of a merged model from `base_model`, in which a revision has no place."""
    result = hand_made(*matrix_of({(0, 1): (0.01, True)}, 2))
    card = soup_card(Soup(["a", "b"], {"other": 0.25}, {}), ["org/a@v1", "org/b"], result)
    head, body = card.split("---\n")[1:]
    assert yaml.safe_load(head)["base_model"] == ["org/a", "org/b"]
    assert yaml.safe_load(head)["tags"] == ["hf_cbft", "merge"]
    assert "- org/a@v1\n- org/b\n" in body
    assert "is 0.010 nats (95 % band up to 0.110; up to 0.1 counts as connected)" in body
    assert "| other | 0.250 | - | - |" in body


# What is refused


def test_a_matrix_needs_two_checkpoints_and_each_once(folders, tmp_path):
    """A typing error in a list of ten is found before anything is loaded."""
    (checkpoint,) = folders(number=1)
    with pytest.raises(ValueError, match="needs at least two checkpoints, and 0 came"):
        MatrixEvaluator([])
    with pytest.raises(ValueError, match="needs at least two checkpoints, and 1 came"):
        MatrixEvaluator(checkpoint)
    with pytest.raises(ValueError, match=r"a/\.\./a is given twice: give each checkpoint once"):
        MatrixEvaluator([checkpoint, f"{checkpoint}/../a"])
    with pytest.raises(ValueError, match="org/name is given twice"):
        MatrixEvaluator(["org/name", checkpoint, "org/name"])
    with pytest.raises(TypeError, match=r"not from memory \(ViTForImageClassification\): save the model"):
        MatrixEvaluator([checkpoint, ViTForImageClassification.from_pretrained(checkpoint)])


def test_a_checkpoint_that_does_not_fit_is_named(make_model, folders, tmp_path):
    """Which of ten it is, and in what."""
    checkpoints = folders(number=3)
    make_model("bert").save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match=r"text cannot be interpolated with the model: vit\.\S+ is missing"):
        MatrixEvaluator([*checkpoints, tmp_path / "text"])
    make_model("vit", seed=8).half().save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match=r"is torch\.float32 in .*/a and torch\.float16 in .*/half.* with dtype="):
        MatrixEvaluator([*checkpoints, tmp_path / "half"])
    broken = make_model("vit", seed=8)
    broken.classifier.weight.data[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    for order in ([*checkpoints, tmp_path / "broken"], [tmp_path / "broken", *checkpoints]):
        with pytest.raises(ValueError, match=r"broken has NaN in classifier\.weight"):
            MatrixEvaluator(order)


def test_adapters_are_refused_by_name(folders, tmp_path):
    """Their line is not the one between their weights."""
    checkpoints = folders(number=2)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for source in (tmp_path / "adapter", f"{checkpoints[0]}+{tmp_path / 'adapter'}"):
        with pytest.raises(NotImplementedError, match="adapter is an adapter, and a matrix is measured between whole"):
            MatrixEvaluator([*checkpoints, source])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 2}, "num_points = 2: a barrier needs at least 3"),
        ({"on": "clue"}, "on = 'clue' is none of the data sets: give one of plain, cue"),
        ({"baseline": "median"}, "baseline 'median' is unknown"),
        ({"datasets": {}}, "datasets is an empty dict"),
    ],
)
def test_wrong_arguments_are_refused_before_the_sweep(folders, sets, passes_of_batches, options, message):
    """Minutes of measuring must not end in a sentence that could have come first."""
    evaluator = MatrixEvaluator(folders(number=2), batch_size=BATCH)
    passes_of_batches["fail_after"] = 0
    with pytest.raises(ValueError, match=message):
        evaluator.evaluate(**{"datasets": sets, **OPTIONS, **options})


def test_names_are_short_and_different():
    """A table of ten absolute paths fits no screen; two of one name would be one checkpoint to the reader."""
    assert short_names(["/runs/a", "/runs/b"]) == ["a", "b"]
    assert short_names(["/x/a/best", "/x/b/best", "org/other@v1"]) == ["a/best", "b/best", "org/other@v1"]
    assert short_names(["a", "x/a"]) == ["a", "x/a"]
    assert short_names(["/a", "x/a"]) == ["/a", "x/a"]


def test_classes_in_another_order_are_refused(make_model, tmp_path):
    # Each is measured with the first one's labels: the others would be wrong on every row.
    for index, names in enumerate(("abcd", "bacd")):
        model = make_model("vit", seed=index)
        model.config.id2label = dict(enumerate(names))
        model.save_pretrained(tmp_path / str(index))
    message = rf"Between {tmp_path}/0 and {tmp_path}/1, the classes stand in another order: a is 0 at the start and 1"
    with pytest.raises(ValueError, match=message):
        MatrixEvaluator([tmp_path / "0", tmp_path / "1"])
