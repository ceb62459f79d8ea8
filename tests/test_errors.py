# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong calls and wrong commands, each with the whole text that people read: what was given, why not, what to do."""

import copy
import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from helpers.report_pages import make_result
from peft import LoraConfig, get_peft_model
from PIL import Image as PILImage
from transformers import (
    ElectraConfig,
    ElectraForSequenceClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from hf_cbft import (
    BoxCue,
    CBFTConfig,
    CBFTTrainer,
    ConnectivityEvaluator,
    ConnectivityResult,
    DominoCue,
    LinearPath,
    PolylinePath,
    QuadraticPath,
    TokenCue,
    align,
    at_point,
    barrier_loss,
    compute_barrier,
    invariance_loss,
    make_counterfactuals,
)
from hf_cbft.alignment import Alignment, Family
from hf_cbft.analysis.mechanisms import mechanisms
from hf_cbft.baselines import retrain_last_layer
from hf_cbft.checkpoints import compare
from hf_cbft.cli.main import _COMMANDS, main
from hf_cbft.connectivity.matrix import MatrixEvaluator, connectivity_matrix
from hf_cbft.data.balancing import balance_groups
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.labels import match_labels
from hf_cbft.data.sources import load_sources
from hf_cbft.data.wilds import read_wilds_metadata
from hf_cbft.training.callback import ConnectivityCallback
from paper import run

WEIGHTS = {"weight": torch.zeros(2)}
CLASSES = ("a", "b", "c", "d")
LABELS = [0, 1, 2, 3] * 3
FILES = {
    "notes.txt": "hello\n",
    "headless.csv": "good,1\nbad,0\n",
    "rows.csv": "title,body,label\n" + "by the sea,waves and wind,LABEL_0\n" * 2,
    "text.csv": "text,label\nby the sea,LABEL_0\nin the wood,LABEL_1\n",
    "broken.json": '{"a": ',
    "list.json": "[1]",
    "list.yaml": "- start\n- end\n",
    "empty.yaml": "",
    "twice.yaml": "start: a\nend: b\nstart: c\n",
    "type.yaml": "start: a\nbatch_size: many\n",
    "key.yaml": "start: a\nnum_point: 5\n",
    "broken.yaml": "start: [a\n",
    "nested.yaml": "start: {a: b}\n",
    "train.yaml": "model: m\nbarrier_coef: high\n",
}


def other_vit(w, **changes):
    return ViTForImageClassification(ViTConfig(**{**w.vit.config.to_diff_dict(), **changes}))


def named(model, names=CLASSES):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def draw(folder, classes):
    for index, kind in enumerate(classes):
        (folder / kind).mkdir(parents=True)
        for row in range(3):
            PILImage.new("RGB", (8, 8), (60 * index, 20 * row, 9)).save(folder / kind / f"{row}.png")
    return folder


def save_checkpoints(w):
    """Folders of models: most fit together, and each of the others is wrong in a way of its own."""
    end = copy.deepcopy(w.vit)
    with torch.no_grad():
        for weight in end.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(1))
    models = {"start": w.vit, "end": end, "nan": w.broken, "three": other_vit(w, num_labels=3)}
    models |= {"renamed": named(copy.deepcopy(w.vit), CLASSES[::-1])}
    for name, model in models.items():
        model.save_pretrained(w.tmp / name)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(w.tmp / name)
    for name, model in {"bare": w.vit, "bert": w.bert, "gpt2": w.gpt2}.items():
        model.save_pretrained(w.tmp / name)
    foreign = w.adapted()
    foreign.peft_config["default"].base_model_name_or_path = "org/other"
    foreign.save_pretrained(w.tmp / "foreign")
    shutil.copytree(w.tmp / "start", w.tmp / "cut")
    weights = w.tmp / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (w.tmp / "pickled").mkdir()
    shutil.copy(w.tmp / "start" / "config.json", w.tmp / "pickled")
    torch.save(w.vit.state_dict(), w.tmp / "pickled" / "pytorch_model.bin")


