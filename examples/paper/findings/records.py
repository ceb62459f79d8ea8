# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a grid of jobs has left: its settings and one record a job, read back, checked and selected from."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_cbft.files import read_measured

SCHEMA_VERSION = 1
GRID_FILE, RESULTS_FILE = "grid.json", "results.jsonl"
EXPERIMENTS = ("table1", "paths", "symmetry", "ablation", "sensitivity", "text", "groups")
# The four sets by the paper's names, in its order.
SETS = {"no_cue": "NC", "cue": "C", "rand_cue": "RC", "rand_input": "RI"}
METHODS = (
    "pretrained",
    "naive-small",
    "naive-medium",
    "naive-large",
    "llrt",
    "lp-ft",
    "dfr",
    "balanced",
    "cbft",
    "cbft-paper",
)
# Up to which height, in nats, a barrier counts as none: what `ConnectivityEvaluator.evaluate` takes by default.
TOLERANCE = 0.1
# The full method, where a record is of one variant among several.
FULL = ("full", "default")

Record = dict[str, Any]
# Between the names of two settings that were varied at once.
JOINED = " x "

Quantity = Callable[[Record], float | None]
Variant = tuple[str, Any] | None
_ANY: Any = object()


@dataclass(frozen=True)
class Run:
    """One experiment on one data set with one model.

    Attributes:
        folder (`Path`): where it lies.
        grid (`dict`): its settings, as in `grid.json`.
        records (`list[dict]`): one a job that is done, in the grid's order.
    """

    folder: Path
    grid: dict[str, Any]
    records: list[Record]

    @property
    def experiment(self) -> str:
        return self.grid["experiment"]

    @property
    def title(self) -> str:
        return f"{self.experiment}, {self.grid['dataset']}, {self.grid['model']}"

    @property
    def quick(self) -> bool:
        return bool(self.grid.get("quick"))

    @property
    def failed(self) -> dict[str, str]:
        """By job, why it failed; empty where that is not known."""
        failed = self.grid.get("failed") or {}
        return dict(failed) if isinstance(failed, dict) else dict.fromkeys(failed, "")

    @property
    def num_classes(self) -> int | None:
        """K, or `None` where the grid does not say it."""
        return self.grid.get("num_classes")

    @property
    def methods(self) -> list[str]:
        """Those that have records, the known ones in their usual order and others after them."""
        found = dict.fromkeys(record["method"] for record in self.records)
        return [name for name in METHODS if name in found] + [name for name in found if name not in METHODS]

    @property
    def shares(self) -> list[float | None]:
        return sorted({record.get("share") for record in self.records}, key=lambda share: (share is None, share))

    @property
    def seeds(self) -> list[int]:
        return sorted({record["seed"] for record in self.records})

    @property
    def variants(self) -> list[tuple[str, Any]]:
        """Those of the records: the full method first, the numbers of a setting rising, others in the grid's order."""
        found = dict.fromkeys(variant for record in self.records if (variant := variant_of(record)))
        settings = list(dict.fromkeys(setting for setting, _ in found))

        def place(variant: tuple[str, Any]) -> tuple[bool, int, float]:
            setting, value = variant
            return setting not in FULL, settings.index(setting), value if isinstance(value, int | float) else 0.0

        return sorted(found, key=place)

    def select(
        self, method: str = _ANY, share: float | None = _ANY, variant: Variant = _ANY, pair: str = _ANY
    ) -> list[Record]:
        """Records that fit all that is given, in the order of their seeds."""
        wanted = ((_method, method), (_share, share), (variant_of, variant), (pair_of, pair))
        fits = [
            record for record in self.records if all(value is _ANY or read(record) == value for read, value in wanted)
        ]
        return sorted(fits, key=lambda record: record["seed"])


def read_run(folder: str | Path) -> Run:
    """Read and check a run's folder.

    Args:
        folder (`str` or `Path`): holds `grid.json` and, once a job is done, `results.jsonl`.

    Raises:
        FileNotFoundError: there is no `grid.json`.
        ValueError: another schema version, a damaged line, one of another run, or a job that stands there twice.
    """
    folder = Path(folder)
    grid = read_measured(folder / GRID_FILE, "grid", [SCHEMA_VERSION])
    missing = [key for key in ("experiment", "dataset", "model") if not isinstance(grid.get(key), str)]
    if missing or grid["experiment"] not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        what = f"lacks {', '.join(missing)}" if missing else f"is of experiment {grid['experiment']!r}, known: {known}"
        raise ValueError(f"{folder / GRID_FILE} {what}: run the experiment again in a new folder.")
    file = folder / RESULTS_FILE
    records: list[Record] = []
    jobs: dict[tuple[Any, ...], int] = {}
    if file.exists():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            record = _read_line(line, f"Line {number} of {file}", grid)
            job = tuple(map(repr, (_method(record), _share(record), variant_of(record), pair_of(record))))
            earlier = jobs.setdefault((*job, record["seed"]), number)
            if earlier != number:
                raise ValueError(f"Lines {earlier} and {number} of {file} are of the same job: remove one of them.")
            records.append(record)
    return Run(folder, grid, records)


