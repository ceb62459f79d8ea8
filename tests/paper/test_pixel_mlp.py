# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The perceptron as a Transformers model: saved, loaded by its own code, and the same."""

import subprocess
import sys

import pytest
import torch

from hf_cbft.checkpoints.loading import load_model
from paper.recipes import build_model


@pytest.fixture
def model():
    return build_model("mlp", seed=3)


def test_its_logits_are_those_of_its_layers(model):
    pixels = torch.randn(5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    states = pixels.flatten(1)
    for layer in model.layers:
        if isinstance(layer, torch.nn.Linear):
            states = states @ layer.weight.T + layer.bias
            states = states.relu() if layer is not model.layers[-1] else states
    labels = torch.arange(5)
    output = model(pixel_values=pixels, labels=labels)
    torch.testing.assert_close(output.logits, states)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(states, labels))


@pytest.mark.slow
@pytest.mark.sample
def test_a_saved_one_is_loaded_here_and_where_this_library_is_not(model, tmp_path):
    model.save_pretrained(tmp_path / "mlp")
    loaded = load_model(tmp_path / "mlp")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)
    code = (
        "import sys; from transformers import AutoModelForImageClassification as A; "
        f"model = A.from_pretrained({str(tmp_path / 'mlp')!r}, trust_remote_code=True); "
        "assert 'hf_cbft' not in sys.modules; print(sum(p.numel() for p in model.parameters()))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert process.stdout.split()[-1:] == [str(sum(p.numel() for p in model.parameters()))], process.stderr[-2000:]
