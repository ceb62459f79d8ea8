# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers' ResNet with the stem of the CIFAR literature: 3x3, stride 1, no pooling.

Transformers' own stem (7x7 with stride 2, then a max-pool) leaves 8x8 of a 32x32 image before the first block, and
1x1 after the last. Importing this file makes its `model_type` known to `AutoConfig` and
`AutoModelForImageClassification`. A saved folder carries this file along, so that `trust_remote_code=True` loads it
where this library is not installed; nothing but Transformers is imported here for that reason.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetConvLayer


class CifarResNetConfig(ResNetConfig):
    """A [`~transformers.ResNetConfig`], whose model has another stem. Nothing is added to it."""

    model_type = "cifar_resnet"


class CifarResNetForImageClassification(ResNetForImageClassification):
    """[`~transformers.ResNetForImageClassification`] for small images: its stem leaves height and width as they are.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2 (the stem for CIFAR-10).
    """

    config_class = CifarResNetConfig
    config: CifarResNetConfig

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        stem = self.resnet.embedder
        stem.embedder = ResNetConvLayer(
            config.num_channels, config.embedding_size, kernel_size=3, stride=1, activation=config.hidden_act
        )
        stem.pooler = nn.Identity()
        self.post_init()


AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification, exist_ok=True)
CifarResNetConfig.register_for_auto_class()
CifarResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def cifar_resnet18(num_labels: int, seed: int = 0, width: int = 64) -> CifarResNetForImageClassification:
    """ResNet-18 for 32x32 images, with fresh weights: four stages of two basic blocks, the first with stride 1.

    Args:
        num_labels (`int`): how many classes.
        seed (`int`, *optional*, defaults to 0): of the weights; the generator of the caller stays where it is.
        width (`int`, *optional*, defaults to 64): channels of the stem and the first stage; each stage has twice as
            many as the one before. 64 is ResNet-18, 11.2 million parameters.

    Raises:
        ValueError: fewer than two classes, or a width below 1.

    Example:

    ```python
    >>> from paper.cifar_resnet import cifar_resnet18
    >>> model = cifar_resnet18(num_labels=10, width=16)
    >>> sum(parameter.numel() for parameter in model.parameters())
    701466

    ```
    """
    if num_labels < 2 or width < 1:
        raise ValueError(
            f"A ResNet-18 needs 2 classes or more and a width of 1 or more; got {num_labels} and {width}."
        )
    config = CifarResNetConfig(
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=num_labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CifarResNetForImageClassification(config)
