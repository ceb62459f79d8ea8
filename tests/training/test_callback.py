# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`ConnectivityCallback`: training does not notice it, and what it logs is what the evaluator measures."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.training import dataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_cbft import CBFTConfig, CBFTTrainer, ConnectivityEvaluator
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.training.callback import ConnectivityCallback
from hf_cbft.training.exact_resume import get_random_states

OPTIONS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 6,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 3,
}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}
LORA = {"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier"]}


@pytest.fixture
def make_rows(make_batch):
    def make(name: str = "bert", rows: int = 14, seed: int = 1) -> Dataset:
        return dataset(make_batch(name, rows, seed))

    return make


@pytest.fixture
def make_trainer(make_model, make_rows, tmp_path):
    """`make_trainer(name, **options)`: a `Trainer` of a tiny model with dropout; `CBFTTrainer` with `cbft=True`."""

    def make(name="bert", model=None, cbft=False, folder="out", callbacks=None, eval_dataset=None, **options):
        model = make_model(name) if model is None else model
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        args = (CBFTConfig if cbft else TrainingArguments)(str(tmp_path / folder), **{**OPTIONS, **options})
        data = {"train_dataset": make_rows(name, 32), "eval_dataset": eval_dataset or make_rows(name, 8, 4)}
        if cbft:
            data["cue_dataset"] = make_rows(name, 32, 2)
        return (CBFTTrainer if cbft else Trainer)(model=model, args=args, callbacks=callbacks, **data)

    return make


def barriers(trainer, name="cue") -> dict[int, float]:
    """What was logged, by step."""
    key = f"eval_barrier_{name}"
    found = [(entry["step"], entry[key]) for entry in trainer.state.log_history if key in entry]
    assert len(found) == len(dict(found))
    return dict(found)


class RandomRows(torch.utils.data.Dataset):
    """Rows that draw from every generator, and in the end are the same."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        return self.rows[index]


class Keeper(TrainerCallback):
    """Weights and the optimizer's state as they are after each step."""

    def __init__(self):
        self.weights, self.optimizer = {}, {}

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.weights[state.global_step] = copy_weights(model)
        states = optimizer.state_dict()["state"]
        self.optimizer[state.global_step] = {
            f"{index} {name}": torch.as_tensor(value).clone()
            for index, values in states.items()
            for name, value in values.items()
        }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_same_random_states(first, second):
    assert first["python"] == second["python"]
    assert torch.equal(first["torch"], second["torch"])
    assert np.array_equal(first["numpy"][1], second["numpy"][1])
    assert first["numpy"][2] == second["numpy"][2]


def without_times(log_history):
    return [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in log_history
        if "eval_barrier_cue" not in entry
    ]


# Model, and options of the trainer.
RUNS = {
    "dropout": ("bert", EVALUATED),
    "batchnorm": ("resnet", {}),
    "accumulation": ("bert", {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}),
    "cbft with batchnorm": ("resnet", {"cbft": True, **EVALUATED}),
    "lora": ("bert", EVALUATED),
    "bf16": ("bert", {"bf16": True}),
}


@pytest.mark.parametrize("case", RUNS)
def test_training_does_not_notice(case, make_trainer, make_model, make_rows):
    # Another draw of dropout, a moved running statistic, a cast weight: a run that is watched is another run.
    name, options = RUNS[case]
    kept, logs, states = [], [], []
    for watched in (False, True):
        torch.manual_seed(5)
        model = get_peft_model(make_model(name), LoraConfig(**LORA)) if case == "lora" else None
        keeper = Keeper()
        trainer = make_trainer(name, model, folder=f"{watched}", callbacks=[keeper], **options)
        if watched:
            reference = make_model(name) if case == "lora" else make_model(name, seed=7)
            calibration = make_rows(name, 12, 6) if name == "resnet" else None
            callback = ConnectivityCallback(
                trainer, reference, {"cue": RandomRows(make_rows(name))}, every=1, calibration_dataset=calibration
            )
            trainer.add_callback(callback)
        trainer.train()
        kept.append(keeper)
        logs.append(without_times(trainer.state.log_history))
        states.append(get_random_states())
    assert sorted(barriers(trainer)) == [1, 2, 3, 4]
    for step in range(1, 5):
        assert_equal(kept[0].weights[step], kept[1].weights[step])
        assert_equal(kept[0].optimizer[step], kept[1].optimizer[step])
    assert any(not torch.equal(weight, kept[0].weights[4][key]) for key, weight in kept[0].weights[1].items())
    assert_same_random_states(*states)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("cbft", [True, False])