def save_data(w):
    for name, text in FILES.items():
        (w.tmp / name).write_text(text)
    for name, classes in {"images": "abcd", "unreadable": "abcd", "others": ("a", "b", "cat", "dog")}.items():
        draw(w.tmp / name, classes)
    (w.tmp / "unreadable" / "b" / "1.png").write_bytes(b"no image")
    draw(w.tmp / "one_class", "a")
    loose = draw(w.tmp / "loose", "ab")
    shutil.copy(loose / "a" / "0.png", loose / "stray.png")
    datasets.DatasetDict({"train": w.images, "test": w.images}).save_to_disk(w.tmp / "splits")


def save_results(w):
    w.result, w.one_set = make_result(("no_cue", "cue"), 3, 12), make_result(("cue",), 3, 12)
    for name in ("later", "damaged"):
        w.result.save(w.tmp / name)
    file = w.tmp / "later" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 9}))
    (w.tmp / "damaged" / "result.json").write_text("{")
    w.matrix = MatrixEvaluator([w.tmp / "start", w.tmp / "end"])
    w.matrix_result = w.matrix.evaluate(w.rows, num_points=3, num_resamples=10)


@pytest.fixture(scope="module")
def world(_originals, tmp_path_factory):
    """Models, rows and files, made once."""
    torch.manual_seed(0)
    w = SimpleNamespace(tmp=tmp_path_factory.mktemp("world"))
    w.bert, w.gpt2, w.vit = (copy.deepcopy(_originals[name]) for name in ("bert", "gpt2", "vit"))
    named(w.vit)
    w.wide = other_vit(w, hidden_size=32)
    w.regression = other_vit(w, num_labels=1, problem_type="regression")
    w.broken = copy.deepcopy(w.vit)
    with torch.no_grad():
        w.broken.classifier.weight[0, 0] = float("nan")
    w.adapted = lambda: get_peft_model(copy.deepcopy(w.vit), LoraConfig(target_modules=["q_proj", "v_proj"]))
    pixels = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    w.rows = datasets.Dataset.from_dict({"pixel_values": pixels, "labels": LABELS})
    kind = datasets.ClassLabel(names=list(CLASSES))
    w.images = datasets.Dataset.from_dict(
        {"image": [PILImage.new("RGB", (8, 8), (20 * row, 9, 9)) for row in range(12)], "label": LABELS},
        features=datasets.Features({"image": datasets.Image(), "label": kind}),
    )
    w.texts = datasets.Dataset.from_dict({"text": ["ok"] * 12, "label": LABELS})
    disable_progress_bar()  # bars are no sentences
    save_checkpoints(w)
    save_data(w)
    save_results(w)
    yield w
    enable_progress_bar()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder, no token and a cache of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "here"


def config(**options):
    return CBFTConfig("out", use_cpu=True, report_to=[], save_strategy="no", max_steps=1, **options)


def trainer(w, **options):
    given = {"model": w.vit, "args": config(), "train_dataset": w.rows, "cue_dataset": w.rows}
    return CBFTTrainer(**{**given, **options})


def plain(w):
    return Trainer(copy.deepcopy(w.vit), TrainingArguments("out", use_cpu=True, report_to=[]), train_dataset=w.rows)


def against_itself(w):
    own = plain(w)
    return ConnectivityCallback(own, own.model, w.rows)


def merged(w):
    model = w.adapted()
    model.merge_adapter()
    return model


def relabelled(w, labels):
    return w.rows.remove_columns("labels").add_column("labels", labels)


def evaluator(w, start=None, end=None, **options):
    return ConnectivityEvaluator(start or w.vit, end or w.vit, **options)


def measure(w, sets=None, metrics=("accuracy",), **options):
    return evaluator(w, metrics=metrics).evaluate(w.rows if sets is None else sets, num_resamples=10, **options)


def lora(w, **options):
    return trainer(w, peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], **options))


def dominoes(w, rows):
    """Dominoes of two classes on the rows of four."""
    cue = DominoCue(w.images.select([0, 1, 4, 5]))
    return make_counterfactuals(cue.prepare(rows), cue)


