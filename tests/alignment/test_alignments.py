# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""An alignment in use: applied, undone, made again, kept in a file, and in a folder that Transformers loads."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import alignment_zoo as zoo
from safetensors.numpy import save_file

from hf_cbft import align
from hf_cbft.alignment import Alignment
from hf_cbft.alignment.alignments import FILE_NAME


@pytest.fixture(scope="module")
def bert():
    """Two independent models, and their alignment."""
    start, end = zoo.make("bert", 0), zoo.make("bert", 1)
    return start, end, align(start, end, num_starts=1)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "qwen2", "mpnet", "resnet", "convnext", "mlp"])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_aligned_again_nothing_moves(name, method):
    """Two trainings of a family: what is closest is closest, wherever the search begins from."""
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    data = zoo.make_rows(start, 256) if method == "activations" else None
    first = align(start, end, method, data, num_starts=2)
    assert first.moved > 0.5
    again = align(start, first.apply(end), method, data, num_starts=2)
    assert again.moved == 0
    assert again.info["before"] == pytest.approx(again.info["after"], rel=1e-6)
    assert again.info["before"] == pytest.approx(first.info["after"], rel=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "resnet", "cnn"])
def test_inverse(name):
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    before = zoo.bits(end)
    alignment = align(start, end, num_starts=1)
    assert zoo.changed(alignment.apply(end), before) != []
    undone = alignment.inverse()
    assert undone.info["inverted"] is True
    assert zoo.changed(undone.apply(end), before) == []


def test_weights_are_permuted_when_they_are_read(bert):
    _, end, alignment = bert
    stored = zoo.bits(end)
    view = alignment.permuted(stored)
    assert (len(view), list(view)) == (len(stored), list(stored))
    assert "classifier.bias" in view
    assert "absent" not in view
    aligned = alignment.apply(copy.deepcopy(end)).state_dict()
    assert [name for name in view if not torch.equal(view[name], aligned[name])] == []


@pytest.mark.parametrize("name", ["gpt2", "mistral", "bert-masked", "roberta-masked"])
def test_tied_weights_stay_tied(name, tmp_path):
    """Saved and loaded by plain Transformers, it is one tensor still, and gives what the original gave."""
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    original = copy.deepcopy(end).double()
    alignment = align(start, end, num_starts=1).apply(end)
    assert alignment.get_input_embeddings().weight is alignment.get_output_embeddings().weight
    end.save_pretrained(tmp_path)
    loaded = type(end).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.get_input_embeddings().weight.data_ptr() == loaded.get_output_embeddings().weight.data_ptr()
    bound = 1e-5 if name == "mistral" else 1e-8
    assert zoo.difference(original, loaded, zoo.make_batch(original)) <= bound


@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "llama"])
def test_the_saved_folder_gives_the_logits_of_the_original(name, tmp_path):
    start, end = zoo.make(name, 0), zoo.make(name, 1)
    original = copy.deepcopy(end).double()
    align(start, end, num_starts=1).apply(end).save_pretrained(tmp_path)
    loaded = type(end).from_pretrained(tmp_path, dtype=torch.float64).eval()
    bound = 1e-5 if name == "llama" else 1e-8
    assert zoo.difference(original, loaded, zoo.make_batch(original)) <= bound


def test_saved_and_loaded(bert, tmp_path):
    _, end, alignment = bert
    alignment.save(tmp_path / FILE_NAME)
    for place in (tmp_path, tmp_path / FILE_NAME):
        loaded = Alignment.load(place)
        assert loaded.info == alignment.info
        assert loaded.permutations.keys() == alignment.permutations.keys()
        for space, own in alignment.permutations.items():
            np.testing.assert_array_equal(loaded.permutations[space], own)
        expected = zoo.bits(alignment.apply(copy.deepcopy(end)))
        assert zoo.changed(loaded.apply(copy.deepcopy(end)), expected) == []
        assert zoo.changed(loaded.inverse().apply(loaded.apply(copy.deepcopy(end))), zoo.bits(end)) == []
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_what_is_printed(bert):
    """The objective before and after, the units that moved, and the proof."""
    *_, alignment = bert
    text = str(alignment)
    assert "BertForSequenceClassification aligned with BertForSequenceClassification (BERT, weights)" in text
    before, after = (f"{alignment.info[key]:.6g}" for key in ("before", "after"))
    assert f"squared distance of the weights: {before} before, {after} after" in text
    assert f"{alignment.moved:.1%} of the units changed places" in text
    assert f"differ by {alignment.info['gate']:.1g} of the largest at most" in text
    assert alignment.to_dict() == {**alignment.info, "moved": alignment.moved}


def test_another_model_is_refused(bert):
    *_, alignment = bert
    other = zoo.make("vit")
    before = zoo.bits(other)
    with pytest.raises(ValueError, match=r"moves 16 units of bert\..* and this ViTForImageClassification has 0"):
        alignment.apply(other)
    assert zoo.changed(other, before) == []


def _damaged(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-64])


def _of_another_format(place: Path) -> None:
    save_file({"x": np.arange(3)}, str(place), {"format": "another"})


def _of_other_numbers(place: Path) -> None:
    found = Alignment.load(place)
    found.permutations["residual"][0] = found.permutations["residual"][1]
    found.save(place)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "is no alignment: give the file, or the folder"),
        (_damaged, "holds no alignment that can be read"),
        (_of_another_format, "its format is 'another'"),
        (_of_other_numbers, "it has no permutation for residual"),
    ],
)
def test_a_damaged_file_is_refused(bert, tmp_path, spoil, message):
    bert[2].save(tmp_path / FILE_NAME)
    spoil(tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match=message):
        Alignment.load(tmp_path / FILE_NAME)
