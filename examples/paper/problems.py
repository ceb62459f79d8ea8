# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What an experiment trains and measures on: rows with a share of the cue, a little clean data, and the test sets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft.data.backgrounds import BackgroundCue
from hf_cbft.data.balancing import group_names, split_rows
from hf_cbft.data.columns import class_labels
from hf_cbft.data.counterfactuals import add_cue, carries_cue, make_counterfactuals
from hf_cbft.data.cues import BoxCue, Cue
from hf_cbft.data.digits import IMAGE_SIZE, load_digits
from hf_cbft.data.inputs import InputCollator
from hf_cbft.data.sentences import generate_sentences, word_tokenizer
from hf_cbft.data.text_cues import TokenCue
from paper.digit_groups import generate_digit_groups, halve_digits
from paper.recipes import RECIPES, Recipe, build_model

# Which models each data set has, the first one by default.
MODELS = {
    "digits": ("vit", "resnet18-16", "resnet", "resnet-32", "resnet-128", "mlp"),
    "digit-groups": ("vit",),
    "sentences": ("bert",),
    "cifar10": ("cifar-resnet18",),
    "cifar100": ("cifar-resnet18",),
    "dominoes": ("cifar-resnet18",),
}
OTHER_MODELS = ("cifar-resnet18",)
# Images up to here are turned into model inputs once; more would take memory that a model may need.
_IN_MEMORY_BYTES = 256 * 2**20
_TOKENS = ("@@", "##", "%%", "&&")


@dataclass
class Problem:
    """The data of one share of the cue and one seed, and the model that meets it.

    Args:
        pretrain (data set): D_C as the pretrained model sees it: a share of the rows carries the cue.
        pretrain_groups (`np.ndarray`): (N,), the group of each of them: its class, and whether it carries the cue.
        cue_dataset (data set): the same rows, each with its cue; what CBFT's barrier is raised on.
        plain (data set): the same rows without the cue.
        clean (data set): D_NC, a little data in which the cue does not tell the label.
        clean_groups (`np.ndarray`): (M,), the groups that a group-balanced method balances.
        validation (data set): rows with a random cue, to pick what may be picked.
        test (`dict[str, Dataset]`): the four sets.
        grouped_test (`Dataset`, *optional*): rows with a `group`, where there are groups.
        processing_class: of the rows.
        build (`Callable`): a fresh model, from a seed.
        recipe ([`Recipe`]): how the models are trained.
    """

    pretrain: Any
    pretrain_groups: np.ndarray
    cue_dataset: Any
    plain: Any
    clean: Any
    clean_groups: np.ndarray
    validation: Any
    test: dict[str, Dataset]
    processing_class: Any
    build: Callable[[int], nn.Module]
    recipe: Recipe
    grouped_test: Dataset | None = None


class InputRows(torch.utils.data.Dataset):
    """Rows as model inputs, made once: what a step would otherwise decode and normalise anew each time."""

    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.columns.items()}

    def select(self, indices: Any) -> "InputRows":
        rows = torch.as_tensor(np.asarray(indices))
        return InputRows({name: values[rows] for name, values in self.columns.items()})


def load_problem(
    dataset: str, model: str, share: float | None, seed: int, recipe: Recipe, num_clean: int | None = None
) -> Problem:
    """Read or generate the data of an experiment.

    Args:
        dataset (`str`): a name of [`MODELS`], a folder or a Hub id.
        model (`str`): one of its models.
        share (`float`, *optional*): fraction of the pretraining rows with the cue; `None`: the recipe's.
        seed (`int`): of the cues.
        recipe ([`Recipe`]): see [`recipe_for`].
        num_clean (`int`, *optional*): how many clean rows there are; `None`: the data set's own number. Beyond it they
            are taken from the pretraining rows, which the model has then met with their cue.

    Raises:
        ValueError: more clean rows than there are, or data that do not fit.
        OSError: data that cannot be had.
    """
    share = recipe.cue_share if share is None else share
    cue: Cue
    build: Callable[[int], nn.Module]
    if dataset == "digit-groups":
        return _digit_groups(share, seed, recipe, num_clean)
    if dataset == "sentences":
        return _sentences(share, seed, recipe, num_clean)
    if dataset == "digits":
        parts: Any = load_digits(recipe.contrast, recipe.noise)
        size, cue = (IMAGE_SIZE, IMAGE_SIZE), BoxCue()
        build = partial(build_model, recipe.model)
    else:
        from paper.cifar_resnet import cifar_resnet18
        from paper.image_data import load_image_parts

        loaded = load_image_parts(dataset)
        parts, cue, size = loaded.parts, loaded.cue, loaded.image_size
        build = partial(cifar_resnet18, loaded.num_classes)
    processor = ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]}, do_resize=dataset not in MODELS, do_convert_rgb=True
    )
    return _with_cue(parts, cue, share, seed, recipe, processor, build, num_clean)


