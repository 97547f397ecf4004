"""Models that are wrapped for several processes, of which this is one, and the only one that calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.models import Net
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import ghnfast
from ghnfast import GHN
from ghnfast.errors import PredictError, TraceError


@pytest.fixture
def group() -> Iterator[None]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Small(nn.Module):
    input_shape = (3, 16, 16)

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu().mean((2, 3))
        found: Tensor = self.head(x * 2 if self.reads and x.sum() > 0 else x)
        return found


def asked(*args: object, **kwargs: object) -> None:
    raise AssertionError("another process was asked for something")


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DDP": DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "sequential": nn.Sequential,
    "both": lambda model: nn.Sequential(DistributedDataParallel(model)),
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_is_predicted_as_it_is_and_nobody_is_asked(
    name: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghn = GHN(hid=8, num_classes=10, max_shape=(8, 8, 3, 3))
    wanted = [parameter.clone() for parameter in ghn.predict(Small(reads)).parameters()]
    model = WRAPPED[name](Small(reads))
    before = {module: dict(vars(module)) for module in model.modules()}
    monkeypatch.setattr(DistributedDataParallel, "_sync_buffers", asked)
    graph = ghnfast.trace(model)
    assert graph.input_shape == (3, 16, 16)
    ghn.predict(model)
    assert all(map(torch.equal, model.parameters(), wanted))
    assert all(vars(module).items() >= attributes.items() for module, attributes in before.items())
    if "Sync" not in name:  # on the CPU, that fails in torch
        ghnfast.calibrate(model, torch.randn(4, 3, 16, 16))


def sharded_whole() -> nn.Module:
    return type("FullyShardedDataParallel", (nn.Sequential,), {})(nn.Linear(3, 3), nn.Linear(3, 3))


def sharded_inside() -> nn.Module:
    return nn.Sequential(sharded_whole(), nn.Linear(3, 3))


def flat() -> nn.Module:
    return Net(lambda m, x: x, _flat_param=nn.Parameter(torch.zeros(10)))


def of_tensors() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight = type("DTensor", (nn.Parameter,), {})(torch.zeros(3, 3))
    return model


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("build", [sharded_whole, sharded_inside, flat, of_tensors])
def test_what_is_spread_is_taken_before_it_is(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(TraceError, match=r"spread over several processes \(\w+\); predict before wrapping"):
        ghnfast.trace(build())
    with pytest.raises(PredictError, match=r"spread over several processes \(\w+\); the model before it is wrapped"):
        ghnfast.postprocess(build())
