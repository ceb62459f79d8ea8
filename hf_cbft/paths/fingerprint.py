# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Weights told apart by their content."""

import hashlib
import json
from collections.abc import Mapping

import torch


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """The content of some weights in 32 hexadecimal digits.

    Names, dtypes, shapes and bytes count; the order of the names, the memory layout and the device do not. Tensors are
    read one after the other: there is never a second copy of the model.

    Args:
        weights (`Mapping[str, torch.Tensor]`): plain tensors of any dtype, on any device.

    Example:

    ```python
    >>> import torch
    >>> from hf_cbft.paths.fingerprint import fingerprint
    >>> fingerprint({"weight": torch.zeros(2, 3)})
    'dc97744d442d3dea9fd2efd88b960269'
    >>> fingerprint({"weight": torch.zeros(3, 2)}) == fingerprint({"weight": torch.zeros(3, 2).T.contiguous().T})
    True

    ```
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        # NumPy has no bfloat16, and needs none to show the bytes.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
