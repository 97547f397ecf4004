"""torchvision beside any torch build, and small-image versions of its models.

Importing this module makes `import torchvision` work where torchvision's compiled operators do not load (PyPI's
torchvision beside a CPU build of torch): the schemas that its import looks for are declared, without implementations.
It does not import torchvision itself.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

# The library object owns the declarations: they vanish with it.
declared: torch.library.Library | None = None

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_operators() -> None:
    """Declare the operators that `import torchvision` needs, where its own library does not provide them."""
    global declared
    if declared is not None or "torchvision" in sys.modules or compiled_operators_load():
        return
    declared = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        declared.define(schema)


def compiled_operators_load() -> bool:
    """Whether torchvision's compiled library loads beside this torch. It stays loaded."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True  # nothing is installed that would need a declaration
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


declare_operators()


def adapt_to_small_images(model: nn.Module) -> nn.Module:
    """Adapt the stem of a torchvision model to 32x32 images, in place, as the GHNs for CIFAR-10 expect it.

    ResNets get a 3x3 first convolution of stride 1 (the centre of its filters) and no first pool; DenseNets likewise;
    VGGs, AlexNet, GoogLeNet and ShuffleNets lose early pools; MobileNets, MNASNets and AlexNet early strides. Models of
    every other family are left as they are. Source: the experiments of Parameter Prediction for Unseen Deep
    Architectures (NeurIPS 2021), section 4.1.

    Returns:
        The model that was given.
    """
    if has_small_version(model):
        ADAPTATIONS[type(model).__name__](model)
    return model


def has_small_version(model: nn.Module) -> bool:
    """Whether `adapt_to_small_images` changes it."""
    family = type(model)
    return family.__module__.startswith("torchvision.models.") and family.__name__ in ADAPTATIONS


def shrink_stem(convolution: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution of stride 1 with the centre of another one's filters."""
    small = nn.Conv2d(
        convolution.in_channels, convolution.out_channels, 3, padding=1, bias=convolution.bias is not None
    ).to(convolution.weight)
    top, left = ((size - 3) // 2 for size in convolution.kernel_size)
    with torch.no_grad():
        small.weight.copy_(convolution.weight[:, :, top : top + 3, left : left + 3])
        if small.bias is not None and convolution.bias is not None:
            small.bias.copy_(convolution.bias)
    return small.train(convolution.training)


def convolutions(modules: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in modules.modules() if isinstance(module, nn.Conv2d))


def remove_stride(convolution: nn.Conv2d) -> None:
    convolution.stride = (1, 1)


def adapt_resnet(model: nn.Module) -> None:
    model.conv1 = shrink_stem(model.conv1)  # type: ignore[arg-type]
    model.maxpool = nn.Identity()


def adapt_densenet(model: nn.Module) -> None:
    features: nn.Sequential = model.features  # type: ignore[assignment]
    features[0] = shrink_stem(features[0])  # type: ignore[arg-type]
    features[3] = nn.Identity()


def adapt_mobilenet(model: nn.Module) -> None:
    features: nn.Sequential = model.features  # type: ignore[assignment]
    for convolution in convolutions(features[:5]):
        remove_stride(convolution)


def adapt_vgg(model: nn.Module) -> None:
    features: nn.Sequential = model.features  # type: ignore[assignment]
    for index, layer in enumerate(features.children()):
        if index < 10 and isinstance(layer, nn.MaxPool2d):
            features[index] = nn.Identity()


def adapt_alexnet(model: nn.Module) -> None:
    features: nn.Sequential = model.features  # type: ignore[assignment]
    remove_stride(features[0])  # type: ignore[arg-type]
    features[2] = nn.Identity()


def adapt_mnasnet(model: nn.Module) -> None:
    layers: nn.Sequential = model.layers  # type: ignore[assignment]
    remove_stride(layers[0])  # type: ignore[arg-type]


def adapt_shufflenet(model: nn.Module) -> None:
    model.maxpool = nn.Identity()


def adapt_googlenet(model: nn.Module) -> None:
    model.maxpool1 = nn.Identity()


ADAPTATIONS = {
    "ResNet": adapt_resnet,
    "DenseNet": adapt_densenet,
    "MobileNetV2": adapt_mobilenet,
    "MobileNetV3": adapt_mobilenet,
    "VGG": adapt_vgg,
    "AlexNet": adapt_alexnet,
    "MNASNet": adapt_mnasnet,
    "ShuffleNetV2": adapt_shufflenet,
    "GoogLeNet": adapt_googlenet,
}
