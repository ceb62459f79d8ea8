# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a model and its rows are trained for: classes, tokens, and what is left out with a warning."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.func import functional_call
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_cbft import CBFTConfig, CBFTTrainer, invariance_loss
from hf_cbft.architectures import base_model, has_adapter
from hf_cbft.tasks.causal_lm import CausalLM
from hf_cbft.tasks.registry import task_of
from hf_cbft.training.plan import plan_training

NUM_CLASSES = 4


def config(folder, **options) -> CBFTConfig:
    defaults = {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return CBFTConfig(**{**defaults, **options})


def make_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def language_rows(num_rows: int, seed: int, classes: bool = True) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (num_rows, 8), generator=generator)
    counted = torch.arange(8)[None] > torch.arange(num_rows)[:, None] % 5
    rows = {"input_ids": ids.tolist(), "labels": ids.masked_fill(~counted, -100).tolist()}
    if classes:
        rows["label"] = [row % NUM_CLASSES for row in range(num_rows)]
    return Dataset.from_dict(rows)


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr("hf_cbft.tasks.causal_lm.logger.warning", found.append)
    return found


def test_models_are_told_apart_through_their_adapters(make_model):
    bert, gpt2 = make_model("bert"), make_model("gpt2")
    assert [isinstance(task_of(model), CausalLM) for model in (bert, gpt2, make_llama())] == [False, True, True]
    adapted = get_peft_model(gpt2, LoraConfig(target_modules=["c_attn"]))
    assert isinstance(task_of(adapted), CausalLM)
    assert [has_adapter(model) for model in (bert, adapted, None)] == [False, True, False]
    assert base_model(adapted) is gpt2
    assert base_model(bert) is bert


@pytest.mark.parametrize("adapter", [False, True])
def test_a_language_model_with_classes_reads_what_enters_its_head(adapter, make_model, tmp_path, warnings):
    model = make_model("gpt2")
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["c_attn"]))
    task, plan = plan_training(model, language_rows(8, 1), language_rows(8, 2))
    assert isinstance(task, CausalLM)
    assert plan.pairing == "class"
    assert model.get_submodule(plan.layer_name) is base_model(model).lm_head
    assert plan.num_classes == NUM_CLASSES
    assert warnings == []


def test_without_classes_there_is_one_warning_and_no_invariance_loss(make_model, tmp_path, warnings):
    rows = language_rows(8, 1, classes=False)
    _, plan = plan_training(make_model("gpt2"), rows, language_rows(8, 2))
    assert (plan.layer_name, plan.pairing) == (None, "random")
    assert len(warnings) == 1
    assert "no class column (label)" in warnings[0]
    quiet = {"reads": False, "pairing": "index"}
    assert plan_training(make_model("gpt2"), rows, rows, **quiet)[1].pairing == "index"
    assert len(warnings) == 1


def test_a_language_model_without_invariance_coefficient_reads_no_layer(make_model, tmp_path, warnings):
    rows = language_rows(8, 1), language_rows(8, 2)
    plan = CBFTTrainer(make_model("gpt2"), None, config(tmp_path, invariance_coef=0.0), None, *rows).plan
    assert (plan.layer_name, plan.pairing) == (None, "class")


def test_the_layer_of_a_language_model_can_be_named(make_model, tmp_path):
    rows = language_rows(8, 1), language_rows(8, 2)
    args = config(tmp_path, representation_layer="transformer.h.1")
    assert CBFTTrainer(make_model("gpt2"), None, args, None, *rows).plan.layer_name == "transformer.h.1"


@pytest.mark.parametrize("columns", [["text", "label"], ["prompt", "label"]])
def test_rows_that_are_no_completions_are_refused(columns, make_model, tmp_path):
    rows = Dataset.from_dict({columns[0]: ["a", "b"], columns[1]: [0, 1]})
    with pytest.raises(ValueError, match=f"cue_dataset has the columns {', '.join(sorted(columns))}, and a causal"):
        plan_training(make_model("gpt2"), language_rows(8, 1), rows)


