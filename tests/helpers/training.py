# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets and settings for short runs of the trainer."""

import numpy as np
import torch
from datasets import Dataset

from hf_cbft import CBFTConfig

# The whole loss in every step, on pairs in the order of the rows: a step that a test can compute by hand.
FIXED_ORDER = {"barrier_stop_ratio": 1.0, "pairing": "index", "train_sampling_strategy": "sequential"}


def dataset(batch: dict[str, torch.Tensor]) -> Dataset:
    """The rows of a batch of model inputs and labels, as lists."""
    return Dataset.from_dict({name: values.tolist() for name, values in batch.items()})


def double_collator(features: list[dict]) -> dict[str, torch.Tensor]:
    """Rows for a float64 model."""
    batch = {name: torch.tensor(np.array([row[name] for row in features])) for name in features[0]}
    return {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}


def sgd_config(folder, **options) -> CBFTConfig:
    """One silent step of plain SGD on a CPU, without warm-up; `options` come before these settings."""
    defaults = {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "invariance_warmup_ratio": 0.0,
        "seed": 3,
    }
    return CBFTConfig(**{**defaults, **options})
