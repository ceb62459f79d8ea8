# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""How long CBFT takes to the first step at which a model is off its cue and still good: RI <= 15 % and NC >= 75 %.

    python tests/benchmarks/time_to_criterion.py --seeds 0 1 2

The model is `resnet18-16` of `examples/paper`, with its recipe. Beside it stands what the authors' code would take
with our naive step: 3.17 of its own naive steps a step, and 46 steps to the criterion (learning rate 0.03; its RI
takes an image of another class, and counts 10 points less for a model that ignores the cue). Seconds are those of the
processor, on one thread: on a shared machine others do not count.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import datasets
import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from hf_cbft import CBFTConfig, CBFTTrainer, baselines

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from paper.methods import accuracies, pretrain
from paper.problems import as_inputs, load_problem, recipe_for

MODEL = "resnet18-16"
AUTHORS_STEP, AUTHORS_STEPS = 3.17, 46
HIGHEST_RI, LOWEST_NC = 0.15, 0.75
NAIVE_STEPS = 60


class Watch(TrainerCallback):
    """Measures NC and RI after every `every` steps, off the clock, until the criterion holds."""

    def __init__(self, problem, every: int) -> None:
        sets = {name: as_inputs(problem.test[name], problem.processing_class) for name in ("no_cue", "rand_input")}
        self.problem, self.sets, self.every = problem, sets, every
        self.seconds, self.since = 0.0, 0.0
        self.reached = None

    def on_step_begin(self, args, state, control, **kwargs):
        self.since = time.process_time()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seconds += time.process_time() - self.since
        if state.global_step % self.every:
            return
        found = {name: values["accuracy"] for name, values in accuracies(model, self.problem, self.sets).items()}
        if found["rand_input"] <= HIGHEST_RI and found["no_cue"] >= LOWEST_NC:
            self.reached = state.global_step, self.seconds, found
            control.should_training_stop = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=2, help="steps between two looks at the model")
    parser.add_argument("--learning_rate", type=float, default=None, help="default: the recipe's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    recipe = recipe_for("digits", MODEL)
    rate = options.learning_rate or recipe.cbft_lr
    for seed in options.seeds:
        problem = load_problem("digits", MODEL, None, seed, recipe)
        with tempfile.TemporaryDirectory() as scratch:
            model = pretrain(problem, seed, scratch, "cpu")
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            naive = {**recipe.training_arguments(scratch, recipe.medium_lr, seed, "cpu"), "max_steps": NAIVE_STEPS}
            clock = Watch(problem, every=NAIVE_STEPS + 1)
            args = TrainingArguments(**naive, remove_unused_columns=False)
            baselines.finetune(model, problem.clean, args, problem.processing_class, callbacks=[clock])
            naive_step = clock.seconds / NAIVE_STEPS
            model.load_state_dict(weights)
            watch = Watch(problem, options.every)
            trainer = CBFTTrainer(
                model=model,
                args=CBFTConfig(
                    **recipe.training_arguments(scratch, rate, seed, "cpu"), invariance_coef=recipe.invariance_coef
                ),
                train_dataset=problem.clean,
                cue_dataset=problem.cue_dataset,
                processing_class=problem.processing_class,
                callbacks=[watch],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        budget = AUTHORS_STEP * naive_step * AUTHORS_STEPS
        said = f"seed {seed}: a naive step {1000 * naive_step:.1f} ms, {AUTHORS_STEPS} of their steps {budget:.1f} s; "
        if watch.reached is None:
            print(f"{said}CBFT at {rate:g} not in {recipe.steps} steps ({watch.seconds:.1f} s)", flush=True)
        else:
            step, seconds, found = watch.reached
            print(
                f"{said}CBFT at {rate:g} after {step} steps, {seconds:.1f} s, {seconds / budget:.2f} of that "
                f"(NC {100 * found['no_cue']:.1f}, RI {100 * found['rand_input']:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
