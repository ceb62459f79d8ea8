# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The rivals of CBFT: each reaches the optimum that it claims, in the model's own forward pass, and nothing else."""

import copy
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from peft import LoraConfig, get_peft_model
from PIL import Image as PILImage
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft.baselines import (
    Features,
    deep_feature_reweighting,
    finetune,
    finetune_best_rate,
    finetune_group_balanced,
    last_layer_features,
    linear_probe_then_finetune,
    retrain_last_layer,
)

NUM_CLASSES = 4
AGREED = 0.995


def rows_of(make_batch, name: str, number: int = 120, seed: int = 0) -> Dataset:
    """Rows with model inputs whose class can be told, but not always."""
    batch = make_batch(name, number, seed)
    signal = torch.arange(number) % NUM_CLASSES
    if "pixel_values" in batch:
        batch["pixel_values"][:, 0, 0] += 2.0 * signal[:, None]
    else:
        batch["input_ids"][:, 1:4] = 1 + signal[:, None]
        batch["attention_mask"][:] = 1
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(number, generator=generator) < 0.2
    batch["labels"] = torch.where(noise, torch.randint(NUM_CLASSES, (number,), generator=generator), signal)
    return Dataset.from_dict({key: value.numpy() for key, value in batch.items()}).with_format("torch")


def inputs_of(dataset: Dataset) -> dict[str, torch.Tensor]:
    return {name: dataset[:][name] for name in dataset.column_names if name != "labels"}


@torch.no_grad()
def decisions(model: nn.Module, dataset: Dataset) -> np.ndarray:
    """Of the model's own forward pass."""
    return copy.deepcopy(model).eval()(**inputs_of(dataset)).logits.argmax(dim=-1).numpy()


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the weights and buffers that are not bit for bit the same."""
    old, new = before.state_dict(), after.state_dict()
    return {name for name in old if old[name].dtype != new[name].dtype or not torch.equal(old[name], new[name])}


def head_of(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def arguments(folder, **options) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return TrainingArguments(**{**defaults, **options})


# What enters the head


def from_vit(model, inputs):
    return model.vit(**inputs).last_hidden_state[:, 0]


def from_resnet(model, inputs):
    return model.resnet(**inputs).pooler_output.flatten(start_dim=1)


def from_bert(model, inputs):
    return model.bert(**inputs).pooler_output


@pytest.mark.parametrize(("name", "manual"), [("vit", from_vit), ("resnet", from_resnet), ("bert", from_bert)])
def test_features_are_what_enters_the_head(make_model, make_batch, name, manual):
    """Any other layer, a wrong order of rows or batch statistics make every fit one of another model."""
    model, dataset = make_model(name), rows_of(make_batch, name, 20)
    features = last_layer_features(model, dataset, batch_size=7)
    with torch.no_grad():
        expected = manual(copy.deepcopy(model).eval(), inputs_of(dataset)).double().numpy()
    assert features.inputs.dtype == np.float64
    np.testing.assert_allclose(features.inputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.labels, dataset["labels"])


def test_features_leave_the_model_as_it_is(make_model, make_batch):
    """Neither running statistics, nor modes, nor frozen weights, nor random state change."""
    model = make_model("resnet").train()
    model.resnet.embedder.requires_grad_(False)
    model.resnet.encoder.eval()
    before, modes = copy.deepcopy(model), [module.training for module in model.modules()]
    asked, state = [parameter.requires_grad for parameter in model.parameters()], torch.get_rng_state()
    last_layer_features(model, rows_of(make_batch, "resnet", 8))
    assert not changed(before, model)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def make_decoder() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    config = GPT2Config(**sizes, num_labels=NUM_CLASSES, pad_token_id=0, bos_token_id=None, eos_token_id=None)
    return GPT2ForSequenceClassification(config)


def test_features_of_a_decoder_are_those_of_its_last_token_also_where_others_give_its_logits(make_batch):
    """With a head of zeros every position gives the logits of every other: only the graph tells which was picked."""
    model, dataset = make_decoder(), rows_of(make_batch, "bert", 10)
    nn.init.zeros_(model.score.weight)
    model.requires_grad_(False)  # a frozen model has no graph of its own
    features = last_layer_features(model, dataset)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval().transformer(**inputs_of(dataset)).last_hidden_state[:, -1]
    np.testing.assert_allclose(features.inputs, expected.double().numpy(), rtol=1e-5, atol=1e-5)


def test_images_go_through_the_processor(make_model):
    """Rows as people have them: an image, a label and a column that the model does not take."""
    model, generator = make_model("vit"), np.random.default_rng(0)
    pixels = generator.integers(0, 255, (6, 8, 8), dtype=np.uint8)  # grey
    columns = {
        "image": [PILImage.fromarray(image) for image in pixels],
        "label": [0, 1, 2, 3, 0, 1],
        "place": range(6),
    }
    dataset = Dataset.from_dict(columns).cast_column("image", Image())
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    found = last_layer_features(model, dataset, processor).inputs
    ready = processor([image.convert("RGB") for image in dataset["image"]], return_tensors="pt")
    with torch.no_grad():
        expected = from_vit(copy.deepcopy(model).eval(), dict(ready)).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_of_sounds_is_retrained_too():
    """Its head is a projection and a linear layer, of which only the last may change."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 8}
    config = Wav2Vec2Config(
        **sizes, **convolutions, num_conv_pos_embedding_groups=2, num_labels=2, classifier_proj_size=8
    )
    model = Wav2Vec2ForSequenceClassification(config)
    before = copy.deepcopy(model)
    sounds = np.random.default_rng(0).normal(size=(12, 400)).astype(np.float32)
    dataset = Dataset.from_dict({"input_values": sounds, "labels": [0, 1] * 6}).with_format("torch")
    retrain_last_layer(model, dataset)
    assert changed(before, model) == {"classifier.weight", "classifier.bias"}