def find_runs(output_dir: str | Path) -> list[Run]:
    """All runs of an output folder, by experiment, data set and model.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = sorted(file.parent for file in Path(output_dir).glob(f"*/{GRID_FILE}"))
    if not folders:
        raise FileNotFoundError(f"{output_dir} holds no run (a folder with {GRID_FILE}): run an experiment first.")
    runs = [read_run(folder) for folder in folders]
    return sorted(runs, key=lambda run: (EXPERIMENTS.index(run.experiment), run.folder.name))


def _read_line(line: str, where: str, grid: dict[str, Any]) -> Record:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError:
        raise ValueError(f"{where} is damaged: remove it and run again with --resume.") from None
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        version = record.get("schema_version") if isinstance(record, dict) else None
        raise ValueError(
            f"{where} is of schema version {version}, this version reads {SCHEMA_VERSION}: run again in a new folder, "
            "or use the version of hf_cbft that wrote it."
        )
    for key in ("experiment", "dataset", "model"):
        if record.get(key) != grid[key]:
            raise ValueError(
                f"{where} is of {key} {record.get(key)!r}, the grid beside it of {grid[key]!r}: give each its folder."
            )
    missing = [key for key in ("method", "seed") if key not in record]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: remove it and run again with --resume.")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _method(record: Record) -> str:
    return record["method"]


def _share(record: Record) -> float | None:
    return record.get("share")


def variant_of(record: Record) -> Variant:
    """`(name, value)`, with lists as tuples; `None` where the record has no variant."""
    variant = record.get("variant")
    if not variant:
        return None
    value = variant.get("value")
    return variant["name"], tuple(value) if isinstance(value, list) else value


def pair_of(record: Record) -> str | None:
    """`cue-cbft linear`: the two models of a path and its kind."""
    path = record.get("path")
    return f"{path['pair']} {path['kind']}" if path else None


def accuracy(part: str) -> Quantity:
    """Reads a record's accuracy on one set, a fraction."""
    return lambda record: (record.get("accuracy") or {}).get(part)


def worst_group(part: str) -> Quantity:
    """Reads the accuracy of a record's worst group on one set, a fraction."""
    return lambda record: (record.get("worst_group") or {}).get(part)


def group_accuracy(group: str) -> Quantity:
    """Reads the accuracy of one group, a fraction."""
    return lambda record: (record.get("groups") or {}).get(group)


def barrier(record: Record) -> float | None:
    """The height of the barrier to the pretrained model on the cue data, nats."""
    return (record.get("barrier") or {}).get("height")


def path_barrier(part: str) -> Quantity:
    """Reads the height of the barrier of a record's path on one set, nats."""
    return lambda record: ((record.get("path") or {}).get("barriers", {}).get(part) or {}).get("height")


def barrier_left(part: str) -> Quantity:
    """Reads which share of the barrier on one set alignment has left, a fraction."""

    def read(record: Record) -> float | None:
        before = ((record.get("path") or {}).get("unaligned") or {}).get(part)
        after = path_barrier(part)(record)
        return None if before is None or after is None or before <= 0.0 else max(after, 0.0) / before

    return read


def barrier_removed(part: str) -> Quantity:
    """Reads by how much alignment lowers the barrier on one set, nats."""
    return lambda record: (((record.get("path") or {}).get("removed") or {}).get(part) or {}).get("mean")


def picked_rate(record: Record) -> float | None:
    """Of the rates that were tried, the one that did best on validation data: of equals the smaller."""
    tried = sorted(record.get("tried") or (), key=lambda entry: entry["learning_rate"])
    return max(tried, key=lambda entry: entry["validation_rand_cue"])["learning_rate"] if tried else None


def lost_to_random_cue(record: Record) -> float | None:
    """NC - RC: what a cue that tells nothing costs, a fraction."""
    no_cue, rand_cue = accuracy("no_cue")(record), accuracy("rand_cue")(record)
    return None if no_cue is None or rand_cue is None else no_cue - rand_cue


def by_seed(records: Iterable[Record], quantity: Quantity) -> dict[int, float]:
    """The quantity of each seed that has it, in the order of the seeds given."""
    values = ((record["seed"], quantity(record)) for record in records)
    return {seed: float(value) for seed, value in values if value is not None}


def in_common(first: dict[int, float], second: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """The values of the seeds that both have, side by side."""
    seeds = [seed for seed in first if seed in second]
    return np.array([first[seed] for seed in seeds]), np.array([second[seed] for seed in seeds])


def verdict_counts(records: Iterable[Record]) -> str:
    """`2/3`: how many are connected, with the undecided ones named; `n/a` where no path was measured."""
    verdicts = [record["barrier"].get("connected") for record in records if record.get("barrier")]
    if not verdicts:
        return "n/a"
    undecided = sum(verdict is None for verdict in verdicts)
    return f"{verdicts.count(True)}/{len(verdicts)}" + (f", {undecided} undecided" if undecided else "")


def show_value(value: Any, between: str = " to ") -> str:
    """A setting's value as a reader writes it; `between` two values, such as the ends of a range."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return between.join(map(show_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_variant(variant: Variant) -> str:
    """`barrier_stop_ratio = 0.25`, or the name alone where it has no value."""
    if variant is None:
        return "-"
    name, value = variant
    return name if value is None else f"{name} = {show_value(value, JOINED if JOINED in name else ' to ')}"
