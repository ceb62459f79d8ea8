# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""End points of a path: loaded from the Hub or a folder, or taken from memory; weights that stay on the disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from hf_cbft.architectures import class_name
from hf_cbft.checkpoints.headers import split_adapter
from hf_cbft.checkpoints.sources import CONFIG, is_folder, split_revision
from hf_cbft.paths.geometry import LazyWeights
from hf_cbft.paths.interpolation import named_weights


@dataclass(frozen=True)
class LoadOptions:
    """How end points are loaded.

    Args:
        dtype (`str` or `torch.dtype`, *optional*): of both ends; `None`: what each was saved in.
        device_map (*optional*): as `from_pretrained` takes it; `None`: one device, the CPU.
        token (`str`, *optional*): for private repositories; `None`: the one that `hf auth login` keeps.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether weights may come from pickle files, which are read with `torch.load(weights_only=True)`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code from the repository may run.
    """

    dtype: Any = None
    device_map: Any = None
    token: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        known = self.dtype in (None, "auto") or isinstance(getattr(torch, str(self.dtype), self.dtype), torch.dtype)
        if not known:
            raise ValueError(f"dtype = {self.dtype!r} is none of torch's: give float32, bfloat16 or float16.")

    def for_config(self, revision: str | None) -> dict[str, Any]:
        """The arguments of a configuration's `from_pretrained`."""
        options = {"trust_remote_code": self.trust_remote_code, "token": self.token, "revision": revision}
        return {name: value for name, value in options.items() if value is not None}

    def for_weights(self, revision: str | None) -> dict[str, Any]:
        """The arguments of a model's `from_pretrained`."""
        options = {**self.for_config(revision), "dtype": self.dtype, "device_map": self.device_map}
        # With None, Transformers takes safetensors where they are, and else pickles, with weights_only=True.
        options["use_safetensors"] = None if self.allow_pickle else True
        return {name: value for name, value in options.items() if value is not None}


def load_model(
    source: str | Path | nn.Module, trust_remote_code: bool = False, options: LoadOptions | None = None
) -> nn.Module:
    """The model behind `source`, in the class that its configuration names.

    Args:
        source (`str`, `Path` or `torch.nn.Module`):
            A folder, a Hub id, `org/name@revision`, or a model, which is handed back as it is.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code from the repository may run.
        options ([`LoadOptions`], *optional*): how to load, instead of `trust_remote_code`.

    Raises:
        ValueError: neither a folder nor the id of a repository, the configuration names no class that Transformers
        has, the folder holds no configuration, or weights are missing, damaged, or in pickle files alone.
        OSError: neither the Hub nor its cache has it.
    """
    if isinstance(source, nn.Module):
        return source
    options = options or LoadOptions(trust_remote_code=trust_remote_code)
    name, revision = split_revision(str(source))
    here = is_folder(name)
    if here:
        _check_files(Path(name), options.allow_pickle)
    try:
        config = AutoConfig.from_pretrained(name, **options.for_config(revision))
        model_class = _model_class(config, name, options.trust_remote_code)
        model, found = model_class.from_pretrained(name, **options.for_weights(revision), output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"The weights of {source} cannot be read ({error}): download or save them again.") from error
    except OSError as error:
        if here:
            raise
        # Transformers says it in several lines, and does not always name what it could not find.
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OSError(
            f"The model {source} is no folder here, and the Hub or its cache did not give it: {reason}."
        ) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{source} has no weights for {', '.join(missing[:3])}{more}, which {model_class.__name__} needs: "
            "Transformers would draw them at random. Give a checkpoint that was trained for this task."
        )
    return model