# Last layer retraining


def objective_of(weight, bias, features, l2, sample_weight=None):
    log_probabilities = log_softmax(features.inputs @ weight.T + bias, axis=1)
    losses = -log_probabilities[np.arange(len(features.labels)), features.labels]
    return np.average(losses, weights=sample_weight) + l2 / 2 * (weight**2).sum()


@pytest.mark.parametrize("name", ["vit", "resnet", "bert"])
@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_llrt_is_the_optimum_that_scikit_learn_finds(make_model, make_batch, name, l2):
    """Else the rival is weaker than it is, or another one."""
    model, dataset = make_model(name, seed=1), rows_of(make_batch, name)
    features = last_layer_features(model, dataset)
    result = retrain_last_layer(model, dataset, l2=l2)
    other = LogisticRegression(C=1.0 / (len(dataset) * l2), tol=1e-10, max_iter=10_000, solver="newton-cg")
    other.fit(features.inputs, features.labels)
    assert result.objective == pytest.approx(objective_of(other.coef_, other.intercept_, features, l2), rel=1e-6)
    assert (decisions(model, dataset) == other.predict(features.inputs)).mean() >= AGREED
    head = head_of(model)
    written = (head.weight.detach().double().numpy(), head.bias.detach().double().numpy())
    assert objective_of(*written, features, l2) == pytest.approx(result.objective, rel=1e-6)


@pytest.mark.parametrize("name", ["vit", "resnet", "bert"])
def test_llrt_changes_the_head_alone(make_model, make_batch, name):
    model = make_model(name).train()
    before = copy.deepcopy(model)
    retrain_last_layer(model, rows_of(make_batch, name, 40))
    assert changed(before, model) == {name for name in before.state_dict() if name.startswith("classifier.")}
    assert model.training


def test_llrt_forgets_the_head_before(make_model, make_batch):
    """The objective is convex: two heads on one body become one, bit for bit."""
    first, dataset = make_model("vit"), rows_of(make_batch, "vit", 40)
    second = copy.deepcopy(first)
    nn.init.normal_(second.classifier.weight)
    retrain_last_layer(first, dataset)
    retrain_last_layer(second, dataset)
    assert not changed(first, second)


