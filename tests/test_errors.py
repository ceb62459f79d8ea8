# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong calls and wrong commands, each with the whole text that people read: what was given, why not, what to do."""

import copy
import json
import re
import shlex
import shutil
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


# What it is, the call, its exception and the whole text; {tmp} stands for the folder of the files above.
CALLS = [
    (
        "coefficient below 0",
        lambda w: config(barrier_coef=-1.0),
        ValueError,
        "barrier_coef = -1.0: give a finite number >= 0.",
    ),
    (
        "ratio above 1",
        lambda w: config(barrier_stop_ratio=50),
        ValueError,
        "barrier_stop_ratio = 50 is a share of the steps: give a number from 0 to 1.",
    ),
    (
        "stretch of the path upside down",
        lambda w: config(alpha_min=0.8, alpha_max=0.2),
        ValueError,
        "alpha_min = 0.8 and alpha_max = 0.2 are no stretch of the path: 0 <= alpha_min <= alpha_max <= 1 is needed.",
    ),
    (
        "compiled model",
        lambda w: config(torch_compile=True),
        ValueError,
        "torch_compile is not supported: the representation is read by a hook, which compiled code does not promise "
        "to call. Train without it.",
    ),
    (
        "sampling by length",
        lambda w: config(train_sampling_strategy="group_by_length"),
        ValueError,
        "train_sampling_strategy = 'group_by_length' needs the length of an item, and items here are pairs: use "
        '"random" or "sequential".',
    ),
    (
        "alternating with accumulation",
        lambda w: config(update_rule="alternating", gradient_accumulation_steps=4),
        ValueError,
        'update_rule="alternating" steps twice on each pair of batches, which gradient_accumulation_steps = 4 would '
        'mix: use 1, or update_rule="joint".',
    ),
    (
        "no model",
        lambda w: trainer(w, model=None),
        ValueError,
        "model is missing: give a folder, a Hub id or a model, or model_init.",
    ),
    (
        "no data with the cue",
        lambda w: trainer(w, cue_dataset=None),
        ValueError,
        "cue_dataset (data with the cue) is missing: CBFT trains on both streams.",
    ),
    (
        "dict of data sets",
        lambda w: trainer(w, cue_dataset={"train": w.rows, "test": w.rows}),
        ValueError,
        "cue_dataset is a dict of data sets (train, test): give one of them.",
    ),
    (
        "stream",
        lambda w: trainer(w, train_dataset=w.rows.to_iterable_dataset()),
        ValueError,
        "train_dataset has the type IterableDataset, whose rows cannot be drawn by number: give a map-style data set.",
    ),
    (
        "no labels",
        lambda w: trainer(w, cue_dataset=w.rows.remove_columns("labels")),
        ValueError,
        "cue_dataset has no label column: it has pixel_values, and one of labels, label, label_ids is needed.",
    ),
    (
        "label beyond the classes",
        lambda w: trainer(w, cue_dataset=relabelled(w, [4] * 12)),
        ValueError,
        "cue_dataset has the label 4, but the classes are 0 to 3: match the labels to the model's id2label first.",
    ),
    (
        "labels that are numbers",
        lambda w: trainer(w, cue_dataset=relabelled(w, [0.5] * 12)),
        ValueError,
        "The column 'labels' of cue_dataset does not hold one class (a whole number) a row, and several labels or a "
        "measured number have no class means: give each row one class, counted from 0.",
    ),
    (
        "no class in common",
        lambda w: trainer(w, train_dataset=relabelled(w, [0, 1] * 6), cue_dataset=relabelled(w, [2, 3] * 6)),
        ValueError,
        'pairing="class" pairs rows of one class, but train_dataset has the classes [0, 1] and cue_dataset [2, 3]: '
        'none in common. Give data of the same classes, or use pairing="random".',
    ),
    (
        "reference of another size",
        lambda w: trainer(w, ref_model=w.wide),
        ValueError,
        "ref_model cannot be interpolated with the model: vit.embeddings.cls_token has shape (1, 1, 32), not (1, 1, "
        "16); vit.embeddings.position_embeddings has shape (1, 5, 32), not (1, 5, 16); "
        "vit.embeddings.patch_embeddings.projection.weight has shape (32, 3, 4, 4), not (16, 3, 4, 4) (and 34 more). "
        "Both ends need the same architecture and sizes.",
    ),
    (
        "reference of another dtype",
        lambda w: trainer(w, ref_model=copy.deepcopy(w.vit).half()),
        ValueError,
        "ref_model keeps vit.embeddings.cls_token in torch.float16, the model in torch.float32: load both in one "
        "dtype, or name the one that the reference is to be kept in with ref_dtype.",
    ),
    (
        "regression",
        lambda w: trainer(w, model=w.regression),
        ValueError,
        'ViTForImageClassification has problem_type = "regression": its targets are numbers, so there are no class '
        "means to hold invariant, and no cross-entropy to raise a barrier of. Give every row one of at least two "
        'classes, and load the model with num_labels and problem_type="single_label_classification".',
    ),
    (
        "misspelt layer",
        lambda w: trainer(w, args=config(representation_layer="classifer")),
        ValueError,
        "representation_layer 'classifer' is not a module of ViTForImageClassification; the nearest names are "
        "classifier, vit.layers, vit.layers.1.",
    ),
    (
        "model that is nowhere",
        lambda w: trainer(w, model=w.tmp / "nowhere"),
        ValueError,
        "{tmp}/nowhere is neither a folder here nor the id of a Hub repository: give one.",
    ),
    (
        "model that the Hub does not give",
        lambda w: trainer(w, model="nobody/nothing"),
        OSError,
        "The model nobody/nothing is no folder here, and the Hub or its cache did not give it: We couldn't connect "
        "to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.",
    ),
    (
        "folder without a model",
        lambda w: trainer(w, model=w.tmp),
        ValueError,
        "{tmp} holds no config.json: give the folder of a checkpoint.",
    ),
    (
        "images without a processor",
        lambda w: trainer(w, train_dataset=w.images, cue_dataset=w.images).train(),
        ValueError,
        "The rows hold 'image', not model inputs: pass the model's image processor or tokenizer as processing_class, "
        "or give a data_collator.",
    ),
    (
        "loss that is NaN",
        lambda w: trainer(w, model=w.broken, args=config(ref_loss=0.0)).train(),
        FloatingPointError,
        "loss/path is nan at step 0: training stopped before the step was taken. Lower learning_rate, or look at the "
        "rows of this batch.",
    ),
    (
        "hyperparameter search",
        lambda w: trainer(w).hyperparameter_search(),
        NotImplementedError,
        "hyperparameter_search trains many models in one trainer, and a reference belongs to one: make a CBFTTrainer "
        "for each trial.",
    ),
    (
        "nothing to resume",
        lambda w: trainer(w).train(resume_from_checkpoint=True),
        ValueError,
        "No checkpoint in out is whole: start without resume_from_checkpoint.",
    ),
    (
        "push without a token",
        lambda w: trainer(w).push_to_hub(),
        OSError,
        "There is no token to push with: run hf auth login, or set HF_TOKEN to one that may write.",
    ),
    (
        "push of an untrained model",
        lambda w: trainer(w).push_to_hub(token="hf_x"),
        ValueError,
        "out holds no weights and none were trained to push: call train() first.",
    ),
    (
        "card of a folder without a path",
        lambda w: trainer(w).create_model_card(connectivity=w.tmp),
        FileNotFoundError,
        "{tmp} holds no measured path: give the folder that hf-cbft evaluate or ConnectivityResult.save wrote.",
    ),
    (
        "language model with classes",
        lambda w: trainer(w, model=w.gpt2, train_dataset=w.texts, cue_dataset=w.texts),
        ValueError,
        "train_dataset has the columns label, text, and a causal language model is trained on a prompt and a "
        "completion, or on input_ids and labels: name them so.",
    ),
    (
        "DoRA",
        lambda w: lora(w, use_dora=True),
        NotImplementedError,
        "use_dora makes the adapter more than W + s B A, so that its path from the base is not its scale: use plain "
        "LoRA, rsLoRA or lora_bias.",
    ),
    (
        "PiSSA",
        lambda w: lora(w, init_lora_weights="pissa"),
        NotImplementedError,
        "init_lora_weights='pissa' can change the base, so that the adapter at scale 0 is not the model that "
        "training started from: use True, False, 'gaussian' or 'orthogonal'.",
    ),
    (
        "two adapters",
        lambda w: trainer(w, model=w.adapted(), peft_config=LoraConfig(target_modules=["q_proj"])),
        ValueError,
        "The model has an adapter already: leave peft_config out, or pass the base model.",
    ),
    (
        "merged adapter",
        lambda w: trainer(w, model=merged(w)),
        NotImplementedError,
        "The adapter is merged into the base, which has no scale any more: unmerge it first.",
    ),
    (
        "adapter on another base",
        lambda w: evaluator(w, f"{w.tmp}/start+{w.tmp}/foreign", f"{w.tmp}/start"),
        ValueError,
        "The adapter {tmp}/foreign was trained on org/other, not on {tmp}/start: give org/other+{tmp}/foreign, or, "
        "where {tmp}/start is a copy of it, load the adapter yourself and pass the model.",
    ),
    (
        "metrics that are a string",
        lambda w: evaluator(w, metrics="accuracy"),
        TypeError,
        "metrics = 'accuracy' is a single name: give a list of metrics.",
    ),
    (
        "groups without a column",
        lambda w: measure(w, metrics=["worst_group_accuracy"]),
        ValueError,
        "The metric 'worst_group_accuracy' needs groups, and the data has none: name their column (group_column).",
    ),
    (
        "metric that returns a text",
        lambda w: measure(w, metrics=[lambda predictions, references: "good"]),
        ValueError,
        "The metric '<lambda>' returned 'good' (a str): return one number.",
    ),
    (
        "end with another head",
        lambda w: evaluator(w, w.tmp / "start", w.tmp / "three"),
        ValueError,
        "The end point cannot be interpolated with the model: classifier.weight has shape (3, 16), not (4, 16); "
        "classifier.bias has shape (3,), not (4,). Both ends need the same architecture and sizes.",
    ),
    (
        "classes in another order",
        lambda w: evaluator(w, w.tmp / "start", w.tmp / "renamed"),
        ValueError,
        "At the ends, the classes stand in another order: a is 0 at the start and 3 at the end; b is 1 at the start "
        "and 2 at the end; c is 2 at the start and 1 at the end; and 1 more. A line between the heads would mix "
        "classes: reorder the rows of one head and its id2label, or, for two checkpoints, say whose head to use with "
        'head_from="start" or "end".',
    ),
    (
        "head of neither",
        lambda w: evaluator(w, w.tmp / "start", w.tmp / "end", head_from="both"),
        ValueError,
        'head_from = \'both\': say whose head is used, "start" or "end".',
    ),
    (
        "NaN in an end",
        lambda w: evaluator(w, end=w.broken),
        ValueError,
        "ViTForImageClassification has NaN in classifier.weight: its training diverged, so give an earlier "
        "checkpoint.",
    ),
    (
        "points that stop early",
        lambda w: measure(w, alphas=[0.0, 0.5]),
        ValueError,
        "alphas = [0.0, 0.5]: give at least 3 points in rising order, from 0.0 to 1.0; a barrier needs both ends and "
        "something between them.",
    ),
    (
        "two live anchors",
        lambda w: QuadraticPath(None, None, WEIGHTS),
        ValueError,
        "start and middle are None (the live model), and only one anchor can be: give the weights of the others.",
    ),
    (
        "polyline of one",
        lambda w: PolylinePath([WEIGHTS]),
        ValueError,
        "A polyline through 1 anchors has no length: give two or more.",
    ),
    (
        "point beyond the path",
        lambda w: at_point(w.vit, LinearPath(start=w.vit.state_dict()), 1.5).__enter__(),
        ValueError,
        "alpha = 1.5 is not on the path: it runs from 0 (start) to 1 (end).",
    ),
    (
        "barrier loss of a vector",
        lambda w: barrier_loss(torch.zeros(3)),
        ValueError,
        "path_loss has the shape (3,), and L_B is that of the mean loss: give a scalar, such as losses.mean().",
    ),
    (
        "representations of two sizes",
        lambda w: invariance_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 4), torch.tensor([0, 1]), 2),
        ValueError,
        "The clean representations have 3 dimensions and the cue ones 4: take both from the same layer.",
    ),
    (
        "losses for other points",
        lambda w: compute_barrier([0, 0.5, 1], [0, 1]),
        ValueError,
        "losses of shape (2,) do not fit 3 alphas: give one mean loss a point, shape (3,), or per-example losses, "
        "shape (3, number of examples).",
    ),
    (
        "loss that is not finite",
        lambda w: compute_barrier([0, 0.5, 1], [0, float("nan"), 0]),
        ValueError,
        "The loss at alpha = 0.5 is not finite, so the path has no barrier there to speak of: look at the weights "
        "there, or leave out the rows that overflow.",
    ),
    (
        "unknown baseline",
        lambda w: compute_barrier([0, 0.5, 1], [0, 1, 0], baseline="median"),
        ValueError,
        "baseline 'median' is unknown: use one of chord, mean, max.",
    ),
    (
        "no token counts",
        lambda w: compute_barrier([0, 0.5, 1], np.zeros((3, 4)), weights=[0, 0, 0, 0]),
        ValueError,
        "All weights are 0: no example counts a token, so there is no loss to speak of.",
    ),
    (
        "too many boxes",
        lambda w: BoxCue(12),
        ValueError,
        "BoxCue names 2 to 10 classes (nine places, or no box); got 12.",
    ),
    (
        "label without a box",
        lambda w: make_counterfactuals(w.images, BoxCue(2)),
        ValueError,
        "Label 2 has no box: BoxCue names 2 classes.",
    ),
    (
        "box larger than the cell",
        lambda w: make_counterfactuals(w.images, BoxCue(4, size=20)),
        ValueError,
        "The box of BoxCue is 20x20 pixels and does not fit into a cell of the 3x3 grid on an image of 8x8: give a "
        "smaller size or larger images.",
    ),
    (
        "cue on texts",
        lambda w: make_counterfactuals(w.texts, BoxCue(4, image_column="text")),
        TypeError,
        "BoxCue draws on PIL images, but the column 'text' holds a str: cast the column to `datasets.Image()`.",
    ),
    (
        "text shorter than the places",
        lambda w: make_counterfactuals(w.texts, TokenCue(["x"], num_classes=4)),
        ValueError,
        "The text 'ok' has fewer words (1) than TokenCue has places (4): leave short texts out, or give a token for "
        "each class.",
    ),
    (
        "dominoes of other classes",
        lambda w: dominoes(w, w.images),
        ValueError,
        "The data set has 4 classes and the second data set of DominoCue 2: each class needs images of one class of "
        "its own.",
    ),
    (
        "rows without a blank half",
        lambda w: make_counterfactuals(w.images, DominoCue(w.images)),
        ValueError,
        "DominoCue found no blank half at the top of an image of 8x8: give clean rows that its `prepare` made.",
    ),
    (
        "share in percent",
        lambda w: add_cue(w.images, BoxCue(4), share=90),
        ValueError,
        "The cue's share is 90; give a fraction between 0 and 1.",
    ),
    (
        "cue on a list",
        lambda w: make_counterfactuals(w.images.to_list(), BoxCue(4)),
        TypeError,
        "The data set is a list, and a cue is set in a datasets.Dataset: make one, with Dataset.from_list or another "
        "of its constructors.",
    ),
    (
        "matrix of one",
        lambda w: connectivity_matrix([w.tmp / "start"], w.rows),
        ValueError,
        "A matrix needs at least two checkpoints, and 1 came: give more.",
    ),
    (
        "matrix of live models",
        lambda w: connectivity_matrix([w.vit, w.vit], w.rows),
        TypeError,
        "A matrix reads checkpoints from their files, not from memory (ViTForImageClassification): save the model "
        "(save_pretrained), and give its folder.",
    ),
    (
        "soup of a stranger",
        lambda w: w.matrix.soup(w.matrix_result, ["start", "middle"], "soup"),
        ValueError,
        "There is no checkpoint 'middle' in the matrix: it has start, end.",
    ),
    (
        "mechanisms of one set",
        lambda w: mechanisms(w.one_set),
        ValueError,
        "Mechanisms show between two sets, and the result has cue: measure on the data with and without a change.",
    ),
    (
        "best point of no set",
        lambda w: w.result.best_alpha("train"),
        ValueError,
        "There is no set 'train': the result has no_cue, cue.",
    ),
    (
        "folder without a result",
        lambda w: ConnectivityResult.load(w.tmp / "start"),
        FileNotFoundError,
        "{tmp}/start holds no result (result.json): give a folder that has one.",
    ),
    (
        "result of a later version",
        lambda w: ConnectivityResult.load(w.tmp / "later"),
        ValueError,
        "{tmp}/later holds a result of schema version 9, this version reads 1 and 2: measure again, or use the "
        "version of hf_cbft that wrote it.",
    ),
    (
        "damaged result",
        lambda w: ConnectivityResult.load(w.tmp / "damaged"),
        ValueError,
        "{tmp}/damaged/result.json is damaged: measure again.",
    ),
    (
        "report in no folder",
        lambda w: w.result.report("nowhere/page.html"),
        FileNotFoundError,
        "The report nowhere/page.html would lie in nowhere, which is no folder: make it first.",
    ),
    (
        "report of other rows",
        lambda w: w.result.report("page.html", datasets={"cue": w.images}),
        ValueError,
        "The labels of the data set 'cue' are not those that were measured: give the report the sets that `evaluate` "
        "had, in the same order.",
    ),
    (
        "callback of a class",
        lambda w: ConnectivityCallback(Trainer, w.vit, w.rows),
        TypeError,
        "trainer is a type: make the Trainer first, then trainer.add_callback(ConnectivityCallback(trainer, ...)).",
    ),
    (
        "callback every 0 steps",
        lambda w: ConnectivityCallback(plain(w), w.vit, w.rows, every=0),
        ValueError,
        "every = 0: give a number of steps, at least 1, or None for each evaluation.",
    ),
    (
        "callback against itself",
        against_itself,
        ValueError,
        "The reference shares weights with the model that is trained, and would move with it: give "
        "copy.deepcopy(model), made before training, a folder or a Hub id.",
    ),
    (
        "callback's name with a space",
        lambda w: ConnectivityCallback(plain(w), w.vit, {"the cue": w.rows}),
        ValueError,
        "The data set's name 'the cue' cannot be part of a key in the log (eval_barrier_<name>): use letters, digits "
        "and underscores.",
    ),
    (
        "comparing live models",
        lambda w: compare(w.vit, w.vit),
        TypeError,
        "compare reads files, and got a ViTForImageClassification: save it with save_pretrained, and give the folder.",
    ),
    (
        "last layer without a penalty",
        lambda w: retrain_last_layer(w.vit, w.rows, l2=0.0),
        ValueError,
        "l2 = 0.0: without a penalty the last layer has no optimum; give one above 0, such as 1e-3.",
    ),
    (
        "last layer without a class",
        lambda w: retrain_last_layer(w.vit, relabelled(w, [0, 1, 2] * 4)),
        ValueError,
        "The data set has no row of the class 3 (1 of 4 classes are missing), so nothing tells its weights: give "
        "rows of every class.",
    ),
    (
        "one group",
        lambda w: balance_groups(w.rows, [0] * 12),
        ValueError,
        "Balancing needs rows of at least two groups, and all 12 rows are of 0.",
    ),
    (
        "groups from nowhere",
        lambda w: read_wilds_metadata(w.tmp / "nowhere"),
        FileNotFoundError,
        "There is no folder {tmp}/nowhere: name the folder into which the data set was unpacked.",
    ),
    (
        "table without a header",
        lambda w: load_sources([f"cue={w.tmp}/headless.csv"]),
        ValueError,
        "The first line of {tmp}/headless.csv reads as a row, not as names of columns (good, 1): add a header.",
    ),
    (
        "broken JSON",
        lambda w: load_sources([f"cue={w.tmp}/broken.json"]),
        ValueError,
        "{tmp}/broken.json cannot be read as json: Expecting value: line 1 column 7 (char 6).",
    ),
    (
        "label map to nowhere",
        lambda w: match_labels(w.images, {0: "x", 1: "b", 2: "c", 3: "d"}, label_map={"a": "z"}),
        ValueError,
        "The label map sends 'a' to 'z', and the classes of the model are x (0), b (1), c (2), d (3): give one of "
        "these names or ids.",
    ),
    (
        "alignment by an unknown method",
        lambda w: align(w.vit, w.vit, "weight"),
        ValueError,
        "method = 'weight': there is weights, activations, given.",
    ),
    (
        "alignment by activations without data",
        lambda w: align(w.vit, w.vit, "activations"),
        ValueError,
        "method='activations' compares units on data, and none was given: give data=.",
    ),
    (
        "alignment by activations on no rows",
        lambda w: align(w.vit, w.vit, "activations", w.rows.select([])),
        ValueError,
        "data is empty.",
    ),
    (
        "permutations that are to be found",
        lambda w: align(w.vit, w.vit, permutations={"residual": range(16)}),
        ValueError,
        "permutations go with method='given', and that one with permutations: give both or neither.",
    ),
    (
        "no descent",
        lambda w: align(w.vit, w.vit, num_starts=0),
        ValueError,
        "num_starts = 0: give at least 1.",
    ),
    (
        "alignment of other architectures",
        lambda w: align(w.vit, w.bert),
        ValueError,
        "BertForSequenceClassification cannot be interpolated with the model: vit.embeddings.cls_token is missing;"
        " vit.embeddings.position_embeddings is missing; vit.embeddings.patch_embeddings.projection.weight is "
        "missing (and 74 more). Both ends need the same architecture and sizes.",
    ),
    (
        "alignment of other widths",
        lambda w: align(w.vit, w.wide),
        ValueError,
        "ViTForImageClassification cannot be interpolated with the model: vit.embeddings.cls_token has shape (1, "
        "1, 32), not (1, 1, 16); vit.embeddings.position_embeddings has shape (1, 5, 32), not (1, 5, 16); "
        "vit.embeddings.patch_embeddings.projection.weight has shape (32, 3, 4, 4), not (16, 3, 4, 4) (and 34 "
        "more). Both ends need the same architecture and sizes.",
    ),
    (
        "alignment of other numbers of heads",
        lambda w: align(w.vit, other_vit(w, num_attention_heads=4)),
        ValueError,
        "Both are ViT, but their configurations divide the tensors in other ways (numbers of heads): they are "
        "different architectures, and no order of units makes one of the other.",
    ),
    (
        "alignment of an unknown architecture",
        lambda w: align(electra(), electra()),
        ValueError,
        "The symmetries of electra are not known (the nearest is roberta; there is bert, camembert, "
        "cifar_resnet, clip, clip_vision_model, convnext, deit, distilbert, gpt2, llama, mistral, mlp, mpnet, "
        "qwen2, qwen3, resnet, roberta, vit, xlm-roberta): give a specification (docs/alignment.md shows how to "
        "write one), or align only the parts that can be confirmed with partial=True.",
    ),
    (
        "alignment of pruned heads",
        lambda w: align(*[pruned(w)] * 2),
        ValueError,
        "vit.layers.0.attention.q_proj has 16 entries, which are not 'heads.0 query.0' with the sizes of the "
        "configuration (15): were heads pruned? Give a model whose tensors are as its configuration says.",
    ),
    (
        "alignment of NaN",
        lambda w: align(w.vit, w.broken),
        ValueError,
        "ViTForImageClassification has NaN in classifier.weight: its training diverged, so give an earlier "
        "checkpoint.",
    ),
    (
        "alignment of an adapter",
        lambda w: align(w.vit, w.adapted()),
        NotImplementedError,
        "ViTForImageClassification is an adapter, and moving units would need another base below it: "
        "merge_and_unload it, save the model, and align that.",
    ),
    (
        "alignment of an adapter by name",
        lambda w: align(w.tmp / "start", f"{w.tmp}/start+{w.tmp}/foreign"),
        NotImplementedError,
        "{tmp}/start+{tmp}/foreign is an adapter, and moving units would need another base below it: "
        "merge_and_unload it, save the model, and align that.",
    ),
    (
        "alignment of a quantised model",
        lambda w: align(w.vit, quantised(w)),
        NotImplementedError,
        "ViTForImageClassification is quantised, and units cannot be moved across its blocks: load it without "
        "quantization_config.",
    ),
    (
        "alignment without a head",
        lambda w: align(w.vit.vit, w.vit.vit),
        ValueError,
        "ViTModel gives no logits: what it gives moves with its units, so it is no proof. Give the model with its "
        "head.",
    ),
    (
        "alignment of a constant",
        lambda w: align(*[constant(w)] * 2),
        ValueError,
        "ViTForImageClassification gives the same logits for every input, so they cannot show whether an "
        "alignment changed it: give a trained model.",
    ),
    (
        "alignment with a tensor forgotten",
        lambda w: align(w.vit, w.vit, specification=Family("Mine", (), {"classifier": "residual ->"})),
        ValueError,
        "The symmetries of Mine do not say what vit.embeddings.cls_token, vit.embeddings.position_embeddings, "
        "vit.embeddings.patch_embeddings.projection.weight and 35 more of this ViTForImageClassification carries: "
        "align only the parts that can be confirmed with partial=True, or give a specification that names all "
        "tensors.",
    ),
    (
        "alignment with a space that is none",
        lambda w: align(w.vit, w.vit, "given", permutations={"channels": range(16)}),
        ValueError,
        "The argument permutations moves channels, and this architecture has no such space: it has residual, "
        "heads.0, query.0, value.0, units.0, and so on.",
    ),
    (
        "alignment with too many units",
        lambda w: align(w.vit, w.vit, "given", permutations={"heads.0": range(3)}),
        ValueError,
        "The argument permutations has no permutation for heads.0: it takes whole numbers from 0 to 1, each once, "
        "in the shape (2,); got the shape (3,).",
    ),
    (
        "alignment with a unit twice",
        lambda w: align(w.vit, w.vit, "given", permutations={"residual": [0] * 16}),
        ValueError,
        "The argument permutations has no permutation for residual: it takes whole numbers from 0 to 15, each once, "
        "in the shape (16,); got numbers twice or out of that range.",
    ),
    (
        "alignment from nowhere",
        lambda w: Alignment.load(w.tmp / "nowhere"),
        ValueError,
        "{tmp}/nowhere is no alignment: give the file, or the folder, of hf-cbft align.",
    ),
    (
        "alignment that is a checkpoint",
        lambda w: Alignment.load(w.tmp / "start" / "model.safetensors"),
        ValueError,
        "{tmp}/start/model.safetensors holds no alignment that can be read (its format is 'pt', not 'hf_cbft "
        "alignment 1'): make it again.",
    ),
    (
        "alignment that is cut off",
        lambda w: Alignment.load(w.tmp / "cut" / "model.safetensors"),
        ValueError,
        "{tmp}/cut/model.safetensors holds no alignment that can be read (Error while deserializing header: "
        "incomplete metadata, file not fully covered): make it again.",
    ),
    (
        "alignment for another width",
        lambda w: align(w.vit, w.vit).apply(w.wide),
        ValueError,
        "The alignment moves 16 units of vit.embeddings.cls_token, and this ViTForImageClassification has 32: "
        "give a model of the architecture and sizes that it was made for.",
    ),
]

