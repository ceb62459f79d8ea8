# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The page: nothing on it but what the records give, and all of that."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from paper.findings import page as findings
from paper.findings.page import QUICK, rivals_table, write_findings
from paper.findings.published import PAPER, REFERENCE

COMMAND = "python examples/paper/run.py --experiment table1"
PARTS = ("no_cue", "cue", "rand_cue", "rand_input")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
# The criteria of the claims, in %, points and nats.
CRITERIA = {"50", "20", "10", "6", "5", "50.0", "20.0", "10.0", "16.0", "6.0", "5.0", "0.0", "0.10"}


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures are tested by themselves, and cost a second each."""
    monkeypatch.setattr(findings, "run_figures", lambda run: [])


def write(make_run, name="findings.md") -> str:
    page = make_run.output_dir.parent / name
    write_findings(make_run.output_dir, page)
    return page.read_text()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_records_give_the_same_bytes(make_run):
    """Page, pictures and tables: a regenerated page that differs cannot be checked against its records."""
    make_run(change=lambda record: record["method"] in ("pretrained", "cbft", "naive-medium"))
    write(make_run)
    first = files_of(make_run.output_dir.parent)
    write(make_run)
    assert files_of(make_run.output_dir.parent) == first
    figure = "table1-digits-vit-0.9.png"
    assert {"findings.md", f"findings/{figure}", f"runs/table1-digits-vit/figures/{figure}"} <= set(first)
    tables = {f"runs/table1-digits-vit/tables/table1-0.9.{suffix}" for suffix in ("md", "tex", "csv")}
    assert tables <= set(first)
    assert not [name for name in first if "/." in name]
    for alt, link in re.findall(r"!\[(.*?)\]\((.*?)\)", first["findings.md"].decode()):
        assert link in first
        assert len(alt) > 20


def numbers_of(page: str) -> set[str]:
    """Those in table cells that are not marked as the paper's or the authors'."""
    rows = [
        line for line in page.splitlines() if line.startswith("| ") and PAPER not in line and REFERENCE not in line
    ]
    text = "\n".join(rows)
    for words in ("share 0.9", "CIFAR-10, ResNet-18", "paper's"):
        text = text.replace(words, "")
    return set(NUMBER.findall(text))


def numbers_from(folder: Path) -> set[str]:
    """What means, intervals, paired differences and counts can be computed from the lines of a run, and settings."""
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    series: dict[tuple, dict[int, float]] = {}

    def take(key, record, value):
        if value is not None:
            series.setdefault(key, {})[record["seed"]] = value

    for record in records:
        settings = [
            {"rate": None, **record},
            *({"rate": entry["learning_rate"], **entry} for entry in record["tried"] or ()),
        ]
        for one in settings:
            who = (record["method"], one["rate"])
            values = one["accuracy"]
            for part in PARTS:
                take((part, *who), record, values[part])
            take(("lost", *who), record, values["no_cue"] - values["rand_cue"])
            take(("barrier", *who), record, (one["barrier"] or {}).get("height"))
            take(("validation", *who), record, one.get("validation_rand_cue"))
    found = {str(number) for number in range(len(records) + 1)} | {"0.003", "0.004", "0.006", "95"}
    for (what, *_), values in series.items():
        found |= shown(list(values.values()), what)
    for (first, ours), (second, theirs) in itertools.permutations(series.items(), 2):
        if first[0] == second[0] and first[2] is second[2] is None:
            found |= shown([ours[seed] - theirs[seed] for seed in ours], first[0])
    return found


def shown(values, what) -> set[str]:
    scale, digits = (1, 2) if what == "barrier" else (100, 1)
    mean, half = np.mean(values), stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return {f"{round(scale * value, digits) + 0.0:.{digits}f}" for value in (mean, half, mean - half, mean + half)}


def test_every_number_is_computed_from_the_records_or_marked(make_run, no_pictures):
    """A figure that the run did not produce is a false result."""
    run = make_run()
    page = write(make_run)
    found = numbers_of(page)
    assert found - numbers_from(run.folder) - CRITERIA == set()
    assert len(found) > 150
    # The check can fail: other records do not give this page.
    other = make_run(change=lambda record: record["accuracy"].update(no_cue=0.123))
    assert len(found - numbers_from(other.folder) - CRITERIA) > 10


def test_the_papers_numbers_are_marked(make_run, no_pictures):
    page = write_resnet(make_run)
    for line in page.splitlines():
        if "| 68.1 |" in line or "| 8.75 |" in line:
            assert PAPER in line
        if "43 / 50" in line:
            assert REFERENCE in line
    assert page.count(PAPER) > 5
    assert page.count(REFERENCE) >= 15
    assert "not measured here" in page


def write_resnet(make_run) -> str:
    make_run(model="resnet18-16")
    return write(make_run)


def test_all_experiments_have_their_sections(make_run, no_pictures):
    for experiment in ("table1", "paths", "symmetry", "ablation", "sensitivity"):
        make_run(experiment)
    make_run("text", dataset="sentences", model="bert")
    make_run("groups", dataset="digit-groups", model="vit-groups")
    page = write(make_run)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "## The claims",
        "## When CBFT is not the right tool",
        "## table1, digits, vit",
        "## paths, digits, vit",
        "## symmetry, digits, vit",
        "## ablation, digits, vit",
        "## sensitivity, digits, vit",
        "## text, sentences, bert",
        "## groups, digit-groups, vit-groups",
    ]
    assert f"```bash\n{COMMAND}\n```" in page
    assert "Seeds 0, 1, 2; share of the cue 0.9; 30 records." in page
    assert "not reproduced" in page
    assert QUICK not in page


def test_quick_is_said_in_bold_wherever_its_figures_stand(make_run, no_pictures):
    run = make_run(quick=True)
    page = write(make_run)
    assert page.count(QUICK) == 2
    assert QUICK in (run.folder / "tables" / "table1-0.9.md").read_text()
    assert "| reproduced |" not in page.split("### ", 1)[1]


def test_failed_jobs_are_listed(make_run, no_pictures):
    """Cells are means over fewer seeds, and nobody would know why."""
    make_run(failed={"dfr-share0.9-seed1": "RuntimeError: out of memory", "lp-ft-share0.9-seed0": ""})
    page = write(make_run)
    assert "- dfr-share0.9-seed1: RuntimeError: out of memory\n- lp-ft-share0.9-seed0\n" in page


def test_a_run_of_which_nothing_is_done_has_a_section_all_the_same(make_run, no_pictures):
    make_run(change=lambda record: False)
    page = write(make_run)
    assert "No job is done." in page
    assert "There are no records of cbft and a rival." in page


def test_rivals_that_are_ahead_or_level_are_named_for_each_column(make_run):
    """Where something simpler does as well, a reader has to hear it."""

    def change(record):
        values = record["accuracy"]
        if record["method"] == "naive-large":
            values["no_cue"] = 0.95 + 0.001 * record["seed"]
            values["rand_input"] = 0.05
            values["rand_cue"] = (0.80, 0.90, 0.85)[record["seed"]]
        if record["method"] == "cbft":
            values["rand_cue"] = (0.85, 0.86, 0.84)[record["seed"]]

    table = rivals_table([make_run(change=change, jitter=0.1)])
    rows = {row[1]: row for row in table.rows}
    assert list(rows) == ["NC", "C", "RC", "RI"]
    assert rows["NC"][2].startswith("naive-large by +7.")
    assert rows["RI"][2].startswith("naive-large by -6.")
    assert rows["RC"][2] == "none"
    assert "naive-large 0.0 points (-11.4 to 11.4)" in rows["RC"][3]
    assert "naive-small" not in rows["RC"][3]


def test_with_one_seed_no_rival_can_be_told_apart(make_run):
    rows = rivals_table([make_run(seeds=(0,))]).rows
    assert {row[2:] for row in rows} == {("none", "one seed tells nothing apart")}


def test_the_cost_is_a_ratio_to_naive_fine_tuning(make_run, no_pictures):
    """Seconds are those of a machine."""

    def change(record):
        record["train_seconds"] = (30.0 if record["method"] == "cbft" else 10.0) * (1 + record["seed"])

    make_run(change=change)
    assert "- table1, digits, vit: cbft trains 3.0 times (3.0 to 3.0) as long as naive-medium" in write(make_run)


def test_damaged_records_leave_the_page_as_it_was(make_run, no_pictures):
    run = make_run()
    page = write(make_run)
    with (run.folder / "results.jsonl").open("a") as file:
        file.write('{"half": ')
    with pytest.raises(ValueError, match="is damaged"):
        write(make_run)
    assert (make_run.output_dir.parent / "findings.md").read_text() == page


def test_a_page_that_is_no_markdown_file_is_refused(make_run):
    """Its pictures' folder would have its own name."""
    make_run()
    with pytest.raises(ValueError, match=r"name a \.md file"):
        write(make_run, "findings")
