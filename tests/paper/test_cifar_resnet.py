# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The model for 32x32 images: one whose stem shrinks them, or that is read back with another, is not the paper's."""

import json

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from hf_cbft.checkpoints.loading import load_model
from hf_cbft.representations import find_representation_layer
from paper.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, cifar_resnet18

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return cifar_resnet18(num_labels=5, width=4).eval()


@pytest.fixture(scope="module")
def logits(model):
    with torch.no_grad():
        return model(IMAGES).logits


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_stages_see_32_16_8_and_4_pixels(model):
    # Transformers' stem leaves 8: the last stages of a ResNet-18 would see 2 pixels and 1.
    with torch.no_grad():
        states = model(IMAGES, output_hidden_states=True).hidden_states
    assert [tuple(state.shape[1:]) for state in states] == [
        *[(4, 32, 32), (4, 32, 32)],  # the stem, and the stage that keeps the size
        *[(8, 16, 16), (16, 8, 8), (32, 4, 4)],
    ]


def test_stem_is_convolution_normalization_and_activation(model):
    # Written out: anything else that Transformers puts there would show.
    stem = model.resnet.embedder
    convolution, normalization = stem.embedder.convolution, stem.embedder.normalization
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(IMAGES, convolution.weight, padding=1)
        expected = torch.relu(normalization(expected))
        assert convolution.weight.shape == (4, 3, 3, 3)
        assert torch.equal(stem(IMAGES), expected)


def test_full_width_is_resnet_18():
    # 11,173,962 is the size of the CIFAR ResNet-18 with 10 classes: 4 x 2 basic blocks of 64 to 512 channels.
    with torch.device("meta"):
        model = cifar_resnet18(num_labels=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_weights_are_the_seeds_and_the_generator_stays(model, logits):
    # Pretraining draws its batches after the model was made: these must not hang on how large it is.
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    same, other = cifar_resnet18(5, width=4).eval(), cifar_resnet18(5, seed=1, width=4).eval()
    assert torch.equal(torch.rand(3), expected)
    with torch.no_grad():
        assert torch.equal(same(IMAGES).logits, logits)
        assert not torch.equal(other(IMAGES).logits, logits)


def test_new_stem_is_initialized_as_the_other_convolutions():
    # Put in after Transformers has drawn the weights, it could keep torch's default, which is another one.
    config = CifarResNetConfig(embedding_size=256, hidden_sizes=[4], depths=[1], layer_type="basic")
    weight = CifarResNetForImageClassification(config).resnet.embedder.embedder.convolution.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.05), "Kaiming, by the fan-out"


def test_saved_and_loaded_gives_the_same_logits(folder, logits):
    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert type(loaded) is CifarResNetForImageClassification
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES).logits, logits)


def test_library_loads_what_was_saved(folder, logits):
    # The saved folder names its own code, so that it loads also where this library is not installed.
    loaded = load_model(folder).eval()
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES).logits, logits)
    assert (folder / "cifar_resnet.py").exists()
    references = json.loads((folder / "config.json").read_text())["auto_map"]
    assert references["AutoModelForImageClassification"] == "cifar_resnet.CifarResNetForImageClassification"


def test_transformers_resnet_is_left_as_it_is():
    # Registering the class must not change what `resnet` means to anyone else.
    plain = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    assert isinstance(plain.resnet.embedder.pooler, torch.nn.MaxPool2d)
    assert type(AutoModelForImageClassification.from_config(plain.config)) is ResNetForImageClassification


def test_representation_is_what_enters_the_classifier(model):
    # The invariance loss looks for it in any model, by its place and size.
    name, layer = find_representation_layer(model, num_classes=5)
    assert (name, layer.in_features) == ("classifier.1", 32)


def test_training_reaches_every_parameter():
    model = cifar_resnet18(num_labels=5, width=4)
    loss = model(pixel_values=IMAGES, labels=torch.tensor([0, 4])).loss
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(("num_labels", "width"), [(1, 4), (10, 0)])
def test_sizes_that_make_no_classifier_are_refused(num_labels, width):
    with pytest.raises(ValueError, match=rf"2 classes or more and a width of 1 or more; got {num_labels} and {width}"):
        cifar_resnet18(num_labels, width=width)
