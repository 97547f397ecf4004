"""timm:NAME and hf:NAME: models of other libraries, without weights and without the network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from helpers.commands import fail, run_json

from ghnfast.cli.models import find_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> NoReturn:
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


SMALL_VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "image_size": 32, "patch_size": 8}  # fmt: skip


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps(SMALL_VIT))
    return tmp_path / "vit"


@pytest.mark.parametrize(("name", "classes"), [("timm:resnet18", 1000), ("timm:mobilenetv3_small_050.lamb_in1k", 7)])
def test_models_of_timm(capsys: pytest.CaptureFixture[str], name: str, classes: int) -> None:
    summary = run_json(capsys, "predict", name, *(["--num-classes", classes] if classes != 1000 else []))
    assert summary["coverage"] == 1
    assert find_model(name, classes)().get_classifier().out_features == classes


def test_models_of_transformers(capsys: pytest.CaptureFixture[str], vit: Path) -> None:
    graph = run_json(capsys, "graph", f"hf:{vit}", "--num-classes", 10)
    assert graph["primitives"]["msa"] == 2
    assert [node["param"] for node in graph["nodes"]][-2:] == ["classifier.weight", "classifier.bias"]
    assert run_json(capsys, "predict", f"hf:{vit}", "--num-classes", 10)["coverage"] > 0.99
    assert find_model("hf:resnet", 3)().config.num_labels == 3


@pytest.mark.parametrize("kind", ["deit", "levit", "perceiver"])
def test_kinds_with_several_classifiers_have_the_first(kind: str) -> None:
    from transformers import AutoModelForImageClassification as Classifiers

    make = find_model(f"hf:{kind}", 7)
    with torch.device("meta"):
        model = make()
    assert type(model) is Classifiers._model_mapping[type(model.config)][0]
    assert model.config.num_labels == 7


def test_models_of_transformers_in_the_cache_of_the_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, vit: Path, tmp_path: Path
) -> None:
    from huggingface_hub import constants
    from transformers.utils import hub

    commit = "a" * 40
    repository = tmp_path / "hub" / "models--me--vit"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit / "config.json").write_bytes((vit / "config.json").read_bytes())
    for module in (hub, constants):
        for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
            monkeypatch.setattr(module, name, str(tmp_path / "hub"), raising=False)
    assert run_json(capsys, "graph", "hf:me/vit")["primitives"]["msa"] == 2
    assert "is no kind of model" in fail(capsys, "graph", "hf:me/other")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:resnt18", "did you mean resnet18"),
        ("timm:hf-hub:timm/resnet18", "timm has no model 'hf-hub:timm/resnet18'"),
        ("timm:", "timm has no model ''"),
        ("hf:viit", "did you mean"),
        ("hf:llama", "of which transformers has no image classifier"),
        ("hf:nobody/nothing", "no repository whose config.json is in the Hub's cache"),
        ("hf:", "is no kind of model"),
    ],
)
def test_models_that_are_not_there(capsys: pytest.CaptureFixture[str], name: str, reason: str) -> None:
    assert reason in fail(capsys, "predict", name)


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "none"}', '{"auto_map": {"AutoConfig": "code.Config"}}'])
def test_folders_without_a_configuration(capsys: pytest.CaptureFixture[str], vit: Path, content: str) -> None:
    (vit / "code.py").write_text("raise SystemExit('it ran')")
    (vit / "config.json").write_text(content)
    message = fail(capsys, "predict", f"hf:{vit}")
    assert "has no config.json that transformers can read" in message
    assert "it ran" not in message
