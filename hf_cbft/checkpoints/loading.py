# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""End points of a path: loaded from the Hub or a folder, or taken from memory."""

from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedModel


def load_model(source: str | Path | nn.Module, trust_remote_code: bool = False) -> nn.Module:
    """The model behind `source`, in the class that its configuration names.

    Args:
        source (`str`, `Path` or `torch.nn.Module`):
            A folder, a Hub id, `org/name@revision`, or a model, which is handed back as it is.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code from the repository may run.

    Raises:
        ValueError: the configuration names no class that Transformers has, or the folder holds no configuration.
        OSError: nothing can be loaded from there (raised by Transformers); weights in pickle files are not loaded.
    """
    if isinstance(source, nn.Module):
        return source
    name, revision = split_revision(str(source))
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    config = AutoConfig.from_pretrained(name, **options)
    return _model_class(config, name, options).from_pretrained(name, use_safetensors=True, **options)


def split_revision(source: str) -> tuple[str, str | None]:
    """`org/name@revision` in two. A folder keeps its name, whatever is in it."""
    if "@" not in source or Path(source).exists():
        return source, None
    name, _, revision = source.rpartition("@")
    return name, revision


def _model_class(config: Any, name: str, options: dict[str, Any]) -> type[PreTrainedModel]:
    architectures = getattr(config, "architectures", None) or []
    auto_map = getattr(config, "auto_map", None) or {}
    if options["trust_remote_code"]:
        for auto_class, reference in auto_map.items():
            if architectures and str(reference).endswith(f".{architectures[0]}"):
                return getattr(transformers, auto_class)
    if architectures and hasattr(transformers, architectures[0]):
        return getattr(transformers, architectures[0])
    raise ValueError(
        f"The configuration of {name} names the class {architectures[0] if architectures else None}, which "
        f"Transformers {transformers.__version__} does not have: load the model yourself and pass it, or allow the "
        "repository's own code with trust_remote_code=True."
    )


def source_name(source: str | Path | nn.Module) -> str:
    """What a report calls an end point: its id or folder, else where the model was loaded from, else its class."""
    if isinstance(source, nn.Module):
        return getattr(source, "name_or_path", "") or type(source).__name__
    return str(source)
