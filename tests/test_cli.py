"""The command line: results, messages, exit codes, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from models import torchvision_model

import ghnfast
from ghnfast.cli import main
from ghnfast.optional import command

FACTORIES = """
import dataclasses
import torch
from torch import nn
from helper_of_factories import CLASSES

@dataclasses.dataclass
class Settings:
    width: int = 4

class Net(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self, num_classes=CLASSES):
        super().__init__()
        print("building")
        width = Settings().width
        self.first = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, num_classes)
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        return self.head(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))

def make():
    return Net()

def tied():
    net = Net()
    net.third = net.second
    net.unused = nn.Identity()
    return net

def needs_memory():
    net = Net()
    net.scale = net.first.weight.sum().item()
    return net

class WithState(Net):
    def get_extra_state(self):
        return {"step": 1}

def needs(width):
    return Net()

def broken_forward():
    return nn.Sequential(nn.Linear(7, 7), nn.Linear(5, 5))

def failing():
    raise ZeroDivisionError("of the factory")

def no_module():
    return 42

constant = 42
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a file of factories, which imports a module beside it."""
    monkeypatch.delitem(sys.modules, "helper_of_factories", raising=False)
    (tmp_path / "helper_of_factories.py").write_text("CLASSES = 6\n")
    path = tmp_path / "factories.py"
    path.write_text(textwrap.dedent(FACTORIES))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """What a command that succeeds prints: stdout and stderr."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    out, _ = run(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that fails: one line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("ghnfast: error: ")
    return captured.err


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


# predict -------------------------------------------------------------------------------------------------------------


def test_predict_writes_what_ghnfast_predicts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, notice = run(capsys, "predict", "resnet18", "--out", out)
    assert names_in(tmp_path) == [out.name]
    model = torchvision_model("resnet18")
    model.load_state_dict(safetensors.torch.load_file(out))
    with pytest.warns(ghnfast.DomainWarning):
        expected = ghnfast.predict(torchvision_model("resnet18"))
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
    assert re.search(r"^model +resnet18$", text, re.M)
    assert re.search(r"^GHN +ghn2-mnist5k \(trained for other images or classes\)$", text, re.M)
    assert re.search(r"^parameters +11,689,512 of 11,689,512 predicted \(100\.00 %\)$", text, re.M)
    assert re.search(r"^tensors +62 predicted, 0 kept$", text, re.M)
    assert re.search(r"^seconds +\d+\.\d+ tracing, \d+\.\d+ predicting$", text, re.M)
    assert re.search(rf"^written +{re.escape(str(out))}$", text, re.M)
    assert notice.startswith("ghnfast: notice: ghn2-mnist5k was trained on mnist5k, images of 3x32x32 in 10 classes")
    assert notice.count("\n") == 1
    assert "Warning" not in notice


