# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: its metadata and numbers are those of the run, and what a name holds stays text."""

import json
from types import SimpleNamespace

import pytest
from helpers.training import dataset
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from markdown_it import MarkdownIt
from peft import LoraConfig

from hf_cbft import CBFTConfig, CBFTTrainer, ConnectivityEvaluator
from hf_cbft.reporting.card_text import build_model_card
from hf_cbft.training.model_card import logged_sets

SETS = ("no_cue", "cue", "rand_cue", "rand_input")
HOSTILE = [
    "a\n---\nlicense: mit\n---",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "x | y | z",
    "![x](http://example.org/x.png)",
    "[x](javascript:alert(1))",
    "# heading\n# another",
    "`code` **bold** _it_ ~~gone~~",
    "```\nfence",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; \\<b>",
    "null: [1, 2]",
]


def rows(make_batch, seed):
    return dataset(make_batch("vit", 8, seed))


@pytest.fixture
def make_trainer(make_model, make_batch, tmp_path):
    """`make_trainer(model=None, **options)`: trained for four steps, and evaluated before, between and after."""

    def make(model=None, peft_config=None, **options):
        settings = {
            "output_dir": str(tmp_path / "birds"),
            "max_steps": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "eval_on_start": True,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        trainer = CBFTTrainer(
            make_model("vit") if model is None else model,
            args=CBFTConfig(**{**settings, **options}),
            train_dataset=rows(make_batch, 1),
            cue_dataset=rows(make_batch, 2),
            eval_dataset={name: rows(make_batch, 3 + seed) for seed, name in enumerate(SETS)},
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
            peft_config=peft_config,
        )
        trainer.train()
        return trainer

    return make


@pytest.fixture
def path(make_model, make_batch):
    evaluator = ConnectivityEvaluator(make_model("vit", seed=1), make_model("vit", seed=2))
    return evaluator.evaluate({"cue": rows(make_batch, 1)}, num_points=3, num_resamples=20)


def read(folder):
    """The metadata as the Hub gets it, checked by `huggingface_hub`, and the text."""
    card = ModelCard.load(folder / "README.md")
    data = metadata_load(folder / "README.md")
    if "model-index" in data:
        name, results = model_index_to_eval_results(data["model-index"])
        assert eval_results_to_model_index(name, results) == data["model-index"]
    assert data == card.data.to_dict()
    return data, card.text


def values(data):
    results = data["model-index"][0]["results"]
    return {(r["dataset"]["name"], m["type"]): m["value"] for r in results for m in r["metrics"]}


def cells(text, first):
    """The row of a table that starts with `first`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_is_told_as_it_was(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.create_model_card("en", "mit", "mine", dataset_tags="org/pictures", command=["hf-cbft", "train", "a b"])
    data, text = read(tmp_path / "birds")
    assert data["tags"] == ["hf-cbft", "mine"]
    assert (data["language"], data["license"], data["datasets"]) == (["en"], "mit", ["org/pictures"])
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "image-classification")
    assert "base_model" not in data  # made from a configuration
    log = {(entry["step"], key): value for entry in trainer.state.log_history for key, value in entry.items()}
    assert values(data) == {(name, "accuracy"): log[4, f"eval_{name}_accuracy"] for name in SETS}
    for name in SETS:
        both = [f"{log[step, f'eval_{name}_accuracy']:.3f}" for step in (0, 4)]
        assert cells(text, name)[2:] == both
    assert cells(text, "learning_rate")[1] == "0.01"
    assert cells(text, "steps")[1] == "4 of 4"
    assert cells(text, "barrier_stop_ratio")[1] == "0.5"
    assert "hf-cbft train 'a b'" in text
    assert "![The terms of the loss over the steps](training.png)" in text
    assert "arXiv:2211.08422" in text
    assert "@software{hf_cbft" in text
    # Nothing was measured along a path, so nothing is said of one.
    assert "connected" not in text.lower().replace("connectivity", "")
    assert {file.name for file in (tmp_path / "birds").iterdir()} == {"README.md", "training.png"}


def test_numbers_are_those_of_the_results_file(make_trainer, tmp_path):
    trainer = make_trainer()
    before = {"accuracy": {"no_cue": 0.123456789, "cue": 1.0}, "loss": {"cue": 2.0}, "perplexity": {"cue": None}}
    after = {"accuracy": {"no_cue": 0.7501, "cue": 0.25}, "perplexity": {"no_cue": 3.5}}
    results = {"before": before, "after": after, "log": [], "schema_version": 1}
    (tmp_path / "birds" / "results.json").write_text(json.dumps(results))
    trainer.create_model_card()
    data, text = read(tmp_path / "birds")
    assert data["metrics"] == ["accuracy", "perplexity"]
    expected = {(name, metric): value for metric, by_set in after.items() for name, value in by_set.items()}
    assert values(data) == expected
    assert cells(text, "no_cue")[2:] == ["0.123", "0.750", "-", "3.500"]
    assert cells(text, "cue")[2:] == ["1.000", "0.250", "-", "-"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"seeds": {}}', '{"before": {}, "after": {"accuracy": {"cue": "x"}}}']
)
def test_another_results_file_is_refused(make_trainer, tmp_path, content):
    trainer = make_trainer(max_steps=1, eval_strategy="no", eval_on_start=False)
    (tmp_path / "birds" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json does not hold what hf-cbft train measures"):
        trainer.create_model_card()
    assert not (tmp_path / "birds" / "README.md").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_a_measured_path_is_shown(make_trainer, path, tmp_path, saved):
    path.settings["start"] = "/home/somebody/pretrained"
    path.save(tmp_path / "path")
    make_trainer(eval_strategy="no", eval_on_start=False).create_model_card(
        connectivity=tmp_path / "path" if saved else path
    )
    data, text = read(tmp_path / "birds")
    barrier = path.barriers["cue"]
    verdict = {True: "yes", False: "no", None: "undecided"}[barrier.connected]
    losses, accuracies = path.losses["cue"][[0, -1]], path.metrics["cue"]["accuracy"][[0, -1]]
    numbers = [f"{value:.3f}" for value in (*losses, *accuracies, barrier.height)]
    assert cells(text, "cue") == ["cue", "8", *numbers, f"{barrier.low:.3f} to {barrier.high:.3f}", verdict]
    assert "(path.png)" in text
    assert (tmp_path / "birds" / "path.png").stat().st_size > 1000
    # Folders of this machine are nobody's business.
    assert "from pretrained (alpha 0)" in text
    assert "somebody" not in text
    assert "model-index" not in data  # the sets of the path are not said to be those of a test


@pytest.mark.parametrize(
    ("connectivity", "error", "message"),
    [("nowhere", FileNotFoundError, "nowhere holds no measured path"), (0.3, TypeError, "connectivity is a float")],
)
def test_what_is_no_measured_path_is_refused(make_trainer, connectivity, error, message):
    trainer = make_trainer(max_steps=1, eval_strategy="no", eval_on_start=False)
    with pytest.raises(error, match=message):
        trainer.create_model_card(connectivity=connectivity)


@pytest.mark.parametrize(
    ("terms", "said", "expected"),
    [
        ("license: cc-by-nc-nd-4.0", None, {"license": "cc-by-nc-nd-4.0"}),
        (
            "license: other\nlicense_name: mine\nlicense_link: LICENSE",
            None,
            {"license": "other", "license_name": "mine"},
        ),
        ("license: cc-by-nd-4.0", "apache-2.0", {"license": "apache-2.0"}),
        ("language: en", None, {}),
        ("license: [", None, {}),
    ],
)
def test_the_licence_of_the_base_is_shown_as_it_is(tmp_path, terms, said, expected):
    """Also one that forbids what is done here: that is for a person to judge. Damaged cards say nothing."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(f"---\n{terms}\n---\ntext\n")
    card = build_model_card(name="birds", source=str(tmp_path / "base"), license=said)
    data = card.data.to_dict()
    assert {name: data[name] for name in expected} == expected
    assert ("license" in data) == bool(expected)
    if expected:
        value = terms.split()[1]
        assert f"Licence of base, as its card gives it: {value}" in card.text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_name_holds_stays_text(text):
    path = {
        "settings": {"confidence": 0.95, "start": text, "end": text, "path": "linear", "tolerance": 0.1},
        "alphas": [0.0, 1.0],
        "num_examples": {text: 3},
        "losses": {text: [1.0, 2.0]},
        "metrics": {},
        "barriers": {text: {"height": 0.1, "low": None, "high": 1.0, "connected": None}},
    }
    said = {"dataset": text, "dataset_args": text, "dataset_tags": text, "language": text, "license": text}

    measured = {"accuracy": {text: 0.5}}
    card = build_model_card(
        name=text,
        source=text,
        tags=[text],
        before=measured,
        after=measured,
        path=path,
        settings={text: text},
        command=text,
        **said,
    )
    loaded = ModelCard(str(card))
    assert loaded.data.to_dict() == card.data.to_dict()
    assert loaded.data.model_name == " ".join(text.split())
    assert loaded.data.license == loaded.data.tags[1] == loaded.data.datasets[0] == loaded.data.model_name
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(loaded.text)
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "text_special", "softbreak", "code_inline"}
    code = [child.content for token in tokens for child in token.children or [] if child.type == "code_inline"]
    assert code == ["hf_cbft"]
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h1", "h2", "h2", "h2", "h2", "h3", "h2"]
    assert [token.info for token in tokens if token.type == "fence"] == ["bash", "bibtex"]
    assert sum(token.type == "tr_open" for token in tokens) == 6  # three tables of a head and a row
    assert not [token for token in tokens if token.type in ("html_block", "hr", "code_block")]


