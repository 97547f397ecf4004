"""Running statistics from images: what they become, what stays as it was, what is accepted."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.calibrated import IMAGES, PAIRS, TARGETS, Snapshot, images_of, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ghnfast
import ghnfast.vision
from ghnfast.errors import CalibrationError, GhnfastError
from ghnfast.training import accuracies, load_data
from ghnfast.training.data import Batches


def test_batches_of_one_size_give_what_torch_gives() -> None:
    batches = [images_of(6, 3, 12, 12, seed=seed) for seed in range(4)]
    ours, theirs = network(), network()
    ours[3] = theirs[3] = nn.Identity()  # torch leaves dropout on
    ghnfast.calibrate(ours, batches)
    torch.optim.swa_utils.update_bn(batches, theirs)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=1, max_size=5), limit=st.none() | st.integers(1, 7) | st.just(1 << 70)
)
def test_a_limit_is_the_first_so_many(sizes: list[int], limit: int | None) -> None:
    batches = [images_of(size, 3, 12, 12, seed=at) for at, size in enumerate(sizes)]
    taken: list[int] = []

    def generator() -> Iterator[Tensor]:
        for at, batch in enumerate(batches):
            taken.append(at)
            yield batch

    limited = ghnfast.calibrate(network(), generator(), limit)
    wanted = ghnfast.calibrate(network(), batches[:limit])
    assert len(taken) == len(batches[:limit])  # no batch is lost
    assert all(map(torch.equal, limited.state_dict().values(), wanted.state_dict().values()))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    model = network().train(training)
    model[2].train(not training)  # a mode of its own
    model[0].weight.requires_grad_(False)
    model[8].weight.grad = torch.ones(10, 6)
    model[1].momentum = None  # type: ignore[assignment]
    model[1].register_forward_hook(lambda *_: None)
    before = Snapshot(model)
    ghnfast.calibrate(model, [images_of(4, 3, 12, 12)])
    before.check(model, statistics=False)
    assert all(not torch.equal(value, before.values[name]) for name, value in model.named_buffers())


def test_dropout_is_off() -> None:
    model, other = network().train(), network().eval()
    other[3] = nn.Identity()
    for each in (model, other):
        ghnfast.calibrate(each, [images_of(4, 3, 12, 12)])
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_models_without_such_layers_are_returned_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))
    before = Snapshot(model)
    assert ghnfast.calibrate(model, iter([images_of(2, 3, 8, 8)])) is model
    before.check(model, statistics=True)


# Batches --------------------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: [IMAGES[:4], IMAGES[4:]],
    "arrays": lambda: (images.numpy() for images, _ in PAIRS),
    "pairs": lambda: PAIRS,
    "lists": lambda: iter([list(pair) for pair in PAIRS]),
    "single": lambda: [(images,) for images, _ in PAIRS],
    "doubles": lambda: [images.double() for images, _ in PAIRS],
    "loader": lambda: DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=4),
    "mappings": lambda: [{"input": images, "labels": labels} for images, labels in PAIRS],
    "other names": lambda: [{"image": images, "label": labels} for images, labels in PAIRS],
    "mappings and labels": lambda: [({"input": images}, labels) for images, labels in PAIRS],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_batches(form: str) -> None:
    wanted = ghnfast.calibrate(network(), [IMAGES[:4], IMAGES[4:]])
    found = ghnfast.calibrate(network(), FORMS[form]())
    assert all(map(torch.equal, found.state_dict().values(), wanted.state_dict().values()))


def test_one_tensor_of_all_images() -> None:
    images = images_of(70, 3, 8, 8)
    wanted = ghnfast.calibrate(network(), [images[:64], images[64:]])
    for given_images in (images, images.numpy()):
        found = ghnfast.calibrate(network(), given_images)
        assert all(map(torch.equal, found.state_dict().values(), wanted.state_dict().values()))


class WithKeywords(nn.Module):
    """As models of transformers are."""

    seen: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixel_values: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        WithKeywords.seen = {name for name, value in (("mask", mask), ("labels", labels)) if value is not None}
        return self.norm(pixel_values)


def test_keyword_arguments() -> None:
    model = WithKeywords()
    batch = {"pixel_values": IMAGES, "mask": torch.ones(8, dtype=torch.bool), "labels": TARGETS, "path": ["a"] * 8}
    ghnfast.calibrate(model, [batch])
    assert model.seen == {"mask"}
    torch.testing.assert_close(model.norm.running_mean, IMAGES.mean((0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_take_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    ghnfast.calibrate(model, PAIRS)
    with torch.no_grad():
        features = model[0](IMAGES.to(dtype)).double()
    assert model[1].running_mean.dtype == dtype
    torch.testing.assert_close(model[1].running_mean.double(), features.mean((0, 2, 3)), rtol=0.02, atol=0.02)


PARTS = {"norm": lambda: nn.BatchNorm2d(3), "conv": lambda: nn.Conv2d(3, 3, 1), "head": lambda: nn.Conv2d(3, 4, 1)}


class Mixed(nn.Module):
    """Layers in dtypes of their own, the head's input converted."""

    def __init__(self, first: torch.dtype, **parts: torch.dtype) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 1, 1, dtype=first))
        self.parts = nn.ModuleDict({name: PARTS[name]().to(dtype) for name, dtype in parts.items()})

    def forward(self, images: Tensor) -> Tensor:
        for name, part in self.parts.items():
            images = part(images.to(next(part.parameters()).dtype) if name == "head" else images)
        return images


