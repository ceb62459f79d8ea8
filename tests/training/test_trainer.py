# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`CBFTTrainer`: the gradient of a step against a naive one, its schedule, its logs, and what it refuses."""

import copy
import json
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers.training import dataset, double_collator, sgd_config
from peft import LoraConfig, get_peft_model
from torch.func import functional_call
from torch.utils.data import IterableDataset
from transformers import GPT2Config, GPT2ForSequenceClassification, TrainerCallback

from hf_cbft import CBFTTrainer
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.paths.interpolation import copy_weights

NUM_CLASSES = 4
ALPHA_DEFAULTS = {"sampling": "clipped_normal", "alpha_min": 0.25, "alpha_max": 0.75}
config = partial(sgd_config, max_steps=4)


def rows(name: str, num_rows: int, seed: int, make_batch) -> Dataset:
    """A data set of model inputs and labels, as lists."""
    return dataset(make_batch(name, num_rows, seed))


class Recorder(TrainerCallback):
    """Gradients and inputs of the first step, before the optimizer takes it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "gradients"):
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def naive_representation(name: str, model, parameters, batch):
    """What enters the last linear layer, through the base model and explicit steps; (B, D)."""
    inputs = {n: v for n, v in batch.items() if n != "labels"}
    outputs = functional_call(model, parameters, (), {**inputs, "output_hidden_states": True})
    last = outputs.hidden_states[-1]
    if name == "vit":
        norm = {n.removeprefix("vit.layernorm."): p for n, p in parameters.items() if n.startswith("vit.layernorm.")}
        return F.layer_norm(last, last.shape[-1:], norm["weight"], norm["bias"], model.config.layer_norm_eps)[:, 0]
    if name == "bert":
        dense = last[:, 0] @ parameters["bert.pooler.dense.weight"].T + parameters["bert.pooler.dense.bias"]
        return dense.tanh()
    if name == "resnet":
        return last.mean(dim=(2, 3))
    lengths = batch["attention_mask"].sum(dim=1)
    return last[torch.arange(len(last)), lengths - 1]


def naive_invariance(clean, clean_labels, cue, cue_labels):
    total = 0.0
    for k in range(NUM_CLASSES):
        if (clean_labels == k).any() and (cue_labels == k).any():
            first, second = clean[clean_labels == k].mean(0), cue[cue_labels == k].mean(0)
            total = total + ((first / first.norm() - second / second.norm()) ** 2).sum()
    return total / NUM_CLASSES


def naive_gradients(name, model, reference, clean, cue, alpha, args, invariance_on):
    """Gradient of L_CBFT by autograd through an explicit interpolation, in one graph."""
    model.train()
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    point = {n: (1 - alpha) * reference[n] + alpha * p for n, p in leaves.items()}
    clean_loss = functional_call(model, {**leaves, **buffers}, (), clean).loss
    path_loss = functional_call(model, {**point, **buffers}, (), cue).loss
    total = clean_loss + args.barrier_coef * (args.ref_loss + args.barrier_margin - path_loss).abs()
    if invariance_on:
        states = {**leaves, **buffers}
        total = total + args.invariance_coef * naive_invariance(
            naive_representation(name, model, states, clean),
            clean["labels"],
            naive_representation(name, model, states, cue),
            cue["labels"],
        )
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, gradients, strict=True))


def relative_error(found, expected):
    largest = max(g.abs().max() for g in expected.values() if g is not None)
    missing = [g.abs().max() for n, g in expected.items() if g is not None and n not in found]
    assert not missing or max(missing) == 0
    return max(((found[n] - expected[n]).abs().max() for n in found), default=torch.tensor(math.inf)) / largest


def causal_loss(logits, labels, vocab_size, **kwargs):
    """Transformers' own computes in float32 whatever the model's dtype."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def sequence_classifier():
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            num_labels=NUM_CLASSES,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="sdpa",
        )
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "gpt2", "gpt2-classifier"])
def test_gradient_of_one_step_is_that_of_the_whole_loss(name, checkpointing, table, make_model, make_batch, tmp_path):
    if checkpointing and name == "resnet":
        pytest.skip("ResNet refuses activation checkpointing")
    model = (sequence_classifier() if name == "gpt2-classifier" else make_model(name)).double()
    if name == "gpt2-classifier":
        clean, cue = (make_batch("bert", 8, seed) for seed in (1, 2))
        for half in (clean, cue):
            half["input_ids"] = half["input_ids"].masked_fill(half["attention_mask"] == 0, 0)
    else:
        clean, cue = (make_batch(name, 8, seed) for seed in (1, 2))
    if name == "gpt2":
        model.loss_function = causal_loss
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    language_model = name == "gpt2"
    args = config(
        tmp_path,
        max_steps=1,
        barrier_coef=0.7,
        barrier_margin=6.0,
        ref_loss=0.25,
        invariance_coef=0.0 if language_model else 2.5,
        barrier_stop_ratio=1.0,
        pairing="index",
        train_sampling_strategy="sequential",
        activation_checkpointing=checkpointing,
    )
    recorder = Recorder()
    trainer = CBFTTrainer(
        model,
        reference,
        args,
        data_collator=double_collator,
        train_dataset=Dataset.from_dict({n: v.tolist() for n, v in clean.items()}),
        cue_dataset=Dataset.from_dict({n: v.tolist() for n, v in cue.items()}),
        callbacks=[recorder],
    )
    before = copy.deepcopy(model)
    trainer.train()
    if checkpointing:
        assert model.is_activation_checkpointing
    clean, cue = ({n: v.double() if v.is_floating_point() else v for n, v in half.items()} for half in (clean, cue))
    alpha = sample_alpha(args.seed, 0, 0, **ALPHA_DEFAULTS)
    expected = naive_gradients(
        name, before, dict(reference.named_parameters()), clean, cue, alpha, args, not language_model
    )
    error = relative_error(recorder.gradients, expected)
    table.append((name, "checkpointing" if checkpointing else "no checkpointing", error))
    assert error <= 1e-10


