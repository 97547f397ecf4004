"""GHNs in folders and in repositories of the Hugging Face Hub: weights, configuration and a model card."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from .. import checkpoints
from ..checkpoints import PUBLISHED
from ..errors import CheckpointError, ConfigError, GhnfastError
from ..files import in_words, replacing
from .loading import check_dtype, made_of

if TYPE_CHECKING:
    from .ghn import GHN

P = TypeVar("P", bound="Pretrained")

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
MOST_CONFIG_BYTES = 1 << 16
CARD_TEXT = """---
library_name: ghnfast
tags:
- graph-hypernetwork
- parameter-prediction
---

# {name}

A Graph HyperNetwork: it predicts all parameters of a neural network, which nobody has trained, in one forward pass.

```python
import ghnfast

ghn = ghnfast.GHN.from_pretrained("{name}")
ghn.predict(model)
```

It has {weights:,} weights, and was {trained}.

| setting | value |
| --- | --- |
{settings}
"""


class Pretrained(nn.Module):
    """What a GHN can do with folders and repositories."""

    @classmethod
    def from_pretrained(
        cls: type[P],
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> P:
        """A GHN from what `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            source: a folder, or "owner/name" of a repository on the Hugging Face Hub. A folder wins.
            revision: of the repository: a branch, a tag or a commit; by default the main branch.
            dtype: see `ghnfast.load`.

        Raises:
            CheckpointError: there is none, it cannot be had, is broken or does not fit its configuration.
            MissingPackageError: it is on the Hub, and huggingface_hub is not installed.
        """
        check_dtype(dtype)
        folder = as_folder(source)
        if folder is not None and revision is not None:
            raise CheckpointError(f"revision is {revision!r}, and {folder} is a folder; a repository has revisions")
        weights, config = from_folder(folder) if folder is not None else from_hub(source, revision)
        settings = None if config is None else read_settings(config)
        with torch.inference_mode(False):
            read = checkpoints.read(weights, settings, dtype or torch.get_default_dtype())
            ghn = made_of(cast("type[GHN]", cls), read, dtype)
        ghn.name = os.fsdecode(source)
        return cast(P, ghn)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write weights, configuration and a model card into a folder, which need not be there. A card that is stays.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise CheckpointError(f"the folder is {folder!r:.80}; the path of one, such as '.', is accepted")
        save(cast("GHN", self), Path(folder), Path(folder).absolute().name)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "A GHN",
        revision: str | None = None,
    ) -> str:
        """Upload weights, configuration and a model card to the Hugging Face Hub. A card that is there stays.

        Args:
            repository: "owner/name"; it is made where there is none.
            private: whether a new repository is; by default what the owner has chosen.
            token: that may write to it; by default the one that huggingface_hub knows.
            revision: the branch; by default the main one.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: the Hub refused it or cannot be reached.
            MissingPackageError: huggingface_hub is not installed.
        """
        if not isinstance(repository, str) or not REPOSITORY.fullmatch(repository):
            raise CheckpointError(f"the repository is {repository!r}; 'owner/name' is accepted")
        with tempfile.TemporaryDirectory() as folder:
            save(cast("GHN", self), Path(folder), repository)
            return checkpoints.upload_folder(Path(folder), repository, private, token, commit_message, revision)


def as_folder(source: object) -> Path | None:
    """The folder that a source is; None for one that may be a repository.

    Raises:
        CheckpointError: it is neither.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"a GHN is in a folder or a repository 'owner/name', not {type(source).__name__}")
    given = os.fsdecode(source)
    path = os.path.expanduser(given)
    if os.path.isdir(path):
        return Path(path)
    if os.path.isfile(path):
        raise CheckpointError(f"{given!r} is a file, which ghnfast.load reads; a folder or 'owner/name' is accepted")
    if not isinstance(source, str) or not REPOSITORY.fullmatch(source):
        raise CheckpointError(f"{given[:300]!r} is no folder; a folder, or 'owner/name' on the Hub, is accepted")
    return None


def from_folder(folder: Path) -> tuple[Path, Path | None]:
    """The files of weights and of the configuration."""
    if not os.path.lexists(folder / WEIGHTS):
        raise CheckpointError(f"the folder {folder} has no {WEIGHTS}; what GHN.save_pretrained writes is accepted")
    return folder / WEIGHTS, folder / CONFIG if os.path.lexists(folder / CONFIG) else None


def from_hub(source: object, revision: str | None) -> tuple[Path, Path | None]:
    repository = cast(str, source)
    named = [entry.name for entry in PUBLISHED.values() if entry.repository == repository]
    weights = checkpoints.hub_file(repository, WEIGHTS, revision, optional=True)
    if weights is None:
        names = f"; its GHNs have names that ghnfast.load takes: {', '.join(named)}" if named else ""
        raise CheckpointError(
            f"the repository '{repository}' has no {WEIGHTS}{names}; what GHN.push_to_hub writes is accepted"
        )
    return weights, checkpoints.hub_file(repository, CONFIG, revision, optional=True)


def read_settings(path: Path) -> dict[str, Any]:
    """The configuration in a file: that of weights which do not say theirs."""
    try:
        checkpoints.check_regular(path)
        with open(path, "rb") as file:
            text = file.read(MOST_CONFIG_BYTES + 1)
        if len(text) > MOST_CONFIG_BYTES:
            raise ConfigError(f"it has more than {MOST_CONFIG_BYTES} bytes")
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ConfigError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the configuration {path} cannot be read: {in_words(error)}; a JSON object of the arguments of a GHN is "
            "accepted"
        ) from error
    return config


def save(ghn: GHN, folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ghn.save(folder / WEIGHTS)
        with replacing(folder / CONFIG) as file:
            file.write((json.dumps(ghn.config, indent=1) + "\n").encode())
        if not os.path.lexists(folder / CARD):
            with replacing(folder / CARD) as file:
                file.write(card(ghn, name).encode("utf-8", "backslashreplace"))
    except (OSError, ValueError) as error:
        if isinstance(error, GhnfastError):
            raise
        raise CheckpointError(f"the folder {folder} cannot be written: {in_words(error)}") from error


def card(ghn: GHN, name: str) -> str:
    """A model card: what it is, how it is used, its settings."""
    images = ghn.trained_on
    trained = "not trained by ghnfast, or its training is not known"
    if images is not None:
        trained = f"trained on {images.data}, images of shape {'x'.join(map(str, images.input_shape))}"
        trained += "" if ghn.epoch is None else f", for {ghn.epoch + 1} epochs"
    settings = "\n".join(f"| `{key}` | `{value}` |" for key, value in ghn.config.items())
    weights = sum(parameter.numel() for parameter in ghn.parameters())
    return CARD_TEXT.format(name=name, weights=weights, trained=trained, settings=settings)
