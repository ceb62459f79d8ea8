# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Permutations written by hand, on the tensors, without a specification: the specifications must undo them."""

import copy

import numpy as np
import pytest
from helpers import alignment_zoo as zoo

from hf_cbft import align


def select(module, first=None, second=None):
    """Order the axes of a module's weight, and by the first one all of its vectors."""
    for tensor in module.state_dict(keep_vars=True).values():
        if tensor.dim() > 1:
            if first is not None:
                tensor.data = tensor.data[first]
            if second is not None:
                tensor.data = tensor.data[:, second]
        elif tensor.dim() == 1 and first is not None:
            tensor.data = tensor.data[first]


def within_heads(rng, order, size):
    """Where the units of the heads, in this order, come from, each head's units in an order of its own."""
    return np.concatenate([head * size + rng.permutation(size) for head in order])


def scramble_bert(model, rng):
    heads, size = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads
    residual = rng.permutation(model.config.hidden_size)
    embeddings = model.bert.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        select(table, second=residual)
    select(embeddings.LayerNorm, residual)
    for layer in model.bert.encoder.layer:
        order, units = rng.permutation(heads), rng.permutation(model.config.intermediate_size)
        query, value = within_heads(rng, order, size), within_heads(rng, order, size)
        attention = layer.attention.self
        select(attention.query, query, residual)
        select(attention.key, query, residual)
        select(attention.value, value, residual)
        select(layer.attention.output.dense, residual, value)
        select(layer.attention.output.LayerNorm, residual)
        select(layer.intermediate.dense, units, residual)
        select(layer.output.dense, residual, units)
        select(layer.output.LayerNorm, residual)
    pooled = rng.permutation(model.config.hidden_size)
    select(model.bert.pooler.dense, pooled, residual)
    select(model.classifier, second=pooled)


def scramble_gpt2(model, rng):
    """Its matrices are (inputs, outputs), and query, key and value are one."""
    width, heads = model.config.n_embd, model.config.n_head
    size = width // heads
    residual = rng.permutation(width)
    transformer = model.transformer
    for table in (transformer.wte, transformer.wpe):  # the output layer is the first of them
        select(table, second=residual)
    for block in transformer.h:
        order, units = rng.permutation(heads), rng.permutation(4 * width)
        query, value = within_heads(rng, order, size), within_heads(rng, order, size)
        joint = np.concatenate([query, width + query, 2 * width + value])
        for norm in (block.ln_1, block.ln_2):
            select(norm, residual)
        for layer, before, after in (
            (block.attn.c_attn, residual, joint),
            (block.attn.c_proj, value, residual),
            (block.mlp.c_fc, residual, units),
            (block.mlp.c_proj, units, residual),
        ):
            layer.weight.data = layer.weight.data[before][:, after]
            layer.bias.data = layer.bias.data[after]
    select(transformer.ln_f, residual)


def scramble_llama(model, rng):
    """Whole groups trade places, query heads within their group; the units of query and key stay."""
    config = model.config
    groups, share, size = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads, 4
    residual = rng.permutation(config.hidden_size)
    select(model.model.embed_tokens, second=residual)
    for layer in model.model.layers:
        query, key, value, output = [], [], [], []
        for group in rng.permutation(groups):
            units = rng.permutation(size)
            key.append(group * size + np.arange(size))
            value.append(group * size + units)
            for head in rng.permutation(share):
                query.append((group * share + head) * size + np.arange(size))
                output.append((group * share + head) * size + units)
        gated = rng.permutation(config.intermediate_size)
        attention = layer.self_attn
        select(attention.q_proj, np.concatenate(query), residual)
        select(attention.k_proj, np.concatenate(key), residual)
        select(attention.v_proj, np.concatenate(value), residual)
        select(attention.o_proj, residual, np.concatenate(output))
        select(layer.mlp.gate_proj, gated, residual)
        select(layer.mlp.up_proj, gated, residual)
        select(layer.mlp.down_proj, residual, gated)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            select(norm, residual)
    select(model.model.norm, residual)
    select(model.lm_head, second=residual)


def scramble_resnet(model, rng):
    """A block without a projection hands its input on: what it writes has the order of what it reads."""

    def layer(module, before, after):
        select(module.convolution, after, before)
        select(module.normalization, after)

    stream = rng.permutation(model.config.embedding_size)
    layer(model.resnet.embedder.embedder, None, stream)
    for stage in model.resnet.encoder.stages:
        for block in stage.layers:
            entering = stream
            if block.shortcut.state_dict():
                stream = rng.permutation(block.layer[-1].convolution.out_channels)
                layer(block.shortcut, entering, stream)
            before = entering
            for module in block.layer[:-1]:
                inner = rng.permutation(module.convolution.out_channels)
                layer(module, before, inner)
                before = inner
            layer(block.layer[-1], before, stream)
    select(model.classifier[1], second=stream)


@pytest.mark.parametrize(
    ("name", "scramble", "bound"),
    [
        ("resnet", scramble_resnet, 1e-8),
        ("resnet-bottleneck", scramble_resnet, 1e-8),
        ("cifar-resnet", scramble_resnet, 1e-8),
        ("bert", scramble_bert, 1e-8),
        ("gpt2", scramble_gpt2, 1e-8),
        ("llama", scramble_llama, 1e-5),
    ],
)
def test_what_was_scrambled_by_hand_is_restored(name, scramble, bound):
    model = zoo.make(name)
    moved = copy.deepcopy(model)
    scramble(moved, np.random.default_rng(3))
    double = copy.deepcopy(model).double()
    assert zoo.difference(double, copy.deepcopy(moved).double(), zoo.make_batch(double)) <= bound
    original = zoo.bits(model)
    assert len(zoo.changed(moved, original)) > 0.8 * len([t for t in original.values() if t.dim() > 0])
    for method, data in (("weights", None), ("activations", zoo.make_rows(model, 512))):
        alignment = align(model, moved, method, data, num_starts=1)
        assert zoo.changed(alignment.apply(copy.deepcopy(moved)), original) == [], method


def test_query_units_without_the_keys_are_another_function():
    """The comparison of these tests would see it."""
    model = zoo.make("bert").double()
    moved = copy.deepcopy(model)
    select(moved.bert.encoder.layer[0].attention.self.query, np.random.default_rng(0).permutation(16))
    assert zoo.difference(model, moved, zoo.make_batch(model)) > 1e-4
