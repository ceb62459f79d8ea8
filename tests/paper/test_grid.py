# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A driver that loses a job, hides a failure or runs one twice gives a table that nobody ran."""

import json
import os
from concurrent.futures import Future
from pathlib import Path

import pytest

import hf_cbft
from hf_cbft.files import write_json
from paper import grid as driver
from paper.experiments import jobs_of
from paper.grid import check_same_run, finish_run, run_grid, start_run
from paper.jobs import Grid
from paper.run import Arguments, _devices, main


@pytest.fixture
def grid(tmp_path):
    return Grid(tmp_path / "table1-digits-vit", "table1", "digits", "vit", quick=True)


class InlineSlot(driver._Slot):
    """Runs a job at once, in this process."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def ran(monkeypatch, request):
    """The names of the jobs that ran; those that the marker `fails` names fail."""
    names = []
    marker = request.node.get_closest_marker("parametrize")
    fails = request.getfixturevalue("fails") if marker and "fails" in marker.args[0] else ()

    def fake_job(grid, job, device):
        names.append(job.name)
        if job.method in fails:
            raise MemoryError("out of\nmemory")
        if job.kept:
            grid.model_folder(job.method, job.share, job.seed).mkdir(parents=True, exist_ok=True)
        accuracy = {"no_cue": 0.9, "cue": 0.9, "rand_cue": 0.8, "rand_input": 0.2}
        write_json(
            grid.record_file(job),
            {
                "schema_version": 1,
                "experiment": "table1",
                "dataset": "digits",
                "model": "vit",
                "method": job.method,
                "share": job.share,
                "seed": job.seed,
                "variant": None,
                "path": None,
                "accuracy": accuracy,
                "barrier": None,
                "train_seconds": 1.0,
                "wall_seconds": 1.0,
            },
        )

    monkeypatch.setattr(driver, "_Slot", InlineSlot)
    monkeypatch.setattr(driver, "run_job", fake_job)
    return names


def jobs():
    return jobs_of("table1", [0.9], [0, 1], ["llrt", "cbft"])


def test_every_job_runs_once_and_after_what_it_needs(grid, ran):
    told = []
    failed = run_grid(grid, jobs(), ["cpu", "cpu"], lambda what, job, why: told.append((what, job.name)))
    assert failed == {}
    assert sorted(ran) == sorted(job.name for job in jobs())
    assert ran.index("pretrained-share0.9-seed1") < ran.index("cbft-share0.9-seed1")
    assert told.count(("done", "cbft-share0.9-seed0")) == 1
    assert told.index(("started", "cbft-share0.9-seed0")) < told.index(("done", "cbft-share0.9-seed0"))


@pytest.mark.parametrize("fails", [("llrt",)])
def test_a_failing_job_is_reported_and_the_others_go_on(grid, ran, fails):
    failed = run_grid(grid, jobs(), ["cpu"], lambda *told: None)
    assert failed == {f"llrt-share0.9-seed{seed}": "MemoryError: out of memory" for seed in (0, 1)}
    assert len(ran) == len(jobs())
    assert not grid.record_file(next(job for job in jobs() if job.method == "llrt")).exists()


@pytest.mark.parametrize("fails", [("pretrained",)])
def test_what_needs_a_failed_model_is_not_tried(grid, ran, fails):
    failed = run_grid(grid, jobs(), ["cpu"], lambda *told: None)
    assert set(failed) == {job.name for job in jobs()}
    assert failed["cbft-share0.9-seed0"] == "it needs pretrained-share0.9-seed0, which failed."
    assert sorted(ran) == ["pretrained-share0.9-seed0", "pretrained-share0.9-seed1"]


def test_a_second_start_does_only_what_is_missing(grid, ran):
    run_grid(grid, jobs(), ["cpu"], lambda *told: None)
    grid.record_file(next(job for job in jobs() if job.name == "llrt-share0.9-seed1")).unlink()
    ran.clear()
    assert run_grid(grid, jobs(), ["cpu"], lambda *told: None) == {}
    assert ran == ["llrt-share0.9-seed1"]


def test_a_kept_model_that_is_gone_is_made_again(grid, ran):
    run_grid(grid, jobs(), ["cpu"], lambda *told: None)
    grid.model_folder("pretrained", 0.9, 0).rmdir()
    ran.clear()
    run_grid(grid, jobs(), ["cpu"], lambda *told: None)
    assert ran == ["pretrained-share0.9-seed0"]


def test_records_are_gathered_in_the_order_of_the_table_whatever_was_done_first(grid, ran):
    run_grid(grid, list(reversed(jobs()))[::-1], ["cpu"], lambda *told: None)
    assert finish_run(grid, {}) == len(jobs())
    lines = [json.loads(line) for line in (grid.folder / "results.jsonl").read_text().splitlines()]
    assert [(line["method"], line["seed"]) for line in lines] == [
        (method, seed) for method in ("pretrained", "llrt", "cbft") for seed in (0, 1)
    ]


@pytest.mark.parametrize("fails", [["llrt"]])
def test_the_command_says_what_failed_and_resume_tries_it_alone(tmp_path, ran, fails, capsys):
    options = ["--seeds", "0", "--shares", "0.9", "--methods", "llrt", "cbft", "--jobs", "1", "--quick"]
    command = [*options, "--output_dir", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "failed: llrt-share0.9-seed0: MemoryError: out of memory" in said.err
    assert "1 jobs failed; the same command with --resume tries them again" in said.err
    assert "llrt-share0.9-seed0: MemoryError" in (tmp_path / "out" / "findings.md").read_text()
    assert main(command) == 2, "a second start without --resume"
    fails.clear()
    ran.clear()
    assert main([*command, "--resume"]) == 0
    assert ran == ["llrt-share0.9-seed0"]
    assert "MemoryError" not in (tmp_path / "out" / "findings.md").read_text()
    assert len((tmp_path / "out" / "table1-digits-vit" / "results.jsonl").read_text().splitlines()) == 3


def test_a_grid_that_hf_cbft_reproduce_began_is_gone_on_with(tmp_path, ran, capsys):
    """As version 0.1 left it, killed between two jobs: its folder, its options and its records stay what they are."""
    folder = tmp_path / "out" / "table1-digits-vit"
    options = ["--methods", "llrt", "cbft", "--seeds", "0", "--shares", "0.9", "--jobs", "1", "--quick"]
    command = "--experiment table1 --seeds 0 --shares 0.9 --methods llrt cbft --quick"
    done = [job for job in jobs_of("table1", [0.9], [0], ["llrt", "cbft"]) if job.method != "cbft"]
    for job in done:
        driver.run_job(Grid(folder, "table1", "digits", "vit", quick=True), job, "cpu")
    write_json(
        folder / "grid.json",
        {
            "schema_version": 1,
            "experiment": "table1",
            "dataset": "digits",
            "model": "vit",
            "quick": True,
            "num_classes": 10,
            "commands": [f"hf-cbft reproduce {command}"],
            "failed": {},
        },
    )
    (tmp_path / "out" / "reproduce.yaml").write_text(
        "# hf-cbft 0.1.0: hf-cbft reproduce --config reproduce.yaml is this run again.\n"
        "methods:\n- llrt\n- cbft\nseeds:\n- 0\nshares:\n- 0.9\njobs: 1\nquick: true\n"
        f"output_dir: {tmp_path / 'out'}\n"
    )
    earlier = {job.name: folder.joinpath("jobs", f"{job.name}.json").read_bytes() for job in done}
    ran.clear()
    # By its own file of options as well as by the same options.
    assert main(["--config", str(tmp_path / "out" / "reproduce.yaml"), "--resume"]) == 0
    assert ran == ["cbft-share0.9-seed0"]
    assert main([*options, "--output_dir", str(tmp_path / "out"), "--resume"]) == 0
    assert ran == ["cbft-share0.9-seed0"]
    assert {name: folder.joinpath("jobs", f"{name}.json").read_bytes() for name in earlier} == earlier
    assert len((folder / "results.jsonl").read_text().splitlines()) == 3
    (tmp_path / "bad.yaml").write_text("frobnicate: 1\n")
    assert main(["--config", str(tmp_path / "bad.yaml")]) == 2
    assert "'frobnicate'; python examples/paper/run.py --help lists them." in capsys.readouterr().err
    # The command that stood there is the same run: on the page it stands once, and as it can be run now.
    settings = json.loads((folder / "grid.json").read_text())
    assert settings["commands"] == [f"python examples/paper/run.py {command}"]
    written = (tmp_path / "out" / "reproduce.yaml").read_text()
    assert written.startswith(f"# hf-cbft {hf_cbft.__version__}: python examples/paper/run.py --config reproduce.yaml")


def die(grid, job, device):
    if job.method == "llrt":
        os._exit(9)
    write_json(grid.record_file(job), {})


@pytest.mark.slow
@pytest.mark.sample
def test_a_process_that_is_killed_costs_its_own_job_alone(grid, monkeypatch):
    # As the kernel does with one that takes too much memory.
    monkeypatch.setattr(driver, "run_job", die)
    monkeypatch.setattr(driver, "prepare_worker", os.getpid)
    chosen = [job for job in jobs() if not job.kept and job.seed == 0]
    for job in jobs():
        if job.kept:
            grid.model_folder(job.method, job.share, job.seed).mkdir(parents=True)
            write_json(grid.record_file(job), {})
    kept = [job for job in jobs() if job.kept]
    failed = run_grid(grid, [*kept, *chosen], ["cpu"], lambda *told: None)
    assert set(failed) == {"llrt-share0.9-seed0"}
    assert "its process was killed" in failed["llrt-share0.9-seed0"]
    assert grid.record_file(chosen[-1]).exists()


def test_a_run_that_is_there_needs_resume(grid):
    start_run(grid, "run.py", resume=False)
    with pytest.raises(ValueError, match="holds results already: go on with --resume, or name another folder"):
        start_run(grid, "run.py", resume=False)
    start_run(grid, "run.py", resume=True)


def test_a_run_that_version_0_1_began_is_taken_up(grid):
    """There the experiments were a command; its folder is the same."""
    start_run(grid, "hf-cbft reproduce --experiment table1 --seeds 0", resume=False)
    start_run(grid, "python examples/paper/run.py --experiment table1 --seeds 0 1", resume=True)
    commands = json.loads((grid.folder / "grid.json").read_text())["commands"]
    assert commands == [f"python examples/paper/run.py --experiment table1 --seeds {seeds}" for seeds in ("0", "0 1")]


def test_leftovers_of_a_killed_run_are_removed(grid):
    (grid.folder / "jobs").mkdir(parents=True)
    (grid.folder / "jobs" / ".cbft-123.json").write_text("half")
    half_model = grid.folder.parent / "models" / ".digits-vit-pretrained-x"
    half_model.mkdir(parents=True)
    start_run(grid, "run.py", resume=False)
    assert not half_model.exists()
    assert list((grid.folder / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "holds results of schema version 99, and this version writes 1"),
        ({"experiment": "text"}, "holds results of experiment text, not table1: resume it with the same"),
        ({"quick": False}, "holds results of quick False, not True"),
        (None, "is damaged, so it cannot be resumed"),
    ],
)
def test_another_run_is_not_resumed(grid, changes, message):
    start_run(grid, "run.py", resume=False)
    file = Path(grid.folder / "grid.json")
    file.write_text("{" if changes is None else json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        check_same_run(file, grid, resume=True)


@pytest.mark.parametrize(
    ("device", "jobs", "todo", "expected"),
    [
        ("cpu", 3, 10, ["cpu"] * 3),
        ("cpu", 8, 2, ["cpu"] * 2),
        ("cuda", None, 10, ["cuda:0", "cuda:1"]),
        ("cuda", 4, 10, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda:1", None, 10, ["cuda:1"]),
        ("cpu", 2, 0, ["cpu"]),
    ],
)
def test_each_process_has_its_device(monkeypatch, device, jobs, todo, expected):
    # Two processes on one GPU while another stands idle would take twice as long.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert _devices(Arguments(device=device, jobs=jobs), todo) == expected
