# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that stop and go on through the trainer: bit for bit the uninterrupted one, or refused with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.references.weights import weight_reference
from hf_cbft.training.run_state import MANIFEST_NAME, write_manifest

STEPS, EPOCH = 7, 3


def rows(name, num_rows, seed, make_batch):
    return Dataset.from_dict({column: values.tolist() for column, values in make_batch(name, num_rows, seed).items()})


@pytest.fixture
def make_trainer(make_model, make_batch, tmp_path):
    """`make_trainer(name, **options)`: a new trainer on the same data; `lora` trains an adapter on BERT."""

    def make(name="bert", ref_model=None, model=None, callbacks=None, **options):
        data = "bert" if name == "lora" else name
        if model is None:
            model = make_model(data)
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.2  # so that the state of the random generators counts
        torch.manual_seed(0)  # of a new adapter
        adapter = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], lora_dropout=0.2)
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": STEPS,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "barrier_stop_ratio": 0.7,
            "save_strategy": "steps",
            "save_steps": 1,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 3,
        }
        return CBFTTrainer(
            model,
            ref_model,
            CBFTConfig(**{**defaults, **options}),
            train_dataset=rows(data, 8 * EPOCH, 1, make_batch),
            cue_dataset=rows(data, 40, 2, make_batch),
            peft_config=adapter if name == "lora" else None,
            callbacks=callbacks,
        )

    return make


def folder(trainer, k):
    return f"{trainer.args.output_dir}/checkpoint-{k}"


