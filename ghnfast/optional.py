"""Packages that only parts of ghnfast need: their import, and the commands that install them.

Those leave the torch that is there as it is. The newest torchvision belongs to the newest torch, whose usual build is
for CUDA: a command without a version can replace a CPU build of torch by gigabytes of another one.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch

from .errors import MissingPackageError

# What pip calls a package, where Python calls it something else.
NAMES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "umap": "umap-learn"}


def import_optional(module: str, what: str) -> Any:
    """Import a module of a package that not everybody has.

    Args:
        module: its name, such as "torchvision.models".
        what: what it is needed for, as the beginning of a message: "files of DeepNets-1M need".

    Raises:
        MissingPackageError: the package is not installed, or does not work; the message says which command installs it.
    """
    package = module.partition(".")[0]
    if package == "torchvision":
        importlib.import_module("ghnfast.vision")  # first: it makes torchvision importable beside any build of torch
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise broken(package, what, error) from error
        raise MissingPackageError(f"{what} {NAMES.get(package, package)}: {command(package)}") from error
    except Exception as error:  # a build for another torch raises what it likes
        raise broken(package, what, error) from error


def broken(package: str, what: str, error: Exception) -> MissingPackageError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return MissingPackageError(
        f"{what} {NAMES.get(package, package)}, which is installed but cannot be imported ({reason}); "
        f"a new installation may help: {command(package)}"
    )


def command(package: str) -> str:
    """The command that installs a package and leaves torch as it is."""
    if package != "torchvision":
        return f"pip install {NAMES.get(package, package)}"
    wanted = f"torchvision{version_beside(torch.__version__)}"
    if torch.version.cuda is None and torch.version.hip is None:
        # Not its dependencies, for those are torch. Whether its operators load beside this torch does not matter.
        return f"pip install --no-deps {wanted} pillow"
    return f"pip install {wanted}"


def version_beside(version: str) -> str:
    """The requirement for the torchvision of a torch: torch 2.13.1 has torchvision 0.28.1; empty where nobody knows."""
    found = re.match(r"2\.(\d+)\.(\d+)", version)
    return "" if found is None else f"==0.{int(found[1]) + 15}.{found[2]}"
