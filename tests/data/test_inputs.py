# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Rows reach the model as it expects them, whichever of the usual forms they come in."""

import copy
import inspect

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft.data.columns import class_labels
from hf_cbft.data.inputs import InputCollator, drop_unused_columns
from hf_cbft.data.sentences import vocabulary, word_tokenizer

LABELS = ["labels", "label", "label_ids"]
PAD = 0


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """50 words, as many as the tiny models know."""
    words = ["[PAD]", "[UNK]", *vocabulary()[:48]]
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6, padding_side="right"
    )


@pytest.fixture(scope="module")
def image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 8, "width": 8})


def pixel_rows(label: str = "label") -> list[dict]:
    generator = np.random.default_rng(0)
    return [
        {"pixel_values": generator.normal(size=(3, 8, 8)).astype(np.float32), label: row, "name": f"row {row}"}
        for row in range(3)
    ]


def token_rows(label: str = "label") -> list[dict]:
    return [
        {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 1, 1], label: 2, "name": "long"},
        {"input_ids": [9, 3], "attention_mask": [1, 1], label: 1, "name": "short"},
    ]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_pixel_values_are_stacked(label, as_tensor, make_model):
    # Whatever the label column is called, the model's loss needs `labels`; a string column breaks the forward pass.
    rows = pixel_rows(label)
    if as_tensor:
        rows = [{**row, "pixel_values": torch.from_numpy(row["pixel_values"])} for row in rows]
    model = make_model("vit")
    batch = InputCollator(model)(rows)
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert torch.equal(batch["pixel_values"][1], torch.as_tensor(rows[1]["pixel_values"]))
    assert batch["labels"].tolist() == [0, 1, 2]
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("label", LABELS)
def test_input_ids_are_padded(label, make_model, tokenizer):
    # Padding that the mask does not cover is read as words.
    model = make_model("bert")
    batch = InputCollator(model, tokenizer)(token_rows(label))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 3, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [2, 1]
    assert torch.isfinite(model(**batch).loss)


