# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What cannot be aligned is refused in one sentence that says why, before anything is changed."""

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import alignment_zoo as zoo
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_cbft import align

make = zoo.make


def bert(**changes):
    return BertForSequenceClassification(BertConfig(**{**zoo.TEXT, "num_labels": 4, **changes})).eval()


def adapter():
    return get_peft_model(make("bert"), LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2))


def _pruned():
    """One head fewer in one layer than the configuration says."""
    model = make("bert")
    attention = model.bert.encoder.layer[1].attention
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(16, 12))
    attention.output.dense = nn.Linear(12, 16)
    return model, copy.deepcopy(model)


def _quantised(where):
    def build():
        model = make("bert")
        if where == "flag":
            model.is_quantized = True
        else:
            model.config.quantization_config = SimpleNamespace(quant_method="bitsandbytes")
        return make("bert"), model

    return build


def _with_nan():
    model = make("bert")
    model.classifier.weight.data[0, 0] = float("nan")
    return make("bert"), model


def _offloaded():
    model = make("bert")
    model.classifier.to("meta")
    return make("bert"), model


def _fewer_layers():
    return make("mlp"), nn.Sequential(nn.Linear(20, 32), nn.Linear(32, 24))


def real_bits(model):
    """A NaN is no other NaN, and what lies elsewhere has no bits."""
    return {name: torch.nan_to_num(t) for name, t in zoo.bits(model).items() if not t.is_meta}


PAIRS = {
    "width": (
        lambda: (bert(), bert(intermediate_size=32)),
        ValueError,
        r"intermediate\.dense\.weight has shape \(32, 16\), not \(24, 16\).*need the same architecture and sizes",
    ),
    "depth": (lambda: (bert(), bert(num_hidden_layers=1)), ValueError, r"layer\.1\.\S+ is missing"),
    "architecture": (lambda: (make("bert"), make("vit")), ValueError, "is missing.*need the same architecture"),
    "layers": (_fewer_layers, ValueError, "need the same architecture"),
    "heads": (
        lambda: (bert(), bert(num_attention_heads=2)),
        ValueError,
        r"divide the tensors in other ways \(numbers of heads\)",
    ),
    "pruned": (_pruned, ValueError, r"layer\.1\.attention\.\S+ has 12 entries.*were heads pruned\?"),
    "quantised": (_quantised("flag"), NotImplementedError, "is quantised.*load it without quantization_config"),
    "quantised by its configuration": (_quantised("config"), NotImplementedError, "is quantised"),
    "NaN": (_with_nan, ValueError, r"has NaN in classifier\.weight"),
    "offloaded": (_offloaded, NotImplementedError, "weights elsewhere"),
    "end an adapter": (lambda: (make("bert"), adapter()), NotImplementedError, "is an adapter.*merge_and_unload"),
    "start an adapter": (lambda: (adapter(), make("bert")), NotImplementedError, "is an adapter"),
    "base+adapter": (
        lambda: (make("bert"), "some/base+some/adapter"),
        NotImplementedError,
        r"some/adapter is an adapter",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), PAIRS.values(), ids=PAIRS)
def test_models_that_do_not_go_together(build, error, message):
    pair = build()
    models = [model for model in pair if isinstance(model, nn.Module)]
    before = [real_bits(model) for model in models]
    with pytest.raises(error, match=message) as caught:
        align(*pair)
    assert "\n" not in str(caught.value)
    for model, own in zip(models, before, strict=True):
        after = real_bits(model)
        assert [name for name in own if not torch.equal(own[name], after[name])] == []


def test_the_folder_of_an_adapter(tmp_path):
    adapter().save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match=re.escape(f"{tmp_path} is an adapter")):
        align(make("bert"), tmp_path)


def test_the_repository_of_an_adapter(monkeypatch):
    # Its weights would be looked for in vain, and the error would say nothing of adapters.
    held = {("org/adapter", "adapter_config.json"): "adapter_config.json"}
    monkeypatch.setattr("hf_cbft.checkpoints.loading.found_file", lambda source, file, token: held.get((source, file)))
    with pytest.raises(NotImplementedError, match=r"org/adapter is an adapter.*merge_and_unload"):
        align(make("bert"), "org/adapter")


ARGUMENTS = [
    ({"method": "magic"}, "method = 'magic': there is weights, activations, given"),
    ({"method": "activations"}, "compares units on data, and none was given: give data="),
    ({"method": "activations", "data": []}, "data"),
    ({"method": "given"}, "permutations go with method='given'"),
    ({"permutations": {}}, "permutations go with method='given'"),
    ({"batch_size": 0}, "batch_size = 0: give at least 1"),
    ({"num_starts": 0}, "num_starts = 0: give at least 1"),
    (
        {"method": "given", "permutations": {"widths": np.arange(16)}},
        "widths, and this architecture has no such space: it has ",
    ),
    (
        {"method": "given", "permutations": {"residual": np.zeros(16, dtype=int)}},
        r"has no permutation for residual: .*numbers from 0 to 15, each once, .*got numbers twice",
    ),
    ({"method": "given", "permutations": {"residual": np.arange(15)}}, r"in the shape \(16,\); got the shape \(15,\)"),
    ({"method": "given", "permutations": {"value.0": np.arange(4)}}, r"in the shape \(4, 4\); got the shape \(4,\)"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_arguments_that_do_not_go_together(arguments, message):
    model = make("bert")
    with pytest.raises(ValueError, match=message) as caught:
        align(model, model, **arguments)
    assert "\n" not in str(caught.value)


def test_rows_without_inputs_and_a_processing_class():
    """The rows go through the same collator as everywhere: what it says is said here."""
    model = ViTForImageClassification(ViTConfig(**zoo.IMAGE))
    with pytest.raises(ValueError, match="processing_class"):
        align(model, copy.deepcopy(model), "activations", [{"image": None, "label": 0}] * 4)
