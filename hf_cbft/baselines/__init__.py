# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines of CBFT: naive rates, the last layer, LP-FT, DFR and group balance."""

from hf_cbft.baselines.feature_reweighting import ReweightedLayer, deep_feature_reweighting
from hf_cbft.baselines.finetuning import (
    finetune,
    finetune_best_rate,
    finetune_group_balanced,
    linear_probe_then_finetune,
)
from hf_cbft.baselines.last_layer import Features, RetrainedLayer, last_layer_features, retrain_last_layer

__all__ = [
    "Features",
    "RetrainedLayer",
    "ReweightedLayer",
    "deep_feature_reweighting",
    "finetune",
    "finetune_best_rate",
    "finetune_group_balanced",
    "last_layer_features",
    "linear_probe_then_finetune",
    "retrain_last_layer",
]
