# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutional networks with residual stages: ResNet (BatchNorm) and ConvNext (depthwise convolutions, LayerNorm)."""

from typing import Any

from hf_cbft.alignment.symmetries import Family


def _resnet_flows(model: Any) -> dict[str, str]:
    """A stage is one space, which its sums hold together; without a projection it is that of the stage before."""
    flows, stream = _convolution("embedder.embedder", "", "stem"), "stem"
    for i, stage in enumerate(model.resnet.encoder.stages):
        for j, block in enumerate(stage.layers):
            at, entering = f"encoder.stages.{i}.layers.{j}", stream
            if hasattr(block.shortcut, "convolution"):
                stream = f"stage.{i}.{j}"
                flows |= _convolution(f"{at}.shortcut", entering, stream)
            inside = [f"inner.{i}.{j}.{k}" for k in range(len(block.layer) - 1)]
            for k, (before, after) in enumerate(zip([entering, *inside], [*inside, stream], strict=True)):
                flows |= _convolution(f"{at}.layer.{k}", before, after)
    return {**flows, "classifier.1": f"{stream} ->"}


def _convolution(name: str, before: str, after: str) -> dict[str, str]:
    return {f"{name}.convolution": f"{before} -> {after}", f"{name}.normalization": after}


RESNET = Family("ResNet", ("resnet", "cifar_resnet"), _resnet_flows)


def _convnext_flows(model: Any) -> dict[str, str]:
    flows = {"embeddings.patch_embeddings": "-> stage.0", "embeddings.layernorm": "stage.0"}
    last = model.config.num_stages - 1
    for i in range(last + 1):
        at = f"encoder.stages.{i}"
        if i > 0:
            flows |= {
                f"{at}.downsampling_layer.0": f"stage.{i - 1}",
                f"{at}.downsampling_layer.1": f"stage.{i - 1} -> stage.{i}",
            }
        flows |= {
            f"{at}.layers.{{j}}.(dwconv|layernorm|layer_scale_parameter)": f"stage.{i}",
            f"{at}.layers.{{j}}.pwconv1": f"stage.{i} -> units.{i}.{{j}}",
            f"{at}.layers.{{j}}.pwconv2": f"units.{i}.{{j}} -> stage.{i}",
        }
    return {**flows, "layernorm": f"stage.{last}", "classifier": f"stage.{last} ->"}


CONVNEXT = Family("ConvNext", ("convnext",), _convnext_flows)
