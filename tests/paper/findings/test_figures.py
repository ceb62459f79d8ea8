# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of runs: what is drawn into the axes, and the files."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from paper.findings.figures import _path_panel, _share_line, draw_map, draw_records, run_figures
from paper.findings.records import accuracy
from paper.findings.statistics import mean_interval


@pytest.fixture
def panel():
    return Figure().subplots()


def one_pair(record):
    return record["method"] == "pretrained" or record["path"]["pair"] == "cue-cbft"


@pytest.mark.parametrize(
    ("experiment", "change", "names"),
    [
        ("table1", None, [""]),
        ("groups", None, [""]),
        ("ablation", None, [""]),
        ("sensitivity", None, ["", "-learning_rate-invariance_coef"]),
        ("paths", one_pair, ["-loss", "-accuracy"]),
        ("symmetry", one_pair, ["-loss", "-accuracy"]),
    ],
)
def test_each_experiment_has_its_pictures(make_run, experiment, change, names):
    run = make_run(experiment, seeds=(0, 1), change=change)
    pictures = run_figures(run)
    assert [shown.file.name for shown in pictures] == [f"{run.folder.name}-0.9{name}.png" for name in names]
    for shown in pictures:
        png = shown.file.read_bytes()
        assert len(png) < 150_000, "a page of them is to stay light"
        assert png.startswith(b"\x89PNG")
        assert "share 0.9" in shown.alt


def test_pictures_over_shares_are_the_same_bytes_each_time(make_run):
    """Otherwise every regenerated page is a change in version control."""

    def few(record):
        return record["method"] in ("pretrained", "cbft")

    run = make_run(shares=(0.8, 0.9), change=few)
    first, second = ([shown.file.read_bytes() for shown in run_figures(run)] for _ in range(2))
    assert run_figures(run)[0].file.name == "table1-digits-vit-over-shares.png"
    assert first == second


def test_nothing_is_drawn_of_nothing(make_run):
    assert run_figures(make_run(change=lambda record: False)) == []
    for experiment in ("ablation", "sensitivity", "paths"):
        run = make_run(experiment, change=lambda record: record["method"] == "pretrained")
        assert run_figures(run) == []


def test_bars_are_means_with_their_intervals_and_hatches(make_run, panel):
    """Told apart by colour alone they are the same in print."""
    run = make_run()
    groups = {method: run.select(method=method) for method in ("pretrained", "cbft")}
    bars = {part: ("blue", accuracy(part)) for part in ("no_cue", "rand_cue", "rand_input")}
    draw_records(panel, groups, bars)
    heights = [bar.get_height() for bar in panel.patches]
    expected = [
        100 * np.mean([record["accuracy"][part] for record in records]) for part in bars for records in groups.values()
    ]
    assert heights == pytest.approx(expected)
    assert len({bar.get_hatch() for bar in panel.patches}) == 3
    ends = panel.collections[0].get_segments()[0][:, 1]
    estimate = mean_interval([record["accuracy"]["no_cue"] for record in groups["pretrained"]])
    assert ends == pytest.approx([100 * estimate.low, 100 * estimate.high])
    assert panel.get_ylabel() == "accuracy (%)"
    assert [label.get_text() for label in panel.get_xticklabels()] == list(groups)


def test_a_bar_that_does_not_apply_says_so_and_one_seed_has_no_interval(make_run, panel):
    """A bar of height 0 would be read as an accuracy of 0."""
    run = make_run(seeds=(0,))
    draw_records(panel, {"cbft": run.select(method="cbft"), "none": []}, {"NC": ("blue", accuracy("no_cue"))})
    assert [text.get_text() for text in panel.texts] == ["n/a"]
    assert not panel.collections


def test_a_map_has_each_number_in_its_cell(panel):
    draw_map(panel, [[91.04, 10.0], [None, 55.5]], ["a", "b"], ["RC (%)", "RI (%)"])
    shown = {text.get_position(): text.get_text() for text in panel.texts}
    assert shown == {(0, 0): "91.0", (1, 0): "10.0", (0, 1): "n/a", (1, 1): "55.5"}
    assert [text.get_color() for text in panel.texts] == ["white", "black", "black", "white"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b"]


def test_curves_have_a_band_over_seeds_and_two_kinds_of_line(make_run, panel):
    run = make_run("paths")
    records = [record for record in run.records if record.get("path") and record["path"]["pair"] == "cue-cbft"]
    _path_panel(panel, records, "loss", "cue", 1.0)
    assert [(line.get_label(), line.get_linestyle()) for line in panel.lines] == [("linear", "-"), ("quadratic", "--")]
    linear = [record["path"]["loss"]["cue"] for record in records if record["path"]["kind"] == "linear"]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), np.mean(linear, axis=0))
    estimate = mean_interval([curve[5] for curve in linear])
    band = panel.collections[0].get_paths()[0].vertices
    at_middle = sorted(set(band[np.isclose(band[:, 0], 0.5), 1]))
    assert (at_middle[0], at_middle[-1]) == pytest.approx((estimate.low, estimate.high))


def test_a_line_over_shares_skips_those_it_has_not(make_run, panel):
    run = make_run(
        shares=(0.6, 0.9, 1.0), change=lambda record: not (record["method"] == "dfr" and record["share"] == 1.0)
    )
    _share_line(panel, run, "dfr", "no_cue", 6)
    assert list(panel.lines[0].get_xdata()) == [0.6, 0.9]
    assert len(panel.collections) == 0
    _share_line(panel, run, "cbft", "no_cue", 7)
    assert len(panel.collections) == 1, "the interval of cbft"
