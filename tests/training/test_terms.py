# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Terms of the loss: L_B and L_I are two of them, and a user's own needs no edit of the library."""

import json
import math

import matplotlib.figure
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.func import functional_call
from transformers import TrainerCallback

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.data.inputs import InputCollator
from hf_cbft.training.terms import (
    BarrierTerm,
    InvarianceTerm,
    PathTerm,
    RepresentationTerm,
    terms_of,
)

NUM_CLASSES = 4
STEPS = 6


class Hinge(PathTerm):
    """max(0, level - path loss), for the middle third of the steps."""

    def __init__(self, level: float, **options) -> None:
        super().__init__("hinge", **options)
        self.level = level

    def is_on(self, step: int, max_steps: int) -> bool:
        return max_steps / 3 <= step < 2 * max_steps / 3

    def value(self, path_loss: torch.Tensor, ref_loss: float) -> torch.Tensor:
        return (ref_loss + self.level - path_loss).clamp(min=0.0)


class MeanGap(RepresentationTerm):
    """The squared distance between the means of all clean and of all cue representations."""

    def value(self, representations) -> torch.Tensor:
        means = []
        for rows in (representations.clean, representations.cue):
            count = representations.sum_over_ranks(torch.tensor(float(len(rows)), dtype=rows.dtype))
            means.append(representations.sum_over_ranks(rows.sum(dim=0)) / count)
        return (means[0] - means[1]).square().sum()


def make_rows(number: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(number, 3, 8, 8, generator=generator)
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [r % NUM_CLASSES for r in range(number)]})


def config(folder, **options) -> CBFTConfig:
    defaults = {
        "output_dir": str(folder / "out"),
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "ref_loss": 0.25,
        "seed": 3,
    }
    return CBFTConfig(**{**defaults, **options})


def make_trainer(model, args, terms, **options) -> CBFTTrainer:
    return CBFTTrainer(model, None, args, None, make_rows(8, 1), make_rows(8, 2), terms=terms, **options)


def logged(trainer, name) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def test_a_term_of_ones_own_is_logged_drawn_resumed_and_in_the_card(make_model, tmp_path, monkeypatch):
    """Its value would be missing where somebody looks for it, or the resumed run would be another one."""
    terms = lambda: [Hinge(2.0, coefficient=0.5), MeanGap("gap", 0.1)]  # noqa: E731
    whole = make_trainer(make_model("vit"), config(tmp_path / "whole"), terms())
    whole.train()
    assert list(logged(whole, "loss/hinge")) == [3, 4]  # steps 2 and 3, counted from 0
    assert list(logged(whole, "loss/gap")) == list(range(1, STEPS + 1))

    saving = {"save_strategy": "steps", "save_steps": 3}
    first = make_trainer(make_model("vit"), config(tmp_path / "halves", **saving), terms())
    first.add_callback(StopAfter(3))
    first.train()
    again = make_trainer(make_model("vit"), config(tmp_path / "halves", **saving), terms())
    again.train(resume_from_checkpoint=True)
    for name in ("loss/hinge", "loss/gap", "loss/barrier", "loss"):
        assert logged(again, name) == logged(whole, name), name
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name

    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, file: drawn.append(self) or save(self, file))
    whole.create_model_card()
    lines = {line.get_label(): line for axes in drawn[0].axes for line in axes.get_lines()}
    assert lines["loss/hinge"].get_ydata().tolist() == list(logged(whole, "loss/hinge").values())
    assert lines["loss/gap"].get_xdata().tolist() == list(logged(whole, "loss/gap"))
    card = (tmp_path / "whole" / "out" / "README.md").read_text()
    last = list(logged(whole, "loss/hinge").values())[-1]
    assert f"| loss/hinge | {last:.4g} when last logged, with the coefficient 0.5 |" in card


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_a_run_is_not_resumed_with_other_terms(make_model, tmp_path):
    args = config(tmp_path, save_strategy="steps", save_steps=3)
    make_trainer(make_model("vit"), args, [MeanGap("gap", 0.1)]).train()
    for terms, difference in (([MeanGap("gap", 0.2)], "0.1} -> {'gap': 0.2}"), (None, "{'gap': 0.1} -> {}")):
        with pytest.raises(ValueError, match=f"trained with other settings .*{difference}"):
            make_trainer(make_model("vit"), args, terms).train(resume_from_checkpoint=True)
    saved = json.loads((tmp_path / "out" / f"checkpoint-{STEPS}" / "cbft_state.json").read_text())
    assert saved["settings"]["terms"] == {"gap": 0.1}


