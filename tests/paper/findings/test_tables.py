# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Tables against figures computed from the records by hand, and the three ways they are written."""

import csv
import io

import numpy as np
import pytest
from scipy import stats

from paper.findings.published import PAPER, REFERENCE, REFERENCE_ROWS, TABLE_1, paper_order
from paper.findings.tables import Table, escape_latex, run_tables

PARTS = ("no_cue", "cue", "rand_cue", "rand_input")
UGLY = Table("ugly", "50 % of a_b", ("a|b", "x & y"), (("p_q*", "1.5 ± 0.2"), ("<i>", "n/a")), notes=("Costs $1 #2.",))


def cell_of(values, scale, digits):
    values = scale * np.array(values)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def row_of(table, *names):
    (row,) = [row for row in table.rows if row[: len(names)] == names]
    return dict(zip(table.header, row, strict=True))


def test_a_row_of_table_1_holds_the_means_of_its_records(make_run):
    run = make_run(shares=(0.6, 0.9))
    table = next(table for table in run_tables(run) if table.name == "table1-0.6")
    row = row_of(table, "naive-medium", "this run")
    records = [r for r in run.records if r["method"] == "naive-medium" and r["share"] == 0.6]
    for part, title in zip(PARTS, ("NC (%)", "C (%)", "RC (%)", "RI (%)"), strict=True):
        assert row[title] == cell_of([record["accuracy"][part] for record in records], 100, 1)
    assert row["barrier on C (nats)"].lstrip("-") == cell_of(
        [record["barrier"]["height"] for record in records], 1, 2
    ).lstrip("-")
    assert (row["connected"], row["seeds"]) == ("3/3", "3")
    assert row_of(table, "cbft", "this run")["connected"] == "0/3"


def test_the_papers_rows_stand_under_ours_and_say_whose_they_are(make_run):
    """A number of the paper that looks like one of this library's is a false result."""
    tables = {table.name: table for table in run_tables(make_run(shares=(0.9, 1.0)))}
    rows = tables["table1-0.9"].rows
    index = next(i for i, row in enumerate(rows) if row[0] == "cbft")
    assert rows[index + 1] == ("CBFT", PAPER, "67.9", "72.5", "68.1", "13.1", "n/a", "n/a", "n/a")
    theirs = [row for row in rows if row[1] != "this run"]
    assert len(theirs) == len(TABLE_1[0.9]) == 5
    assert any(PAPER in note for note in tables["table1-0.9"].notes)
    # The paper has no such share here, and no text.
    assert all(row[1] == "this run" for row in tables["table1-1"].rows)
    text = run_tables(make_run("text", dataset="sentences", model="bert"))
    assert all(PAPER not in table.to_csv() for table in text)


def test_the_papers_order_is_read_from_its_table():
    assert paper_order(0.9, "rand_cue") == ["naive-medium", "llrt", "lp-ft", "naive-small"]
    assert paper_order(0.6, "rand_cue") == ["llrt", "naive-medium", "lp-ft", "naive-small"]
    assert paper_order(0.9, "rand_input") == ["naive-small", "naive-medium", "llrt", "lp-ft"]
    assert paper_order(1.0, "rand_cue") is None


@pytest.mark.parametrize(
    ("dataset", "model", "there"),
    [("digits", "resnet18-16", True), ("digits", "vit", False), ("cifar10", "resnet", 0)],
)
def test_the_authors_figures_stand_beside_the_setting_they_were_measured_in(make_run, dataset, model, there):
    tables = [table for table in run_tables(make_run(dataset=dataset, model=model)) if table.name == "reference"]
    assert len(tables) == there
    for table in tables:
        assert len(table.rows) == len(REFERENCE_ROWS)
        assert {row[1] for row in table.rows} == {REFERENCE}
        assert row_of(table, "CBFT (default)")["RI (%)"] == "43 / 50"


def test_cells_that_do_not_apply_say_so(make_run):
    """An empty cell or a 0 would be read as a result."""

    def change(record):
        if record["method"] == "dfr":
            record["accuracy"]["rand_input"] = None
            del record["accuracy"]["cue"]
        return not (record["method"] == "balanced" and record["share"] == 1.0)

    tables = {table.name: table for table in run_tables(make_run(shares=(0.9, 1.0), change=change))}
    dfr = row_of(tables["table1-0.9"], "dfr")
    assert (dfr["RI (%)"], dfr["C (%)"]) == ("n/a", "n/a")
    assert row_of(tables["table1-0.9"], "pretrained")["barrier on C (nats)"] == "n/a"
    assert row_of(tables["table1-1"], "balanced") == {
        **dict.fromkeys(tables["table1-1"].header, "n/a"),
        "method": "balanced",
        "source": "this run",
        "seeds": "0",
    }


def test_one_seed_has_a_dash_for_its_interval(make_run):
    row = row_of(run_tables(make_run(seeds=(4,)))[0], "cbft")
    assert row["NC (%)"].endswith(" ± -")
    assert row["seeds"] == "1"


