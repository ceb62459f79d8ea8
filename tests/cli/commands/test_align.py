# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft align`, and `evaluate --align`: what they write, and that all ways to an aligned path measure the same."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft import ConnectivityEvaluator, ConnectivityResult, align
from hf_cbft.alignment import Alignment
from hf_cbft.cli.main import main
from hf_cbft.data.digits import load_digits
from hf_cbft.data.sources import load_sources
from paper.recipes import build_model

MEASURED = ["--dataset", "test=digits:test", "--num_points", "3", "--num_resamples", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two BatchNorm networks that know nothing of each other."""
    place = tmp_path_factory.mktemp("aligned")
    for seed in (0, 1):
        model = build_model("resnet", seed)
        with torch.no_grad():  # running statistics that tell channels apart
            model.train()(pixel_values=torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(seed)))
        model.save_pretrained(place / f"model-{seed}")
        ViTImageProcessorPil(size={"height": 24, "width": 24}, do_resize=False).save_pretrained(
            place / f"model-{seed}"
        )
    return place


@pytest.mark.parametrize(
    "options", [[], ["--method", "activations", "--dataset", "clean=digits:finetune"]], ids=["weights", "activations"]
)
def test_the_folder_is_an_ordinary_checkpoint_of_the_same_function(folder, tmp_path, capsys, options):
    start, end, out = folder / "model-0", folder / "model-1", tmp_path / "out"
    assert main(["align", str(start), str(end), "--output_dir", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "before, " in printed
    assert "same function" in printed
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "align.yaml"} <= {
        file.name for file in out.iterdir()
    }
    pixels = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    models = [AutoModelForImageClassification.from_pretrained(each).eval() for each in (end, out)]
    with torch.no_grad():
        one, other = (model(pixel_values=pixels).logits for model in models)
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert AutoImageProcessor.from_pretrained(out).size == {"height": 24, "width": 24}
    alignment = Alignment.load(out)
    facts = json.loads((out / "alignment.json").read_text())
    assert facts == alignment.to_dict()
    assert (facts["start"], facts["end"], facts["moved"] > 0.9) == (str(start), str(end), True)
    card = (out / "README.md").read_text()
    assert str(alignment) in card
    assert card.startswith("---\n")
    for name, weight in alignment.apply(models[0]).state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], weight, rtol=0, atol=0)


def test_json_is_what_the_file_holds(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["align", str(folder / "model-0"), str(folder / "model-1"), "--output_dir", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "alignment.json").read_text())


@pytest.mark.slow
@pytest.mark.sample
def test_all_ways_to_an_aligned_path_measure_the_same(folder, tmp_path, capsys):
    """By name, by the folder of `align`, by an `Alignment`, and to the aligned checkpoint itself."""
    start, end, aligned = (str(folder / "model-0"), str(folder / "model-1"), str(tmp_path / "aligned"))
    data = ["--calibration_dataset", "digits:finetune"]
    method = ["--method", "activations", "--dataset", "clean=digits:finetune"]
    assert main(["align", start, end, "--output_dir", aligned, *method]) == 0
    found = []
    for number, ends in enumerate(
        ([start, end, "--align", "activations"], [start, end, "--align", aligned], [start, aligned])
    ):
        out = tmp_path / f"path-{number}"
        assert main(["evaluate", *ends, *data, *MEASURED, "--output_dir", str(out)]) == 0
        found.append(ConnectivityResult.load(out).losses["test"])
    assert "aligned by activations, " in capsys.readouterr().out
    sets, _ = load_sources(["test=digits:test", "clean=digits:finetune"])
    processor = AutoImageProcessor.from_pretrained(end)
    alignment = align(start, end, "activations", sets["clean"], processing_class=processor)
    evaluator = ConnectivityEvaluator(start, end, processor, calibration_dataset=sets["clean"], align=alignment)
    result = evaluator.evaluate({"test": sets["test"]}, num_points=3, num_resamples=20)
    assert result.settings["align"] == alignment.summary()
    for losses in (*found[1:], result.losses["test"]):
        np.testing.assert_allclose(losses, found[0], rtol=0, atol=1e-6)
    unaligned = ConnectivityEvaluator(start, end, processor, calibration_dataset=sets["clean"])
    before = unaligned.evaluate({"test": sets["test"]}, num_points=3, num_resamples=20).losses["test"]
    np.testing.assert_allclose(before[[0, 2]], found[0][[0, 2]], rtol=0, atol=1e-5)
    assert abs(before[1] - found[0][1]) > 1e-3


def test_a_point_of_an_aligned_path_is_saved_with_a_card_that_says_so(folder, tmp_path):
    start, end = (str(folder / f"model-{seed}") for seed in (0, 1))
    evaluator = ConnectivityEvaluator(start, end, calibration_dataset=load_digits()["finetune"], align="weights")
    evaluator.save_point(1.0, tmp_path / "point")
    assert "its units in the order of the start's" in (tmp_path / "point" / "README.md").read_text()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "point").state_dict()
    original = AutoModelForImageClassification.from_pretrained(end)
    for name, weight in evaluator.alignment.apply(original).state_dict().items():
        torch.testing.assert_close(saved[name], weight, rtol=0, atol=0)


def test_another_alignment_is_another_evaluation(folder, tmp_path):
    """Points that were kept of the path to the end as it is must not serve the aligned one."""
    start, end = (str(folder / f"model-{seed}") for seed in (0, 1))
    rows = load_digits()["test"].select(range(20))
    processor = AutoImageProcessor.from_pretrained(end)
    options = {"num_points": 3, "num_resamples": 20, "resume_dir": tmp_path / "points"}
    ConnectivityEvaluator(start, end, processor).evaluate(rows, **options)
    with pytest.raises(ValueError, match="another"):
        ConnectivityEvaluator(start, end, processor, align="weights").evaluate(rows, **options)
