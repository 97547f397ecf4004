"""The examples run, and what they bring with them is right."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import detection
import detection_data
import detection_operators
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.children import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import ghnfast
from ghnfast.checkpoints import DEFAULT

pytestmark = pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning")
EXAMPLES = Path(__file__).parents[1] / "examples"
TWO_STEPS = ["--steps", "2", "--size", "48"]


def pedestrians(folder: Path, count: int = 4) -> Path:
    """A folder as that of Penn-Fudan: two objects an image."""
    for name in ("PNGImages", "PedMasks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        mask = np.zeros((60, 80), dtype=np.uint8)
        mask[10:30, 5:20], mask[20:50, 40 : 60 + index] = 1, 2
        pixels = np.stack([mask * 100] * 3, 2)
        Image.fromarray(pixels).save(folder / "PNGImages" / f"Fudan{index}.png")
        Image.fromarray(mask).save(folder / "PedMasks" / f"Fudan{index}_mask.png")
    return folder


@pytest.mark.parametrize("postprocess", [False, True])
def test_two_steps_of_detection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postprocess: bool
) -> None:
    starts: list[Tensor] = []
    steps: list[float] = []
    train_step = detection.train_step

    def watched(detector: Any, *arguments: Any) -> float:
        starts.append(detector.backbone.classifier.layer4[0].conv1.weight.detach().clone())
        steps.append(train_step(detector, *arguments))
        return steps[-1]

    monkeypatch.setattr(detection, "train_step", watched)
    few = detection_data.Shapes(8)
    monkeypatch.setattr(detection, "Shapes", lambda: few)
    assert 0 <= detection.main([*TWO_STEPS, "--model", "resnet18", *["--postprocess"] * postprocess]) <= 100
    assert len(steps) == 2
    assert np.isfinite(steps).all()
    from torchvision.models import resnet18

    wanted = ghnfast.predict(resnet18(), DEFAULT, input_shape=(3, 224, 224), classifier=False)
    if postprocess:
        ghnfast.postprocess(wanted, seed=0)
    assert torch.equal(starts[0], wanted.layer4[0].conv1.weight)
    assert not torch.equal(starts[1], starts[0])
    out = capsys.readouterr().out
    assert "drawn shapes (no --data): this only shows that it runs" in out
    assert "epoch 1, step 2: loss " in out


def test_two_steps_on_penn_fudan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pedestrians(tmp_path / "PennFudanPed")
    image, boxes = detection_data.PennFudan(folder)[1]
    assert image.shape == (3, 60, 80)
    assert boxes.tolist() == [[5, 10, 19, 29], [40, 20, 60, 49]]
    detection.main([*TWO_STEPS, "--data", str(folder), "--model", "resnet18", "--ghn", "none", "--epochs", "2"])
    assert "drawn shapes" not in capsys.readouterr().out
    (folder / "PedMasks" / "Fudan2_mask.png").unlink()
    for wrong in (folder, tmp_path):
        with pytest.raises(SystemExit, match=r"the unpacked PennFudanPed\.zip is accepted"):
            detection_data.PennFudan(wrong)


@pytest.mark.parametrize(
    ("name", "channels"), [("DARTS", 768), ("ViT", 128), ("resnet18", 512), ("mobilenet_v3_small", 576)]
)
def test_backbones(name: str, channels: int) -> None:
    backbone = detection.Backbone(detection.make_classifier(name))
    assert backbone.out_channels == channels
    features = backbone.train()(torch.rand(2, 3, 96, 64))
    assert features.shape[:2] == (2, channels)
    assert features.shape[2] / features.shape[3] == 1.5
    assert features.requires_grad


def test_a_model_without_features() -> None:
    with pytest.raises(SystemExit, match=r"no nn\.AdaptiveAvgPool2d"):
        detection.Backbone(detection.make_classifier("vit_b_16"))


def test_shapes_have_boxes_inside() -> None:
    shapes = detection_data.Shapes(20, 64)
    for index in range(len(shapes)):
        image, boxes = shapes[index]
        assert torch.equal(image, shapes[index][0])
        assert image.shape == (3, 64, 64)
        assert bool((boxes[:, :2] < boxes[:, 2:]).all())
        assert 0 <= float(boxes.min()) <= float(boxes.max()) <= 63
        flipped, other = detection_data.mirrored(image, boxes)
        assert torch.equal(detection_data.mirrored(flipped, other)[1], boxes)


def test_average_precision() -> None:
    def boxes(*corners: float) -> Tensor:
        return torch.tensor([[left, 0, left + 10, 10] for left in corners]).view(-1, 4)

    wanted = [boxes(0, 20), boxes(0)]
    everything = [(boxes(20, 0), torch.tensor([0.3, 0.9])), (boxes(1), torch.tensor([0.5]))]
    assert detection.average_precision(everything, wanted) == 1
    assert detection.average_precision([(boxes(), torch.zeros(0))] * 2, wanted) == 0
    # The best one is wrong, then one of three is right, twice: no second one is.
    twice = [(boxes(40, 0, 1), torch.tensor([0.9, 0.8, 0.7])), (boxes(), torch.zeros(0))]
    assert detection.average_precision(twice, wanted) == pytest.approx(34 / 101 / 2)
    far = [(boxes(6), torch.tensor([0.9])), (boxes(6), torch.tensor([0.9]))]  # overlaps of 4 / 16
    assert detection.average_precision(far, wanted) == 0


# Short ones ----------------------------------------------------------------------------------------------------------


def run(name: str, *options: str, **settings: Any) -> Any:
    return importlib.import_module(name).main(options, **settings)


def test_predict_and_calibrate() -> None:
    found = run("predict_and_calibrate", "--images", "50", "--batches", "1")
    assert found["predicted"] < 30
    assert found["calibrated"] > 80


def test_both_starts_of_fine_tuning_see_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    finetune_few = importlib.import_module("finetune_few")
    seen, original = [], finetune_few.finetune

    def watched(build: Any, data: Any, start: str, **options: Any) -> Any:
        results = original(build, data, start, **options)
        seen.append((results["settings"]["images"], options["steps"], options["rates"]))
        return results

    monkeypatch.setattr(finetune_few, "finetune", watched)
    found = run("finetune_few", "--steps", "2", "--seeds", "1", "--rates", "0.1", "--test-images", "50")
    assert list(found) == ["default", "he"]
    assert seen[0] == seen[1]
    assert seen[0][0][0] == 100


def test_states_predict_better_than_sizes() -> None:
    found = run("property_prediction", "--labels", "30", "--others", "40")
    assert found["states of the GHN"] > max(found["number of parameters"], 0.3)


@pytest.mark.parametrize("own", [False, True])
def test_train_on_images(own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_on_images = importlib.import_module("train_on_images")
    images = ["--images", str(train_on_images.draw_stripes(tmp_path / "images", count=5))] if own else []
    tiny = {
        "batch_size": 4,
        "meta_batch": 1,
        "hid": 8,
        "max_shape": (16, 16, 3, 3),
        "identity_steps": 2,
        "networks": 50,
    }
    accuracy = run("train_on_images", "--steps", "1", "--out", str(tmp_path / "run"), *images, **tiny)
    assert 0 <= accuracy <= 100
    assert f"{10 if own else 48} test images, 3x224x224, 2 classes" in capsys.readouterr().out
    assert ghnfast.load(tmp_path / "run" / "ghn.safetensors").config["num_classes"] == 2


def test_many_models_are_exported_once(tmp_path: Path) -> None:
    names = ["squeezenet1_1", "resnet18", "squeezenet1_1"]
    written = run("export_many", *names, "--batch", "1", "--out", str(tmp_path))
    assert [path.name for path in written] == ["squeezenet1_1.safetensors", "resnet18.safetensors"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1()
    safetensors.torch.load_model(model, str(written[0]))
    again = ghnfast.predict(squeezenet1_1(), DEFAULT)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    written[0].unlink()
    assert run("export_many", *names, "--out", str(tmp_path)) == written[:1]


# Loops of others -----------------------------------------------------------------------------------------------------

# Two processes that fork from one: what is imported is imported once.
TWO_PROCESSES = """
import json, os, sys
import accelerate_loop
from ghnfast.training import load_data
from torch.multiprocessing import start_processes

