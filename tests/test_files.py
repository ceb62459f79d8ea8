# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all."""

import json

import pytest

from hf_cbft.files import whole_file, whole_folder, write_json

BLOCKS = (whole_folder, whole_file)
ERRORS = pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])


def fill(written, text="new"):
    file = written / "a.txt" if written.is_dir() else written
    file.write_text(text)


def break_off(block, target, error):
    with block(target) as written:
        fill(written)
        raise error("broken off")


def contents(folder):
    """Every path below `folder`, hidden ones too, with its text."""
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("block", BLOCKS)
def test_result_appears_when_the_block_ends(block, tmp_path):
    """A reader that looks in between would take half a result for a whole one; renaming needs one file system."""
    target = tmp_path / "deep" / "er" / "result.png"
    with block(target) as written:
        fill(written)
        assert not target.exists()
        assert written.parent == target.parent
    assert list(target.parent.iterdir()) == [target]
    assert "new" in contents(tmp_path / "deep" / "er").values()


@ERRORS
@pytest.mark.parametrize("block", BLOCKS)
def test_nothing_is_left_of_a_block_that_fails(block, error, tmp_path):
    """Half a result, or litter beside it."""
    with pytest.raises(error, match="broken off"):
        break_off(block, tmp_path / "result", error)
    assert contents(tmp_path) == {}


def test_folder_has_the_permissions_of_any_new_folder(tmp_path):
    """A temporary folder is its owner's alone; a result is shared."""
    with whole_folder(tmp_path / "result"):
        pass
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("existing", ["folder", "file"])
def test_existing_result_is_refused(existing, tmp_path):
    """An earlier result overwritten, or mixed with the new one."""
    target = tmp_path / "result"
    if existing == "folder":
        target.mkdir()
    fill(target, "old")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="result exists and is not empty: name another folder, or remove it"):
        break_off(whole_folder, target, AssertionError)
    assert contents(tmp_path) == before


def test_empty_folder_is_taken(tmp_path):
    """`mkdir out` before the command is what many do."""
    (tmp_path / "result").mkdir()
    with whole_folder(tmp_path / "result") as written:
        fill(written)
    assert contents(tmp_path) == {"result": None, "result/a.txt": "new"}


@ERRORS
def test_empty_folder_stays_when_the_block_fails(error, tmp_path):
    """A folder that was there before is not ours to remove."""
    (tmp_path / "result").mkdir()
    with pytest.raises(error, match="broken off"):
        break_off(whole_folder, tmp_path / "result", error)
    assert contents(tmp_path) == {"result": None}


def test_folder_filled_by_another_in_the_meantime_is_kept(tmp_path):
    """Two runs with one output folder: the second must not wipe the first."""

    def race():
        with whole_folder(tmp_path / "result") as written:
            fill(written)
            (tmp_path / "result").mkdir()
            fill(tmp_path / "result", "theirs")

    with pytest.raises(OSError, match="not empty"):
        race()
    assert contents(tmp_path) == {"result": None, "result/a.txt": "theirs"}


def test_file_replaces_the_old_one_and_keeps_its_suffix(tmp_path):
    """The suffix tells a writer (matplotlib) the format."""
    target = tmp_path / "paths.png"
    target.write_text("old")
    with whole_file(target) as written:
        fill(written)
        assert written.suffix == ".png"
        assert target.read_text() == "old"
    assert contents(tmp_path) == {"paths.png": "new"}


@ERRORS
def test_old_file_survives_a_block_that_fails(error, tmp_path):
    """The result of an earlier run is lost to a later one that failed."""
    target = tmp_path / "paths.png"
    target.write_text("old")
    with pytest.raises(error, match="broken off"):
        break_off(whole_file, target, error)
    assert contents(tmp_path) == {"paths.png": "old"}


def test_write_json_is_read_back(tmp_path):
    """What is saved is not what is loaded."""
    data = {"a": [1, 2.5, None, True], "b": {"c": "é"}}
    write_json(tmp_path / "result.json", data)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_write_json_refuses_what_json_has_no_word_for(value, tmp_path):
    """`NaN` in the file is an error in every strict reader; the old file must not be lost to it."""
    (tmp_path / "result.json").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "result.json", {"low": value})
    assert contents(tmp_path) == {"result.json": "old"}
