# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Image data of the experiments by name, folder or Hub id: four parts that never mix, and the cue that suits them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from hf_cbft.data.balancing import split_rows
from hf_cbft.data.columns import class_labels, is_list
from hf_cbft.data.cues import BoxCue, ColorBoxCue, Cue, DominoCue
from hf_cbft.data.labels import matched
from hf_cbft.data.sources import load_sources, parse_dataset

# The paper's 2,500 of the 50,000 training images of CIFAR; as many are set apart to choose by.
CLEAN_SHARE = VALIDATION_SHARE = 0.05


@dataclass(frozen=True)
class ImageParts:
    """Images of one experiment.

    Attributes:
        parts (`datasets.DatasetDict`): `pretrain`, `finetune` (the clean set), `validation` and `test`, each with
            `image` and `label`, a `ClassLabel`. No row is in two of them.
        cue ([`~hf_cbft.data.cues.Cue`]): has a value for each class.
        image_size (`tuple[int, int]`): height and width of the first image, in pixels.
        num_classes (`int`): how many labels there are.
    """

    parts: DatasetDict
    cue: Cue
    image_size: tuple[int, int]
    num_classes: int


@dataclass(frozen=True)
class _Named:
    """Where a data set that has a name of its own is, and its columns."""

    source: str
    image: str | None = None
    label: str | None = None


_CIFAR10 = _Named("uoft-cs/cifar10", "img", "label")
_NAMED = {"cifar10": _CIFAR10, "cifar100": _Named("uoft-cs/cifar100", "img", "fine_label")}
_FASHION = _Named("zalando-datasets/fashion_mnist", "image", "label")


def load_image_parts(dataset: str, seed: int = 0) -> ImageParts:
    """The images of `--dataset`, split, with a cue. Nothing is decoded but the first image, and all of `dominoes`.

    | `dataset` | images | cue |
    |---|---|---|
    | `cifar10` | `uoft-cs/cifar10`, 32x32 | a box; its place tells the class |
    | `cifar100` | `uoft-cs/cifar100`, 32x32 | a box; its place and hue tell the class |
    | `dominoes` | CIFAR-10 under a blank half, 64x32 | an image of `zalando-datasets/fashion_mnist` in that half |
    | a folder or Hub id | with the splits `train` and `test` | a box: of one colour to 10 classes, hued to 100 |

    5 % of the training images are the clean set (`finetune`; 2,500 of CIFAR's 50,000, as in the paper), 5 % are for
    `validation`, and the rest is for `pretrain`; `test` is what the data set calls so.

    Args:
        dataset (`str`): a name of the table, a folder of images in `train/CLASS` and `test/CLASS`, a folder saved with
            `save_to_disk`, or an id on the Hub.
        seed (`int`, *optional*, defaults to 0): of the split.

    Raises:
        OSError: no such folder, or a data set that cannot be downloaded.
        ValueError: what cannot be read as images with labels in the splits `train` and `test`, fewer than 2 or more
            than 100 classes, too few images, or dominoes of data sets with other class counts.

    Source: the data of Lubana et al., ICML 2023, section 4.
    """
    if dataset == "dominoes":
        return _dominoes(seed)
    train, test = _train_and_test(_NAMED.get(dataset, _Named(dataset)))
    num_classes = _num_classes(train)
    return _as_parts(train, test, _box_cue(num_classes, dataset), seed, dataset)


def _as_parts(train: Dataset, test: Dataset, cue: Cue, seed: int, name: str) -> ImageParts:
    num_classes = _num_classes(train)
    sizes = {"finetune": round(CLEAN_SHARE * len(train)), "validation": round(VALIDATION_SHARE * len(train))}
    if min(sizes.values()) < num_classes:
        raise ValueError(
            f"{name} has {len(train)} training images of {num_classes} classes, and the clean set is "
            f"{CLEAN_SHARE:.0%} of them, {sizes['finetune']}: give 20 images or more for each class."
        )
    rows = split_rows(class_labels(train, "The split 'train'"), sizes, seed, rest="pretrain")
    parts = {part: train.select(rows[part]) for part in ("pretrain", "finetune", "validation")}
    width, height = train[0]["image"].size
    return ImageParts(DatasetDict({**parts, "test": test}), cue, (height, width), num_classes)


def _box_cue(num_classes: int, name: str) -> Cue:
    if not 2 <= num_classes <= 100:
        raise ValueError(
            f"{name} has {num_classes} classes, and a box can name 2 to 100: take a subset of its classes."
        )
    return BoxCue(num_classes) if num_classes <= 10 else ColorBoxCue(num_classes)


def _num_classes(dataset: Dataset) -> int:
    return dataset.features["label"].num_classes


def _train_and_test(named: _Named) -> tuple[Dataset, Dataset]:
    """The two splits, with `image` and `label` alone; their labels are numbered alike."""
    parsed = parse_dataset(named.source)
    source = parsed.source
    if parsed.split is not None:
        raise ValueError(f"The experiments take the splits train and test of {source}: leave out {parsed.split!r}.")
    columns: dict[str, Any] = {"input_column": named.image, "label_column": named.label}
    try:
        sets, _ = load_sources([f"train={source}:train", f"test={source}:test"], **columns)
    except OSError as error:
        # What is no Hub id either is said already.
        if isinstance(error, FileNotFoundError) or Path(source).expanduser().exists():
            raise
        reason = str(error).partition(": ")[2] or type(error).__name__
        raise OSError(
            f"The data set {source!r} could not be downloaded ({reason}): take --dataset digits, which needs no "
            "network, or load it once where there is one and set HF_HOME to the cache that it is in then. The names "
            "are digits, cifar10, cifar100 and dominoes."
        ) from error
    train, test = sets["train"], sets["test"]
    for name, rows in sets.items():
        lacking = [column for column in ("image", "label") if column not in rows.column_names]
        lacking += ["label"] if not lacking and is_list(rows.features["label"]) else []
        if lacking:
            raise ValueError(
                f"The split {name!r} of {source} has no column of {lacking[0]}s: the experiments need images with "
                "one class each, in columns such as `image` and `label`."
            )
    names = _class_names(train)
    unknown = sorted(set(_class_names(test, used=True)) - set(names))
    if unknown:
        raise ValueError(
            f"The split 'test' of {source} has images of {unknown[0]!r}, a class without training images."
        )
    return _with_classes(train, names, "The split 'train'"), _with_classes(test, names, "The split 'test'")


def _class_names(dataset: Dataset, used: bool = False) -> list[str]:
    """The names of a `ClassLabel` (with `used`, those that a row has), else the values that are there, in order."""
    feature, values = dataset.features["label"], set(dataset.with_format(None)["label"]) - {None}
    if isinstance(feature, ClassLabel):
        return [name for number, name in enumerate(feature.names) if not used or number in values]
    return [str(value) for value in sorted(values)]


def _with_classes(dataset: Dataset, names: list[str], name: str) -> Dataset:
    named = isinstance(dataset.features["label"], ClassLabel)
    numbers: dict[str, Any] = {} if named else {label: number for number, label in enumerate(names)}
    return matched(dataset, "label", dict(enumerate(names)), numbers, name)[0]


def _dominoes(seed: int) -> ImageParts:
    train, test = _train_and_test(_CIFAR10)
    fashion, _ = _train_and_test(_FASHION)
    cue = DominoCue(fashion)
    return _as_parts(cue.prepare(train), cue.prepare(test), cue, seed, "dominoes")
