"""Running statistics of all kinds of layers, and of those that do not normalize by their batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.calibrated import IMAGES, PAIRS, Snapshot, images_of
from torch import Tensor, nn
from torch.nn import functional as F

import ghnfast

LAYERS = {
    "BatchNorm1d": (nn.BatchNorm1d(3), (5,)),
    "BatchNorm2d": (nn.BatchNorm2d(3, affine=False), (5, 4)),
    "BatchNorm3d": (nn.BatchNorm3d(3, momentum=None), (2, 5, 4)),
    "SyncBatchNorm": (nn.SyncBatchNorm(3, momentum=0.0), (5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("sizes", [(8, 8, 8), (7, 2, 4)])
def test_statistics_are_averages_over_batches(name: str, sizes: tuple[int, ...]) -> None:
    layer, plane = LAYERS[name]
    model = nn.Sequential(copy.deepcopy(layer))
    model[0].running_mean.fill_(float("nan"))  # what was there does not matter
    batches = [images_of(size, 3, *plane, seed=size + at) for at, size in enumerate(sizes)]
    assert ghnfast.calibrate(model, batches) is model
    rows = [batch.transpose(0, 1).flatten(1).double() for batch in batches]
    mean = torch.cat(rows, 1).mean(1)
    freedom = [each.shape[1] - 1 for each in rows]
    variance = sum(n * each.var(1) for n, each in zip(freedom, rows, strict=True)) / sum(freedom)
    torch.testing.assert_close(model[0].running_mean, mean.float())
    torch.testing.assert_close(model[0].running_var, variance.float())
    assert model[0].num_batches_tracked == len(sizes)


@pytest.mark.parametrize("sizes", [(4, 4), (6, 2)])
def test_instance_norm(sizes: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.InstanceNorm2d(3))
    batches = [images_of(size, 3, 5, 4, seed=size) for size in sizes]
    ghnfast.calibrate(model, batches)
    everything = torch.cat(batches)
    torch.testing.assert_close(model[0].running_mean, everything.mean((2, 3)).mean(0))
    torch.testing.assert_close(model[0].running_var, everything.var((2, 3)).mean(0))
    assert model[1].running_mean is None


def test_a_layer_that_runs_twice_and_one_that_does_not() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(input=images) + self.norm(images + 2)

    model = Twice()
    model.unused.running_mean.fill_(7)
    images = images_of(4, 3, 5, 5)
    ghnfast.calibrate(model, [images])
    torch.testing.assert_close(model.norm.running_mean, images.mean((0, 2, 3)) + 1)
    torch.testing.assert_close(model.norm.running_var, images.var((0, 2, 3)))
    assert model.unused.running_mean.tolist() == [7] * 3
    assert model.unused.num_batches_tracked == 0


def test_layers_of_timm() -> None:
    timm = pytest.importorskip("timm.layers")
    model = nn.Sequential(timm.BatchNormAct2d(3), timm.FrozenBatchNormAct2d(3))
    with pytest.warns(UserWarning, match=r"'1' \(FrozenBatchNormAct2d\): these statistics stay"):
        ghnfast.calibrate(model, PAIRS)
    torch.testing.assert_close(model[0].running_mean, IMAGES.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, IMAGES.var((0, 2, 3)), rtol=0.01, atol=0)
    assert not model[1].running_mean.any()  # it tracks nothing


# Layers that do not normalize by their batch --------------------------------------------------------------------------


class AlwaysRunning(nn.BatchNorm2d):
    """Normalizes by running statistics, whatever its mode."""

    def forward(self, images: Tensor) -> Tensor:
        return F.batch_norm(images, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)


class FrozenInForward(nn.Module):
    """A backbone that the forward puts in evaluation mode (for good), or that is written so, and a head."""

    def __init__(self, norm: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(norm, nn.ReLU()), nn.BatchNorm1d(3)
        self.frozen = frozen

    def forward(self, images: Tensor) -> Tensor:
        if self.frozen:
            self.backbone.eval()
        return self.head(self.backbone(images).flatten(2))


FROZEN: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **LAYERS,
    "InstanceNorm": (nn.InstanceNorm2d(3, track_running_stats=True), (5, 4)),
    "subclass": (AlwaysRunning(3), (5, 4)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_layers_keep_their_statistics(name: str, dtype: torch.dtype) -> None:
    layer, plane = FROZEN[name]
    model = FrozenInForward(copy.deepcopy(layer), frozen=name != "subclass").to(dtype)
    norm = model.backbone[0]
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(2)
    before = Snapshot(model)
    batches = [images_of(size, 3, *plane, seed=size).to(dtype) for size in (6, 4)]
    ghnfast.calibrate(model, batches)
    before.check(model, statistics=False)
    for kept in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(norm, kept), before.values[f"backbone.0.{kept}"])
    with torch.no_grad():
        features = [model.backbone.eval()(batch).transpose(0, 1).flatten(1).double() for batch in batches]
    mean = torch.cat(features, 1).mean(1)
    torch.testing.assert_close(model.head.running_mean.double(), mean, rtol=0.02, atol=0.02)
    assert model.head.num_batches_tracked == 2


PASSES_ON: dict[str, Any] = {
    "train": lambda m: m.backbone.train(m.training),
    "all": lambda m: m.train(m.training),
    "attribute": lambda m: setattr(m.backbone[0], "training", m.training),
    "each": lambda m: [module.train(m.training) for module in m.backbone.modules()],
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", PASSES_ON)
def test_a_forward_that_hands_on_its_mode_freezes_nothing(name: str, mode: bool) -> None:
    class Model(FrozenInForward):
        def forward(self, images: Tensor) -> Tensor:
            PASSES_ON[name](self)
            return F.dropout(super().forward(images), 0.5, self.training)

    model, usual = (kind(nn.BatchNorm2d(3), frozen=False).train(mode) for kind in (Model, FrozenInForward))
    batches = [images_of(size, 3, 5, 4, seed=size) for size in (6, 4)]
    drawn, before = torch.get_rng_state(), Snapshot(model)
    ghnfast.calibrate(model, batches)
    before.check(model, statistics=False)
    assert torch.equal(drawn, torch.get_rng_state())
    for one, other in zip(model.buffers(), ghnfast.calibrate(usual, batches).buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("first", [True, False])
def test_frozen_in_one_of_two_branches(norm: Any, first: bool) -> None:
    """Only the calls that normalize by the batch count, in every batch."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm(3, track_running_stats=True)

        def forward(self, images: Tensor) -> Tensor:
            was, self.norm.training = self.norm.training, self.norm.training and first
            left = self.norm(images)
            self.norm.training = was and not first
            return left + self.norm(images + 2)

    model = Branches()
    images = images_of(8, 3, 5, 5)
    ghnfast.calibrate(model, images.split(4))
    torch.testing.assert_close(model.norm.running_mean, images.mean((0, 2, 3)) + (0 if first else 2))
    assert ghnfast.calibrate(model, images.split(4)).norm.running_var.isfinite().all()


