# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The building blocks of the families: attention, MLPs, norms and heads, each for every layer `{i}`."""

from typing import Any

from hf_cbft.alignment.symmetries import Space


def heads_of(config: Any) -> int:
    return config.num_attention_heads


def head_size_of(config: Any) -> int:
    return config.hidden_size // config.num_attention_heads


# Query and key units meet in a product, unit by unit: the two trade places together, in each head by themselves.
HEADS = {
    "heads.{i}": Space(heads_of),
    "query.{i}": Space(head_size_of, within="heads.{i}"),
    "value.{i}": Space(head_size_of, within="heads.{i}"),
}

# A group shares one key and one value head, and keeps its query heads. Rotary embeddings turn each query and key unit
# by an angle of its own, so these stay in their places.
GROUPED_HEADS = {
    "groups.{i}": Space(lambda config: config.num_key_value_heads),
    "heads.{i}": Space(lambda config: config.num_attention_heads // config.num_key_value_heads, within="groups.{i}"),
    "value.{i}": Space(
        lambda config: getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        within="groups.{i}",
    ),
}


def attention(*names: str) -> dict[str, str]:
    """The layers of query, key, value and output."""
    query, key, value, output = names
    return {
        query: "residual -> heads.{i} query.{i}",
        key: "residual -> heads.{i} query.{i}",
        value: "residual -> heads.{i} value.{i}",
        output: "heads.{i} value.{i} -> residual",
    }


def grouped_rotary_attention(*names: str) -> dict[str, str]:
    """Grouped-query attention with rotary embeddings."""
    query, key, value, output = names
    return {
        query: "residual -> groups.{i} heads.{i} *",
        key: "residual -> groups.{i} *",
        value: "residual -> groups.{i} value.{i}",
        output: "groups.{i} heads.{i} value.{i} -> residual",
    }


def mlp(up: str, down: str) -> dict[str, str]:
    """`up` may stand for two modules, `(gate|up)`, whose outputs are multiplied."""
    return {up: "residual -> units.{i}", down: "units.{i} -> residual"}


def embeddings(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "-> residual")


def on_residual(*names: str) -> dict[str, str]:
    """Norms, layer scales and bare parameters on the residual stream."""
    return dict.fromkeys(names, "residual")


def readouts(*names: str) -> dict[str, str]:
    """Heads that read the residual stream; their outputs are the model's."""
    return dict.fromkeys(names, "residual ->")


def pooled_readout(pooler: str, *names: str) -> dict[str, str]:
    """Heads with a layer of their own in between."""
    return {pooler: "residual -> pooled", **dict.fromkeys(names, "pooled ->")}


def tied_vocabulary(dense: str, norm: str, decoder: str) -> dict[str, str]:
    """A masked language model's head: its decoder is the word embedding, so what enters it has that one's order."""
    return {dense: "residual -> residual", norm: "residual", decoder: "residual ->"}
