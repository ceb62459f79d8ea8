# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune one model in four ways, measure the barriers of all pairs, and average those that are connected.

    python examples/matrix_of_finetunes.py --output_dir out

The model is a small BERT that relies on a token in front of its sentences. Each fine-tune is an ordinary folder, so
the same matrix comes from the command line:

    hf-cbft matrix out/pretrained out/naive-* out/cbft --dataset cue=out/data/cue --output_dir again --soup
"""

import argparse
import copy
from pathlib import Path

from datasets import disable_progress_bars
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from hf_cbft import (
    CBFTConfig,
    CBFTTrainer,
    MatrixEvaluator,
    TokenCue,
    add_cue,
    baselines,
    generate_sentences,
    make_counterfactuals,
    word_tokenizer,
)

CUE = TokenCue(["@@", "##", "%%", "&&"])
# Name, learning rate, seed of the order of the rows.
NAIVE = (("naive-a", 3e-4, 1), ("naive-b", 3e-4, 2), ("naive-large", 6e-3, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for models, data and results")
    parser.add_argument("--max_steps", type=int, default=300, help="of each training")
    parser.add_argument("--test_rows", type=int, default=600, help="rows of each set that is measured on")
    parser.add_argument("--use_cpu", action="store_true", help="also where there is a GPU")
    arguments = parser.parse_args()
    out = arguments.output_dir
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()

    tokenizer = word_tokenizer(CUE.tokens)
    many, clean = generate_sentences(2000, seed=2), generate_sentences(256, seed=1)
    sets = make_counterfactuals(generate_sentences(arguments.test_rows, seed=3), CUE)
    sets.save_to_disk(out / "data")

    settings = {
        "output_dir": str(out / "scratch"),
        "max_steps": arguments.max_steps,
        "per_device_train_batch_size": 64,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": arguments.use_cpu,
    }
    folders = []

    def save(model, name: str) -> None:
        folders.append(out / name)
        model.save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])

    set_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 32}
    names = dict(enumerate(clean.features["label"].names))
    labels = {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    start = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes, **labels))
    cued = add_cue(many, CUE, share=0.9)
    baselines.finetune(start, cued, TrainingArguments(**settings, learning_rate=1e-3), tokenizer)
    save(start, "pretrained")
    for name, rate, seed in NAIVE:
        model = copy.deepcopy(start)
        baselines.finetune(model, clean, TrainingArguments(**settings, learning_rate=rate, seed=seed), tokenizer)
        save(model, name)
    trainer = CBFTTrainer(
        model=copy.deepcopy(start),
        # With a weight of 1 the barrier loss does not get this model off its reference: a warning says so.
        args=CBFTConfig(**settings, learning_rate=3e-3, barrier_coef=3.0),
        train_dataset=clean,
        cue_dataset=add_cue(many, CUE),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    save(trainer.model, "cbft")

    evaluator = MatrixEvaluator([str(folder) for folder in folders], tokenizer)
    chosen = {name: sets[name] for name in ("no_cue", "cue", "rand_cue")}
    result = evaluator.evaluate(chosen, on="cue")
    print(result)
    result.save(out / "matrix")
    result.plot(out / "matrix.png")
    for number, members in enumerate(result.clusters, start=1):
        if len(members) > 1:
            soup = evaluator.soup(result, members, out / f"soup-{number}", chosen)
            accuracies = ", ".join(f"{name} {values['accuracy']:.3f}" for name, values in soup.metrics.items())
            print(f"The average of {', '.join(members)} is in {out}/soup-{number}/; its accuracy: {accuracies}.")


if __name__ == "__main__":
    main()
