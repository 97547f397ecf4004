"""The models that commands are given: by a name of a library's or DeepNets-1M's, or by what builds them."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import GhnfastError, UsageError
from ..optional import command, import_optional
from ..progress import say
from ..spaces import check_name, is_name, network_of
from .deepnets_models import deepnets_builder, is_deepnets
from .library_models import is_library, library_builder

SEED = 0
LIST_NAMES = "python -c 'import ghnfast.vision, torchvision.models as m; print(*m.list_models(module=m))'"
PROGRAM_HINT = "; what it does as a program belongs under if __name__ == '__main__'"


def find_model(name: str, num_classes: int | None, *, large_images: bool = False) -> Callable[[], nn.Module]:
    """What builds the model that a name stands for. Every call builds the same one, with the same random numbers.

    Args:
        large_images: whether networks of DeepNets-1M are for 224 x 224 images, else for 32 x 32.

    Raises:
        ConfigError, NetworkIndexError: DeepNets-1M, or a space, has no such network.
        UsageError: there is no such model; the message says what there is. The function that is returned raises it
            where a factory returns something else than a module.
    """
    settings = {} if num_classes is None else {"num_classes": num_classes}
    if is_deepnets(name):
        build = deepnets_builder(name, num_classes, large_images)
    elif is_name(name):
        check_name(name)
        build = functools.partial(network_of, name, **settings)
    elif is_library(name):
        build = blamed(library_builder(name, num_classes), name)
    else:
        build = factory_builder(name, settings) if ":" in name else torchvision_builder(name, settings)

    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return build()

    return seeded


def blamed(build: Callable[[], nn.Module], what: str) -> Callable[[], nn.Module]:
    """The same; `what` is to blame for whatever it raises."""

    def run() -> nn.Module:
        with blaming(what):
            return build()

    return run


def is_factory(name: str) -> bool:
    """Whether a name says where a factory is, which need not take a number of classes."""
    return ":" in name and not is_deepnets(name) and not is_library(name)


def torchvision_builder(name: str, settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    if name.endswith(".py") or os.sep in name:
        raise UsageError(f"{name} does not say which function builds the model; FILE.py:FACTORY is accepted")
    models = import_optional("torchvision.models", "models by name need")
    names: list[str] = models.list_models(module=models)
    if name not in names:
        raise UsageError(unknown_model(name, names, models.list_models()))
    return factory_builder(f"{models.__name__}:{name}", settings)


def unknown_model(name: str, names: Sequence[str], names_of_all_tasks: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), names, n=3)
    if name in names_of_all_tasks:
        what = f"'{name}' is a torchvision model, but not for classification"
    else:
        what = f"'{name}' is no torchvision classification model"
    guess = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{what}{guess}; this lists their names: {LIST_NAMES}; FILE.py:FACTORY and MODULE:FACTORY are accepted too"


def factory_builder(name: str, settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    source, _, attribute = name.rpartition(":")
    is_file = source.endswith(".py") or os.sep in source
    folder = Path(source).absolute().parent if is_file else Path.cwd()
    what, place = f"{attribute} in {source}", Place()
    with importable(folder), place.entered():
        module = load_file(Path(source)) if is_file else import_module(source)
        with blaming(what):  # modules make attributes on demand
            factory = find_factory(module, source, attribute)
    check_call(factory, what, settings)
    settings = {**settings, **quick_settings(factory)}

    def build() -> nn.Module:
        with importable(folder), place.entered(), blaming(what):
            model = factory(**settings)
        if not isinstance(model, nn.Module):
            raise UsageError(f"{name} returned a {type(model).__name__}; a torch.nn.Module is accepted")
        return model

    return build


def quick_settings(factory: Callable[..., object]) -> dict[str, Any]:
    """What makes two of torchvision's factories as quick as the others: by default they take a minute, and scipy."""
    slow = ("torchvision.models.googlenet", "torchvision.models.inception")
    return {"init_weights": False} if getattr(factory, "__module__", None) in slow else {}


