# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How the models of the experiments are made and trained, beside those of the demo."""

from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed

from hf_cbft.cli import recipes as demo
from hf_cbft.cli.recipes import Recipe
from hf_cbft.data.digits import IMAGE_SIZE
from paper.pixel_mlp import PixelMlpConfig, PixelMlpForImageClassification

RECIPES = {
    **demo.RECIPES,
    # The setting of the authors' code on the digits, see its own rows on the page of findings.
    "resnet18-16": Recipe(
        model="resnet18-16",
        contrast=0.6,
        noise=0.3,
        cue_share=0.95,
        pretrain_steps=480,
        pretrain_lr=2e-3,
        steps=400,
        small_lr=1e-4,
        medium_lr=2e-3,
        large_lrs=(5e-3, 1e-2, 2e-2),
        cbft_lr=1.5e-2,
        invariance_coef=2.0,
    ),
    # For paths between networks that were trained apart: what the width does to them.
    **{
        f"resnet-{width}": Recipe(
            model=f"resnet-{width}",
            contrast=0.7,
            noise=0.2,
            cue_share=0.95,
            pretrain_steps=steps,
            pretrain_lr=2e-3,
            steps=steps,
            small_lr=1e-4,
            medium_lr=2e-3,
            large_lrs=(5e-3, 1e-2, 2e-2),
            cbft_lr=5e-3,
            invariance_coef=5.0,
        )
        for width, steps in ((32, 400), (128, 240))
    },
    "mlp": Recipe(
        model="mlp",
        contrast=0.72,
        cue_share=0.9,
        pretrain_steps=400,
        pretrain_lr=1e-3,
        steps=400,
        small_lr=1e-4,
        medium_lr=1e-3,
        large_lrs=(2e-3, 4e-3, 8e-3),
        cbft_lr=2e-3,
    ),
    "bert": Recipe(
        model="bert",
        cue_share=0.9,
        pretrain_steps=300,
        pretrain_lr=1e-3,
        steps=300,
        small_lr=3e-5,
        medium_lr=1e-3,
        large_lrs=(3e-3, 6e-3, 1e-2),
        cbft_lr=3e-3,
    ),
    "vit on digit-groups": Recipe(
        model="vit",
        cue_share=0.95,
        pretrain_steps=350,
        pretrain_lr=2e-3,
        steps=360,
        small_lr=3e-5,
        medium_lr=1e-3,
        large_lrs=(2e-3, 3e-3, 4e-3),
        cbft_lr=1e-3,
        # A guess of two classes has a loss of 0.69 nats.
        barrier_margin=0.35,
    ),
    # The paper's own recipe: SGD at 0.01, batches of 256, 20 epochs over 2,500 clean images.
    "cifar-resnet18": Recipe(
        model="cifar-resnet18",
        cue_share=0.9,
        pretrain_steps=18000,
        pretrain_lr=0.1,
        steps=200,
        small_lr=1e-3,
        medium_lr=1e-2,
        large_lrs=(0.03, 0.1, 0.3),
        cbft_lr=1e-2,
        training={"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 1e-4},
        batch_size=256,
    ),
}


def build_model(name: str, seed: int, num_classes: int = 10, **options: Any) -> torch.nn.Module:
    """A fresh small classifier.

    | name | what | parameters |
    |---|---|---|
    | `vit` | a transformer of 3 layers for the digits | 156,000 |
    | `resnet` | a BatchNorm network of 3 blocks for the digits | 80,000 |
    | `resnet18-16` | ResNet-18's layout, first width 16 | 700,000 |
    | `resnet-32`, `resnet-128` | as `resnet`, of other first widths | 312,000; 4,900,000 |
    | `mlp` | two hidden layers of 256 units | 510,000 |
    | `bert` | a transformer of 2 layers for short texts; `vocab_size` is needed | 110,000 |
    """
    if name in demo.RECIPES:
        return demo.build_model(name, seed, num_classes)
    set_seed(seed)
    labels = demo.digit_labels(num_classes)
    if name == "bert":
        config = BertConfig(num_hidden_layers=2, max_position_embeddings=32, **demo.SMALL, **labels, **options)
        return BertForSequenceClassification(config)
    if name == "mlp":
        return PixelMlpForImageClassification(PixelMlpConfig(image_size=IMAGE_SIZE, **labels))
    if name == "resnet18-16":
        return demo.build_resnet([16, 32, 64, 128], 2, **labels)
    return demo.build_resnet([int(name.removeprefix("resnet-")) * factor for factor in (1, 2, 4)], 1, **labels)
