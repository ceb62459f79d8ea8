# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluator on each of its kinds of models, on one process or several.

`torchrun --nproc-per-node 2 run_evaluator.py FOLDER` writes what each rank got; `measure_all(folder)` does the same in
the process that calls it.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
)

import hf_cbft
from hf_cbft import ConnectivityEvaluator
from hf_cbft.data.sentences import word_tokenizer
from hf_cbft.distributed import rank, world_size

CASES = ["bert", "three rows", "language model", "batchnorm", "lora", "groups", "aligned"]
CASES += ["sharded", "sharded, three rows"]
OPTIONS = {"num_points": 4, "num_resamples": 100}
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "num_labels": 4,
}


def make_model(kind: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    elif kind == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
        model = ResNetForImageClassification(config)
    else:
        model = BertForSequenceClassification(BertConfig(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def make_rows(kind: str, number: int) -> list[dict]:
    generator = torch.Generator().manual_seed(7)
    rows = []
    for index in range(number):
        if kind == "resnet":
            rows.append({"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": index % 4})
            continue
        ids = torch.randint(1, 50, (4 + index % 5,), generator=generator).tolist()
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": index % 4, "place": "ab"[index % 2]}
        if kind == "gpt2":
            row["labels"] = [-100] * (1 + index % 3) + ids[1 + index % 3 :]
        rows.append(row)
    return rows


def make_evaluator(case: str, folder: Path) -> ConnectivityEvaluator:
    kind = {"language model": "gpt2", "batchnorm": "resnet"}.get(case, "bert")
    start, end = make_model(kind, 1), make_model(kind, 2)
    options = {"batch_size": 4, "processing_class": word_tokenizer()}
    if case == "batchnorm":
        options["calibration_dataset"] = make_rows(kind, 13)  # the last batch of one joins the one before
    if case == "aligned":
        options["align"] = "weights"  # found on the main rank, which need not have the others' rounding
    if case == "lora":
        end = get_peft_model(make_model(kind, 1), LoraConfig(target_modules=["query"], init_lora_weights=False))
    if case.startswith("sharded") and world_size() > 1:
        mesh = init_device_mesh("cpu", (world_size(),))
        for layer in start.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(start, mesh=mesh)
        assert all(isinstance(parameter, DTensor) for parameter in start.parameters())
    return ConnectivityEvaluator(start, end, **options)


def measure(case: str, folder: Path) -> dict:
    kind = {"language model": "gpt2", "batchnorm": "resnet"}.get(case, "bert")
    number = 3 if "three rows" in case else 21
    options = {"group_column": "place"} if case == "groups" else {}
    evaluator = make_evaluator(case, folder)
    result = evaluator.evaluate({"rows": make_rows(kind, number)}, **OPTIONS, **options)
    if case == "bert":  # what is stored is not measured again, whoever stored it
        again = evaluator.evaluate({"rows": make_rows(kind, number)}, **OPTIONS, resume_dir=folder / "points")
        assert again.to_dict() == result.to_dict()
    rows = {"rows": make_rows(kind, number)}
    here = hf_cbft.measure(evaluator.model, rows, evaluator.processing_class, batch_size=4)
    return {**result.to_dict(), "example_losses": result.example_losses["rows"].tolist(), "where it stands": here}


def measure_all(folder: Path) -> dict[str, dict]:
    return {case: measure(case, folder) for case in CASES}


def fail(what: str) -> str:
    """What an evaluation says where rank 1 alone cannot read a row, or has no memory for a batch."""
    evaluator = make_evaluator("bert", Path())
    scorer = type(evaluator.measurer.task).outputs

    def failing(self, model, batch):
        if rank() == 1 and (what == "row" or len(batch["labels"]) > 2):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory" if what == "memory" else "no such row")
        return scorer(self, model, batch)

    type(evaluator.measurer.task).outputs = failing
    try:
        return json.dumps(evaluator.evaluate({"rows": make_rows("bert", 21)}, **OPTIONS).to_dict())
    except RuntimeError as error:
        return str(error)
    finally:
        type(evaluator.measurer.task).outputs = scorer


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = measure_all(folder)
    found["failures"] = {what: fail(what) for what in ("row", "memory")}
    (folder / f"rank{rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo with several meshes can abort while it is torn down


if __name__ == "__main__":
    main(Path(sys.argv[1]))
