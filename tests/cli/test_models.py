"""The models that commands are given: every way to name one, and what is said where there is none."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import fail, run, run_json
from helpers.forked import Forked, script
from helpers.models import torchvision_model
from torch import nn

from ghnfast.cli import main
from ghnfast.cli.models import find_model
from ghnfast.deepnets import DeepNets1M, Network
from ghnfast.deepnets.genotype import GENOTYPES
from ghnfast.optional import command
from ghnfast.spaces.nas_bench_201 import EXAMPLE

SMALL: dict[str, Any] = {"num_classes": 10, "is_imagenet_input": False, "norm": "bn-track"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet81", ["'resnet81' is no torchvision classification model", "resnet18", "list_models"]),
        ("ResNet18", ["did you mean resnet18"]),
        ("retinanet_resnet50_fpn", ["is a torchvision model, but not for classification"]),
        ("nothing like it", ["FILE.py:FACTORY"]),
        ("models.py", ["models.py does not say which function builds the model"]),
        ("nowhere/models.py:make", ["the file nowhere/models.py does not exist"]),
        ("nowhere/models:make", ["the file nowhere/models does not exist"]),
        ("no_such_package.models:make", ["there is no module 'no_such_package.models'"]),
        ("json.no_such_module:make", ["there is no module 'json.no_such_module'"]),
        (".relative:make", ["'.relative' is no name of a module"]),
        (":make", ["'' is no name of a module"]),
        ("json:lods", ["json has no 'lods' (did you mean loads", "a function that returns a torch.nn.Module"]),
        ("json:", ["json has no ''"]),
        ("json:loads", ["loads in json cannot be called without arguments", "'s'"]),
    ],
)
def test_models_that_are_not_there(capsys: pytest.CaptureFixture[str], name: str, parts: list[str]) -> None:
    message = fail(capsys, "graph", name)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("mak", "factories.py has no 'mak' (did you mean make"),
        ("constant", "constant in {path} is a int; a function that returns"),
        ("needs", "needs in {path} cannot be called without arguments: missing a required argument: 'width'"),
        ("no_module", "{path}:no_module returned a int; a torch.nn.Module is accepted"),
    ],
)
def test_factories_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], factories: str, factory: str, reason: str
) -> None:
    assert reason.format(path=factories) in fail(capsys, "graph", f"{factories}:{factory}")


def test_the_command_that_lists_names(capsys: pytest.CaptureFixture[str]) -> None:
    message = fail(capsys, "graph", "resnet")
    code = re.search(r"python -c '([^']+)'", message)
    assert code is not None
    process = Forked(script, code[1])
    assert process.wait() == 0, process.stderr()
    assert {"resnet18", "vit_b_16"} <= set(process.stdout().split())


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("test:17", lambda: DeepNets1M("test")[17].build(norm="bn-track")),
        ("bnfree:-1", lambda: DeepNets1M("bnfree")[99].build()),
        ("DARTS:8,3", lambda: Network(genotype=GENOTYPES["DARTS"], C=8, n_cells=3, stem_type=1, **SMALL)),
        ("ViT:16,2", lambda: Network(genotype=GENOTYPES["ViT"], C=16, n_cells=2, preproc=False, C_mult=1, **SMALL)),
    ],
)
def test_networks_of_deepnets(name: str, network: Callable[[], nn.Module]) -> None:
    found, wanted = find_model(name, None)(), network()
    assert {key: value.shape for key, value in found.state_dict().items()} == {
        key: value.shape for key, value in wanted.state_dict().items()
    }
    classifier = find_model(name, 7, large_images=True)()
    assert isinstance(classifier, Network)
    assert classifier.input_shape == (3, 224, 224)
    assert classifier.classifier[-1].out_features == 7


def test_networks_of_deepnets_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "network 500 of the split test was asked for, which has 500" in fail(capsys, "graph", "test:500")
    assert "n_cells must be 1 or more, given 0" in fail(capsys, "graph", "DARTS:8,0")
    assert "there is no module 'DARTS'" in fail(capsys, "graph", "DARTS:make")
    assert run_json(capsys, "graph", "ViT:16,2")["counts"]["nodes"] == 20


def test_no_such_file_suffix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "models.txt").touch()
    assert "models.txt is no .py file" in fail(capsys, "graph", f"{tmp_path}/models.txt:make")


@pytest.mark.parametrize("command", ["predict", "graph", "bench"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ZeroDivisionError('of the\\nfactory')", "raised ZeroDivisionError: of the factory ({path}, line 4)"),
        ("raise KeyError", "raised KeyError ({path}, line 4)"),
        ("torch.nn.Linear(3, -3)", "({path}, line 4)"),
        ("torch.ones(2) @ torch.ones(3)", "raised RuntimeError: "),
        ("import no_such_module", "raised ModuleNotFoundError: No module named 'no_such_module' ({path}, line 4)"),
        ("sys.exit()", "calls sys.exit()"),
        ("sys.exit(0)", "calls sys.exit(0)"),
        ("sys.exit('no data')", "calls sys.exit('no data')"),
        ("return None", "{path}:make returned a NoneType; a torch.nn.Module is accepted"),
        ("return torch.nn.Linear", "{path}:make returned a type; a torch.nn.Module is accepted"),
    ],
)
def test_factories_that_fail(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, body: str, reason: str
) -> None:
    path = tmp_path / "failing.py"
    path.write_text(f"import sys, torch\n\ndef make():\n    {body}\n")
    message = fail(capsys, command, f"{path}:make")
    assert reason.format(path=path) in message
    assert "make in" in message or "returned" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import no_such_module_at_all",
            "raised ModuleNotFoundError: No module named 'no_such_module_at_all' ({path}, ",
        ),
        ("def make(:", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError: division by zero ({path}, line 2)"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--lr', '1'])", "belongs under if __name__"),
        ("raise SystemExit", "calls sys.exit(); what it does as a program belongs under if __name__"),
        ("from .layers import make", "raised ImportError: attempted relative import"),
    ],
)
def test_files_and_modules_that_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "failing_module.py"
    path.write_text(f"# of a user\n{text}\n")
    for given, described in (path, "the file {path}"), ("failing_module", "the module failing_module"):
        monkeypatch.chdir(tmp_path)
        assert main(["predict", f"{given}:make"]) == 2
        message = capsys.readouterr().err.splitlines()[-1]  # a parser prints its usage first
        assert f"ghnfast: error: {described.format(path=path)}" in message
        assert reason.format(path=path) in message


def test_models_that_exit_when_they_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "exiting.py"
    path.write_text(
        "import sys, torch\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n        sys.exit(0)\n"
        "def make():\n    return Net(3, 3)\n"
    )
    for name in ("predict", "graph", "bench"):
        assert "sys.exit(0)" in fail(capsys, name, f"{path}:make", "--input-shape", "3")


def test_factories_inside_of_classes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "nested.py"
    path.write_text(
        "import functools\nfrom torch import nn\nclass Zoo:\n    @staticmethod\n    def small():\n"
        "        return nn.Linear(3, 3)\nbuilt = nn.Linear(3, 3)\nwide = functools.partial(nn.Linear, 3, 30)\n"
    )
    assert run_json(capsys, "predict", f"{path}:Zoo.small", "--input-shape", "3")["parameters"] == 12
    assert run_json(capsys, "predict", f"{path}:wide", "--input-shape", "3")["parameters"] == 120
    assert f"{path} has no 'Zoo.smal' (did you mean small?)" in fail(capsys, "predict", f"{path}:Zoo.smal")
    assert f"built in {path} is a Linear, which is a model already" in fail(capsys, "predict", f"{path}:built")


# Every way to torchvision, in processes of their own: what one import has declared stays.
SPECIFICATIONS = {
    "resnet18": "",
    "torchvision.models:resnet18": "",
    "torchvision.models.resnet:resnet18": "",
    "timm.models.resnet:resnet18": "",
    "my_models.py:make": "from torchvision.models import resnet18 as make",
    "my_models:make": "import timm\ndef make():\n    return timm.create_model('resnet18')",
    "my_models.py:late": "def late():\n    import torchvision\n    return torchvision.models.resnet18()",
}


@pytest.mark.parametrize("model", SPECIFICATIONS)
def test_models_that_import_torchvision(model: str, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(SPECIFICATIONS[model] + "\n")
    process = Forked(main, ["predict", model, "--json"], folder=tmp_path)
    assert process.wait() == 0, process.stderr()
    summary = json.loads(process.stdout())
    assert summary["parameters"] == sum(p.numel() for p in torchvision_model("resnet18").parameters())
    assert summary["coverage"] == 1


def test_the_slow_two_are_quick_by_module_too(capsys: pytest.CaptureFixture[str]) -> None:
    by_name, by_module = (run_json(capsys, "graph", f"{prefix}googlenet") for prefix in ("", "torchvision.models:"))
    assert by_name.pop("model") != by_module.pop("model")
    assert by_name == by_module


def test_every_name_of_torchvision_is_a_factory() -> None:
    from torchvision import models

    for name in models.list_models(module=models):
        assert getattr(models, name) is models.get_model_builder(name)


def test_num_classes_reaches_the_factory(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    six = run_json(capsys, "predict", f"{factories}:Net")
    ten = run_json(capsys, "predict", f"{factories}:Net", "--num-classes", 10)
    assert ten["parameters"] - six["parameters"] == 4 * 5
    message = fail(capsys, "predict", f"{factories}:make", "--num-classes", 10)
    assert "make in" in message
    assert "cannot be called with num_classes (--num-classes was given)" in message


def test_modules_are_found_from_the_current_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, factories: str
) -> None:
    monkeypatch.chdir(Path(factories).parent)
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    description = run_json(capsys, "graph", "factories:make")
    assert description["model"] == "factories:make"
    assert run_json(capsys, "graph", "factories.py:make")["nodes"] == description["nodes"]


def test_without_torchvision(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, factories: str
) -> None:
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python takes for: there is none
    for name in ("resnet18", "torchvision.models:resnet18"):
        assert command("torchvision") in fail(capsys, "predict", name)
    importing = Path(factories).with_name("importing.py")
    importing.write_text("import torchvision\n")
    assert command("torchvision") in fail(capsys, "predict", f"{importing}:make")
    run(capsys, "predict", f"{factories}:make")


AWAY = """
import os
from torch import nn
{0}

