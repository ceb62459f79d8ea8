# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of an experiment on several processes: one that fails is reported, and the others go on."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hf_cbft.files import write_json, write_text
from paper.experiments import Job
from paper.findings.records import GRID_FILE, METHODS, RESULTS_FILE, SCHEMA_VERSION
from paper.jobs import Grid, prepare_worker, read_record, run_job

Report = Callable[[str, Job, str], None]
# How version 0.1 called what the experiments are run with, and how it is called now.
_RENAMED = ("hf-cbft reproduce", "python examples/paper/run.py")


def run_grid(grid: Grid, jobs: Sequence[Job], devices: Sequence[str], report: Report) -> dict[str, str]:
    """Do all jobs that are not done, one process for each of `devices`.

    A process runs one job at a time and works for one slot alone: if it dies, as one that is out of memory does, it
    is known which job it was, and the slot gets a new process.

    Args:
        grid ([`Grid`]): what they have in common.
        jobs (`Sequence[Job]`): those that others need come first.
        devices (`Sequence[str]`): one for each process, such as `("cpu", "cpu")` or `("cuda:0", "cuda:1")`.
        report (`Callable`): told (what happened: `started`, `done` or `failed`; the job; why).

    Returns:
        `dict[str, str]`: by job, why it failed.
    """
    todo = [job for job in jobs if not grid.is_done(job)]
    by_method = {(job.method, job.share, job.seed): job for job in jobs if job.kept}
    unfinished = {job.name for job in todo}
    failed: dict[str, str] = {}
    slots = [_Slot(device) for device in devices]
    running: dict[Future, tuple[_Slot, Job]] = {}

    def needs(job: Job) -> list[str]:
        return [by_method[method, job.share, job.seed].name for method in job.needs]

    def end(job: Job, reason: str | None) -> None:
        unfinished.discard(job.name)
        if reason is not None:
            failed[job.name] = reason
        report("done" if reason is None else "failed", job, reason or "")

    try:
        while todo or running:
            for job in [job for job in todo if any(name in failed for name in needs(job))]:
                todo.remove(job)
                end(job, f"it needs {next(name for name in needs(job) if name in failed)}, which failed.")
            for slot in [slot for slot in slots if slot not in {busy for busy, _ in running.values()}]:
                ready = next((job for job in todo if not unfinished.intersection(needs(job))), None)
                if ready is None:
                    break
                todo.remove(ready)
                report("started", ready, "")
                running[slot.submit(run_job, grid, ready, slot.device)] = (slot, ready)
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), None)
            for future in done:
                slot, job = running.pop(future)
                end(job, slot.outcome(future))
    except BaseException:
        for slot in slots:
            slot.kill()
        raise
    for slot in slots:
        slot.close()
    return failed


class _Slot:
    """A process that is started when there is work, and anew when it has died."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._executor: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(1, get_context("spawn"), prepare_worker)
        return self._executor.submit(function, *arguments)

    def outcome(self, future: Future) -> str | None:
        """Why the job failed, or `None`."""
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            self.kill()
            return "its process was killed, as one that takes too much memory is: try fewer --jobs."
        if error is None:
            return None
        return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def kill(self) -> None:
        if self._executor is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()


def start_run(grid: Grid, command: str, resume: bool) -> None:
    """Make a run's folder, or take up the one that is there: `command` joins those that it was run with before.

    Raises:
        ValueError: the folder holds a run and `resume` is not set, or one of another schema or experiment.
    """
    file = grid.folder / GRID_FILE
    if file.is_file():
        check_same_run(file, grid, resume)
    for leftover in (*grid.folder.glob("jobs/.*"), *(grid.folder.parent / "models").glob(".*")):
        _remove(leftover)
    commands = [text.replace(*_RENAMED) for text in _read(file).get("commands", [])]
    write_json(file, _settings(grid, list(dict.fromkeys([*commands, command])), {}))


def check_same_run(file: Path, grid: Grid, resume: bool) -> None:
    """Raise a `ValueError` unless the run that `file` tells of can be taken up."""
    if not resume:
        raise ValueError(
            f"{file.parent} holds results already: go on with --resume, or name another folder with --output_dir."
        )
    try:
        before = _read(file)
    except ValueError:
        raise ValueError(f"{file} is damaged, so it cannot be resumed: name another folder.") from None
    if before.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{file.parent} holds results of schema version {before.get('schema_version')}, and this version writes "
            f"{SCHEMA_VERSION}: name another folder."
        )
    for name, value in (
        ("experiment", grid.experiment),
        ("dataset", grid.dataset),
        ("model", grid.model),
        ("quick", grid.quick),
    ):
        if before.get(name) != value:
            raise ValueError(
                f"{file.parent} holds results of {name} {before.get(name)}, not {value}: resume it with the same, or "
                "name another folder."
            )


def finish_run(grid: Grid, failed: dict[str, str]) -> int:
    """Gather the records of all jobs, also of earlier starts, into one file; gives their number."""
    records = [read_record(file) for file in sorted((grid.folder / "jobs").glob("*.json"))]
    records.sort(key=_place)
    lines = [json.dumps(record, allow_nan=False) for record in records]
    write_text(grid.folder / RESULTS_FILE, "".join(f"{line}\n" for line in lines))
    file = grid.folder / GRID_FILE
    write_json(file, _settings(grid, _read(file).get("commands", []), failed))
    return len(records)


def _place(record: Any) -> tuple:
    """Where a record stands among the others, whatever the order in which they were made."""
    method, variant = record["method"], record["variant"]
    place = METHODS.index(method) if method in METHODS else len(METHODS)
    path = (record["path"] or {}).get("pair", "")
    return record["share"], place, method, path, json.dumps(variant), record["seed"]


def _read(file: Path) -> Mapping[str, Any]:
    return read_record(file) if file.is_file() else {}


def _settings(grid: Grid, commands: list[str], failed: dict[str, str]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": grid.experiment,
        "dataset": grid.dataset,
        "model": grid.model,
        "quick": grid.quick,
        "num_classes": grid.num_classes,
        "commands": commands,
        "failed": failed,
    }


def _remove(leftover: Path) -> None:
    import shutil

    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)
