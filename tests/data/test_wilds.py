# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Folders in the layout of WILDS: each row has its group, and what cannot be read is named by its row."""

from pathlib import Path

import pytest
from datasets import Value
from PIL import Image as PILImage

from hf_cbft.data.columns import group_values
from hf_cbft.data.wilds import IDENTITIES, read_wilds_metadata

BIRDS = """img_id,img_filename,y,split,place,place_filename
1,a/one.png,0,0,0,/b/1.jpg
2,a/two.png,0,0,1,/o/2.jpg
3,a/three.png,1,1,1,/o/3.jpg
4,a/four.png,1,2,0,/b/4.jpg
"""


@pytest.fixture
def birds(tmp_path) -> Path:
    (tmp_path / "metadata.csv").write_text(BIRDS)
    (tmp_path / "a").mkdir()
    for shade, name in enumerate(["one", "two", "three", "four"]):
        PILImage.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / "a" / f"{name}.png")
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "metadata.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_waterbirds_are_read(birds):
    rows = read_wilds_metadata(birds)
    assert rows.column_names == ["image", "label", "place", "group"]
    assert rows.features["label"].names == ["landbird", "waterbird"]
    assert rows.features["place"].names == ["land", "water"]
    assert rows["label"][:] == [0, 0, 1, 1]
    assert rows["place"][:] == [0, 1, 1, 0]
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == [0, 1, 2, 3]
    expected = ["landbird on land", "landbird on water", "waterbird on water", "waterbird on land"]
    assert group_values(rows, "group", "The data set").tolist() == expected


@pytest.mark.parametrize(("split", "shades"), [("train", [0, 1]), ("val", [2]), ("test", [3])])
def test_a_split_has_its_own_rows(birds, split, shades):
    # Test rows in the training split make every accuracy worthless.
    rows = read_wilds_metadata(birds, split=split)
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == shades


def test_images_are_read_when_a_row_is(birds):
    # 11,788 decoded photographs do not fit into memory.
    rows = read_wilds_metadata(birds)
    (birds / "a" / "two.png").write_text("no image")
    assert len(rows) == 4
    assert rows[0]["image"].size == (4, 4)


def test_images_may_be_in_a_folder_of_their_own(birds):
    (birds / "a").rename(birds / "pictures")
    change(birds, "a/", "")
    assert len(read_wilds_metadata(birds, image_folder="pictures")) == 4


def test_other_columns_can_be_label_and_attribute(birds):
    change(birds, "img_id", "kind")
    rows = read_wilds_metadata(birds, label_column="place", attribute_columns=["kind", "place"], split="train")
    assert rows["group"][:] == ["0 on 1, land", "1 on 2, water"]
    assert rows["kind"][:] == ["1", "2"]


def comments(folder: Path, name: str = "all_data_with_identities.csv") -> Path:
    """Three comments; the second speaks of a muslim woman, the third of half a christian."""
    zero = dict.fromkeys(IDENTITIES, "0.0")
    rows = [
        ['"null"', "train", "0.499", *zero.values()],
        ['"two\nlines, and a comma"', "train", "0.5", *{**zero, "female": "1.0", "muslim": "0.6"}.values()],
        ["plain", "test", "1.0", *{**zero, "christian": "0.5", "male": ""}.values()],
    ]
    header = ["", "comment_text", "split", "toxicity", *IDENTITIES]
    lines = [",".join(header), *(",".join([str(number), *row]) for number, row in enumerate(rows))]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", ["all_data_with_identities.csv", "metadata.csv"])
def test_civil_comments_are_read(tmp_path, name):
    rows = read_wilds_metadata(comments(tmp_path, name))
    assert rows.column_names == ["text", "label", *IDENTITIES, "group"]
    # "null" is what the comment says, not a missing one.
    assert rows["text"][:] == ["null", "two\nlines, and a comma", "plain"]
    assert rows.features["label"].names == ["civil", "toxic"]
    assert rows["label"][:] == [0, 1, 1]
    assert rows.features["muslim"] == Value("bool")
    assert rows["muslim"][:] == [False, True, False]
    assert rows["christian"][:] == [False, False, True]
    assert rows["male"][:] == [False] * 3
    assert rows["group"][:] == ["civil, no identity", "toxic, identity", "toxic, identity"]
    assert group_values(rows, "muslim", "The data set").tolist() == ["False", "True", "False"]


