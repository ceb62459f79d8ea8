# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The findings page: tables, pictures and claims of all runs of an output folder, made from their records alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from hf_cbft.files import whole_file, write_text
from paper.findings.claims import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Claim, check_claims
from paper.findings.figures import Picture, run_figures
from paper.findings.records import SETS, Quantity, Run, accuracy, by_seed, find_runs, in_common, worst_group
from paper.findings.statistics import Estimate, mean_interval, paired_difference
from paper.findings.tables import Table, escape_markdown, run_tables

QUICK = "**Made with --quick: the figures mean nothing.**"
_VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE)
_INTRODUCTION = """\
Every figure on this page is computed from the records of the runs below, apart from those that are marked as the
paper's or as those of the authors' code. An interval is the 95 % t-interval over seeds; a difference between two
methods is taken seed by seed."""
_ONE_SEED = "one seed tells nothing apart"
_RIVALS_NOTE = (
    "Difference to cbft, seed by seed, with its 95 % t-interval. Ahead: the interval lies on the rival's side of 0; "
    "not told apart: it contains 0. Being ahead in C is no merit where it comes from the cue. "
    "dfr and balanced are told the groups."
)
# A page of all experiments is to stay light.
_MOST_PICTURES = 8


def write_findings(output_dir: str | Path, page: str | Path) -> None:
    """Write the page and its pictures beside it, and every table and figure of a run into the run's own folder.

    The same records give the same bytes.

    Args:
        output_dir (`str` or `Path`): holds a folder for each run.
        page (`str` or `Path`): a `.md` file; its pictures, at most eight, go to the folder of its name without the
            suffix.

    Raises:
        FileNotFoundError: `output_dir` holds no run.
        ValueError: `page` is no `.md` file, or the records are damaged or of another version.
    """
    page = Path(page)
    if page.suffix != ".md":
        raise ValueError(f"{page} is to be a Markdown page, whose pictures go to a folder beside it: name a .md file.")
    runs = find_runs(output_dir)
    claims = {run.folder: [claim for claim in check_claims([run]) if claim.where] for run in runs}
    drawn = {run.folder: pictures[0] for run in runs if (pictures := run_figures(run))}
    shown = {folder: _beside(page, drawn[folder]) for folder in _shown(runs, list(drawn))}
    sections = [_section(run, claims[run.folder], shown.get(run.folder)) for run in runs]
    lines = [
        "# Findings",
        "",
        _INTRODUCTION,
        "",
        *([QUICK, ""] if any(run.quick for run in runs) else []),
        *_claims(check_claims(runs)),
        *_rivals(runs),
        *(line for section in sections for line in section),
    ]
    write_text(page, "\n".join(lines).rstrip("\n") + "\n")


def _shown(runs: Sequence[Run], drawn: Sequence[Path]) -> list[Path]:
    """The folders of the runs whose picture a page shows: of each experiment the last one, then others."""
    of_experiments = {run.experiment: run.folder for run in runs if run.folder in drawn}
    return list(dict.fromkeys([*of_experiments.values(), *drawn]))[:_MOST_PICTURES]


