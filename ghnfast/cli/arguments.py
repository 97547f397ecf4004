"""Arguments that several commands take, and what is accepted as one."""

from __future__ import annotations

import argparse

import torch

from ..checkpoints import DEFAULT
from ..errors import UsageError
from ..training.config import MOST_SEED
from ..training.data import DATA_SETS, IMAGE_SIZE
from .deepnets_models import NAMES_HELP
from .library_models import NAMES_HELP as LIBRARIES_HELP

MODEL_HELP = (
    f"a torchvision classification model (resnet50), or {LIBRARIES_HELP}, or {NAMES_HELP}, or a cell of NAS-Bench-201 "
    "('|nor_conv_3x3~0|+...') or a code of NAS-Bench-Macro (01220211), or FILE.py:FACTORY or "
    "PACKAGE.MODULE:FACTORY, "
    "where FACTORY is a function that returns a torch.nn.Module and needs no arguments"
)


def add_model(parser: argparse.ArgumentParser, with_input_shape: bool = True) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    if with_input_shape:
        parser.add_argument(
            "--input-shape",
            type=parse_shape,
            metavar="C,H,W",
            help="the shape of one input, such as 3,32,32; default: what the model says of itself, else 3,224,224",
        )
    parser.add_argument(
        "--num-classes",
        type=parse_count,
        metavar="N",
        help="is passed on as num_classes, which a factory must then take; default: what the model has",
    )
    parser.add_argument("--small-images", action="store_true", help="give torchvision models the stem for 32x32 images")


def add_ghn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ghn", default=DEFAULT, metavar="NAME_OR_PATH", help=f"the GHN; default: {DEFAULT}")


def add_images(parser: argparse._ActionsContainer, of_the_ghn: bool = False) -> None:
    """--data, --root and --image-size; by default `mnist5k`, or the images that the GHN was trained on."""
    default = None if of_the_ghn else "mnist5k"
    data, size = ("those that the GHN was trained on", "theirs") if of_the_ghn else (default, str(IMAGE_SIZE))
    parser.add_argument("--data", default=default, choices=DATA_SETS, help=f"the images; default: {data}")
    parser.add_argument("--root", default="data", metavar="FOLDER", help="where the images are; default: data")
    parser.add_argument(
        "--image-size",
        default=None if of_the_ghn else IMAGE_SIZE,
        type=parse_count,
        metavar="N",
        help=f"pixels a side, of folder and imagenet; default: {size}",
    )


def parse_shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_count(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is no shape; positive sizes such as 3,32,32 are accepted") from None


def parse_seed(text: str) -> int:
    if not text.strip().isdecimal() or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; 0 to 2^64 - 1 are accepted")
    return int(text)


def parse_count(text: str) -> int:
    # Not isdigit, which also accepts digits that int does not.
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return int(text)


def check_device(text: str) -> torch.device:
    """A device that tensors can be on."""
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: torch was built without it
        raise UsageError(f"the device '{text}' cannot be used: {str(error).partition(chr(10))[0]}") from error
    if device.type == "meta":
        raise UsageError("the device 'meta' has no memory to predict into; cpu, cuda and the like are accepted")
    return device
