# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Images by name, folder or Hub id: where parts mix, or labels or splits differ, no table compares to another."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, config as datasets_config
from PIL import Image as PILImage

from hf_cbft.data import sources
from hf_cbft.data.counterfactuals import make_counterfactuals
from hf_cbft.data.cues import BoxCue, ColorBoxCue
from paper.image_data import load_image_parts

TRAINING = ("pretrain", "finetune", "validation")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """`datasets` builds into a folder of the test."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


def image(number: int, size=(8, 8), mode="RGB") -> PILImage.Image:
    """One that no other number gives."""
    low, high = number % 256, number // 256
    return PILImage.new(mode, size, (low, high, 100) if mode == "RGB" else low)


def number_of(drawn: PILImage.Image) -> int:
    low, high, _ = drawn.convert("RGB").getpixel((drawn.width - 1, drawn.height - 1))
    return low + 256 * high


def rows(count, classes, first=0, image_column="image", label_column="label", size=(8, 8), mode="RGB", **others):
    """Row i shows the number `first` + i and is of class i % `classes`."""
    labels = ClassLabel(names=[f"class {c}" for c in range(classes)])
    features = {image_column: Image(), label_column: labels, **{name: Value("int64") for name in others}}
    columns = {
        image_column: [image(first + i, size, mode) for i in range(count)],
        label_column: [i % classes for i in range(count)],
        **{name: [value] * count for name, value in others.items()},
    }
    return Dataset.from_dict(columns, features=Features(features))


@pytest.fixture
def hub(monkeypatch):
    """`hub[id] = {"train": ..., "test": ...}`: what can be downloaded; `hub.asked` lists the ids that were."""

    class Hub(dict):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[str] = []

    hub = Hub()

    def from_hub(source, config_name, cache):
        hub.asked.append(source.source)
        return hub[source.source]

    monkeypatch.setattr(sources, "_from_hub", from_hub)
    return hub


@pytest.fixture
def saved(tmp_path):
    """`saved(train, test)`: a folder that `save_to_disk` wrote."""

    def saved(train: Dataset, test: Dataset | None = None) -> str:
        folder = tmp_path / "saved"
        DatasetDict({"train": train} | ({} if test is None else {"test": test})).save_to_disk(folder)
        return str(folder)

    return saved


def numbers(dataset: Dataset) -> list[int]:
    return [number_of(drawn) for drawn in dataset["image"]]


# Data of the user.


def test_saved_folder_becomes_four_parts_that_never_mix(saved):
    # The numbers in the images show where each row went, and that its label went with it.
    parts = load_image_parts(saved(rows(100, 4), rows(30, 4, first=500)))
    assert {name: len(part) for name, part in parts.parts.items()} == {
        "pretrain": 90,
        "finetune": 5,
        "validation": 5,
        "test": 30,
    }
    shown = {name: numbers(part) for name, part in parts.parts.items()}
    assert sorted(number for name in TRAINING for number in shown[name]) == list(range(100))
    assert shown["test"] == list(range(500, 530))
    for name, part in parts.parts.items():
        assert part.column_names == ["image", "label"]
        assert part.features["label"].names == [f"class {c}" for c in range(4)]
        first = 500 if name == "test" else 0
        assert list(part["label"]) == [(number - first) % 4 for number in shown[name]]
    assert parts.cue == BoxCue(num_classes=4)
    assert (parts.image_size, parts.num_classes) == ((8, 8), 4)


def test_seed_draws_another_split_of_the_same_images(saved):
    folder = saved(rows(100, 4), rows(30, 4, first=500))
    one, same, other = (load_image_parts(folder, seed).parts for seed in (0, 0, 1))
    assert numbers(one["finetune"]) == numbers(same["finetune"])
    assert numbers(one["finetune"]) != numbers(other["finetune"])
    assert numbers(one["test"]) == numbers(other["test"])


def test_image_folder_is_read_by_its_class_folders(tmp_path):
    # The form in which most people have images; height comes before width.
    for split, count in (("train", 20), ("test", 3)):
        for place, name in enumerate(("cat", "dog")):
            for i in range(count):
                file = tmp_path / "pets" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image(100 * place + i, size=(12, 8)).save(file)
    parts = load_image_parts(str(tmp_path / "pets"))
    assert {name: len(part) for name, part in parts.parts.items()} == {
        "pretrain": 36,
        "finetune": 2,
        "validation": 2,
        "test": 6,
    }
    assert (parts.image_size, parts.num_classes) == ((8, 12), 2)
    for part in parts.parts.values():
        assert part.features["label"].names == ["cat", "dog"]
        assert [number // 100 for number in numbers(part)] == list(part["label"])


@pytest.mark.parametrize("values", [["b", "c", "a"], [10, 2, 9]])
def test_labels_without_names_are_numbered_by_what_is_there(saved, values):
    # Strings have no number, and whole numbers may have gaps: a model's loss needs 0 to K - 1 in both splits.
    kind = Value("string" if isinstance(values[0], str) else "int64")
    made = {}
    for split, count in (("train", 60), ("test", 6)):
        columns = {"image": [image(i) for i in range(count)], "label": [values[i % 3] for i in range(count)]}
        made[split] = Dataset.from_dict(columns, features=Features({"image": Image(), "label": kind}))
    parts = load_image_parts(saved(made["train"], made["test"].select(range(5))))
    names = [str(value) for value in sorted(values)]
    for part in parts.parts.values():
        assert part.features["label"].names == names
        assert [names[label] for label in part["label"]] == [str(values[number % 3]) for number in numbers(part)]


def test_splits_that_number_the_classes_otherwise_are_matched_by_name(saved):
    # Two builders may sort the classes in their own way: equal numbers would then be other classes.
    test = rows(12, 4).cast_column("label", ClassLabel(names=["class 3", "class 2", "class 1", "class 0"]))
    parts = load_image_parts(saved(rows(100, 4), test)).parts
    assert parts["test"].features == parts["pretrain"].features
    assert list(parts["test"]["label"]) == [3, 2, 1, 0] * 3


def test_images_stay_undecoded(saved, monkeypatch):
    # 60,000 images that are decoded to be counted cost minutes before the first step.
    folder = saved(rows(100, 4), rows(30, 4))
    decoded, decode = [], Image.decode_example
    monkeypatch.setattr(Image, "decode_example", lambda *args, **kw: decoded.append(1) or decode(*args, **kw))
    load_image_parts(folder)
    assert len(decoded) == 1, "the first, for its size"


@pytest.mark.parametrize(("classes", "cue"), [(10, BoxCue(10)), (11, ColorBoxCue(11))])
def test_cue_has_a_value_for_each_class(saved, classes, cue):
    # Nine places and none are ten values; beyond, the hue has to tell.
    parts = load_image_parts(saved(rows(20 * classes, classes), rows(classes, classes)))
    assert parts.cue == cue
    assert len(parts.cue.values) == classes


# Data sets with a name of their own; the Hub is a dict.


def test_cifar10_is_split_as_in_the_paper(hub):
    # 2,500 of 50,000 in small: 5 %. The Hub's column is `img`.
    hub["uoft-cs/cifar10"] = {
        "train": rows(400, 10, image_column="img", size=(32, 32)),
        "test": rows(50, 10, first=500, image_column="img", size=(32, 32)),
    }
    parts = load_image_parts("cifar10")
    assert set(hub.asked) == {"uoft-cs/cifar10"}
    assert {name: len(part) for name, part in parts.parts.items()} == {
        "pretrain": 360,
        "finetune": 20,
        "validation": 20,
        "test": 50,
    }
    assert np.bincount(parts.parts["finetune"]["label"]).tolist() == [2] * 10
    assert parts.cue == BoxCue(num_classes=10)
    assert (parts.image_size, parts.num_classes) == ((32, 32), 10)


def test_cifar100_is_told_apart_by_its_fine_labels(hub):
    # It has 20 coarse ones too, and no column that is called `label`.
    hub["uoft-cs/cifar100"] = {
        "train": rows(2000, 100, image_column="img", label_column="fine_label", coarse_label=1),
        "test": rows(100, 100, image_column="img", label_column="fine_label", coarse_label=1),
    }
    parts = load_image_parts("cifar100")
    assert set(hub.asked) == {"uoft-cs/cifar100"}
    assert parts.num_classes == 100
    assert parts.parts["test"].column_names == ["image", "label"]
    assert list(parts.parts["test"]["label"]) == list(range(100))
    assert parts.cue == ColorBoxCue(num_classes=100)


def test_dominoes_stack_fashion_on_cifar(hub):
    # The clean half stays what it was; the grey image of the class, scaled to it, comes on top.
    cifar = {"train": rows(40, 2, image_column="img"), "test": rows(6, 2, first=200, image_column="img")}
    fashion = rows(2, 2, first=50, size=(28, 28), mode="L")
    hub.update({"uoft-cs/cifar10": cifar, "zalando-datasets/fashion_mnist": {"train": fashion, "test": fashion}})
    parts = load_image_parts("dominoes")
    assert set(hub.asked) == {"uoft-cs/cifar10", "zalando-datasets/fashion_mnist"}
    assert (parts.image_size, parts.num_classes) == ((16, 8), 2)
    assert sorted(number for name in TRAINING for number in numbers(parts.parts[name])) == list(range(40))
    test = parts.parts["test"]
    assert numbers(test) == list(range(200, 206))
    assert {drawn.crop((0, 0, 8, 8)).getbbox() for drawn in test["image"]} == {None}, "no cue yet"
    cued = make_counterfactuals(test, parts.cue)["cue"]
    assert numbers(cued) == numbers(test)
    assert [drawn.getpixel((4, 4)) for drawn in cued["image"]] == [(50 + c,) * 3 for c in cued["label"]]


def test_any_hub_id_is_asked_for_as_it_stands(hub):
    hub["org/pets@v2"] = {"train": rows(60, 3), "test": rows(6, 3)}
    assert load_image_parts("org/pets@v2").num_classes == 3
    assert set(hub.asked) == {"org/pets@v2"}


# What cannot be.


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        ("cifar10", "uoft-cs/cifar10"),
        ("cifar100", "uoft-cs/cifar100"),
        ("dominoes", "uoft-cs/cifar10"),
        ("org/no-such-pets", "org/no-such-pets"),
    ],
)
def test_data_that_cannot_be_downloaded_says_so_in_one_sentence(dataset, wanted):
    # Really offline: HF_HUB_OFFLINE=1. Without the way out the reader is left with a traceback of `datasets`.
    with pytest.raises(
        OSError,
        match=rf"^The data set '{wanted}' could not be downloaded \(.+\): take --dataset digits, "
        r"which needs no network, or load it once where there is one and set HF_HOME",
    ) as caught:
        load_image_parts(dataset)
    assert "\n" not in str(caught.value)


def test_path_that_is_not_there_is_not_taken_for_a_download():
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder \./no/such/folder"):
        load_image_parts("./no/such/folder")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (rows(60, 3), None, r"has no split 'test': it has train"),
        (rows(40, 3), rows(3, 3), r"has 40 training images of 3 classes, .* 5% of them, 2: give 20"),
        (rows(9, 3), rows(3, 3), r"has 9 training images of 3 classes, .* 5% of them, 0: give 20"),
        (rows(20, 1), rows(3, 1), r"has 1 classes, and a box can name 2 to 100"),
        (rows(202, 101), rows(3, 101), r"has 101 classes, and a box can name 2 to 100"),
        (rows(60, 3), rows(8, 4), r"The split 'test' of .* has images of 'class 3', a class without training images"),
        (rows(60, 3).remove_columns("label"), rows(3, 3), r"The split 'train' of .* has no column of labels"),
        (
            Dataset.from_dict({"text": ["a"], "label": [0]}),
            Dataset.from_dict({"text": ["a"], "label": [0]}),
            r"The split 'train' of .* has no column of images",
        ),
        (
            Dataset.from_dict({"image": [image(0)], "label": [[0, 1]]}),
            rows(3, 3),
            r"The split 'train' of .* has no column of labels: .* one class each",
        ),
    ],
)
def test_data_that_make_no_experiment_are_refused(saved, train, test, message):
    with pytest.raises(ValueError, match=message):
        load_image_parts(saved(train, test))


def test_split_in_the_name_is_refused(saved):
    # It would be dropped, or make a part of a part.
    with pytest.raises(ValueError, match=r"take the splits train and test of org/pets: leave out 'train\[:10\]'"):
        load_image_parts("org/pets:train[:10]")


def test_dominoes_of_other_class_counts_are_refused(hub):
    # The half on top would name classes that the half below does not have.
    hub["uoft-cs/cifar10"] = {name: rows(20, 2, image_column="img") for name in ("train", "test")}
    hub["zalando-datasets/fashion_mnist"] = {name: rows(20, 4, mode="L") for name in ("train", "test")}
    with pytest.raises(ValueError, match=r"The data set has 2 classes and the second data set of DominoCue 4"):
        load_image_parts("dominoes")