def run(rank, folder, options):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    losses = accelerate_loop.main([*options, "--out", f"{folder}/two.safetensors"])
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(losses, file)

load_data("mnist5k")
start_processes(run, (sys.argv[1], sys.argv[2:]), nprocs=2, start_method="fork")
"""


def test_accelerate_in_two_processes_is_as_in_one(tmp_path: Path) -> None:
    options = ["--cpu", "--steps", "2", "--networks", "2", "--images", "4", "--hid", "8"]
    losses = run("accelerate_loop", *options, "--out", str(tmp_path / "one.safetensors"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, tmp_path, *options],
        env=environment(EXAMPLES, OMP_NUM_THREADS="1", **meeting),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert abs(losses[1] - losses[0]) > 0.1
    for rank in range(2):  # Adam makes whole updates also of gradients that are rounding errors
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(losses, abs=0.02)
    assert ghnfast.load(tmp_path / "two.safetensors").config == ghnfast.load(tmp_path / "one.safetensors").config


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_ghn(tmp_path: Path) -> None:
    out = tmp_path / "ghn.safetensors"
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options = ("--accelerator", "cpu", "--steps", "2", "--images", "4", "--hid", "8", "--out", str(out))
    module = run("lightning_module", *options, default_root_dir=tmp_path, **quiet)
    torch.manual_seed(0)
    before, after = ghnfast.GHN(hid=8, num_classes=10), ghnfast.load(out)
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(map(torch.equal, module.ghn.parameters(), after.parameters()))


# Operators -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_nms(count: int, threshold: float, seed: int) -> None:
    from torchvision.ops import box_iou

    random = torch.Generator().manual_seed(seed)
    corners, sizes = torch.rand(count, 2, generator=random), 0.1 + torch.rand(count, 2, generator=random)
    boxes, scores = torch.cat([corners, corners + sizes], 1), torch.rand(count, generator=random)
    kept: list[int] = []
    for index in sorted(range(count), key=lambda index: -float(scores[index])):
        if all(float(box_iou(boxes[index : index + 1], boxes[other : other + 1])) <= threshold for other in kept):
            kept.append(index)
    assert detection_operators.nms(boxes, scores, threshold).tolist() == kept


@given(st.integers(1, 3), st.integers(0, 6), st.integers(2, 9), st.sampled_from([1, 2, (3, 2)]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_roi_align_is_torchvisions(images: int, count: int, side: int, size: Any, aligned: bool) -> None:
    """Which is written in PyTorch as well, and compiled before it runs, unless it is asked not to be."""
    module = importlib.import_module("torchvision.ops.roi_align")
    random = torch.Generator().manual_seed(10 * count + side)
    features = torch.rand(images, 2, side, side + 3, generator=random)
    corners = 4 * side * torch.rand(count, 4, generator=random)
    boxes = torch.cat([corners.minimum(corners.roll(2, 1))[:, :2], corners.maximum(corners.roll(2, 1))[:, :2]], 1)
    numbered = torch.cat([torch.randint(images, (count, 1), generator=random).float(), boxes], 1)
    found = detection_operators.roi_align(features, numbered, size, 0.25, 2, aligned)
    rows, columns = (size, size) if isinstance(size, int) else size
    wanted = module._roi_align.__wrapped__(features, numbered, 0.25, rows, columns, 2, aligned)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    lists = [boxes[numbered[:, 0] == image] for image in range(images)]
    order = numbered[:, 0].argsort(stable=True)
    assert torch.allclose(detection_operators.roi_align(features, lists, size, 0.25, 2, aligned), found[order])
