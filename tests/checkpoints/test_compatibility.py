# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Whether two checkpoints can be the ends of a path: what stands in the way, what differs, what to do."""

import copy
import json
import re
import struct

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, GPT2LMHeadModel

from hf_cbft import checkpoints
from hf_cbft.checkpoints.compatibility import Compatibility, compare

CONFIG = {
    "architectures": ["MistralForSequenceClassification"],
    "model_type": "mistral",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "sliding_window": 64,
    "rope_theta": 10000.0,
    "pad_token_id": 0,
    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
}
TENSORS = {
    "model.embed_tokens.weight": [50, 16],
    "model.layers.0.self_attn.q_proj.weight": [16, 16],
    "model.layers.0.mlp.up_proj.weight": [32, 16],
    "model.norm.weight": [16],
    "score.weight": [3, 16],
}
TOKENIZER = {"normalizer": None, "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": []}
PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 8, "width": 8}}


def write(folder, config=None, tensors=None, dtype="F32", **files):
    """A checkpoint's small files, and weights that are zeros on no disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config": CONFIG if config is None else config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    header, end = {}, 0
    for name, shape in (TENSORS if tensors is None else tensors).items():
        size = {"F32": 4, "BF16": 2}[dtype] * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(struct.pack("<Q", len(raw)) + raw)
        opened.truncate(8 + len(raw) + end)
    return folder


def changed(original, **changes):
    """A copy with other entries; `None` takes one out."""
    return {name: value for name, value in {**original, **changes}.items() if value is not None}


def texts(report: Compatibility, level: str) -> dict[str, str]:
    return {finding.topic: finding.text for finding in report.at_level(level)}


@pytest.fixture
def pair(tmp_path):
    """`pair(**what)`: the report on a checkpoint and another one that differs in what is given."""

    def make(options=None, first=None, **second):
        start, end = write(tmp_path / "start", **(first or {})), write(tmp_path / "end", **second)
        return compare(start, end, **(options or {}))

    return make


def test_two_of_a_kind_are_compatible(pair, tmp_path):
    report = pair()
    assert report.compatible
    assert not report.at_level("differs")
    assert {"architecture", "settings", "vocabulary", "weights", "head", "labels", "dtype"} <= set(
        texts(report, "same")
    )
    assert report.interpolates == "5 tensors, 1,632 parameters"
    assert str(tmp_path / "start") in str(report)
    assert "can be interpolated" in str(report)
    assert checkpoints.compare is compare


@pytest.mark.parametrize(
    ("changes", "topic", "text"),
    [
        ({"config": changed(CONFIG, model_type="llama")}, "architecture", r"\(mistral\) at the start.*\(llama\)"),
        ({"config": changed(CONFIG, hidden_size=32)}, "size", "hidden_size is 16 at the start and 32 at the end"),
        ({"config": changed(CONFIG, num_hidden_layers=2)}, "size", "num_hidden_layers is 1 at the start and 2"),
        ({"config": changed(CONFIG, num_attention_heads=2)}, "function", "num_attention_heads is 4 .* and 2"),
        ({"config": changed(CONFIG, num_key_value_heads=4)}, "function", "num_key_value_heads is 2 .* and 4"),
        ({"config": changed(CONFIG, sliding_window=None)}, "function", "sliding_window is 64 .* and 4096"),
        ({"config": {**CONFIG, "sliding_window": None}}, "function", "sliding_window is 64 at the start and none at"),
        ({"config": changed(CONFIG, hidden_act="gelu")}, "function", "hidden_act is silu at the start and gelu"),
        ({"config": changed(CONFIG, rms_norm_eps=1e-6)}, "function", "rms_norm_eps is 1e-05 .* and 1e-06"),
        ({"config": changed(CONFIG, rope_theta=1e6)}, "function", r"rope.rope_theta is 10000\.0 .* and 1000000\.0"),
        (
            {"config": changed(CONFIG, rope_scaling={"type": "linear", "factor": 2.0})},
            "function",
            "rope.rope_type is default at the start and linear at the end",
        ),
        ({"config": changed(CONFIG, vocab_size=52)}, "vocabulary", "50 tokens at the start, 52 at the end"),
        ({"config": changed(CONFIG, architectures=["MistralModel"])}, "architecture", "MistralModel at the end"),
        ({"config": changed(CONFIG, architectures=["OwnModel"])}, "code", "the end names the class OwnModel"),
        ({"config": changed(CONFIG, quantization_config={"quant_method": "gptq"})}, "dtype", r"quantized \(gptq\)"),
        (
            {"tensors": changed(TENSORS, **{"model.norm.weight": [32]})},
            "weights",
            r"other shapes: model\.norm\.weight \[16\] and \[32\]",
        ),
        (
            {"tensors": {**TENSORS, **{f"model.layers.{i}.x": [1] for i in range(1, 6)}}},
            "weights",
            r"model\.layers\.1\.x, model\.layers\.2\.x, model\.layers\.3\.x, and 2 more at the end only",
        ),
        (
            {"tensors": changed(TENSORS, **{"score.weight": [5, 16]})},
            "head",
            r"score\.weight \[3, 16\] and \[5, 16\]",
        ),
        (
            {"config": changed(CONFIG, id2label={"0": "positive", "1": "neutral", "2": "negative"})},
            "labels",
            "another order: negative is 0 at the start and 2 at the end; positive is 2 at the start and 0",
        ),
        (
            {"config": changed(CONFIG, id2label={"0": "yes", "1": "no"})},
            "labels",
            "3 classes at the start.*2 at the end",
        ),
    ],
)
def test_what_stands_in_the_way(pair, changes, topic, text):
    # A path between two functions that no one module computes, or between weights that mean different things.
    report = pair(**changes)
    assert not report.compatible
    assert report.to_dict()["interpolates"] is None
    found = [finding for finding in report.at_level("blocking") if finding.topic == topic]
    assert any(re.search(text, finding.text) for finding in found), str(report)
    assert all(finding.advice for finding in report.at_level("blocking"))


@pytest.mark.parametrize(
    ("changes", "topic", "text"),
    [
        ({"dtype": "BF16"}, "dtype", "F32 at the start, BF16 at the end"),
        ({"config": changed(CONFIG, pad_token_id=1)}, "settings", "pad_token_id (0 and 1)"),
        ({"config": changed(CONFIG, id2label=None, num_labels=3)}, "labels", "the end names no classes"),
        ({"config": changed(CONFIG, id2label={"0": "bad", "1": "fair", "2": "good"})}, "labels", "negative / bad"),
        ({"tokenizer": TOKENIZER}, "tokenizer", "only the end has one"),
    ],
)
def test_what_differs_and_is_no_reason(pair, changes, topic, text):
    # A warning that is missing, or a pair that everybody merges called incompatible.
    report = pair(**changes)
    assert report.compatible, str(report)
    assert text in texts(report, "differs")[topic]


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "5.0", "torch_dtype": "float32", "_name_or_path": "x", "use_cache": False},
        {"attention_dropout": 0.1},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": None},
        {"hidden_act": None, "max_position_embeddings": None},
        {"id2label": {"0": "Negative", "1": "Neutral", "2": "Positive"}},
        {"label2id": {"negative": 0, "neutral": 1, "positive": 2}},
    ],
)
def test_spelling_and_records_make_no_difference(pair, changes):
    # Checkpoints of two versions of Transformers, or one of them trained with dropout, would never be compatible.
    report = pair(config=changed({**CONFIG, **changes}))
    assert report.compatible, str(report)
    assert not report.at_level("differs"), str(report)


@pytest.mark.parametrize("options", [{"ignore_head": True}, {"head_from": "start"}, {"head_from": "end"}])
def test_another_head_has_to_be_asked_for(pair, options):
    # A head that is dropped in silence, or one that cannot be dropped at all.
    labels = {str(i): name for i, name in enumerate("abcde")}
    other = {"config": changed(CONFIG, id2label=labels), "tensors": changed(TENSORS, **{"score.weight": [5, 16]})}
    assert not pair(**other).compatible
    report = pair(options, **other)
    assert report.compatible, str(report)
    assert {"head", "labels"} <= set(texts(report, "differs"))
    assert "score.weight [3, 16] at the start; score.weight [5, 16] at the end" in texts(report, "differs")["head"]
    assert report.interpolates.startswith("4 tensors, 1,584 parameters; the head is ")
    # The rest is compared all the same.
    other["tensors"]["model.norm.weight"] = [8]
    assert not pair(options, **other).compatible


def test_permuted_labels_with_heads_apart_are_named_only(pair):
    permuted = {"config": changed(CONFIG, id2label={"0": "neutral", "1": "negative", "2": "positive"})}
    report = pair({"head_from": "end"}, **permuted)
    assert report.compatible
    assert "negative is 0 at the start and 1 at the end" in texts(report, "differs")["labels"]


def test_contradicting_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give one of the two"):
        compare(tmp_path, tmp_path, ignore_head=True, head_from="end")
    with pytest.raises(ValueError, match='"start" or "end"; got \'both\''):
        compare(tmp_path, tmp_path, head_from="both")
    with pytest.raises(TypeError, match="reads files, and got a Linear"):
        compare(tmp_path, torch.nn.Linear(1, 1))


def test_code_of_a_repository_is_named_and_not_run(pair, tmp_path):
    own = {"config": changed(CONFIG, architectures=["OwnModel"], auto_map={"AutoModel": "own.OwnModel"})}
    (tmp_path / "end").mkdir()
    (tmp_path / "end" / "own.py").write_text("raise SystemExit('the code ran')", encoding="utf-8")
    report = pair(first=own, **own)
    assert "OwnModel of the end is defined by the repository's own code." in texts(report, "blocking")["code"]
    assert pair({"trust_remote_code": True}, first=own, **own).compatible


VOCABULARIES = {
    "the same": ({"a": 0, "b": 1, "c": 2}, None, ""),
    "two swapped": ({"a": 0, "b": 2, "c": 1}, "blocking", "'b' (1 and 2), 'c' (2 and 1)"),
    "one replaced": ({"a": 0, "b": 1, "d": 2}, "blocking", "'c' / 'd' (2)"),
    "one more": ({"a": 0, "b": 1, "c": 2, "d": 3}, "differs", "3 tokens at the start and 4 at the end; 'd'."),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies_are_compared_when_asked_to(pair, name):
    # The same row of the embeddings would be two words.
    vocabulary, level, text = VOCABULARIES[name]
    # Written at other times, by other versions.
    second = {**copy.deepcopy(TOKENIZER), "version": "1.0"}
    second["model"]["vocab"] = vocabulary
    tokenizers = {"first": {"tokenizer": TOKENIZER}, "tokenizer": second}
    shallow = pair(**tokenizers)
    assert shallow.compatible
    assert "tokenizer.json differs" in texts(shallow, "differs")["tokenizer"]
    report = pair({"deep": True}, **tokenizers)
    assert report.compatible == (level != "blocking")
    if level is None:
        assert "with the same tokens in the same rows" in texts(report, "differs")["tokenizer"]
    else:
        assert text in next(f.text for f in report.at_level(level) if f.topic == "vocabulary")


def test_normalizers_and_image_processors_are_compared_when_asked_to(pair):
    first = {"tokenizer": TOKENIZER, "preprocessor_config": PROCESSOR}
    second = {
        "tokenizer": {**TOKENIZER, "normalizer": {"type": "Lowercase"}},
        "preprocessor_config": {**PROCESSOR, "image_mean": [0.4, 0.5, 0.5], "size": {"height": 16, "width": 16}},
    }
    assert not pair(first=first, **first).at_level("differs")
    assert "preprocessor_config.json differs" in texts(pair(first=first, **second), "differs")["processor"]
    report = pair({"deep": True}, first=first, **second)
    assert report.compatible
    assert "normalizer of tokenizer.json differs." in texts(report, "differs")["tokenizer"]
    found = [finding.text for finding in report.at_level("differs") if finding.topic == "processor"]
    assert "preprocessor_config.json: image_mean is [0.5, 0.5, 0.5] at the start, [0.4, 0.5, 0.5] at the end." in found
    assert len(found) == 2


@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "gpt2"])
def test_what_transformers_saves_is_compatible_with_itself(make_model, tmp_path, name):
    # Any finding here would come with every pair of that architecture.
    for side, seed in (("start", 1), ("end", 2)):
        make_model(name, seed=seed).save_pretrained(tmp_path / side)
    report = compare(tmp_path / "start", tmp_path / "end")
    assert report.compatible, str(report)
    # The models of the tests name no classes.
    assert set(texts(report, "differs")) <= {"labels"}, str(report)
    expected = sum(parameter.numel() for parameter in make_model(name).parameters())
    buffers = sum(
        buffer.numel() for key, buffer in make_model(name).state_dict().items() if "running" in key or "num_b" in key
    )
    assert f"{expected + buffers:,} parameters" in report.interpolates


def test_architectures_differ(make_model, tmp_path):
    make_model("vit").save_pretrained(tmp_path / "vit")
    make_model("bert").save_pretrained(tmp_path / "bert")
    report = compare(tmp_path / "vit", tmp_path / "bert")
    text = texts(report, "blocking")["architecture"]
    assert text == "ViTForImageClassification (vit) at the start, BertForSequenceClassification (bert) at the end."


def rename(folder, names):
    """The same weights under other names, as older versions of Transformers wrote them."""
    weights = load_file(folder / "model.safetensors")
    save_file({names(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        (
            "bert",
            lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ),
        ),
        ("vit", lambda name: name.replace("vit.encoder.layer.", "vit.layers.")),
        ("gpt2", lambda name: name.removeprefix("transformer.")),
    ],
)
def test_other_names_for_the_same_weights_are_said_only(make_model, tmp_path, name, names):
    # Most checkpoints on the Hub are older than the code that loads them.
    for side in ("start", "end"):
        make_model(name).save_pretrained(tmp_path / side)
    rename(tmp_path / "end", names)
    report = compare(tmp_path / "start", tmp_path / "end")
    assert report.compatible, str(report)
    assert "saved under other names, with the same shapes" in texts(report, "differs")["weights"]


def test_a_base_model_and_one_with_a_head(make_model, tmp_path):
    # The usual pair: pretrained and fine-tuned.
    tuned = make_model("bert")
    tuned.save_pretrained(tmp_path / "tuned")
    tuned.bert.save_pretrained(tmp_path / "base")
    BertForMaskedLM(tuned.config).save_pretrained(tmp_path / "mlm")
    assert isinstance(tuned.bert, BertModel)
    for start in ("base", "mlm"):
        report = compare(tmp_path / start, tmp_path / "tuned")
        assert "BertForSequenceClassification at the end" in texts(report, "blocking")["architecture"]
        asked = compare(tmp_path / start, tmp_path / "tuned", head_from="end")
        assert asked.compatible, str(asked)


def test_ties_are_told_from_copies(make_model, tmp_path):
    # A tied and an untied model have no line; one that merely stores its tied weights twice does.
    model = make_model("gpt2")
    model.save_pretrained(tmp_path / "tied")
    model.save_pretrained(tmp_path / "twice")
    weights = load_file(tmp_path / "twice" / "model.safetensors")
    save_file(
        {**weights, "lm_head.weight": weights["transformer.wte.weight"].clone()},
        tmp_path / "twice" / "model.safetensors",
    )
    report = compare(tmp_path / "tied", tmp_path / "twice")
    assert report.compatible, str(report)
    assert (
        texts(report, "same")["tied weights"] == "the output is the embeddings at both ends, stored twice at the end"
    )
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "untied")
    report = compare(tmp_path / "tied", tmp_path / "untied")
    assert (
        "the start ties its output to its embeddings, the end has an output"
        in texts(report, "blocking")["tied weights"]
    )
    # Old configurations do not say it, and the class's default counts.
    for folder in ("tied", "twice"):
        file = tmp_path / folder / "config.json"
        saved = json.loads(file.read_text(encoding="utf-8"))
        saved.pop("tie_word_embeddings", None)
        file.write_text(json.dumps(saved), encoding="utf-8")
    assert compare(tmp_path / "tied", tmp_path / "twice").compatible


@pytest.fixture
def adapters(make_model, tmp_path):
    """`adapters(name, base="base", **LoRA settings)`: the folder of a fresh adapter on a BERT."""

    def make(name, base="base", **settings):
        if not (tmp_path / base).exists():
            make_model("bert").save_pretrained(tmp_path / base)
        model = BertForSequenceClassification.from_pretrained(tmp_path / base)
        config = LoraConfig(**{"r": 2, "target_modules": ["query", "value"], "task_type": "SEQ_CLS", **settings})
        get_peft_model(model, config).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def test_adapters_on_one_base(adapters, tmp_path):
    first, second = adapters("first"), adapters("second", r=4, target_modules=["query"])
    report = compare(first, second)
    assert report.compatible, str(report)
    assert report.interpolates == "two adapters on one base, scaled by 1 - alpha and by alpha"
    found = [finding.text for finding in report.at_level("differs")]
    assert "the rank is 2 at the start and 4 at the end." in found
    assert any(text.startswith("target_modules is ['query', 'value']") for text in found)
    assert compare(tmp_path / "base", first).interpolates == "the adapter's scale, from 0 to 1"
    assert compare(first, tmp_path / "base").interpolates == "the adapter's scale, from 1 to 0"
    explicit = compare(f"{tmp_path / 'base'}+{first}", f"{tmp_path / 'base'}+{second}")
    assert explicit.compatible, str(explicit)


def test_adapters_on_two_bases(adapters, tmp_path):
    # Half a path of one model, half of another.
    first, second = adapters("first"), adapters("second", base="other")
    report = compare(first, second)
    assert "an adapter on another base" in texts(report, "blocking")["base"]
    assert not compare(tmp_path / "other", first).compatible
    report = compare(tmp_path / "other", f"{tmp_path / 'other'}+{first}")
    assert "the end's adapter was trained on" in texts(report, "blocking")["base"]


def test_an_adapter_that_does_not_fit(adapters, tmp_path):
    # peft would fail with a page of sizes, after the base is loaded.
    first = adapters("first")
    BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path / "large" / "base")
    large = tmp_path / "large" / "base"
    report = compare(large, f"{large}+{first}")
    assert "query.weight is [32, 32], B A is [16, 16]" in texts(report, "blocking")["adapter"]


def test_adapters_that_are_no_plain_lora(adapters, tmp_path):
    report = compare(tmp_path / "base", adapters("dora", use_dora=True))
    assert report.compatible, str(report)
    assert report.interpolates == "the merged weights"
    assert "LoRA with use_dora" in texts(report, "differs")["adapter"]
    file = tmp_path / "dora" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "peft_type": "PREFIX_TUNING"}), encoding="utf-8")
    assert "PREFIX_TUNING, not LoRA" in texts(compare(tmp_path / "base", tmp_path / "dora"), "blocking")["adapter"]


def test_an_adapter_whose_base_is_gone(adapters, tmp_path):
    first = adapters("first")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises((ValueError, OSError), match=r"The base of the adapter .*first"):
        compare(first, first)
    config = json.loads((first / "adapter_config.json").read_text(encoding="utf-8"))
    (first / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": None}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="names no base: give it as BASE"):
        compare(first, first)
    with pytest.raises(ValueError, match="what follows a plus sign has to be an adapter"):
        compare(f"{tmp_path / 'moved'}+{tmp_path / 'moved'}", first)
