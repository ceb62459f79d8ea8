# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures that are not known: refused, aligned in the parts that are confirmed, or by a user's specification."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import alignment_zoo as zoo
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cbft import align
from hf_cbft.alignment import Family, Space
from hf_cbft.alignment.binding import bind
from hf_cbft.alignment.gate import AlignmentError


class TinyConfig(PreTrainedConfig):
    model_type = "tiny"


class TinyModel(PreTrainedModel):
    """Blocks whose hidden units cannot be told from the outside, and one whose units are not alike."""

    config_class = TinyConfig
    main_input_name = "pixel_values"
    base_model_prefix = "tiny"

    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(12, 20), "down": nn.Linear(20, 12)}) for _ in range(2)
        )
        self.ordered = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(12, 16), "down": nn.Linear(16, 12)})])
        self.classifier = nn.Linear(12, 4)
        self.post_init()

    def forward(self, pixel_values):
        x = pixel_values.flatten(1)[:, :12]
        for block in self.blocks:
            x = x + block["down"](block["up"](x).relu())
        steps = torch.linspace(0.0, 2.0, 16, dtype=x.dtype)
        x = x + self.ordered[0]["down"](self.ordered[0]["up"](x).relu() * steps)
        return SequenceClassifierOutput(logits=self.classifier(x))


class BertWithAnotherHead(BertForSequenceClassification):
    """A known architecture, with a layer of somebody's own."""

    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        pooled = self.bert(input_ids, attention_mask).pooler_output
        return SequenceClassifierOutput(logits=self.classifier(pooled) + self.extra(pooled).tanh())


def _electra():
    config = ElectraConfig(**zoo.TEXT, embedding_size=16, num_labels=4)
    return ElectraForSequenceClassification(config)


def _t5():
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 4, "d_kv": 4, "d_ff": 24, "vocab_size": 50}
    return T5ForSequenceClassification(T5Config(**sizes, num_labels=4, decoder_start_token_id=0))


def _wav2vec2():
    sizes = {"conv_dim": [8, 8], "conv_kernel": [4, 4], "conv_stride": [2, 2]}
    more = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**zoo.TEXT, **sizes, **more))


def _modernbert():
    return ModernBertForSequenceClassification(ModernBertConfig(**zoo.TEXT, pad_token_id=0))


def _tiny():
    return TinyModel(TinyConfig(image_size=4))


def _bert_with_another_head():
    return BertWithAnotherHead(BertConfig(**zoo.TEXT, num_labels=4))


@pytest.mark.parametrize(
    ("build", "model_type", "nearest"),
    [(_t5, "t5", "vit"), (_wav2vec2, "wav2vec2", "bert"), (_modernbert, "modernbert", "bert")],
)
def test_an_unknown_architecture_is_refused(build, model_type, nearest):
    model = build()
    message = rf"The symmetries of {model_type} are not known \(the nearest is {nearest}; there is bert, .*docs/align"
    with pytest.raises(ValueError, match=message):
        align(model, model)


def test_input_that_cannot_be_made_up_is_asked_for():
    """With data there is something to compare on."""
    model = zoo.with_information(_wav2vec2)
    with pytest.raises(
        ValueError, match=r"What a Wav2Vec2ForSequenceClassification takes cannot be made up: give data"
    ):
        align(model, model, partial=True)
    rng = np.random.default_rng(0)
    rows = [{"input_values": rng.standard_normal(400).astype(np.float32), "label": 0} for _ in range(64)]
    moved = copy.deepcopy(model)
    specification = align(model, model, data=rows, partial=True).specification
    assert set(specification.sizes) >= {"units.0.24", "units.1.24"}
    specification.permute_(moved, specification.random(seed=1))
    for method in ("weights", "activations"):
        alignment = align(model, moved, method, rows, partial=True)
        assert zoo.changed(alignment.apply(copy.deepcopy(moved)), zoo.bits(model)) == []


@pytest.mark.parametrize(
    ("build", "moved_spaces"),
    [
        (_electra, ["units.0.24", "units.1.24"]),
        (_t5, [f"units.{number}.24" for number in (1, 3, 6, 9)]),
        (_tiny, ["units.0.20", "units.1.20"]),
    ],
    ids=["electra", "t5", "own"],
)
def test_only_what_is_confirmed_is_moved(build, moved_spaces, caplog):
    """Of units that are scaled by their place it is seen that they may not move; the others are restored."""
    model = zoo.with_information(build)
    with caplog.at_level(logging.WARNING, logger="hf_cbft"):
        specification = align(model, model, partial=True).specification
    assert sorted(specification.sizes) == moved_spaces
    assert ("spaces of tiny stay in place" in caplog.text) is (build is _tiny)
    moved = copy.deepcopy(model)
    permutations = specification.random(seed=1)
    specification.permute_(moved, permutations)
    assert zoo.changed(moved, zoo.bits(model)) != []
    alignment = align(model, moved, partial=True)
    assert alignment.info["gate"] <= (1e-5 if build is _t5 else 1e-8)
    assert zoo.changed(alignment.apply(moved), zoo.bits(model)) == []