def _check_files(folder: Path, allow_pickle: bool) -> None:
    """Say what a folder lacks, where Transformers would speak of files that it looked for, or of the Hub."""
    names = {path.name for path in folder.iterdir()}
    if CONFIG not in names:
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of a checkpoint.")
    pickles = sorted(names & {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    if pickles and not allow_pickle and not names & {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}:
        raise ValueError(
            f"{folder} has its weights in a pickle only ({pickles[0]}): load it once and save it with "
            "save_pretrained, which writes safetensors, or, where you trust its source, ask for it with allow_pickle."
        )


def _model_class(config: Any, name: str, trust_remote_code: bool) -> type[PreTrainedModel]:
    architectures = getattr(config, "architectures", None) or []
    auto_map = getattr(config, "auto_map", None) or {}
    if trust_remote_code:
        for auto_class, reference in auto_map.items():
            if architectures and str(reference).endswith(f".{architectures[0]}"):
                return getattr(transformers, auto_class)
    if architectures and hasattr(transformers, architectures[0]):
        return getattr(transformers, architectures[0])
    own = _registered_class(config, architectures[0]) if architectures else None
    if own is not None:
        return own
    raise ValueError(
        f"The configuration of {name} names the class {architectures[0] if architectures else None}, which "
        f"Transformers {transformers.__version__} does not have: load the model yourself and pass it, or allow the "
        "repository's own code with trust_remote_code=True."
    )


def _registered_class(config: Any, name: str) -> type[PreTrainedModel] | None:
    """The class of a model that its own code has registered with Transformers (`AutoModelFor....register`)."""
    auto_classes = (value for key, value in vars(modeling_auto).items() if key.startswith("AutoModel"))
    for mapping in (getattr(auto_class, "_model_mapping", None) for auto_class in auto_classes):
        found = mapping[type(config)] if mapping is not None and type(config) in mapping else None
        if found is not None and found.__name__ == name:
            return found
    return None


def source_name(source: str | Path | nn.Module) -> str:
    """Name an end point for a report: its id or folder, else where the model was loaded from, else its class."""
    if isinstance(source, nn.Module):
        return getattr(source, "name_or_path", "") or class_name(source)
    return str(source)


class StoredWeights(LazyWeights):
    """Weights by name that are read from their safetensors files when they are asked for.

    Nothing is kept: a tensor that was read is a view of the file, whose pages the system drops when it needs them.

    Args:
        places (`dict[str, tuple[str, str]]`): the file of each weight, and its name there.
        kept (`dict[str, torch.Tensor]`): weights that no file holds as they are.
        dtypes (`dict[str, torch.dtype]`): what each is read as.
        config (`PretrainedConfig`): of the model.
    """

    def __init__(
        self,
        places: dict[str, tuple[str, str]],
        kept: dict[str, torch.Tensor],
        dtypes: dict[str, torch.dtype],
        config: Any,
    ) -> None:
        super().__init__(dtypes, self._stored)
        self._places, self._kept, self._dtypes, self.config = places, kept, dtypes, config
        self._files = {file: safe_open(file, framework="pt") for file, _ in places.values()}

    def _stored(self, name: str) -> torch.Tensor:
        if name in self._kept:
            return self._kept[name]
        file, key = self._places[name]
        return self._files[file].get_tensor(key).to(self._dtypes[name])


def stored_weights(source: str | Path, options: LoadOptions) -> StoredWeights:
    """The weights of a checkpoint as its model has them, left on the disk.

    The model is loaded once, so that whatever Transformers does to a checkpoint (other names, tied weights, another
    dtype) is done; then each of its weights is looked for in the files and, where the same bits are there, dropped.
    """
    # On the CPU: an accelerator has room for one of the two.
    model: Any = load_model(source, options=replace(options, device_map=None))
    config = model.config
    check_no_nan(named_weights(model), str(source))
    weights = {name: tensor.detach() for name, tensor in named_weights(model).items()}
    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    del model
    places: dict[str, tuple[str, str]] = {}
    elsewhere: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for file in _weight_files(source, options):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (not a mapping)
                if key in weights and _same(weights[key], stored.get_tensor(key)):
                    places[key] = (file, key)
                    del weights[key]
                else:
                    elsewhere.setdefault(tuple(stored.get_slice(key).get_shape()), []).append((file, key))
    for name in list(weights):
        for file, key in elsewhere.get(tuple(weights[name].shape), ()):
            with safe_open(file, framework="pt") as stored:
                if _same(weights[name], stored.get_tensor(key)):
                    places[name] = (file, key)
                    del weights[name]
                    break
    return StoredWeights(places, weights, dtypes, config)


def _same(weight: torch.Tensor, stored: torch.Tensor) -> bool:
    return weight.shape == stored.shape and torch.equal(weight.cpu(), stored.to(weight.dtype))


def found_file(source: str | Path, file: str, token: str | None = None) -> str | None:
    """Where a file of a checkpoint is on this machine, fetched if need be; `None` where there is none.

    Raises:
        ValueError: `source` is neither a folder nor the id of a repository.
    """
    name, revision = split_revision(str(source))
    is_folder(name)
    return cached_file(
        name,
        file,
        revision=revision,
        token=token,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def names_adapter(source: str, options: LoadOptions) -> bool:
    """Return `True` for the name of an adapter on a base (`base+adapter`, or an adapter's folder or repository)."""
    return split_adapter(source)[1] is not None or holds_only_an_adapter(source, options)


def holds_only_an_adapter(source: str, options: LoadOptions) -> bool:
    """Return `True` if a folder or repository has the settings of an adapter and none of a model."""
    folder = Path(source)
    if folder.is_dir():
        return (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    for file in ("config.json", "adapter_config.json"):
        if found_file(source, file, options.token) is not None:
            return file == "adapter_config.json"
    return False


def _weight_files(source: str | Path, options: LoadOptions) -> list[str]:
    """The safetensors files of a checkpoint that was loaded before; none where its weights are pickles."""
    whole = found_file(source, SAFE_WEIGHTS_NAME, options.token)
    if whole is not None:
        return [whole]
    listed = found_file(source, SAFE_WEIGHTS_INDEX_NAME, options.token)
    if listed is None:
        return []
    index = Path(listed)
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [str(index.with_name(shard)) for shard in sorted(shards)]


def check_no_nan(weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise a `ValueError` that names the first weight of `what` that holds a NaN."""
    for name, tensor in weights.items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        # The sum is quick, and NaN wherever there is one; or where infinities cancel, so that is asked then.
        if local.is_floating_point() and torch.isnan(local.sum()) and torch.isnan(local).any():
            raise ValueError(f"{what} has NaN in {name}: its training diverged, so give an earlier checkpoint.")


def describe(options: LoadOptions) -> dict[str, Any]:
    """The options that change what is measured, for the settings of a result."""
    chosen = {name: asdict(options)[name] for name in ("dtype", "device_map")}
    return {name: str(value) for name, value in chosen.items() if value is not None}