def test_a_packed_batch_has_no_classes(make_model, tmp_path):
    with pytest.raises(ValueError, match="packs a batch into one row, which has no class"):
        CBFTTrainer(
            make_model("gpt2"),
            args=config(tmp_path),
            data_collator=DataCollatorWithFlattening(),
            train_dataset=language_rows(8, 1),
            cue_dataset=language_rows(8, 2),
        )


class Recorder(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def token_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama lora"])
def test_gradient_of_one_step_of_a_language_model_with_classes(name, checkpointing, table, make_model, tmp_path):
    # Clean tokens, path tokens and class means of pooled states, in one graph and in float64.
    model = (make_model("gpt2") if name == "gpt2" else make_llama()).double()
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: token_loss(logits, labels)
    plain = (make_model("gpt2") if name == "gpt2" else make_llama()).double().train()
    trained = model
    if name == "llama lora":
        trained = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    reference = {n: p.detach().clone() for n, p in plain.named_parameters()}
    if name != "llama lora":
        generator = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    leaves = {n: p.detach().clone().requires_grad_() for n, p in trained.named_parameters() if p.requires_grad}
    if name == "llama lora":
        end = dict(reference)
        for layer in range(2):
            target = f"model.layers.{layer}.self_attn.q_proj"
            a, b = (leaves[f"base_model.model.{target}.lora_{f}.default.weight"] for f in "AB")
            end[f"{target}.weight"] = end[f"{target}.weight"] + 4.0 * (b @ a)  # lora_alpha / r
        end["lm_head.weight"] = leaves["base_model.model.lm_head.modules_to_save.default.weight"]
        ref_model = plain
    else:
        end = leaves
        ref_model = type(plain)(plain.config).double()
        ref_model.load_state_dict(plain.state_dict())
    args = config(
        tmp_path,
        ref_loss=0.25,
        barrier_coef=0.7,
        invariance_coef=2.5,
        alpha_min=0.5,  # a power of two: as a factor before or after the float32 of Llama's norms, others round
        alpha_max=0.5,
        invariance_warmup_ratio=0.0,
        barrier_stop_ratio=1.0,
        pairing="index",
        train_sampling_strategy="sequential",
        activation_checkpointing=checkpointing,
    )
    clean, cue, recorder = language_rows(8, 1), language_rows(8, 2), Recorder()

    def collator(rows):  # the classes are put beside
        return {column: torch.tensor([row[column] for row in rows]) for column in ("input_ids", "labels")}

    CBFTTrainer(
        trained,
        ref_model,
        args,
        data_collator=collator,
        train_dataset=clean,
        cue_dataset=cue,
        callbacks=[recorder],
    ).train()
    alpha = 0.5
    point = {n: (1 - alpha) * reference[n] + alpha * end[n] for n in end}

    def run(weights, rows):
        batch = collator(rows.to_list())
        outputs = functional_call(plain, weights, (batch["input_ids"],), {"output_hidden_states": True})
        states = outputs.hidden_states[-1]  # after the final norm
        pooled = []
        for row, labels in zip(states, batch["labels"], strict=True):
            predicts = [t for t in range(7) if labels[t + 1] != -100]
            pooled.append(row[predicts].mean(dim=0))
        return token_loss(outputs.logits, batch["labels"]), torch.stack(pooled), torch.tensor(rows["label"])

    clean_loss, clean_states, clean_classes = run(end, clean)
    _, cue_states, cue_classes = run(end, cue)
    path_loss, _, _ = run(point, cue)
    total = clean_loss + 0.7 * (0.25 + 1.0 - path_loss).abs()
    total = total + 2.5 * invariance_loss(clean_states, clean_classes, cue_states, cue_classes, NUM_CLASSES)
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    assert recorder.gradients.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    error = max((recorder.gradients[n] - gradient).abs().max() for n, gradient in expected.items()) / largest
    table.append((name, "checkpointing" if checkpointing else "no checkpointing", error))
    assert error <= (1e-10 if name == "gpt2" else 1e-8)
