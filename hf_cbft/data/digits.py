# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The digits that ship with scikit-learn, as colour images in four parts that never mix."""

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from hf_cbft.data.balancing import split_rows

IMAGE_SIZE = 24
# Rows of each part. The test part is what is left of the 1,797 images.
_PARTS = {"pretrain": 1000, "finetune": 130, "validation": 130}
_SPLIT_SEED = 20230723


def load_digits(contrast: float = 1.0, noise: float = 0.0) -> DatasetDict:
    """1,797 handwritten digits (8x8, enlarged to 24x24 RGB) with `image` and `label`, in a fixed stratified split.

    Args:
        contrast (`float`, *optional*, defaults to 1.0): brightness of a full stroke, as a fraction of white.
        noise (`float`, *optional*, defaults to 0.0): standard deviation of Gaussian pixel noise, as a fraction of
            white; fixed for each image, clipped to the range of a pixel.

    Returns:
        `datasets.DatasetDict`: `pretrain` (1,000 rows), `finetune` (130), `validation` (130), `test` (537).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: contrast outside (0, 1] or negative noise.
    """
    if not 0.0 < contrast <= 1.0 or noise < 0.0:
        raise ValueError(f"Digits need a contrast in (0, 1] and noise >= 0; got {contrast} and {noise}.")
    try:
        from sklearn.datasets import load_digits as load_bundled
    except ImportError as error:
        raise ImportError('The digits come with scikit-learn: pip install "hf-cbft[demo]"') from error
    bundled = load_bundled()
    grey = np.stack([_enlarged(image) for image in bundled.images / 16.0]) * contrast
    colour = np.repeat(grey[..., None], 3, axis=-1)
    if noise:
        colour = colour + np.random.default_rng(_SPLIT_SEED).normal(scale=noise, size=colour.shape)
    pixels = np.round(colour.clip(0.0, 1.0) * 255).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    parts = {}
    for name, rows in split_rows(bundled.target, _PARTS, _SPLIT_SEED, rest="test").items():
        images = [PILImage.fromarray(pixels[row]) for row in rows]
        parts[name] = Dataset.from_dict({"image": images, "label": bundled.target[rows].tolist()}, features=features)
    return DatasetDict(parts)


def _enlarged(image: np.ndarray) -> np.ndarray:
    enlarged = PILImage.fromarray(image.astype(np.float32)).resize((IMAGE_SIZE, IMAGE_SIZE), PILImage.BILINEAR)
    return np.asarray(enlarged).clip(0.0, 1.0)
