# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Negative controls: a specification with anything left out, or too much, does not pass, and the place is named."""

import re
from dataclasses import replace

import pytest
import torch
from helpers import alignment_zoo as zoo
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from hf_cbft import align
from hf_cbft.alignment import Space
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.families.gpt2 import GPT2
from hf_cbft.alignment.families.llama import LLAMA
from hf_cbft.alignment.gate import AlignmentError, Gate, run
from hf_cbft.alignment.known import find_family


def flows_of(family, model):
    """One flow for each kind of module or bare parameter: alternatives are taken apart."""
    flows = family.flows(model) if callable(family.flows) else family.flows
    found = {}
    for name, flow in flows.items():
        choices = re.search(r"\((.*?)\)", name)
        for choice in choices[1].split("|") if choices else [""]:
            found[name.replace(choices[0], choice) if choices else name] = flow
    return found


def with_flow(family, model, name, flow):
    flows = flows_of(family, model)
    assert name in flows
    return replace(family, flows={**flows, name: flow})


def without_one_axis(flow):
    """All flows that are this one with one of its axes held still."""
    if "->" not in flow:
        return [""] if flow else []
    before, after = (side.strip() for side in flow.split("->"))
    return [f"-> {after}"] * bool(before) + [f"{before} ->"] * bool(after)


def names_in(model, name):
    """The modules with weights of their own, and the bare parameters, that a flow is for."""
    pattern = re.compile(
        "(?:" + re.escape(f"{model.base_model_prefix}." if hasattr(model, "base_model_prefix") else "") + ")?"
        + re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(name))
    )  # fmt: skip
    modules = [n for n, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return [n for n in (*modules, *dict(model.named_parameters())) if pattern.fullmatch(n)]


# The classifier reads the patches, before this norm.
UNUSED = {("clip", "vision_model.post_layernorm")}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_no_axis_may_be_left_out(name):
    """Each axis of each flow by itself; where it is what a module reads, or a norm, the message names that module."""
    model = zoo.make(name)
    family, gate, tried = find_family(model), Gate(model), 0
    for module, flow in flows_of(family, model).items():
        here = names_in(model, module)
        for broken in without_one_axis(flow) if here and (name, module) not in UNUSED else []:
            tried += 1
            what = f"{module}: {flow!r} as {broken!r}"
            try:
                specification = bind(with_flow(family, model, module, broken), model)
            except ValueError as error:
                if "(tied)" not in str(error):  # one tensor, other axes
                    raise
                continue
            with pytest.raises(AlignmentError) as caught:
                gate.check(specification, specification.random(seed=0))
            layer = re.search(r"first at ([\w.]+)\. The specification", str(caught.value))[1]
            is_parameter = any(n in dict(model.named_parameters()) for n in here)
            if not is_parameter and (broken == "" or broken.startswith("->")):
                assert layer in here, f"{what}: {layer}"
    assert tried >= 4


BROKEN = [
    ("bert", "encoder.layer.{i}.output.dense", "-> residual", "bert.encoder.layer.0.output.dense"),
    ("roberta", "encoder.layer.{i}.attention.output.dense", "-> residual", "roberta.*layer.0.attention.output.dense"),
    ("distilbert", "pre_classifier", "-> pooled", "pre_classifier"),
    ("mpnet", "encoder.layer.{i}.attention.LayerNorm", "", "mpnet.encoder.layer.0.attention.LayerNorm"),
    ("vit", "layers.{i}.mlp.fc2", "-> residual", "vit.layers.0.mlp.fc2"),
    ("clip", "vision_model.pre_layrnorm", "", ".*pre_layrnorm"),
    ("gpt2", "h.{i}.mlp.c_proj", "-> residual", "transformer.h.0.mlp.c_proj"),
    ("llama", "layers.{i}.mlp.down_proj", "-> residual", "model.layers.0.mlp.down_proj"),
    ("resnet", "encoder.stages.1.layers.0.layer.0.normalization", "", "resnet.encoder.stages.1.layers.0.layer.0.norm"),
    ("convnext", "encoder.stages.0.layers.{j}.dwconv", "", "convnext.encoder.stages.0.layers.0.dwconv"),
    ("mlp", "3", "", "3"),
]


@pytest.mark.parametrize(("name", "module", "flow", "layer"), BROKEN, ids=[case[0] for case in BROKEN])
def test_align_refuses_and_changes_nothing(name, module, flow, layer):
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    before = zoo.bits(start), zoo.bits(end)
    broken = with_flow(find_family(end), end, module, flow)
    with pytest.raises(AlignmentError, match=rf"differ by .* first at {layer}.*nothing was changed"):
        align(start, end, specification=broken)
    assert zoo.changed(start, before[0]) == zoo.changed(end, before[1]) == []


# Written as if it were an encoder's attention.
_ROTARY_UNITS = (
    {
        "layers.{i}.self_attn.q_proj": "residual -> groups.{i} heads.{i} query.{i}",
        "layers.{i}.self_attn.k_proj": "residual -> groups.{i} query.{i}",
    },
    {"query.{i}": replace(LLAMA.spaces["value.{i}"])},
)
_HEADS_ACROSS_GROUPS = (
    {
        "layers.{i}.self_attn.q_proj": "residual -> free.{i} *",
        "layers.{i}.self_attn.k_proj": "residual ->",
        "layers.{i}.self_attn.v_proj": "residual ->",
        "layers.{i}.self_attn.o_proj": "free.{i} * -> residual",
    },
    {"free.{i}": Space(lambda config: config.num_attention_heads)},
)
_GATE_WITHOUT_UP = ({"layers.{i}.mlp.gate_proj": "residual -> gates.{i}"}, {})


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "qwen3"])
@pytest.mark.parametrize(
    ("wrong", "layer"),
    [(_ROTARY_UNITS, "self_attn.o_proj"), (_HEADS_ACROSS_GROUPS, "self_attn.o_proj"), (_GATE_WITHOUT_UP, "down_proj")],
    ids=["rotary units", "heads across groups", "gate without up"],
)
def test_what_others_get_wrong_is_caught(name, wrong, layer):
    model = zoo.make(name)
    if wrong is _ROTARY_UNITS and name == "qwen3":
        layer = "self_attn.q_norm"  # its scales stay, and other units pass them
    flows, spaces = wrong
    broken = replace(LLAMA, flows={**flows_of(LLAMA, model), **flows}, spaces={**LLAMA.spaces, **spaces})
    with pytest.raises(AlignmentError, match=rf"first at model\.layers\.0\.(mlp\.)?{layer}"):
        align(model, model, specification=broken)