@settings(max_examples=40, deadline=None)
@given(
    low=st.sampled_from([torch.bfloat16, torch.float16]),
    norm=st.booleans(),
    head=st.booleans(),
    norm_first=st.booleans(),
    position=st.booleans(),
    images=st.sampled_from([torch.float32, torch.float64, None]),
)
def test_models_of_several_dtypes(
    low: torch.dtype, norm: bool, head: bool, norm_first: bool, position: bool, images: torch.dtype | None
) -> None:
    """Images as the first layer takes them, and those of data sets, in models parts of which are in float32."""
    dtypes = {"norm": torch.float32 if norm else low, "conv": low, "head": torch.float32 if head else low}
    order = ("norm", "conv", "head") if norm_first else ("conv", "norm", "head")
    first = torch.float32 if position and images is None else low
    model = Mixed(first, **{name: dtypes[name] for name in order})
    given_images = IMAGES.to(images or low)
    if images is None:
        with torch.no_grad():
            model(given_images)
    ghnfast.calibrate(model, given_images)
    features = model.parts["conv"](IMAGES.to(low)) if not norm_first else IMAGES
    mean = model.parts["norm"].running_mean.float()
    torch.testing.assert_close(mean, features.float().mean((0, 2, 3)), rtol=0.02, atol=0.02)


def test_in_inference_mode_and_on_models_made_in_it() -> None:
    wanted = ghnfast.calibrate(network(), PAIRS)
    with torch.inference_mode():
        inside = network()
        outside = ghnfast.calibrate(wanted.__class__(*network()), PAIRS)
    found = [ghnfast.calibrate(inside, PAIRS), outside]
    for each in found:
        assert all(map(torch.equal, each.state_dict().values(), wanted.state_dict().values()))
    model = network()
    with torch.inference_mode():
        ghnfast.calibrate(model, PAIRS)
    model.train()(IMAGES).sum().backward()  # its buffers are as usable as they were


def with_default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("place", [lambda: torch.device("meta"), contextmanager(with_default_device)])
@pytest.mark.parametrize("form", FORMS)
def test_the_default_device_does_not_matter(place: Callable[[], Any], form: str) -> None:
    found, wanted = network(), ghnfast.calibrate(network(), [IMAGES[:4], IMAGES[4:]])
    found.append(Mask())  # makes a tensor as it runs
    with place():
        ghnfast.calibrate(found, FORMS[form]())
    assert all(map(torch.equal, found.state_dict().values(), wanted.state_dict().values()))


