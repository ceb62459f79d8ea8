# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Whole checkpoints, what they hold of a run, and runs that are killed and go on."""

import dataclasses
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_cbft import CBFTConfig
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.training.run_state import (
    RunState,
    check_manifest,
    check_resumable,
    check_same_reference,
    check_same_settings,
    load_reference,
    newest_whole_checkpoint,
    run_settings,
    store_reference,
    write_manifest,
)

WEIGHTS = {
    "a.b": torch.arange(6.0).reshape(2, 3),
    "a.c": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 4),
}


def checkpoint(folder: Path, step: int, manifest: bool = True) -> Path:
    """A folder that looks like a checkpoint, with a file in a folder of its own."""
    path = folder / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (path / "deep" / "optimizer.bin").write_bytes(bytes([step]) * 100)
    (path / "empty.txt").touch()
    if manifest:
        write_manifest(path)
    return path


# Fingerprints


def test_fingerprint_does_not_depend_on_order_or_memory():
    """The same reference, loaded another way, is taken for another one."""
    expected = fingerprint(WEIGHTS)
    assert len(bytes.fromhex(expected)) == 16
    assert fingerprint(dict(reversed(WEIGHTS.items()))) == expected
    transposed = {**WEIGHTS, "a.b": WEIGHTS["a.b"].T.contiguous().T}
    assert not transposed["a.b"].is_contiguous()
    assert fingerprint(transposed) == expected
    strided = {**WEIGHTS, "a.b": torch.stack([WEIGHTS["a.b"], -WEIGHTS["a.b"]], dim=-1)[..., 0]}
    assert fingerprint(strided) == expected
    assert fingerprint({**WEIGHTS, "a.b": torch.nn.Parameter(WEIGHTS["a.b"])}) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"a.b": torch.arange(6.0).reshape(3, 2)},
        {"a.b": torch.arange(6.0).reshape(2, 3).double()},
        {"a.b": torch.arange(6).reshape(2, 3)},
        {"a.b": torch.arange(6.0).reshape(2, 3) + torch.tensor([0.0, 0.0, 1e-6])},
        {"a.c": torch.tensor([1.5, -2.0], dtype=torch.float16)},
        {"a.c": torch.tensor([1.5, -2.015625], dtype=torch.bfloat16)},
        {"count": torch.tensor([7])},
        {"none": torch.zeros(4, 0)},
        {"new": torch.zeros(0)},
        {"a.b": WEIGHTS["a.c"], "a.c": WEIGHTS["a.b"]},
    ],
)
def test_fingerprint_depends_on_all_that_counts(change):
    """Another reference passes for the one that training began with."""
    assert fingerprint({**WEIGHTS, **change}) != fingerprint(WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int8])
def test_fingerprint_reads_every_dtype(dtype):
    """NumPy has no bfloat16."""
    first, second = torch.tensor([0, 1, 1]).to(dtype), torch.tensor([0, 1, 0]).to(dtype)
    assert fingerprint({"w": first}) == fingerprint({"w": first.clone()}) != fingerprint({"w": second})


# Manifests


def test_manifest_lists_every_file_and_is_none_of_them(tmp_path):
    """A file that is not listed can be damaged unseen; a manifest that lists itself never fits."""
    path = checkpoint(tmp_path, 3)
    (path / "checkpoint-is-incomplete.txt").touch()
    write_manifest(path)
    manifest = json.loads((path / "cbft_manifest.json").read_text())
    assert list(manifest["files"]) == ["deep/optimizer.bin", "empty.txt", "model.safetensors"]
    assert manifest["files"]["model.safetensors"]["size"] == 1024
    (path / "checkpoint-is-incomplete.txt").unlink()
    check_manifest(path)
    assert sorted(p.name for p in path.iterdir()) == ["cbft_manifest.json", "deep", "empty.txt", "model.safetensors"]


def test_files_that_were_added_do_no_harm(tmp_path):
    """Notes, or what a callback writes after the save, would make a checkpoint useless."""
    path = checkpoint(tmp_path, 3)
    (path / "notes.txt").write_text("the good one")
    check_manifest(path)