def test_embeddings_moved_on_one_side_only():
    """Tied, the tensor would move on both; untied, the output layer reads what it does not expect."""
    tied = zoo.make("gpt2")
    broken = with_flow(GPT2, tied, "lm_head", "->")
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight and lm_head\.weight are one tensor \(tied\)"):
        align(tied, tied, specification=broken)
    config = GPT2Config(**zoo.GPT2, tie_word_embeddings=False)
    untied = zoo.with_information(lambda: GPT2LMHeadModel(config))
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    with pytest.raises(AlignmentError, match="first at lm_head"):
        align(untied, untied, specification=broken)
    assert align(untied, untied).info["gate"] <= 1e-8


@pytest.mark.parametrize("name", ["vit", "llama", "resnet", "cnn"])
def test_the_copy_is_what_it_was_after_each_question(name):
    model = zoo.make(name)
    gate, specification = Gate(model), bind(find_family(model), model)
    before, dtypes = zoo.bits(gate.copy), {tensor.dtype for tensor in model.parameters()}
    assert gate.passes(specification, specification.random(seed=0))
    assert 0 <= gate.check(specification, specification.random(seed=1)) <= gate.bound(specification)
    assert zoo.changed(gate.copy, before) == []
    assert {tensor.dtype for tensor in gate.copy.parameters()} == {torch.float64}
    assert {tensor.dtype for tensor in model.parameters()} == dtypes == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_real_input_is_compared_too():
    """In float64, as the copy is."""
    model = zoo.make("mlp")
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    gate = Gate(model, [{"input": torch.full((2, 20), 7.0)}])
    assert [values.dtype for values in seen] == [torch.float64, torch.float64]
    assert bool((seen[-1] == 7).all())
    gate.logits[-1] = gate.logits[-1] + 1
    specification = bind(find_family(model), model)
    assert not gate.passes(specification, specification.identity())


def test_batches_go_where_the_model_is():
    model = zoo.make("vit")
    batch = {**zoo.make_batch(model), "labels": torch.zeros(6, dtype=torch.long)}
    output = run(model.to("meta"), batch)
    assert (output.logits.device.type, output.loss) == ("meta", None)
    assert run(zoo.make("mlp").to("meta"), torch.zeros(2, 20)).device.type == "meta"


def _without_a_head():
    return BertModel(BertConfig(**zoo.TEXT))


def _constant():
    model = zoo.make("bert")
    model.classifier.weight.data.zero_()
    return model


def _infinite():
    model = zoo.make("bert")
    model.classifier.bias.data[0] = float("inf")
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_without_a_head, "BertModel gives no logits: .* Give the model with its head"),
        (_constant, "the same logits for every input"),
        (_infinite, "logits that are not finite"),
    ],
)
def test_what_proves_nothing_is_refused(build, message):
    model = build()
    before = zoo.bits(model)
    with pytest.raises(ValueError, match=message):
        align(model, model)
    assert zoo.changed(model, before) == []