def test_llrt_counts_rows_by_their_weight(make_model, make_batch):
    """A row of weight 2 is two rows, one of weight 0 is none, and the scale of the weights does not matter."""
    first, dataset = make_model("vit"), rows_of(make_batch, "vit", 40)
    second, features = copy.deepcopy(first), last_layer_features(first, dataset)
    weights = np.arange(40) % 3.0
    weighted = retrain_last_layer(first, dataset, sample_weight=7.0 * weights)
    repeated = np.repeat(np.arange(40), weights.astype(int))
    expanded = Features(features.inputs[repeated], features.labels[repeated])
    plain = retrain_last_layer(second, None, features=expanded)
    assert weighted.objective == pytest.approx(plain.objective, rel=1e-7)
    torch.testing.assert_close(first.classifier.weight, second.classifier.weight, rtol=1e-3, atol=1e-4)


def test_llrt_of_a_head_without_bias(make_batch):
    model, dataset = make_decoder(), rows_of(make_batch, "bert")
    features = last_layer_features(model, dataset)
    retrain_last_layer(model, dataset, l2=1e-2)
    other = LogisticRegression(C=1.0 / (len(dataset) * 1e-2), tol=1e-8, max_iter=10_000, fit_intercept=False)
    other.fit(features.inputs, features.labels)
    assert model.score.bias is None
    assert (decisions(model, dataset) == other.predict(features.inputs)).mean() >= AGREED


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_head_keeps_its_dtype(make_model, make_batch, dtype):
    model, dataset = make_model("vit").to(dtype), rows_of(make_batch, "vit", 40)
    dataset = dataset.map(lambda row: row).with_transform(
        lambda rows: {
            "pixel_values": torch.tensor(np.array(rows["pixel_values"])).to(dtype),
            "labels": torch.tensor(rows["labels"]),
        }
    )
    before = copy.deepcopy(model)
    features = last_layer_features(model, dataset)
    result = retrain_last_layer(model, dataset)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert changed(before, model) == {"classifier.weight", "classifier.bias"}
    weight, bias = model.classifier.weight.detach().double().numpy(), model.classifier.bias.detach().double().numpy()
    assert objective_of(weight, bias, features, 1e-3) == pytest.approx(result.objective, rel=1e-2)


# Deep feature reweighting


def class_and_place(labels) -> np.ndarray:
    """Groups of class and place: 2 places, the second rarer."""
    return np.array([f"{int(label)}|{'rare' if row % 3 == 0 else 'usual'}" for row, label in enumerate(labels)])


@pytest.mark.parametrize("name", ["vit", "resnet", "bert"])
def test_dfr_is_the_fit_that_scikit_learn_makes_of_standardised_features(make_model, make_batch, name):
    """Groups of one size leave nothing to draw: a wrong fold of mean and scale, or another penalty, shows."""
    model, dataset = make_model(name, seed=1), rows_of(make_batch, name)
    before, features = copy.deepcopy(model), last_layer_features(model, dataset)
    groups = np.arange(120) % 2
    deep_feature_reweighting(model, dataset, groups, inverse_l1=[0.3], num_subsets=1)
    scaled = StandardScaler().fit_transform(features.inputs)
    other = LogisticRegression(C=0.3, l1_ratio=1.0, solver="saga", tol=1e-6, max_iter=50_000)
    other.fit(scaled, features.labels)
    assert (decisions(model, dataset) == other.predict(scaled)).mean() >= AGREED
    assert len(set(decisions(model, dataset))) == NUM_CLASSES
    assert {n.split(".")[0] for n in changed(before, model)} == {"classifier"}


@pytest.mark.parametrize("with_bias", [True, False])
def test_dfr_of_two_classes_gives_the_probabilities_of_scikit_learn(make_model, with_bias):
    """For two classes scikit-learn fits one logit, which is the difference of ours."""
    model = make_model("vit")
    model.config.num_labels = 2
    model.classifier = nn.Linear(16, 2, bias=with_bias)
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = Features(generator.normal(size=(40, 16)) + labels[:, None], labels)
    groups = generator.permutation(40) % 2
    deep_feature_reweighting(model, None, groups, features=features, inverse_l1=[0.5], num_subsets=1)
    scaler = StandardScaler(with_mean=with_bias)
    scaled = scaler.fit_transform(features.inputs)
    other = LogisticRegression(C=0.5, l1_ratio=1.0, solver="saga", max_iter=50_000, tol=1e-6, fit_intercept=with_bias)
    other.fit(scaled, labels)
    with torch.no_grad():
        ours = model.classifier(torch.from_numpy(features.inputs).float()).softmax(dim=-1).numpy()
    np.testing.assert_allclose(ours, other.predict_proba(scaled), atol=5e-3)
    assert (ours.argmax(axis=1) == other.predict(scaled)).mean() >= AGREED