def test_one_identity_makes_the_groups(tmp_path):
    rows = read_wilds_metadata(comments(tmp_path), attribute_columns="muslim")
    assert rows.column_names == ["text", "label", "muslim", "group"]
    assert rows["group"][:] == ["civil, not muslim", "toxic, muslim", "toxic, not muslim"]
    assert read_wilds_metadata(tmp_path, split="test")["text"][:] == ["plain"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "y,split,place,",
            "Y,split,site,",
            r"lacks the columns y, place: it has img_id, img_filename, Y, split, site",
        ),
        (
            "img_filename",
            "file",
            r"neither a column img_filename .* nor comment_text .*: it has img_id, file, y, split",
        ),
        (
            "two.png,0",
            "two.png,2",
            r"The column 'y' of .* than 0 or 1 in 1 row \(the header is row 1\): row 3 \('2'\):",
        ),
        ("0,/b/1", "sea,/b/1", r"The column 'place' of .* than 0 or 1 in 1 row .*: row 2 \('sea'\): correct the file"),
        ("three.png,1,1", "three.png,1,0", r"rows of the splits 0, 2 alone: none is left for 'val'\."),
        (BIRDS, BIRDS.split("\n")[0], r"metadata\.csv has no rows: none is left for 'val'\."),
        (BIRDS, "", r"metadata\.csv cannot be read as a CSV file \(No columns to parse from file\)\."),
        (BIRDS, 'img_filename\n"a', r"metadata\.csv cannot be read as a CSV file \(Error tokenizing data"),
    ],
)
def test_a_file_with_gaps_is_refused_with_its_rows(birds, old, new, message):
    change(birds, old, new)
    columns = (
        {} if "img_filename\n" not in new else {"label_column": "img_filename", "attribute_columns": "img_filename"}
    )
    with pytest.raises(ValueError, match=message):
        # The val split is the third row alone; errors of other rows need all of them.
        read_wilds_metadata(birds, split="val" if "none is left" in message else None, **columns)


def test_fractions_that_are_none_are_refused(tmp_path):
    file = comments(tmp_path) / "all_data_with_identities.csv"
    text = file.read_text()
    file.write_text(text.replace("0.499", ""))
    with pytest.raises(ValueError, match=r"'toxicity' of .* than a fraction from 0 to 1 in 1 row .*: row 2 \(''\)"):
        read_wilds_metadata(tmp_path)
    file.write_text(text.replace("0.6", "yes"))
    with pytest.raises(ValueError, match=r"'muslim' of .* than a fraction from 0 to 1 in 1 row .*: row 3 \('yes'\)"):
        read_wilds_metadata(tmp_path)


def test_missing_images_are_named_by_row_and_counted(birds):
    # Found while training, hours later, it would be an error of one batch.
    change(birds, "a/three.png", "")
    for name in ("two", "four"):
        (birds / "a" / f"{name}.png").unlink()
    message = (
        r"not in .*, in 3 rows \(the header is row 1\): row 3 \('a/two.png'\), row 4 \(''\), row 5 \('a/four.png'\):"
    )
    with pytest.raises(FileNotFoundError, match=message):
        read_wilds_metadata(birds)
    with pytest.raises(
        FileNotFoundError, match=r"in 1 row \(the header is row 1\): row 5 \('a/four.png'\): unpack them"
    ):
        read_wilds_metadata(birds, split="test")
    with pytest.raises(FileNotFoundError, match=r"in 4 rows .*\.\.\.: unpack them there or set image_folder\."):
        read_wilds_metadata(birds, image_folder="elsewhere")


def test_folders_and_splits_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no metadata\.csv or all_data_with_identities\.csv in "):
        read_wilds_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*lost: name the folder into which"):
        read_wilds_metadata(tmp_path / "lost")
    with pytest.raises(ValueError, match=r"There is no split 'dev': it is one of train, val, test, or None for all"):
        read_wilds_metadata(tmp_path, split="dev")
