# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`hf-cbft train`: images, texts and language models from folders to a folder, and what it refuses."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft.cli.main import main
from hf_cbft.cli.training_data import check_readable
from hf_cbft.data.completions import tokenize_completion
from hf_cbft.data.sentences import generate_completions, generate_sentences, word_tokenizer
from hf_cbft.data.sources import load_sources

ROOT = Path(__file__).parents[3]
CLASSES = ("ant", "bee", "cat", "dog")
SETTINGS = ["--use_cpu", "--learning_rate", "1e-2", "--per_device_train_batch_size", "8", "--logging_steps", "1"]
QUICK = [*SETTINGS, "--max_steps", "3", "--save_strategy", "no"]


def train(*options):
    assert main(["train", *map(str, options)]) == 0


def refusal(capsys, *options):
    """The sentence and the status of a command that does not do it."""
    capsys.readouterr()
    status = main(["train", *map(str, options)])
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.count("hf-cbft train: ") == 1
    return errors.partition("hf-cbft train: ")[2].strip(), status


def weights(folder):
    (file,) = Path(folder).glob("*model.safetensors")
    return load_file(file)


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def draw(folder, rows=4, classes=CLASSES):
    """Images of one colour a class, in class folders."""
    for index, kind in enumerate(classes):
        (folder / kind).mkdir(parents=True)
        for row in range(rows):
            PILImage.new("RGB", (8, 8), (60 * index, 10 * row, 50)).save(folder / kind / f"{row}.png")
    return folder


def save_vit(folder, make_model):
    model = make_model("vit")
    # The names in another order than that of the folders: ids that were taken as they are would be wrong.
    model.config.id2label = dict(enumerate(reversed(CLASSES)))
    model.config.label2id = {label: index for index, label in model.config.id2label.items()}
    # Dropout, so that the random state matters.
    model.config.hidden_dropout_prob = 0.1
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)


