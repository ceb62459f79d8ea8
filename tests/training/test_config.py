# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`CBFTConfig`: its defaults, and what it refuses before a model is touched."""

import math

import pytest
from transformers import HfArgumentParser

from hf_cbft import CBFTConfig


def config(tmp_path, **options):
    return CBFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", **options)


def test_defaults_are_the_documented_ones(tmp_path):
    made = config(tmp_path)
    assert (made.barrier_coef, made.barrier_margin, made.ref_loss, made.barrier_stop_ratio) == (1.0, 1.0, None, 0.5)
    assert (made.invariance_coef, made.invariance_warmup_ratio) == (1.0, 0.05)
    assert (made.alpha_sampling, made.alpha_min, made.alpha_max) == ("clipped_normal", 0.25, 0.75)
    assert (made.update_rule, made.pairing, made.representation_layer) == ("joint", "class", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"barrier_coef": -1.0}, r"barrier_coef = -1.0: give a finite number >= 0"),
        ({"barrier_coef": math.nan}, "barrier_coef = nan"),
        ({"barrier_margin": -0.1}, "barrier_margin = -0.1"),
        ({"barrier_margin": math.inf}, "barrier_margin = inf"),
        ({"invariance_coef": math.nan}, "invariance_coef = nan"),
        ({"ref_loss": -1.0}, "ref_loss = -1.0"),
        ({"barrier_stop_ratio": 1.5}, "barrier_stop_ratio = 1.5 is a share of the steps"),
        ({"invariance_warmup_ratio": -0.1}, "invariance_warmup_ratio = -0.1 is a share of the steps"),
        ({"alpha_min": 0.8}, "alpha_min = 0.8 and alpha_max = 0.75 are no stretch of the path"),
        ({"alpha_max": 1.2}, "alpha_max = 1.2 are no stretch"),
        ({"alpha_min": math.nan}, "alpha_min = nan"),
        ({"alpha_sampling": "beta"}, "alpha_sampling = 'beta' is unknown: use one of clipped_normal, uniform"),
        ({"update_rule": "both"}, "update_rule = 'both' is unknown: use one of joint, alternating"),
        ({"pairing": "nearest"}, "pairing = 'nearest' is unknown: use one of class, random, index"),
        ({"optim": "lomo"}, "The optimizer lomo steps inside backward"),
        ({"optim": "galore_adamw_layerwise"}, "galore_adamw_layerwise steps inside backward"),
        ({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "never learn of a new epoch"),
        ({"torch_compile": True}, "torch_compile is not supported"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha puts noise into the embeddings"),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint saves in the middle of a step"),
        ({"use_liger_kernel": True}, "use_liger_kernel replaces the layers"),
        ({"ref_dtype": "float33"}, "ref_dtype = 'float33' is no dtype of torch"),
        ({"train_sampling_strategy": "group_by_length"}, "needs the length of an item"),
        ({"update_rule": "alternating", "gradient_accumulation_steps": 2}, "steps twice on each pair of batches"),
        ({"update_rule": "alternating", "fp16": True}, "loss scale of fp16"),
    ],
)
def test_values_that_cannot_work_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_deepspeed_is_refused(tmp_path):
    made = config(tmp_path)
    made.deepspeed = {"zero_optimization": {"stage": 2}}  # its own set-up needs the library
    with pytest.raises(ValueError, match="DeepSpeed's engine steps inside its own backward"):
        made._check_training_features()


def test_fsdp1_is_refused(tmp_path):
    made = config(tmp_path)
    made.fsdp, made.fsdp_config = True, {"version": 1}
    with pytest.raises(ValueError, match="FSDP1 keeps its weights in flat parameters"):
        made._check_training_features()


def test_tensor_parallelism_is_refused(tmp_path):
    made = config(tmp_path)
    made.parallelism_config = object()
    with pytest.raises(ValueError, match=r"parallelism_config \(tensor, context or sequence parallelism\)"):
        made._check_training_features()


def test_every_field_is_a_flag(tmp_path):
    (parsed,) = HfArgumentParser(CBFTConfig).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--use_cpu", "--barrier_coef", "2", "--pairing", "random", "--ref_loss", "0"]
    )
    assert (parsed.barrier_coef, parsed.pairing, parsed.ref_loss) == (2.0, "random", 0.0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed's engine steps inside its own backward"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"use FSDP2 \(fsdp_version: 2\)"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP1 keeps its weights in flat parameters"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "torch_compile is not supported"),
        ({"WORLD_SIZE": "2"}, "2 processes were started and Transformers sees one"),
    ],
)
def test_what_a_launcher_switched_on_is_refused(environment, message, tmp_path, monkeypatch):
    made = config(tmp_path)
    assert made.world_size == 1
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        made.check_environment()


def test_fsdp2_and_no_compiler_pass(tmp_path, monkeypatch):
    made = config(tmp_path)
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_DYNAMO_BACKEND": "no"}.items():
        monkeypatch.setenv(name, value)
    made.check_environment()


def test_ranks_whose_batches_end_early_are_refused(tmp_path, monkeypatch):
    made = config(tmp_path, accelerator_config={"even_batches": False})
    made.check_environment()
    monkeypatch.setattr(CBFTConfig, "world_size", 2)
    with pytest.raises(ValueError, match="even_batches=False lets a rank's batches end early"):
        made.check_environment()


def test_a_batch_size_is_not_found_on_several_processes(tmp_path, monkeypatch):
    made = config(tmp_path, auto_find_batch_size=True)
    made.check_environment()
    monkeypatch.setattr(CBFTConfig, "world_size", 2)
    with pytest.raises(ValueError, match="auto_find_batch_size on several processes"):
        made.check_environment()


def test_reentrant_checkpointing_is_for_one_process(tmp_path, monkeypatch):
    made = config(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True})
    made.check_environment()
    monkeypatch.setattr(CBFTConfig, "world_size", 2)
    with pytest.raises(ValueError, match="DDP takes one: leave it out on several processes"):
        made.check_environment()
