"""The configuration of a training run: one flat table, from a file and the command line, saved with the run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..families import TRAINED
from ..files import in_words, is_text
from ..nn.config import GHNSettings
from ..optional import import_optional
from ..plain import plain
from .data import IMAGE_SIZE

SCHEDULES = ("step", "cosine", "cosine-warmup", "constant")
OPTIMIZERS = ("adam", "adamw")
WARM_EPOCHS, FIRST_RATE = 5, 1e-5  # of "cosine-warmup"
AMP = ("none", "bfloat16", "float16")
# All, and families one by one; those that are held out stay so.
NETS = ("deepnets", "families", *TRAINED)
SUFFIXES = (".toml", ".yaml", ".yml")
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 200
MOST_SEED = (1 << 64) - 1
# Published recipes, by name.
RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
# The largest numbers that mean something: beyond them memory or the machine's integers end.
MOST = {
    "workers": 1024,
    "networks": 100_000_000,
    "members": 100_000,
    "hid": 1 << 14,
    "num_ch": 1 << 16,
    "fc_dim": 1 << 16,
    "image_size": 1 << 12,
}


@dataclass(frozen=True)
class TrainConfig(GHNSettings):
    """What `train` does. The defaults train GHN-2 for CIFAR-10 as published (NeurIPS 2021, appendix C.1).

    Data: `data`, see `ghnfast.training.load_data`; `root`, its folder; `image_size`, pixels a side of `folder` and
    `imagenet` (32 or 224 with DeepNets-1M, 32 or more with families); `batch_size` images; `workers`, processes that
    read them; `augment`, whether training images are cropped and mirrored as the data set's are; `balanced`, whether
    each batch has the classes in equal shares, which takes noise out of the gradients that a batch's networks share;
    `own_images`, whether each network of a meta-batch sees `batch_size` images of its own, not all the same.
    Networks: `meta_batch` of them per image batch, together of at most `max_nodes` nodes (the last are left out);
    `nets`, "deepnets", "families" (see `ghnfast.families`), one of `ghnfast.families.TRAINED`, or several with their
    weights, "deepnets:1, families:1, vit:0.2"; `networks`, how many of the train split of DeepNets-1M; `members`, how
    many of families, or of one, whose graphs are kept;
    `num_ch`, `fc_dim` and `wider`, see `DeepNets1M`.
    GHN: the arguments of `ghnfast.GHN` (`max_shape` is another by default); `init`, a checkpoint to start from;
    `identity_steps`, steps of regression before the first one, which need no images, to a GHN whose networks pass their
    channels on (see `ghnfast.training.start`).
    Optimization: `optimizer` "adam" or "adamw" (whose decay is no part of gradients), `lr`, `weight_decay`, gradients
    clipped to the norm `grad_clip`; `network_clip`, if not 0, is the largest norm that one network's gradient of its
    parameters keeps, so that a network that explodes (one in thirty has no normalization) does not decide a step.
    `steps` in all, or `epochs` over the images; `schedule` "step" (times `gamma` at each of `milestones`, shares of all
    steps), "cosine" (to zero), "cosine-warmup" (GHN-3's: epoch by epoch, of more than six; the first five rise)
    or "constant"; `warmup` steps of linear rise. `label_smoothing`; `predicted_decay`, a penalty on the norm of each
    predicted tensor, a mean over networks. `amp`: the dtype of autocast for the networks; with
    "float16" the loss is scaled, by twice as much after `scale_growth` steps with finite gradients, by half as much
    after one without, and never by less than `least_scale`.
    Run: `seed`; `device`, where under torchrun "cuda" is a GPU for each process and "cuda:0" one that they share;
    `max_skipped`, the steps in a row without a finite loss that end the run; `log_every` and `save_every` steps;
    `tensorboard`.
    """

    data: str = "cifar10"
    root: str = "data"
    image_size: int = IMAGE_SIZE
    batch_size: int = 64
    workers: int = 0
    augment: bool = True
    balanced: bool = False
    own_images: bool = False
    meta_batch: int = 8
    max_nodes: int = 2200
    nets: str = "deepnets"
    networks: int = 1_000_000
    members: int = 4096
    num_ch: tuple[int, int] = (16, 128)
    fc_dim: tuple[int, int] = (64, 512)
    wider: bool = False
    max_shape: tuple[int, int, int, int] = (64, 64, 11, 11)
    init: str = ""
    identity_steps: int = 0
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-5
    grad_clip: float = 5.0
    network_clip: float = 0.0
    steps: int = 0
    epochs: int = 300
    schedule: str = "step"
    milestones: tuple[float, ...] = (2 / 3, 5 / 6)
    gamma: float = 0.1
    warmup: int = 0
    label_smoothing: float = 0.0
    predicted_decay: float = 0.0
    amp: str = "none"
    scale_growth: int = 2000
    least_scale: float = 0.0
    seed: int = 0
    device: str = "cpu"
    max_skipped: int = 100
    log_every: int = 100
    save_every: int = 500
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, converted(name, getattr(self, name), kind))
        positive = (
            "image_size batch_size meta_batch max_nodes networks members hid lr grad_clip gamma scale_growth "
            "max_skipped log_every save_every"
        ).split()
        for name in positive:
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        require(self.batch_size > 1, "batch_size", self.batch_size, "2 or more (one image has no batch statistics)")
        zero_or_more = (
            "weight_decay network_clip identity_steps warmup predicted_decay least_scale steps epochs workers seed"
        ).split()
        for name in zero_or_more:
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, str):
                require(is_text(value), name, value, "text")
                require("\0" not in value, name, value, "text without NUL")
            numbers = value if isinstance(value, tuple) else (value,)
            if name != "seed" and numbers and all(type(number) is int for number in numbers):
                most = MOST.get(name, (1 << 63) - 1)
                require(max(numbers) <= most, name, value, f"at most {most:,}")
        require(self.seed <= MOST_SEED, "seed", self.seed, "0 to 2^64 - 1")
        require(self.steps > 0 or self.epochs > 0, "steps", self.steps, "a positive number, or epochs,")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "0 or more, below 1,")
        require(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(map(repr, SCHEDULES)))
        if self.schedule == "cosine-warmup":  # the last of the rising epochs is followed by a share of those after it
            accepted = f"more than {WARM_EPOCHS + 1}, with the schedule 'cosine-warmup',"
            require(self.epochs > WARM_EPOCHS + 1, "epochs", self.epochs, accepted)
        require(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, " or ".join(map(repr, OPTIMIZERS)))
        require(self.amp in AMP, "amp", self.amp, " or ".join(map(repr, AMP)))
        require(self.amp != "float16" or self.device != "cpu", "amp", self.amp, "'bfloat16' or 'none' on the CPU")
        self.weights_of_nets()
        inside = all(0 < share < 1 for share in self.milestones)
        require(inside and list(self.milestones) == sorted(self.milestones), "milestones", self.milestones,
                "rising shares of all steps, each between 0 and 1,")  # fmt: skip

    def weights_of_nets(self) -> dict[str, float]:
        """The shares of the kinds of networks that `nets` names."""
        accepted = f"{', '.join(NETS)}, or several with their weights, such as 'deepnets:1, families:1',"
        weights: dict[str, float] = {}
        for part in self.nets.split(","):
            name, colon, number = part.partition(":")
            try:
                weight = float(number) if colon else 1.0
            except ValueError:
                weight = math.nan
            name = name.strip()
            require(name in NETS and name not in weights and 0 < weight < math.inf, "nets", self.nets, accepted)
            weights[name] = weight
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def learning_rate(self, step: int, steps: int) -> float:
        """Of the step with this number, of so many."""
        rate = self.lr
        if self.schedule == "step":
            rate *= self.gamma ** sum(step >= share * steps for share in self.milestones)
        elif self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
        elif self.schedule == "cosine-warmup":
            rate = self.rate_of_epoch(step * self.epochs // steps)
        return rate * min(1.0, (step + 1) / self.warmup) if self.warmup else rate

    def rate_of_epoch(self, epoch: int) -> float:
        """The learning rate of an epoch with "cosine-warmup", as the code of GHN-3 has it."""
        if epoch < WARM_EPOCHS - 1:
            return FIRST_RATE + (self.lr - FIRST_RATE) * epoch / (WARM_EPOCHS - 1)
        return self.lr * (1 + math.cos(math.pi * (epoch - WARM_EPOCHS) / (self.epochs - WARM_EPOCHS))) / 2

    def as_toml(self) -> str:
        """The configuration as a file, which `read_config` reads."""
        return "".join(f"{name} = {toml_of(value)}\n" for name, value in dataclasses.asdict(self).items())


def as_lists(config: TrainConfig) -> dict[str, Any]:
    """Names and values as checkpoints have them: lists for tuples."""
    values = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def toml_of(value: Any) -> str:
    """JSON's numbers, strings, booleans and lists are TOML's, but for two things: TOML has no escapes of halves of a
    character, in which JSON writes those beyond 16 bits, and takes no DEL as it is.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def require(condition: bool, name: str, given: Any, accepted: str) -> None:
    if not condition:
        raise TrainingError(f"{name} is {shown(given)}; {accepted} is accepted")


def shown(value: Any) -> str:
    """A value in a message, whatever its size."""
    return SHORT.repr(value)


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """A configuration from names and values; strings are read as what the name stands for.

    Raises:
        TrainingError: an unknown name, or a value that is not accepted.
    """
    if not isinstance(values, Mapping):
        raise TrainingError(f"the configuration is {shown(values)}; a table of names and values is accepted")
    kinds = typing.get_type_hints(TrainConfig)
    for name in values:
        if not isinstance(name, str):
            raise TrainingError(f"the configuration has {shown(name)} for a name; accepted are {', '.join(kinds)}")
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; accepted are {', '.join(kinds)}"
            raise TrainingError(f"the configuration has no {shown(name)}{hint}")
    return TrainConfig(**values)


def converted(name: str, value: Any, kind: Any) -> Any:
    """A value as its type."""
    value = plain(value)
    if isinstance(value, str) and kind is not str:
        try:
            if kind is float:  # Python's numbers: JSON has no .001
                value = float(value)
            else:
                value = json.loads(value if not isinstance(kind, types.GenericAlias) else f"[{value.strip('[]()')}]")
        except (ValueError, RecursionError):
            raise TrainingError(f"{name} is {shown(value)}; {words_for(kind)} is accepted") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if isinstance(kind, types.GenericAlias):
        inner = typing.get_args(kind)
        fits = isinstance(value, (list, tuple)) and (inner[-1] is Ellipsis or len(value) == len(inner))
        if fits:
            return tuple(converted(name, item, inner[0]) for item in value)
    elif type(value) is kind and (kind is not float or math.isfinite(value)):
        return value
    raise TrainingError(f"{name} is {shown(value)}; {words_for(kind)} is accepted")


def words_for(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        inner = typing.get_args(kind)
        return "a list of numbers" if inner[-1] is Ellipsis else f"a list of {len(inner)} numbers"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a string"}[kind]


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The names and values in a .toml or .yaml file, or in a recipe that comes with the package (`RECIPES`).

    Raises:
        TrainingError: it cannot be read, or is no such file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TrainingError(f"the configuration is {shown(path)}; the path of a file is accepted")
    file = RECIPES.get(os.fspath(path), Path(path))
    if file.suffix not in SUFFIXES:
        raise TrainingError(
            f"the configuration is {file}; a file with the suffix {', '.join(SUFFIXES)}, or one of "
            f"{', '.join(RECIPES)}, is accepted"
        )
    try:
        text = file.read_bytes().decode("utf-8-sig")  # some editors write a mark before UTF-8
    except (OSError, ValueError) as error:
        raise TrainingError(f"the configuration {file} cannot be read: {in_words(error)}") from error
    values = parse_toml(text, file) if file.suffix == ".toml" else parse_yaml(text, file)
    if not isinstance(values, dict):
        raise TrainingError(f"the configuration {file} is no table of names and values")
    return values


def parse_toml(text: str, file: Path) -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        tomllib = import_optional("tomli", "TOML files need Python 3.11, or")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TrainingError(f"the configuration {file} is no TOML: {error}") from error


def parse_yaml(text: str, file: Path) -> Any:
    yaml = import_optional("yaml", "YAML files need")
    try:
        found = yaml.safe_load(text)
        return {} if found is None else found  # comments alone
    except Exception as error:  # its own, or that a date does not exist, or that a list in a list has no end
        raise TrainingError(f"the configuration {file} is no YAML: {' '.join(str(error).split())}") from error
