# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`--dataset NAME=SOURCE[:SPLIT]`: every kind of source from tiny files, and one sentence for each that fails."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_cbft.data.sources import DatasetSource, load_sources, parse_dataset

MOODS = {0: "neg", 1: "pos"}
CSV = "text,label\ngood,pos\nbad,neg\nfine,pos\n"


@pytest.fixture
def load(tmp_path):
    """`load(text, ...)`: the one set and its columns, from a cache of its own."""

    def load(*texts, id2label=MOODS, **options):
        sets, columns = load_sources(texts, id2label=id2label, cache_dir=tmp_path / "cache", **options)
        assert list(sets) == list(columns)
        return (sets, columns) if len(texts) > 1 else (*sets.values(), *columns.values())

    return load


@pytest.fixture
def write(tmp_path):
    """`write(name, text or bytes)`: the path of a new file."""

    def write(name: str, content: str | bytes) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    return write


def draw(folder: Path, *names: str) -> Path:
    """An image for each name, red by its place."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (2, 2), (place, 0, 0)).save(folder / name)
    return folder


def sentiment(*labels: int) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    columns = {"text": [f"row {i}" for i in range(len(labels))], "label": list(labels)}
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imdb", ("data", "imdb", None)),
        ("org/pets", ("data", "org/pets", None)),
        ("org/pets@v1.2:test", ("data", "org/pets@v1.2", "test")),
        ("cue=org/pets:train[10%:20%]", ("cue", "org/pets", "train[10%:20%]")),
        ("cue=org/pets:train+test", ("cue", "org/pets", "train+test")),
        ("rand-cue.2=digits:validation", ("rand-cue.2", "digits", "validation")),
        ("C:\\data\\a.csv", ("data", "C:\\data\\a.csv", None)),
        ("cue=C:\\data\\a.csv:test", ("cue", "C:\\data\\a.csv", "test")),
        ("runs/lr=0.1/a.csv", ("data", "runs/lr=0.1/a.csv", None)),
        ("cue=runs/lr=0.1/set:test", ("cue", "runs/lr=0.1/set", "test")),
        ("http://host:80/a.csv", ("data", "http://host:80/a.csv", None)),
    ],
)
def test_sources_are_taken_apart(text, expected):
    """A colon is a split, a drive or part of a name; an equals sign may stand in a path."""
    assert parse_dataset(text) == DatasetSource(*expected)


def test_a_path_that_exists_is_one(tmp_path, monkeypatch):
    """Files are called all sorts of things."""
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.csv", "set:test", "x=set:test"):
        Path(name).touch()
    assert parse_dataset("a=b.csv") == DatasetSource("data", "a=b.csv")
    assert parse_dataset("set:test") == DatasetSource("data", "set:test")
    assert parse_dataset("x=set:test") == DatasetSource("data", "x=set:test")
    assert parse_dataset("cue=set:test") == DatasetSource("cue", "set:test")
    assert parse_dataset("cue=set:test:train") == DatasetSource("cue", "set:test", "train")


@pytest.mark.parametrize("text", ["", "cue=", "=a.csv", "cue= "])
def test_a_source_without_its_parts(text):
    with pytest.raises(ValueError, match=r"needs a name and a source: NAME=SOURCE\[:SPLIT\]"):
        parse_dataset(text)


FILES = {
    "a.csv": CSV,
    "A.CSV": CSV,
    "a.tsv": CSV.replace(",", "\t"),
    "a.jsonl": '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n{"text": "fine", "label": "pos"}\n',
    "lines.json": '\n{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n{"text": "fine", "label": 1}\n',
    "list.json": '[{"text": "good", "label": 1},\n {"text": "bad", "label": 0}, {"text": "fine", "label": 1}]',
    "a[1]*?.csv": CSV,  # signs of a pattern
    "a:b.csv": CSV,
}


@pytest.mark.parametrize("name", FILES)
def test_files(load, write, name):
    """Each format gives the same rows."""
    dataset, columns = load(f"cue={write(name, FILES[name])}")
    assert list(dataset["text"]) == ["good", "bad", "fine"]
    assert list(dataset["label"]) == [1, 0, 1]
    assert str(columns).startswith("text from 'text', label from 'label' (")


def test_a_parquet_file(load, tmp_path):
    file = tmp_path / "a.parquet"
    sentiment(0, 1, 0).to_parquet(file)
    dataset, columns = load(f"{file}:train[1:]")
    assert list(dataset["label"]) == [0, 1]
    assert columns.matching == "by name"


@pytest.mark.parametrize("content", ['{"text": "a", "label": 1}', '{\n  "text": "a",\n  "label": 1\n}\n'])
def test_a_json_file_of_one_row(load, write, content):
    """A dict, but not one of splits."""
    assert load(write("a.json", content))[0][0] == {"text": "a", "label": 1}


def test_a_changed_file_is_read_again(load, write):
    """The cache must not hand out the rows of the file that was there before."""
    assert list(load(write("a.csv", CSV))[0]["label"]) == [1, 0, 1]
    assert list(load(write("a.csv", "text,label\nno longer,neg\n"))[0]["label"]) == [0]


BROKEN = {
    ("empty.csv", ""): r"empty\.csv is empty\.",
    ("blank.csv", "\n  \n"): r"blank\.csv is empty\.",
    ("header.csv", "text,label\n"): r"header\.csv is empty: it has no rows\.",
    ("empty.json", "[]"): r"empty\.json is empty: it has no rows\.",
    ("empty.jsonl", "{}\n"): r"empty\.jsonl is empty: it has no rows\.",
    (
        "noheader.csv",
        "good,1\nbad,0\n",
    ): r"The first line of .*csv reads as a row, not as names of columns \(good, 1\)",
    ("twice.csv", "0.5,0.5\n1,2\n"): "The first line of .*csv reads as a row",
    ("words.csv", "good,pos\nbad,neg\n"): "The data set 'data' has no label column: it has good, pos. Name it with",
    ("ragged.csv", "text,label\na,b\na,b,c,d\n"): r"ragged\.csv cannot be read as csv: .*Expected 2 fields in line 3",
    ("latin.csv", b"text,label\ncaf\xe9,pos\n"): r"latin\.csv cannot be read as csv: 'utf-8' codec can't decode",
    ("gap.csv", "text,label\ngood,pos\n,neg\n"): "Row 1 of the data set 'data' has no text in its column 'text'",
    ("gap2.csv", "text,label\ngood,1\nbad,\n"): "Row 1 of the data set 'data' has no label in its column 'label'",
    ("splits.json", '{"train": [{"text": "a"}],\n "test": []}'): (
        r"splits\.json holds a dict of splits \(train, test\): give a list of rows, or one row a line, and a file of "
    ),
    ("columns.json", '{"text": ["a"], "label": [1]}'): r"columns\.json holds one JSON object \(text, label\): give a",
    ("cut.json", '{"text": '): r"cut\.json cannot be read as json: Expecting value",
    ("cut2.json", '[{"text": '): r"cut2\.json cannot be read as json: ",
    ("cut.jsonl", '{"text":"a","label":1}\n{"text": \n'): r"cut\.jsonl cannot be read as json: JSON parse error",
    ("junk.parquet", b"junk" * 5): r"junk\.parquet cannot be read as parquet: Parquet magic bytes not found",
    (
        "a.pkl",
        b"junk",
    ): r"a\.pkl is no data set: SOURCE is a data set's id on the Hub, a folder saved with .* or digit",
    ("unknown.csv", "text,label\na,fine\n"): r"has the classes fine and the model has neg, pos: no class .* is fine\.",
}


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case[0])
def test_files_that_cannot_be_used(load, write, case, capfd):
    """One sentence that names the file; nothing of `datasets` is logged beside it."""
    file = write(*case)
    with pytest.raises(ValueError, match=BROKEN[case]) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err


def test_a_folder_saved_to_disk(load, tmp_path):
    """What `hf-cbft demo` and `save_to_disk` write; the stored rows are not touched."""
    sentiment(0, 1).save_to_disk(tmp_path / "set")
    dataset, columns = load(f"cue={tmp_path / 'set'}")
    assert list(dataset["label"]) == [1, 0]
    assert columns.matching == "by name"
    assert sorted(file.name for file in (tmp_path / "set").iterdir()) == [
        "data-00000-of-00001.arrow",
        "dataset_info.json",
        "state.json",
    ]


def test_a_saved_dict_of_splits(load, tmp_path):
    folder = tmp_path / "sets"
    DatasetDict({"a": sentiment(0, 1, 1), "b": sentiment(1)}).save_to_disk(folder)
    assert len(load(f"{folder}:b")[0]) == 1
    assert len(load(str(folder / "a"))[0]) == 3
    assert list(load(f"{folder}:a[1:]")[0]["text"]) == ["row 1", "row 2"]
    assert list(load(f"{folder}:a[50%:]+b")[0]["text"]) == ["row 2", "row 0"]
    assert len(load(f"{folder}:a[:500]")[0]) == 3
    for split, message in {
        "": r"sets has the splits a, b: say which one, as .*sets:a\.",
        ":test": r"sets has no split 'test': it has a, b\.",
        ":a[x]": r"The split 'a\[x\]' of .*sets cannot be read: ",
        ":a[7:9]": r"The split 'a\[7:9\]' of .*sets has no rows\.",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(f"{folder}{split}")


def test_an_empty_saved_set(load, tmp_path):
    sentiment().save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="set is empty"):
        load(f"cue={tmp_path / 'set'}")


@pytest.mark.parametrize("damaged", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_a_damaged_saved_set(load, tmp_path, damaged):
    """Cut short by a full disk, or copied in part."""
    sentiment(0, 1).save_to_disk(tmp_path / "set")
    for change in (lambda file: file.write_bytes(b"{"), Path.unlink):
        change(tmp_path / "set" / damaged)
        if (tmp_path / "set" / "state.json").exists():  # without it the folder is none of `save_to_disk`
            with pytest.raises(ValueError, match="set cannot be loaded from disk: "):
                load(str(tmp_path / "set"))


def test_class_folders_of_images(load, tmp_path):
    """By itself `datasets` would take `test_0.png` for a split and leave out the rest."""
    folder = draw(tmp_path / "images", "pos/test_0.png", "pos/train.jpeg", "neg/a.png", "neg/b.png")
    (folder / "README.txt").write_text("not an image")
    dataset, columns = load(f"cue={folder}")
    assert len(dataset) == 4
    assert str(columns) == "image from 'image', label from 'label' (by name)"
    red = {(row["image"].convert("RGB").getpixel((0, 0))[0] > 1, row["label"]) for row in dataset}
    assert red == {(False, 1), (True, 0)}


def test_class_folders_within_splits(load, tmp_path):
    folder = draw(tmp_path / "images", "train/pos/a.png", "train/neg/b.png", "val/pos/c.png")
    with pytest.raises(ValueError, match="images has the splits train, val: say which one"):
        load(str(folder))
    assert list(load(f"{folder}:val")[0]["label"]) == [1]
    assert len(load(f"{folder}:train")[0]) == 2


def test_classes_called_like_splits(load, tmp_path):
    """`train` is also a vehicle."""
    folder = draw(tmp_path / "images", "train/a.png", "plane/b.png", "train/c.png")
    dataset, _ = load(str(folder), id2label={0: "plane", 1: "train"})
    assert sorted(dataset["label"]) == [0, 1, 1]


def test_one_class_folder(load, tmp_path):
    """A set of one class is an ordinary counterfactual set."""
    assert list(load(str(draw(tmp_path / "images", "pos/a.png")))[0]["label"]) == [1]


def test_images_with_a_table(load, tmp_path, write):
    """Labels and groups from `metadata.csv`."""
    folder = draw(tmp_path / "images", "a.png", "b.png")
    write("images/metadata.csv", "file_name,mood,place\na.png,pos,land\nb.png,neg,water\n")
    dataset, columns = load(str(folder), label_column="mood", group_column="place")
    assert [(row["label"], row["group"], row["image"].size) for row in dataset] == [
        (1, "land", (2, 2)),
        (0, "water", (2, 2)),
    ]
    assert str(columns) == "image from 'image', label from 'mood' (by name), group from 'place'"


@pytest.mark.parametrize(
    ("names", "wrong"),
    [(["a.png"], "a.png"), (["pos/a.png", "b.png"], "b.png"), (["train/pos/a.png", "plane/b.png"], "train/pos/a.png")],
)
def test_images_outside_class_folders(load, tmp_path, names, wrong):
    """Their class would be the name of a split, or none."""
    folder = draw(tmp_path / "images", *names)
    with pytest.raises(
        ValueError, match=rf"images holds {wrong}, which is in no class folder: each file lies in CLAS"
    ):
        load(str(folder))


def test_a_folder_without_data(load, tmp_path, write):
    write("folder/notes.txt", "nothing")
    write("folder/.hidden/a.csv", CSV)
    with pytest.raises(
        ValueError, match=r"folder holds no data set \(no images in it either\): SOURCE is a data set's"
    ):
        load(str(tmp_path / "folder"))


def test_a_folder_of_files(load, tmp_path, write):
    """Laid out as on the Hub."""
    write("folder/train.csv", CSV)
    write("folder/test.csv", "text,label\nlast,neg\n")
    with pytest.raises(ValueError, match="folder has the splits train, test: say which one"):
        load(str(tmp_path / "folder"))
    assert list(load(f"{tmp_path / 'folder'}:test")[0]["text"]) == ["last"]


def test_a_folder_with_configurations(load, tmp_path, write):
    """As a data set on the Hub has them, such as the tasks of GLUE."""
    write("folder/a.csv", CSV)
    write("folder/b.csv", "text,label\nlast,neg\n")
    configs = "\n".join(f"- config_name: {name}\n  data_files: {name}.csv" for name in "ab")
    write("folder/README.md", f"---\nconfigs:\n{configs}\n---\n")
    folder = str(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"several configurations \('a', 'b'\), name one with --config-name"):
        load(folder)
    assert list(load(folder, config_name="b")[0]["text"]) == ["last"]
    with pytest.raises(ValueError, match="'c' not found"):
        load(folder, config_name="c")


def test_a_data_set_on_the_hub(load, tmp_path, write, monkeypatch):
    """Its id, revision, configuration and split reach `datasets`; a local folder stands in for the Hub."""
    write("folder/train.csv", CSV)
    write("folder/test.csv", "text,label\nlast,neg\n")
    build, asked = datasets.load_dataset_builder, []

    def from_folder(path, name, revision, cache_dir):
        asked.append((path, name, revision))
        return build(str(tmp_path / "folder"), name, cache_dir=cache_dir)

    monkeypatch.setattr("hf_cbft.data.sources.load_dataset_builder", from_folder)
    assert list(load("org/moods@v1:test")[0]["text"]) == ["last"]
    assert len(load("moods:train", config_name="default")[0]) == 3
    assert asked == [("org/moods", None, "v1"), ("moods", "default", None)]
    with pytest.raises(ValueError, match=r"org/moods has the splits train, test: say which one, as org/moods:train"):
        load("org/moods")


@pytest.mark.parametrize("source", ["org/moods", "imdb@v1:test"])
def test_the_hub_out_of_reach(load, source):
    """The tests run offline: nothing is in the cache, and the sentence says both."""
    message = rf"The data set '{source.split(':')[0]}' is no file or folder here, and could not be had from the Hub or"
    with pytest.raises(OSError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["lost/a.csv", "./lost", "/lost/set", "a/b/c", "https://host/a", "C:\\lost"])
def test_paths_that_are_not_there(load, source):
    """Nothing is looked up on the Hub for what is plainly a path."""
    with pytest.raises(
        FileNotFoundError, match=r"There is no file or folder .*: SOURCE is a data set's id on the Hub"
    ):
        load(source)


def test_the_embedded_digits(load):
    """`test` is what is measured on unless another part is named."""
    digits = {index: f"LABEL_{index}" for index in range(10)}
    dataset, columns = load("digits", id2label=digits)
    assert len(dataset) == 537
    assert str(columns) == "image from 'image', label from 'label' (by order, as the model's classes have no names)"
    with pytest.raises(
        ValueError, match=r"digits has no split 'train': it has pretrain, finetune, validation, test\."
    ):
        load("digits:train", id2label=digits)


def test_several_sets(load, write):
    """In the order given, under the names given; one map and one mapping of columns serves all."""
    first, second = write("a.csv", CSV), write("b.csv", "id,text,label,place\n7,good,good,land\n8,bad,bad,sea\n")
    sets, columns = load(f"cue={first}", f"rand_cue={second}", label_map={"good": "pos", "bad": 0})
    assert list(sets) == ["cue", "rand_cue"]
    assert list(sets["rand_cue"]["label"]) == [1, 0]
    assert [found.matching for found in columns.values()] == ["by name", "by the label map"]
    with pytest.raises(ValueError, match="The data set 'cue' has no column 'place'"):
        load(f"cue={first}", f"rand_cue={second}", group_column="place")
    for twice in ([first, second], [f"cue={first}", f"cue={second}"]):
        with pytest.raises(ValueError, match=r"Two data sets are called '(data|cue)': give each a name of its own"):
            load(*twice)


def test_columns_and_a_map_by_flags(load, write):
    """What the flags hand over: `--input-column a,b`, `--label_column`, `--group-column`, `--label_map`."""
    file = write("a.csv", "a,b,c,mood,place\nx,y,z,up,3\nu,v,w,down,4\n")
    label_map = write("map.json", json.dumps({"up": "pos", "down": "neg"}))
    options = {"label_column": "mood", "group_column": "place", "label_map": label_map}
    for inputs in ("a,c", ["a", "c"]):
        dataset, columns = load(file, input_column=inputs, **options)
        assert dataset[1] == {"text": "u", "text_pair": "w", "label": 0, "group": "4"}
    assert str(columns) == (
        "text from 'a', text_pair from 'c', label from 'mood' (by the label map), group from 'place'"
    )
    assert load(file, input_column="b", **options)[1].inputs == {"text": "b"}
    with pytest.raises(ValueError, match="The text column of the data set 'data' could be any of a, b, c: name it"):
        load(file, **options)


def test_texts_of_a_language_model(load, write):
    """No labels are needed, and none are touched."""
    dataset, columns = load(write("a.jsonl", '{"body": "it rained"}\n'), id2label=None)
    assert dataset[0] == {"text": "it rained"}
    assert str(columns) == "text from 'body'"
    dataset, columns = load(write("b.csv", CSV), id2label=None)
    assert list(dataset["label"]) == ["pos", "neg", "pos"]
    assert columns.matching == ""


def test_ready_inputs_with_token_labels(load, tmp_path):
    """Tokenized sets of a language model come through as they are."""
    rows = {"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1], [1]], "labels": [[-100, 6], [7]]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    dataset, columns = load(str(tmp_path / "set"), id2label=None)
    assert dataset[:] == rows
    assert columns.label == "labels"


def test_images_stay_where_they_are(load, tmp_path):
    """The set points to the files: only paths are in memory and in the cache."""
    folder = draw(tmp_path / "images", "pos/a.png", "neg/b.png")
    dataset, _ = load(str(folder))
    assert isinstance(dataset.features["image"], Image)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        dataset[0]
