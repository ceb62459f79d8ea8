# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`CBFTTrainer` with what people switch on in `TrainingArguments`: each feature gives the same, right gradient."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.training import FIXED_ORDER, dataset, double_collator, sgd_config
from torch.func import functional_call
from transformers import TrainerCallback

from hf_cbft import CBFTTrainer
from hf_cbft.baselines import finetune
from hf_cbft.paths.geometry import sample_alpha
from hf_cbft.paths.interpolation import copy_weights

NUM_CLASSES = 4
config = partial(sgd_config, ref_loss=0.25, invariance_coef=0.0, **FIXED_ORDER)


class Recorder(TrainerCallback):
    """Gradients of each step as they are before the optimizer takes it, clipped if they are clipped."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def naive_gradients(model, reference, clean, cue, alpha, args, clean_loss=None):
    """Gradient of cross-entropy plus barrier by autograd through an explicit interpolation."""
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    point = {n: (1 - alpha) * reference[n] + alpha * p for n, p in leaves.items()}
    clean_loss = clean_loss or (lambda outputs, labels: outputs.loss)
    total = clean_loss(functional_call(model, leaves, (), clean), clean["labels"])
    path_loss = functional_call(model, point, (), cue).loss
    total = total + args.barrier_coef * (args.ref_loss + args.barrier_margin - path_loss).abs()
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def relative_error(found, expected):
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3
    return (max((found[n] - expected[n]).abs().max() for n in expected) / largest).item()


@pytest.fixture
def step(make_model, make_batch, tmp_path):
    """`step(**options)`: one step on ViT; its gradients, the model before and after, its reference and the halves."""

    def run(dtype=torch.float64, **options):
        model, reference = make_model("vit").to(dtype), make_model("vit", seed=4).to(dtype)
        clean, cue = make_batch("vit", 8, 1), make_batch("vit", 8, 2)
        args, recorder, before = config(tmp_path, **options), Recorder(), copy.deepcopy(model).train()
        CBFTTrainer(
            model,
            reference,
            args,
            data_collator=double_collator if dtype == torch.float64 else None,
            train_dataset=dataset(clean),
            cue_dataset=dataset(cue),
            callbacks=[recorder],
        ).train()
        halves = [{n: v.to(dtype) if v.is_floating_point() else v for n, v in h.items()} for h in (clean, cue)]
        return recorder.steps[0], before, model, dict(reference.named_parameters()), halves, args

    return run


def test_clipping_takes_one_norm_over_the_joint_gradient(step):
    gradients, before, _, reference, halves, args = step(max_grad_norm=0.3)
    expected = naive_gradients(before, reference, *halves, sample_alpha(3, 0), args)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert norm > 0.3
    assert relative_error(gradients, {n: g * 0.3 / (norm + 1e-6) for n, g in expected.items()}) <= 1e-10


def test_label_smoothing_is_for_the_clean_loss_alone(step):
    gradients, before, _, reference, halves, args = step(label_smoothing_factor=0.2)

    def smoothed(outputs, labels):
        return F.cross_entropy(outputs.logits, labels, label_smoothing=0.2)

    expected = naive_gradients(before, reference, *halves, sample_alpha(3, 0), args, smoothed)
    assert relative_error(gradients, expected) <= 1e-6  # Transformers smooths in float32


def test_bf16_rounds_the_passes_and_not_the_path(step):
    gradients, before, _, reference, halves, args = step(dtype=torch.float32, bf16=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = naive_gradients(before, reference, *halves, sample_alpha(3, 0), args)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert relative_error(gradients, expected) <= 3e-2  # a few roundings of bfloat16
    single = naive_gradients(before, reference, *halves, sample_alpha(3, 0), args)
    assert relative_error(gradients, single) > 1e-4  # the passes did run in bfloat16


def test_a_frozen_backbone_has_no_copy_and_no_gradient(make_model, make_batch, tmp_path):
    model = make_model("vit").double()
    model.vit.requires_grad_(False)
    before, recorder = copy.deepcopy(model).train(), Recorder()
    clean, cue = make_batch("vit", 8, 1), make_batch("vit", 8, 2)
    trainer = CBFTTrainer(
        model,
        args=config(tmp_path, max_steps=2),
        data_collator=double_collator,
        train_dataset=dataset(clean),
        cue_dataset=dataset(cue),
        callbacks=[recorder],
    )
    trainer.train()
    assert set(trainer.reference.weights) == {"classifier.weight", "classifier.bias"}
    assert set(recorder.steps[1]) == set(trainer.reference.weights)
    # The second step starts off the reference, so that the path has a length.
    reference = {n: p.detach().clone() for n, p in before.named_parameters()}
    with torch.no_grad():
        for name, gradient in recorder.steps[0].items():
            before.get_parameter(name).sub_(1e-2 * gradient)
    halves = [{n: v.double() if v.is_floating_point() else v for n, v in h.items()} for h in (clean, cue)]
    expected = naive_gradients(before, reference, *halves, sample_alpha(3, 1), trainer.args)
    assert relative_error(recorder.steps[1], {n: expected[n] for n in recorder.steps[1]}) <= 1e-10


def test_weights_that_are_unfrozen_while_training_are_refused(make_model, make_batch, tmp_path):
    # They would be trained, but held still on the path.
    class Unfreeze(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            model.vit.requires_grad_(state.global_step > 0)

    model = make_model("vit")
    model.vit.requires_grad_(False)
    trainer = CBFTTrainer(
        model,
        args=config(tmp_path, max_steps=3),
        train_dataset=dataset(make_batch("vit", 8, 1)),
        cue_dataset=dataset(make_batch("vit", 8, 2)),
        callbacks=[Unfreeze()],
    )
    with pytest.raises(ValueError, match="cls_token can be trained but is not on the path"):
        trainer.train()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_reference_is_kept_where_and_as_asked(dtype, make_model, make_batch, tmp_path):
    reference = make_model("vit", seed=4)
    trainer = CBFTTrainer(
        make_model("vit"),
        reference.to(torch.bfloat16) if dtype else reference,
        config(tmp_path, ref_dtype=dtype, ref_device="cpu"),
        train_dataset=dataset(make_batch("vit", 8, 1)),
        cue_dataset=dataset(make_batch("vit", 8, 2)),
    )
    trainer.train()
    assert {weight.dtype for weight in trainer.reference.weights.values()} == {
        torch.bfloat16 if dtype else torch.float32
    }
    assert {weight.device.type for weight in trainer.reference.weights.values()} == {"cpu"}


@pytest.mark.parametrize("k", [2, 4])
def test_accumulation_is_the_mean_of_the_micro_batches(k, make_model, make_batch, tmp_path):
    clean, cue = dataset(make_batch("vit", 4 * k, 1)), dataset(make_batch("vit", 4 * k, 2))
    options = {"per_device_train_batch_size": 4, "invariance_coef": 2.0, "invariance_warmup_ratio": 0.0}

    def gradients(rows, accumulation, first_draw):
        recorder = Recorder()
        trainer = CBFTTrainer(
            make_model("vit").double(),
            make_model("vit", seed=4).double(),
            config(tmp_path, gradient_accumulation_steps=accumulation, **options),
            data_collator=double_collator,
            train_dataset=clean.select(rows),
            cue_dataset=cue.select(rows),
            callbacks=[recorder],
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "hf_cbft.training.trainer.sample_alpha",
                lambda seed, step, micro, *rest: sample_alpha(seed, step, micro + first_draw, *rest),
            )
            trainer.train()
        return recorder.steps[0]

    whole = gradients(range(4 * k), k, 0)
    parts = [gradients(range(4 * part, 4 * part + 4), 1, part) for part in range(k)]
    mean = {name: sum(part[name] for part in parts) / k for name in whole}
    assert relative_error(whole, mean) <= 1e-10


def test_micro_batches_that_are_too_small_for_class_means_are_warned_of_once(
    make_model, make_batch, tmp_path, monkeypatch
):
    warnings = []
    monkeypatch.setattr("hf_cbft.training.trainer.logger.warning", warnings.append)
    for rows, expected in ((4, 1), (8, 1)):
        CBFTTrainer(
            make_model("vit"),
            args=config(
                tmp_path, per_device_train_batch_size=rows, gradient_accumulation_steps=2, invariance_coef=1.0
            ),
            train_dataset=dataset(make_batch("vit", 16, 1)),
            cue_dataset=dataset(make_batch("vit", 16, 2)),
        )
        assert len(warnings) == expected
    assert "A micro-batch of 4 rows holds fewer than two of each of the 4 classes" in warnings[0]


def test_rows_that_fill_no_batch_are_refused(make_model, make_batch, tmp_path):
    # Trainer ends at step 0 then, and the model that never left its cue is saved as the fine-tuned one.
    args = config(tmp_path / "out", per_device_train_batch_size=32, dataloader_drop_last=True)
    rows = dataset(make_batch("vit", 16, 1))
    message = r"train_dataset has 16 rows and a batch takes 32: .* per_device_train_batch_size to at most 16, or leave"
    with pytest.raises(ValueError, match=message):
        CBFTTrainer(make_model("vit"), args=args, train_dataset=rows, cue_dataset=dataset(make_batch("vit", 16, 2)))
    with pytest.raises(ValueError, match=message):
        finetune(make_model("vit"), rows, args)
    assert not (tmp_path / "out").exists()


def test_workers_change_no_loss_over_twenty_steps(make_model, make_batch, tmp_path):
    def losses(workers):
        trainer = CBFTTrainer(
            make_model("bert"),
            args=config(
                tmp_path,
                max_steps=20,
                ref_loss=None,
                invariance_coef=1.0,
                pairing="class",
                train_sampling_strategy="random",
                dataloader_num_workers=workers,
            ),
            train_dataset=dataset(make_batch("bert", 24, 1)),
            cue_dataset=dataset(make_batch("bert", 40, 2)),
        )
        trainer.train()
        return [{n: v for n, v in e.items() if n.startswith(("loss", "path"))} for e in trainer.state.log_history[:-1]]

    without = losses(0)
    assert len(without) == 21
    assert without == losses(2)


@pytest.mark.parametrize("after", [0, 3])
def test_a_batch_size_that_is_found_gives_the_run_of_that_batch_size(after, make_model, make_batch, tmp_path):
    # Also when memory ends in the middle: Transformers would go on with the weights trained so far.
    def train(**options):
        model, passes = make_model("bert"), []
        model.bert.embeddings.dropout.p = 0.2

        def hook(module, args, kwargs):
            passes.append(len(kwargs["input_ids"]))
            if max(passes) == 8 and len(passes) > 3 * after:
                passes.clear()
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        trainer = CBFTTrainer(
            model,
            args=config(tmp_path, max_steps=6, invariance_coef=1.0, pairing="class", optim="adamw_torch", **options),
            train_dataset=dataset(make_batch("bert", 24, 1)),
            cue_dataset=dataset(make_batch("bert", 40, 2)),
        )
        model.register_forward_pre_hook(hook, with_kwargs=True)
        torch.manual_seed(7)
        trainer.train()
        return copy_weights(model)

    found = train(auto_find_batch_size=True, per_device_train_batch_size=8)
    # Each attempt takes nine tenths of the last.
    asked = train(per_device_train_batch_size=7)
    assert all(torch.equal(weight, found[name]) for name, weight in asked.items())


def test_the_best_model_is_loaded_by_its_own_names(make_model, make_batch, tmp_path):
    # ViT is saved under other names than its modules have: Transformers would load next to nothing.
    scores = iter([0.5, 0.9, 0.1])
    model = make_model("vit")
    trainer = CBFTTrainer(
        model,
        args=config(
            tmp_path,
            max_steps=3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
            learning_rate=0.5,
        ),
        train_dataset=dataset(make_batch("vit", 8, 1)),
        cue_dataset=dataset(make_batch("vit", 8, 2)),
        eval_dataset=dataset(make_batch("vit", 8, 1)),
        compute_metrics=lambda prediction: {"score": next(scores)},
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = copy_weights(type(model).from_pretrained(trainer.state.best_model_checkpoint))
    assert all(torch.equal(weight, best[name]) for name, weight in copy_weights(model).items())


def test_with_model_init_the_reference_is_the_model_that_training_starts_with(make_model, make_batch, tmp_path):
    def model_init():
        model = make_model("vit")
        torch.nn.init.normal_(model.classifier.weight)  # a new head, drawn anew for each model
        return model

    trainer = CBFTTrainer(
        model_init=model_init,
        args=config(tmp_path, learning_rate=0.0, max_steps=2),
        train_dataset=dataset(make_batch("vit", 8, 1)),
        cue_dataset=dataset(make_batch("vit", 8, 2)),
    )
    torch.randn(7)  # the generator is elsewhere now
    trainer.train()
    live = copy_weights(trainer.model)
    assert all(torch.equal(weight, live[name]) for name, weight in trainer.reference.weights.items())


def test_hyperparameter_search_is_refused_by_name(make_model, make_batch, tmp_path):
    trainer = CBFTTrainer(
        model_init=lambda: make_model("vit"),
        args=config(tmp_path),
        train_dataset=dataset(make_batch("vit", 8, 1)),
        cue_dataset=dataset(make_batch("vit", 8, 2)),
    )
    with pytest.raises(NotImplementedError, match="hyperparameter_search trains many models"):
        trainer.hyperparameter_search()


@pytest.mark.gpu
def test_fp16_follows_float32(make_model, make_batch, tmp_path):
    def losses(**options):
        trainer = CBFTTrainer(
            make_model("vit"),
            make_model("vit", seed=4),
            config(tmp_path, max_steps=20, use_cpu=False, invariance_coef=1.0, **options),
            train_dataset=dataset(make_batch("vit", 8, 1)),
            cue_dataset=dataset(make_batch("vit", 8, 2)),
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses(fp16=True) == pytest.approx(losses(), rel=2e-2)
