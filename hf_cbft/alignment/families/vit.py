# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""ViT and its kin: encoders of image patches, LayerNorm before each block (pre-LN)."""

from hf_cbft.alignment.families.shared import HEADS, attention, embeddings, mlp, on_residual, readouts
from hf_cbft.alignment.symmetries import Family

VIT = Family(
    "ViT",
    ("vit", "deit"),
    {
        **embeddings("embeddings.patch_embeddings.projection"),
        **on_residual(
            "embeddings.(cls_token|distillation_token|mask_token|position_embeddings)",
            "layers.{i}.(layernorm_before|layernorm_after)",
            "layernorm",
        ),
        **attention(*(f"layers.{{i}}.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))),
        **mlp("layers.{i}.mlp.fc1", "layers.{i}.mlp.fc2"),
        **readouts("(classifier|cls_classifier|distillation_classifier)"),
    },
    HEADS,
)

CLIP_VISION = Family(
    "CLIP vision",
    ("clip", "clip_vision_model"),
    {
        **embeddings("vision_model.embeddings.(patch_embedding|position_embedding)"),
        **on_residual(
            "vision_model.embeddings.class_embedding",
            "vision_model.(pre_layrnorm|post_layernorm)",
            "vision_model.encoder.layers.{i}.(layer_norm1|layer_norm2)",
        ),
        **attention(
            *(
                f"vision_model.encoder.layers.{{i}}.self_attn.{name}"
                for name in ("q_proj", "k_proj", "v_proj", "out_proj")
            )
        ),
        **mlp("vision_model.encoder.layers.{i}.mlp.fc1", "vision_model.encoder.layers.{i}.mlp.fc2"),
        **readouts("classifier", "visual_projection"),
    },
    HEADS,
    config=lambda config: getattr(config, "vision_config", config),
)
