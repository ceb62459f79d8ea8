# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The model card that a trainer writes, of what was done and measured and nothing else; and the push to the Hub."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from transformers import TrainingArguments
from transformers.modelcard import TASK_MAPPING

from hf_cbft import __version__
from hf_cbft.architectures import base_model, class_name, has_adapter
from hf_cbft.connectivity.results import ConnectivityResult
from hf_cbft.distributed import on_main_rank
from hf_cbft.files import write_text
from hf_cbft.reporting.card_text import METRICS, SETS, TAG, Measured, as_list, build_model_card, public_name
from hf_cbft.reporting.plotting import has_terms, logged, plot_result, plot_training
from hf_cbft.training.terms import BarrierTerm

# What of `TrainingArguments` decides a run, beside CBFT's own fields.
_SETTINGS = (
    "learning_rate lr_scheduler_type warmup_steps optim weight_decay max_grad_norm per_device_train_batch_size "
    "gradient_accumulation_steps world_size label_smoothing_factor bf16 fp16 seed data_seed"
)
# Checkpoints; the reference, which is another model's weights; and a pickle that holds the token of `hub_token`.
_NOT_PUSHED = ("_*", "checkpoint-*", "training_args.bin")


def write_model_card(
    trainer: Any,
    *,
    connectivity: ConnectivityResult | str | Path | None = None,
    command: str | Sequence[str] | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    **said: Any,
) -> None:
    """Write `README.md` into a trainer's `output_dir`, and `training.png` and `path.png` where there is data for them.

    The arguments are those of [`CBFTTrainer.create_model_card`].

    Raises:
        FileNotFoundError: `connectivity` is a folder without a measured path.
        TypeError: `connectivity` is something else.
        ValueError: `results.json` does not hold what was measured.
    """
    folder, log, model = Path(trainer.args.output_dir), trainer.state.log_history, base_model(trainer.model)
    path = _path_of(connectivity)
    if hasattr(model, "add_model_tags"):  # peft writes its own tags and these whenever an adapter is saved
        model.add_model_tags(TAG)
    results = folder / "results.json"
    before, after = read_measured_sets(results) if results.is_file() else logged_sets(trainer)
    pictures = {}
    if has_terms(log):
        steps, barrier = trainer.state.max_steps, next((t for t in trainer.terms if isinstance(t, BarrierTerm)), None)
        stop = steps if barrier is None else math.ceil(barrier.stop_ratio * steps)
        plot_training(log, folder / "training.png", stop if 0 < stop < steps else None)
        pictures["training"] = "training.png"
    if path is not None:
        plot_result(path, folder / "path.png")
        pictures["path"] = "path.png"
    card = build_model_card(
        name=model_name or folder.absolute().name,
        source=finetuned_from or str(getattr(model.config, "_name_or_path", "")),
        adapter=has_adapter(trainer.model),
        task=next(iter(as_list(tasks)), None) or _task_of(model),
        tags=[*as_list(tags), *_tags_of(folder / "README.md")],
        before=before,
        after=after,
        settings=_settings(trainer),
        path=path,
        pictures=pictures,
        command=command,
        **said,
    )
    write_text(folder / "README.md", f"{card}\n")


# What was measured


def logged_sets(trainer: Any) -> tuple[Measured, Measured]:
    """What evaluations left in a trainer's log: of the model before training, and of the model as it is now.

    A single evaluation set is called `evaluation`. Evaluations at steps between are of other weights.
    """
    log, state = trainer.state.log_history, trainer.state
    names = [*SETS, *(trainer.eval_dataset if isinstance(trainer.eval_dataset, Mapping) else ())]
    step = state.best_global_step if trainer.args.load_best_model_at_end else state.global_step
    ended = max((index for index, entry in enumerate(log) if "train_runtime" in entry), default=len(log))
    found: tuple[Any, Any] = ({}, {})
    for index, entry in enumerate(log):
        # After training the model is that of the end, also where the best one was loaded.
        is_now = index > ended or (step and entry.get("step") == step)
        if not is_now and entry.get("step") != 0:
            continue
        for metric in METRICS:
            for key, name in {f"eval_{metric}": "evaluation", **{f"eval_{n}_{metric}": n for n in names}}.items():
                if entry.get(key) is not None:
                    found[bool(is_now)].setdefault(metric, {})[name] = float(entry[key])
    return found