class Mask(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.ones(values.shape).tolist()[0][0]


@pytest.mark.parametrize("form", ["wrapper", "part", "in place"])
def test_compiled_models(form: str) -> None:
    """They run as they are written, and are compiled afterwards."""
    wanted, plain = ghnfast.calibrate(network(), PAIRS), network()
    model: Any = nn.Sequential(plain)
    if form == "wrapper":
        model = torch.compile(plain, backend="eager", fullgraph=True)
    elif form == "part":
        model[0] = torch.compile(plain, backend="eager", fullgraph=True)
    else:
        plain.compile(backend="eager")
    assert ghnfast.calibrate(model, PAIRS) is model
    assert all(map(torch.equal, plain.state_dict().values(), wanted.state_dict().values()))
    torch.testing.assert_close(model.eval()(IMAGES), wanted.eval()(IMAGES))


# What goes wrong ------------------------------------------------------------------------------------------------------


def failing(after: int) -> Iterator[Tensor]:
    for _ in range(after):
        yield IMAGES
    raise OSError("the disk is gone")


WRONG: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "nothing": (lambda: [], None, "the batches are empty"),
    "an empty tensor": (lambda: IMAGES[:0], None, "the batches are empty"),
    "an empty generator": (lambda: iter(()), None, "the batches are empty"),
    "a broken generator": (lambda: failing(1), None, "batch 1 cannot be read: OSError: the disk is gone"),
    "an infinity": (lambda: [IMAGES, IMAGES / 0], None, r"statistics of the layer '1' \(BatchNorm2d\) .* in batch 1"),
    "too few channels": (lambda: [IMAGES, IMAGES[:, :1]], None, r"the model fails on batch 1, of the shape \(8, 1, 12"),
    "bytes": (lambda: [(IMAGES * 9).byte()], None, r"the model fails on batch 0"),
    "a single image": (lambda: IMAGES[:4].unbind(), None, r"batch 0, of the shape \(3, 12, 12\).*DataLoader"),
    "no images in it": (lambda: [IMAGES[:0]], None, "the model fails on batch 0"),
    "a word": (lambda: "images", None, "the batches are a str"),
    "words": (lambda: ["images"], None, "batch 0 is a str; a tensor of images, a pair"),
    "nested": (lambda: [[[IMAGES]]], None, "batch 0 is a list of list"),
    "an empty batch": (lambda: [()], None, "batch 0 is a tuple"),
    "None": (lambda: None, None, "the batches are a NoneType, which cannot be iterated over"),
    "a number": (lambda: 7, None, "the batches are a int"),
    "objects": (lambda: [np.array([None])], None, "batch 0 is an array of object"),
    "meta": (lambda: [IMAGES, IMAGES.to("meta")], None, "batch 1 is on the meta device"),
    "a mapping": (lambda: {"pixel_values": IMAGES}, None, "the batches are a dict"),
    "unknown names": (lambda: [{"a": IMAGES, "b": IMAGES}], None, "batch 0 has the entries 'a', 'b'; .* 'input'|input"),
    "limit 0": (lambda: PAIRS, 0, "limit is 0; a positive number"),
    "limit -1": (lambda: PAIRS, -1, "limit is -1"),
    "limit 1.5": (lambda: PAIRS, 1.5, "limit is 1.5"),
    "limit True": (lambda: PAIRS, True, "limit is True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_leave_the_model_as_it_was(case: str) -> None:
    make, limit, message = WRONG[case]
    model = ghnfast.calibrate(network().train(), [IMAGES])
    before = Snapshot(model)
    with pytest.raises(CalibrationError, match=message):
        ghnfast.calibrate(model, make(), limit)
    before.check(model, statistics=True)


def test_overflow_of_half_precision_is_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3)).half()
    before = Snapshot(model)
    with pytest.raises(CalibrationError, match="not finite in batch 0"):
        ghnfast.calibrate(model, [IMAGES * 20_000])
    before.check(model, statistics=True)


def test_interrupts_leave_the_model_as_it_was() -> None:
    def interrupted() -> Iterator[Tensor]:
        yield IMAGES
        raise KeyboardInterrupt

    model = network()
    before = Snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        ghnfast.calibrate(model, interrupted())
    before.check(model, statistics=True)


class Interrupt:
    """Raises KeyboardInterrupt at the call, or return from a call of C, with a number: where Python has interrupts."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.count = at, 0

    def __enter__(self) -> Interrupt:
        self.outer = sys.getprofile()
        sys.setprofile(self.look)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self.outer)

    def look(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_return")
        if self.count == self.at:
            self.at = -1
            # Nothing in Python can keep an interrupt from coming before its first step.
            if event == "c_return" or frame.f_code.co_name != "to_the_end":
                raise KeyboardInterrupt


def test_interrupted_while_it_ends_the_model_is_as_it_was_or_calibrated() -> None:
    small = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    calibrated = ghnfast.calibrate(copy.deepcopy(small), IMAGES).state_dict()
    model = copy.deepcopy(small)
    with Interrupt() as counted:
        ghnfast.calibrate(model, IMAGES)
    wholes = 0
    for at in range(max(counted.count - 160, 1), counted.count):
        model = copy.deepcopy(small)
        before = Snapshot(model)
        with suppress(KeyboardInterrupt), Interrupt(at):
            ghnfast.calibrate(model, IMAGES)
        whole = all(map(torch.equal, model.state_dict().values(), calibrated.values()))
        before.check(model, statistics=not whole)
        assert torch.is_grad_enabled() or whole
        torch.set_grad_enabled(True)
        wholes += whole
    assert 0 < wholes < 20


class Counting(nn.Module):
    """Writes as it runs: into buffers, in place or not, attributes, containers; its norm layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.script = CountingNorm(3), torch.jit.script(nn.Dropout())
        self.steps: Tensor
        self.total: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("total", torch.full((3,), float("nan")))
        self.register_buffer("mask", torch.ones(1).expand(12, 12))  # which nobody can write
        self.calls = 0
        self.shapes: list[tuple[int, ...]] = [()]

    def forward(self, images: Tensor) -> Tensor:
        self.steps += 1
        self.total = self.total.nan_to_num_() + images.mean((0, 2, 3))
        self.calls += 1
        self.shapes.append(images.shape)
        self.register_buffer("cache", images[:1], persistent=False)
        if images.shape[1] != 3:
            raise KeyboardInterrupt
        return self.script(self.norm(images * self.mask))