def train(trainer):
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_terms_enter_and_leave_on_schedule_and_save_their_passes(make_model, make_batch, tmp_path):
    model = make_model("vit")
    passes = []
    model.register_forward_hook(lambda *_: passes.append(trainer.state.global_step) if model.training else None)
    trainer = CBFTTrainer(
        model,
        args=config(tmp_path, max_steps=8, barrier_stop_ratio=0.5, invariance_warmup_ratio=0.25),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 16, 2, make_batch),
    )
    history = train(trainer)
    assert ["loss/barrier" in entry for entry in history] == [True] * 4 + [False] * 4
    assert ["loss/invariance" in entry for entry in history] == [False] * 2 + [True] * 6
    # clean; + barrier; clean, cue and barrier; clean and cue
    assert [passes.count(step) for step in range(8)] == [2, 2, 3, 3, 2, 2, 2, 2]


def test_logs_name_each_term_and_add_up(make_model, make_batch, tmp_path):
    args = config(tmp_path, barrier_coef=0.5, invariance_coef=3.0, barrier_stop_ratio=1.0)
    trainer = CBFTTrainer(
        make_model("vit"),
        args=args,
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 16, 2, make_batch),
    )
    history = train(trainer)
    first = trainer.state.log_history[0]
    assert first["loss/ref"] == pytest.approx(trainer.ref_loss)
    assert sum("loss/ref" in entry for entry in trainer.state.log_history) == 1
    for step, entry in enumerate(history):
        total = entry["loss/clean"] + 0.5 * entry["loss/barrier"] + 3.0 * entry["loss/invariance"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        assert entry["loss/barrier"] == pytest.approx(abs(trainer.ref_loss + 1.0 - entry["loss/path"]), rel=1e-5)
        assert entry["path/alpha"] == sample_alpha(args.seed, step, 0, **ALPHA_DEFAULTS)


def test_reference_loss_is_measured_at_the_reference(make_model, make_batch, tmp_path):
    reference = make_model("bert", seed=7)
    cue = rows("bert", 50, 2, make_batch)
    trainer = CBFTTrainer(
        make_model("bert"),
        reference,
        config(tmp_path, max_steps=1),
        train_dataset=rows("bert", 8, 1, make_batch),
        cue_dataset=cue,
    )
    trainer.train()
    reference.eval()
    with torch.no_grad():
        expected = reference(**{n: torch.tensor(cue[n]) for n in cue.column_names}).loss.item()
    assert trainer.ref_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("ref_loss", "expected"), [(None, 1), (0.0, 0)])
