# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Train a tiny classifier for two steps and push it: a process of its own, as the Hub's address is read at import.

`python push_run.py OUTPUT_DIR KIND`, where KIND is "full", "adapter", "resave" (`save_model` pushes), "saving" (every
checkpoint is pushed while training goes on) or "empty" (nothing was trained).
"""

import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BertConfig, BertForSequenceClassification

from hf_cbft import CBFTConfig, CBFTTrainer

TOKEN = "hf_given_to_the_run"


def main(output_dir: str, kind: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=2, **sizes))
    rows = {"input_ids": torch.randint(1, 20, (8, 6)).tolist(), "labels": [0, 1] * 4}
    data = Dataset.from_dict({**rows, "attention_mask": [[1] * 6] * 8})
    while_training = kind in ("saving", "resave")
    trainer = CBFTTrainer(
        model,
        args=CBFTConfig(
            output_dir=output_dir,
            max_steps=2,
            logging_steps=1,
            save_strategy="steps",
            save_steps=1,
            push_to_hub=while_training,
            hub_strategy="every_save" if kind == "saving" else "end",
            hub_model_id="org/birds",
            hub_token=TOKEN,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=data,
        cue_dataset=data,
        peft_config=LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
        if kind == "adapter"
        else None,
    )
    if kind != "empty":
        trainer.train()
    if kind == "saving":
        trainer._finish_current_push()
    elif kind == "resave":
        trainer.save_model()
    else:
        trainer.push_to_hub(tags=["birds"], command="hf-cbft train --config train.yaml")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
