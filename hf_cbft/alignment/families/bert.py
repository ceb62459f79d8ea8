# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""BERT and its kin: encoders of text, LayerNorm after each sum (post-LN)."""

from typing import Any

from hf_cbft.alignment.families.shared import (
    HEADS,
    attention,
    embeddings,
    head_size_of,
    heads_of,
    mlp,
    on_residual,
    pooled_readout,
    readouts,
    tied_vocabulary,
)
from hf_cbft.alignment.symmetries import Family, Space

_BLOCK = {
    **embeddings("embeddings.(word_embeddings|position_embeddings|token_type_embeddings)"),
    **on_residual("embeddings.LayerNorm", "encoder.layer.{i}.output.LayerNorm"),
    **mlp("encoder.layer.{i}.intermediate.dense", "encoder.layer.{i}.output.dense"),
}
_BERT_BLOCK = {
    **_BLOCK,
    **attention(
        *(f"encoder.layer.{{i}}.attention.self.{name}" for name in ("query", "key", "value")),
        "encoder.layer.{i}.attention.output.dense",
    ),
    **on_residual("encoder.layer.{i}.attention.output.LayerNorm"),
}


def _bert_flows(model: Any) -> dict[str, str]:
    # A classifier of tokens has no pooler before it.
    pooled = any(name.endswith("pooler.dense") for name, _ in model.named_modules())
    return {
        **_BERT_BLOCK,
        **pooled_readout("pooler.dense", "cls.seq_relationship"),
        **tied_vocabulary(
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"
        ),
        "cls.predictions.bias": "",
        "classifier": "pooled ->" if pooled else "residual ->",
        "qa_outputs": "residual ->",
    }


BERT = Family("BERT", ("bert",), _bert_flows, HEADS)

ROBERTA = Family(
    "RoBERTa",
    ("roberta", "xlm-roberta", "camembert"),
    {
        **_BERT_BLOCK,
        **pooled_readout("classifier.dense", "classifier.out_proj"),
        **tied_vocabulary("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
        "lm_head.bias": "",
        **readouts("classifier", "qa_outputs"),
    },
    HEADS,
)

DISTILBERT = Family(
    "DistilBERT",
    ("distilbert",),
    {
        **embeddings("embeddings.(word_embeddings|position_embeddings)"),
        **on_residual("embeddings.LayerNorm", "transformer.layer.{i}.(sa_layer_norm|output_layer_norm)"),
        **attention(*(f"transformer.layer.{{i}}.attention.{name}" for name in ("q_lin", "k_lin", "v_lin", "out_lin"))),
        **mlp("transformer.layer.{i}.ffn.lin1", "transformer.layer.{i}.ffn.lin2"),
        **pooled_readout("pre_classifier"),
        **tied_vocabulary("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        **readouts("qa_outputs"),
        "classifier": "pooled ->",
    },
    HEADS,
)


# The bias of relative positions has a column for each head, and all layers read it: head h is head h everywhere.
MPNET = Family(
    "MPNet",
    ("mpnet",),
    {
        **_BLOCK,
        "encoder.layer.{i}.attention.attn.(q|k)": "residual -> heads query.{i}",
        "encoder.layer.{i}.attention.attn.v": "residual -> heads value.{i}",
        "encoder.layer.{i}.attention.attn.o": "heads value.{i} -> residual",
        "encoder.relative_attention_bias": "-> heads",
        **on_residual("encoder.layer.{i}.attention.LayerNorm"),
        **pooled_readout("classifier.dense", "classifier.out_proj"),
        **tied_vocabulary("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
        "lm_head.bias": "",
        **readouts("classifier", "qa_outputs"),
    },
    {
        "heads": Space(heads_of),
        "query.{i}": Space(head_size_of, within="heads"),
        "value.{i}": Space(head_size_of, within="heads"),
    },
)