@lru_cache
def count_classes(dataset: str) -> int:
    """K, asked of the data once. Data that cannot be had is said here, once, and not in every job.

    Raises:
        OSError, ValueError: as [`~paper.image_data.load_image_parts`].
    """
    embedded = {"digits": 10, "digit-groups": 2, "sentences": 4}
    if dataset in embedded:
        return embedded[dataset]
    from paper.image_data import load_image_parts

    return load_image_parts(dataset).num_classes


def recipe_for(dataset: str, model: str, quick: bool = False) -> Recipe:
    """How a model of a data set is trained.

    Raises:
        ValueError: an unknown model; those that there are are listed.
    """
    known = MODELS.get(dataset, OTHER_MODELS)
    if model not in known:
        raise ValueError(f"unknown model {model!r} for {dataset}; there is {', '.join(known)}.")
    recipe = RECIPES.get(f"{model} on {dataset}") or RECIPES[model]
    return recipe.quick() if quick else recipe


def _with_cue(
    parts: Any,
    cue: Cue,
    share: float,
    seed: int,
    recipe: Recipe,
    processor: Any,
    build: Callable[[int], nn.Module],
    num_clean: int | None,
) -> Problem:
    """The problem of a cue that is put on clean rows."""
    pretrain, clean = parts["pretrain"], _clean_rows(parts, num_clean)
    test = parts["test"] if recipe.test_rows is None else parts["test"].select(range(recipe.test_rows))
    carries = carries_cue(pretrain, share, seed)
    labels = class_labels(pretrain, "The data set")
    return Problem(
        pretrain=as_inputs(add_cue(pretrain, cue, share, seed), processor),
        pretrain_groups=group_names(labels, np.where(carries, "cue", "no cue")),
        cue_dataset=as_inputs(add_cue(pretrain, cue), processor),
        plain=as_inputs(pretrain, processor),
        clean=as_inputs(clean, processor),
        clean_groups=class_labels(clean, "The data set").astype(str),
        validation=make_counterfactuals(parts["validation"], cue, seed)["rand_cue"],
        test=dict(make_counterfactuals(test, cue, seed)),
        processing_class=processor,
        build=build,
        recipe=recipe,
    )


def _sentences(share: float, seed: int, recipe: Recipe, num_clean: int | None) -> Problem:
    tokenizer = word_tokenizer(_TOKENS)
    parts = {
        "pretrain": generate_sentences(2000, seed=2),
        "finetune": generate_sentences(256, seed=1),
        "validation": generate_sentences(400, seed=4),
        "test": generate_sentences(1000, seed=3),
    }
    build = partial(build_model, "bert", num_classes=4, vocab_size=len(tokenizer))
    return _with_cue(parts, TokenCue(list(_TOKENS)), share, seed, recipe, tokenizer, build, num_clean)


def _digit_groups(share: float, seed: int, recipe: Recipe, num_clean: int | None) -> Problem:
    """Low and high digits on two backgrounds: the background is the cue, and the clean rows are of all four groups."""
    processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_resize=False)
    digits = load_digits(recipe.contrast, recipe.noise)
    build = partial(build_model, recipe.model, num_classes=2)
    problem = _with_cue(halve_digits(digits), BackgroundCue(), share, seed, recipe, processor, build, None)
    parts = generate_digit_groups(digits, share=share, seed=seed)
    test = parts["test"] if recipe.test_rows is None else parts["test"].select(range(recipe.test_rows))
    clean = _clean_rows(parts, num_clean)
    return replace(
        problem,
        pretrain=as_inputs(parts["pretrain"].remove_columns(["place", "group"]), processor),
        pretrain_groups=np.array(parts["pretrain"]["group"]),
        clean=as_inputs(clean.remove_columns(["place", "group"]), processor),
        clean_groups=np.array(clean["group"]),
        grouped_test=test,
    )


def _clean_rows(parts: Any, number: int | None) -> Dataset:
    clean = parts["finetune"]
    if number is None or number == len(clean):
        return clean
    if number > len(clean):
        more = number - len(clean)
        if more > len(parts["pretrain"]):
            raise ValueError(
                f"{number} clean rows are wanted, and there are {len(clean) + len(parts['pretrain'])}: ask for fewer."
            )
        return concatenate_datasets([clean, _spread(parts["pretrain"], more)])
    return _spread(clean, number)


def _spread(dataset: Dataset, number: int) -> Dataset:
    """So many rows, of all classes as evenly as can be."""
    labels = class_labels(dataset, "The data set")
    return dataset.select(split_rows(labels, {"chosen": number}, seed=0, rest="others")["chosen"])


def as_inputs(dataset: Dataset, processing_class: Any) -> Any:
    """Images as model inputs in memory, as long as they are few; other rows as they are."""
    if "image" not in dataset.column_names:
        return dataset
    collate = InputCollator(processing_class=processing_class)
    first = collate([dataset[0]])
    if len(dataset) * first["pixel_values"].nbytes > _IN_MEMORY_BYTES:
        return dataset
    return InputRows(collate(list(dataset)))
