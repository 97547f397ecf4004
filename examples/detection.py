"""Trains torchvision's Faster R-CNN with a backbone whose parameters a GHN predicts.

    python examples/detection.py --data PennFudanPed --model resnet50 --ghn ghn2-imagenet
    python examples/detection.py --steps 20 --size 128 --model resnet18

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 5.4: 120 of the 170 images of
Penn-Fudan pedestrians, 10 epochs of 2 images, SGD with a rate of 0.005 that falls to a tenth every three epochs; the
average precision at an overlap of 0.5 on the other 50 images. Without the folder of these images (--data), it is the
same on drawn shapes, which only shows that it runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detection_data import Image, PennFudan, Shapes, mirrored
from detection_operators import use_what_there_is
from torch import Tensor, nn
from torch.utils.data import Dataset

import ghnfast
import ghnfast.vision  # before torchvision, so that it can be imported beside any build of torch
from ghnfast.deepnets import Genotype, Network

BATCH, RATE, EPOCHS_A_RATE, HELD_OUT = 2, 0.005, 3, 50

# Networks of the paper's experiment: channels, cells, factor on channels at reduction cells.
CELLS = {"DARTS": (48, 14, 2), "ViT": (128, 12, 1)}


def make_classifier(name: str) -> nn.Module:
    """A model of torchvision, or one of DeepNets-1M with a convolutional stem: images come in many sizes."""
    from torchvision import models

    if name not in CELLS:
        return models.get_model(name, weights=None)
    channels, cells, factor = CELLS[name]
    return Network(
        genotype=Genotype.of(name),
        C=channels,
        n_cells=cells,
        num_classes=1000,
        stem_type=1,
        is_vit=False,
        preproc=factor > 1,
        C_mult=factor,
    )


class Backbone(nn.Module):
    """What a classifier's last pooling layer reads: (N, out_channels, height, width)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        pools = [module for module in classifier.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
        if not pools:
            raise SystemExit("the model has no nn.AdaptiveAvgPool2d to take features from; a ResNet has one")
        self.features: Tensor
        for pool in pools:  # those of gates come before the last one
            pool.register_forward_pre_hook(self.remember)
        with torch.no_grad():
            self.out_channels = self.train(False)(torch.zeros(1, 3, 224, 224)).shape[1]

    def remember(self, pool: nn.Module, inputs: tuple[Tensor]) -> None:
        self.features = inputs[0]

    def forward(self, images: Tensor) -> Tensor:
        self.classifier(images)  # its last layer costs little, and what it says is not asked for
        features = self.features
        del self.features
        return features


def make_detector(model: nn.Module, size: int) -> nn.Module:
    """Faster R-CNN for objects of one kind on one feature map, as published; images are scaled to this shorter side."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    use_what_there_is()
    return FasterRCNN(
        Backbone(model),
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        min_size=size,
        max_size=size * 1333 // 800,
    )


def batches(dataset: Dataset[Image], indices: Sequence[int], epoch: int) -> Iterator[list[Image]]:
    """The images of an epoch in a new order, every other one mirrored."""
    random = torch.Generator().manual_seed(epoch)
    order = torch.randperm(len(indices), generator=random).tolist()
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = [dataset[indices[place]] for place in order[start : start + BATCH]]
        yield [mirrored(*image) if torch.rand((), generator=random) < 0.5 else image for image in chosen]


def train_step(detector: nn.Module, optimizer: torch.optim.Optimizer, batch: list[Image], device: str) -> float:
    images = [image.to(device) for image, _ in batch]
    targets = [
        {"boxes": boxes.to(device), "labels": torch.ones(len(boxes), dtype=torch.int64, device=device)}
        for _, boxes in batch
    ]
    loss = torch.stack(list(detector.train()(images, targets).values())).sum()
    if not math.isfinite(loss.item()):
        raise SystemExit(f"the loss is {loss.item()}: a lower --rate may help")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(detector: nn.Module, dataset: Dataset[Image], indices: Sequence[int], device: str) -> float:
    """Average precision at an overlap of 0.5, in percent."""
    detector.eval()
    found, wanted = [], []
    for index in indices:
        image, boxes = dataset[index]
        (result,) = detector([image.to(device)])
        found.append((result["boxes"].cpu(), result["scores"].cpu()))
        wanted.append(boxes)
    return 100 * average_precision(found, wanted)


def average_precision(found: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor], overlap: float = 0.5) -> float:
    """COCO's, of one class at one overlap: the mean over 101 recalls of the best precision from there on."""
    from torchvision.ops import box_iou

    scores, hits = [], []
    for (boxes, confidence), truth in zip(found, wanted, strict=True):
        free = torch.ones(len(truth), dtype=torch.bool)
        for place in confidence.argsort(descending=True).tolist():
            overlaps = torch.where(free, box_iou(boxes[place : place + 1], truth)[0], -1.0)
            hit = bool(free.any()) and float(overlaps.max()) >= overlap
            if hit:
                free[overlaps.argmax()] = False
            scores.append(float(confidence[place]))
            hits.append(hit)
    order = sorted(range(len(hits)), key=lambda place: -scores[place])
    right = np.cumsum([hits[place] for place in order])
    if not len(right):
        return 0.0
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    recall = right / sum(map(len, wanted))
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.mean([precision[place] if place < len(precision) else 0.0 for place in places]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="PennFudanPed; default: drawn shapes")
    parser.add_argument("--model", default="resnet50", help=f"{', '.join(CELLS)}, or of torchvision; resnet50")
    parser.add_argument(
        "--ghn", default=ghnfast.checkpoints.DEFAULT, help="its name or file; 'none' for random numbers"
    )
    parser.add_argument("--postprocess", action="store_true", help="noise and orthogonal weights before the first step")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="end after so many")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--size", type=int, default=800, help="of the shorter side that images are scaled to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train and evaluate; the average precision in percent."""
    options = parse(arguments)
    torch.manual_seed(options.seed)
    model = make_classifier(options.model)
    if options.ghn != "none":
        _, report = ghnfast.predict(model, options.ghn, input_shape=(3, 224, 224), classifier=False, report=True)
        print(f"{options.ghn} predicts {len(report.predicted)} tensors of {options.model}")
    if options.postprocess:
        ghnfast.postprocess(model, seed=options.seed)
    dataset: Dataset[Image] = Shapes() if options.data is None else PennFudan(options.data)
    if options.data is None:
        print("drawn shapes (no --data): this only shows that it runs")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(options.seed)).tolist()  # type: ignore[arg-type]
    held_out = min(HELD_OUT, len(order) // 2)
    training, test = order[held_out:], order[:held_out]
    detector = make_detector(model, options.size).to(options.device)
    optimizer = torch.optim.SGD(detector.parameters(), options.rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, EPOCHS_A_RATE, 0.1)
    step, precision = 0, 0.0
    for epoch in range(options.epochs):
        losses = []
        for batch in batches(dataset, training, epoch):
            losses.append(train_step(detector, optimizer, batch, options.device))
            step += 1
            if step == options.steps:
                break
        schedule.step()
        precision = evaluate(detector, dataset, test, options.device)
        print(f"epoch {epoch + 1}, step {step}: loss {np.mean(losses):.3f}, average precision {precision:.1f} %")
        if step == options.steps:
            break
    return precision


if __name__ == "__main__":
    main()
