"""The GHNs that have names: where their files are, and what the files are known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

CHUNK_BYTES = 1 << 20

# The GHNs that come with the package: what they are, in words.
INCLUDED: Mapping[str, str] = MappingProxyType(
    {
        "ghn2-fashion": "GHN-2; Fashion-MNIST, 3x32x32, 10 classes",
        "ghn2-mnist5k": "GHN-2; 5,000 digits of MNIST, 3x32x32, 10 classes",
    }
)
DEFAULT = "ghn2-fashion"
PPUDA = "https://github.com/facebookresearch/ppuda/raw/main/checkpoints/"
GHN3 = "SamsungSAILMontreal/ghn3"


def git_blob_id(file: BinaryIO) -> str:
    """What `git hash-object FILE` prints: sha1 of "blob SIZE\\0" and the content, in hexadecimal."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return digest_of(file, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def sha256(file: BinaryIO) -> str:
    """What `sha256sum FILE` prints before the name."""
    file.seek(0)
    return digest_of(file, hashlib.sha256())


def digest_of(file: BinaryIO, digest: Any) -> str:
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


DIGESTS: Mapping[str, Callable[[BinaryIO], str]] = MappingProxyType({"git blob id": git_blob_id, "sha256": sha256})


class Check(NamedTuple):
    """What the content of a file is known by: a kind of digest from `DIGESTS`, and the digest in hexadecimal."""

    kind: str
    digest: str

    def of(self, file: BinaryIO) -> str:
        """The digest of this kind of an open file."""
        return DIGESTS[self.kind](file)


@dataclass(frozen=True)
class Published:
    """A published GHN.

    Attributes:
        name: what users call it.
        file: the file's name, on the server and in the cache.
        check: what the file's content is known by; None: nobody has told. Then that as many bytes came as were
            announced is all that a download knows, that they are weights of a GHN is what reading them tells, and that
            it is this one, `ghnfast verify`.
        base: the address of the folder that has the file; `GHNFAST_URL` takes its place.
        repository: "owner/name" of the repository on the Hugging Face Hub that has the file, in the place of `base`.
        config: constructor arguments of `ghnfast.GHN`, where the file does not say them; None: the file says them.
        aliases: other names of it. One with a suffix is the file of this name where there is one.
        about: what it is, in words: the paper's name, its images and its classes.
        norms: what is published of its predictions for torchvision models: the l2 norm of all parameters, by model.
    """

    name: str
    file: str
    check: Check | None
    base: str = PPUDA
    repository: str | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    aliases: tuple[str, ...] = ()
    about: str = ""
    norms: Mapping[str, float] = field(default_factory=dict, hash=False)


# The results that were published with GHN-3; they stand for the graphs of PyTorch at that time.
NORMS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "ghn2-imagenet": {"resnet18": 146.9574, "resnet50": 286.4883, "densenet121": 266.3553},
        "ghn3-t": {"resnet18": 54.9382, "resnet50": 78.6197, "densenet121": 68.6535},
        "ghn3-xl": {"resnet18": 73.9089, "resnet50": 108.4530, "densenet121": 94.9793},
    }
)


KINDS = {"ghn1": "GHN-1", "ghn2": "GHN-2", "mlp": "an MLP a node"}
IMAGES = {"cifar10": "CIFAR-10, 3x32x32, 10 classes", "imagenet": "ImageNet, 3x224x224, 1000 classes"}


def of_ppuda(name: str, blob: str) -> Published:
    """A GHN of the code of NeurIPS 2021; the blob id is that of the tree that publishes the file."""
    file = f"{name.replace('-', '_')}.pt"
    kind, _, images = name.partition("-")
    about = f"{KINDS[kind]}; {IMAGES[images]}"
    return Published(name, file, Check("git blob id", blob), about=about, norms=NORMS.get(name, {}))


def ghn3(name: str, stem: str) -> Published:
    """A GHN of the code of ICML 2023."""
    aliases = stem, f"{stem}.pt"
    about = f"GHN-3-{name.partition('-')[2].upper()}; {IMAGES['imagenet']}"
    return Published(name, f"{stem}.pt", None, repository=GHN3, aliases=aliases, about=about, norms=NORMS.get(name, {}))


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            of_ppuda("ghn1-cifar10", "0c97a283aefc0445dd357c08f1b36698149b8013"),
            of_ppuda("ghn2-cifar10", "4f290e0fad1b73066eeabb50be52e0c377d0b15b"),
            of_ppuda("mlp-cifar10", "3a987c98b437fd2dfc603668a846f2b632ed28a3"),
            of_ppuda("ghn1-imagenet", "985ebeb350c4ae79e0553d88c07d986fa69c227b"),
            of_ppuda("ghn2-imagenet", "7b5d6733e9fdf0069bc6186cad3a0b1b54fda68d"),
            ghn3("ghn3-t", "ghn3tm8"),
            ghn3("ghn3-s", "ghn3sm8"),
            ghn3("ghn3-l", "ghn3lm8"),
            ghn3("ghn3-xl", "ghn3xlm16"),
        )
    }
)


def names() -> tuple[str, ...]:
    """Every name that a GHN has, the default first."""
    return *INCLUDED, *PUBLISHED


def included_folder(name: str) -> Path:
    """The folder with the weights of a GHN that comes with the package, and what it was trained with."""
    return Path(__file__).parents[1] / "included" / name


def included_file(name: str) -> Path:
    """Its weights."""
    return included_folder(name) / "ghn.safetensors"


def entry_of(name: object) -> Published | None:
    """The published GHN of this name or alias, if there is one, and no file has the name of an alias with a suffix."""
    if not isinstance(name, str):
        return None
    if os.path.splitext(name)[1] and os.path.isfile(name):
        return None
    return PUBLISHED.get(name) or next((entry for entry in PUBLISHED.values() if name in entry.aliases), None)
