# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Fitting the middle of a curve: its gradient, its Trainer, what it leaves alone, and its folder."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from transformers import AutoModelForImageClassification, T5Config, T5ForConditionalGeneration, TrainerCallback

from hf_cbft import LinearPath, at_point
from hf_cbft.checkpoints.curve_files import load_curve, save_curve
from hf_cbft.data.inputs import InputCollator
from hf_cbft.paths.batchnorm import batch_statistics, batchnorm_modules, recalibrate
from hf_cbft.paths.geometry import QuadraticPath, sample_alpha
from hf_cbft.paths.interpolation import copy_weights, named_weights
from hf_cbft.training.curves import _CurveTrainer, default_arguments, fit_curve

BOUND = 1e-10
ALPHAS = np.linspace(0.0, 1.0, 9)


def rows_of(batch):
    """A map-style data set: the rows of a batch."""
    return [{name: value[i] for name, value in batch.items()} for i in range(len(batch["labels"]))]


def double(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def path_loss(model, batch):
    """Cross-entropy in float64."""
    outputs = model(**batch)
    logits, labels = outputs.logits, batch["labels"]
    if labels.ndim == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, labels), outputs


def bezier_gradient(middle, start, end, alpha, batch):
    """Autograd through the explicit Bezier interpolation, with no weight ever written."""
    theta = dict(middle.named_parameters())
    point = {n: (1 - alpha) ** 2 * start[n] + 2 * alpha * (1 - alpha) * theta[n] + alpha**2 * end[n] for n in theta}
    loss, _ = path_loss(partial(functional, middle, point, ()), batch)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True)), loss.item()


def functional(module, point, args, **kwargs):
    return functional_call(module, point, args, kwargs)


def losses_along(model, path, batch):
    """As in training: BatchNorm normalises by the batch."""
    found = []
    model = copy.deepcopy(model).train()
    for alpha in ALPHAS:
        with torch.no_grad(), at_point(model, path, float(alpha)), batch_statistics(model):
            found.append(path_loss(model, batch)[0].item())
    return np.array(found)


@pytest.fixture
def settings(tmp_path):
    """`settings(**changes)`: quick ones, without a bar."""

    def make(**changes):
        quick = {"max_steps": 2, "per_device_train_batch_size": 6, "use_cpu": True, "disable_tqdm": True}
        return default_arguments(str(tmp_path / "run"), **{**quick, **changes})

    return make


@pytest.fixture
def ends(make_model):
    """`ends(name)`: two models apart from each other."""
    return lambda name: (make_model(name, seed=1), make_model(name, seed=2))


class Notes(TrainerCallback):
    def __init__(self):
        self.evaluated = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.evaluated.append(metrics)


# The gradient


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["vit", "vit checkpointing", "bert", "resnet", "gpt2", "gpt2 checkpointing"])
def test_gradient_of_the_middle_is_that_of_the_explicit_curve(name, seed, make_model, make_batch, settings, table):
    """Training would lower another loss than that along the curve, without any other sign of it."""
    name, _, checkpointing = name.partition(" ")
    model, naive = (make_model(name).double().train() for _ in range(2))
    start, end = (copy_weights(make_model(name, seed=s).double()) for s in (1, 2))
    batch = double(make_batch(name))
    trainer = _CurveTrainer(
        model=model,
        args=settings(seed=seed),
        train_dataset=rows_of(batch),
        data_collator=InputCollator(model),
        ends=(start, end),
        calibration_dataset=None,
    )
    trainer.current_gradient_accumulation_steps = 1
    if checkpointing:
        model.activation_checkpointing_enable()
        model.config.use_cache = False
    before = {name: weight.clone() for name, weight in named_weights(model).items()}
    loss = trainer.training_step(model, batch)
    alpha = sample_alpha(seed, 0, 0, "uniform", 0.0, 1.0)
    expected, expected_loss = bezier_gradient(naive, start, end, alpha, batch)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3
    error = max((p.grad - expected[n]).abs().max().item() for n, p in model.named_parameters()) / largest
    table.append((name, f"alpha {alpha:.3f}", "middle", checkpointing or "no checkpointing", error))
    assert error <= BOUND
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    # The middle moves with the optimizer alone; running statistics included.
    assert all(torch.equal(weight, before[name]) for name, weight in named_weights(model).items())