def make():
    {1}
    assert os.path.basename(os.getcwd()) == "away" and os.path.isfile("own.txt")
    return nn.Conv2d(3, 4, 3)
"""


@pytest.mark.parametrize("when", ["import", "call"])
def test_a_model_that_changes_the_directory(
    when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds its files there, in every call; results are where they were asked for."""
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "own.txt").touch()
    move = "os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'away'))"
    (tmp_path / "models.py").write_text(AWAY.format(*((move, "") if when == "import" else ("", move))))
    monkeypatch.chdir(tmp_path)
    run(capsys, "graph", "models.py:make", "--input-shape", "3,8,8", "--svg", "graph.svg")
    run(capsys, "predict", "models.py:make", "--input-shape", "3,8,8", "--out", "weights.pt")
    assert Path.cwd() == tmp_path
    assert (tmp_path / "graph.svg").is_file()
    assert (tmp_path / "weights.pt").is_file()
    build = find_model("models.py:make", None)
    assert build().weight.shape == build().weight.shape
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("name", [EXAMPLE, "01220211"])
def test_networks_of_spaces(capsys: pytest.CaptureFixture[str], name: str) -> None:
    found = run_json(capsys, "predict", name)
    other = run_json(capsys, "predict", name, "--num-classes", 13)
    assert other["parameters"] > found["parameters"]
    assert run_json(capsys, "graph", name)["counts"]["nodes"] > 20


@pytest.mark.parametrize(
    ("name", "reason"),
    [("|nor_conv_3x3~0|+|none~0|", "no cell of NAS-Bench-201"), ("01220213", "is no torchvision classification model")],
)
def test_names_that_no_space_has(capsys: pytest.CaptureFixture[str], name: str, reason: str) -> None:
    assert reason in fail(capsys, "graph", name)