class CountingNorm(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.steps += 1
        return super().forward(images)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of scripts
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("end", [IMAGES, IMAGES / 0, IMAGES[:, :0], IMAGES[:, :2], IMAGES[0]])
def test_what_a_forward_writes_is_put_back(end: Tensor, inference: bool) -> None:
    with torch.inference_mode(inference):
        model = Counting().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers, modes = dict(model.named_buffers()), [module.training for module in model.modules()]
    try:
        ghnfast.calibrate(model, [IMAGES, end])
        changed = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    except (CalibrationError, KeyboardInterrupt):
        changed = set()
    assert end is IMAGES or not changed
    now = dict(model.named_buffers())
    assert now.keys() == buffers.keys()
    assert all(now[name] is buffer for name, buffer in buffers.items())
    found = {name for name, value in model.state_dict().items() if not value.equal(state[name])}
    assert found == changed | {"total"}  # not a number, and so not equal
    assert model.total.isnan().all()
    assert (model.calls, model.shapes, [module.training for module in model.modules()]) == (0, [()], modes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "resnet18", "the model is a str"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), "has no memory yet: it is lazy"),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.LazyConv2d(4, 3)), "the parameter '1.weight' has no memory yet"),
        (lambda: network().to("meta"), "has no memory yet"),
        (lambda: torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))), "is TorchScript"),
    ],
)
def test_models_that_cannot_be_calibrated(make: Callable[[], Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of lazy layers and scripts
        model = make()
    with pytest.raises(GhnfastError, match=message):
        ghnfast.calibrate(model, PAIRS)


# The real thing -------------------------------------------------------------------------------------------------------


def test_digits_are_recognized_in_evaluation_mode() -> None:
    """A ResNet-18 with the parameters that the GHN of the package predicts."""
    from torchvision.models import resnet18

    data = load_data("mnist5k")
    model = ghnfast.vision.adapt_to_small_images(resnet18(num_classes=10))
    ghnfast.predict(model, input_shape=(3, 32, 32))
    some = replace(data.test, pixels=data.test.pixels[::10], labels=data.test.labels[::10])  # type: ignore[type-var, attr-defined]
    images, labels = some.batch(range(100), 0)

    def accuracy() -> float:
        with torch.no_grad():
            return 100 * float((model.eval()(images).argmax(1) == labels).float().mean())

    with_batches = accuracies(model, some, data.calibration, "batch")[0]
    assert accuracy() < 25
    loader = Batches(data.calibration, 64, 0)
    ghnfast.calibrate(model, (loader[number] for number in range(3)))
    assert accuracy() > with_batches - 8


def test_single_images_are_joined_with_what_is_beside_them() -> None:
    """The rest of a data set is often one image, which has one value a channel behind a global pool."""
    torch.manual_seed(0)
    images = torch.randn(33, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    splits = [[16, 16, 1], [1, 32], [1, 1, 31], [32, 1], [1] * 33]
    for sizes in splits:
        ghnfast.calibrate(model, images.split(sizes))
        assert model[2].running_var.isfinite().all()
        assert model[2].running_mean.ne(0).all()
    whole = copy.deepcopy(model)
    ghnfast.calibrate(whole, [images])
    torch.testing.assert_close(model[2].running_mean, whole[2].running_mean)  # 33 single images are one batch
    torch.testing.assert_close(model[2].running_var, whole[2].running_var)
    with pytest.raises(ghnfast.CalibrationError):
        ghnfast.calibrate(model, [images[:1]])