def test_a_barrier_that_has_not_grown_when_its_loss_ends_is_warned_of(
    ref_loss, expected, make_model, make_batch, tmp_path, monkeypatch
):
    warnings = []
    monkeypatch.setattr("hf_cbft.training.trainer.logger.warning", warnings.append)
    CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=20, learning_rate=1e-6, ref_loss=ref_loss),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    ).train()
    found = [warning for warning in warnings if "has hardly left its reference" in warning]
    assert len(found) == expected
    assert all("The barrier loss ends at step 10" in warning for warning in found)


def test_given_reference_loss_is_not_measured_again(make_model, make_batch, tmp_path):
    trainer = CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=1, ref_loss=0.0),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    )
    history = train(trainer)
    assert history[0]["loss/barrier"] == pytest.approx(abs(1.0 - history[0]["loss/path"]), rel=1e-5)


def test_a_reference_that_does_not_solve_the_cue_data_is_warned_of(make_model, make_batch, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("hf_cbft.training.trainer.logger.warning", warnings.append)
    CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=1, ref_loss=2.0),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    ).train()
    assert any("does not solve this data" in warning for warning in warnings)


@pytest.mark.parametrize(("margin", "expected"), [(2.0, 1), (0.5, 0)])
def test_a_margin_above_a_guess_is_warned_of(make_model, make_batch, tmp_path, monkeypatch, margin, expected):
    # With two classes the default asks for more than log 2: a model that is wrong on purpose.
    warnings = []
    monkeypatch.setattr("hf_cbft.training.trainer.logger.warning", warnings.append)
    CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=1, ref_loss=0.0, barrier_margin=margin),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    ).train()
    assert len([warning for warning in warnings if "wrong on purpose: with" in warning]) == expected


def test_without_barrier_no_reference_is_kept(make_model, make_batch, tmp_path):
    trainer = CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, barrier_coef=0.0),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    )
    history = train(trainer)
    assert trainer.reference is None
    assert not any("loss/barrier" in entry for entry in history)


def test_alternating_takes_the_barrier_step_first(make_model, make_batch, tmp_path):
    # One SGD step on alpha-weighted L_B, then one on the clean loss at the weights after it.
    clean, cue = make_batch("vit", 8, 1), make_batch("vit", 8, 2)
    model, reference = make_model("vit").double(), make_model("vit", seed=9).double()
    args = config(tmp_path, max_steps=1, update_rule="alternating", invariance_coef=0.0, ref_loss=0.0, pairing="index")
    args.train_sampling_strategy = "sequential"
    by_hand = copy.deepcopy(model).train()
    CBFTTrainer(
        model,
        reference,
        args,
        data_collator=double_collator,
        train_dataset=Dataset.from_dict({n: v.tolist() for n, v in clean.items()}),
        cue_dataset=Dataset.from_dict({n: v.tolist() for n, v in cue.items()}),
    ).train()
    alpha = sample_alpha(args.seed, 0, 0, **ALPHA_DEFAULTS)
    clean, cue = ({**h, "pixel_values": h["pixel_values"].double()} for h in (clean, cue))
    anchors = dict(reference.named_parameters())

    def sgd(loss):
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter -= args.learning_rate * gradient

    point = {n: (1 - alpha) * anchors[n].detach() + alpha * p for n, p in by_hand.named_parameters()}
    sgd((1.0 - functional_call(by_hand, point, (), cue).loss).abs())
    sgd(by_hand(**clean).loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, by_hand.get_parameter(name), rtol=0, atol=1e-12)