def test_a_resumed_run_does_not_notice_either(cbft, make_trainer, make_model, make_rows):
    options = {"cbft": cbft, "save_strategy": "steps", "save_steps": 2, **EVALUATED}
    expected = make_trainer(**{**options, "save_strategy": "no"})
    expected.train()
    reference = make_model("bert", seed=7)
    logged = []
    for resumed in (False, True):
        trainer = make_trainer(folder="run", **options)
        trainer.add_callback(ConnectivityCallback(trainer, reference, {"cue": make_rows()}, every=1))
        trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2" if resumed else None)
        assert_equal(copy_weights(expected.model), copy_weights(trainer.model))
        logged.append(barriers(trainer))
    assert logged[0] == logged[1]


@pytest.mark.parametrize("lora", [False, True])
def test_a_measurement_leaves_gradients_and_modes_alone(lora, make_trainer, make_model, make_rows):
    model = get_peft_model(make_model("bert"), LoraConfig(**LORA)) if lora else None
    reference = make_model("bert", seed=None if lora else 7)
    trainer = make_trainer("bert", model)
    callback = ConnectivityCallback(trainer, reference, {"cue": make_rows()}, every=1)
    trainer.add_callback(callback)
    model = trainer.model.train()
    next(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)).eval()
    gradients = {n: torch.randn_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    models = (model, reference)
    before = [(copy_weights(m), [(x.training, x) for x in m.modules()]) for m in models]
    needed = [p.requires_grad for p in model.parameters()]
    metrics = {"eval_loss": 1.0}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    assert metrics.keys() == {"eval_loss", "eval_barrier_cue"}
    callback.on_step_begin(trainer.args, trainer.state, trainer.control)
    callback.on_step_end(trainer.args, trainer.state, trainer.control)
    first, second = (e["eval_barrier_cue"] for e in trainer.state.log_history if "eval_barrier_cue" in e)
    assert first == second
    for m, (weights, modes) in zip(models, before, strict=True):
        assert_equal(weights, copy_weights(m))
        assert all(module.training == training for training, module in modes)
    assert_equal(gradients, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert needed == [p.requires_grad for p in model.parameters()]
    assert trainer.model_wrapped is model  # accelerate would not wrap a model that it has seen


# What is measured

MEASURED = {
    "bert": ("bert", {}),
    "gpt2": ("gpt2", {}),
    "batchnorm": ("resnet", {"calibration": True}),
    "another baseline": ("vit", {"baseline": "max"}),
}


@pytest.mark.parametrize("case", MEASURED)
def test_the_barrier_is_that_of_the_evaluator(case, make_trainer, make_model, make_rows):
    # A line from the wrong end, other batches or a model in training mode.
    name, options = MEASURED[case]
    sets = {"cue": make_rows(name), "no_cue": make_rows(name, 9, 3)}
    calibration = make_rows(name, 12, 6) if options.get("calibration") else None
    baseline = options.get("baseline", "chord")
    reference, keeper = make_model(name, seed=7), Keeper()
    trainer = make_trainer(name, callbacks=[keeper], max_steps=2)
    trainer.add_callback(
        ConnectivityCallback(
            trainer, reference, sets, every=1, num_points=6, calibration_dataset=calibration, baseline=baseline
        )
    )
    trainer.train()
    for step, weights in keeper.weights.items():
        end = make_model(name)
        end.load_state_dict(weights, strict=False)
        evaluator = ConnectivityEvaluator(make_model(name, seed=7), end, batch_size=6, calibration_dataset=calibration)
        result = evaluator.evaluate(sets, num_points=6, num_resamples=1, baseline=baseline)
        assert {n: barriers(trainer, n)[step] for n in sets} == {n: b.height for n, b in result.barriers.items()}


@pytest.mark.parametrize("other", [False, True])
def test_the_barrier_of_an_adapter_is_that_of_the_evaluator(other, make_trainer, make_model, make_rows):
    def adapter(seed):
        torch.manual_seed(seed)
        return get_peft_model(make_model("bert"), LoraConfig(**LORA, init_lora_weights=False))

    rows = make_rows()
    trainer = make_trainer("bert", adapter(1), learning_rate=5e-2)
    reference = adapter(2) if other else make_model("bert")
    trainer.add_callback(ConnectivityCallback(trainer, reference, {"cue": rows}, every=2))
    trainer.train()
    same = adapter(2) if other else make_model("bert")
    expected = ConnectivityEvaluator(same, trainer.model, batch_size=6).evaluate({"cue": rows}, num_points=5)
    assert barriers(trainer)[4] == expected.barriers["cue"].height != barriers(trainer)[2]


def test_a_reference_on_disk_is_loaded_as_the_model_is(make_trainer, make_model, make_rows, tmp_path):
    reference = make_model("bert", seed=7)
    reference.half().save_pretrained(tmp_path / "reference")
    rows, logged = make_rows(), []
    for given in (reference.float(), str(tmp_path / "reference"), tmp_path / "reference"):
        trainer = make_trainer("bert")
        trainer.add_callback(ConnectivityCallback(trainer, given, rows))
        logged.append(trainer.evaluate()["eval_barrier_data"])
    assert logged[0] == logged[1] == logged[2]


def test_model_init_makes_another_model_to_measure(make_trainer, make_model, make_rows):
    # The model of the trainer's construction is not the one that is trained.
    logged = []
    for model in (make_model("bert"), None):
        trainer = make_trainer("bert", model, max_steps=2)
        if model is None:
            trainer.model_init = lambda: make_trainer("bert").model
        trainer.add_callback(ConnectivityCallback(trainer, make_model("bert", seed=7), {"cue": make_rows()}, every=1))
        trainer.train()
        logged.append(barriers(trainer))
    assert logged[0] == logged[1]
    assert logged[0][1] != logged[0][2]


def test_a_diverged_model_is_nan_and_training_goes_on(make_trainer, make_model, make_rows, caplog):
    class Diverging(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                with torch.no_grad():
                    model.classifier.weight.fill_(float("nan"))

    trainer = make_trainer("bert", callbacks=[Diverging()])
    trainer.add_callback(ConnectivityCallback(trainer, make_model("bert", seed=7), {"cue": make_rows()}, every=2))
    trainer.train()
    logged = barriers(trainer)
    assert np.isfinite(logged[2])
    assert np.isnan(logged[4])
    assert "eval_barrier_cue is NaN" in caplog.text


# When, and who sees it


class Logs(TrainerCallback):
    """What an integration of `report_to` gets, by step."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({**logs, "step": state.global_step})


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [
        (None, EVALUATED, [2, 4, 6, 7]),
        (3, EVALUATED, [2, 3, 4, 6, 7]),
        (3, {}, [3, 6]),
        (2, {"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1}, [2, 4, 6, 8]),
        (None, {**EVALUATED, "eval_on_start": True}, [0, 2, 4, 6, 7]),
    ],
)
def test_it_is_logged_once_at_its_steps(every, options, steps, make_trainer, make_model, make_rows):
    watcher = Logs()
    trainer = make_trainer("bert", callbacks=[watcher], **{"max_steps": 7, **options})
    trainer.add_callback(
        ConnectivityCallback(trainer, make_model("bert", seed=7), {"cue": make_rows()}, every, num_points=3)
    )
    trainer.train()
    assert sorted(barriers(trainer)) == steps
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == list(range(1, trainer.state.max_steps + 1))
    assert watcher.logs == trainer.state.log_history


@pytest.mark.parametrize("several", [False, True])
def test_it_chooses_the_best_model_and_stops_early(several, make_trainer, make_model, make_rows):
    # With several evaluation sets a barrier that is seen once for each would use up the patience at once.
    reference, rows = make_model("bert", seed=7), make_rows()
    keeper = Keeper()
    trainer = make_trainer(
        "bert",
        callbacks=[keeper, EarlyStoppingCallback(early_stopping_patience=2)],
        eval_dataset={"a": make_rows(rows=8, seed=4), "b": make_rows(rows=8, seed=5)} if several else None,
        max_steps=12,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="barrier_cue",
    )
    trainer.add_callback(ConnectivityCallback(trainer, reference, {"cue": rows}))
    trainer.train()
    logged = barriers(trainer)
    best = max(logged, key=logged.get)
    assert trainer.state.global_step == best + 2 < 12
    assert trainer.state.best_metric == logged[best]
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert_equal(copy_weights(trainer.model), keeper.weights[best])
    order = [type(each) for each in trainer.callback_handler.callbacks]
    assert order.index(ConnectivityCallback) + 1 == order.index(EarlyStoppingCallback)
    # The best model was loaded since, at the same step.
    assert trainer.evaluate()["eval_barrier_cue"] == logged[best]


def test_it_measures_outside_of_training_too(make_trainer, make_model, make_rows):
    trainer = make_trainer("bert")
    trainer.add_callback(ConnectivityCallback(trainer, make_model("bert", seed=7), {"cue": make_rows()}))
    first = trainer.evaluate()["eval_barrier_cue"]
    trainer.train()
    second = trainer.evaluate()
    logged = [entry["eval_barrier_cue"] for entry in trainer.state.log_history if "eval_barrier_cue" in entry]
    assert logged == [second["eval_barrier_cue"]]  # a training begins with a new log
    assert first != second["eval_barrier_cue"]
    assert "eval_barrier_cue" not in trainer.evaluate(metric_key_prefix="test")


def test_nothing_is_shown(make_trainer, make_model, make_rows, capfd, monkeypatch):
    trainer = make_trainer("bert")
    trainer.remove_callback(PrinterCallback)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    trainer.add_callback(ConnectivityCallback(trainer, make_model("bert", seed=7), {"cue": make_rows()}, every=1))
    trainer.train()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# What cannot work


def random_batch(batch):
    return {**batch, "input_ids": torch.randint(1, 50, torch.tensor(batch["input_ids"]).shape).tolist()}


WRONG = {
    "no data": ({"datasets": None}, "datasets is None: give at least one"),
    "no sets": ({"datasets": {}}, r"datasets is \{\}: give at least one"),
    "an empty set": ({"datasets": {"cue": []}}, "'cue'.*empty"),
    "no key": ({"datasets": {"rand cue": []}}, "'rand cue' cannot be part of a key"),
    "a number": ({"datasets": {3: []}}, "name 3 cannot be part of a key"),
    "every 0": ({"every": 0}, "every = 0: give a number of steps"),
    "every half": ({"every": 0.5}, "every = 0.5: give a number of steps"),
    "two points": ({"num_points": 2}, "num_points = 2: a barrier needs at least 3"),
    "a baseline": ({"baseline": "line"}, "baseline 'line' is unknown"),
    "no reference": ({"reference": None}, "The reference is a NoneType: give a model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_at_once(case, make_trainer, make_model, make_rows):
    options, message = WRONG[case]
    trainer = make_trainer("bert")
    with pytest.raises(ValueError, match=message):
        ConnectivityCallback(
            **{"trainer": trainer, "reference": make_model("bert"), "datasets": {"cue": make_rows()}, **options}
        )


def test_references_that_cannot_work_are_refused_at_once(make_trainer, make_model, make_rows):
    rows, trainer = make_rows(), make_trainer("bert")

    def adapter(**options):
        return get_peft_model(make_model("bert"), LoraConfig(**{**LORA, **options}))

    with pytest.raises(ValueError, match="shares weights with the model that is trained"):
        ConnectivityCallback(trainer, trainer.model, rows)
    with pytest.raises(ValueError, match="The end point cannot be interpolated with the model"):
        ConnectivityCallback(trainer, make_model("vit"), rows)
    with pytest.raises(ValueError, match="load both models in one dtype"):
        ConnectivityCallback(trainer, make_model("bert").double(), rows)
    with pytest.raises(ValueError, match="carries an adapter and the trained model does not"):
        ConnectivityCallback(trainer, adapter(), rows)
    tuned = make_trainer("bert", adapter())
    with pytest.raises(ValueError, match="shares weights with the model that is trained"):
        ConnectivityCallback(tuned, tuned.model.get_base_model(), rows)
    with pytest.raises(ValueError, match="is on another base"):
        ConnectivityCallback(tuned, make_model("bert", seed=7), rows)
    with pytest.raises(NotImplementedError, match="use_dora"):
        ConnectivityCallback(make_trainer("bert", adapter(use_dora=True)), make_model("bert"), rows)


def test_data_that_cannot_be_measured_are_refused_at_once(make_trainer, make_model, make_rows):
    trainer, reference, rows = make_trainer("bert"), make_model("bert", seed=7), make_rows()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="not the same each time it is read"):
        ConnectivityCallback(trainer, reference, {"cue": rows.with_transform(random_batch)})
    with pytest.raises(ValueError, match="classes"):
        ConnectivityCallback(trainer, reference, {"cue": rows.map(lambda row: {"labels": 9})})
    assert torch.equal(state, torch.get_rng_state())


def test_trainers_that_cannot_be_watched_are_refused(make_trainer, make_model, make_rows):
    reference, rows = make_model("bert", seed=7), make_rows()
    with pytest.raises(TypeError, match="trainer is a str: make the Trainer first"):
        ConnectivityCallback("trainer", reference, rows)
    first, second = make_trainer("bert"), make_trainer("bert")
    second.add_callback(ConnectivityCallback(first, reference, rows))
    with pytest.raises(ValueError, match="made for another trainer"):
        second.train()
    first.is_fsdp_enabled = True
    with pytest.raises(NotImplementedError, match="shards its model"):
        ConnectivityCallback(first, reference, rows)
    model = get_peft_model(make_model("bert"), LoraConfig(**LORA))
    tuned = make_trainer("bert", model)
    tuned.model_init = lambda: model
    with pytest.raises(NotImplementedError, match="model_init makes the model with its adapter anew"):
        ConnectivityCallback(tuned, make_model("bert"), rows)


def test_a_callback_that_never_measures_says_so(make_trainer, make_model, make_rows, caplog):
    trainer = make_trainer("bert", max_steps=1)
    trainer.add_callback(ConnectivityCallback(trainer, make_model("bert", seed=7), make_rows()))
    trainer.train()
    assert "eval_strategy is 'no'" in caplog.text


@pytest.mark.gpu
def test_the_reference_visits_the_gpu_and_comes_back(make_trainer, make_model, make_rows):
    kept, reference = [], make_model("vit", seed=7)
    for watched in (False, True):
        keeper = Keeper()
        torch.manual_seed(5)
        trainer = make_trainer("vit", callbacks=[keeper], use_cpu=False, bf16=True, **EVALUATED)
        if watched:
            trainer.add_callback(ConnectivityCallback(trainer, reference, {"cue": make_rows("vit")}))
        trainer.train()
        kept.append(keeper.weights[4])
    assert next(trainer.model.parameters()).is_cuda
    assert not any(parameter.is_cuda for parameter in reference.parameters())
    assert_equal(*kept)
    assert_equal(copy_weights(make_model("vit", seed=7)), copy_weights(reference))
    expected = ConnectivityEvaluator(reference, trainer.model.cpu().float(), batch_size=6)
    height = expected.evaluate(make_rows("vit"), num_points=5, num_resamples=1).barriers["data"].height
    assert barriers(trainer)[4] == pytest.approx(height, abs=1e-3)
