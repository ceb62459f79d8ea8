# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of a run: cells as text, the same in Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from paper.findings.published import (
    PAPER,
    PAPER_NAMES,
    PAPER_NOTE,
    REFERENCE,
    REFERENCE_NOTE,
    REFERENCE_ROWS,
    paper_accuracy,
)
from paper.findings.records import (
    FULL,
    JOINED,
    SETS,
    Quantity,
    Record,
    Run,
    accuracy,
    barrier,
    barrier_left,
    barrier_removed,
    by_seed,
    group_accuracy,
    path_barrier,
    picked_rate,
    show_value,
    show_variant,
    verdict_counts,
    worst_group,
)
from paper.findings.statistics import mean_interval

NOT_APPLICABLE = "n/a"
_PLUS_MINUS = " ± "
_PERCENT, _NATS = (100.0, 1), (1.0, 2)
_HEADER = (*(f"{short} (%)" for short in SETS.values()), "barrier on C (nats)", "connected", "seeds")
LEGEND = (
    "Mean over seeds ± half the width of its 95 % t-interval (- with one seed). NC no cue, C with the cue, RC cue "
    "randomized, RI image or text randomized (only the cue tells the label). barrier: on the straight line to the "
    "pretrained model, on C; connected: in how many seeds there is none."
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `left` columns hold names, the others numbers.

    Example:

    ```python
    >>> from paper.findings.tables import Table
    >>> table = Table("t", "A table", ("method", "NC (%)"), (("cbft", "86.0 ± 1.2"),))
    >>> print(table.to_csv(), end="")
    method,NC (%),NC (%) ±
    cbft,86.0,1.2

    ```
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    notes: tuple[str, ...] = (LEGEND,)

    def to_markdown(self) -> str:
        """The table alone, without its title and notes."""
        rule = [":--" if column < self.left else "--:" for column in range(len(self.header))]
        rows = [[escape_markdown(cell) for cell in row] for row in (self.header, *self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))

    def to_latex(self) -> str:
        """A `table` for `\\usepackage{booktabs}`, with title and notes as its caption."""
        header, *rows = (" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in (self.header, *self.rows))
        columns = "l" * self.left + "r" * (len(self.header) - self.left)
        caption = escape_latex(" ".join([f"{self.title}.", *self.notes]))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """A column whose cells have an interval becomes two: the means, and the intervals' half widths."""
        split = [any(_PLUS_MINUS in row[column] for row in self.rows) for column in range(len(self.header))]
        titles = [(title, f"{title} ±") if two else (title,) for title, two in zip(self.header, split, strict=True)]
        rows = [[_halves(cell) if two else (cell,) for cell, two in zip(row, split, strict=True)] for row in self.rows]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(chain.from_iterable(row) for row in (titles, *rows))
        return text.getvalue()


def _halves(cell: str) -> tuple[str, str]:
    mean, sign, half = cell.partition(_PLUS_MINUS)
    return mean, half if sign else NOT_APPLICABLE


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def run_tables(run: Run) -> list[Table]:
    """All tables of a run, by its experiment."""
    if not run.records:
        return []
    tables = {
        "table1": _table1,
        "text": _table1,
        "paths": _paths,
        "symmetry": _symmetry,
        "ablation": _ablation,
        "sensitivity": _sensitivity,
        "groups": _groups,
    }[run.experiment](run)
    return [table for table in tables if table.rows]


def show_share(share: float | None) -> str:
    return "" if share is None else f"share {share:g}"


def _cell(records: Sequence[Record], quantity: Quantity, scale: float, digits: int) -> str:
    values = list(by_seed(records, quantity).values())
    return mean_interval(values).cell(scale, digits) if values else NOT_APPLICABLE


def _accuracy_cells(records: Sequence[Record]) -> list[str]:
    """The four sets, the barrier, how many are connected, and over how many seeds all that is a mean."""
    return [
        *(_cell(records, accuracy(part), *_PERCENT) for part in SETS),
        _cell(records, barrier, *_NATS),
        verdict_counts(records),
        str(len(records)),
    ]


def _table1(run: Run) -> list[Table]:
    """One table a share: methods by sets, the paper's row under each of its methods."""
    tables, with_paper = [], run.experiment == "table1"
    for share in run.shares:
        rows = []
        for method in run.methods:
            records = run.select(method=method, share=share)
            rows.append((method, "this run", *_accuracy_cells(records)))
            theirs = paper_accuracy(share, method) if with_paper else None
            if theirs:
                cells = (_as_printed(theirs[part]) for part in SETS)
                rows.append((PAPER_NAMES[method], PAPER, *cells, *[NOT_APPLICABLE] * 3))
        marked = any(row[1] == PAPER for row in rows)
        tables.append(
            Table(
                _name(run, share),
                _title(run, share),
                ("method", "source", *_HEADER),
                tuple(rows),
                left=2,
                notes=(LEGEND, PAPER_NOTE) if marked else (LEGEND,),
            )
        )
        tables += _tried(run, share)
    if with_paper and run.grid["dataset"] == "digits" and run.grid["model"].startswith("resnet"):
        tables.append(reference_table())
    return tables


def _as_printed(value: float) -> str:
    """One digit behind the point, two where the paper gives two."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def _tried(run: Run, share: float | None) -> list[Table]:
    """The large learning rates among which validation data picked, and how each does on the test sets."""
    tried: dict[float, list[Record]] = {}
    picked: dict[float | None, int] = {}
    for record in run.select(method="naive-large", share=share):
        for entry in record.get("tried") or ():
            tried.setdefault(entry["learning_rate"], []).append({**entry, "seed": record["seed"]})
        rate = picked_rate(record)
        picked[rate] = picked.get(rate, 0) + 1
    if not tried:
        return []
    rows = [
        (
            show_value(float(rate)),
            str(picked.get(rate, 0)),
            _cell(entries, lambda entry: entry.get("validation_rand_cue"), *_PERCENT),
            *_accuracy_cells(entries),
        )
        for rate, entries in sorted(tried.items())
    ]
    return [
        Table(
            f"{_name(run, share)}-large-rates",
            f"{_title(run, share)}: the large learning rates of naive fine-tuning",
            ("learning rate", "picked", "validation RC (%)", *_HEADER),
            tuple(rows),
            notes=(LEGEND, "picked: in how many seeds the rate was taken for naive-large, by validation data only."),
        )
    ]


def reference_table() -> Table:
    """What the authors' released code does on such data. Nothing of it was measured by this library."""
    rows = []
    for row in REFERENCE_ROWS:
        by_set = zip(*row.accuracy, strict=True)
        cells = (" / ".join(map(str, values)) for values in by_set)
        barriers = " / ".join(f"{height:g}" for height in row.barrier) or NOT_APPLICABLE
        rows.append((row.method, REFERENCE, f"{row.learning_rate:g}", *cells, barriers))
    return Table(
        "reference",
        f"Digits, BatchNorm ResNet: {REFERENCE}",
        ("method", "source", "learning rate", *(f"{short} (%)" for short in SETS.values()), "barrier on C (nats)"),
        tuple(rows),
        left=2,
        notes=(f"{REFERENCE_NOTE} One number a seed.",),
    )


_PATH_KINDS = ("linear", "quadratic", "weights", "activations")


def _paths(run: Run) -> list[Table]:
    paths = [record["path"] for record in run.records if record.get("path")]
    names = list(dict.fromkeys(path["pair"] for path in paths))
    kinds = [kind for kind in _PATH_KINDS if any(path["kind"] == kind for path in paths)]
    tables = []
    for share in run.shares:
        chosen = [(name, kind, run.select(share=share, pair=f"{name} {kind}")) for name in names for kind in kinds]
        rows = [
            (name, kind, *(_cell(records, path_barrier(part), *_NATS) for part in SETS), str(len(records)))
            for name, kind, records in chosen
            if records
        ]
        header = ("pair", "path", *(f"barrier on {short} (nats)" for short in SETS.values()), "seeds")
        note = (
            "Height of the barrier over the line between the losses of the two ends: mean over seeds ± half the width "
            "of its 95 % t-interval (- with one seed)."
        )
        tables.append(Table(_name(run, share), _title(run, share), header, tuple(rows), left=2, notes=(note,)))
    return tables


def _symmetry(run: Run) -> list[Table]:
    """The barriers, and by pair and alignment what is left of them and how surely it is less."""
    note = (
        "Left: the barrier with the end's units in the start's order as a share of that without; lower by: the "
        "difference of the two with its 95 % t-interval over seeds. In brackets: in how many seeds the difference, "
        "with rows drawn anew, has a 95 % interval above 0."
    )
    parts = ("no_cue", "cue")
    pairs = dict.fromkeys(path["pair"] for record in run.records if (path := record.get("path")))
    tables = []
    for share in run.shares:
        rows = [
            (pair, kind, *(cell for part in parts for cell in _alignment_cells(records, part)), str(len(records)))
            for pair in pairs
            for kind in ("weights", "activations")
            if (records := run.select(share=share, pair=f"{pair} {kind}"))
        ]
        titles = [f"{what} on {SETS[part]}{unit}" for part in parts for what, unit in _ALIGNMENT_COLUMNS]
        name, title = f"{_name(run, share)}-alignment", f"{_title(run, share)}: what alignment does"
        header = ("pair", "aligned by", *titles, "seeds")
        tables.append(Table(name, title, header, tuple(rows), left=2, notes=(note,)))
    return [*_paths(run), *tables]


_ALIGNMENT_COLUMNS = (("left", " (%)"), ("lower by", " (nats)"))


def _alignment_cells(records: Sequence[Record], part: str) -> tuple[str, str]:
    removed = [record["path"]["removed"][part] for record in records if record["path"].get("removed")]
    sure = f" ({sum(entry['low'] > 0 for entry in removed)}/{len(removed)})"
    return _cell(records, barrier_left(part), *_PERCENT), _cell(records, barrier_removed(part), *_NATS) + sure


def _ablation(run: Run) -> list[Table]:
    return [
        Table(
            _name(run, share),
            _title(run, share),
            ("variant", *_HEADER),
            tuple(
                (show_variant(variant), *_accuracy_cells(run.select(share=share, variant=variant)))
                for variant in run.variants
            ),
        )
        for share in run.shares
    ]


def settings_of(run: Run) -> list[str]:
    """The names of what was varied, in the grid's order."""
    return list(dict.fromkeys(variant[0] for variant in run.variants if variant[0] not in FULL))


def _sensitivity(run: Run) -> list[Table]:
    """One table a setting, each with the default's row on top."""
    tables = []
    for share in run.shares:
        for setting in settings_of(run):
            rows = tuple(
                (
                    "default"
                    if variant[0] in FULL
                    else show_value(variant[1], JOINED if JOINED in setting else " to "),
                    *_accuracy_cells(run.select(share=share, variant=variant)),
                )
                for variant in run.variants
                if variant[0] in (*FULL, setting)
            )
            name = f"{_name(run, share)}-{re.sub('[^a-z0-9]+', '-', setting.lower())}"
            tables.append(Table(name, f"{_title(run, share)}: {setting}", (setting, *_HEADER), rows))
    return tables


def _groups(run: Run) -> list[Table]:
    parts = _keys(run.records, "worst_group")
    groups = _keys(run.records, "groups")
    columns: list[tuple[str, Callable[..., Any]]] = [
        *((f"worst group, {part} (%)", worst_group(part)) for part in parts),
        *((f"{group} (%)", group_accuracy(group)) for group in groups),
        *((f"mean, {part} (%)", accuracy(part)) for part in parts),
    ]
    note = (
        "Mean over seeds ± half the width of its 95 % t-interval (- with one seed). The worst group is each seed's "
        "own; pretrained is plain empirical risk minimisation (ERM) on the training data; dfr and balanced are told "
        "the groups."
    )
    tables = []
    for share in run.shares:
        chosen = [(method, run.select(method=method, share=share)) for method in run.methods]
        rows = tuple(
            (method, *(_cell(records, quantity, *_PERCENT) for _, quantity in columns), str(len(records)))
            for method, records in chosen
        )
        header = ("method", *(title for title, _ in columns), "seeds")
        tables.append(Table(_name(run, share), _title(run, share), header, rows, notes=(note,)))
    return tables


def _keys(records: Sequence[Record], field: str) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record.get(field) or ()))


def _name(run: Run, share: float | None) -> str:
    return run.experiment + (f"-{share:g}" if share is not None else "")


def _title(run: Run, share: float | None) -> str:
    return ", ".join(filter(None, (run.title, show_share(share))))