def electra():
    sizes = {"embedding_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return ElectraForSequenceClassification(ElectraConfig(vocab_size=8, num_attention_heads=2, **sizes))


def quantised(w):
    model = copy.deepcopy(w.vit)
    model.is_quantized = True
    return model


def pruned(w):
    """Its tensors are those of two heads."""
    model = copy.deepcopy(w.vit)
    model.config.num_attention_heads = 3
    return model


def constant(w):
    model = copy.deepcopy(w.vit)
    torch.nn.init.zeros_(model.classifier.weight)
    return model


# What it is, the call and its exception.
CALLS = [
    ("coefficient below 0", lambda w: config(barrier_coef=-1.0), ValueError),
    ("ratio above 1", lambda w: config(barrier_stop_ratio=50), ValueError),
    ("stretch of the path upside down", lambda w: config(alpha_min=0.8, alpha_max=0.2), ValueError),
    ("compiled model", lambda w: config(torch_compile=True), ValueError),
    ("sampling by length", lambda w: config(train_sampling_strategy="group_by_length"), ValueError),
    (
        "alternating with accumulation",
        lambda w: config(update_rule="alternating", gradient_accumulation_steps=4),
        ValueError,
    ),
    ("no model", lambda w: trainer(w, model=None), ValueError),
    ("no data with the cue", lambda w: trainer(w, cue_dataset=None), ValueError),
    ("dict of data sets", lambda w: trainer(w, cue_dataset={"train": w.rows, "test": w.rows}), ValueError),
    ("stream", lambda w: trainer(w, train_dataset=w.rows.to_iterable_dataset()), ValueError),
    ("no labels", lambda w: trainer(w, cue_dataset=w.rows.remove_columns("labels")), ValueError),
    ("label beyond the classes", lambda w: trainer(w, cue_dataset=relabelled(w, [4] * 12)), ValueError),
    ("labels that are numbers", lambda w: trainer(w, cue_dataset=relabelled(w, [0.5] * 12)), ValueError),
    (
        "no class in common",
        lambda w: trainer(w, train_dataset=relabelled(w, [0, 1] * 6), cue_dataset=relabelled(w, [2, 3] * 6)),
        ValueError,
    ),
    ("reference of another size", lambda w: trainer(w, ref_model=w.wide), ValueError),
    ("reference of another dtype", lambda w: trainer(w, ref_model=copy.deepcopy(w.vit).half()), ValueError),
    ("regression", lambda w: trainer(w, model=w.regression), ValueError),
    ("misspelt layer", lambda w: trainer(w, args=config(representation_layer="classifer")), ValueError),
    ("model that is nowhere", lambda w: trainer(w, model=w.tmp / "nowhere"), ValueError),
    ("model that the Hub does not give", lambda w: trainer(w, model="nobody/nothing"), OSError),
    ("folder without a model", lambda w: trainer(w, model=w.tmp), ValueError),
    (
        "images without a processor",
        lambda w: trainer(w, train_dataset=w.images, cue_dataset=w.images).train(),
        ValueError,
    ),
    ("loss that is NaN", lambda w: trainer(w, model=w.broken, args=config(ref_loss=0.0)).train(), FloatingPointError),
    ("hyperparameter search", lambda w: trainer(w).hyperparameter_search(), NotImplementedError),
    ("nothing to resume", lambda w: trainer(w).train(resume_from_checkpoint=True), ValueError),
    ("push without a token", lambda w: trainer(w).push_to_hub(), OSError),
    ("push of an untrained model", lambda w: trainer(w).push_to_hub(token="hf_x"), ValueError),
    ("card of a folder without a path", lambda w: trainer(w).create_model_card(connectivity=w.tmp), FileNotFoundError),
    (
        "language model with classes",
        lambda w: trainer(w, model=w.gpt2, train_dataset=w.texts, cue_dataset=w.texts),
        ValueError,
    ),
    ("DoRA", lambda w: lora(w, use_dora=True), NotImplementedError),
    ("PiSSA", lambda w: lora(w, init_lora_weights="pissa"), NotImplementedError),
    (
        "two adapters",
        lambda w: trainer(w, model=w.adapted(), peft_config=LoraConfig(target_modules=["q_proj"])),
        ValueError,
    ),
    ("merged adapter", lambda w: trainer(w, model=merged(w)), NotImplementedError),
    (
        "adapter on another base",
        lambda w: evaluator(w, f"{w.tmp}/start+{w.tmp}/foreign", f"{w.tmp}/start"),
        ValueError,
    ),
    ("metrics that are a string", lambda w: evaluator(w, metrics="accuracy"), TypeError),
    ("groups without a column", lambda w: measure(w, metrics=["worst_group_accuracy"]), ValueError),
    ("metric that returns a text", lambda w: measure(w, metrics=[lambda predictions, references: "good"]), ValueError),
    ("end with another head", lambda w: evaluator(w, w.tmp / "start", w.tmp / "three"), ValueError),
    ("classes in another order", lambda w: evaluator(w, w.tmp / "start", w.tmp / "renamed"), ValueError),
    ("head of neither", lambda w: evaluator(w, w.tmp / "start", w.tmp / "end", head_from="both"), ValueError),
    ("NaN in an end", lambda w: evaluator(w, end=w.broken), ValueError),
    ("points that stop early", lambda w: measure(w, alphas=[0.0, 0.5]), ValueError),
    ("two live anchors", lambda w: QuadraticPath(None, None, WEIGHTS), ValueError),
    ("polyline of one", lambda w: PolylinePath([WEIGHTS]), ValueError),
    (
        "point beyond the path",
        lambda w: at_point(w.vit, LinearPath(start=w.vit.state_dict()), 1.5).__enter__(),
        ValueError,
    ),
    ("barrier loss of a vector", lambda w: barrier_loss(torch.zeros(3)), ValueError),
    (
        "representations of two sizes",
        lambda w: invariance_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 4), torch.tensor([0, 1]), 2),
        ValueError,
    ),
    ("losses for other points", lambda w: compute_barrier([0, 0.5, 1], [0, 1]), ValueError),
    ("loss that is not finite", lambda w: compute_barrier([0, 0.5, 1], [0, float("nan"), 0]), ValueError),
    ("unknown baseline", lambda w: compute_barrier([0, 0.5, 1], [0, 1, 0], baseline="median"), ValueError),
    ("no token counts", lambda w: compute_barrier([0, 0.5, 1], np.zeros((3, 4)), weights=[0, 0, 0, 0]), ValueError),
    ("too many boxes", lambda w: BoxCue(12), ValueError),
    ("label without a box", lambda w: make_counterfactuals(w.images, BoxCue(2)), ValueError),
    ("box larger than the cell", lambda w: make_counterfactuals(w.images, BoxCue(4, size=20)), ValueError),
    ("cue on texts", lambda w: make_counterfactuals(w.texts, BoxCue(4, image_column="text")), TypeError),
    (
        "text shorter than the places",
        lambda w: make_counterfactuals(w.texts, TokenCue(["x"], num_classes=4)),
        ValueError,
    ),
    ("dominoes of other classes", lambda w: dominoes(w, w.images), ValueError),
    ("rows without a blank half", lambda w: make_counterfactuals(w.images, DominoCue(w.images)), ValueError),
    ("share in percent", lambda w: add_cue(w.images, BoxCue(4), share=90), ValueError),
    ("cue on a list", lambda w: make_counterfactuals(w.images.to_list(), BoxCue(4)), TypeError),
    ("matrix of one", lambda w: connectivity_matrix([w.tmp / "start"], w.rows), ValueError),
    ("matrix of live models", lambda w: connectivity_matrix([w.vit, w.vit], w.rows), TypeError),
    ("soup of a stranger", lambda w: w.matrix.soup(w.matrix_result, ["start", "middle"], "soup"), ValueError),
    ("mechanisms of one set", lambda w: mechanisms(w.one_set), ValueError),
    ("best point of no set", lambda w: w.result.best_alpha("train"), ValueError),
    ("folder without a result", lambda w: ConnectivityResult.load(w.tmp / "start"), FileNotFoundError),
    ("result of a later version", lambda w: ConnectivityResult.load(w.tmp / "later"), ValueError),
    ("damaged result", lambda w: ConnectivityResult.load(w.tmp / "damaged"), ValueError),
    ("report in no folder", lambda w: w.result.report("nowhere/page.html"), FileNotFoundError),
    ("report of other rows", lambda w: w.result.report("page.html", datasets={"cue": w.images}), ValueError),
    ("callback of a class", lambda w: ConnectivityCallback(Trainer, w.vit, w.rows), TypeError),
    ("callback every 0 steps", lambda w: ConnectivityCallback(plain(w), w.vit, w.rows, every=0), ValueError),
    ("callback against itself", against_itself, ValueError),
    ("callback's name with a space", lambda w: ConnectivityCallback(plain(w), w.vit, {"the cue": w.rows}), ValueError),
    ("comparing live models", lambda w: compare(w.vit, w.vit), TypeError),
    ("last layer without a penalty", lambda w: retrain_last_layer(w.vit, w.rows, l2=0.0), ValueError),
    ("last layer without a class", lambda w: retrain_last_layer(w.vit, relabelled(w, [0, 1, 2] * 4)), ValueError),
    ("one group", lambda w: balance_groups(w.rows, [0] * 12), ValueError),
    ("groups from nowhere", lambda w: read_wilds_metadata(w.tmp / "nowhere"), FileNotFoundError),
    ("table without a header", lambda w: load_sources([f"cue={w.tmp}/headless.csv"]), ValueError),
    ("broken JSON", lambda w: load_sources([f"cue={w.tmp}/broken.json"]), ValueError),
    (
        "label map to nowhere",
        lambda w: match_labels(w.images, {0: "x", 1: "b", 2: "c", 3: "d"}, label_map={"a": "z"}),
        ValueError,
    ),
    ("alignment by an unknown method", lambda w: align(w.vit, w.vit, "weight"), ValueError),
    ("alignment by activations without data", lambda w: align(w.vit, w.vit, "activations"), ValueError),
    (
        "alignment by activations on no rows",
        lambda w: align(w.vit, w.vit, "activations", w.rows.select([])),
        ValueError,
    ),
    (
        "permutations that are to be found",
        lambda w: align(w.vit, w.vit, permutations={"residual": range(16)}),
        ValueError,
    ),
    ("no descent", lambda w: align(w.vit, w.vit, num_starts=0), ValueError),
    ("alignment of other architectures", lambda w: align(w.vit, w.bert), ValueError),
    ("alignment of other widths", lambda w: align(w.vit, w.wide), ValueError),
    ("alignment of other numbers of heads", lambda w: align(w.vit, other_vit(w, num_attention_heads=4)), ValueError),
    ("alignment of an unknown architecture", lambda w: align(electra(), electra()), ValueError),
    ("alignment of pruned heads", lambda w: align(*[pruned(w)] * 2), ValueError),
    ("alignment of NaN", lambda w: align(w.vit, w.broken), ValueError),
    ("alignment of an adapter", lambda w: align(w.vit, w.adapted()), NotImplementedError),
    (
        "alignment of an adapter by name",
        lambda w: align(w.tmp / "start", f"{w.tmp}/start+{w.tmp}/foreign"),
        NotImplementedError,
    ),
    ("alignment of a quantised model", lambda w: align(w.vit, quantised(w)), NotImplementedError),
    ("alignment without a head", lambda w: align(w.vit.vit, w.vit.vit), ValueError),
    ("alignment of a constant", lambda w: align(*[constant(w)] * 2), ValueError),
    (
        "alignment with a tensor forgotten",
        lambda w: align(w.vit, w.vit, specification=Family("Mine", (), {"classifier": "residual ->"})),
        ValueError,
    ),
    (
        "alignment with a space that is none",
        lambda w: align(w.vit, w.vit, "given", permutations={"channels": range(16)}),
        ValueError,
    ),
    (
        "alignment with too many units",
        lambda w: align(w.vit, w.vit, "given", permutations={"heads.0": range(3)}),
        ValueError,
    ),
    (
        "alignment with a unit twice",
        lambda w: align(w.vit, w.vit, "given", permutations={"residual": [0] * 16}),
        ValueError,
    ),
    ("alignment from nowhere", lambda w: Alignment.load(w.tmp / "nowhere"), ValueError),
    ("alignment that is a checkpoint", lambda w: Alignment.load(w.tmp / "start" / "model.safetensors"), ValueError),
    ("alignment that is cut off", lambda w: Alignment.load(w.tmp / "cut" / "model.safetensors"), ValueError),
    ("alignment for another width", lambda w: align(w.vit, w.vit).apply(w.wide), ValueError),
]

