"""Models of other libraries as models of commands: timm:NAME and hf:NAME. Never weights, never the network."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import UsageError
from ..files import in_words
from ..optional import import_optional

NAMES_HELP = (
    "timm:NAME (timm:resnet50d), or hf:NAME, an image classifier of transformers: a kind of model (hf:vit), a folder "
    "with a config.json, or a repository whose config.json is in the Hub's cache; all without their weights"
)


def is_library(name: str) -> bool:
    """Whether a name stands for a model of another library."""
    return name.partition(":")[0] in BUILDERS and ":" in name


def library_builder(name: str, num_classes: int | None) -> Callable[[], nn.Module]:
    """What builds a model of another library (`is_library`).

    Raises:
        MissingPackageError: the library is not installed.
        UsageError: there is no such model.
    """
    importlib.import_module("ghnfast.vision")  # both import torchvision, which it makes importable
    library, _, rest = name.partition(":")
    return BUILDERS[library](rest, num_classes)


def timm_builder(name: str, num_classes: int | None) -> Callable[[], nn.Module]:
    timm = import_optional("timm", "models of timm need")
    known: list[str] = timm.list_models()
    # The rest of a name says which weights. What begins with "hf-hub:" or a path would be read from there.
    base = name.partition(".")[0]
    if base not in known:
        close = difflib.get_close_matches(base.lower(), known, n=3)
        guess = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UsageError(f"timm has no model '{name}'{guess}; this lists their names: {TIMM_NAMES}")
    settings = {} if num_classes is None else {"num_classes": num_classes}
    return lambda: timm.create_model(name, pretrained=False, **settings)


TIMM_NAMES = "python -c 'import timm; print(*timm.list_models())'"


def transformers_builder(name: str, num_classes: int | None) -> Callable[[], nn.Module]:
    auto = import_optional("transformers", "models of transformers need")
    config = transformers_config(auto, name, {} if num_classes is None else {"num_labels": num_classes})
    if type(config) not in auto.AutoModelForImageClassification._model_mapping:
        raise UsageError(f"hf:{name} is a '{config.model_type}', of which transformers has no image classifier")
    if config.architectures is None:  # of kinds with several classifiers, transformers looks through it for one
        config.architectures = []
    return lambda: auto.AutoModelForImageClassification.from_config(config)


def transformers_config(auto: Any, name: str, settings: dict[str, Any]) -> Any:
    """A configuration by the kind of its model, or from a config.json on this machine. It runs no code from there."""
    kinds = list(auto.CONFIG_MAPPING)
    if name in kinds and not os.path.isdir(name):
        return auto.AutoConfig.for_model(name, **settings)
    try:
        return auto.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False, **settings)
    except Exception as error:  # the library's own, those of its client, and those of the file system
        if os.path.isdir(name):
            raise UsageError(f"hf:{name} has no config.json that transformers can read: {in_words(error)}") from error
        close = difflib.get_close_matches(name.lower(), kinds, n=3)
        guess = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UsageError(
            f"'{name}' is no kind of model that transformers has{guess}, no folder, and no repository whose "
            "config.json is in the Hub's cache; hf:vit, hf:FOLDER and hf:OWNER/NAME are accepted"
        ) from error


BUILDERS: dict[str, Callable[[str, int | None], Callable[[], nn.Module]]] = {
    "timm": timm_builder,
    "hf": transformers_builder,
}
