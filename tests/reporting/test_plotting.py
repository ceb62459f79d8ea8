# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures: what is drawn are the numbers, with units, inside the picture, and told apart without colour."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.training import dataset
from matplotlib.figure import Figure

from hf_cbft import CBFTConfig, CBFTTrainer, ConnectivityEvaluator
from hf_cbft.reporting.plotting import logged, plot_training

HOSTILE = "$\\frac{$ <b>\nend_" + "x" * 30


@pytest.fixture
def drawn(monkeypatch):
    """Figures in the order in which they were written."""
    figures, save = [], Figure.savefig

    def keep(self, *arguments, **options):
        figures.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def log(make_model, make_batch, tmp_path):
    """That of a run of six steps; the barrier loss ends after three. Barriers as the callback logs them."""
    clean, cue = (dataset(make_batch("bert", 8, seed)) for seed in (0, 1))
    args = CBFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=6,
        learning_rate=1e-2,
        logging_steps=1,
        invariance_warmup_ratio=0.0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = CBFTTrainer(make_model("bert"), args=args, train_dataset=clean, cue_dataset=cue)
    trainer.train()
    barriers = [
        {"step": step, **{f"eval_barrier_{name}{end}": step + add for end, add in ends.items()}}
        for step in (2, 4)
        for name, ends in {"low_cue": {"": 0.5, "_low": 0.25, "_high": 1.5}, "cue": {"": 1.0, "_alpha": 0.5}}.items()
    ]
    return trainer.state.log_history + barriers


@pytest.fixture
def result(make_model):
    rows = {
        name: Dataset.from_dict(
            {
                "pixel_values": torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).tolist(),
                "labels": [0, 1, 2, 3, 0, 1],
            }
        )
        for seed, name in enumerate(("no_cue", HOSTILE))
    }
    evaluator = ConnectivityEvaluator(make_model("vit", seed=1), make_model("vit", seed=2))
    return evaluator.evaluate(rows, num_points=5, num_resamples=20)


def lines(panel):
    return {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}


def check_nothing_is_clipped(figure):
    figure.draw_without_rendering()
    box = figure.bbox.padded(1)
    texts = [text for panel in figure.axes for text in (panel.xaxis.label, panel.yaxis.label, panel.title)]
    texts += [text for panel in figure.axes if panel.get_legend() for text in panel.get_legend().get_texts()]
    corners = {text.get_text(): text.get_window_extent().corners() for text in texts if text.get_text()}
    assert [name for name, points in corners.items() if box.count_contains(points) < 4] == []


def test_training_terms_are_those_of_the_log(log, drawn, tmp_path):
    plot_training(log, tmp_path / "training.png")
    losses, invariance, alpha, barriers = drawn[0].axes
    assert [panel.get_ylabel() for panel in drawn[0].axes] == ["loss (nats)", "invariance", "alpha", "barrier (nats)"]
    assert barriers.get_xlabel() == "step"
    terms = {
        **dict.fromkeys(("loss/clean", "loss/path", "loss/barrier"), losses),
        "loss/invariance": invariance,
        "path/alpha": alpha,
    }
    for name, panel in terms.items():
        expected = [(entry["step"], entry[name]) for entry in log if name in entry]
        assert lines(panel)[name].get_xydata() == pytest.approx(np.array(expected))
    assert len(lines(losses)["loss/clean"].get_xdata()) == 6
    assert lines(losses)["loss/ref"].get_ydata() == pytest.approx([log[0]["loss/ref"]] * 2)
    # Names of bounds are no names of sets, and a set may be called as a bound is.
    assert lines(barriers).keys() == {"low_cue", "cue"}
    assert lines(barriers)["low_cue"].get_xydata() == pytest.approx(np.array([(2, 2.5), (4, 4.5)]))
    (bars,) = barriers.containers
    assert [segment[:, 1].tolist() for segment in bars[2][0].get_segments()] == [[2.25, 3.5], [4.25, 5.5]]
    # The barrier loss ended after step 3.
    assert all([3, 3] in [list(line.get_xdata()) for line in panel.lines] for panel in drawn[0].axes)
    for panel in (losses, barriers):  # in print
        assert len({(line.get_marker(), line.get_linestyle()) for line in lines(panel).values()}) == len(lines(panel))
    check_nothing_is_clipped(drawn[0])


@pytest.mark.parametrize(("given", "drawn_at"), [(None, None), (15, 15)])
def test_the_end_of_the_barrier_loss_is_drawn_where_it_ends(drawn, tmp_path, given, drawn_at):
    log = [{"step": 10, "loss/clean": 2.0, "loss/barrier": 0.5}, {"step": 20, "loss/clean": 1.0, "loss/barrier": 0.1}]
    plot_training(log, tmp_path / "training.svg", given)
    ends = [line.get_xdata()[0] for line in drawn[0].axes[0].lines if line.get_label().startswith("_")]
    assert ends == ([] if drawn_at is None else [drawn_at])


def test_a_log_of_another_trainer_is_refused_and_no_file_is_left(tmp_path):
    with pytest.raises(ValueError, match="holds no term of L_CBFT"):
        plot_training([{"step": 1, "loss": 2.0, "eval_barrier_cue": 1.0}], tmp_path / "training.png")
    assert not list(tmp_path.iterdir())


def test_of_a_step_that_was_logged_twice_the_last_value_counts():
    log = [{"step": 1, "loss/clean": 2.0}, {"step": 1, "loss/clean": 1.5}, {"step": 2, "loss/clean": None}]
    assert logged(log, "loss/clean") == ([1], [1.5])


def test_a_path_shows_losses_and_accuracies_of_every_set(result, drawn, tmp_path):
    """Names are text: a formula that cannot be read would raise, and a line break would push the legend out."""
    result.plot(tmp_path / "path.png")
    losses, accuracies = drawn[0].axes
    assert [losses.get_ylabel(), accuracies.get_ylabel()] == ["loss (nats)", "accuracy (fraction)"]
    assert [panel.get_xlabel() for panel in (losses, accuracies)] == ["alpha", "alpha"]
    for panel, values in (
        (losses, result.losses),
        (accuracies, {name: metrics["accuracy"] for name, metrics in result.metrics.items()}),
    ):
        for line, name in zip(panel.lines, values, strict=True):
            assert line.get_xydata() == pytest.approx(np.stack([result.alphas, values[name]], axis=1))
    assert len({line.get_marker() for line in losses.lines}) == 2
    check_nothing_is_clipped(drawn[0])