# What stands for what in the commands, beside {tmp}.
WORDS = {
    "ENDS": "{tmp}/start {tmp}/end",
    "DATA": "--train_dataset {tmp}/images --cue_dataset {tmp}/images",
    "OUT": "--output_dir out",
}
# The words of a command, and below them the text that follows "hf-cbft COMMAND: error: "; its lines are one.
COMMANDS = [
    "align {tmp}/start",
    "align ENDS",
    "align ENDS --output_dir {tmp}/start",
    "align ENDS OUT --method guess",
    "align ENDS OUT --method activations",
    "align ENDS OUT --num_starts 0",
    "align ENDS OUT --seed -1",
    "align ENDS OUT --method activations --dataset x=nowhere.csv",
    "align {tmp}/start {tmp}/foreign OUT",
    "check {tmp}/start",
    "check {tmp}/start {tmp}/nowhere",
    "check {tmp}/start nobody/nothing",
    "check {tmp}/start {tmp}/pickled",
    "check {tmp}/start {tmp}/images",
    "check {tmp}/start {tmp}/start+{tmp}/end",
    "check ENDS --head_from both",
    "check ENDS --head_from end --ignore_head",
    "check ENDS {tmp}/cut",
    "check ENDS --depe",
    "curve ENDS",
    "curve ENDS --train_dataset {tmp}/images OUT --num_steps 0",
    "curve ENDS --train_dataset {tmp}/images OUT --seed -1",
    "curve ENDS --train_dataset {tmp}/images --output_dir {tmp}/start",
    "curve {tmp}/start {tmp}/foreign --train_dataset {tmp}/images OUT --use_cpu",
    "demo --model cnn",
    "demo --seeds 0 0",
    "demo --seeds one",
    "demo --resume",
    "demo --resume --overwrite",
    "demo --output_dir {tmp}/notes.txt",
    "demo --output_dir {tmp}/start --overwrite",
    "evaluate ENDS OUT",
    "evaluate ENDS --dataset {tmp}/images",
    "evaluate {tmp}/start --dataset {tmp}/images OUT",
    "evaluate ENDS --dataset {tmp}/images OUT --align activations",
    "evaluate ENDS --dataset {tmp}/images OUT --align nowhere",
    "evaluate ENDS --dataset {tmp}/images OUT --align {tmp}/start",
    "evaluate ENDS --dataset nowhere.csv OUT",
    "evaluate ENDS --dataset {tmp}/splits:validation OUT",
    "evaluate ENDS --dataset {tmp}/images:test OUT",
    "evaluate ENDS --dataset nobody/nothing OUT",
    "evaluate ENDS --dataset a={tmp}/images a={tmp}/images OUT",
    "evaluate ENDS --dataset a= OUT",
    "evaluate ENDS --dataset {tmp}/images --label_column klass OUT",
    "evaluate ENDS --dataset {tmp}/images --group_column place OUT",
    "evaluate ENDS --dataset {tmp}/images --path curved OUT",
    "evaluate ENDS --dataset {tmp}/images --path curved --through {tmp}/end OUT",
    "evaluate ENDS --dataset {tmp}/images --metrics recall OUT",
    "evaluate ENDS --dataset {tmp}/images --baseline median OUT",
    "evaluate ENDS --dataset {tmp}/images --num_points 2 OUT",
    "evaluate ENDS --dataset {tmp}/images --dtype float99 OUT",
    "evaluate ENDS --dataset {tmp}/images --report absent/page.html OUT",
    "evaluate ENDS --dataset {tmp}/images --report page.pdf OUT",
    "evaluate ENDS --dataset {tmp}/images --report {tmp} OUT",
    "evaluate ENDS --dataset {tmp}/images --resume OUT",
    "evaluate ENDS --dataset {tmp}/images --output_dir {tmp}/start",
    "evaluate {tmp}/start {tmp}/nowhere --dataset {tmp}/images OUT",
    "evaluate {tmp}/start nobody/nothing --dataset {tmp}/images OUT",
    "evaluate {tmp}/start {tmp}/three --dataset {tmp}/images OUT",
    "evaluate {tmp}/start {tmp}/nan --dataset {tmp}/images OUT",
    "evaluate ENDS --dataset {tmp}/unreadable OUT",
    "evaluate {tmp}/bert {tmp}/bert --dataset {tmp}/rows.csv OUT",
    "evaluate ENDS --dataset {tmp}/others OUT",
    "evaluate ENDS --dataset {tmp}/images --label_map {tmp}/list.json OUT",
    "evaluate ENDS --dataset {tmp}/images OUT --batch_size many",
    "evaluate ENDS --dataset {tmp}/images OUT --batch_size 0",
    "evaluate ENDS --dataset {tmp}/images OUT --batch_size",
    "evaluate --config nowhere.yaml",
    "evaluate --config {tmp}/list.yaml",
    "evaluate --config {tmp}/empty.yaml",
    "evaluate --config {tmp}/twice.yaml",
    "evaluate --config {tmp}/type.yaml",
    "evaluate --config {tmp}/key.yaml",
    "evaluate --config {tmp}/broken.yaml",
    "evaluate --config {tmp}/nested.yaml",
    "evaluate {tmp}/bare {tmp}/end --dataset {tmp}/images OUT",
    "matrix {tmp}/bare {tmp}/end --dataset {tmp}/images OUT",
    "matrix {tmp}/start --dataset {tmp}/images OUT",
    "matrix {tmp}/start {tmp}/start --dataset {tmp}/images OUT",
    "matrix ENDS --dataset cue={tmp}/images --on clean OUT",
    "matrix {tmp}/start {tmp}/foreign --dataset cue={tmp}/images OUT",
    "matrix ENDS --dataset cue={tmp}/images --confidence 95 OUT",
    "reproduce --experiment table2",
    "reproduce --shares 60",
    "reproduce --methods sgd",
    "reproduce --jobs 0",
    "reproduce --page findings.html",
    "reproduce --experiment text --dataset cifar10",
    "reproduce --dataset {tmp}/nowhere",
    "reproduce --model cnn",
    "train DATA OUT",
    "train {tmp}/start --train_dataset {tmp}/images OUT",
    "train {tmp}/start DATA",
    "train {tmp}/nowhere DATA OUT",
    "train nobody/nothing DATA OUT",
    "train {tmp}/start DATA --output_dir {tmp}/end",
    "train {tmp}/start DATA OUT --resume_from_checkpoint true",
    "train {tmp}/start DATA OUT --eval_strategy epoch",
    "train {tmp}/start DATA OUT --lora_r 8",
    "train {tmp}/start DATA OUT --use_lora --lora_target_modules q_prj",
    "train {tmp}/start --train_dataset {tmp}/one_class --cue_dataset {tmp}/images OUT",
    "train {tmp}/start --train_dataset {tmp}/unreadable --cue_dataset {tmp}/images OUT",
    "train {tmp}/start --train_dataset {tmp}/loose --cue_dataset {tmp}/images OUT",
    "train {tmp}/start --train_dataset {tmp}/images --cue_dataset {tmp}/splits:validation OUT",
    "train {tmp}/bare DATA OUT",
    "train {tmp}/bert --train_dataset {tmp}/text.csv --cue_dataset {tmp}/text.csv OUT",
    "train {tmp}/start DATA OUT --push_to_hub",
    "train {tmp}/start DATA OUT --barrier_coef -1",
    "train {tmp}/start DATA OUT --pairing label",
    "train {tmp}/start DATA OUT --optim lomo",
    "train {tmp}/start DATA OUT --ref_model {tmp}/bert --use_cpu",
    "train {tmp}/start --train_dataset {tmp}/images --cue_dataset {tmp}/others OUT",
    "train --config {tmp}/train.yaml",
    "train {tmp}/cut DATA OUT",
    "train {tmp}/start DATA OUT --representation_layer classifer --use_cpu",
]


