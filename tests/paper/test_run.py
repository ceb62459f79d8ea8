# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""examples/paper/run.py from end to end: every experiment, killed twice and resumed, and the page that it writes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paper.findings.page import write_findings
from paper.findings.records import EXPERIMENTS, find_runs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reproduce")]

SCRIPT = Path(__file__).parents[2] / "examples" / "paper" / "run.py"
COMMAND = [sys.executable, str(SCRIPT), "--quick", "--seeds", "0"]
TIMES = ("train_seconds", "wall_seconds")


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [*COMMAND, "--output_dir", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/jobs/[!.]*.json"))


def kill_after(process: subprocess.Popen, folder: Path, number: int) -> None:
    """SIGKILL once so many jobs are done, in the middle of others."""
    deadline = time.monotonic() + 300
    while len(finished(folder)) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def records(run) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in run.records]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All experiments, killed twice; the folder, and when each job of the first two starts was done."""
    folder = tmp_path_factory.mktemp("reproduce") / "out"
    options = ("--experiment", *EXPERIMENTS, "--jobs", "2")
    kill_after(start(folder, *options), folder, 3)
    kill_after(start(folder, *options, "--resume"), folder, 8)
    done = {file: file.stat().st_mtime_ns for file in finished(folder)}
    last = start(folder, *options, "--resume")
    said, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors
    return folder, done, said


def test_what_was_done_before_a_kill_is_not_done_again(everything):
    folder, done, said = everything
    assert len(done) >= 8
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert not list(folder.rglob(".*"))
    assert "whose figures mean nothing" in said


def test_every_experiment_has_its_records_tables_and_figures(everything):
    folder, _, _ = everything
    runs = find_runs(folder)
    assert [run.experiment for run in runs] == list(EXPERIMENTS)
    for run in runs:
        assert run.failed == {}
        assert {file.suffix for file in (run.folder / "tables").iterdir()} == {".md", ".tex", ".csv"}
    assert {record["method"] for record in runs[0].records} >= {"pretrained", "llrt", "dfr", "balanced", "cbft"}
    assert {file.suffix for file in (folder / "findings").iterdir()} == {".png"}
    assert len(list((folder / "findings").iterdir())) == len(EXPERIMENTS)
    page = (folder / "findings.md").read_text()
    assert "Made with --quick: the figures mean nothing" in page
    for shown in re.findall(r"\]\((findings/[^)]+)\)", page):
        assert (folder / shown).is_file()


def test_the_page_is_made_of_the_records_alone(everything, tmp_path):
    folder, _, _ = everything
    write_findings(folder, tmp_path / "findings.md")
    assert (tmp_path / "findings.md").read_text() == (folder / "findings.md").read_text()
    # A record that is gone takes its figures with it.
    shutil.copytree(folder / "table1-digits-vit", tmp_path / "one" / "table1-digits-vit")
    results = tmp_path / "one" / "table1-digits-vit" / "results.jsonl"
    lines = results.read_text().splitlines()
    results.write_text("".join(f"{line}\n" for line in lines if '"method": "dfr"' not in line))
    write_findings(tmp_path / "one", tmp_path / "one.md")
    page = (tmp_path / "one.md").read_text()
    assert "| lp-ft |" in page
    assert "| dfr |" not in page


def test_one_process_without_a_kill_gives_the_same_records_and_tables(everything, tmp_path):
    folder, _, _ = everything
    methods = ("naive-medium", "llrt", "cbft")
    process = start(tmp_path / "out", "--methods", *methods, "--jobs", "1")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    (alone,) = find_runs(tmp_path / "out")
    together = find_runs(folder)[0]
    assert [record["method"] for record in alone.records] == ["pretrained", *methods]
    chosen = {record["method"] for record in alone.records}
    assert records(alone) == [record for record in records(together) if record["method"] in chosen]
    rows = {}
    for run in (alone, together):
        table = run.folder / "tables" / "table1-0.9.csv"
        rows[run.folder] = [row for row in table.read_text().splitlines() if row.split(",")[0] in chosen]
    assert rows[alone.folder] == rows[together.folder]
    assert len(rows[alone.folder]) == 4


def test_lines_hold_the_whole_config_and_the_versions(everything):
    folder, _, _ = everything
    for run in find_runs(folder):
        for line in (run.folder / "results.jsonl").read_text().splitlines():
            record = json.loads(line)
            assert {"pretrain_steps", "cbft_lr", "overrides"} <= set(record["config"])
            assert {"hf_cbft", "torch", "transformers", "python"} <= set(record["versions"])
            assert record["wall_seconds"] > 0.0
