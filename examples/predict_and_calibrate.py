"""Predicts a network, and recognizes digits with it: before and after its running statistics are set.

    python examples/predict_and_calibrate.py --model resnet18

The data set is in memory; for one of your own, give `ghnfast.calibrate` a DataLoader. Needs torchvision and
`ghnfast[training]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn

import ghnfast
import ghnfast.vision  # before torchvision, so that it can be imported beside any build of torch
from ghnfast.training import ImageData, load_data


def accuracy(model: nn.Module, data: ImageData, images: int) -> float:
    """Top-1 accuracy in percent, on so many test images or some more, of all classes."""
    pixels, labels = data.test.batch(range(0, len(data.test), max(len(data.test) // images, 1)), seed=0)
    with torch.inference_mode():
        return 100 * (model.eval()(pixels).argmax(1) == labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="of torchvision; resnet18")
    parser.add_argument("--ghn", default="ghn2-mnist5k", help="one that knows digits; ghn2-mnist5k")
    parser.add_argument("--images", type=int, default=1000, help="to test on")
    parser.add_argument("--batches", type=int, default=8, help="of 64 images, for running statistics")
    given = parser.parse_args(arguments)
    from torchvision import models

    data = load_data("mnist5k")
    model = ghnfast.vision.adapt_to_small_images(models.get_model(given.model, num_classes=data.num_classes))
    _, report = ghnfast.predict(model, given.ghn, input_shape=data.input_shape, report=True)
    print(report)
    found = {"predicted": accuracy(model, data, given.images)}
    order = torch.randperm(len(data.calibration), generator=torch.Generator().manual_seed(0)).tolist()
    batches = (data.calibration.batch(order[at : at + 64], seed=0) for at in range(0, len(order), 64))
    ghnfast.calibrate(model, batches, limit=given.batches)
    found["calibrated"] = accuracy(model, data, given.images)
    for name, percent in found.items():
        print(f"{name:10} {percent:5.1f} %")
    return found


if __name__ == "__main__":
    main()
