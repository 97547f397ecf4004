"""Trains a GHN on a folder of images, and predicts a network for them.

    python examples/train_on_images.py --images FOLDER --steps 2000 --out runs/mine

FOLDER has `train` and `val` or `test`, each with a folder of images for every class; they are scaled to 224x224. Where
it is not given, stripes are drawn, to show that it runs. Needs torchvision and `ghnfast[training]`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import ghnfast
from ghnfast.training import accuracies, load_data, make_config, train


def draw_stripes(folder: Path, count: int = 24, size: int = 16) -> Path:
    """Two classes of images: stripes that lie, and stripes that stand."""
    from PIL import Image

    random = np.random.default_rng(0)
    stripes = (np.arange(size) // 2 % 2 * 255).astype(np.uint8)
    for part in ("train", "test"):
        for name, image in (("lying", stripes[:, None]), ("standing", stripes[None])):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                noise = random.integers(0, 100, (size, size), dtype=np.uint8)
                Image.fromarray(np.maximum(image, noise)).convert("RGB").save(folder / part / name / f"{index}.png")
    return folder


def main(arguments: Sequence[str] | None = None, **settings: Any) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="default: drawn stripes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", default="runs/mine")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as drawn:
        root = given.images or draw_stripes(Path(drawn))
        data = load_data("folder", root)
        print(data)
        run = {"num_ch": (16, 64), "batch_size": 20, "lr": 8e-4, "identity_steps": 250, "schedule": "cosine"}
        run |= {"data": "folder", "root": str(root), "steps": given.steps, **settings}
        ghn = ghnfast.load(train(make_config(run), given.out))
        model = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, 4, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, data.num_classes)),
        )
        ghn.predict(model, input_shape=data.input_shape)
        accuracy = accuracies(model, data.test, data.calibration)[0]
    print(f"{accuracy:.1f} % of {len(data.test)} test images, by a network that only the GHN has made")
    return accuracy


if __name__ == "__main__":
    main()