def read_measured_sets(file: Path) -> tuple[Measured, Measured]:
    """What was measured before and after, of a `results.json`: `{"before": {metric: {set: value}}, "after": ...}`.

    Raises:
        ValueError: it is not of that form.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        before, after = (
            {
                metric: {name: float(value) for name, value in by_set.items() if value is not None}
                for metric, by_set in data[when].items()
            }
            for when in ("before", "after")
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(
            f"{file} does not hold what hf-cbft train measures before and after training: rename or remove it."
        ) from None
    return before, after


def _path_of(connectivity: Any) -> dict[str, Any] | None:
    """A measured path as plain data, with its ends by their public names."""
    if connectivity is None:
        return None
    if isinstance(connectivity, (str, Path)):
        try:
            connectivity = ConnectivityResult.load(connectivity)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{connectivity} holds no measured path: give the folder that hf-cbft evaluate or "
                "ConnectivityResult.save wrote."
            ) from None
    if not isinstance(connectivity, ConnectivityResult):
        raise TypeError(
            f"connectivity is a {type(connectivity).__name__}: give a ConnectivityResult, or a folder with one."
        )
    path = connectivity.to_dict()
    ends = {end: public_name(path["settings"][end]) for end in ("start", "end")}
    return {**path, "settings": {**path["settings"], **ends}}


def _settings(trainer: Any) -> dict[str, Any]:
    args, inherited = trainer.args, {entry.name for entry in fields(TrainingArguments)}
    own = [entry.name for entry in fields(args) if entry.name not in inherited]
    values = {name: getattr(args, name, None) for name in (*_SETTINGS.split(), *own)}
    values["ref_loss"] = None if trainer.ref_loss is None else f"{trainer.ref_loss:.4g}"
    steps = {"steps": f"{trainer.state.global_step} of {trainer.state.max_steps}"}
    for term in trainer.terms:
        last = logged(trainer.state.log_history, f"loss/{term.name}")[1]
        if last:
            steps[f"loss/{term.name}"] = f"{last[-1]:.4g} when last logged, with the coefficient {term.coefficient:g}"
    return steps | {name: getattr(value, "value", value) for name, value in values.items() if value is not None}


def _task_of(model: Any) -> str | None:
    name = class_name(model)
    for task, classes in TASK_MAPPING.items():
        if any(name in (each if isinstance(each, tuple) else (each,)) for each in classes.values()):
            return task
    return None


def _tags_of(file: Path) -> list[str]:
    """Those of the card that is there: peft's own, and what the user has put in."""
    try:
        return as_list(ModelCard.load(file).data.get("tags")) if file.is_file() else []
    except (ValueError, yaml.YAMLError):
        return []  # of a card that cannot be read nothing can be kept


# The push


def push(
    trainer: Any,
    commit_message: str | None,
    blocking: bool,
    token: str | None,
    revision: str | None,
    private: bool | None,
    **kwargs: Any,
) -> Any:
    """Save the model, write its card and upload both: what [`CBFTTrainer.push_to_hub`] does, on every rank."""
    args = trainer.args
    token = token or args.hub_token

    def prepare() -> None:
        check_token(token)
        if trainer.state.global_step == 0 and not _holds_weights(args.output_dir):
            raise ValueError(f"{args.output_dir} holds no weights and none were trained to push: call train() first.")
        if trainer.hub_model_id is None:
            trainer.init_hf_repo(token=token, private=private)

    def check_saved() -> None:
        if not _holds_weights(args.output_dir):
            raise ValueError(
                f"{args.output_dir} holds no weights to push: FSDP saves them there with state_dict_type "
                "FULL_STATE_DICT."
            )

    on_main_rank(prepare)
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    trainer.save_model(_internal_call=True)
    on_main_rank(check_saved)
    if not trainer.is_world_process_zero():
        return None
    name = kwargs.pop("model_name", None) or trainer.hub_model_id.split("/")[-1]
    tags = [*as_list(kwargs.pop("tags", None)), *as_list(getattr(trainer.model, "model_tags", None))]
    trainer.create_model_card(model_name=name, tags=tags, **kwargs)
    trainer._finish_current_push()
    api: Any = HfApi(library_name="hf_cbft", library_version=__version__)
    with in_one_sentence(f"{args.output_dir} could not be pushed to {trainer.hub_model_id}"):
        return api.upload_folder(
            folder_path=args.output_dir,
            repo_id=trainer.hub_model_id,
            commit_message=commit_message,
            token=token,
            revision=revision or args.hub_revision,
            run_as_future=not blocking,
            ignore_patterns=[*_NOT_PUSHED],
        )


def check_token(token: str | bool | None) -> None:
    """Raise an `OSError` if there is no token to write with."""
    if not token and get_token() is None:
        raise OSError("There is no token to push with: run hf auth login, or set HF_TOKEN to one that may write.")


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Raise an `OSError` with `what` and the answer of the Hub where a request fails."""
    try:
        yield
    except (HTTPError, RuntimeError) as error:
        # The client wraps what the server says of a large file.
        cause = error if isinstance(error, HTTPError) else error.__cause__
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            advice = "use a token that may write there" if status in (401, 403) else "try again later"
            raise OSError(f"{what}: the Hub answers {status}; {advice}.") from error
        if isinstance(cause, HTTPError):
            raise OSError(f"{what}: the Hub cannot be reached ({cause}); try again later.") from error
        raise


def _holds_weights(folder: str | Path) -> bool:
    files = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")]
    return any(file.name != "training_args.bin" for file in files)
