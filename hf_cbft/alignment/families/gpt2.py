# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""GPT-2: a pre-LN decoder whose query, key and value lie side by side in one matrix."""

from hf_cbft.alignment.families.shared import HEADS, embeddings, mlp, on_residual, readouts
from hf_cbft.alignment.symmetries import Family

GPT2 = Family(
    "GPT-2",
    ("gpt2",),
    {
        **embeddings("(wte|wpe)"),
        **on_residual("h.{i}.(ln_1|ln_2)", "ln_f"),
        "h.{i}.attn.c_attn": "residual -> heads.{i} query.{i} + heads.{i} query.{i} + heads.{i} value.{i}",
        "h.{i}.attn.c_proj": "heads.{i} value.{i} -> residual",
        **mlp("h.{i}.mlp.c_fc", "h.{i}.mlp.c_proj"),
        **readouts("lm_head", "score", "classifier"),
    },
    HEADS,
)