class Ghost(nn.BatchNorm2d):
    """Normalizes each part of a batch by itself."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([super(Ghost, self).forward(part) for part in images.split(4)])


@pytest.mark.parametrize("sizes", [(8, 8), (7,), (3, 10)])
def test_parts_of_a_batch_all_count(sizes: tuple[int, ...]) -> None:
    ghost, plain = nn.Sequential(Ghost(3)), nn.Sequential(nn.BatchNorm2d(3))
    batches = [images_of(size, 3, 5, 4, seed=size + at) for at, size in enumerate(sizes)]
    ghnfast.calibrate(ghost, batches)
    ghnfast.calibrate(plain, [part for batch in batches for part in batch.split(4)])
    assert all(map(torch.equal, ghost.state_dict().values(), plain.state_dict().values()))


class InPlace(nn.BatchNorm2d):
    """Computes its statistics itself, as layers do that share them between processes."""

    def forward(self, images: Tensor) -> Tensor:
        variance, mean = torch.var_mean(images, (0, 2, 3))
        if self.training:
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * variance
        return (images - mean[:, None, None]) / (variance[:, None, None] + self.eps).sqrt()


class OwnMomentum(nn.BatchNorm2d):
    """Calls the function of torch with a momentum that is no attribute."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.batch_norm(
            images, self.weight, self.bias, self.running_mean, self.running_var, True, 0.3, self.eps, False
        )


@pytest.mark.parametrize("kind", [InPlace, OwnMomentum])
def test_layers_that_normalize_in_their_own_way(kind: Any) -> None:
    found, wanted = nn.Sequential(kind(3)), nn.Sequential(nn.BatchNorm2d(3))
    for model in (found, wanted):
        model[0].running_mean.fill_(3)
        ghnfast.calibrate(model, IMAGES.split(4))
    torch.testing.assert_close(found[0].running_mean, wanted[0].running_mean)
    torch.testing.assert_close(found[0].running_var, wanted[0].running_var)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("before", "stem"), [
    (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float64),
])  # fmt: skip
def test_the_first_weight_need_not_be_the_first_that_sees_images(
    before: torch.dtype, stem: torch.dtype, given: torch.dtype
) -> None:
    """Adapters and tables come before the stem, in a dtype of their own."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Linear(4, 4).to(before)
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(stem)
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            features = self.stem(images).mean((2, 3))
            return features + self.adapter(features.to(before)).to(stem)

    model = Adapted()
    assert ghnfast.calibrate(model, [IMAGES[:1].to(given), IMAGES[1:].to(given)]).calls == 0
    features = model.stem[0](IMAGES.to(given).to(stem)).double()
    torch.testing.assert_close(model.stem[1].running_mean.double(), features.mean((0, 2, 3)), rtol=0.02, atol=0.02)
    assert model.stem[1].num_batches_tracked == 1


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images / self.running_var


def frozen() -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

    return FrozenBatchNorm2d(3)


def exported() -> nn.Module:
    return torch.export.export(nn.Sequential(nn.BatchNorm2d(3)).eval(), (IMAGES,)).module()


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "of torchvision": frozen, "of one's own": OwnNorm, "of an exported program": exported
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("beside", [False, True])
def test_statistics_that_are_no_layers_stay_and_are_said(name: str, beside: bool) -> None:
    others = OTHERS[name]()
    model = nn.Sequential(others, nn.BatchNorm2d(3) if beside else nn.Identity())
    before = {name: buffer.clone() for name, buffer in others.named_buffers()}
    with pytest.warns(UserWarning, match=r"1 modules of Sequential have running statistics .* such as '0"):
        ghnfast.calibrate(model, [IMAGES])
    assert all(torch.equal(buffer, before[name]) for name, buffer in others.named_buffers())
    assert not beside or model[1].num_batches_tracked == 1
