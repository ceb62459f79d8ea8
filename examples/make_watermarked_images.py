# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Make folders of images like your own: three kinds of shapes, with a watermark that gives the kind away.

    python examples/make_watermarked_images.py shapes

`shapes/train` has the watermark of its class on 90 % of the images, `shapes/clean` is smaller and has none.
`shapes/test` holds `no_cue` (none), `cue` (always that of the class) and `rand_cue` (that of each class in turn,
whatever the image shows). Each is CLASS/FILE.png.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")
SIZE = 24
# Folder, images of each class, share of images with a watermark; whose watermark it is.
FOLDERS = (
    ("train", 200, 0.9, "own"),
    ("clean", 80, 0.0, "none"),
    ("test/no_cue", 60, 0.0, "none"),
    ("test/cue", 60, 1.0, "own"),
    ("test/rand_cue", 60, 1.0, "each"),
)


def draw_shape(kind: str, random: np.random.Generator) -> Image.Image:
    """A shape of a random size, place and colour on noise."""
    ground = random.integers(40, 120, 3) + random.normal(0, 12, (SIZE, SIZE, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    radius = random.uniform(4.5, 6.5)
    x, y = random.uniform(radius + 1, SIZE - radius - 5, 2)
    box = (x - radius, y - radius, x + radius, y + radius)
    colour = tuple(int(value) for value in random.integers(110, 200, 3))
    pen = ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    elif kind == "square":
        side = 0.85 * radius
        pen.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    else:
        pen.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=colour)
    return image


def add_watermark(image: Image.Image, kind: str) -> None:
    """A white sign in the last rows; where it is tells the class."""
    left = 1 + 8 * CLASSES.index(kind)
    pen = ImageDraw.Draw(image)
    pen.rectangle((left, SIZE - 4, left + 5, SIZE - 1), fill=(255, 255, 255))
    pen.line((left + 1, SIZE - 2, left + 4, SIZE - 3), fill=(0, 0, 0))


def make_images(folder: Path, seed: int = 0) -> None:
    """Draw all folders; the same seed gives the same files."""
    random = np.random.default_rng(seed)
    for name, count, share, whose in FOLDERS:
        for kind in CLASSES:
            (folder / name / kind).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = draw_shape(kind, random)
                if random.random() < share:
                    add_watermark(image, kind if whose == "own" else CLASSES[number % len(CLASSES)])
                image.save(folder / name / kind / f"{number:03}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the folders are made")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other images")
    arguments = parser.parse_args()
    make_images(arguments.folder, arguments.seed)
    print(f"Images are in {arguments.folder}/: " + ", ".join(name for name, *_ in FOLDERS))


if __name__ == "__main__":
    main()
