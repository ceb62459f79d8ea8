# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Llama and its kin: pre-norm decoders with RMSNorm, rotary embeddings, grouped-query attention and gated MLPs."""

from hf_cbft.alignment.families.shared import (
    GROUPED_HEADS,
    embeddings,
    grouped_rotary_attention,
    mlp,
    on_residual,
    readouts,
)
from hf_cbft.alignment.symmetries import Family

LLAMA = Family(
    "Llama",
    ("llama", "qwen2", "mistral", "qwen3"),
    {
        **embeddings("embed_tokens"),
        **on_residual("layers.{i}.(input_layernorm|post_attention_layernorm)", "norm"),
        **grouped_rotary_attention(
            *(f"layers.{{i}}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        ),
        # Qwen3's norms of query and key are over the units of a head, which stay, and the same for all heads.
        "layers.{i}.self_attn.(q_norm|k_norm)": "",
        **mlp("layers.{i}.mlp.(gate_proj|up_proj)", "layers.{i}.mlp.down_proj"),
        **readouts("lm_head", "score"),
    },
    GROUPED_HEADS,
    float32_inside=True,
)