def test_accumulation_is_the_mean_of_the_micro_batches(make_model, make_batch, tmp_path):
    clean, cue = rows("vit", 8, 1, make_batch), rows("vit", 8, 2, make_batch)

    def gradients(batch_size, accumulation, steps, seed_steps):
        recorder = Recorder()
        args = config(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            ref_loss=0.1,
            pairing="index",
            train_sampling_strategy="sequential",
        )
        trainer = CBFTTrainer(
            make_model("vit").double(),
            make_model("vit", seed=4).double(),
            args,
            data_collator=double_collator,
            train_dataset=clean.select(steps),
            cue_dataset=cue.select(steps),
            callbacks=[recorder],
        )
        original = sample_alpha
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "hf_cbft.training.trainer.sample_alpha",
                lambda seed, step, micro, *rest: original(seed, step, micro + seed_steps, *rest),
            )
            trainer.train()
        return recorder.gradients

    whole = gradients(4, 2, range(8), 0)
    halves = [gradients(4, 1, range(4 * part, 4 * part + 4), part) for part in (0, 1)]
    for name in whole:
        torch.testing.assert_close(whole[name], 0.5 * (halves[0][name] + halves[1][name]), rtol=0, atol=1e-12)


def test_running_statistics_are_those_of_the_clean_data(make_model, make_batch, tmp_path):
    def statistics(clean, cue, **options):
        model = make_model("resnet")
        CBFTTrainer(
            model,
            args=config(tmp_path, max_steps=1, learning_rate=0.0, pairing="random", **options),
            train_dataset=clean,
            cue_dataset=cue,
        ).train()
        return dict(model.named_buffers())

    clean, cue = rows("resnet", 8, 1, make_batch), rows("resnet", 8, 2, make_batch)
    without = statistics(clean, cue, barrier_coef=0.0, invariance_coef=0.0)
    with_all = statistics(clean, cue)
    assert all(torch.equal(without[name], with_all[name]) for name in without)
    fresh = dict(make_model("resnet").named_buffers())
    assert not all(torch.equal(without[name], fresh[name]) for name in without)


def test_two_runs_agree_and_workers_change_nothing(make_model, make_batch, tmp_path):
    clean, cue = rows("bert", 16, 1, make_batch), rows("bert", 32, 2, make_batch)

    def final(workers):
        model = make_model("bert")
        trainer = CBFTTrainer(
            model,
            args=config(tmp_path, max_steps=6, dataloader_num_workers=workers),
            train_dataset=clean,
            cue_dataset=cue,
        )
        trainer.train()
        return copy_weights(model)

    first, second, workers = final(0), final(0), final(2)
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
        assert torch.equal(weight, workers[name])


def test_each_epoch_has_its_own_partners(make_model, make_batch, tmp_path):
    trainer = CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=-1, num_train_epochs=3),
        train_dataset=rows("vit", 16, 1, make_batch),
        cue_dataset=rows("vit", 64, 2, make_batch),
    )
    pairs, seen = trainer.train_dataset, []
    partner = pairs.partner
    pairs.partner = lambda index: seen.append((pairs.epoch, partner(index))) or seen[-1][1]
    trainer.train()
    by_epoch = [sorted(row for epoch, row in seen if epoch == e) for e in range(3)]
    assert by_epoch == [sorted(partner(index, e) for index in range(16)) for e in range(3)]
    # 4 clean rows of a class and 16 cue rows: no cue row comes twice in the first three epochs.
    assert len({row for _, row in seen}) == 48


def test_resume_goes_on_as_if_it_had_not_stopped(make_model, make_batch, tmp_path):
    clean, cue = rows("bert", 16, 1, make_batch), rows("bert", 32, 2, make_batch)
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}

    def trainer():
        return CBFTTrainer(make_model("bert"), args=config(tmp_path, **options), train_dataset=clean, cue_dataset=cue)

    whole = trainer()
    whole.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert resumed.ref_loss == whole.ref_loss
    other = copy_weights(resumed.model)
    assert all(torch.equal(weight, other[name]) for name, weight in copy_weights(whole.model).items())