# What stands for what in the commands, beside {tmp}.
WORDS = {
    "ENDS": "{tmp}/start {tmp}/end",
    "DATA": "--train_dataset {tmp}/images --cue_dataset {tmp}/images",
    "OUT": "--output_dir out",
}
# The words of a command, and below them the text that follows "hf-cbft COMMAND: error: "; its lines are one.
COMMANDS = """
align {tmp}/start
    two checkpoints are needed: hf-cbft align START END --output_dir FOLDER.
align ENDS
    name a new folder for the aligned checkpoint with --output_dir.
align ENDS --output_dir {tmp}/start
    {tmp}/start exists and is not empty: name another folder with --output_dir.
align ENDS OUT --method guess
    --method is weights or activations; got 'guess'.
align ENDS OUT --method activations
    --method activations compares units on data, and weights needs none: give --dataset NAME=SOURCE with activations,
    and only then.
align ENDS OUT --num_starts 0
    num_starts = 0: give at least 1.
align ENDS OUT --seed -1
    seeds are whole numbers from 0 on; got -1.
align ENDS OUT --method activations --dataset x=nowhere.csv
    There is no file or folder nowhere.csv: SOURCE is a data set's id on the Hub, a folder saved with save_to_disk, a
    folder of images in class folders, a file (.csv, .tsv, .json, .jsonl, .ndjson, .parquet) or digits.
align {tmp}/start {tmp}/foreign OUT
    {tmp}/foreign is an adapter, and moving units would need another base below it: merge_and_unload it, save the
    model, and align that.
check {tmp}/start
    two checkpoints are needed: hf-cbft check START END.
check {tmp}/start {tmp}/nowhere
    {tmp}/nowhere is neither a folder here nor the id of a Hub repository: give one.
check {tmp}/start nobody/nothing
    nobody/nothing is no folder here and not in the cache, and HF_HUB_OFFLINE is set: unset it, or fetch the checkpoint
    first (hf download nobody/nothing).
check {tmp}/start {tmp}/pickled
    {tmp}/pickled has its weights in a pickle only (pytorch_model.bin), which nothing but running it can read: where
    you trust its source, load it once and save it with save_pretrained, which writes safetensors.
check {tmp}/start {tmp}/images
    {tmp}/images holds no config.json: give the folder of a checkpoint.
check {tmp}/start {tmp}/start+{tmp}/end
    {tmp}/end holds no adapter_config.json, and what follows a plus sign has to be an adapter: give BASE+ADAPTER.
check ENDS --head_from both
    --head_from is start or end; got 'both'.
check ENDS --head_from end --ignore_head
    --ignore_head leaves out both heads and --head_from takes one of them: give one of the two.
check ENDS {tmp}/cut
    '{tmp}/cut' is one word too many: check takes START END.
check ENDS --depe
    check has no option --depe; did you mean --deep?
curve ENDS
    --train_dataset and --output_dir must be given: hf-cbft curve --help shows an example.
curve ENDS --train_dataset {tmp}/images OUT --num_steps 0
    num_steps = 0: give a number above 0.
curve ENDS --train_dataset {tmp}/images OUT --seed -1
    seeds are whole numbers from 0 on; got -1.
curve ENDS --train_dataset {tmp}/images --output_dir {tmp}/start
    {tmp}/start exists and is not empty: name another folder with --output_dir.
curve {tmp}/start {tmp}/foreign --train_dataset {tmp}/images OUT --use_cpu
    The end carries an adapter, and a curve runs between whole weights: merge it first (merge_and_unload), or measure
    the straight line (path="linear"), which for adapters needs no second model.
demo --model cnn
    unknown model 'cnn'; there is vit and resnet.
demo --seeds 0 0
    each seed once, at least one; got [0, 0].
demo --seeds one
    --seeds takes a whole number, not 'one'.
demo --resume
    cbft-demo holds no demo to resume: start it without --resume.
demo --resume --overwrite
    --overwrite removes what --resume would go on from: give one of them.
demo --output_dir {tmp}/notes.txt
    {tmp}/notes.txt is a file: name a folder with --output-dir.
demo --output_dir {tmp}/start --overwrite
    {tmp}/start is not a folder of this demo, so --overwrite will not remove it.
evaluate ENDS OUT
    no data to measure on: give --dataset NAME=SOURCE[:SPLIT].
evaluate ENDS --dataset {tmp}/images
    name a new folder for the result with --output_dir.
evaluate {tmp}/start --dataset {tmp}/images OUT
    two checkpoints are needed: hf-cbft evaluate START END --dataset NAME=SOURCE.
evaluate ENDS --dataset {tmp}/images OUT --align activations
    --align activations compares units on data: give it with --calibration_dataset, or take --align weights.
evaluate ENDS --dataset {tmp}/images OUT --align nowhere
    --align nowhere: give weights, activations, or the folder that hf-cbft align has written.
evaluate ENDS --dataset {tmp}/images OUT --align {tmp}/start
    {tmp}/start is no alignment: give the file, or the folder, of hf-cbft align.
evaluate ENDS --dataset nowhere.csv OUT
    There is no file or folder nowhere.csv: SOURCE is a data set's id on the Hub, a folder saved with save_to_disk, a
    folder of images in class folders, a file (.csv, .tsv, .json, .jsonl, .ndjson, .parquet) or digits.
evaluate ENDS --dataset {tmp}/splits:validation OUT
    {tmp}/splits has no split 'validation': it has train, test.
evaluate ENDS --dataset {tmp}/images:test OUT
    {tmp}/images has no split 'test': it has train.
evaluate ENDS --dataset nobody/nothing OUT
    The data set 'nobody/nothing' is no file or folder here, and could not be had from the Hub or its cache: Couldn't
    reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled).
evaluate ENDS --dataset a={tmp}/images a={tmp}/images OUT
    Two data sets are called 'a': give each a name of its own, NAME=SOURCE.
evaluate ENDS --dataset a= OUT
    The data set 'a=' needs a name and a source: NAME=SOURCE[:SPLIT].
evaluate ENDS --dataset {tmp}/images --label_column klass OUT
    The data set 'data' has no column 'klass' (--label_column): it has image, label.
evaluate ENDS --dataset {tmp}/images --group_column place OUT
    The data set 'data' has no column 'place' (--group-column): it has image, label.
evaluate ENDS --dataset {tmp}/images --path curved OUT
    The path 'curved' is unknown: "linear" is the straight line; the folder of a fitted curve, a QuadraticPath, a
    PolylinePath or a list of checkpoints to go through are the others.
evaluate ENDS --dataset {tmp}/images --path curved --through {tmp}/end OUT
    --through and --path are two paths: give one of them.
evaluate ENDS --dataset {tmp}/images --metrics recall OUT
    The metric 'recall' is not built in (accuracy, worst_group_accuracy, perplexity, f1 are): pass the evaluate module
    itself, or a function of (predictions, references).
evaluate ENDS --dataset {tmp}/images --baseline median OUT
    baseline 'median' is unknown: use one of chord, mean, max.
evaluate ENDS --dataset {tmp}/images --num_points 2 OUT
    num_points = 2: a barrier needs at least 3, both ends among them.
evaluate ENDS --dataset {tmp}/images --dtype float99 OUT
    dtype = 'float99' is none of torch's: give float32, bfloat16 or float16.
evaluate ENDS --dataset {tmp}/images --report absent/page.html OUT
    The report absent/page.html would lie in absent, which is no folder: make it first.
evaluate ENDS --dataset {tmp}/images --report page.pdf OUT
    The report page.pdf is an HTML page: give its name the ending .html.
evaluate ENDS --dataset {tmp}/images --report {tmp} OUT
    The report {tmp} is a folder: name a file in it, such as {tmp}/report.html.
evaluate ENDS --dataset {tmp}/images --resume OUT
    out holds no points to go on with: start it without --resume.
evaluate ENDS --dataset {tmp}/images --output_dir {tmp}/start
    {tmp}/start exists and is not empty: name another folder, or go on with --resume.
evaluate {tmp}/start {tmp}/nowhere --dataset {tmp}/images OUT
    {tmp}/nowhere is neither a folder here nor the id of a Hub repository: give one.
evaluate {tmp}/start nobody/nothing --dataset {tmp}/images OUT
    The model nobody/nothing is no folder here, and the Hub or its cache did not give it: We couldn't connect to
    'https://huggingface.co' to load the files, and couldn't find them in the cached files.
evaluate {tmp}/start {tmp}/three --dataset {tmp}/images OUT
    The end point cannot be interpolated with the model: classifier.weight has shape (3, 16), not (4, 16);
    classifier.bias has shape (3,), not (4,). Both ends need the same architecture and sizes.
evaluate {tmp}/start {tmp}/nan --dataset {tmp}/images OUT
    {tmp}/nan has NaN in classifier.weight: its training diverged, so give an earlier checkpoint.
evaluate ENDS --dataset {tmp}/unreadable OUT
    {tmp}/unreadable/b/1.png cannot be used. Row 4 of the data set 'data' cannot be read from its column 'image'
    (cannot identify image file '{tmp}/unreadable/b/1.png'): repair the file or leave the row out.
evaluate {tmp}/bert {tmp}/bert --dataset {tmp}/rows.csv OUT
    The text column of the data set 'data' could be any of title, body: name it with --input-column, or the two columns
    of a pair as --input-column FIRST,SECOND.
evaluate ENDS --dataset {tmp}/others OUT
    The data set 'data' has the classes a, b, cat, dog and the model has a, b, c, d: no class of the model is cat, dog.
    Give --label_map FILE.json, a JSON object from these names to the model's names or ids.
evaluate ENDS --dataset {tmp}/images --label_map {tmp}/list.json OUT
    The label map {tmp}/list.json needs to be one JSON object, from each label in the data to the model's name or id
    for it: {"pos": "POSITIVE", "neg": 0}.
evaluate ENDS --dataset {tmp}/images OUT --batch_size many
    --batch_size takes a whole number, not 'many'.
evaluate ENDS --dataset {tmp}/images OUT --batch_size 0
    batch_size = 0: give at least 1.
evaluate ENDS --dataset {tmp}/images OUT --batch_size
    --batch_size needs a value.
evaluate --config nowhere.yaml
    --config nowhere.yaml cannot be read: No such file or directory.
evaluate --config {tmp}/list.yaml
    {tmp}/list.yaml, line 1: a list is no mapping: give options as lines of name: value.
evaluate --config {tmp}/empty.yaml
    {tmp}/empty.yaml is empty: give options as lines of name: value.
evaluate --config {tmp}/twice.yaml
    {tmp}/twice.yaml, line 3: start is there already, in line 1: keep one of them.
evaluate --config {tmp}/type.yaml
    {tmp}/type.yaml, line 2: batch_size takes a whole number, not 'many'.
evaluate --config {tmp}/key.yaml
    {tmp}/key.yaml, line 2: evaluate has no option 'num_point'; did you mean num_points?
evaluate --config {tmp}/broken.yaml
    {tmp}/broken.yaml, line 2: this is no YAML: expected ',' or ']', but got '<stream end>'.
evaluate --config {tmp}/nested.yaml
    {tmp}/nested.yaml, line 1: start takes a text, not a mapping.
evaluate {tmp}/bare {tmp}/end --dataset {tmp}/images OUT
    {tmp}/bare has no image processor beside the model, and the rows hold 'image': save that of the model which it was
    made from into the folder (AutoImageProcessor.from_pretrained(BASE).save_pretrained(FOLDER); a model from the Hub
    is downloaded into a folder first).
matrix {tmp}/bare {tmp}/end --dataset {tmp}/images OUT
    {tmp}/bare has no image processor beside the model, and the rows hold 'image': save that of the model which it was
    made from into the folder (AutoImageProcessor.from_pretrained(BASE).save_pretrained(FOLDER); a model from the Hub
    is downloaded into a folder first).
matrix {tmp}/start --dataset {tmp}/images OUT
    A matrix needs at least two checkpoints, and 1 came: give more.
matrix {tmp}/start {tmp}/start --dataset {tmp}/images OUT
    {tmp}/start is given twice: give each checkpoint once.
matrix ENDS --dataset cue={tmp}/images --on clean OUT
    on = 'clean' is none of the data sets: give one of cue.
matrix {tmp}/start {tmp}/foreign --dataset cue={tmp}/images OUT
    {tmp}/foreign is an adapter, and a matrix is measured between whole weights: merge it into its base
    (merge_and_unload), save that, and give the folder.
matrix ENDS --dataset cue={tmp}/images --confidence 95 OUT
    confidence = 95.0 is not a level: give a number between 0 and 1.
reproduce --experiment table2
    unknown experiment 'table2'; there is table1, paths, symmetry, ablation, sensitivity, text, groups.
reproduce --shares 60
    a share of the cue is a fraction from 0 to 1; got 60.
reproduce --methods sgd
    unknown method 'sgd'; there is pretrained, naive-small, naive-medium, naive-large, llrt, lp-ft, dfr, balanced,
    cbft, cbft-paper.
reproduce --jobs 0
    jobs = 0: give at least 1.
reproduce --page findings.html
    --page findings.html is to be a Markdown file: give it the ending .md.
reproduce --experiment text --dataset cifar10
    experiment text runs on sentences, which it generates: leave --dataset cifar10 out.
reproduce --dataset {tmp}/nowhere
    There is no file or folder {tmp}/nowhere: SOURCE is a data set's id on the Hub, a folder saved with save_to_disk, a
    folder of images in class folders, a file (.csv, .tsv, .json, .jsonl, .ndjson, .parquet) or digits.
reproduce --model cnn
    unknown model 'cnn' for digits; there is vit, resnet18-16, resnet, resnet-32,
    resnet-128, mlp.
train DATA OUT
    a model is needed: hf-cbft train MODEL --train_dataset SOURCE --cue_dataset SOURCE.
train {tmp}/start --train_dataset {tmp}/images OUT
    CBFT trains on clean data and on data with the cue: give data with the cue with --cue_dataset SOURCE.
train {tmp}/start DATA
    name a new folder for the model with --output_dir.
train {tmp}/nowhere DATA OUT
    {tmp}/nowhere is neither a folder here nor the id of a Hub repository: give one.
train nobody/nothing DATA OUT
    The model nobody/nothing is no folder here, and the Hub or its cache did not give it: We couldn't connect to
    'https://huggingface.co' to load the files, and couldn't find them in the cached files.
train {tmp}/start DATA --output_dir {tmp}/end
    {tmp}/end exists and is not empty: name another folder with --output_dir, or go on with --resume_from_checkpoint
    true.
train {tmp}/start DATA OUT --resume_from_checkpoint true
    out holds no whole checkpoint: start without --resume_from_checkpoint.
train {tmp}/start DATA OUT --eval_strategy epoch
    --eval_strategy needs data to evaluate on: give --eval_dataset NAME=SOURCE.
train {tmp}/start DATA OUT --lora_r 8
    --lora_r is about an adapter: add --use_lora, or leave it out.
train {tmp}/start DATA OUT --use_lora --lora_target_modules q_prj
    The model has no module 'q_prj' for an adapter: its layers end in classifier, fc1, fc2, k_proj, layernorm,
    layernorm_after, layernorm_before, o_proj, projection, q_proj, v_proj.
train {tmp}/start --train_dataset {tmp}/one_class --cue_dataset {tmp}/images OUT
    All 3 rows of train_dataset are of the class a, and one class cannot be told from others: give rows of each class;
    in a folder of images, each class has a folder of its own.
train {tmp}/start --train_dataset {tmp}/unreadable --cue_dataset {tmp}/images OUT
    {tmp}/unreadable/b/1.png cannot be used. Row 4 of train_dataset cannot be read from its column 'image' (cannot
    identify image file '{tmp}/unreadable/b/1.png'): repair the file or leave the row out.
train {tmp}/start --train_dataset {tmp}/loose --cue_dataset {tmp}/images OUT
    {tmp}/loose holds stray.png, which is in no class folder: each file lies in CLASS/FILE, or all of them in
    SPLIT/CLASS/FILE with splits such as train and test.
train {tmp}/start --train_dataset {tmp}/images --cue_dataset {tmp}/splits:validation OUT
    {tmp}/splits has no split 'validation': it has train, test.
train {tmp}/bare DATA OUT
    {tmp}/bare has no image processor beside the model, and the rows hold 'image': save that of the model which it was
    made from into the folder (AutoImageProcessor.from_pretrained(BASE).save_pretrained(FOLDER); a model from the Hub
    is downloaded into a folder first).
train {tmp}/bert --train_dataset {tmp}/text.csv --cue_dataset {tmp}/text.csv OUT
    {tmp}/bert has no tokenizer beside the model, and the rows hold 'text': save that of the model which it was made
    from into the folder (AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER); a model from the Hub is
    downloaded into a folder first).
train {tmp}/start DATA OUT --push_to_hub
    There is no token to push with: run hf auth login, or set HF_TOKEN to one that may write.
train {tmp}/start DATA OUT --barrier_coef -1
    barrier_coef = -1.0: give a finite number >= 0.
train {tmp}/start DATA OUT --pairing label
    --pairing takes one of class, random, index, not 'label'.
train {tmp}/start DATA OUT --optim lomo
    The optimizer lomo steps inside backward, where the weights are those of the path point, not the model's: use one
    that steps after it, such as adamw_torch.
train {tmp}/start DATA OUT --ref_model {tmp}/bert --use_cpu
    ref_model cannot be interpolated with the model: vit.embeddings.cls_token is missing;
    vit.embeddings.position_embeddings is missing; vit.embeddings.patch_embeddings.projection.weight is missing (and 74
    more). Both ends need the same architecture and sizes.
train {tmp}/start --train_dataset {tmp}/images --cue_dataset {tmp}/others OUT
    The data set 'cue_dataset' has the classes a, b, cat, dog and the model has a, b, c, d: no class of the model is
    cat, dog. Give --label_map FILE.json, a JSON object from these names to the model's names or ids.
train --config {tmp}/train.yaml
    {tmp}/train.yaml, line 2: barrier_coef takes a number, not 'high'.
train {tmp}/cut DATA OUT
    The weights of {tmp}/cut cannot be read (Error while deserializing header: incomplete metadata, file not fully
    covered): download or save them again.
train {tmp}/start DATA OUT --representation_layer classifer --use_cpu
    representation_layer 'classifer' is not a module of ViTForImageClassification; the nearest names are classifier,
    vit.layers, vit.layers.1.
"""


