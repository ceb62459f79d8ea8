# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The step on sharded modules, in a hand-written loop, because accelerate shards on GPUs only.

Run by `torchrun --nproc-per-node 2 run_fsdp2.py FOLDER`: each rank shards the model, takes its half of the batch, and
rank 0 compares the gathered gradients and weights with those of the whole model on the whole batch.
"""

import copy
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from run_trainer import make_bert, make_gpt2
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hf_cbft.paths.interpolation import evaluation_mode, local, named_weights
from hf_cbft.references.adapter import adapter_reference
from hf_cbft.references.weights import weight_reference
from hf_cbft.representations import find_representation_layer
from hf_cbft.tasks.registry import task_of
from hf_cbft.tasks.task import TrainingPlan
from hf_cbft.training.step import CBFTStep
from hf_cbft.training.terms import BarrierTerm, InvarianceTerm

ALPHAS = (0.25, 0.6, 0.5)
NUM_CLASSES = 4


def make_case(name: str):
    """A model, its reference model, and the layers that are sharded one by one."""
    torch.manual_seed(0)
    plain = make_gpt2() if name == "gpt2" else make_bert()
    ref_model = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in ref_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if name.startswith("lora"):
        config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
        model = get_peft_model(plain, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        ref_model = None  # a frozen copy of the adapter
    else:
        model = plain
    if name == "checkpointing":
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.double().train(), None if ref_model is None else ref_model.double()


def make_reference(model, ref_model):
    return (adapter_reference if ref_model is None else weight_reference)(model, ref_model)


TERMS = [BarrierTerm(0.7, 6.0), InvarianceTerm(2.5)]


def make_step(name: str, model) -> CBFTStep:
    if name == "gpt2":
        head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
        plan = TrainingPlan("class", head, NUM_CLASSES)
    else:
        layer, _ = find_representation_layer(model, NUM_CLASSES)
        plan = TrainingPlan("class", layer, NUM_CLASSES, gives_logits=True)
    return CBFTStep(task_of(model), plan, ref_loss=0.25)


def make_batch(name: str, seed: int):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (8, 6), generator=generator)
    classes = torch.arange(8) % NUM_CLASSES
    if name != "gpt2":
        return {"input_ids": ids, "labels": classes}
    labels = ids.masked_fill(torch.arange(6)[None] < 1 + torch.arange(8)[:, None] % 4, -100)
    return {"input_ids": ids, "labels": labels, "class_labels": classes}


def train(name, model, reference, batches, halves):
    """Three steps of SGD; gives the values and the gradients of the first."""
    step, optimizer = make_step(name, model), torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    first = None
    for alpha, (clean, cue) in zip(ALPHAS, batches, strict=True):
        with torch.no_grad(), evaluation_mode(model), reference.at(model, 0.0):
            ref_loss, _ = step.task.loss(model, halves(cue))  # leaves FSDP2 with gathered weights of the reference
        # The last step goes without a barrier, straight after that.
        on_path = reference if alpha != ALPHAS[-1] else None
        _, terms = step(model, model, on_path, {"clean": halves(clean), "cue": halves(cue)}, alpha, TERMS)
        if first is None:
            gradients = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
            first = {"terms": {n: v.item() for n, v in terms.items()}, "gradients": gradients, "ref_loss": ref_loss}
        optimizer.step()
        optimizer.zero_grad()
    return first, {name: whole(weight) for name, weight in named_weights(model).items()}


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def plain_names(tensors):
    return {name.replace("_checkpoint_wrapped_module.", ""): tensor for name, tensor in tensors.items()}


def difference(found, expected):
    assert found.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for tensor in expected.values())
    return max((found[n] - expected[n]).abs().max().item() for n in expected) / largest


CASES = ("bert", "checkpointing", "gpt2", "lora", "lora, wrapped")


def make_batches(name: str):
    return [(make_batch(name, 2 * i), make_batch(name, 2 * i + 1)) for i in range(len(ALPHAS))]


def train_alone(name: str):
    model, ref_model = make_case(name)
    return train(name, model, make_reference(model, ref_model), make_batches(name), lambda batch: batch)


def train_sharded(name: str):
    model, ref_model = make_case(name)
    reference = make_reference(model, ref_model)
    base = model.get_base_model() if name.startswith("lora") else model
    if name == "lora, wrapped":  # as accelerate does for fsdp_activation_checkpointing
        apply_activation_checkpointing(base, check_fn=lambda module: module in set(base.bert.encoder.layer))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in base.transformer.h if name == "gpt2" else base.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    reference.settle(model)
    kept, live = (reference.others if name.startswith("lora") else reference).weights, named_weights(model)
    facts = {
        "sharded": all(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "kept alike": all(weight.shape == local(live[n]).shape for n, weight in kept.items()),
        "kept": sum(weight.numel() for weight in kept.values()),
        "whole": sum(live[n].numel() for n in kept),
    }
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    first, weights = train(name, model, reference, make_batches(name), lambda b: {n: v[half] for n, v in b.items()})
    return facts, first, weights


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    alone = {name: train_alone(name) for name in CASES}  # before there is a group that sums over ranks
    dist.init_process_group("gloo")
    results = {}
    for name in CASES:
        facts, first, weights = train_sharded(name)
        expected, after = alone[name]
        results[name] = {
            **facts,
            "gradients": difference(plain_names(first["gradients"]), expected["gradients"]),
            "weights": difference(plain_names(weights), after),
            "terms": max(abs(first["terms"][n] - value) for n, value in expected["terms"].items()),
        }
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads of several meshes abort an ordinary exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