SENTENCES = Path(__file__).with_name("errors.txt")
KEYS = [*(f"call: {name}" for name, *_ in CALLS), *(f"command: {words}" for words in COMMANDS)]


def read_sentences() -> dict[str, str]:
    """The whole texts by what raises them; {tmp} stands for the folder of the files above."""
    blocks = re.findall(r"^(\S.*)\n((?: {4}.*\n)+)", SENTENCES.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in blocks}


def write_sentences(sentences: dict[str, str]) -> None:
    options = {"width": 114, "initial_indent": " " * 4, "subsequent_indent": " " * 4}
    options |= {"break_long_words": False, "break_on_hyphens": False}
    blocks = [f"{key}\n{textwrap.fill(sentences[key], **options)}\n" for key in KEYS if key in sentences]
    SENTENCES.write_text("".join(blocks), encoding="utf-8")


@pytest.fixture(scope="module")
def sentences(request):
    """Those of the file; with --update-errors (and -n 0) those that are raised now take their place."""
    known = read_sentences()
    yield known
    if request.config.getoption("--update-errors"):
        write_sentences(known)


@pytest.fixture
def expect(request, sentences, world):
    """`expect(key, text)`: that a text is the one in the file."""

    def check(key: str, text: str) -> None:
        if request.config.getoption("--update-errors"):
            sentences[key] = " ".join(text.replace(str(world.tmp), "{tmp}").split())
        assert text == shown(sentences[key], world)

    return check


