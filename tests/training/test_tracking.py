# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What trackers get of a run: TensorBoard's event files, and any other integration through `on_log`."""

import pytest
from helpers.training import dataset
from tensorboard.backend.event_processing import event_accumulator
from transformers import TrainerCallback

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.training.callback import ConnectivityCallback

TERMS = ["loss/clean", "loss/barrier", "loss/path", "loss/invariance", "path/alpha"]


class Tracker(TrainerCallback):
    """An integration: what it is handed, with its step."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({**logs, "step": state.global_step})


@pytest.fixture
def run(make_model, make_batch, tmp_path):
    """A short run with TensorBoard and another integration: its trainer and what the other one got."""

    def rows(number, seed):
        return dataset(make_batch("vit", number, seed))

    tracker = Tracker()
    args = CBFTConfig(
        str(tmp_path / "out"),
        max_steps=6,
        barrier_stop_ratio=1.0,  # every term up to the end
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=3,
        logging_steps=2,
        save_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = CBFTTrainer(
        make_model("vit"),
        args=args,
        train_dataset=rows(16, 1),
        cue_dataset=rows(24, 2),
        eval_dataset=rows(8, 3),
        callbacks=[tracker],
    )
    sets = {"cue": rows(9, 4), "no_cue": rows(9, 5)}
    trainer.add_callback(ConnectivityCallback(trainer, make_model("vit", seed=7), sets, every=2, num_points=3))
    trainer.train()
    return trainer, tracker


def test_trackers_get_every_term_and_barrier_at_its_step(run, tmp_path):
    # A term that is logged where no tracker sees it, or at another step, is not watched.
    trainer, tracker = run
    expected: dict[str, dict[int, float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            shown = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            if name != "step":
                expected.setdefault(shown, {})[entry["step"]] = value
    for term in TERMS:
        assert list(expected[f"train/{term}"]) == [2, 4, 6]
    assert list(expected["train/loss/ref"]) == [0]
    for name in ("cue", "no_cue"):
        assert list(expected[f"eval/barrier_{name}"]) == [2, 3, 4, 6]

    (folder,) = {file.parent for file in (tmp_path / "out").rglob("events.out.tfevents.*")}
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    found = {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name  # the files hold float32

    assert tracker.logs == trainer.state.log_history