class Place:
    """The working directory of a user's code, which may choose its own: results are written from where we are."""

    def __init__(self) -> None:
        self.theirs = os.curdir

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        ours = os.getcwd()
        os.chdir(self.theirs)
        try:
            yield
        finally:
            self.theirs = os.getcwd()
            os.chdir(ours)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within it, modules in the folder can be imported, and so can torchvision, beside any build of torch."""
    importlib.import_module("ghnfast.vision")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        # What was loaded may have changed the path too.
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def blaming(what: str, hint: str = "") -> Iterator[None]:
    """Within it code of the user's runs, and `what` is to blame for whatever it raises."""
    try:
        yield
    except GhnfastError:
        raise
    except SystemExit as error:
        raise UsageError(f"{what} calls sys.exit({in_call(error)}){hint}") from error
    except Exception as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        install = f"; {command('torchvision')}" if missing.partition(".")[0] == "torchvision" else ""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{what} raised {text}{place_of(error)}{install}") from error


def in_call(error: SystemExit) -> str:
    """The argument that sys.exit was called with, as it stands between the parentheses."""
    return "" if error.code is None else repr(error.code)


def place_of(error: Exception) -> str:
    """Where the user's code raised an error, or called what did."""
    frames = traceback.extract_tb(error.__traceback__)
    # Neither this file, nor Python's own that import modules, nor, where there is another, a package's.
    others = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    own = [frame for frame in others if not {"site-packages", "dist-packages"} & {*Path(frame.filename).parts}]
    frame = next(reversed(own or others), None)
    return "" if frame is None else f" ({frame.filename}, line {frame.lineno})"


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module."""
    if not os.path.isfile(path):
        raise UsageError(f"the file {path} does not exist; FILE.py:FACTORY is accepted")
    if path.suffix != ".py":
        raise UsageError(f"{path} is no .py file; FILE.py:FACTORY is accepted")
    if not os.access(path, os.R_OK):
        raise UsageError(f"no permission to read the file {path}")
    # The prefix keeps a file called torch.py from taking torch's place.
    spec = importlib.util.spec_from_file_location(f"ghnfast_model_{path.stem}", path)
    assert spec is not None  # for a .py file there is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    with blaming(f"the file {path}", PROGRAM_HINT):
        spec.loader.exec_module(module)
    return module


def import_module(name: str) -> ModuleType:
    """Import a module by name."""
    accepted = "PACKAGE.MODULE:FACTORY and FILE.py:FACTORY are accepted"
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"'{name}' is no name of a module; {accepted}")
    if name.partition(".")[0] == "torchvision":
        import_optional("torchvision", f"{name} needs")
    with blaming(f"the module {name}", PROGRAM_HINT):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that is there may itself import one that is not, which is its own error.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise UsageError(f"there is no module '{name}' ({error}); {accepted}") from error


def find_factory(module: ModuleType, source: str, attribute: str) -> Callable[..., object]:
    accepted = "a function that returns a torch.nn.Module is accepted"
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            candidates = [key for key in dir(found) if callable(getattr(found, key, None))]
            close = difflib.get_close_matches(part, candidates, n=3)
            guess = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise UsageError(f"{source} has no '{attribute}'{guess}; {accepted}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        kind = type(found).__name__
        raise UsageError(f"{attribute} in {source} is a {kind}, which is a model already; {accepted}")
    if not callable(found):
        raise UsageError(f"{attribute} in {source} is a {type(found).__name__}; {accepted}")
    factory: Callable[..., object] = found
    return factory


def check_call(factory: Callable[..., object], name: str, settings: Mapping[str, Any]) -> None:
    """Check that a factory takes these keyword arguments, so that a TypeError in a call is its own."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(**settings)
    except TypeError as error:
        how = "with num_classes (--num-classes was given)" if settings else "without arguments"
        raise UsageError(f"{name} cannot be called {how}: {error}; its signature is {signature}") from error


def adapt(model: nn.Module, small_images: bool) -> nn.Module:
    if not small_images:
        return model
    from ..vision import adapt_to_small_images, has_small_version

    if not has_small_version(model):
        say_unchanged(f"{type(model).__module__}.{type(model).__name__}")
    return adapt_to_small_images(model)


@functools.cache  # some commands build a model many times
def say_unchanged(family: str) -> None:
    say(f"ghnfast: notice: --small-images leaves a {family} as it is; some models of torchvision have a small stem")