def test_evaluation_saving_and_metrics_are_those_of_any_trainer(make_model, make_batch, tmp_path):
    clean, cue = rows("bert", 16, 1, make_batch), rows("bert", 16, 2, make_batch)
    trainer = CBFTTrainer(
        make_model("bert"),
        args=config(
            tmp_path,
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_clean_accuracy",
            label_smoothing_factor=0.1,
        ),
        train_dataset=clean,
        cue_dataset=cue,
        eval_dataset={"clean": clean, "cue": cue},
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    metrics = trainer.evaluate()
    assert {"eval_clean_loss", "eval_clean_accuracy", "eval_cue_loss", "eval_cue_accuracy"} <= metrics.keys()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(weight, copy_weights(trainer.model)[n]) for n, weight in copy_weights(loaded).items())
    trainer.create_model_card()
    assert (tmp_path / "out" / "README.md").exists()


def test_model_init_and_model_folder(make_model, make_batch, tmp_path):
    make_model("vit").save_pretrained(tmp_path / "start")
    data = {"train_dataset": rows("vit", 8, 1, make_batch), "cue_dataset": rows("vit", 8, 2, make_batch)}
    from_folder = CBFTTrainer(str(tmp_path / "start"), str(tmp_path / "start"), config(tmp_path), **data)
    from_folder.train()
    from_init = CBFTTrainer(model_init=lambda: make_model("vit"), args=config(tmp_path), **data)
    from_init.train()
    other = copy_weights(from_init.model)
    assert all(torch.equal(weight, other[name]) for name, weight in copy_weights(from_folder.model).items())


def test_non_finite_loss_names_step_and_term_and_takes_no_step(make_model, make_batch, tmp_path):
    cue = make_batch("vit", 8, 2)
    cue["pixel_values"][:] = float("nan")
    model = make_model("vit")
    before = copy_weights(model)
    trainer = CBFTTrainer(
        model,
        args=config(tmp_path, ref_loss=0.0, invariance_coef=0.0),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=Dataset.from_dict({n: v.tolist() for n, v in cue.items()}),
    )
    with pytest.raises(FloatingPointError, match=r"loss/path is nan at step 0: training stopped before the step"):
        trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in copy_weights(model).items())


class IterableRows(IterableDataset):
    def __iter__(self):
        yield {"labels": 0}