def shown(text, world):
    return text.replace("{tmp}", str(world.tmp))


@pytest.mark.parametrize(("name", "call", "kind"), CALLS, ids=[name for name, *_ in CALLS])
def test_a_wrong_call_says_what_was_given_and_what_to_do(name, call, kind, world, expect):
    # What people read when they are stuck, word for word.
    with pytest.raises(kind) as raised:
        call(world)
    expect(f"call: {name}", str(raised.value))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_wrong_command_is_one_line_and_leaves_nothing(words, world, folder, capsys, expect):
    # A traceback says nothing to people, and a folder that stays behind is in the way of their next try.
    spelt = " ".join(WORDS.get(word, word) for word in words.split(" "))
    command, *options = shlex.split(shown(spelt, world))
    of_paper = command == "reproduce"  # examples/paper/run.py
    status = run.main(options) if of_paper else main([command, *options])
    (line,) = capsys.readouterr().err.splitlines()
    program = run.PROGRAM if of_paper else f"hf-cbft {command}"
    assert line.startswith(f"{program}: error: ")
    expect(f"command: {words}", line.removeprefix(f"{program}: error: "))
    assert status == 2
    assert not any(folder.iterdir())


def test_each_text_is_a_sentence_or_two():
    # What is read at a glance, also in a log: no paragraphs, and nothing that stops midway.
    known = read_sentences()
    assert list(known) == KEYS, "pytest tests/test_errors.py --update-errors -n 0 writes the file anew"
    assert len(KEYS) == len(set(KEYS)) >= 75
    assert {words.split()[0] for words in COMMANDS} == {*_COMMANDS, "reproduce"}
    for text in known.values():
        assert text[-1] in ".?"
        assert len(text) < 400, text
        assert len(re.findall(r"[.?] (?=[A-Z])", text)) < 2, text
