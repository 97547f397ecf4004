"""Networks of depthwise convolutions: MobileNets, EfficientNets, ShuffleNets, MNASNets."""

from __future__ import annotations

from torch import nn

from .settings import Draw, Settings, models, rounded


def draw_mobilenet_v2(draw: Draw) -> Settings:
    width = draw.choice([0.35, 0.5, 0.75, 1.0])
    plan = [[1, 16, 1, 1]]
    for channels, stride in ((24, draw.choice([1, 2])), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1)):
        if channels in (24, 32, 160) or draw.chance(0.7):
            plan.append([draw.choice([3, 4, 6, 6]), channels, draw.whole(1, 3), stride])
    return {"width": width, "plan": plan}


def build_mobilenet_v2(settings: Settings, classes: int, size: int) -> nn.Module:
    network: nn.Module = models("mobilenetv2").MobileNetV2(
        num_classes=classes, width_mult=settings["width"], inverted_residual_setting=settings["plan"]
    )
    return network


def draw_mobilenet_v3(draw: Draw) -> Settings:
    width, inputs = draw.choice([0.35, 0.5, 0.75, 1.0]), 16
    plan = []
    for stage, channels in enumerate((16, 24, 40, 80, 112, 160)):
        if stage in (0, 1, 2) or draw.chance(0.7):
            activation = "RE" if stage < draw.choice([1, 2, 3]) else "HS"
            stride = 1 if stage == 0 and draw.chance(0.5) else (2 if stage in (0, 1, 2, 4) else 1)
            kernel, squeeze = draw.choice([3, 5]), draw.chance(0.5)
            for number in range(draw.whole(1, 3)):
                expanded = rounded(inputs * draw.choice([2, 3, 4, 6]))
                plan.append([inputs, kernel, expanded, channels, squeeze, activation, 1 if number else stride])
                inputs = channels
    return {"width": width, "plan": plan, "last": draw.choice([256, 512, 1024])}


def build_mobilenet_v3(settings: Settings, classes: int, size: int) -> nn.Module:
    mobilenetv3 = models("mobilenetv3")
    plan = [mobilenetv3.InvertedResidualConfig(*row, 1, settings["width"]) for row in settings["plan"]]
    network: nn.Module = mobilenetv3.MobileNetV3(plan, settings["last"], num_classes=classes)
    return network


def draw_efficientnet(draw: Draw) -> Settings:
    width, inputs = draw.choice([0.35, 0.5, 0.75, 1.0]), 32
    plan = []
    rows = ((16, 1, 3), (24, 2, 3), (40, 2, 5), (80, 2, 3), (112, 1, 5), (192, 2, 5), (320, 1, 3))
    for number, (channels, stride, kernel) in enumerate(rows):
        if number < 3 or number == 5 or draw.chance(0.7):
            expand = 1 if number == 0 else draw.choice([4, 6])
            plan.append([expand, kernel, stride, inputs, channels, draw.whole(1, 3)])
            inputs = channels
    return {"width": width, "plan": plan, "last": draw.choice([None, 256, 512])}


def build_efficientnet(settings: Settings, classes: int, size: int) -> nn.Module:
    efficientnet = models("efficientnet")
    plan = [efficientnet.MBConvConfig(*row, width_mult=settings["width"]) for row in settings["plan"]]
    network: nn.Module = efficientnet.EfficientNet(plan, 0.2, num_classes=classes, last_channel=settings["last"])
    return network


def draw_shufflenet(draw: Draw) -> Settings:
    width = draw.choice([24, 32, 48, 64, 96, 116])
    return {
        "layers": [draw.whole(2, 4), draw.whole(2, 6), draw.whole(2, 4)],
        "widths": [draw.choice([16, 24, 32]), width, 2 * width, 4 * width, draw.choice([256, 512, 1024])],
    }


def build_shufflenet(settings: Settings, classes: int, size: int) -> nn.Module:
    network: nn.Module = models("shufflenetv2").ShuffleNetV2(
        settings["layers"], settings["widths"], num_classes=classes
    )
    return network


def draw_mnasnet(draw: Draw) -> Settings:
    return {"alpha": draw.whole(7, 26) / 20}


def build_mnasnet(settings: Settings, classes: int, size: int) -> nn.Module:
    network: nn.Module = models("mnasnet").MNASNet(settings["alpha"], num_classes=classes)
    return network
