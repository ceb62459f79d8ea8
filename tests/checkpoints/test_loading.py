# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""End points from folders, ids and memory."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertForSequenceClassification, ViTForImageClassification

from hf_cbft.checkpoints.loading import load_model, source_name

CLASSES = {"vit": ViTForImageClassification, "bert": BertForSequenceClassification}

OWN_MODEL = """
from pathlib import Path
from transformers import ViTForImageClassification

Path({mark!r}).touch()


class OwnModel(ViTForImageClassification):
    pass
"""


def assert_same_weights(model, expected):
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def edit_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config.update(changes)
    file.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("as_string", [True, False])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_a_folder_is_loaded_in_the_class_of_its_configuration(make_model, tmp_path, name, as_string):
    # The base model without its head would be measured, or a head with fresh weights.
    model = make_model(name, seed=1)
    model.save_pretrained(tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved") if as_string else tmp_path / "saved")
    assert type(loaded) is CLASSES[name]
    assert not loaded.training
    assert_same_weights(loaded, model)


def test_a_folder_with_an_at_sign_in_its_name(make_model, tmp_path):
    # "run@lr1e-4" would be looked for on the Hub, at revision "lr1e-4".
    model = make_model("vit", seed=1)
    model.save_pretrained(tmp_path / "run@lr1e-4")
    assert_same_weights(load_model(str(tmp_path / "run@lr1e-4")), model)
    assert_same_weights(load_model(tmp_path / "run@lr1e-4"), model)


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [("org/name", "org/name", None), ("org/name@v1.0", "org/name", "v1.0"), ("name@refs/pr/1", "name", "refs/pr/1")],
)
def test_a_revision_follows_the_at_sign(monkeypatch, source, name, revision):
    # Another revision of a checkpoint is another model.
    asked = []

    def from_pretrained(given, **options):
        asked.append((given, options))
        raise OSError("not asking the Hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    with pytest.raises(OSError, match="not asking the Hub"):
        load_model(source)
    expected = {"trust_remote_code": False} if revision is None else {"trust_remote_code": False, "revision": revision}
    assert asked == [(name, expected)]


def test_a_revision_reaches_the_weights(make_model, monkeypatch, tmp_path):
    # The configuration of one revision and the weights of another.
    folder = tmp_path / "saved"
    make_model("vit").save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    asked = {}
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda given, **options: config)

    def from_pretrained(given, output_loading_info, **options):
        asked.update(options, name=given)
        return make_model("vit"), {"missing_keys": set()}

    monkeypatch.setattr(ViTForImageClassification, "from_pretrained", from_pretrained)
    load_model("org/name@abc123")
    assert asked == {"name": "org/name", "revision": "abc123", "use_safetensors": True, "trust_remote_code": False}


def test_a_model_is_handed_back_as_it_is(make_model):
    # A copy would be measured, not the user's model; `eval()` would change it.
    model = make_model("vit").train()
    assert load_model(model) is model
    assert model.training


@pytest.mark.parametrize(("architectures", "shown"), [(["NoSuchModel"], "NoSuchModel"), ([], "None"), (None, "None")])
def test_an_unknown_architecture_says_what_to_do(make_model, tmp_path, architectures, shown):
    # A guess by model_type could put a fresh head on the backbone.
    make_model("vit").save_pretrained(tmp_path / "saved")
    edit_config(tmp_path / "saved", architectures=architectures)
    with pytest.raises(ValueError, match=f"names the class {shown}, which Transformers .* does not have") as raised:
        load_model(tmp_path / "saved")
    assert "load the model yourself and pass it" in str(raised.value)
    assert "trust_remote_code=True" in str(raised.value)


def test_code_of_a_repository_runs_only_when_it_is_trusted(make_model, tmp_path, monkeypatch):
    # A checkpoint from the Hub could run anything.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, mark = tmp_path / "own", tmp_path / "the code ran"
    model = make_model("vit", seed=1)
    model.save_pretrained(folder)
    (folder / "modeling_own.py").write_text(OWN_MODEL.format(mark=str(mark)), encoding="utf-8")
    edit_config(
        folder, architectures=["OwnModel"], auto_map={"AutoModelForImageClassification": "modeling_own.OwnModel"}
    )
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_model(folder)
    assert not mark.exists()
    loaded = load_model(folder, trust_remote_code=True)
    assert mark.exists()
    assert type(loaded).__name__ == "OwnModel"
    assert_same_weights(loaded, model)


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_weights_in_a_pickle_are_refused(make_model, tmp_path, name):
    # Reading a pickle runs whatever is in it.
    model = make_model(name)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights in a pickle only \(pytorch_model\.bin\): load it once and save it"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            "org/no-such-model",
            OSError,
            "The model org/no-such-model is no folder here, and the Hub or its cache did not",
        ),
        ("{tmp}/missing", ValueError, "missing is neither a folder here nor the id of a Hub repository"),
        ("{tmp}", ValueError, r"holds no config\.json: give the folder of a checkpoint"),
        ("{tmp}/notes.txt", ValueError, r"notes\.txt is a file: name the folder that it is in"),
    ],
    ids=["id", "missing", "other folder", "file"],
)
def test_what_is_not_there_is_named(tmp_path, source, kind, message):
    # The user has to see which of the two end points it is; Transformers speaks of ids and of files it looked for.
    (tmp_path / "notes.txt").touch()
    with pytest.raises(kind, match=message):
        load_model(source.replace("{tmp}", str(tmp_path)))


def test_source_name(make_model, tmp_path):
    # A report has to say which two models it is about.
    model = make_model("vit")
    assert source_name("org/name@v1") == "org/name@v1"
    assert source_name(Path("runs") / "a") == str(Path("runs") / "a")
    assert source_name(model) == "ViTForImageClassification"
    model.save_pretrained(tmp_path / "saved")
    assert source_name(load_model(tmp_path / "saved")) == str(tmp_path / "saved")
    assert source_name(torch.nn.Linear(1, 1)) == "Linear"
