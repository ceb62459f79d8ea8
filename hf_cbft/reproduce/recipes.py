# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How the models of the demo and of the experiments are made and trained: sizes, steps and learning rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_cbft.data.digits import IMAGE_SIZE
from hf_cbft.reproduce.pixel_mlp import PixelMlpConfig, PixelMlpForImageClassification


@dataclass(frozen=True)
class Recipe:
    """Data, model and training of one experiment. Every fine-tuning takes `steps` steps.

    What is in [`RECIPES`] was set on seeds 11 to 14, so that the seeds that are shown were not chosen for.

    Args:
        model (`str`): which one, see [`build_model`].
        cue_share (`float`): fraction of the pretraining rows that carry the cue, where the experiment names none.
        pretrain_steps (`int`), pretrain_lr (`float`): of the model that relies on the cue.
        steps (`int`): of every fine-tuning.
        small_lr (`float`), medium_lr (`float`), large_lrs (`tuple`, ascending): of naive fine-tuning.
        cbft_lr (`float`), invariance_coef (`float`, *optional*), barrier_margin (`float`, *optional*): of CBFT.
        contrast (`float`, *optional*), noise (`float`, *optional*): of the embedded digits.
        training (`Mapping`, *optional*): more fields of `TrainingArguments`, such as the optimizer.
        batch_size (`int`, *optional*), num_points (`int`, *optional*): rows of a step, points of a path.
        test_rows (`int`, *optional*): how many test rows count; `None`: all.
    """

    model: str
    cue_share: float
    pretrain_steps: int
    pretrain_lr: float
    steps: int
    small_lr: float
    medium_lr: float
    large_lrs: tuple[float, ...]
    cbft_lr: float
    invariance_coef: float = 1.0
    barrier_margin: float = 1.0
    contrast: float = 1.0
    noise: float = 0.0
    training: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    num_points: int = 11
    test_rows: int | None = None

    def quick(self) -> "Recipe":
        """The same way through in seconds. Its figures mean nothing."""
        return replace(
            self, pretrain_steps=60, steps=12, large_lrs=self.large_lrs[:2], num_points=5, test_rows=60, batch_size=32
        )

    def training_arguments(self, output_dir: str, learning_rate: float, seed: int, device: str) -> dict[str, Any]:
        """Fields of `TrainingArguments` for a fine-tuning: cosine to 0, nothing saved, nothing printed."""
        return {
            "output_dir": output_dir,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.0,
            "dataloader_drop_last": True,
            "dataloader_pin_memory": device != "cpu",
            "logging_steps": max(1, self.steps // 10),
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": device == "cpu",
            "seed": seed,
            **self.training,
        }

    def pretraining_arguments(self, output_dir: str, seed: int, device: str) -> TrainingArguments:
        """Those of the model that relies on the cue: with a warm-up of the learning rate and weight decay."""
        options = self.training_arguments(output_dir, self.pretrain_lr, seed, device)
        steps = {"max_steps": self.pretrain_steps, "logging_steps": max(1, self.pretrain_steps // 10)}
        shape = {"warmup_steps": self.pretrain_steps // 10, "weight_decay": 0.01}
        return TrainingArguments(**{**options, **shape, **self.training, **steps}, remove_unused_columns=False)


RECIPES = {
    "vit": Recipe(
        model="vit",
        contrast=0.72,
        cue_share=0.9,
        pretrain_steps=350,
        pretrain_lr=2e-3,
        steps=360,
        small_lr=3e-5,
        medium_lr=2e-3,
        large_lrs=(3e-3, 4e-3, 6e-3),
        cbft_lr=3e-3,
        barrier_margin=2.0,
    ),
    "resnet": Recipe(
        model="resnet",
        contrast=0.7,
        noise=0.2,
        cue_share=0.95,
        pretrain_steps=480,
        pretrain_lr=2e-3,
        steps=400,
        small_lr=1e-4,
        medium_lr=2e-3,
        large_lrs=(5e-3, 1e-2, 2e-2),
        cbft_lr=1e-2,
        invariance_coef=10.0,
    ),
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
    set_seed(seed)
    labels: dict[str, Any] = {
        "id2label": {i: str(i) for i in range(num_classes)},
        "label2id": {str(i): i for i in range(num_classes)},
    }
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    small = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, **plain}
    if name == "vit":
        return ViTForImageClassification(
            ViTConfig(num_hidden_layers=3, image_size=IMAGE_SIZE, patch_size=4, **small, **labels)
        )
    if name == "bert":
        return BertForSequenceClassification(
            BertConfig(num_hidden_layers=2, max_position_embeddings=32, **small, **labels, **options)
        )
    if name == "mlp":
        return PixelMlpForImageClassification(PixelMlpConfig(image_size=IMAGE_SIZE, **labels))
    widths, depth = ([16, 32, 64, 128], 2) if name == "resnet18-16" else ([16, 32, 64], 1)
    if name in ("resnet-32", "resnet-128"):
        widths = [int(name.removeprefix("resnet-")) * factor for factor in (1, 2, 4)]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=widths[0], hidden_sizes=widths, depths=[depth] * len(widths), layer_type="basic", **labels
        )
    )