def test_a_known_architecture_with_an_own_head():
    """What feeds the unknown layer stays, and the rest is the family's."""
    model = zoo.with_information(_bert_with_another_head)
    with pytest.raises(ValueError, match=r"of BERT do not say what extra\.weight, extra\.bias of this .*partial=True"):
        align(model, model)
    other = zoo.with_information(_bert_with_another_head, seed=1)
    alignment = align(model, other, partial=True)
    assert "pooled" not in alignment.specification.sizes
    assert {"residual", "heads.0", "query.0", "value.1", "units.1"} <= set(alignment.specification.sizes)
    assert alignment.moved > 0.5
    assert alignment.info["gate"] <= 1e-8
    before = zoo.bits(other)
    aligned = alignment.apply(copy.deepcopy(other))
    assert {"extra.weight", "extra.bias", "classifier.weight"}.isdisjoint(zoo.changed(aligned, before))
    batch = {"input_ids": torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))}
    assert zoo.difference(copy.deepcopy(other).double(), copy.deepcopy(aligned).double(), batch) <= 1e-8


def test_nothing_confirmed_is_an_error():
    model = zoo.with_information(_tiny)
    model.blocks = nn.ModuleList()
    with pytest.raises(ValueError, match="No part of tiny could be confirmed"):
        align(model, model, partial=True)


# A user's own specification


class Grouped(nn.Module):
    """A grouped convolution in between: whole groups may trade places, the channels in a group may not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.grouped = nn.Conv2d(12, 6, 3, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.norm(self.grouped(self.stem(x).relu())).relu().mean((2, 3)))


GROUPED = Family(
    "grouped convolution",
    (),
    {"stem": "-> groups *", "grouped": "groups *", "norm": "groups *", "head": "groups * ->"},
    {"groups": Space(lambda config: 3)},
)


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_grouped_convolution(method):
    model = zoo.with_information(Grouped)
    specification = bind(GROUPED, model)
    assert specification.sizes == {"groups": 3}
    permutations = {"groups": np.array([2, 0, 1])}
    moved = copy.deepcopy(model)
    specification.permute_(moved, permutations)
    assert set(zoo.changed(moved, zoo.bits(model))) == set(zoo.bits(model)) - {
        "head.bias",
        "norm.num_batches_tracked",
    }
    rows = list(torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    data = {"data": rows, "data_collator": torch.stack} if method == "activations" else {}
    alignment = align(model, moved, method, specification=GROUPED, **data)
    np.testing.assert_array_equal(alignment.permutations["groups"], [1, 2, 0])
    assert zoo.changed(alignment.apply(moved), zoo.bits(model)) == []


@pytest.mark.parametrize(
    ("flows", "error", "message"),
    [
        ({"stem": "-> channels", "grouped": "channels *"}, ValueError, "6 entries, which are not 'channels"),
        ({"grouped": "groups * -> groups *"}, ValueError, "grouped is a grouped convolution: its flow is one text"),
        ({"norm": ""}, AlignmentError, "first at norm"),
        ({"gro(u|x)ped": "groups *"}, ValueError, "has 2 flows for grouped: leave one"),
        ({"head": "groups.0 * ->"}, ValueError, "leaves 2 sizes of the input of head open"),
        ({"norm": "groups * -> "}, ValueError, "norm is a BatchNorm2d without an input and an output axis"),
        ({"head": "groups groups * ->"}, ValueError, "the input of head has 6 entries"),
    ],
)
def test_a_wrong_specification_is_refused(flows, error, message):
    model = zoo.with_information(Grouped)
    with pytest.raises(error, match=message):
        align(model, model, specification=replace(GROUPED, flows={**GROUPED.flows, **flows}))


def test_a_space_must_stand_where_its_outer_one_does():
    model = zoo.with_information(Grouped)
    spaces = {**GROUPED.spaces, "inside": Space(lambda config: 4, within="groups")}
    broken = replace(GROUPED, flows={**GROUPED.flows, "stem": "-> inside *"}, spaces=spaces)
    with pytest.raises(ValueError, match="inside lies within groups, which is not in 'inside \\*' of stem"):
        align(model, model, specification=broken)
