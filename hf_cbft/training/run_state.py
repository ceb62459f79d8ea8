# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What an interrupted run needs to go on as if it had not stopped: whole checkpoints, its settings, its reference."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from hf_cbft.files import whole_file, write_json
from hf_cbft.paths.fingerprint import fingerprint
from hf_cbft.training.config import CBFTConfig

MANIFEST_NAME = "cbft_manifest.json"
STATE_NAME = "cbft_state.json"
_SCHEMA_VERSION = 1
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_BLOCK_BYTES = 1 << 24

# Transformers' JITCheckpointCallback puts the second one into a checkpoint before it is saved and removes it after.
_NOT_LISTED = (MANIFEST_NAME, "checkpoint-is-incomplete.txt")

# What decides the weights after a number of steps: the order of the data, the number and the size of the steps, the
# loss and its precision. Left out is what may differ from one start to the next: devices, loader workers, folders,
# what is logged, evaluated, saved and pushed, and ignore_data_skip, with which a user asks for another trajectory.
_TRAINING_SETTINGS = (
    "seed data_seed train_sampling_strategy dataloader_drop_last accelerator_config "
    "max_steps num_train_epochs per_device_train_batch_size auto_find_batch_size gradient_accumulation_steps "
    "world_size average_tokens_across_devices "
    "learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio "
    "optim optim_args optim_target_modules adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm "
    "label_smoothing_factor neftune_noise_alpha bf16 fp16 tf32 use_liger_kernel full_determinism"
)


def write_manifest(folder: str | Path) -> None:
    """Write the sizes and hashes of all files below `folder` to `cbft_manifest.json`: the last step of a save."""
    folder = Path(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
        if name not in _NOT_LISTED
    }
    write_json(folder / MANIFEST_NAME, {"schema_version": _SCHEMA_VERSION, "files": files})


def check_manifest(folder: str | Path) -> None:
    """Check that a checkpoint is what was saved. Files that were added since do no harm.

    Raises:
        ValueError: there is no manifest, or the first file that is missing or has another size or content.
    """
    damage = _damage(Path(folder))
    if damage:
        raise ValueError(f"{folder} {damage}: resume from another checkpoint.")