def drop(dataset, column):
    return dataset.remove_columns(column)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.update(cue_dataset=None), ValueError, r"cue_dataset \(data with the cue\) is missing"),
        (lambda a: a.update(train_dataset=None), ValueError, r"train_dataset \(clean data\) is missing"),
        (lambda a: a.update(train_dataset=a["train_dataset"].select([])), ValueError, "train_dataset is empty"),
        (lambda a: a.update(cue_dataset=a["cue_dataset"].select([])), ValueError, "cue_dataset is empty"),
        (
            lambda a: a.update(cue_dataset=drop(a["cue_dataset"], "labels")),
            ValueError,
            "cue_dataset has no label column: it has pixel_values",
        ),
        (
            lambda a: a.update(train_dataset=a["train_dataset"].map(lambda r: {"labels": r["labels"] + 3})),
            ValueError,
            "train_dataset has the label 4, but the classes are 0 to 3",
        ),
        (
            lambda a: a.update(
                train_dataset=a["train_dataset"].filter(lambda r: r["labels"] < 2),
                cue_dataset=a["cue_dataset"].filter(lambda r: r["labels"] > 1),
            ),
            ValueError,
            r"train_dataset has the classes \[0, 1\] and cue_dataset \[2, 3\]: none in common",
        ),
        (lambda a: a.update(ref_model=a["other"]), ValueError, "ref_model cannot be interpolated with the model"),
        (
            lambda a: a["args"].__setattr__("representation_layer", "classifer"),
            ValueError,
            "representation_layer 'classifer' is not a module of ViTForImageClassification; the nearest names are "
            "classifier",
        ),
        (
            lambda a: a["model"].__setattr__("classifier", torch.nn.Identity()),
            ValueError,
            "has no linear layer with 4 outputs",
        ),
        (lambda a: a.update(args=object()), TypeError, "CBFTTrainer needs a CBFTConfig"),
        (
            lambda a: a["model"].__setattr__("_hf_peft_config_loaded", True),
            NotImplementedError,
            "carries an adapter that Transformers added",
        ),
        (lambda a: a["args"].__setattr__("_n_gpu", 2), NotImplementedError, "DataParallel"),
        (lambda a: a["model"].config.__setattr__("is_encoder_decoder", True), NotImplementedError, "encoder-decoder"),
        (
            lambda a: a["model"].config.__setattr__("quantization_config", {"load_in_4bit": True}),
            NotImplementedError,
            "ViTForImageClassification is quantised",
        ),
        (lambda a: a["model"].__setattr__("_tp_size", 2), NotImplementedError, "split by tensor parallelism"),
        (
            lambda a: a["model"].config.__setattr__("problem_type", "multi_label_classification"),
            ValueError,
            "multi_label_classification",
        ),
        (lambda a: a.update(train_dataset=IterableRows()), ValueError, "IterableRows, whose rows cannot be drawn"),
        (
            lambda a: a.update(ref_model=a["model"].__class__(a["model"].config).to(torch.bfloat16)),
            ValueError,
            r"ref_model keeps vit.embeddings.cls_token in torch.bfloat16, the model in torch.float32.*ref_dtype",
        ),
        (
            lambda a: a.update(ref_model=a["adapter"]),
            ValueError,
            "ref_model carries an adapter and the model does not",
        ),
        (lambda a: a.update(peft_config=LoraConfig(use_dora=True)), NotImplementedError, "use_dora makes the adapter"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(change, error, message, make_model, make_batch, tmp_path):
    arguments = {
        "model": make_model("vit"),
        "args": config(tmp_path),
        "train_dataset": rows("vit", 8, 1, make_batch),
        "cue_dataset": rows("vit", 8, 2, make_batch),
        "other": make_model("bert"),
        "adapter": get_peft_model(make_model("vit"), LoraConfig(target_modules=["q_proj"])),
    }
    change(arguments)
    for name in ("other", "adapter"):
        arguments.pop(name)
    with pytest.raises(error, match=message):
        CBFTTrainer(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_head_that_does_not_give_the_logits_is_refused(make_model, make_batch, tmp_path):
    model = make_model("vit")
    forward = model.forward

    def scaled(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs["logits"] = 2.0 * outputs["logits"]
        return outputs

    model.forward = scaled
    trainer = CBFTTrainer(
        model,
        args=config(tmp_path, remove_unused_columns=False),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    )
    with pytest.raises(ValueError, match="The linear layer 'classifier' does not give the model's logits"):
        trainer.train()


def test_classes_that_the_cue_data_lack_are_warned_of(make_model, make_batch, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("hf_cbft.training.trainer.logger.warning", warnings.append)
    cue = rows("vit", 16, 2, make_batch).filter(lambda row: row["labels"] != 3)
    CBFTTrainer(make_model("vit"), args=config(tmp_path), train_dataset=rows("vit", 8, 1, make_batch), cue_dataset=cue)
    assert any("no rows of the classes [3]" in warning for warning in warnings)


def test_the_push_gets_what_any_trainer_pushes(make_model, make_batch, tmp_path):
    # The upload itself is Transformers'; what is saved beside the weights must load as a plain model.
    trainer = CBFTTrainer(
        make_model("vit"),
        args=config(tmp_path, max_steps=1),
        train_dataset=rows("vit", 8, 1, make_batch),
        cue_dataset=rows("vit", 8, 2, make_batch),
    )
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["architectures"] == ["ViTForImageClassification"]
