"""`ghnfast predict`: summaries, messages, and files that appear whole or not at all."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from helpers.commands import fail, names_in, run, run_json
from helpers.models import torchvision_model

import ghnfast
from ghnfast.cli import main
from ghnfast.cli.models import say_unchanged


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
    assert re.search(r"^GHN +ghn2-fashion \(trained for other images or classes\)$", text, re.M)
    assert re.search(r"^parameters +11,689,512 of 11,689,512 predicted \(100\.00 %\)$", text, re.M)
    assert re.search(r"^tensors +62 predicted, 0 kept$", text, re.M)
    assert re.search(r"^seconds +\d+\.\d+ tracing, \d+\.\d+ predicting$", text, re.M)
    assert re.search(rf"^written +{re.escape(str(out))}$", text, re.M)
    assert notice.startswith("ghnfast: notice: ghn2-fashion was trained on fashion, images of 3x32x32 in 10 classes")
    assert notice.count("\n") == 1
    assert "Warning" not in notice


def test_predict_json(capsys: pytest.CaptureFixture[str]) -> None:
    summary = run_json(capsys, "predict", "squeezenet1_1", "--num-classes", 10, "--input-shape", "3,64,64")
    model = torchvision_model("squeezenet1_1", num_classes=10)
    assert summary["parameters"] == summary["predicted_parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["predicted_tensors"] == len(list(model.parameters()))
    assert (summary["model"], summary["ghn"]) == ("squeezenet1_1", "ghn2-fashion")
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
    _, notices = run(capsys, "predict", "resnet18", "--small-images", "--input-shape", "3,32,32", "--out", out)
    assert safetensors.torch.load_file(out)["conv1.weight"].shape == (64, 3, 3, 3)
    assert "--small-images" not in notices


@pytest.mark.parametrize("command", ["predict", "graph"])
def test_small_images_of_models_that_have_no_such_stem(
    capsys: pytest.CaptureFixture[str], factories: str, command: str
) -> None:
    say_unchanged.cache_clear()
    _, first = run(capsys, command, f"{factories}:make", "--small-images")
    _, second = run(capsys, command, f"{factories}:make", "--small-images")
    assert (first + second).count("notice: --small-images leaves a ") == 1


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
    ("suffix", "writer"), [(".safetensors", "ghnfast.cli.predict.write_safetensors"), (".pt", "torch.save")]
)
def test_a_failed_write_leaves_the_old_file(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    factories: str,
    tmp_path: Path,
    suffix: str,
    writer: str,
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / f"weights{suffix}"
    out.write_bytes(b"old")

    def fail_half_way(*arguments: Any) -> None:
        (file,) = (each for each in arguments if hasattr(each, "write"))
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, fail_half_way)
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


def test_unknown_ghn(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'ghn2-imagenet'?" in fail(capsys, "predict", "resnet18", "--ghn", "ghn2-imagnet")


@pytest.mark.parametrize(
    ("device", "reason"), [("cqu", "device"), ("meta", "has no memory"), ("cuda:77", "'cuda:77' cannot be used")]
)
def test_device_that_cannot_be_used(capsys: pytest.CaptureFixture[str], device: str, reason: str) -> None:
    assert reason in fail(capsys, "predict", "resnet18", "--device", device)