@pytest.fixture
def images(tmp_path, make_model, monkeypatch):
    """A tiny ViT and folders of images, in a folder of their own that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    save_vit(tmp_path / "model", make_model)
    draw(tmp_path / "clean")
    draw(tmp_path / "cue", 8)
    return tmp_path


def save_text_model(folder, make_model, name):
    tokenizer = word_tokenizer()
    model = make_model(name)
    model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


DATA = ["model", "--train_dataset", "clean", "--cue_dataset", "cue"]


def test_a_folder_of_images_trains_to_a_folder_that_transformers_loads(images, capsys):
    # The command people use. Its accuracies are those that the saved models have.
    sets = ["--eval_dataset", "no_cue=clean", "rand_cue=cue"]
    train(*DATA, *sets, "--output_dir", "out", *QUICK)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert "cue_dataset: 32 rows, image from 'image', label from 'label' (by name)" in lines
    assert any(line.startswith("step     0/3  loss/ref ") for line in lines)
    assert any(line.startswith("step     3/3  loss ") and "loss/clean" in line for line in lines)
    table = [line.split() for line in lines if line.startswith(("set ", "no_cue  ", "rand_cue  "))]
    assert table[0] == ["set", "rows", "accuracy", "before", "after", "loss", "before", "after"]
    results = json.loads(Path("out/results.json").read_text())
    assert results["schema_version"] == 1
    assert results["settings"]["barrier_coef"] == 1.0
    assert results["versions"]["transformers"]
    assert [entry["step"] for entry in results["log"] if "loss/clean" in entry] == [1, 2, 3]
    for when, folder in (("before", "model"), ("after", "out")):
        model = AutoModelForImageClassification.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
        rows = load_sources(["rand_cue=cue"], id2label=model.config.id2label)[0]["rand_cue"]
        with torch.no_grad():
            logits = model(**processor(list(rows["image"]), return_tensors="pt")).logits
        labels = torch.tensor(list(rows["label"]))
        accuracy = (logits.argmax(dim=-1) == labels).double().mean().item()
        assert results[when]["accuracy"]["rand_cue"] == pytest.approx(accuracy)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert results[when]["loss"]["rand_cue"] == pytest.approx(loss, abs=1e-5)
        assert f"{loss:.3f}" in table[2]


def test_measuring_before_training_does_not_change_it(images, capsys):
    # People add a test set and expect the same model. A folder that holds no more than the options is free.
    Path("without").mkdir()
    Path("without", "train.yaml").touch()
    train(*DATA, "--output_dir", "without", *QUICK)
    capsys.readouterr()
    train(*DATA, "--eval_dataset", "no_cue=clean", "--output_dir", "with", *QUICK, "--json")
    assert json.loads(capsys.readouterr().out) == json.loads(Path("with/results.json").read_text())
    assert_same_weights("without", "with")
    assert json.loads(Path("without/results.json").read_text())["before"] == {}


@pytest.mark.parametrize("adapter", [[], ["--use_lora", "--lora_r", "4", "--lora_dropout", "0.1"]])
def test_the_written_config_is_the_same_run_again(images, adapter):
    # What made a model has to be known: bit for bit, also the adapter's random start.
    train(*DATA, "--eval_dataset", "no_cue=clean", "--output_dir", "out", *QUICK, *adapter)
    train("--config", "out/train.yaml", "--output_dir", "again")
    assert_same_weights("out", "again")
    first, second = (json.loads(Path(folder, "results.json").read_text()) for folder in ("out", "again"))
    assert first["log"] == second["log"]
    assert first["after"] == second["after"]


def test_an_adapter_of_an_image_classifier_learns_its_last_layer_too(images):
    # A head that stays as it was cannot leave the cue behind. The folder is an adapter on the model.
    train(*DATA, "--output_dir", "out", *QUICK, "--use_lora")
    names = weights("out").keys()
    assert any("classifier" in name for name in names)
    assert any("lora_A" in name for name in names)
    loaded = AutoModelForImageClassification.from_pretrained("out")
    assert loaded.config.id2label == dict(enumerate(reversed(CLASSES)))
    assert AutoImageProcessor.from_pretrained("out").size["height"] == 8


def test_another_reference_moves_the_other_end_of_the_path(images, make_model):
    # --ref_model that was ignored would leave the loss of the reference as it is.
    make_model("vit", seed=3).save_pretrained("other")
    train(*DATA, "--output_dir", "own", *QUICK)
    for out, dtype in (("ref", []), ("loaded", ["--dtype", "float32"])):
        train(*DATA, "--output_dir", out, *QUICK, "--ref_model", "other", *dtype)
    logs = [json.loads(Path(out, "results.json").read_text())["log"] for out in ("own", "ref", "loaded")]
    own, ref, loaded = (log[0]["loss/ref"] for log in logs)
    assert ref == loaded
    assert abs(ref - own) > 1e-3


def test_a_resumed_run_is_the_uninterrupted_one(images, capsys):
    # true takes the newest checkpoint of the folder, a path that one.
    steps = [*SETTINGS, "--max_steps", "4", "--save_steps", "2", "--eval_dataset", "no_cue=clean"]
    train(*DATA, "--output_dir", "whole", *steps)
    for out, given in (("newest", "true"), ("named", "named/checkpoint-2")):
        Path(out).mkdir()
        shutil.copytree("whole/checkpoint-2", Path(out, "checkpoint-2"))
        shutil.copytree("whole/_reference", Path(out, "_reference"))
        capsys.readouterr()
        train(*DATA, "--output_dir", out, *steps, "--resume_from_checkpoint", given)
        assert "step     2/4" not in capsys.readouterr().out
        assert_same_weights("whole", out)


def test_an_interruption_says_how_to_go_on(images, monkeypatch, capsys):
    monkeypatch.setattr("hf_cbft.training.trainer.CBFTTrainer.train", _interrupt)
    said = "interrupted. No checkpoint was saved yet."
    assert refusal(capsys, *DATA, "--output_dir", "out", *QUICK) == (said, 130)


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_texts_and_their_labels_go_to_a_classifier(tmp_path, make_model, monkeypatch):
    # Files of rows, names matched; the last layer of the adapter is that of a sequence classifier.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    save_text_model(tmp_path / "model", make_model, "bert")
    rows = generate_sentences(32, seed=0)
    rows.save_to_disk("clean")
    rows.to_csv("cue.csv")
    files = ["model", "--train_dataset", "clean", "--cue_dataset", "cue.csv"]
    train(*files, "--eval_dataset", "no_cue=clean", "--output_dir", "out", *QUICK, "--use_lora")
    assert any("classifier" in name for name in weights("out"))
    assert json.loads(Path("out/adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert AutoModelForSequenceClassification.from_pretrained("out", num_labels=4)
    assert AutoTokenizer.from_pretrained("out")("rain today")["input_ids"]


@pytest.mark.parametrize("adapter", [[], ["--use_lora"]])
def test_a_language_model_is_measured_by_the_tokens_of_its_completions(tmp_path, make_model, monkeypatch, adapter):
    # Means of batches are not those of tokens: 20 rows of different lengths, 8 a batch.
    monkeypatch.chdir(tmp_path)
    save_text_model(tmp_path / "model", make_model, "gpt2")
    generate_completions(32, seed=1).save_to_disk("clean")
    rows = generate_completions(20, seed=2)
    rows.save_to_disk("test")
    data = ["model", "--train_dataset", "clean", "--cue_dataset", "clean", "--eval_dataset", "no_cue=test"]
    train(*data, "--output_dir", "out", *QUICK, *adapter)
    model, tokenizer = AutoModelForCausalLM.from_pretrained("out"), AutoTokenizer.from_pretrained("out")
    nats, right, count = 0.0, 0, 0
    for row in rows:
        tokens = tokenize_completion(tokenizer, row["prompt"], row["completion"])
        ids, labels = torch.tensor([tokens["input_ids"]]), torch.tensor(tokens["labels"])[1:]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right += (logits.argmax(dim=-1) == labels).sum().item()
        count += (labels != -100).sum().item()
    after = json.loads(Path("out/results.json").read_text())["after"]
    assert after["loss"]["no_cue"] == pytest.approx(nats / count, rel=1e-4)
    assert after["perplexity"]["no_cue"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert after["accuracy"]["no_cue"] == pytest.approx(right / count)


def damage(folder):
    file = folder / "clean" / "bee" / "2.png"
    file.write_bytes(file.read_bytes()[:40])


def keep_one_class(folder):
    for kind in CLASSES[1:]:
        shutil.rmtree(folder / "clean" / kind)


def add_class(folder):
    (folder / "clean" / "cat").rename(folder / "clean" / "elk")


def drop_processor(folder):
    (folder / "model" / "preprocessor_config.json").unlink()


def give_tokenizer(folder):
    drop_processor(folder)
    word_tokenizer().save_pretrained(folder / "model")


def fill(folder):
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").touch()


def save_splits(folder):
    rows = load_sources(["x=clean"], id2label=dict(enumerate(CLASSES)))[0]["x"]
    DatasetDict(train=rows, test=rows).save_to_disk(folder / "saved")


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (None, ["--train_dataset=x", "--cue_dataset", "x"], "a model is needed: hf-cbft train MODEL"),
        (None, ["model", "--cue_dataset", "cue"], "give a little clean data with --train_dataset"),
        (None, ["model", "--train_dataset", "cue"], "give data with the cue with --cue_dataset"),
        (None, [*DATA, "--output_dir", ""], "name a new folder for the model with --output_dir"),
        (None, [*DATA, "--lora_r", "4"], "--lora_r is about an adapter: add --use_lora"),
        (None, [*DATA, "--eval_strategy", "steps"], "--eval_strategy needs data to evaluate on: give --eval_dataset"),
        (fill, DATA, "out exists and is not empty: name another folder with --output_dir, or go on with"),
        (fill, [*DATA, "--resume_from_checkpoint", "true"], "out holds no whole checkpoint: start without"),
        (None, [*DATA, "--resume_from_checkpoint", "out/checkpoint-9"], "There is no checkpoint out/checkpoint-9"),
        (None, [*DATA, "--output_dir", "model/config.json"], "model/config.json is a file: name a folder"),
        (keep_one_class, DATA, "All 4 rows of train_dataset are of the class ant, and one class cannot be told"),
        (damage, DATA, r"clean/bee/2.png cannot be used. Row 6 of train_dataset cannot be read .* leave the row out"),
        (damage, [*DATA[:2], "cue", *DATA[3:], "--eval_dataset", "no_cue=clean"], "Row 6 of no_cue cannot be read"),
        (add_class, DATA, "no class of the model is elk. Give --label_map FILE.json"),
        (
            save_splits,
            [*DATA, "--eval_dataset", "no_cue=saved:validation"],
            "has no split 'validation': it has train",
        ),
        (save_splits, [*DATA, "--eval_dataset", "no_cue=saved"], "has the splits train, test: say which one"),
        (None, [*DATA, "--eval_dataset", "a=cue", "a=clean"], "Two data sets are called 'a'"),
        (None, [*DATA[:2], "nowhere", *DATA[3:]], "The data set 'nowhere' is no file or folder here"),
        (drop_processor, DATA, r"model has no image processor .*AutoImageProcessor.from_pretrained\(BASE\)"),
        (give_tokenizer, DATA, "model has a tokenizer and no image processor beside the model"),
        (None, [*DATA, "--dtype", "float99"], "dtype = 'float99' is none of torch's"),
        (
            None,
            ["no/model", *DATA[1:]],
            "The model no/model is no folder here, and the Hub",
        ),
        (
            None,
            [*DATA, "--use_lora", "--lora_target_modules", "nope"],
            "The model has no module 'nope' for an adapter: its layers",
        ),
        (None, [*DATA, "--barrier_stop_ratio", "2"], "barrier_stop_ratio = 2.0 is a share of the steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(images, capsys, prepare, options, message):
    # One sentence that says what to do, and no folder that stands in the way of the next try.
    if prepare:
        prepare(images)
    before = sorted(path for path in images.rglob("*") if "cache" not in path.parts)
    said, status = refusal(capsys, *options[:1], "--output_dir", "out", *QUICK, *options[1:])
    assert status == 2
    assert re.search(message, said)
    assert before == sorted(path for path in images.rglob("*") if "cache" not in path.parts)


def test_a_push_without_a_token_is_refused_before_training(images, monkeypatch, capsys):
    # Not after hours, when the model is there and cannot go anywhere.
    monkeypatch.setattr("hf_cbft.training.model_card.get_token", lambda: None)
    monkeypatch.setattr("hf_cbft.cli.commands.train.make_trainer", lambda *arguments: pytest.fail("work had begun"))
    said, status = refusal(capsys, *DATA, "--output_dir", "out", *QUICK, "--push_to_hub")
    assert "no token to push with: run hf auth login" in said
    assert status == 2
    assert not Path("out").exists()


def test_large_sets_are_looked_at_in_evenly_spaced_rows(images):
    # All rows of a large set would take hours; the last one is among those that are read.
    damage(images)
    rows = load_sources(["x=clean"], id2label=dict(enumerate(CLASSES)))[0]["x"]
    check_readable(rows, "train_dataset", most=2)
    with pytest.raises(ValueError, match=r"2\.png cannot be used\. Row 2 of train_dataset"):
        check_readable(rows.select([0, 1, 6]), "train_dataset", most=2)


def command_line(*options):
    """A process of its own, on one thread."""
    return {
        "args": [sys.executable, "-m", *map(str, options)],
        "text": True,
        "capture_output": True,
        "check": False,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }


@pytest.mark.slow
@pytest.mark.sample
def test_two_processes_train_one_model_and_one_of_them_prints(images):
    # Batches of 4 on each of two ranks are those of 8 on one; without dropout the steps are the same. A model that was
    # measured before training and then not put into DDP has moved twice as far by then.
    file = images / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_dropout_prob": 0.0}))
    plain = ["--use_cpu", "--optim", "sgd", "--learning_rate", "0.1", "--max_steps", "3", "--save_strategy", "no"]
    options = [*DATA, "--eval_dataset", "no_cue=clean", *plain]
    launch = ["accelerate.commands.launch", "--config_file", ROOT / "examples" / "accelerate_configs" / "cpu.yaml"]
    launched = subprocess.run(
        **command_line(
            *launch, "-m", "hf_cbft", "train", *options, "--output_dir", "two", "--per_device_train_batch_size", "4"
        )
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    for line in ("train_dataset: 16 rows", "step     0/3", "The model and results.json are in two/"):
        assert launched.stdout.count(line) == 1
    train(*options, "--output_dir", "one", "--per_device_train_batch_size", "8")
    results = [json.loads(Path(folder, "results.json").read_text()) for folder in ("one", "two")]
    assert results[0]["before"]["loss"] == pytest.approx(results[1]["before"]["loss"], abs=1e-6)
    first, second = weights("one"), weights("two")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-6
    assert "hf_cbft" not in launched.stderr  # no traceback of a rank