def test_input_ids_without_a_tokenizer_are_stacked(make_model):
    # Rows of one length need no tokenizer.
    rows = [{**row, "input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]} for row in token_rows()]
    batch = InputCollator(make_model("bert"))(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3]] * 2
    assert batch["labels"].tolist() == [2, 1]


def test_a_tokenizer_does_not_stand_in_the_way_of_other_inputs(make_model, tokenizer):
    # Models of images and text have one `processing_class`; rows without `input_ids` are nothing to pad.
    batch = InputCollator(make_model("vit"), tokenizer)(pixel_rows())
    assert batch["pixel_values"].shape == (3, 3, 8, 8)


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_columns_that_the_model_does_not_take_are_left_out(name, make_model, tokenizer):
    # Numbers and lists beside the inputs would reach `forward` as unknown keywords, or fail to stack.
    rows = pixel_rows() if name == "vit" else token_rows()
    extra = [{"id": 7, "words": ["a"] * n, "score": 0.5} for n in range(1, 1 + len(rows))]
    rows = [{**row, **more} for row, more in zip(rows, extra, strict=True)]
    copies = [dict(row) for row in rows]
    batch = InputCollator(make_model(name), tokenizer if name == "bert" else None)(rows)
    assert set(batch) <= {"pixel_values", "input_ids", "attention_mask", "labels"}
    assert [set(row) for row in rows] == [set(row) for row in copies], "the caller's rows lost columns"


def test_without_a_model_nothing_is_left_out():
    # `remove_unused_columns=False` asks for it: a custom `compute_metrics` may need the numbers.
    batch = InputCollator()([{**row, "id": 7} for row in pixel_rows()])
    assert batch["id"].tolist() == [7, 7, 7]
    assert batch["labels"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("label", LABELS)
def test_images_go_through_the_image_processor(label, with_model, make_model, image_processor):
    # The processor's size and normalization are part of the checkpoint.
    images = [PILImage.new("RGB", size, color) for size, color in (((8, 8), (9, 90, 200)), ((20, 14), (0, 0, 0)))]
    rows = [{"image": image, label: row, "name": "x"} for row, image in enumerate(images)]
    model = make_model("vit")
    batch = InputCollator(model if with_model else None, image_processor)(rows)
    assert set(batch) == {"pixel_values", "labels"}
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == [0, 1]
    assert batch["labels"].dtype == torch.int64
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_every_mode_become_rgb(mode, image_processor):
    # One greyscale picture among a thousand would stop the run.
    image = PILImage.new("RGB", (8, 8), (200, 90, 9)).convert(mode)
    batch = InputCollator(None, image_processor)([{"image": image, "label": 0}, {"image": image, "label": 1}])
    expected = image_processor(images=[image.convert("RGB")] * 2, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_images_may_be_arrays(image_processor):
    # A set in NumPy format hands out arrays, which have no mode to convert.
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    collator = InputCollator(None, image_processor)
    one, other = (collator([{"image": image, "label": 0}]) for image in (array, PILImage.fromarray(array)))
    assert torch.equal(one["pixel_values"], other["pixel_values"])


@pytest.mark.parametrize("label", LABELS)
def test_texts_go_through_the_tokenizer(label, make_model, tokenizer):
    # Sentences are padded to the longest, and cut at the length that the model knows.
    words = vocabulary()[:48]
    texts = [" ".join(words[:3]), " ".join(words[4:14]), f"{words[0]} unheard"]
    rows = [{"text": text, label: row, "name": "x"} for row, text in enumerate(texts)]
    model = make_model("bert")
    batch = InputCollator(model, tokenizer)(rows)
    assert batch["input_ids"].tolist() == [[2, 3, 4, PAD, PAD, PAD], [6, 7, 8, 9, 10, 11], [2, 1, PAD, PAD, PAD, PAD]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 6, 2]
    assert batch["labels"].tolist() == [0, 1, 2]
    assert torch.isfinite(model(**batch).loss)


def test_short_texts_are_padded_to_the_longest_of_them(tokenizer):
    # Padding to the model's full length costs 512 positions for a sentence of ten.
    batch = InputCollator(None, tokenizer)([{"text": "a about after", "label": 0}, {"text": "a", "label": 1}])
    assert batch["input_ids"].shape == (2, 3)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_rows_without_labels_give_inputs_alone(kind, image_processor, tokenizer):
    # Prediction sets have no labels.
    row = {"image": PILImage.new("RGB", (8, 8))} if kind == "image" else {"text": vocabulary()[0]}
    batch = InputCollator(None, image_processor if kind == "image" else tokenizer)([row])
    assert "labels" not in batch


def test_model_inputs_come_before_raw_columns(make_model, tokenizer):
    # A set that keeps its `text` beside the `input_ids` is tokenized already, perhaps in a way of its own.
    rows = [{**row, "text": "rain"} for row in token_rows()]
    assert InputCollator(make_model("bert"), tokenizer)(rows)["input_ids"].tolist()[0] == [5, 6, 7, 8]


@pytest.mark.parametrize("other", [3, "cat"], ids=["number", "name"])
@pytest.mark.parametrize("kind", ["pixel_values", "input_ids", "image", "text"])
def test_labels_comes_before_label(kind, other, make_model, tokenizer, image_processor):
    # `class_labels` pairs by `labels`; the loss must not be that of the `label` beside it.
    rows = {
        "pixel_values": [{"pixel_values": np.zeros((3, 8, 8), np.float32)}] * 2,
        "input_ids": [{"input_ids": [3, 4]}] * 2,
        "image": [{"image": PILImage.new("RGB", (8, 8))}] * 2,
        "text": [{"text": "rain"}] * 2,
    }[kind]
    rows = [{**row, "label": other, "labels": label} for row, label in zip(rows, (0, 1), strict=True)]
    assert class_labels(rows, "D").tolist() == [0, 1]
    of_images = kind in ("pixel_values", "image")
    collator = InputCollator(make_model("vit" if of_images else "bert"), image_processor if of_images else tokenizer)
    assert collator(rows)["labels"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("column", "value"), [("image", PILImage.new("RGB", (8, 8))), ("text", "rain")], ids=["image", "text"]
)
@pytest.mark.parametrize("name", ["vit", "bert", None])
def test_raw_rows_need_a_processing_class(column, value, name, make_model):
    # Otherwise the forward pass fails with a message about missing `pixel_values`.
    message = (
        rf"The rows hold '{column}', not model inputs: pass the model's image processor or tokenizer as processing_"
    )
    collator = InputCollator(None if name is None else make_model(name))
    with pytest.raises(ValueError, match=message):
        collator([{column: value, "label": 0}])


class Recorder:
    def __init__(self) -> None:
        self.rows = None

    def __call__(self, rows: list) -> str:
        self.rows = rows
        return "batch"


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_the_users_collator_is_given_trimmed_rows(name, make_model, tokenizer):
    # As `Trainer` hands them over: model inputs and labels under their own name, nothing else.
    recorder = Recorder()
    rows = pixel_rows() if name == "vit" else token_rows()
    assert InputCollator(make_model(name), tokenizer, recorder)(rows) == "batch"
    inputs = {"pixel_values"} if name == "vit" else {"input_ids", "attention_mask"}
    assert [set(row) for row in recorder.rows] == [inputs | {"label"}] * len(rows)
    assert recorder.rows[0]["label"] == rows[0]["label"]


def test_the_users_collator_is_given_raw_rows_whole(make_model, image_processor):
    # It may read any column; the processing class does not come first.
    recorder = Recorder()
    rows = [{"image": PILImage.new("L", (8, 8)), "label": 0, "name": "x"}]
    assert InputCollator(make_model("vit"), image_processor, recorder)(rows) == "batch"
    assert recorder.rows == rows


def test_the_users_collator_is_given_all_columns_without_a_model():
    # `remove_unused_columns=False`.
    recorder = Recorder()
    InputCollator(None, None, recorder)(token_rows())
    assert recorder.rows == token_rows()


def test_rows_that_are_no_dicts_are_left_to_the_collator(make_model):
    # Some data sets give tuples or objects, which only the user's collator understands.
    recorder = Recorder()
    InputCollator(make_model("vit"), None, recorder)([("x", 1), ("y", 2)])
    assert recorder.rows == [("x", 1), ("y", 2)]


class Wrapper(torch.nn.Module):
    """`forward(*args, **kwargs)`, as a `peft.PeftModel` without a task type has it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def test_a_model_that_does_not_name_its_inputs_gets_them(make_model):
    # LoRA on an image model is such a wrapper: its batches would hold labels only.
    model = Wrapper(make_model("vit"))
    assert set(inspect.signature(model.forward).parameters) == {"args", "kwargs"}
    batch = InputCollator(model)([{k: v for k, v in row.items() if k != "name"} for row in pixel_rows()])
    assert set(batch) == {"pixel_values", "labels"}


@pytest.mark.parametrize("label", LABELS)
def test_model_inputs_and_labels_are_kept(label, make_model):
    # What else is in the set would be decoded and collated for nothing, or fail to stack.
    rows = Dataset.from_list(token_rows(label)).add_column("text", ["rain", "snow"])
    kept = drop_unused_columns(rows, make_model("bert"))
    assert kept.column_names == ["input_ids", "attention_mask", label]
    assert kept[1] == {"input_ids": [9, 3], "attention_mask": [1, 1], label: 1}
    assert rows.column_names == ["input_ids", "attention_mask", label, "name", "text"], "the caller's set was changed"


def test_a_format_survives_the_trimming(make_model):
    # Columns go, the tensors stay tensors.
    rows = Dataset.from_list(pixel_rows()).with_format("torch")
    kept = drop_unused_columns(rows, make_model("vit"))
    assert kept.column_names == ["pixel_values", "label"]
    assert isinstance(kept[0]["pixel_values"], torch.Tensor)


def test_raw_sets_keep_all_columns(make_model):
    # Without this the `text` that the collator tokenizes is gone.
    rows = Dataset.from_dict({"text": ["rain"], "name": ["x"], "label": [0]})
    assert drop_unused_columns(rows, make_model("bert")).column_names == ["text", "name", "label"]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=2), "name": Value("string")})
    rows = Dataset.from_dict({"image": [PILImage.new("L", (4, 4))], "label": [0], "name": ["x"]}, features=features)
    assert drop_unused_columns(rows, make_model("vit")).column_names == ["image", "label", "name"]


@pytest.mark.parametrize("holds_inputs", [False, True])
def test_transformed_sets_keep_all_columns(holds_inputs, make_model):
    # The transform reads columns that the model does not take.
    columns = {"image_file": ["a", "b"], "label": [0, 1]}
    if holds_inputs:
        columns["pixel_values"] = [[0.0], [0.0]]

    def transform(batch: dict) -> dict:
        return {"pixel_values": [[len(file)] for file in batch["image_file"]], "label": batch["label"]}

    rows = Dataset.from_dict(columns).with_transform(transform)
    assert drop_unused_columns(rows, make_model("vit"))[0] == {"pixel_values": [1], "label": 0}


@pytest.mark.parametrize(
    "rows",
    [
        [{"pixel_values": 1, "name": "x"}],
        torch.utils.data.TensorDataset(torch.ones(2)),
        Dataset.from_dict({"pixel_values": [1], "name": ["x"]}).to_iterable_dataset(),
    ],
    ids=["list", "torch", "stream"],
)
def test_other_data_sets_stay_as_they_are(rows, make_model):
    # Only a `datasets.Dataset` has columns to select; the collator trims the rest row by row.
    assert drop_unused_columns(rows, make_model("vit")) is rows


# Language models

PROMPTS = [
    {"prompt": "a after", "completion": "about", "label": 2, "name": "x"},
    {"prompt": "a", "completion": "again", "label": 0, "name": "y"},
]


@pytest.fixture(scope="module")
def end_tokenizer() -> PreTrainedTokenizerFast:
    """The 50 words with an end token, and room for 16."""
    words = ["[PAD]", "[UNK]", *vocabulary()[:47], "[EOS]"]
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=16
    )


def padding_on_the_left(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    other = copy.deepcopy(tokenizer)
    other.padding_side = "left"
    return other


def language_rows(*extra: str) -> list[dict]:
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8], "label": 3, "name": "long"},
        {"input_ids": [9, 3], "labels": [-100, 3], "label": 1, "name": "short"},
    ]
    return [{name: value for name, value in row.items() if name not in extra} for row in rows]


@pytest.mark.parametrize("with_model", [True, False])
def test_prompts_and_completions_become_token_labels(with_model, make_model, end_tokenizer):
    # The loss of a language model is that of the completion; the class goes with it for the class means.
    model = make_model("gpt2")
    batch = InputCollator(model if with_model else None, end_tokenizer)(PROMPTS)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "class_labels"}
    a, after, about, again = (end_tokenizer.convert_tokens_to_ids(word) for word in ("a", "after", "about", "again"))
    assert batch["input_ids"].tolist() == [[a, after, about, 49], [a, again, 49, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, about, 49], [-100, again, 49, -100]]
    assert batch["class_labels"].tolist() == [2, 0]
    assert batch["class_labels"].dtype == torch.int64
    batch.pop("class_labels")
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("label", ["labels", "label_ids"])
def test_the_class_of_a_prompt_may_have_any_label_name(label, make_model, end_tokenizer):
    # `labels` must not be taken for the token labels.
    rows = [{"prompt": r["prompt"], "completion": r["completion"], label: r["label"]} for r in PROMPTS]
    batch = InputCollator(make_model("gpt2"), end_tokenizer)(rows)
    assert batch["labels"].shape == (2, 4)
    assert batch["class_labels"].tolist() == [2, 0]


@pytest.mark.parametrize("label", [None, "good", True, 0.5])
def test_prompts_without_a_class_have_none(label, make_model, end_tokenizer):
    # A rating or a name beside the completion is no class.
    rows = [{k: v for k, v in row.items() if k != "label"} for row in PROMPTS]
    rows = rows if label is None else [{**row, "label": label} for row in rows]
    assert set(InputCollator(make_model("gpt2"), end_tokenizer)(rows)) == {"input_ids", "attention_mask", "labels"}


def test_prompts_need_a_tokenizer(make_model):
    with pytest.raises(
        ValueError, match="The rows hold a 'prompt' and a 'completion', not model inputs: pass the mod"
    ):
        InputCollator(make_model("gpt2"))(PROMPTS)


def test_the_tokenizer_of_a_processor_serves(make_model, end_tokenizer):
    # Models that also take images come with a processor around the tokenizer.
    processor = type("Processor", (), {"tokenizer": end_tokenizer})()
    model = make_model("gpt2")
    one, other = (InputCollator(model, given)(PROMPTS) for given in (processor, end_tokenizer))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("with_class", [True, False])
def test_token_labels_are_padded_with_the_tokens(with_class, with_model, make_model, end_tokenizer):
    # The tokenizer's own padding leaves them ragged, and padding that counts would be learnt.
    rows = language_rows() if with_class else language_rows("label")
    batch = InputCollator(make_model("gpt2") if with_model else None, end_tokenizer)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 3, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, 3, -100, -100]]
    assert ("class_labels" in batch) == with_class
    if with_class:
        assert batch["class_labels"].tolist() == [3, 1]


def test_padding_on_the_left_counts_positions_from_the_first_token(make_model, end_tokenizer):
    # GPT-2 knows a token by its position, which padding in front of it would move.
    left = padding_on_the_left(end_tokenizer)
    batch = InputCollator(make_model("gpt2"), left)(language_rows())
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_positions_are_given_to_models_that_take_them_only(make_model, end_tokenizer):
    model = make_model("gpt2")
    without = torch.nn.Module()
    without.forward = lambda input_ids=None, attention_mask=None, labels=None: None
    for given, expected in ((model, True), (without, False)):
        batch = InputCollator(given, padding_on_the_left(end_tokenizer))(language_rows())
        assert ("position_ids" in batch) == expected


def test_positions_of_the_rows_are_kept(make_model, end_tokenizer):
    # Rows that were packed before restart theirs in the middle.
    rows = [{**row, "position_ids": list(range(len(row["input_ids"])))} for row in language_rows()]
    batch = InputCollator(make_model("gpt2"), end_tokenizer)(rows)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]


def test_numbers_beside_token_labels_are_kept_without_a_model(end_tokenizer):
    # As for other rows: `remove_unused_columns=False` asks for it.
    batch = InputCollator(None, end_tokenizer)([{**row, "id": 7} for row in language_rows()])
    assert batch["id"].tolist() == [7, 7]
    assert set(batch) == {"input_ids", "attention_mask", "labels", "class_labels", "id"}


def test_labels_of_many_classes_are_not_token_labels(make_model, tokenizer):
    # As many tokens as classes: floats are targets of a multi-label classifier.
    rows = [{"input_ids": [5, 6], "labels": [0.0, 1.0]}, {"input_ids": [7, 8], "labels": [1.0, 1.0]}]
    batch = InputCollator(make_model("bert"), tokenizer)(rows)
    assert batch["labels"].dtype == torch.float32
    rows = [{"input_ids": [5, 6, 7], "labels": [0, 1]}, {"input_ids": [7, 8], "labels": [1, 1]}]
    assert InputCollator(make_model("bert"), tokenizer)(rows)["labels"].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("rows", [language_rows(), PROMPTS], ids=["tokens", "prompts"])
def test_packing_is_the_users_collator(rows, make_model, end_tokenizer):
    # One long row without padding, in which positions start again with each sequence.
    batch = InputCollator(make_model("gpt2"), end_tokenizer, DataCollatorWithFlattening())(rows)
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    padded = InputCollator(make_model("gpt2"), end_tokenizer)(rows)
    counted = padded["labels"] != -100
    assert batch["labels"][batch["labels"] != -100].tolist() == padded["labels"][counted].tolist()
    assert (batch["position_ids"] == 0).sum() == 2


def test_a_users_collator_of_tokens_never_sees_the_class(make_model, end_tokenizer):
    # Transformers' own take a column `label` for the labels.
    collator = DataCollatorForSeq2Seq(end_tokenizer)
    batch = InputCollator(make_model("gpt2"), end_tokenizer, collator)(language_rows())
    assert batch["labels"].shape == (2, 4)
    assert batch["class_labels"].tolist() == [3, 1]


def test_the_users_collator_is_given_prompts_whole(make_model, end_tokenizer):
    # It may build sequences of its own from them.
    recorder = Recorder()
    assert InputCollator(make_model("gpt2"), end_tokenizer, recorder)(PROMPTS) == "batch"
    assert recorder.rows == PROMPTS


@pytest.mark.parametrize("name", ["input_values", "input_features"])
def test_sounds_are_model_inputs_without_a_model(name):
    # A transcript in `text` beside them is no input of an audio classifier.
    rows = [{name: np.ones((4, 6), np.float32), "text": "rain", "label": row} for row in range(2)]
    batch = InputCollator()(rows)
    assert batch[name].shape == (2, 4, 6)
    assert batch["labels"].tolist() == [0, 1]


def test_sets_of_prompts_and_of_tokens_keep_what_is_needed(make_model):
    # The class pairs the rows; without the prompt there is nothing to tokenize.
    prompts = Dataset.from_list(PROMPTS)
    assert drop_unused_columns(prompts, make_model("gpt2")).column_names == ["prompt", "completion", "label", "name"]
    tokens = Dataset.from_list(language_rows())
    assert drop_unused_columns(tokens, make_model("gpt2")).column_names == ["input_ids", "labels", "label"]


# Pairs of texts, and sounds


def test_a_pair_of_texts_is_one_input():
    # Entailment without its second sentence is a guess.
    tokenizer = word_tokenizer()
    rows = [
        {"text": "a storm today", "text_pair": "weather", "label": 1},
        {"text": "rain", "text_pair": "snow and rain", "label": 0},
    ]
    batch = InputCollator(processing_class=tokenizer)(rows)
    expected = tokenizer(["a storm today", "rain"], ["weather", "snow and rain"], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    alone = tokenizer(["a storm today", "rain"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape != alone["input_ids"].shape
    assert batch["labels"].tolist() == [1, 0]


def test_sounds_go_through_the_feature_extractor():
    # Sounds of another rate play slower or faster: another input without a word.
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    rows = [{"audio": {"array": np.sin(np.arange(n)), "sampling_rate": 8000}, "label": 1} for n in (20, 30)]
    batch = InputCollator(processing_class=extractor)(rows)
    expected = extractor([r["audio"]["array"].astype("f4") for r in rows], sampling_rate=8000, padding=True)
    assert np.array_equal(batch["input_values"].numpy(), np.stack(expected["input_values"]))
    assert batch["attention_mask"].sum(dim=1).tolist() == [20, 30]
    assert batch["labels"].tolist() == [1, 1]
    rows[1]["audio"]["sampling_rate"] = 16000
    with pytest.raises(ValueError, match="A sound has a sampling rate of 16000 Hz, and the model hears 8000 Hz"):
        InputCollator(processing_class=extractor)(rows)