def test_each_micro_batch_has_its_own_point_and_the_step_is_their_mean(ends, make_batch, settings, monkeypatch):
    """One SGD step over two micro-batches, against the mean of two gradients through the explicit curve."""
    start, end = (model.double() for model in ends("vit"))
    batch = double(make_batch("vit", rows=12))
    path = fit_curve(
        start,
        end,
        rows_of(batch),
        settings(
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            gradient_accumulation_steps=2,
            train_sampling_strategy="sequential",
        ),
    )
    middle = copy.deepcopy(start).train()
    with torch.no_grad():
        for name, weight in named_weights(middle).items():
            weight.copy_((path.start[name] + path.end[name]) / 2)
    begin = copy_weights(middle)
    alphas = [sample_alpha(42, 0, micro, "uniform", 0.0, 1.0) for micro in (0, 1)]
    halves = [{name: value[6 * i : 6 * i + 6] for name, value in batch.items()} for i in (0, 1)]
    gradients = [bezier_gradient(middle, path.start, path.end, a, h)[0] for a, h in zip(alphas, halves, strict=True)]
    for name in gradients[0]:
        expected = begin[name] - 0.1 * (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(path.middle[name], expected, rtol=1e-9, atol=1e-11)


# The fit


@pytest.mark.parametrize("name", ["vit", "resnet", "gpt2"])
def test_training_lowers_the_loss_along_the_curve_and_leaves_the_ends(name, ends, make_batch, settings):
    """The point of a fit. The ends that were given stay what they are, and so does the curve when they move on."""
    start, end = ends(name)
    before = [copy_weights(model) for model in (start, end)]
    batch = make_batch(name, rows=12)
    path = fit_curve(start, end, rows_of(batch), settings(max_steps=40, learning_rate=1e-2))
    for model, weights, anchor in zip((start, end), before, (path.start, path.end), strict=True):
        assert all(torch.equal(weight, weights[n]) for n, weight in named_weights(model).items())
        assert all(torch.equal(anchor[n], weights[n]) for n in weights)
        assert anchor.keys() == weights.keys()
        assert not {t.data_ptr() for t in anchor.values()} & {t.data_ptr() for t in named_weights(model).values()}
    straight, curved = (losses_along(start, p, batch) for p in (LinearPath(path.start, path.end), path))
    assert curved[0] == straight[0]
    assert curved[-1] == straight[-1]
    assert curved[1:-1].mean() < 0.85 * straight[1:-1].mean()


def test_the_middle_of_a_batchnorm_model_has_statistics_of_its_own(ends, make_batch, settings):
    """Those of the ends' average do not fit the trained weights; those of points of the curve would not either."""
    start, end = ends("resnet")
    rows = rows_of(make_batch("resnet", rows=18))
    calibration = rows_of(make_batch("resnet", rows=12, seed=3))
    path = fit_curve(start, end, rows, settings(per_device_eval_batch_size=6), calibration_dataset=calibration)
    model = copy.deepcopy(start).eval()
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.copy_(path.middle[name])
    statistics = [copy.deepcopy(module.state_dict()) for module in batchnorm_modules(model)]
    batches = [InputCollator(model)(calibration[i : i + 6]) for i in (0, 6)]
    recalibrate(model, batches, lambda batch: model(pixel_values=batch["pixel_values"]))
    for module, given in zip(batchnorm_modules(model), statistics, strict=True):
        assert given["num_batches_tracked"] == 2
        torch.testing.assert_close(module.running_mean, given["running_mean"])
        torch.testing.assert_close(module.running_var, given["running_var"])


def test_frozen_weights_stay_on_the_straight_line(ends, make_batch, settings):
    """The curve must not leave the line where the caller has frozen the model."""
    start, end = ends("vit")
    start.vit.requires_grad_(False)
    path = fit_curve(start, end, rows_of(make_batch("vit")), settings(learning_rate=1e-2))
    for name, weight in path.middle.items():
        average = (path.start[name] + path.end[name]) / 2
        assert torch.allclose(weight, average, atol=1e-7) == name.startswith("vit.")


def test_training_begins_from_the_middle_that_is_given(ends, make_model, make_batch, settings):
    """A second fit goes on where the first one stopped."""
    start, end = ends("vit")
    middle = make_model("vit", seed=3)
    kept = copy_weights(middle)
    rows = rows_of(make_batch("vit"))
    path = fit_curve(start, end, rows, settings(learning_rate=1e-12), middle=middle)
    for name, weight in kept.items():
        torch.testing.assert_close(path.middle[name], weight, rtol=1e-6, atol=1e-7)
        assert torch.equal(named_weights(middle)[name], weight)


def test_16_bit_ends_get_a_16_bit_middle_that_was_trained_in_32(ends, make_batch, settings):
    """In bfloat16 a step of 1e-5 changes nothing, and a float32 middle would not fit the ends' checkpoints."""
    start, end = (model.bfloat16() for model in ends("vit"))
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({weight.dtype for weight in model.parameters()})

    path = fit_curve(start, end, rows_of(make_batch("vit")), settings(), callbacks=[Look()])
    assert seen == [{torch.float32}] * 2
    for anchor in path.anchors:
        assert {weight.dtype for weight in anchor.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_evaluation_gives_the_losses_at_points_of_the_curve(name, ends, make_batch, settings):
    """The loss of the middle itself, which is not on the curve, would tell nothing; nor would old statistics."""
    start, end = ends(name)
    held_out, calibration = make_batch(name, rows=8, seed=4), make_batch(name, rows=6, seed=3)
    notes = Notes()
    path = fit_curve(
        start,
        end,
        rows_of(make_batch(name)),
        settings(eval_strategy="steps", eval_steps=2),
        eval_dataset=rows_of(held_out),
        calibration_dataset=rows_of(calibration),
        callbacks=[notes],
    )
    losses = []
    for alpha in (0.25, 0.5, 0.75):
        with torch.no_grad(), at_point(start.eval(), path, alpha):
            recalibrate(start, [calibration], lambda batch: start(**batch))
            losses.append(path_loss(start, held_out)[0].item())
    assert notes.evaluated[-1]["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert notes.evaluated[-1]["eval_max_loss"] == pytest.approx(max(losses), rel=1e-5)


def test_a_language_model_is_fitted_on_bare_texts(ends, make_batch, settings):
    """Without labels a causal language model's are what it reads; a class beside them is no input of the model."""
    start, end = ends("gpt2")
    batch = make_batch("gpt2")
    texts = rows_of(
        {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": batch["labels"]}
    )
    with_classes = [{**row, "label": 1} for row in texts]
    seen = set()
    start.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    evaluating = settings(eval_strategy="steps", eval_steps=2)
    labelled = fit_curve(start, end, with_classes, evaluating, eval_dataset=with_classes)
    for row in texts:
        del row["labels"]
    bare = fit_curve(start, end, texts, settings())
    assert "input_ids" in seen
    assert not {"labels", "class_labels"} & seen  # the loss is computed from its logits
    for name, weight in labelled.middle.items():
        torch.testing.assert_close(bare.middle[name], weight)


def test_a_resumed_fit_is_the_uninterrupted_one(ends, make_batch, settings, tmp_path):
    """Another point or another row after the checkpoint would train another curve."""
    start, end = ends("vit")
    rows = rows_of(make_batch("vit", rows=18))
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = fit_curve(start, end, rows, settings(**saving))
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    resumed = fit_curve(start, end, rows, settings(**saving, resume_from_checkpoint=checkpoint))
    assert all(torch.equal(resumed.middle[name], weight) for name, weight in whole.middle.items())
    with pytest.raises(ValueError, match="is a checkpoint of a curve between other ends: give the start and the end"):
        fit_curve(end, start, rows, settings(**saving, resume_from_checkpoint=checkpoint))


# What cannot be fitted


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optim": "adalomo"}, ValueError, "The optimizer adalomo steps inside backward"),
        ({"label_smoothing_factor": 0.1}, ValueError, "label_smoothing_factor = 0.1: the loss along the curve is the"),
        ({"neftune_noise_alpha": 5.0}, ValueError, "neftune_noise_alpha puts noise into the embeddings"),
        ({"torch_compile": True}, NotImplementedError, "torch_compile is not checked for curves"),
        ({"use_liger_kernel": True}, NotImplementedError, "use_liger_kernel is not checked for curves"),
    ],
)
def test_settings_under_which_the_step_would_be_wrong_are_refused(change, error, message, settings, ends, make_batch):
    """Each would train something else than the curve, or is not known to train it."""
    args = settings()
    for name, value in change.items():  # some would be refused where their library is missing
        setattr(args, name, type(args.optim)(value) if name == "optim" else value)
    with pytest.raises(error, match=message):
        fit_curve(*ends("vit"), rows_of(make_batch("vit")), args)


def test_fsdp_is_refused(settings, ends, make_batch, monkeypatch):
    """The ends are whole, and a shard of the middle cannot be interpolated with them."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(NotImplementedError, match="FSDP is not checked for curves"):
        fit_curve(*ends("vit"), rows_of(make_batch("vit")), settings())


def test_ends_that_have_no_curve_between_them_are_refused(make_model, make_batch, settings, tmp_path):
    """Before anything is trained or written."""
    vit, rows = make_model("vit"), rows_of(make_batch("vit"))
    fit = partial(fit_curve, train_dataset=rows, args=settings())
    with pytest.raises(ValueError, match="The end cannot be interpolated with the model"):
        fit(vit, make_model("bert"))
    with pytest.raises(ValueError, match=r"The end keeps .* in torch.float64 and the start in torch.float32"):
        fit(vit, make_model("vit").double())
    with pytest.raises(ValueError, match="The middle cannot be interpolated with the model"):
        fit(vit, vit, middle=make_model("resnet"))
    broken = make_model("vit")
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"has NaN in classifier\.bias"):
        fit(vit, broken)
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 10}
    with pytest.raises(NotImplementedError, match="start is an encoder-decoder model"):
        fit(T5ForConditionalGeneration(T5Config(**small)), vit)
    assert not (tmp_path / "run").exists()


def test_adapters_are_refused_with_what_to_do(make_model, make_batch, settings, tmp_path):
    """A curve between adapters' A and B would run through models that are on no path between the two."""
    from peft import LoraConfig, get_peft_model

    rows = rows_of(make_batch("vit"))
    adapter = get_peft_model(make_model("vit"), LoraConfig(target_modules="all-linear"))
    adapter.save_pretrained(tmp_path / "adapter")
    for source in (adapter, str(tmp_path / "adapter"), "org/base+org/adapter"):
        with pytest.raises(ValueError, match=r"end carries an adapter, .*: merge it first \(merge_and_unload\)"):
            fit_curve(make_model("vit"), source, rows, settings())


def test_data_that_tell_no_loss_are_refused(ends, make_batch, settings, tmp_path):
    """An empty set, a label that the model does not know, no label."""
    fit = partial(fit_curve, *ends("vit"), args=settings())
    rows = rows_of(make_batch("vit"))
    with pytest.raises(ValueError, match="train_dataset is empty"):
        fit(train_dataset=[])
    with pytest.raises(ValueError, match="train_dataset has the label 7, but the classes are 0 to 3"):
        fit(train_dataset=[{**rows[0], "labels": torch.tensor(7)}])
    with pytest.raises(ValueError, match="train_dataset has no label column"):
        fit(train_dataset=[{"pixel_values": rows[0]["pixel_values"]}])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="The data_collator made a batch without labels"):
        fit(
            train_dataset=rows,
            data_collator=lambda rows: {"pixel_values": torch.stack([r["pixel_values"] for r in rows])},
        )


def test_a_loss_that_is_not_finite_stops_the_fit(ends, make_batch, settings):
    """Before the optimizer makes all weights NaN."""
    batch = make_batch("vit")
    batch["pixel_values"][2] = float("nan")
    with pytest.raises(FloatingPointError, match=r"The loss on the curve at alpha = 0\.\d+ is nan at step 0"):
        fit_curve(*ends("vit"), rows_of(batch), settings())


# The folder


@pytest.fixture
def saved(make_model, tmp_path):
    """A curve with a middle that was not trained, its two ends, and the folder that it was saved in."""

    def make(name="vit"):
        start, middle, end = (make_model(name, seed=s) for s in (1, 3, 2))
        path = QuadraticPath(*(copy_weights(model) for model in (start, middle, end)))
        folder = tmp_path / f"curve-{name}"
        save_curve(folder, path, start, start="org/a", end="org/b")
        return path, start, end, folder

    return make


@pytest.mark.parametrize("name", ["vit", "resnet", "gpt2"])
def test_a_saved_curve_is_read_back_between_its_ends(saved, name):
    """Tied weights and buffers included, bit for bit."""
    path, start, end, folder = saved(name)
    for ends in ((start, end), (path.start, path.end)):
        read = load_curve(folder, *ends)
        for given, anchor in zip(path.anchors, read.anchors, strict=True):
            assert given.keys() == anchor.keys()
            assert all(torch.equal(anchor[n], weight) for n, weight in given.items())
    assert all(torch.equal(weight, path.start[n]) for n, weight in named_weights(start).items())


def test_ends_may_be_folders(saved, tmp_path):
    """As the command gives them."""
    path, start, end, folder = saved()
    for name, model in (("start", start), ("end", end)):
        model.save_pretrained(tmp_path / name)
    read = load_curve(folder, str(tmp_path / "start"), tmp_path / "end")
    assert all(torch.equal(read.end[name], weight) for name, weight in path.end.items())


def test_the_folder_is_an_ordinary_checkpoint_of_the_middle(saved):
    """Whoever does not know this library can load and measure it."""
    path, _, _, folder = saved()
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert all(torch.equal(weight, path.middle[name]) for name, weight in named_weights(model).items())
    facts = json.loads((folder / "curve.json").read_text())
    assert facts["kind"] == "quadratic"
    assert [facts["start"]["name"], facts["end"]["name"]] == ["org/a", "org/b"]


def test_lazy_weights_are_read_once_each_and_not_kept(saved):
    """An end that stays on the disk must not be loaded whole, or again and again."""
    path, start, _, folder = saved()
    reads = []

    class Lazy(Mapping):
        def __getitem__(self, name):
            reads.append(name)
            return path.end[name].clone()

        def __iter__(self):
            return iter(path.end)

        def __len__(self):
            return len(path.end)

    lazy = Lazy()
    assert load_curve(folder, start, lazy).end is lazy
    assert sorted(reads) == sorted(path.end)


def test_other_ends_are_refused(saved, make_model):
    """The curve between two models says nothing about two others, nor in the other direction."""
    _, start, end, folder = saved()
    with pytest.raises(ValueError, match=r"a curve whose start is org/a, and ViTFor.* has other weights"):
        load_curve(folder, end, start)
    with pytest.raises(ValueError, match=r"a curve whose end is org/b, and ViTFor.* has other weights"):
        load_curve(folder, start, make_model("vit", seed=4))
    with pytest.raises(ValueError, match=r"a curve whose end is org/b, and BertFor.* has other weights"):
        load_curve(folder, start, make_model("bert"))


def test_folders_that_hold_no_curve_are_refused(saved, tmp_path):
    """A checkpoint that is none, a damaged file, a file of another version."""
    _, start, end, folder = saved()
    with pytest.raises(ValueError, match=r"has no curve.json, so it is no fitted curve: make one with hf-cbft curve"):
        load_curve(tmp_path, start, end)
    facts = json.loads((folder / "curve.json").read_text())
    for text in ("{", "[]", json.dumps({**facts, "schema_version": 9}), json.dumps({**facts, "end": None})):
        (folder / "curve.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged or of another version of hf_cbft: fit the curve again"):
            load_curve(folder, start, end)


def test_a_curve_is_saved_whole_or_not_at_all(saved, tmp_path, monkeypatch):
    """A folder that is not free stays as it is; a save that fails leaves nothing."""
    path, start, _, folder = saved()
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        save_curve(folder, path, start)
    with pytest.raises(ValueError, match=r"One anchor of the curve is None \(the live model\)"):
        save_curve(tmp_path / "live", QuadraticPath(None, path.middle, path.end), start)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("hf_cbft.checkpoints.curve_files.write_json", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        save_curve(tmp_path / "new", path, start)
    assert sorted(tmp_path.iterdir()) == before
    assert all(torch.equal(weight, path.start[n]) for n, weight in named_weights(start).items())


# Two processes

_SCRIPT = """
import sys
import torch
import torch.distributed as dist
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification
from transformers import GPT2Config, GPT2LMHeadModel
from hf_cbft.training.curves import default_arguments, fit_curve

torch.set_num_threads(1)
folder, processes = sys.argv[1], int(sys.argv[2])
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
bert = BertConfig(vocab_size=50, num_labels=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
gpt2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32, **none)
classes = {"bert": (BertForSequenceClassification, bert), "gpt2": (GPT2LMHeadModel, gpt2)}
classes["resnet"] = (ResNetForImageClassification, resnet)
for name, (cls, config) in classes.items():
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(cls(config))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(16):
        words = torch.randint(1, 50, (10,), generator=generator)
        labels = words.clone()
        labels[: 1 + i % 7] = -100  # each rank's rows count another number of tokens
        row = {"input_ids": words, "labels": torch.tensor(i % 4) if name == "bert" else labels}
        if name == "resnet":
            row = {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(i % 4)}
        rows.append(row)
    args = default_arguments(
        f"{folder}/run", max_steps=2, per_device_train_batch_size=4 // processes, gradient_accumulation_steps=2,
        optim="sgd", learning_rate=0.1, max_grad_norm=0.0, train_sampling_strategy="sequential", use_cpu=True,
        disable_tqdm=True, logging_steps=1, per_device_eval_batch_size=8,
    )
    path = fit_curve(*ends, rows, args)
    torch.save(path.middle, f"{folder}/{name}-{args.process_index}-of-{processes}.pt")
if dist.is_initialized():
    dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.sample
def test_two_processes_train_the_middle_that_one_does(tmp_path):
    """Ranks at different points, or means that are not weighed, train another curve than the one asked for."""
    (tmp_path / "script.py").write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if processes == 2 else []
        command = [sys.executable, *launcher, str(tmp_path / "script.py"), str(tmp_path), str(processes)]
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert process.returncode == 0, process.stderr[-3000:]
    for name in ("bert", "gpt2", "resnet"):
        files = [f"{name}-0-of-1", f"{name}-0-of-2", f"{name}-1-of-2"]
        one, first, second = (torch.load(tmp_path / f"{file}.pt", weights_only=True) for file in files)
        assert all(torch.equal(first[n], second[n]) for n in first)
        if name == "resnet":  # a rank normalises by its own half of the batch
            continue
        for key, weight in one.items():
            torch.testing.assert_close(first[key], weight, rtol=1e-4, atol=1e-6)
