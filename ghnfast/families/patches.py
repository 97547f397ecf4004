"""Networks of patches and layer norms: ViTs, mixers, ConvNeXts, Swin transformers."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from .settings import Draw, Settings, models


def patch_of(settings: Settings, size: int) -> int:
    """The size of a patch: settings name it for 32 x 32 images."""
    patch: int = settings["patch"]
    return patch * max(size // 32, 1)


def draw_vit(draw: Draw) -> Settings:
    head, heads = draw.choice([16, 32, 64]), draw.choice([2, 3, 4])
    width = head * heads
    return {
        "patch": draw.choice([4, 4, 8]),
        "layers": draw.whole(2, 8),
        "heads": heads,
        "width": width,
        "hidden": width * draw.choice([2, 4]),
    }


def build_vit(settings: Settings, classes: int, size: int) -> nn.Module:
    patch = patch_of(settings, size)
    used = size - size % patch
    network: nn.Module = models("vision_transformer").VisionTransformer(
        used, patch, settings["layers"], settings["heads"], settings["width"], settings["hidden"], num_classes=classes
    )
    if used < size:
        network.register_forward_pre_hook(functools.partial(crop, used))
    return network


def crop(size: int, network: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    """What a network of whole patches sees of images: a convolution, too, leaves out what is too little for a patch."""
    return (images[0][..., :size, :size],)


def draw_mixer(draw: Draw) -> Settings:
    width = draw.choice([48, 64, 96, 128, 192])
    return {
        "patch": draw.choice([4, 4, 8]),
        "layers": draw.whole(2, 8),
        "width": width,
        "tokens": draw.choice([32, 64, 128]),
        "hidden": width * draw.choice([2, 4]),
    }


class MixerBlock(nn.Module):
    """A perceptron over patches, then one over channels (Tolstikhin et al., "MLP-Mixer", 2021)."""

    def __init__(self, patches: int, width: int, tokens: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_patches = nn.Sequential(nn.Linear(patches, tokens), nn.GELU(), nn.Linear(tokens, patches))
        self.over_channels = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.over_channels(self.norm2(x))
        return out


class Mixer(nn.Module):
    """(N, 3, size, size) -> (N, classes)."""

    def __init__(self, settings: Settings, classes: int, size: int) -> None:
        super().__init__()
        patch, width = patch_of(settings, size), settings["width"]
        self.stem = nn.Conv2d(3, width, patch, patch)
        shape = ((size // patch) ** 2, width, settings["tokens"], settings["hidden"])
        self.blocks = nn.Sequential(*(MixerBlock(*shape) for _ in range(settings["layers"])))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.blocks(self.stem(images).flatten(2).transpose(1, 2))
        out: Tensor = self.head(self.norm(patches).mean(1))
        return out


def build_mixer(settings: Settings, classes: int, size: int) -> nn.Module:
    return Mixer(settings, classes, size)


def draw_convnext(draw: Draw) -> Settings:
    """`scale` is what the output of each block begins with: one in a million as published, or 1."""
    return {
        "width": draw.choice([16, 24, 32, 48, 64, 96]),
        "layers": draw.depths(4, 3),
        "patch": draw.choice([2, 4]),
        "scale": draw.choice([1e-6, 1.0, 1.0]),
    }


def build_convnext(settings: Settings, classes: int, size: int) -> nn.Module:
    convnext, width, depths = models("convnext"), settings["width"], settings["layers"]
    following = [width << stage for stage in range(1, len(depths))]
    plan = [
        convnext.CNBlockConfig(width << stage, outputs, depth)
        for stage, (depth, outputs) in enumerate(zip(depths, [*following, None], strict=True))
    ]
    network: nn.Module = convnext.ConvNeXt(plan, layer_scale=settings["scale"], num_classes=classes)
    stem: Any = network.features[0]  # type: ignore[index]
    stem[0] = nn.Conv2d(3, width, patch_of(settings, size), patch_of(settings, size))
    return network


def draw_swin(draw: Draw) -> Settings:
    head = draw.choice([8, 16])
    return {"head": head, "width": 2 * head * draw.whole(1, 2), "layers": [2, draw.choice([2, 4])],
            "patch": draw.choice([2, 4]), "window": 4}  # fmt: skip


def build_swin(settings: Settings, classes: int, size: int) -> nn.Module:
    patch, width, head = patch_of(settings, size), settings["width"], settings["head"]
    heads = [(width << stage) // head for stage in range(len(settings["layers"]))]
    network: nn.Module = models("swin_transformer").SwinTransformer(
        [patch, patch], width, settings["layers"], heads, [settings["window"]] * 2, num_classes=classes
    )
    return network