@pytest.mark.parametrize("size", [0, 1, 511, 1023])
def test_truncated_file_is_named(size, tmp_path):
    """What a full disk or a killed copy leaves."""
    path = checkpoint(tmp_path, 3)
    os.truncate(path / "model.safetensors", size)
    message = rf"checkpoint-3 has a model.safetensors of {size} bytes, not 1024: resume from another checkpoint"
    with pytest.raises(ValueError, match=message):
        check_manifest(path)


def test_file_that_grew_is_named(tmp_path):
    path = checkpoint(tmp_path, 3)
    with (path / "empty.txt").open("a") as file:
        file.write("x")
    with pytest.raises(ValueError, match=r"has a empty.txt of 1 bytes, not 0"):
        check_manifest(path)


@pytest.mark.parametrize("position", [0, 500, 1023])
def test_changed_byte_is_found(position, tmp_path):
    """The size is right, the content is not: blocks that never reached the disk."""
    path = checkpoint(tmp_path, 3)
    content = bytearray((path / "model.safetensors").read_bytes())
    content[position] ^= 1
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"has a model.safetensors whose content is not what was saved: resume from"):
        check_manifest(path)


def test_missing_file_is_named(tmp_path):
    path = checkpoint(tmp_path, 3)
    shutil.rmtree(path / "deep")
    with pytest.raises(ValueError, match=r"checkpoint-3 lacks deep/optimizer.bin: resume from another checkpoint"):
        check_manifest(path)


def test_checkpoint_without_manifest_was_interrupted(tmp_path):
    """The manifest is written last: where it is missing, anything may be."""
    path = checkpoint(tmp_path, 3, manifest=False)
    with pytest.raises(ValueError, match=r"has no cbft_manifest.json, which is written last, so saving it was inter"):
        check_manifest(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 2, "files": {}}', "\xff"])
