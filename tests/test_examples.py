"""The examples run, and what they bring with them is right."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import detection
import detection_data
import detection_operators
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import ghnfast
from ghnfast.checkpoints import DEFAULT

pytestmark = pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning")
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