def test_predict_json(capsys: pytest.CaptureFixture[str]) -> None:
    summary = run_json(capsys, "predict", "squeezenet1_1", "--num-classes", 10, "--input-shape", "3,64,64")
    model = torchvision_model("squeezenet1_1", num_classes=10)
    assert summary["parameters"] == summary["predicted_parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["predicted_tensors"] == len(list(model.parameters()))
    assert (summary["model"], summary["ghn"]) == ("squeezenet1_1", "ghn2-mnist5k")
    assert "the model is for 3x64x64 in 10" in summary["other_domain"]
    assert (summary["coverage"], summary["kept_tensors"], summary["kept"], summary["out"]) == (1.0, 0, [], None)
    assert summary["seconds"]["trace"] > 0
    assert summary["seconds"]["predict"] > 0


def test_predict_keeps_the_classifier(capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path) -> None:
    """And says which parameters are kept, and why."""
    command = ["predict", f"{factories}:make", "--keep-classifier", "--out", tmp_path / "weights.pt"]
    text, _ = run(capsys, *command)
    reason = "it belongs to the classification layer, which was to be left as it is"
    assert f"{reason}:\n    2 tensors, 30 parameters: head" in text
    assert "the forward does not use it:\n    2 tensors, 30 parameters: unused.weight, unused.bias" in text
    first = torch.load(tmp_path / "weights.pt", weights_only=True)
    summary = run_json(capsys, *command)
    assert [(group["tensors"], group["parameters"], group["names"]) for group in summary["kept"]] == [
        (2, 30, ["head.weight", "head.bias"]),
        (2, 30, ["unused.weight", "unused.bias"]),
    ]
    second = torch.load(tmp_path / "weights.pt", weights_only=True)
    # What is kept was initialized with the same seed.
    assert all(torch.equal(first[name], second[name]) for name in first)
    run(capsys, "predict", f"{factories}:make", "--out", tmp_path / "weights.pt")
    predicted = torch.load(tmp_path / "weights.pt", weights_only=True)
    changed = {name for name in first if not torch.equal(first[name], predicted[name])}
    assert changed == {"head.weight", "head.bias"}


def test_predict_leaves_random_numbers_and_the_path_alone(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    state, path = torch.get_rng_state(), list(sys.path)
    run(capsys, "predict", f"{factories}:make")
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == path


def test_predict_with_a_ghn_from_a_file(
    capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path, ghn_imagenet: ghnfast.GHN
) -> None:
    path = tmp_path / "ghn.safetensors"
    ghn_imagenet.save(path)
    command = ["predict", f"{factories}:make", "--ghn", path, "--out", tmp_path / "weights.safetensors"]
    text, notice = run(capsys, *command)
    assert "trained" not in text + notice
    assert re.search(rf"^GHN +{re.escape(str(path))}$", text, re.M)
    summary = run_json(capsys, *command)
    assert (summary["ghn"], summary["other_domain"]) == (str(path), None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_predict_dtype(capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "weights.safetensors"
    run(capsys, "predict", f"{factories}:make", "--dtype", dtype, "--device", "cpu", "--out", out)
    tensors = safetensors.torch.load_file(out)
    assert tensors["first.weight"].dtype is getattr(torch, dtype)
    assert tensors["norm.num_batches_tracked"].dtype is torch.int64


def test_predict_small_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    run(capsys, "predict", "resnet18", "--small-images", "--input-shape", "3,32,32", "--out", out)
    assert safetensors.torch.load_file(out)["conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".SAFETENSORS"])
def test_tensors_that_share_memory_are_written(
    capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"weights{suffix}"
    run(capsys, "predict", f"{factories}:tied", "--out", out)
    state = torch.load(out, weights_only=True) if suffix == ".pt" else safetensors.torch.load_file(out)
    assert torch.equal(state["third.weight"], state["second.weight"])
    assert "norm.running_mean" in state


def test_state_that_is_no_tensor(capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path) -> None:
    run(capsys, "predict", f"{factories}:WithState", "--out", tmp_path / "weights.pt")
    assert torch.load(tmp_path / "weights.pt", weights_only=True)["_extra_state"] == {"step": 1}
    assert main(["predict", f"{factories}:WithState", "--out", str(tmp_path / "weights.safetensors")]) == 2
    assert "_extra_state in the state dict is no tensor; .pt takes it" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_have_usual_permissions(
    capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path, suffix: str
) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    out = tmp_path / f"weights{suffix}"
    run(capsys, "predict", f"{factories}:make", "--out", out)
    assert out.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize(
    ("suffix", "writer"), [(".safetensors", (safetensors.torch, "save_file")), (".pt", (torch, "save"))]
)
def test_a_failed_write_leaves_the_old_file(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    factories: str,
    tmp_path: Path,
    suffix: str,
    writer: tuple[Any, str],
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / f"weights{suffix}"
    out.write_bytes(b"old")

    def fail_half_way(tensors: object, file: Any, **_: object) -> None:
        if isinstance(file, str):
            Path(file).write_bytes(b"half")
        else:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*writer, fail_half_way)
    assert main(["predict", f"{factories}:make", "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith(f"error: {out} could not be written: No space left on device\n")
    assert out.read_bytes() == b"old"
    assert names_in(folder) == [out.name]


def test_a_failed_prediction_writes_nothing(capsys: pytest.CaptureFixture[str], factories: str, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    message = fail(capsys, "predict", f"{factories}:broken_forward", "--out", out)
    assert "the forward of Sequential failed" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("weights.bin", "its suffix is '.bin'; accepted: .safetensors, .pt"),
        ("weights", "its suffix is ''"),
        ("missing/weights.pt", "the folder {folder}/missing does not exist"),
        ("folder.pt", "it is a folder"),
    ],
)
def test_output_is_checked_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, reason: str
) -> None:
    (tmp_path / "folder.pt").mkdir()
    # The model does not exist, which is not noticed: nothing was looked for yet.
    message = fail(capsys, "predict", "no_such_model", "--out", tmp_path / out)
    assert f"cannot write {tmp_path / out}: " in message
    assert reason.format(folder=tmp_path) in message


def test_output_folder_without_permission(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    message = fail(capsys, "graph", "resnet18", "--svg", tmp_path / "graph.svg")
    assert f"no permission to write into the folder {tmp_path}" in message


def test_unknown_ghn(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'ghn2-imagenet'?" in fail(capsys, "predict", "resnet18", "--ghn", "ghn2-imagnet")


@pytest.mark.parametrize(
    ("device", "reason"), [("cqu", "device"), ("meta", "has no memory"), ("cuda:77", "'cuda:77' cannot be used")]
)
def test_device_that_cannot_be_used(capsys: pytest.CaptureFixture[str], device: str, reason: str) -> None:
    assert reason in fail(capsys, "predict", "resnet18", "--device", device)


# Models --------------------------------------------------------------------------------------------------------------


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
    done = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, check=True)
    assert {"resnet18", "vit_b_16"} <= set(done.stdout.split())


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
    arguments = [sys.executable, "-m", "ghnfast", "predict", model, "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
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


# graph ---------------------------------------------------------------------------------------------------------------


def test_graph_text(capsys: pytest.CaptureFixture[str]) -> None:
    text, notice = run(capsys, "graph", "resnet18")
    graph = ghnfast.trace(torchvision_model("resnet18"))
    distances = graph.distances()
    reached = distances[distances > 0]
    assert notice == ""
    assert re.search(rf"^graph +{len(graph)} nodes, {len(graph.edges)} edges, {graph.depth} levels$", text, re.M)
    assert re.search(r"^conv +21 +39\.6 %$", text, re.M)
    assert re.search(r"^parameter tensors +62 with a node, 0 without$", text, re.M)
    virtual = f"{len(reached):,} pairs within 50 hops, mean distance {reached.mean():.2f}, longest {reached.max()}"
    assert re.search(rf"^virtual edges +{re.escape(virtual)}$", text, re.M)


def test_graph_json(capsys: pytest.CaptureFixture[str]) -> None:
    description = run_json(capsys, "graph", "squeezenet1_1", "--num-classes", 10)
    graph = ghnfast.trace(torchvision_model("squeezenet1_1", num_classes=10))
    assert description["counts"] == {"nodes": len(graph), "edges": len(graph.edges), "levels": graph.depth}
    assert [node["op"] for node in description["nodes"]] == graph.ops
    assert [node["param"] for node in description["nodes"]] == graph.params
    assert [node["level"] for node in description["nodes"]] == graph.levels.tolist()
    assert description["edges"] == graph.edges.tolist()
    assert sum(description["primitives"].values()) == len(graph)
    assert description["virtual_edges"]["pairs"] == int((graph.distances() > 0).sum())


def test_graph_of_parameters_without_a_node(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    text, notice = run(capsys, "graph", f"{factories}:make")
    assert "8 with a node, 2 without" in text
    assert "the forward does not use it:\n    2 tensors, 30 parameters: unused.weight, unused.bias" in text
    assert "building" in notice  # what models print is not part of the result


@pytest.mark.parametrize("name", ["needs_memory", "make"])
def test_graph_of_models_with_and_without_memory(capsys: pytest.CaptureFixture[str], factories: str, name: str) -> None:
    assert run_json(capsys, "graph", f"{factories}:{name}")["counts"]["nodes"] == 9


def test_graph_of_a_regnet(capsys: pytest.CaptureFixture[str]) -> None:
    """It computes with its weights while it is built."""
    assert run_json(capsys, "graph", "regnet_y_400mf")["parameter_tensors"]["without_node"] == 0


def test_graph_small_images(capsys: pytest.CaptureFixture[str]) -> None:
    usual = run_json(capsys, "graph", "resnet18")
    small = run_json(capsys, "graph", "resnet18", "--small-images", "--input-shape", "3,32,32")
    assert usual["primitives"]["max_pool"] == 1
    assert "max_pool" not in small["primitives"]


def test_graph_svg(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "graph.svg"
    text, _ = run(capsys, "graph", "resnet18", "--svg", out)
    assert re.search(rf"^drawn to +{re.escape(str(out))}$", text, re.M)
    drawn = out.read_bytes()
    nodes = [e for e in ElementTree.fromstring(drawn).iter() if e.get("class") == "node"]
    assert len(nodes) == 53
    assert run_json(capsys, "graph", "resnet18", "--svg", out)["svg"] == str(out)
    assert out.read_bytes() == drawn
    assert names_in(tmp_path) == [out.name]
    assert "its suffix is '.png'; accepted: .svg" in fail(capsys, "graph", "resnet18", "--svg", tmp_path / "graph.png")


def test_a_failed_drawing_leaves_the_old_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "graph.svg"
    out.write_text("old")

    def fail_to_sync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_to_sync)
    assert "could not be written: Input/output error" in fail(capsys, "graph", "squeezenet1_1", "--svg", out)
    assert out.read_text() == "old"
    assert names_in(tmp_path) == [out.name]


# The program ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["tarin"], "'tarin'"),
        (["predict"], "MODEL"),
        (["predict", "resnet18", "--dtype", "int8"], "'int8'"),
        (["predict", "resnet18", "--input-shape", "3,x"], "'3,x' is no shape; positive sizes such as 3,32,32"),
        (["graph", "resnet18", "--input-shape", "3,0,32"], "'3,0,32' is no shape"),
        (["graph", "resnet18", "--num-classes", "0"], "'0' is no positive number"),
        (["graph", "resnet18", "--ghn", "ghn2-mnist5k"], "--ghn"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    message = fail(capsys, *arguments)
    assert reason in message
    assert "--help')" in message


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["graph", "--help"], ["--version"]])
def test_help_and_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert ghnfast.__version__ in out if arguments == ["--version"] else "usage: ghnfast" in out


def test_wrong_input_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    message = fail(capsys, "graph", "resnet18", "--input-shape", "4,32,32")
    assert "the forward of ResNet failed on an input of shape (2, 4, 32, 32)" in message


def test_python_m_ghnfast(factories: str) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "ghnfast", *arguments], capture_output=True, text=True)

    done = call("predict", f"{factories}:make", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["predicted_tensors"] == 8
    failed = call("predict", "resnet81")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("ghnfast: error: 'resnet81'")


def test_a_reader_that_stops_reading() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ghnfast", "graph", "resnet18"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


# bench ---------------------------------------------------------------------------------------------------------------

BENCH_STAGES = ["trace", "graph", "sweep", "decode", "total", "given", "fill"]


def test_bench_text(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    text, _ = run(capsys, "bench", f"{factories}:make", "--rounds", 2)
    assert re.findall(r"^ *(\w+) +\d+\.\d\d ms  ", text, re.M) == BENCH_STAGES
    assert "medians of 2 rounds" in text
    assert re.search(r"^total / fill: \d+\.\d\d; given / fill: \d+\.\d\d$", text, re.M)


def test_bench_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "bench", "squeezenet1_1", "--rounds", 1, "--num-classes", 10)
    assert result["parameters"] == sum(
        p.numel() for p in torchvision_model("squeezenet1_1", num_classes=10).parameters()
    )
    assert list(result["seconds"]) == BENCH_STAGES
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["extra_bytes"] is None or result["extra_bytes"] >= 0


def test_bench_without_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'0' is no positive number" in fail(capsys, "bench", "resnet18", "--rounds", 0)