def test_manifest_that_is_none_is_refused(text, tmp_path):
    """A traceback out of the JSON parser, or a manifest that lists nothing and passes."""
    path = checkpoint(tmp_path, 3)
    (path / "cbft_manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"has a cbft_manifest.json that is damaged or of another version of"):
        check_manifest(path)


def test_a_save_that_is_killed_over_an_old_one_is_not_whole(tmp_path):
    """A resumed run saves the same step again; the old manifest must not vouch for half of the new files."""
    path = checkpoint(tmp_path, 3)
    (path / "model.safetensors").write_bytes(bytes(1024))
    with pytest.raises(ValueError, match="content is not what was saved"):
        check_manifest(path)


# Which checkpoint


@pytest.mark.parametrize("exists", [False, True])
def test_no_checkpoint_is_none(exists, tmp_path):
    if exists:
        (tmp_path / "out" / "checkpoint-best").mkdir(parents=True)
        (tmp_path / "out" / "checkpoint-12").touch()
        (tmp_path / "out" / "old-checkpoint-9").mkdir()
    assert newest_whole_checkpoint(tmp_path / "out") == (None, [])


def test_newest_is_the_highest_number(tmp_path):
    """As text, checkpoint-9 comes after checkpoint-20; by time, a copied folder comes last."""
    for step in (20, 100, 9):
        checkpoint(tmp_path, step)
    assert newest_whole_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", [])


def test_broken_newer_ones_are_skipped_and_told_of(tmp_path):
    """The usual end of a killed run: the last save is half there, the one before is good."""
    checkpoint(tmp_path, 10)
    good = checkpoint(tmp_path, 20)
    (checkpoint(tmp_path, 30) / "empty.txt").unlink()
    checkpoint(tmp_path, 40, manifest=False)
    found, skipped = newest_whole_checkpoint(str(tmp_path))
    assert found == good
    assert skipped == [
        "checkpoint-40 was skipped: it has no cbft_manifest.json, which is written last, so saving it was interrupted "
        "or CBFTTrainer did not.",
        "checkpoint-30 was skipped: it lacks empty.txt.",
    ]


def test_all_broken_is_none_with_the_reasons(tmp_path):
    checkpoint(tmp_path, 10, manifest=False)
    found, skipped = newest_whole_checkpoint(tmp_path)
    assert found is None
    assert len(skipped) == 1


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_weights_alone_cannot_be_resumed_from(missing, tmp_path):
    """Transformers goes on with a new optimizer, or other random numbers, and says nothing."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"):
        (tmp_path / name).touch()
    check_resumable(tmp_path)
    (tmp_path / missing).unlink()
    part = missing.split(".")[0]
    with pytest.raises(ValueError, match=f"has no {part} file, so training cannot go on from it .* save_only_model"):
        check_resumable(tmp_path)


def test_states_of_several_ranks_are_enough(tmp_path):
    """DDP saves an RNG state for each rank, FSDP the optimizer in a folder."""
    (tmp_path / "optimizer_0").mkdir()
    for name in ("scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"):
        (tmp_path / name).touch()
    check_resumable(tmp_path)


# The state of a run


def state(**changes) -> RunState:
    values = {
        "ref_loss": 0.1 + 0.2,
        "reference": fingerprint(WEIGHTS),
        "reference_source": None,
        "settings": {"seed": 3},
    }
    return RunState(**{**values, **changes})


@pytest.mark.parametrize("changes", [{}, {"ref_loss": None, "reference": None, "reference_source": "org/name@abc"}])
def test_state_is_read_back(changes, tmp_path):
    """A reference loss that is rounded changes every step after it."""
    state(**changes).write(tmp_path)
    assert RunState.read(tmp_path) == state(**changes)


def test_checkpoint_of_a_plain_trainer_is_told_apart(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no cbft_state.json, so it is no checkpoint of CBFTTrainer but of anoth"
    ):
        RunState.read(tmp_path)


def write_state(folder, **changes):
    state().write(folder)
    data = json.loads((folder / "cbft_state.json").read_text())
    (folder / "cbft_state.json").write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize("version", [2, "1.0", None])
def test_unknown_schema_version_is_refused(version, tmp_path):
    """A later version may mean something else by the same names."""
    write_state(tmp_path, schema_version=version)
    message = rf"of another version of hf_cbft \(its schema is {version}, this one reads 1\): resume with the version"
    with pytest.raises(ValueError, match=message):
        RunState.read(tmp_path)


def test_state_that_is_none_is_refused(tmp_path):
    (tmp_path / "cbft_state.json").write_text('{"schema_version": 1, "ref')
    with pytest.raises(ValueError, match=r"cbft_state.json is damaged or of another version"):
        RunState.read(tmp_path)
    write_state(tmp_path, surprise=1)
    with pytest.raises(ValueError, match=r"cbft_state.json is damaged or of another version"):
        RunState.read(tmp_path)


# Settings


def config(**options) -> CBFTConfig:
    defaults = {"output_dir": "out", "report_to": "none", "use_cpu": True}
    return CBFTConfig(**{**defaults, **options})


def test_settings_hold_all_of_cbft_and_survive_json():
    """A setting that is left out can be changed midway without a word."""
    settings = run_settings(config(max_grad_norm=float("inf"), lr_scheduler_kwargs={"num_cycles": 2}))
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings
    own = {f.name for f in dataclasses.fields(CBFTConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    assert own - settings.keys() == {"ref_device"}
    assert {"alpha_min", "barrier_coef", "pairing", "update_rule"} <= own
    assert settings["optim"] == config().optim.value
    assert settings["world_size"] == 1
    assert settings["max_grad_norm"] == "inf"
    assert settings["accelerator_config"]["use_seedable_sampler"] is True


@pytest.mark.parametrize(
    "options",
    [
        {"output_dir": "elsewhere"},
        {"logging_steps": 7, "save_steps": 9, "save_total_limit": 3},
        {"dataloader_num_workers": 2},
        {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 3},
        {"ref_device": "cpu"},
    ],
)
def test_what_does_not_move_the_weights_may_change(options):
    """Another folder or log is no reason to refuse."""
    check_same_settings(run_settings(config()), run_settings(config(**options)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 4),
        ("data_seed", 4),
        ("max_steps", 5),
        ("num_train_epochs", 4.0),
        ("per_device_train_batch_size", 3),
        ("gradient_accumulation_steps", 2),
        ("learning_rate", 1e-3),
        ("optim", "sgd"),
        ("lr_scheduler_type", "cosine"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}),
        ("warmup_steps", 3),
        ("weight_decay", 0.1),
        ("max_grad_norm", 2.0),
        ("adam_beta2", 0.9),
        ("bf16", True),
        ("label_smoothing_factor", 0.1),
        ("train_sampling_strategy", "sequential"),
        ("dataloader_drop_last", True),
        ("barrier_coef", 2.0),
        ("ref_loss", 0.0),
        ("update_rule", "alternating"),
        ("pairing", "random"),
    ],
)
def test_what_moves_the_weights_may_not_change(option, value):
    """A run of two halves that is reported under the settings of the second."""
    before, after = run_settings(config()), run_settings(config(**{option: value}))
    with pytest.raises(ValueError, match=rf"other settings than these \({option}: {before[option]!r} -> "):
        check_same_settings(json.loads(json.dumps(before)), after)


def test_all_differences_are_listed():
    """One at a time takes one start each."""
    saved = run_settings(config())
    message = (
        r"other settings than these \(alpha_min: 0.25 -> 0.5; pairing: 'class' -> 'random'; seed: 42 -> 1\), .* "
        "resume with the old ones, or start a new run in another output_dir"
    )
    with pytest.raises(ValueError, match=message):
        check_same_settings(saved, run_settings(config(seed=1, pairing="random", alpha_min=0.5)))


def test_settings_of_another_transformers_are_compared_as_far_as_they_go():
    """An argument that a new version adds or drops must not end every run."""
    saved = run_settings(config())
    check_same_settings({**saved, "warmup_ratio": 0.1}, {**saved, "new": 1})


def test_settings_that_this_transformers_lacks_are_left_out(monkeypatch):
    monkeypatch.setattr("hf_cbft.training.run_state._TRAINING_SETTINGS", "seed no_such_argument")
    settings = run_settings(config())
    assert "seed" in settings
    assert "no_such_argument" not in settings


# References


def test_other_reference_is_refused():
    check_same_reference("abc", "abc")
    check_same_reference(None, None)
    with pytest.raises(ValueError, match="trained against the reference abc, and this run has def: give the same ref"):
        check_same_reference("abc", "def")
    with pytest.raises(ValueError, match="trained against the reference abc, and this run has None"):
        check_same_reference("abc", None)


def store(folder, weights=WEIGHTS):
    return store_reference(folder, weights, fingerprint(weights))


def test_reference_is_stored_once_and_read_back(tmp_path):
    """A copy for each checkpoint costs as much as the checkpoint."""
    file = store(tmp_path)
    assert file.parent == tmp_path / "_reference"
    with safe_open(file, framework="pt") as stored:
        assert stored.metadata()["fingerprint"] == fingerprint(WEIGHTS)
    before = file.stat()
    assert store(tmp_path) == file
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert list(file.parent.iterdir()) == [file]
    loaded = load_reference(tmp_path, fingerprint(WEIGHTS))
    assert loaded.keys() == WEIGHTS.keys()
    for name, weight in WEIGHTS.items():
        assert loaded[name].dtype == weight.dtype
        assert torch.equal(loaded[name], weight)


def test_reference_of_views_is_stored(tmp_path):
    """Safetensors refuses tensors that share memory, such as the parts of one fused weight."""
    fused = torch.arange(12.0).reshape(3, 4)
    weights = {"query": fused[:1], "key": fused[1:2], "value": fused[2:].T}
    store(tmp_path, weights)
    loaded = load_reference(tmp_path, fingerprint(weights))
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_reference_that_is_not_there_is_none(tmp_path):
    assert load_reference(tmp_path, fingerprint(WEIGHTS)) is None
    store(tmp_path, {"w": torch.ones(2)})
    assert load_reference(tmp_path, fingerprint(WEIGHTS)) is None


def test_reference_of_another_run_stays(tmp_path):
    """A second run in the same folder must not take the reference from the checkpoints of the first."""
    store(tmp_path)
    store(tmp_path, {"w": torch.ones(2)})
    assert load_reference(tmp_path, fingerprint(WEIGHTS)) is not None


def test_save_that_was_killed_leaves_nothing_behind(tmp_path):
    """Half a copy of the model for each kill fills the disk."""
    (tmp_path / "_reference").mkdir()
    (tmp_path / "_reference" / f".{fingerprint(WEIGHTS)}-123.safetensors").write_bytes(b"half")
    file = store(tmp_path)
    assert list(file.parent.iterdir()) == [file]


def damage(file, kind):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes({"byte": content, "half": content[: len(content) // 2], "nothing": b""}[kind])


@pytest.mark.parametrize("kind", ["byte", "half", "nothing"])
def test_damaged_reference_is_refused(kind, tmp_path):
    """The barrier to other weights than those that training began with."""
    damage(store(tmp_path), kind)
    with pytest.raises(ValueError, match=r"\.safetensors is damaged: remove it, and give the reference"):
        load_reference(tmp_path, fingerprint(WEIGHTS))


@pytest.mark.parametrize("kind", ["half", "nothing"])
def test_reference_cut_short_is_written_again(kind, tmp_path):
    damage(store(tmp_path), kind)
    store(tmp_path)
    assert load_reference(tmp_path, fingerprint(WEIGHTS)) is not None


# Runs that are killed


class Runs:
    """Runs of `tests/training/resume_run.py`, forked off one process that has imported everything."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("resume_run.py")), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            start_new_session=True,
            # Arrow's allocator starts a thread, and a process with threads must not fork: the child can hang.
            env={**os.environ, "OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
        )
        self.read("ready")

    def read(self, *wanted: str) -> tuple[str, int]:
        """The next line that says one of the wanted things, and its number."""
        for line in self.server.stdout:
            word, _, number = line.strip().partition(" ")
            if word in wanted:
                return word, int(number or 0)
            if word == "exit":
                raise AssertionError(f"the run ended ({number}) before {wanted}: {self.log.read_text()[-3000:]}")
        raise AssertionError(f"the server ended: {self.log.read_text()[-3000:]}")

    def start(self, *arguments) -> tuple[int, int]:
        """Start a run; its process id, and the step that it begins at."""
        self.server.stdin.write(shlex.join(map(str, arguments)) + "\n")
        self.server.stdin.flush()
        process = self.read("pid")[1]
        return process, self.read("begin")[1]

    def kill(self, process: int) -> None:
        os.kill(process, signal.SIGKILL)
        assert self.read("exit")[1] == -signal.SIGKILL

    def finish(self) -> None:
        assert self.read("exit")[1] == 0, self.log.read_text()[-3000:]

    def close(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs") / "stderr.txt")
    yield runs
    runs.close()


SAVE_STEPS = 4


def moments(kills: int, seed: int, save_seconds: float):
    """When to kill each attempt: what to wait for, how often, and how long after it. The last one is at the end."""
    draw = random.Random(seed)
    for number in range(kills - 1):
        if number % 2 == 0:
            yield "saving", draw.randint(1, 2), draw.uniform(0.0, 1.5 * save_seconds)
        else:
            yield "step", draw.randint(1, 2 * SAVE_STEPS), draw.uniform(0.0, 0.03)
    yield "end", 1, 0.0


@pytest.mark.xdist_group("killed runs")
@pytest.mark.slow
@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.sample), 20], ids=lambda n: f"{n} kills")
@pytest.mark.parametrize("model", ["bert", "vit"])
def test_killed_runs_end_as_if_they_had_not_been(model, kills, runs, tmp_path):
    """Anything that a checkpoint lacks, or that is not put back, moves the weights."""
    # More than the attempts get done before they are killed; the last step is in the middle of an epoch, which has 3.
    steps = 5 * kills + 16
    options = ["--model", model, "--max-steps", steps, "--save-steps", SAVE_STEPS, "--resume", "--output-dir"]
    runs.start(*options, tmp_path / "whole")
    save_seconds = 60.0
    for _ in range(steps // SAVE_STEPS):  # the first one takes longer
        runs.read("saving")
        started = time.monotonic()
        runs.read("saved")
        save_seconds = min(save_seconds, time.monotonic() - started)
    runs.finish()

    begins, broken = [], 0
    for word, times, pause in moments(kills, 13, save_seconds):
        process, step = runs.start(*options, tmp_path / "killed")
        begins.append(step)
        for _ in range(times):
            runs.read(word)
        time.sleep(pause)
        runs.kill(process)
        broken += bool(newest_whole_checkpoint(tmp_path / "killed")[1])
    begins.append(runs.start(*options, tmp_path / "killed")[1])
    runs.finish()

    print(
        f"{model}: saving took {save_seconds:.3f} s; {broken} kills broke a save; the runs began at the steps {begins}"
    )
    assert begins == sorted(begins)
    assert begins[-1] == steps
    assert len(set(begins)) > kills / 4
    assert broken > kills / 10 - 1
    whole, killed = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    different = [name for name in whole if not torch.equal(whole[name], killed[name])]
    assert not different