def test_an_adapter_is_told_as_peft_tells_it(make_trainer, make_model, tmp_path):
    """peft writes into the card whenever it saves: it finds its line there, and folders of this machine go."""
    make_model("vit").save_pretrained(tmp_path / "base")
    config = LoraConfig(target_modules=["query", "q_proj"], modules_to_save=["classifier"])
    trainer = make_trainer(str(tmp_path / "base"), config, eval_strategy="no", eval_on_start=False)
    trainer.save_model()
    assert f"base_model:adapter:{tmp_path}/base" in ModelCard.load(tmp_path / "birds" / "README.md").data.tags
    trainer.create_model_card()
    data, text = read(tmp_path / "birds")
    assert data["library_name"] == "peft"
    assert {"hf-cbft", "lora", "transformers"} == set(data["tags"])
    assert "An adapter fine-tuned from base with" in text
    assert str(tmp_path) not in text
    trainer.save_model()
    data, text = read(tmp_path / "birds")
    assert "hf-cbft" in data["tags"]
    assert text.count("- PEFT ") == 1


@pytest.mark.parametrize(("adapter", "relation"), [(True, "adapter"), (False, "finetune")])
def test_a_base_on_the_hub_is_named(adapter, relation):
    card = build_model_card(name="birds", source="org/base_model", adapter=adapter, tags=["base_model:adapter:org/x"])
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/base_model", relation)
    assert data["tags"] == ["hf-cbft", "base_model:adapter:org/x"]
    assert "from [org/base_model](https://huggingface.co/org/base_model) with" in card.text


