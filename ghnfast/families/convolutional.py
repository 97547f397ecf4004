"""ResNets, pre-activation ResNets, VGGs, DenseNets, SqueezeNets and RegNets."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .settings import Draw, Settings, models, rounded


def draw_resnet(draw: Draw) -> Settings:
    bottleneck = draw.chance(0.5)
    small_stem = draw.chance(0.3)
    width = draw.choice([16, 24] if small_stem else [16, 24, 32, 48, 64])
    groups = draw.choice([1, 1, 1, 2, 4]) if bottleneck else 1
    return {
        "bottleneck": bottleneck,
        "layers": draw.depths(4, 2 if small_stem else 4),
        "width": width,
        "groups": groups,
        "inner": draw.choice([64, 64, 128]) if bottleneck else 64,
        "small_stem": small_stem,
    }


def build_resnet(settings: Settings, classes: int, size: int) -> nn.Module:
    """Like torchvision's `ResNet`, which always begins with 64 channels, for other widths.

    `inner` is torchvision's `width_per_group` times `groups`.
    """
    resnet = models("resnet")
    block = resnet.Bottleneck if settings["bottleneck"] else resnet.BasicBlock
    width, groups = settings["width"], settings["groups"]
    network = resnet.ResNet(
        block, [1, 1, 1, 1], num_classes=classes, groups=groups, width_per_group=settings["inner"] // groups
    )
    network.inplanes = width
    if settings["small_stem"]:
        network.conv1, network.maxpool = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.Identity()
    else:
        network.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    for stage, depth in enumerate(settings["layers"]):
        layer = network._make_layer(block, width << stage, depth, stride=1 if stage == 0 else 2)
        setattr(network, f"layer{stage + 1}", layer)
    network.fc = nn.Linear((width << 3) * block.expansion, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    made: nn.Module = network
    return made


def draw_preactivation(draw: Draw) -> Settings:
    return {
        "width": draw.choice([16, 24, 32]),
        "layers": draw.depths(3, 3),
        "widen": draw.choice([1, 1, 2]),
        "stride": draw.choice([1, 2, 2]),
    }


class PreactivationBlock(nn.Module):
    """Normalization and ReLU before each convolution (He et al., "Identity Mappings in Deep Residual
    Networks", 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        way = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return way + out


def build_preactivation(settings: Settings, classes: int, size: int) -> nn.Module:
    width = settings["width"]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, settings["stride"], 1, bias=False)]
    inputs = width
    for stage, depth in enumerate(settings["layers"]):
        outputs = (width << stage) * settings["widen"]
        for number in range(depth):
            layers.append(PreactivationBlock(inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)


def draw_vgg(draw: Draw) -> Settings:
    width, depths = draw.choice([16, 24, 32, 48, 64]), draw.depths(5, 3)
    return {"width": width, "layers": depths, "hidden": draw.choice([128, 256, 512]), "cells": draw.choice([1, 1, 2])}


def build_vgg(settings: Settings, classes: int, size: int, *, normalized: bool = False) -> nn.Module:
    """torchvision's features, with narrower classifiers than its 4,096."""
    vgg, width = models("vgg"), settings["width"]
    plan: list[Any] = []
    for stage, depth in enumerate(settings["layers"]):
        plan += [width << min(stage, 3)] * depth + ["M"]
    network: nn.Module = vgg.VGG(vgg.make_layers(plan, normalized), num_classes=classes, init_weights=False)
    cells, hidden = settings["cells"], settings["hidden"]
    network.avgpool = nn.AdaptiveAvgPool2d(cells)
    network.classifier = nn.Sequential(
        nn.Linear((width << 3) * cells * cells, hidden), nn.ReLU(True), nn.Dropout(),
        nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, classes),
    )  # fmt: skip
    return network


def build_vgg_bn(settings: Settings, classes: int, size: int) -> nn.Module:
    return build_vgg(settings, classes, size, normalized=True)


def draw_densenet(draw: Draw) -> Settings:
    return {
        "growth_rate": draw.choice([8, 12, 16, 24, 32]),
        "layers": draw.depths(4, 6),
        "width": draw.choice([16, 24, 32, 48, 64]),
        "bn_size": draw.choice([2, 4]),
        "small_stem": draw.chance(0.2),
    }


def build_densenet(settings: Settings, classes: int, size: int) -> nn.Module:
    network: nn.Module = models("densenet").DenseNet(
        settings["growth_rate"], settings["layers"], settings["width"], settings["bn_size"], num_classes=classes
    )
    if settings["small_stem"]:
        features: Any = network.features
        features.conv0 = nn.Conv2d(3, settings["width"], 3, padding=1, bias=False)
        features.pool0 = nn.MaxPool2d(2)
    return network


def draw_squeezenet(draw: Draw) -> Settings:
    return {
        "width": draw.choice([32, 48, 64, 96]),
        "squeeze": draw.choice([8, 12, 16]),
        "layers": draw.depths(3, 3),
        "ratio": draw.choice([2, 4, 4]),
        "stem": draw.choice([3, 3, 7]),
    }


def build_squeezenet(settings: Settings, classes: int, size: int) -> nn.Module:
    """torchvision's modules, with other widths and depths."""
    squeezenet = models("squeezenet")
    network: nn.Module = squeezenet.SqueezeNet("1_1", num_classes=classes)
    width, stem = settings["width"], settings["stem"]
    layers: list[nn.Module] = [nn.Conv2d(3, width, stem, stride=2, padding=stem // 2), nn.ReLU(inplace=True)]
    inputs = width
    for stage, depth in enumerate(settings["layers"]):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        squeeze = settings["squeeze"] * (1, 2, 4)[stage]
        for _ in range(depth):
            layers.append(squeezenet.Fire(inputs, squeeze, squeeze * settings["ratio"], squeeze * settings["ratio"]))
            inputs = 2 * squeeze * settings["ratio"]
    network.features = nn.Sequential(*layers)
    classifier: Any = network.classifier
    classifier[1] = nn.Conv2d(inputs, classes, 1)
    return network


def draw_regnet(draw: Draw) -> Settings:
    group = draw.choice([8, 16])
    first = group * draw.whole(1, 3)
    widths = [first]
    for _ in range(3):
        widths.append(rounded(widths[-1] * draw.choice([1.5, 2.0, 2.5]), group))
    return {"layers": draw.depths(4, 3), "widths": widths, "group": group, "se": draw.chance(0.5)}


def build_regnet(settings: Settings, classes: int, size: int) -> nn.Module:
    regnet = models("regnet")
    params = regnet.BlockParams(
        settings["layers"], settings["widths"], [settings["group"]] * 4, [1.0] * 4, [2] * 4,
        0.25 if settings["se"] else None,
    )  # fmt: skip
    network: nn.Module = regnet.RegNet(params, num_classes=classes)
    return network