@pytest.mark.parametrize("own_barrier", [False, True])
def test_the_gradient_is_that_of_autograd_through_an_explicit_interpolation(own_barrier, make_model, tmp_path):
    """Two terms share the pass at the path point, and two the pass over both halves."""
    alpha, model, naive = 0.4, make_model("vit").double(), make_model("vit").double()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    gradients = {}

    class Capture(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    class Always(Hinge):
        def is_on(self, step: int, max_steps: int) -> bool:
            return True

    reference = make_model("vit", seed=5).double()
    args = config(
        tmp_path,
        max_steps=1,
        pairing="index",
        train_sampling_strategy="sequential",
        alpha_min=alpha,
        alpha_max=alpha,
        max_grad_norm=0.0,
        barrier_coef=0.0 if own_barrier else 0.7,
        barrier_margin=6.0,
        invariance_coef=2.5,
        invariance_warmup_ratio=0.0,
    )
    rows = [
        [
            {"pixel_values": torch.tensor(row["pixel_values"]).double(), "labels": row["labels"]}
            for row in make_rows(8, s)
        ]
        for s in (1, 2)
    ]
    terms = [Always(5.0, coefficient=0.3), MeanGap("gap", 1.5)]
    trainer = CBFTTrainer(model, reference, args, None, *rows, terms=terms, callbacks=[Capture()])
    trainer.train()

    clean, cue = (InputCollator(naive)(part) for part in rows)
    naive.train()
    leaves = {name: start[name].clone().requires_grad_() for name, _ in naive.named_parameters()}
    point = {n: (1 - alpha) * p.detach() + alpha * leaves[n] for n, p in reference.named_parameters()}

    def run(weights, batch):
        inputs = {"pixel_values": batch["pixel_values"], "output_hidden_states": True}
        outputs = functional_call(naive, weights, (), inputs)
        states = F.layer_norm(
            outputs.hidden_states[-1],
            (16,),
            weights["vit.layernorm.weight"],
            weights["vit.layernorm.bias"],
            naive.config.layer_norm_eps,
        )
        return F.cross_entropy(outputs.logits, batch["labels"]), states[:, 0]

    (loss, of_clean), (_, of_cue), (path_loss, _) = run(leaves, clean), run(leaves, cue), run(point, cue)
    total = loss + 0.3 * (0.25 + 5.0 - path_loss).clamp(min=0)
    total = total + 1.5 * (of_clean.mean(0) - of_cue.mean(0)).square().sum()
    if not own_barrier:
        total = total + 0.7 * (0.25 + 6.0 - path_loss).abs()
    for k in range(NUM_CLASSES):
        means = [x[b["labels"] == k].mean(0) for x, b in ((of_clean, clean), (of_cue, cue))]
        total = total + 2.5 / NUM_CLASSES * (means[0] / means[0].norm() - means[1] / means[1].norm()).square().sum()
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))
    largest = max(g.abs().max() for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        if gradient is not None:
            assert (gradients[name] - gradient).abs().max() <= 1e-10 * largest, name
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(float(total), rel=1e-6)


def test_the_configuration_gives_two_terms_that_can_be_left_out(tmp_path):
    both = terms_of(config(tmp_path, barrier_coef=0.5, barrier_margin=2.0))
    assert [type(term) for term in both] == [BarrierTerm, InvarianceTerm]
    assert (both[0].coefficient, both[0].margin) == (0.5, 2.0)
    assert [both[0].is_on(step, 10) for step in (0, 4, 5)] == [True, True, False]
    assert [both[1].is_on(step, 40) for step in (0, 1, 2)] == [False, False, True]
    assert terms_of(config(tmp_path, barrier_coef=0.0, invariance_coef=0.0)) == []
    assert [term.name for term in terms_of(config(tmp_path, barrier_stop_ratio=0.0))] == ["invariance"]


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        (lambda: [Hinge(1.0), Hinge(2.0)], ValueError, "Two terms are called 'hinge'"),
        (lambda: [MeanGap("barrier")], ValueError, "Two terms are called 'barrier'"),
        (lambda: [MeanGap("clean")], ValueError, "A term is called 'clean', and its values are logged as loss/<name>"),
        (lambda: [MeanGap("a b")], ValueError, "A term is called 'a b'"),
        (lambda: [MeanGap("gap", -1.0)], ValueError, "The term 'gap' has the coefficient -1.0: give a finite number"),
        (lambda: [MeanGap("gap", math.nan)], ValueError, "The term 'gap' has the coefficient nan"),
        (lambda: [torch.nn.Linear(1, 1)], TypeError, "terms holds a Linear: derive it from PathTerm or"),
    ],
)
def test_what_is_no_term_is_refused_before_anything_is_written(terms, error, message, make_model, tmp_path):
    with pytest.raises(error, match=message):
        make_trainer(make_model("vit"), config(tmp_path), terms())
    assert not (tmp_path / "out").exists()