def test_dfr_is_repeatable_and_averages_over_its_subsets(make_model, make_batch):
    dataset = rows_of(make_batch, "vit", 80)
    features, groups = last_layer_features(make_model("vit"), dataset), class_and_place(dataset["labels"])

    def weight(**options):
        model = make_model("vit")
        deep_feature_reweighting(model, None, groups, features=features, inverse_l1=[0.3], **options)
        return model.classifier.weight.detach()

    assert torch.equal(weight(num_subsets=2), weight(num_subsets=2))
    assert not torch.equal(weight(num_subsets=2), weight(num_subsets=2, seed=1))
    assert not torch.equal(weight(num_subsets=2), weight(num_subsets=1))


def test_dfr_takes_the_rare_group_as_seriously_as_the_others(make_model):
    """What it is for: dimension 0 is a cue that holds in 9 rows of 10, dimension 1 the truth with some noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    cue = np.where(generator.random(400) < 0.9, labels, 1 - labels)
    noise = generator.normal(size=(400, 14))
    truth = labels + 0.4 * generator.normal(size=400)
    features = Features(np.column_stack([cue + 0.1 * noise[:, 0], truth, noise]), labels)
    groups = 2 * labels + cue

    def worst(fit):
        model = make_model("vit")
        model.config.num_labels, model.classifier = 2, nn.Linear(16, 2)
        result = fit(model)
        with torch.no_grad():
            correct = model.classifier(torch.from_numpy(features.inputs).float()).argmax(dim=-1).numpy() == labels
        return min(correct[groups == group].mean() for group in np.unique(groups)), result

    erm, _ = worst(lambda model: retrain_last_layer(model, None, features=features))
    grid = (1e-6, 1.0, 0.1)
    dfr, result = worst(lambda m: deep_feature_reweighting(m, None, groups, features=features, inverse_l1=grid))
    assert dfr > erm + 0.2
    # At 1e-6 all weights are zero: one class is always wrong.
    assert set(result.tried) == set(grid)
    assert result.tried[1e-6] == 0.0
    assert result.tried[result.inverse_l1] == max(result.tried.values()) > 0.5


def test_dfr_reads_the_groups_from_a_column(make_model, make_batch):
    dataset = rows_of(make_batch, "vit", 40)
    groups = class_and_place(dataset["labels"])
    first, second = make_model("vit"), make_model("vit")
    options = {"inverse_l1": [0.3], "num_subsets": 1}
    deep_feature_reweighting(first, dataset, groups, **options)
    deep_feature_reweighting(second, dataset.add_column("group", groups.tolist()), "group", **options)
    assert not changed(first, second)


# All weights


def test_finetune_is_a_plain_trainer(make_model, make_batch, tmp_path):
    """Step for step what `Trainer` does on rows that it can take itself; `args` stays as it was."""
    ours, dataset = make_model("vit"), rows_of(make_batch, "vit", 24)
    theirs = copy.deepcopy(ours)
    args = arguments(tmp_path)
    trainer = finetune(ours, dataset.add_column("place", list(range(24))), args)
    assert isinstance(trainer, Trainer)
    assert trainer.model is ours
    assert trainer.state.global_step == 3
    assert args.remove_unused_columns
    Trainer(model=theirs, args=arguments(tmp_path), train_dataset=dataset).train()
    assert not changed(ours, theirs)


def test_finetune_keeps_images_prints_nothing_and_trains_an_adapter(make_model, tmp_path, capsys):
    model = get_peft_model(
        make_model("vit"), LoraConfig(target_modules=["query", "q_proj"], modules_to_save=["classifier"])
    )
    before = copy.deepcopy(model)
    images = [PILImage.new("L", (8, 8), shade) for shade in (0, 80, 160, 240)]
    dataset = Dataset.from_dict({"image": images, "label": [0, 1, 2, 3]}).cast_column("image", Image())
    finetune(model, dataset, arguments(tmp_path), ViTImageProcessorPil(size={"height": 8, "width": 8}))
    assert changed(before, model)
    assert capsys.readouterr().out == ""


def test_finetune_best_rate_picks_by_the_score(make_model, make_batch, tmp_path):
    """Each rate starts from the same weights and seed; on a tie the smaller rate wins, and NaN never does."""
    dataset, seen = rows_of(make_batch, "vit", 24), []
    args = arguments(tmp_path)

    def score(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(copy.deepcopy(model))
        return (0.5, 0.7, 0.7, float("nan"))[len(seen) - 1]

    best, tried = finetune_best_rate(lambda: make_model("vit"), dataset, args, [1e-2, 1e-3, 2e-2, 1e-1], score)
    assert tried == pytest.approx({1e-3: 0.5, 1e-2: 0.7, 2e-2: 0.7, 1e-1: float("nan")}, nan_ok=True)
    assert not changed(best, seen[1])
    alone = make_model("vit")
    finetune(alone, dataset, arguments(tmp_path, learning_rate=1e-2))
    assert not changed(best, alone)
    assert best.training
    assert torch.is_grad_enabled()
    assert (args.learning_rate, args.output_dir) == (1e-2, str(tmp_path))


def test_finetune_best_rate_makes_each_model_with_the_seed(make_batch, make_model, tmp_path):
    """A head that `model_init` makes anew is the same for every rate; otherwise rates and heads are confounded."""
    heads = []

    def model_init():
        model = make_model("vit")
        model.classifier = nn.Linear(16, NUM_CLASSES)
        heads.append(model.classifier.weight.detach().clone())
        return model

    args = arguments(tmp_path, max_steps=1)
    torch.manual_seed(99)  # another state than a trainer with args.seed leaves
    finetune_best_rate(model_init, rows_of(make_batch, "vit", 8), args, [1e-3, 1e-2], lambda model: 0.0)
    assert torch.equal(*heads)


def test_lp_ft_is_its_two_steps(make_model, make_batch, tmp_path):
    ours, dataset = make_model("bert"), rows_of(make_batch, "bert", 40)
    theirs = copy.deepcopy(ours)
    linear_probe_then_finetune(ours, dataset, arguments(tmp_path), l2=1e-2)
    retrain_last_layer(theirs, dataset, l2=1e-2)
    finetune(theirs, dataset, arguments(tmp_path))
    assert not changed(ours, theirs)


class SeenLabels(TrainerCallback):
    """The rows that the trainer draws from."""

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.ids = [row["input_ids"][0].item() for row in train_dataloader.dataset]


def test_group_balanced_fine_tuning_sees_as_many_rows_of_each_group(make_model, make_batch, tmp_path):
    dataset = rows_of(make_batch, "bert", 24)
    ids = dataset[:]["input_ids"].clone()
    ids[:, 0] = torch.tensor([7] * 20 + [8] * 4)  # says which group a row is of
    dataset = Dataset.from_dict({**{n: dataset[:][n].numpy() for n in dataset.column_names}, "input_ids": ids.numpy()})
    seen, model = SeenLabels(), make_model("bert")
    before = copy.deepcopy(model)
    groups = ["usual"] * 20 + ["rare"] * 4
    finetune_group_balanced(model, dataset.with_format("torch"), groups, arguments(tmp_path), callbacks=[seen])
    assert [seen.ids.count(7), seen.ids.count(8)] == [20, 20]
    assert changed(before, model)


# What is refused, before anything runs


def never(*args, **kwargs):
    raise AssertionError("the model ran, or a trainer was made")


@pytest.fixture
def no_work(monkeypatch):
    """Every error comes before the first forward pass and before a `Trainer` makes its output folder."""
    monkeypatch.setattr("hf_cbft.baselines.last_layer.DataLoader", never)
    monkeypatch.setattr("hf_cbft.baselines.finetuning.Trainer", never)


def numbered(labels) -> Dataset:
    return Dataset.from_dict({"pixel_values": [0.0] * len(labels), "labels": labels})


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "The data set is empty"),
        ([0, 1, 2, 3, 4], "The data set has the label 4, but the classes are 0 to 3: match the labels"),
    ],
)
def test_rows_that_no_method_can_take(make_model, tmp_path, labels, message):
    model, dataset, args = make_model("vit"), numbered(labels), arguments(tmp_path)
    groups = [0] * len(labels)
    for refused in (
        lambda: last_layer_features(model, dataset),
        lambda: retrain_last_layer(model, dataset),
        lambda: deep_feature_reweighting(model, dataset, groups),
        lambda: finetune(model, dataset, args),
        lambda: linear_probe_then_finetune(model, dataset, args),
        lambda: finetune_group_balanced(model, dataset, groups, args),
        lambda: finetune_best_rate(lambda: model, dataset, args, [1e-3], never),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": 0.0}, "l2 = 0.0: without a penalty the last layer has no optimum"),
        ({"sample_weight": np.ones(3)}, r"sample_weight has the shape \(3,\) for 8 rows"),
        ({"sample_weight": -np.ones(8)}, "one finite number a row, at least 0"),
        ({"sample_weight": np.zeros(8)}, "and not all 0"),
        ({"sample_weight": np.arange(8) % 4.0}, "no row of the class 0 .1 of 4 classes are missing."),
        ({"representation_layer": "vit.head"}, "is not a module of ViTForImageClassification; the nearest"),
    ],
)
def test_what_last_layer_retraining_refuses(make_model, options, message):
    with pytest.raises(ValueError, match=message):
        retrain_last_layer(make_model("vit"), numbered([0, 1, 2, 3] * 2), **options)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("labels", "groups", "options", "message"),
    [
        ([0, 1, 2, 3] * 2, [0, 1], {}, "There are 2 groups for 8 rows: give one a row"),
        ([0, 1, 2, 3] * 2, "place", {}, "The data set has no column 'place'"),
        ([0, 1, 2, 3] * 2, [0] * 8, {}, "Balancing needs rows of at least two groups"),
        ([0, 1, 2] * 4, [0, 1] * 6, {}, "subset of 12 rows has no row of the class 3"),
        ([0, 1, 2, 3, 0], [0, 0, 0, 0, 1], {"inverse_l1": [1.0]}, "subset of 2 rows has no row of the class"),
        ([0, 1, 2, 3] * 2, [0, 1, 2, 3] + [0, 1, 2, 4], {}, "has one row, and choosing among several inverse_l1"),
        ([0, 1, 2, 3] * 2, [0, 1] * 4, {"inverse_l1": []}, "give one or more values of C, each above 0"),
        ([0, 1, 2, 3] * 2, [0, 1] * 4, {"inverse_l1": [1.0, 0.0]}, "each above 0"),
        ([0, 1, 2, 3] * 2, [0, 1] * 4, {"num_subsets": 0}, "num_subsets = 0: the head is an average"),
    ],
)
def test_what_deep_feature_reweighting_refuses(make_model, labels, groups, options, message):
    with pytest.raises(ValueError, match=message):
        deep_feature_reweighting(make_model("vit"), numbered(labels), groups, **options)


def test_deep_feature_reweighting_says_how_to_get_scikit_learn(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r'pip install "hf-cbft\[demo\]"'):
        deep_feature_reweighting(make_model("vit"), numbered([0, 1, 2, 3] * 2), [0, 1] * 4)


def with_adapter(model):
    return get_peft_model(model, LoraConfig(target_modules=["classifier"]))


def with_parametrised_head(model):
    nn.utils.parametrizations.weight_norm(model.classifier)
    return model


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_adapter, r"ViTForImageClassification has an adapter, .* merge the adapter first"),
        (with_parametrised_head, "'classifier' of ViTForImageClassification is a ParametrizedLinear, and only"),
    ],
)
def test_heads_that_are_no_plain_linear_layer(make_model, change, message):
    model, dataset = change(make_model("vit")), numbered([0, 1, 2, 3] * 2)
    for refused in (
        lambda: last_layer_features(model, dataset),
        lambda: retrain_last_layer(model, dataset),
        lambda: deep_feature_reweighting(model, dataset, [0, 1] * 4),
    ):
        with pytest.raises(NotImplementedError, match=message):
            refused()


@pytest.mark.usefixtures("no_work")
def test_models_for_another_task(make_model, tmp_path):
    dataset = numbered([0, 1])
    with pytest.raises(NotImplementedError, match="GPT2LMHeadModel is made for causal lm, and the baselines are for"):
        finetune(make_model("gpt2"), dataset, arguments(tmp_path))
    several = make_model("bert")
    several.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="a row may be of several classes or of none"):
        retrain_last_layer(several, dataset)


def test_a_head_that_something_follows(make_model, make_batch):
    """A fit of its weights would be one of other logits."""
    model = make_model("vit")
    model.classifier = nn.Sequential(nn.Linear(16, NUM_CLASSES), nn.Tanh())
    with pytest.raises(ValueError, match="last linear layer of ViTForImageClassification does not give its logits"):
        retrain_last_layer(model, rows_of(make_batch, "vit", 8))


@pytest.mark.usefixtures("no_work")
def test_a_layer_that_is_no_head(make_model):
    model = make_model("vit")
    inner = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == 32)
    with pytest.raises(ValueError, match="has 32 outputs, and ViTForImageClassification has 4 classes"):
        retrain_last_layer(model, numbered([0, 1, 2, 3]), representation_layer=inner)


def test_representations_that_are_not_finite(make_model, make_batch):
    """The model is as it was, and the first of the rows is named."""
    model, dataset = make_model("vit"), rows_of(make_batch, "vit", 8)
    before = copy.deepcopy(model)
    rows = dataset[:]
    rows["pixel_values"][5] = float("nan")
    broken = Dataset.from_dict({name: value.numpy() for name, value in rows.items()}).with_format("torch")
    with pytest.raises(ValueError, match="logits of row 5 are not finite"):
        retrain_last_layer(model, broken, batch_size=4)
    assert not changed(before, model)


def test_features_of_another_model(make_model):
    model = make_model("vit")
    with pytest.raises(ValueError, match="features have 3 dimensions, and the head takes 16"):
        retrain_last_layer(model, None, features=Features(np.zeros((4, 3)), np.arange(4)))
    with pytest.raises(ValueError, match="labels from 0 to 7, but the classes are 0 to 3"):
        retrain_last_layer(model, None, features=Features(np.zeros((8, 16)), np.arange(8)))
    with pytest.raises(ValueError, match="Features have inputs of shape"):
        Features(np.zeros((4, 3)), np.arange(3))
    with pytest.raises(ValueError, match=r"representation of row 1 is not finite \(of 2 of 3 rows\)"):
        Features(np.array([[0.0], [np.nan], [np.inf]]), np.arange(3))


def test_rows_that_the_collator_packs(make_model, make_batch):
    def pack(rows):
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows[:1]])}

    with pytest.raises(ValueError, match="made 1 rows of the 8 of the data set"):
        last_layer_features(make_model("vit"), rows_of(make_batch, "vit", 8), data_collator=pack)


def test_an_optimum_that_was_not_reached(make_model, make_batch):
    """A head that is half-way says nothing of the method: it is not written."""
    model = make_model("vit")
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"did not reach its optimum in 2 iterations .* raise max_iterations or l2"):
        retrain_last_layer(model, rows_of(make_batch, "vit", 40), max_iterations=2)
    assert not changed(before, model)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("rates", [[], [0.0], [-1.0, 1.0], [1e-3, 1e-3], [float("nan")]])
def test_rates_that_are_none(make_model, tmp_path, rates):
    with pytest.raises(ValueError, match="give one or more, each above 0 and once"):
        finetune_best_rate(lambda: make_model("vit"), numbered([0, 1]), arguments(tmp_path), rates, never)


def test_best_rate_needs_a_function_and_a_score(make_model, make_batch, tmp_path):
    dataset, args = rows_of(make_batch, "vit", 8), arguments(tmp_path, max_steps=1)
    with pytest.raises(TypeError, match="model_init is a ViTForImageClassification: every rate starts from the same"):
        finetune_best_rate(make_model("vit"), dataset, args, [1e-3], never)
    with pytest.raises(RuntimeError, match="gave a model whose score is a number: try smaller ones"):
        finetune_best_rate(lambda: make_model("vit"), dataset, args, [1e-3], lambda model: float("nan"))
