# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A plain multilayer perceptron on pixels, as a Transformers model.

Importing this file makes its `model_type` known to `AutoConfig` and `AutoModelForImageClassification`. A saved folder
carries this file along, so that `trust_remote_code=True` loads it where this library is not installed; nothing but
Transformers is imported here for that reason.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class PixelMlpConfig(PreTrainedConfig):
    """Of a [`PixelMlpForImageClassification`].

    Args:
        image_size (`int`, *optional*, defaults to 24), num_channels (`int`, *optional*, defaults to 3): of an image.
        hidden_sizes (`list[int]`, *optional*): units of each hidden layer; two of 256 by default.
    """

    model_type = "pixel_mlp"

    def __init__(
        self, image_size: int = 24, num_channels: int = 3, hidden_sizes: list[int] | None = None, **kwargs: Any
    ) -> None:
        self.image_size, self.num_channels = image_size, num_channels
        self.hidden_sizes = [256, 256] if hidden_sizes is None else hidden_sizes
        super().__init__(**kwargs)


class PixelMlpForImageClassification(PreTrainedModel):
    """Linear layers with ReLU between them, on all pixels of an image at once."""

    config_class = PixelMlpConfig
    config: PixelMlpConfig
    main_input_name = "pixel_values"
    base_model_prefix = "layers"

    def __init__(self, config: PixelMlpConfig) -> None:
        super().__init__(config)
        sizes = [config.num_channels * config.image_size**2, *config.hidden_sizes]
        hidden = [(nn.Linear(before, after), nn.ReLU()) for before, after in pairwise(sizes)]
        layers = [layer for pair in hidden for layer in pair]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], config.num_labels))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values (`torch.Tensor`): (B, C, H, W).
            labels (`torch.Tensor`, *optional*): (B,), the classes.
        """
        logits = self.layers(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(PixelMlpConfig.model_type, PixelMlpConfig, exist_ok=True)
AutoModelForImageClassification.register(PixelMlpConfig, PixelMlpForImageClassification, exist_ok=True)
PixelMlpConfig.register_for_auto_class()
PixelMlpForImageClassification.register_for_auto_class("AutoModelForImageClassification")
