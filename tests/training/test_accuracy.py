"""`accuracies` and `recalibrated`: what is refused, and that the network is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghnfast.errors import GhnfastError
from ghnfast.training import ImageData, accuracies, recalibrated
from ghnfast.training.accuracy import STATISTICS
from ghnfast.training.data import Batches


class Network(nn.Module):
    """Gives what `output` makes of its logits."""

    def __init__(self, output: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Linear(4, 10)
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output(self.last(self.norm(self.first(images)).mean((2, 3))))


def fail(logits: Tensor) -> Tensor:
    raise ValueError("too hot")


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    *(({"network": value}, "the network is .*; a torch.nn.Module is accepted") for value in (None, 3, Network)),
    *(
        ({name: value, "batch_statistics": "recalibrated"}, f"{name} is a {type(value).__name__}; images are accepted")
        for name in ("images", "calibration")
        for value in (None, [], torch.zeros(4, 3, 32, 32))
    ),
    *(
        ({name: value}, f"{name} is .*; a positive number is accepted")
        for name in ("batch_size", "limit")
        for value in (0, -1, 1.5, "3", True)
    ),
    ({"batch_size": None}, "batch_size is None; a positive number"),
    ({"batch_size": 13, "batch_statistics": "recalibrated"}, "batch_size is 13; at most 12, all images"),
    *(({"batch_statistics": value}, "'batch' and 'recalibrated' are accepted") for value in (None, [], "running")),
    *(({"device": value}, "the device is .*; cpu, cuda") for value in (None, 3, "nowhere")),
    ({"device": "meta"}, "the device is 'meta', which has no memory"),
]


@pytest.mark.parametrize(("changes", "message"), ARGUMENTS)
def test_bad_arguments(few_images: ImageData, changes: dict[str, Any], message: str) -> None:
    given = {"network": Network(), "images": few_images.test, "calibration": few_images.calibration, "batch_size": 6}
    with pytest.raises(GhnfastError, match=message):
        accuracies(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": 3}, "the network is 3; a torch.nn.Module"),
        *(({"batches": value}, "batches is a .*; ghnfast.training.data.Batches") for value in ([], torch.zeros(4))),
        *(({"count": value}, "count is .*; a positive number") for value in (0, "3", 1.5)),
        ({"device": "nowhere"}, "the device is 'nowhere'"),
    ],
)
def test_bad_arguments_of_recalibration(few_images: ImageData, changes: dict[str, Any], message: str) -> None:
    given = {"network": Network(), "batches": Batches(few_images.train, 6, 0)}
    with pytest.raises(GhnfastError, match=message):
        recalibrated(**{**given, **changes})


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None, 13])
def test_bad_sizes_of_batches(few_images: ImageData, size: Any) -> None:
    with pytest.raises(GhnfastError, match=r"batch_size is .*accepted"):
        Batches(few_images.train, size, 0)


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "fails": (fail, r"fails on (images|batch 0).*too hot"),
    "none": (lambda logits: None, "gives NoneType"),
    "nothing": (lambda logits: (), "fails on images"),
    "a number": (lambda logits: logits.sum(), r"gives \(\(\), torch.float32\)"),
    "a vector": (lambda logits: logits[:, 0], r"gives \(\(6,\), torch.float32\)"),
    "a map": (lambda logits: logits[..., None, None], r"gives \(\(6, 10, 1, 1\)"),
    "no class": (lambda logits: logits[:, :0], r"gives \(\(6, 0\)"),
    "fewer images": (lambda logits: logits[:1], r"gives \(\(1, 10\).*numbers \(6, classes\) are accepted"),
    "no numbers": (lambda logits: logits > 0, r"torch.bool\)"),
    "complex ones": (lambda logits: logits + 1j, r"torch.complex64\)"),
    "an array": (lambda logits: logits.numpy(), "gives ndarray"),
}


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("name", ["works", *OUTPUTS])
def test_the_network_is_left_as_it_was(few_images: ImageData, name: str, statistics: str) -> None:
    output, message = OUTPUTS.get(name, (lambda logits: [logits, None], ""))
    network = Network(output)
    network.norm.eval()  # frozen, in a network that is being trained
    before = {key: value.clone() for key, value in network.state_dict().items()}
    given = (network, few_images.test, few_images.calibration, statistics, 6)
    if name == "works":
        accuracies(*given)
    else:
        with pytest.raises(GhnfastError, match=message):
            accuracies(*given)
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_dtypes_of_networks(few_images: ImageData, dtype: torch.dtype, statistics: str) -> None:
    torch.manual_seed(0)
    network = Network()
    given = (few_images.test, few_images.calibration, statistics, 6)
    top5 = accuracies(network, *given)[1]
    assert accuracies(network.to(dtype), *given)[1] == pytest.approx(top5, abs=9)  # an image more or less


@pytest.mark.parametrize("statistics", STATISTICS)
def test_default_devices_do_not_matter(few_images: ImageData, statistics: str) -> None:
    network, given = Network(), (few_images.test, few_images.calibration, statistics, 6)
    wanted = accuracies(network, *given)
    with torch.device("meta"):
        assert accuracies(network, *given) == wanted