@pytest.mark.parametrize(
    ("log", "state", "expected"),
    [
        # At the end of training.
        ([(0, "cue", 0.9), (2, "cue", 0.8), (4, "cue", 0.7)], {}, ({"cue": 0.9}, {"cue": 0.7})),
        # Of the best model, which was loaded.
        ([(0, "cue", 0.9), (2, "cue", 0.8), (4, "cue", 0.7)], {"best": 2}, ({"cue": 0.9}, {"cue": 0.8})),
        # What was evaluated after training is of the model as it is.
        ([(2, "cue", 0.8), (4, "cue", 0.7), None, (4, "x", 0.6)], {"best": 2}, ({}, {"cue": 0.8, "x": 0.6})),
        # Not trained: there is no after.
        ([(0, "cue", 0.9)], {"steps": 0}, ({"cue": 0.9}, {})),
        # One set without a name, and one that is not known.
        ([(4, "", 0.7), (4, "other", 0.1)], {}, ({}, {"evaluation": 0.7})),
    ],
)
def test_before_and_after_are_told_apart(log, state, expected):
    entries = [
        {"step": 4, "train_runtime": 1.0}
        if entry is None
        else {"step": entry[0], f"eval_{entry[1]}_accuracy".replace("__", "_"): entry[2]}
        for entry in log
    ]
    trainer = SimpleNamespace(
        args=SimpleNamespace(load_best_model_at_end="best" in state),
        state=SimpleNamespace(
            log_history=entries, global_step=state.get("steps", 4), best_global_step=state.get("best")
        ),
        eval_dataset={"x": None},
    )
    assert tuple(by_metric.get("accuracy", {}) for by_metric in logged_sets(trainer)) == expected


def test_other_ranks_write_nothing(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(max_steps=1, eval_strategy="no", eval_on_start=False)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    trainer.create_model_card()
    assert not (tmp_path / "birds" / "README.md").exists()