def pairs(table):
    """The commands and their texts."""
    blocks = re.findall(r"^(\S.*)\n((?: {4}.*\n)+)", table, re.MULTILINE)
    return [(words, " ".join(text.split())) for words, text in blocks]


def shown(text, world):
    return text.replace("{tmp}", str(world.tmp))


@pytest.mark.parametrize(("call", "kind", "text"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_a_wrong_call_says_what_was_given_and_what_to_do(call, kind, text, world):
    # What people read when they are stuck, word for word.
    with pytest.raises(kind) as raised:
        call(world)
    assert str(raised.value) == shown(text, world)


@pytest.mark.parametrize(("words", "text"), pairs(COMMANDS), ids=[words for words, _ in pairs(COMMANDS)])
def test_a_wrong_command_is_one_line_and_leaves_nothing(words, text, world, folder, capsys):
    # A traceback says nothing to people, and a folder that stays behind is in the way of their next try.
    spelt = " ".join(WORDS.get(word, word) for word in words.split(" "))
    command, *options = shlex.split(shown(spelt, world))
    of_paper = command == "reproduce"  # examples/paper/run.py
    status = run.main(options) if of_paper else main([command, *options])
    errors = capsys.readouterr().err
    program = run.PROGRAM if of_paper else f"hf-cbft {command}"
    assert errors.splitlines() == [f"{program}: error: {shown(text, world)}"]
    assert status == 2
    assert not any(folder.iterdir())


def test_each_text_is_a_sentence_or_two():
    # What is read at a glance, also in a log: no paragraphs, and nothing that stops midway.
    commands = pairs(COMMANDS)
    texts = [row[-1] for row in [*CALLS, *commands]]
    assert len(texts) >= 75
    assert {words.split()[0] for words, _ in commands} == {*_COMMANDS, "reproduce"}
    for text in texts:
        assert "\n" not in text
        assert text[-1] in ".?"
        assert len(text) < 400, text
        assert len(re.findall(r"[.?] (?=[A-Z])", text)) < 2, text