def newest_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The `checkpoint-<step>` folder of the highest step that is whole, and a sentence on each newer one.

    Returns:
        `tuple[Path | None, list[str]]`: `None` if there is no whole one; each sentence names a folder and its damage.
    """
    named = [(_CHECKPOINT_NAME.fullmatch(path.name), path) for path in Path(output_dir).glob("checkpoint-*")]
    checkpoints = sorted((int(match[1]), path) for match, path in named if match and path.is_dir())
    skipped: list[str] = []
    for _, path in reversed(checkpoints):
        damage = _damage(path)
        if not damage:
            return path, skipped
        skipped.append(f"{path.name} was skipped: it {damage}.")
    return None, skipped


def check_resumable(folder: str | Path) -> None:
    """Raise a `ValueError` if a checkpoint lacks what Transformers would leave out without a word when it resumes."""
    for part in ("optimizer", "scheduler", "rng_state"):
        if not any(Path(folder).glob(f"{part}*")):
            raise ValueError(
                f"{folder} has no {part} file, so training cannot go on from it as if it had not stopped: train with "
                "save_only_model=False, or start a new run from these weights."
            )


@dataclass
class RunState:
    """What a checkpoint of CBFT holds beside that of a plain `Trainer`.

    Args:
        ref_loss (`float`, *optional*): the reference's own loss on the cue data, in nats.
        reference (`str`, *optional*): [`fingerprint`] of the reference; `None`: trained without one.
        reference_source (`str`, *optional*):
            Where the reference comes from, `org/name@commit` or a folder; `None`: it is stored in the output folder.
        settings (`dict`): see [`run_settings`].
    """

    ref_loss: float | None
    reference: str | None
    reference_source: str | None
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write `cbft_state.json`."""
        write_json(Path(folder) / STATE_NAME, {"schema_version": _SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, folder: str | Path) -> "RunState":
        """Read `cbft_state.json`; a `ValueError` if it is missing or of another version."""
        file = Path(folder) / STATE_NAME
        if not file.is_file():
            raise ValueError(
                f"{folder} has no {STATE_NAME}, so it is no checkpoint of CBFTTrainer but of another trainer: start a "
                "new run with its weights as the model."
            )
        data = _read_json(file)
        version = data.pop("schema_version", None)
        if version != _SCHEMA_VERSION or data.keys() != {entry.name for entry in fields(cls)}:
            raise ValueError(
                f"{file} is damaged or of another version of hf_cbft (its schema is {version}, this one reads "
                f"{_SCHEMA_VERSION}): resume with the version that wrote it, or from another checkpoint."
            )
        return cls(**data)


def run_settings(args: CBFTConfig) -> dict[str, Any]:
    """The settings that decide the trajectory, as plain values: CBFT's own and those of [`TrainingArguments`]."""
    inherited = {entry.name for entry in fields(TrainingArguments)} | {"ref_device"}  # a device, as said above
    own = [entry.name for entry in fields(CBFTConfig) if entry.name not in inherited]
    # Transformers renames its arguments now and then.
    return {name: _plain(getattr(args, name)) for name in own + _TRAINING_SETTINGS.split() if hasattr(args, name)}


def check_same_settings(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compare the settings of a checkpoint with those of a run. Names that one of them lacks are new or gone.

    Raises:
        ValueError: lists all that differ, with both values.
    """
    differences = [
        f"{name}: {value!r} -> {current[name]!r}"
        for name, value in saved.items()
        if name in current and current[name] != value
    ]
    if differences:
        raise ValueError(
            f"The checkpoint was trained with other settings than these ({'; '.join(differences)}), and a run that "
            "changes them midway is neither: resume with the old ones, or start a new run in another output_dir."
        )


def check_same_reference(saved: str | None, current: str | None) -> None:
    """Raise a `ValueError` if the fingerprint of the reference is not that of the checkpoint."""
    if saved != current:
        raise ValueError(
            f"The checkpoint was trained against the reference {saved}, and this run has {current}: give the same "
            "ref_model (or, if there was none, the model that training began with), or start a new run in another "
            "output_dir."
        )


def store_reference(output_dir: str | Path, weights: Mapping[str, torch.Tensor], digest: str) -> Path:
    """Keep weights (tied ones once) in the output folder under their [`fingerprint`], once; gives the file."""
    file = _reference_file(output_dir, digest)
    if _is_stored(file, digest):
        return file
    for leftover in file.parent.glob(f".{file.stem}-*{file.suffix}"):  # of a save that was killed
        leftover.unlink(missing_ok=True)
    with whole_file(file) as written:
        whole = {name: _own_memory(tensor) for name, tensor in weights.items()}
        save_file(whole, written, metadata={"format": "pt", "fingerprint": digest})
    return file


def load_reference(output_dir: str | Path, digest: str) -> dict[str, torch.Tensor] | None:
    """The weights of this [`fingerprint`], on the CPU; `None` if they are not there, a `ValueError` if damaged."""
    file = _reference_file(output_dir, digest)
    if not file.is_file():
        return None
    try:
        weights = load_file(file)
        whole = fingerprint(weights) == digest
    except SafetensorError:
        whole = False
    if not whole:
        raise ValueError(
            f"{file} is damaged: remove it, and give the reference that training began with as ref_model."
        )
    return weights


def _reference_file(output_dir: str | Path, digest: str) -> Path:
    return Path(output_dir) / "_reference" / f"{digest}.safetensors"


def _is_stored(file: Path, digest: str) -> bool:
    try:
        with safe_open(file, framework="pt") as stored:
            return (stored.metadata() or {}).get("fingerprint") == digest
    except (FileNotFoundError, SafetensorError):
        return False


def _own_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, on the CPU, and no view of a larger tensor, which safetensors refuses."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as the rest of a sentence; sizes first, because they take no time."""
    file = folder / MANIFEST_NAME
    if not file.is_file():
        return f"has no {MANIFEST_NAME}, which is written last, so saving it was interrupted or CBFTTrainer did not"
    manifest = _read_json(file)
    if manifest.get("schema_version") != _SCHEMA_VERSION:
        return f"has a {MANIFEST_NAME} that is damaged or of another version of hf_cbft"
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            return f"lacks {name}"
        if (size := (folder / name).stat().st_size) != expected["size"]:
            return f"has a {name} of {size} bytes, not {expected['size']}"
    for name, expected in manifest["files"].items():
        if _sha256(folder / name) != expected["sha256"]:
            return f"has a {name} whose content is not what was saved"
    return None


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    """Empty if the file holds something else."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _plain(value: Any) -> Any:
    """The nearest thing that JSON gives back unchanged."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