@pytest.mark.parametrize("name", ["bert", "vit", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one(name, make_trainer):
    whole = make_trainer(name)
    whole.train()
    logs = [entry for entry in whole.state.log_history if "loss" in entry]
    for k in (2, EPOCH, 5, STEPS):  # inside, between and after epochs
        resumed = make_trainer(name)
        resumed.train(folder(whole, k))
        assert resumed.state.global_step == STEPS
        assert resumed.ref_loss == whole.ref_loss
        found = copy_weights(resumed.model)
        assert all(torch.equal(weight, found[n]) for n, weight in copy_weights(whole.model).items())
        again = [entry for entry in resumed.state.log_history if "loss" in entry]
        terms = [{n: v for n, v in entry.items() if "loss" in n or "/" in n} for entry in again]
        assert terms == [{n: v for n, v in entry.items() if "loss" in n or "/" in n} for entry in logs]


def test_the_newest_whole_checkpoint_is_taken_and_the_skipped_are_named(make_trainer, monkeypatch):
    whole = make_trainer()
    whole.train()
    with open(f"{folder(whole, 7)}/model.safetensors", "r+b") as file:
        file.truncate(1000)
    Path(folder(whole, 6), MANIFEST_NAME).unlink()
    warnings, starts = [], []

    class Start(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            starts.append(state.global_step)

    monkeypatch.setattr("hf_cbft.training.exact_resume.logger.warning", warnings.append)
    make_trainer(callbacks=[Start()]).train(resume_from_checkpoint=True)
    assert starts == [5]
    assert ["checkpoint-6" in warning for warning in warnings] == [False, True]
    assert "checkpoint-7 was skipped: it has a model.safetensors of 1000 bytes" in warnings[0]


def test_a_truncated_checkpoint_is_refused_by_name(make_trainer):
    whole = make_trainer(max_steps=2)
    whole.train()
    with open(f"{folder(whole, 1)}/optimizer.pt", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"checkpoint-1 has a optimizer.pt of 100 bytes"):
        make_trainer(max_steps=2).train(folder(whole, 1))


def test_without_any_whole_checkpoint_there_is_nothing_to_resume(make_trainer):
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole: start without resume_from_checkpoint"):
        make_trainer().train(resume_from_checkpoint=True)


def test_another_reference_is_refused_with_both_fingerprints(make_trainer, make_model):
    whole = make_trainer(ref_model=make_model("bert", seed=4))
    whole.train()
    with pytest.raises(ValueError, match=r"trained against the reference [0-9a-f]{32}, and this run has [0-9a-f]{32}"):
        make_trainer(ref_model=make_model("bert", seed=5)).train(folder(whole, 2))


@pytest.mark.parametrize("name", ["bert", "lora"])
def test_the_reference_of_a_model_made_in_memory_is_found_again(name, make_trainer, make_model):
    # A new head is drawn anew when the script is started again; the run goes on against the one that it started with.
    first = make_model("bert")
    torch.nn.init.normal_(first.classifier.weight)
    whole = make_trainer(name, model=first)
    whole.train()
    other = make_model("bert")
    torch.nn.init.normal_(other.classifier.weight)
    resumed = make_trainer(name, model=other)
    resumed.train(folder(whole, 2))
    found = copy_weights(resumed.model)
    moved = [n for n in found if "original_module" not in n]  # of the base, which the adapter's head covers
    expected = copy_weights(whole.model)
    if name == "lora":
        assert not torch.equal(found["base_model.model.classifier.original_module.weight"], first.classifier.weight)
    assert all(torch.equal(expected[n], found[n]) for n in moved)


def test_the_reference_is_stored_once_for_all_checkpoints(make_trainer, make_model, tmp_path):
    trainer = make_trainer()
    trainer.train()
    (stored,) = (tmp_path / "out" / "_reference").iterdir()
    assert stored.name == f"{trainer._fingerprint}.safetensors"
    weights = sum(file.stat().st_size for file in (tmp_path / "out" / "checkpoint-2").glob("*.safetensors"))
    assert weights == pytest.approx(stored.stat().st_size, rel=0.1)  # the model's own, and no second copy
    make_model("bert").save_pretrained(tmp_path / "ref")
    shutil.rmtree(tmp_path / "out")
    make_trainer(ref_model=str(tmp_path / "ref")).train()
    assert not (tmp_path / "out" / "_reference").exists()  # it lies where it came from
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "cbft_state.json").read_text())
    assert state["reference_source"] == str(tmp_path / "ref")


def test_a_checkpoint_of_other_settings_is_refused_with_the_fields(make_trainer):
    whole = make_trainer(max_steps=2)
    whole.train()
    with pytest.raises(ValueError, match=r"other settings than these \(barrier_coef: 1.0 -> 2.0; seed: 3 -> 4\)"):
        make_trainer(max_steps=2, barrier_coef=2.0, seed=4).train(folder(whole, 1))


def test_a_checkpoint_without_optimizer_is_refused(make_trainer):
    whole = make_trainer(max_steps=2, save_only_model=True)
    whole.train()
    with pytest.raises(ValueError, match="has no optimizer file"):
        make_trainer(max_steps=2).train(folder(whole, 1))


def test_older_checkpoints_go_after_the_new_one_is_whole(make_trainer, tmp_path, monkeypatch):
    # Killed in between, the run would have no whole checkpoint left.
    seen, out = [], tmp_path / "out"
    from hf_cbft.training import exact_resume as checkpointing

    def write_manifest(saved):
        seen.append(sorted(path.name for path in out.glob("checkpoint-*")))
        return original(saved)

    original = checkpointing.write_manifest
    monkeypatch.setattr(checkpointing, "write_manifest", write_manifest)
    trainer = make_trainer(max_steps=3, save_total_limit=1)
    trainer.train()
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-3"]
    saved = torch.load(out / "checkpoint-3" / "training_args.bin", weights_only=False)
    assert saved.save_total_limit == 1


def test_an_adapter_checkpoint_is_an_ordinary_adapter_folder(make_trainer, make_model):
    trainer = make_trainer("lora", max_steps=2)
    trainer.train()
    trainer.save_model()
    for place in (folder(trainer, 2), trainer.args.output_dir):
        loaded = PeftModel.from_pretrained(make_model("bert"), place)
        found = copy_weights(loaded)
        expected = copy_weights(trainer.model)
        assert found.keys() == expected.keys()
        assert all(torch.equal(weight, found[n]) for n, weight in expected.items())


def test_a_checkpoint_that_lacks_a_weight_is_refused(make_trainer):
    # The weight would be drawn anew.
    whole = make_trainer("vit", max_steps=2)
    whole.train()
    file = Path(folder(whole, 1), "model.safetensors")
    weights = load_file(file)
    del weights["classifier.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    write_manifest(file.parent)
    with pytest.raises(ValueError, match=r"does not hold the weights of this model: missing keys classifier\.weight"):
        make_trainer("vit", max_steps=2).train(folder(whole, 1))


def test_training_twice_keeps_the_reference_of_the_first_time(make_trainer):
    trainer = make_trainer("lora", max_steps=2)
    trainer.train()
    fingerprint, weights = trainer._fingerprint, trainer.reference.weights
    trainer.train()
    assert trainer._fingerprint == fingerprint
    assert all(torch.equal(weight, trainer.reference.weights[name]) for name, weight in weights.items())


def test_a_model_that_is_sharded_too_early_is_refused(make_trainer):
    # Rank 0 alone cannot put its reference together again.
    trainer = make_trainer()

    class Shard(torch.Tensor):
        def to_local(self):
            return self

    trainer.reference = weight_reference(trainer.model, None)
    trainer.reference.weights = {n: w.as_subclass(Shard) for n, w in trainer.reference.weights.items()}
    with pytest.raises(ValueError, match=r"sharded before training began, as evaluate\(\) does under FSDP"):
        trainer.train()