def test_the_large_rates_are_shown_with_what_was_picked(make_run):
    table = next(table for table in run_tables(make_run()) if table.name.endswith("large-rates"))
    assert [row[:2] for row in table.rows] == [("0.003", "0"), ("0.004", "3"), ("0.006", "0")]


def test_the_ablation_starts_with_the_full_method(make_run):
    (table,) = run_tables(make_run("ablation"))
    assert [row[0] for row in table.rows[:3]] == ["full", "without L_B", "without L_I"]
    assert "pretrained" not in table.to_csv()


def test_each_setting_has_a_table_with_the_default_on_top(make_run):
    run = make_run("sensitivity")
    tables = {table.header[0]: table for table in run_tables(run)}
    assert [row[0] for row in tables["num_clean"].rows] == ["default", "50", "100", "200", "500"]
    assert [row[0] for row in tables["alpha_min to alpha_max"].rows] == ["default", "0.1 to 0.9", "0.25 to 0.75"]
    assert tables["learning_rate x invariance_coef"].rows[1][0] == "0.001 x 0.3"
    records = run.select(variant=("num_clean", 100))
    assert row_of(tables["num_clean"], "100")["RC (%)"] == cell_of(
        [record["accuracy"]["rand_cue"] for record in records], 100, 1
    )


def test_the_worst_group_is_each_seeds_own(make_run):
    """The lowest of the mean accuracies is higher than the mean of the lowest."""
    run = make_run("groups", dataset="digit-groups", model="vit-groups", jitter=4.0)
    (table,) = run_tables(run)
    lowest = [min(record["groups"].values()) for record in run.select(method="cbft")]
    assert row_of(table, "cbft")["worst group, test (%)"] == cell_of(lowest, 100, 1)
    assert {"low on water (%)", "high on land (%)", "mean, test (%)"} <= set(table.header)


def test_paths_have_a_row_a_pair_and_kind(make_run):
    run = make_run("paths")
    (table,) = run_tables(run)
    assert [row[:2] for row in table.rows[:2]] == [("clean-clean", "linear"), ("clean-clean", "quadratic")]
    assert len(table.rows) == 8
    heights = [record["path"]["barriers"]["rand_cue"]["height"] for record in run.select(pair="cue-cbft linear")]
    assert row_of(table, "cue-cbft", "linear")["barrier on RC (nats)"] == cell_of(heights, 1, 2)


def test_alignment_has_what_it_leaves_of_a_barrier_and_how_surely_it_lowers_it(make_run):
    def unsure(record):
        if record["seed"] == 1 and (record.get("path") or {}).get("removed"):
            record["path"]["removed"]["cue"]["low"] = -0.1

    run = make_run("symmetry", change=unsure)
    heights, table = run_tables(run)
    assert len(heights.rows) == 9
    assert [row[:2] for row in table.rows[:2]] == [("clean-clean", "weights"), ("clean-clean", "activations")]
    row = row_of(table, "clean-clean", "weights")
    paths = [record["path"] for record in run.select(pair="clean-clean weights")]
    left = [path["barriers"]["no_cue"]["height"] / path["unaligned"]["no_cue"] for path in paths]
    assert row["left on NC (%)"] == cell_of(left, 100, 1)
    removed = [path["removed"]["cue"]["mean"] for path in paths]
    assert row["lower by on C (nats)"] == f"{cell_of(removed, 1, 2)} (2/3)"


def test_a_run_without_records_has_no_tables(make_run):
    assert run_tables(make_run(change=lambda record: False)) == []
    assert run_tables(make_run("ablation", change=lambda record: record["method"] == "pretrained")) == []


def test_markdown_keeps_its_columns():
    """A `|` in a name would move every number after it."""
    assert UGLY.to_markdown() == "| a\\|b | x & y |\n| :-- | --: |\n| p_q\\* | 1.5 ± 0.2 |\n| \\<i> | n/a |\n"


def test_latex_escapes_what_latex_reads():
    """One bare % comments out the rest of a row."""
    text = UGLY.to_latex()
    assert r"\caption{50 \% of a\_b. Costs \$1 \#2.}" in text
    assert r"p\_q* & 1.5 $\pm$ 0.2 \\" in text
    assert r"a|b & x \& y \\" in text
    assert r"\textless{}i\textgreater{} & n/a \\" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    assert escape_latex("\\{~^}") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\}"


def test_csv_reads_back_to_the_numbers_of_the_table(make_run):
    """A spreadsheet takes `1.5 ± 0.2` for text."""
    table = run_tables(make_run())[0]
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(rows) == len(table.rows)
    for read, row in zip(rows, table.rows, strict=True):
        for title, cell in zip(table.header, row, strict=True):
            mean, sign, half = cell.partition(" ± ")
            assert read[title] == mean
            if sign:
                assert float(read[title]) == float(mean)
                assert float(read[f"{title} ±"]) == float(half)
    assert list(csv.reader(io.StringIO(UGLY.to_csv()))) == [
        ["a|b", "x & y", "x & y ±"],
        ["p_q*", "1.5", "0.2"],
        ["<i>", "n/a", "n/a"],
    ]