def _beside(page: Path, picture: Picture) -> str:
    """Copy a picture into the folder of the page's name; gives the line that shows it."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / picture.file.name) as written:
        shutil.copyfile(picture.file, written)
    return f"![{escape_markdown(picture.alt)}]({quote(folder.name)}/{quote(picture.file.name)})"


def write_tables(run: Run, claims: Sequence[Claim]) -> list[Table]:
    """The tables of a run as `.md`, `.tex` and `.csv` in its folder `tables/`; gives those of its measurements."""
    tables = run_tables(run)
    for table in [*tables, *([claims_table(claims)] if claims else []), *filter(None, [rivals_table([run])])]:
        title = f"{escape_markdown(table.title)}\n\n"
        note = "".join(f"\n{escape_markdown(note)}\n" for note in table.notes)
        quick = f"{QUICK}\n\n" if run.quick else ""
        write_text(run.folder / "tables" / f"{table.name}.md", title + quick + table.to_markdown() + note)
        write_text(run.folder / "tables" / f"{table.name}.tex", table.to_latex())
        write_text(run.folder / "tables" / f"{table.name}.csv", table.to_csv())
    return tables


def claims_table(claims: Sequence[Claim]) -> Table:
    """A row a claim and share."""
    rows = tuple((claim.text, claim.source, claim.where, claim.verdict, claim.evidence) for claim in claims)
    return Table(
        "claims", "Claims", ("claim", "claimed by", "run", "verdict", "what decides it"), rows, left=5, notes=()
    )


def rivals_table(runs: Sequence[Run]) -> Table | None:
    """For each column, the methods that are ahead of CBFT and those that cannot be told apart from it."""
    rows = [
        (f"{run.title}, share {share:g}" if share is not None else run.title, column, *cells)
        for run in runs
        for share in run.shares
        for column, cells in _rivals_of(run, share)
    ]
    if not rows:
        return None
    header = ("run", "column", "ahead of cbft", "not told apart from cbft")
    return Table(
        "rivals", "Where another method is ahead of CBFT or matches it", header, tuple(rows), 4, (_RIVALS_NOTE,)
    )


def _rivals_of(run: Run, share: float | None) -> list[tuple[str, tuple[str, str]]]:
    columns: list[tuple[str, Quantity, int]] = []
    if run.experiment in ("table1", "text"):
        columns = [(f"{short}", accuracy(part), -1 if part == "rand_input" else 1) for part, short in SETS.items()]
    elif run.experiment == "groups":
        parts = dict.fromkeys(part for record in run.records for part in record.get("worst_group") or ())
        columns = [(f"worst group, {part}", worst_group(part), 1) for part in parts]
    found = []
    for column, quantity, sign in columns:
        ours = by_seed(run.select(method="cbft", share=share), quantity)
        ahead, level = [], []
        for method in run.methods:
            theirs = by_seed(run.select(method=method, share=share), quantity)
            if method == "cbft" or not set(ours) & set(theirs):
                continue
            difference = paired_difference(*in_common(theirs, ours))
            if _side(difference, sign) == 1:
                ahead.append(f"{method} by {_signed(difference)}")
            elif _side(difference, sign) == 0:
                level.append(f"{method} {_signed(difference)}")
        if len(ours) == 1:
            level = [_ONE_SEED]
        if ours:
            found.append((column, ("; ".join(ahead) or "none", "; ".join(level) or "none")))
    return found


def _side(difference: Estimate, sign: int) -> int:
    """1: decidedly on the side of `sign`, -1: on the other, 0: undecided."""
    if difference.low is None or difference.high is None or difference.low <= 0.0 <= difference.high:
        return 0
    return 1 if sign * difference.mean > 0 else -1


def _signed(difference: Estimate) -> str:
    return ("+" if round(100 * difference.mean, 1) > 0 else "") + difference.sentence(100, 1, "points")


def _claims(claims: Sequence[Claim]) -> list[str]:
    """How many runs and shares say what of each claim, and then, claim by claim, what decides."""
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.name, []).append(claim)
    counts = [
        (
            group[0].text,
            group[0].source,
            *(str(sum(_kind(claim) == verdict for claim in group if claim.where)) for verdict in _VERDICTS),
        )
        for group in by_name.values()
    ]
    titles = ("claim", "claimed by", *_VERDICTS[:2], "not testable or not decided")
    summary = Table("", "", titles, tuple(counts), left=2)
    lines = ["## The claims", "", "In how many runs and shares of the cue:", "", summary.to_markdown()]
    for group in by_name.values():
        rows = tuple((claim.where or "no run", claim.verdict, claim.evidence) for claim in group)
        lines += [
            f"### {escape_markdown(group[0].text)}",
            "",
            f"Claimed by {group[0].source}.",
            "",
            Table("", "", ("run", "verdict", "what decides it"), rows, left=3).to_markdown(),
        ]
    return lines


def _kind(claim: Claim) -> str:
    return next(verdict for verdict in (NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED) if claim.verdict.startswith(verdict))


def _rivals(runs: Sequence[Run]) -> list[str]:
    table = rivals_table(runs)
    lines = ["## When CBFT is not the right tool", ""]
    if table is None:
        return [*lines, "There are no records of cbft and a rival.", ""]
    costs = [cost for run in runs if (cost := _cost(run))]
    return [
        *lines,
        table.to_markdown(),
        *(escape_markdown(note) for note in table.notes),
        "",
        *costs,
        *([""] if costs else []),
    ]


def _cost(run: Run) -> str:
    """How much longer CBFT trains than naive fine-tuning in as many steps: a ratio, as seconds are a machine's."""
    if run.experiment not in ("table1", "text"):
        return ""
    ratios = []
    for share in run.shares:
        ours, theirs = (
            by_seed(run.select(method=name, share=share), lambda record: record.get("train_seconds") or None)
            for name in ("cbft", "naive-medium")
        )
        first, second = in_common(ours, theirs)
        ratios += list(first / second)
    if not ratios:
        return ""
    estimate = mean_interval(ratios).sentence(1, 1, "times")
    return f"- {run.title}: cbft trains {estimate} as long as naive-medium; mean over seeds and shares."


def _section(run: Run, claims: Sequence[Claim], picture: str | None) -> list[str]:
    """A run's settings, picture and tables; writes the table files."""
    tables = write_tables(run, claims)
    shares = [f"{share:g}" for share in run.shares if share is not None]
    seeds = f"seed{'s' if len(run.seeds) > 1 else ''} {', '.join(map(str, run.seeds))}"
    said = [seeds] if run.seeds else ["no job is done"]
    said += [f"share of the cue {', '.join(shares)}"] if shares else []
    said += [f"{len(run.records)} records"] if run.records else []
    lines = [f"## {escape_markdown(run.title)}", "", f"{'; '.join(said).capitalize()}.", ""]
    lines += [QUICK, ""] if run.quick else []
    lines += ["```bash", *run.grid["commands"], "```", ""] if run.grid.get("commands") else []
    if run.failed:
        failed = (
            f"- {escape_markdown(f'{name}: {why}' if why else name)}" for name, why in sorted(run.failed.items())
        )
        lines += ["These jobs failed, and their cells are missing:", "", *failed, ""]
    lines += [] if picture is None else [picture, ""]
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    for table in tables:
        lines += [f"### {escape_markdown(table.title)}", "", table.to_markdown()]
    for note in notes:
        lines += [escape_markdown(note), ""]
    return lines
