"""Weights that torch computes from parameters: parametrizations, and the older hooks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import predict
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import ghnfast
from ghnfast import GHN, PredictError, TraceError


def two(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(10, 3))


def predicted_weight(ghn: GHN, inputs: int) -> Tensor:
    model = two(nn.Linear(inputs, 10))
    predict(model, ghn, inputs)
    weight: Tensor = model[0].weight.detach()
    return weight


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / 2


class Symmetric(nn.Module):
    """Has no right inverse."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Broken(Doubled):
    def right_inverse(self, w: Tensor) -> Tensor:
        if w.shape == (10, 10) and w[0, 0] != 0:
            raise ValueError("cannot be inverted")
        return w


def parametrized(layer: nn.Linear, *steps: nn.Module) -> nn.Linear:
    for step in steps:
        parametrize.register_parametrization(layer, "weight", step)
    return layer


def pruned(layer: nn.Linear) -> nn.Linear:
    return prune.random_unstructured(layer, "weight", 0.5)


EXACT: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, all": lambda layer: parametrizations.weight_norm(layer, dim=None),  # type: ignore[arg-type]
    "older weight_norm": torch.nn.utils.weight_norm,
    "own": lambda layer: parametrized(layer, Doubled()),
    "two": lambda layer: parametrized(layer, Doubled(), Doubled()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_effective_weight_is_the_prediction(name: str, training: bool, ghn: GHN) -> None:
    model = two(EXACT[name](nn.Linear(16, 10))).train(training)
    report = predict(model, ghn, 16)
    assert not report.skipped
    assert report.coverage == 1
    model(torch.zeros(1, 16))  # older ways compute the weight before a forward
    torch.testing.assert_close(model[0].weight.detach(), predicted_weight(ghn, 16))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, torch.nn.utils.spectral_norm])
def test_spectral_norm_divides_by_the_norm_of_what_was_predicted(norm: Callable[..., Any], ghn: GHN) -> None:
    model = two(norm(nn.Linear(16, 10))).eval()
    assert not predict(model, ghn, 16).skipped
    expected = predicted_weight(ghn, 16)
    model(torch.zeros(1, 16))
    torch.testing.assert_close(
        model[0].weight.detach(), expected / torch.linalg.matrix_norm(expected, 2), rtol=1e-3, atol=1e-3
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("runs", [0, 1])
@pytest.mark.parametrize(("training", "dtype"), [(True, torch.float32), (False, torch.float64)])
@pytest.mark.parametrize("norm", [torch.nn.utils.spectral_norm, torch.nn.utils.weight_norm, pruned])
def test_older_ways_compute_from_the_prediction_whether_or_not_they_ran_before(
    norm: Callable[[Any], Any], dtype: torch.dtype, training: bool, runs: int, ghn: GHN
) -> None:
    """Before its first forward the older spectral normalization has its parameter where the weight is."""
    model = two(norm(nn.Linear(16, 10))).to(dtype).train(training)
    for _ in range(runs):
        model(torch.zeros(1, 16, dtype=dtype))
    assert not predict(model, ghn, 16).skipped
    original = model[0].weight_v if norm is torch.nn.utils.weight_norm else model[0].weight_orig
    torch.testing.assert_close(original.detach(), predicted_weight(ghn, 16).to(dtype))


@pytest.mark.parametrize("options", [{}, {"orthogonal_map": "cayley"}, {"orthogonal_map": "householder"}])
@pytest.mark.parametrize("inputs", [4, 10, 16])
def test_orthogonal_weight_is_the_prediction_made_orthogonal(options: dict[str, Any], inputs: int, ghn: GHN) -> None:
    model = two(parametrizations.orthogonal(nn.Linear(inputs, 10), **options))
    state = torch.get_rng_state()
    assert not predict(model, ghn, inputs).skipped
    assert torch.equal(torch.get_rng_state(), state)
    weight, expected = model[0].weight.detach(), predicted_weight(ghn, inputs)
    tall, wanted = (weight, expected) if inputs <= 10 else (weight.mT, expected.mT)
    torch.testing.assert_close(tall.mT @ tall, torch.eye(tall.shape[1]), rtol=0, atol=1e-4)
    # What QR decomposition makes of the prediction: the same space, column by column.
    q, r = torch.linalg.qr(wanted)
    torch.testing.assert_close(tall, q * r.diagonal().sign(), rtol=0, atol=1e-3)


def test_weight_without_a_right_inverse_is_kept_and_says_why(ghn: GHN) -> None:
    model = two(parametrized(nn.Linear(10, 10), Symmetric()))
    before = model[0].weight.clone()
    report = predict(model, ghn, 10)
    assert "Symmetric, which has no right_inverse" in report.skipped["0.parametrizations.weight.original"]
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=0)


class Rescaled(nn.Module):
    """Has no right inverse, but is a rescaling."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def test_rescaling_without_a_right_inverse_is_one_as_in_a_forward(ghn: GHN) -> None:
    model = two(parametrized(nn.Linear(16, 10), Rescaled()))
    assert not predict(model, ghn, 16).skipped
    torch.testing.assert_close(model[0].weight.detach(), F.normalize(predicted_weight(ghn, 16), dim=1))


HALF = (torch.arange(160).view(10, 16) % 2).float()
FACTORS: dict[str, tuple[nn.Parameter, nn.Parameter, list[str]]] = {
    "a frozen mask": (nn.Parameter(torch.randn(10, 16)), nn.Parameter(HALF, requires_grad=False), ["b"]),
    "a mask that is trained": (nn.Parameter(torch.randn(10, 16), requires_grad=False), nn.Parameter(HALF), ["b"]),
    "of zeros": (nn.Parameter(torch.zeros(10, 16)), nn.Parameter(HALF, requires_grad=False), ["b"]),
    "no mask": (nn.Parameter(torch.randn(10, 16)), nn.Parameter(torch.randn(10, 16)), ["a", "b"]),
}


@pytest.mark.parametrize("name", FACTORS)
def test_weight_that_is_masked_by_a_parameter(name: str, ghn: GHN) -> None:
    a, b, kept = FACTORS[name]
    for forward in (lambda m, x: m.c(F.linear(x, m.a * m.b)), lambda m, x: m.c(F.linear(x, torch.mul(m.b, m.a)))):
        model = Net(forward, a=copy.deepcopy(a), b=copy.deepcopy(b), c=nn.Linear(10, 3))
        assert list(predict(model, ghn, 16).skipped) == kept
        assert torch.equal(model.get_parameter("b"), b)


def test_right_inverse_that_is_not_implemented(ghn: GHN) -> None:
    """As torch's own where `use_trivialization` is off."""
    model = two(parametrizations.orthogonal(nn.Linear(10, 10), use_trivialization=False))
    report = predict(model, ghn, 10)
    assert "not possible to assign" in report.skipped["0.parametrizations.weight.original"]
    assert set(report.predicted) == {"0.bias", "2.weight", "2.bias"}


def test_right_inverse_that_fails_changes_nothing(ghn: GHN) -> None:
    layer = nn.Linear(10, 10)
    nn.init.zeros_(layer.weight)
    model = two(parametrized(layer, Broken()))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        PredictError, match=r"original cannot be computed from the predicted weight: cannot be inverted"
    ):
        predict(model, ghn, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Tied weights --------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Two layers with one weight, at least one of which computes with a function of it, and a third one."""

    def __init__(self, norm: Callable[[Any], Any], both: bool, computed_first: bool, nested: bool) -> None:
        super().__init__()
        plain, computed = nn.Linear(10, 10), nn.Linear(10, 10)
        computed.weight = plain.weight
        norm(computed)
        inner = norm(plain) if both else plain
        layers = {"plain": nn.Sequential(inner) if nested else inner, "computed": computed}
        for name in sorted(layers, reverse=not computed_first):
            self.add_module(name, layers[name])
        self.last = nn.Sequential(norm(nn.Linear(10, 10)), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.computed(self.plain(x)))
        return result


PLACES = [(False, False, False), (False, True, False), (False, False, True), (True, True, True), (True, False, False)]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("both", "computed_first", "nested"), PLACES)
@pytest.mark.parametrize("name", [*EXACT, "spectral_norm", "older spectral_norm", "orthogonal", "symmetric"])
def test_tied_weight_that_one_layer_computes_with(
    name: str, both: bool, computed_first: bool, nested: bool, ghn: GHN
) -> None:
    norms = {
        **EXACT,
        "spectral_norm": parametrizations.spectral_norm,
        "older spectral_norm": torch.nn.utils.spectral_norm,
        "orthogonal": parametrizations.orthogonal,
        "symmetric": lambda layer: parametrized(layer, Symmetric()),
    }
    model = Tied(norms[name], both, computed_first, nested).eval()
    kept = {n for n in model.state_dict() if name == "symmetric" and "original" in n and (both or "last" in n)}
    report = predict(model, ghn, 10)
    assert set(report.skipped) <= kept
    model(torch.zeros(1, 10))
    plain = model.plain[0] if nested else model.plain
    if not both:
        torch.testing.assert_close(plain.weight.detach(), predicted_weight(ghn, 10), rtol=0.3, atol=0.3)
    if "spectral" in name:
        for layer in (model.computed, model.last[0]):
            torch.testing.assert_close(
                torch.linalg.matrix_norm(layer.weight.detach(), 2), torch.tensor(1.0), rtol=0, atol=0.01
            )
    before = model(torch.ones(1, 10))
    ghnfast.postprocess(model)
    all_kept = name == "symmetric" and both
    assert torch.equal(model(torch.ones(1, 10)), before) == all_kept


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, torch.nn.utils.spectral_norm])
def test_spectral_norms_of_many_networks(norm: Callable[[Any], Any], ghn: GHN) -> None:
    """Also where the power method is slow: torch's fifteen steps leave three of these two hundred far off."""
    for seed in range(100):
        torch.manual_seed(seed)
        model = nn.Sequential(norm(nn.Linear(10, 10)), nn.ReLU(), norm(nn.Linear(10, 4)))
        predict(model.eval(), ghn, 10)
        for layer in (model[0], model[2]):
            layer(torch.zeros(1, 10))
            assert abs(float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) - 1) < 0.01, seed


# torch's cache -------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """Uses a computed weight twice, and has torch compute it once; what depends on numbers runs on numbers."""

    def __init__(self, norm: Callable[[Any], Any], reads: bool) -> None:
        super().__init__()
        self.layer, self.last, self.reads = norm(nn.Linear(10, 10)), nn.Linear(10, 3), reads

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            x = self.layer(self.layer(x))
        if self.reads and x.sum() > 1e6:
            x = -x
        with parametrize.cached():
            result: Tensor = self.last(self.layer(x))
        return result


def cache() -> dict[Any, Any]:
    return dict(parametrize._cache)


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(
    "norm", [parametrizations.orthogonal, parametrizations.weight_norm, lambda layer: parametrized(layer, Doubled())]
)
def test_prediction_where_torch_caches_computed_weights(
    norm: Callable[[Any], Any], reads: bool, ran: bool, ghn: GHN
) -> None:
    torch.manual_seed(0)
    model = Twice(norm, reads)
    expected = copy.deepcopy(model)
    assert not predict(expected, ghn, 10).skipped
    other = parametrizations.orthogonal(nn.Linear(4, 4))
    with parametrize.cached():
        kept = other.weight
        if ran:
            model(torch.zeros(1, 10))
        before = cache()
        assert (ghnfast.trace(model, input_shape=(10,)).ran_on_numbers is not None) == reads
        assert cache().keys() == before.keys()
        assert all(cache()[key] is before[key] for key in before)
        assert not predict(model, ghn, 10).skipped
        assert cache().keys() == {(id(other), "weight")}
        assert other.weight is kept
        assert torch.equal(model.layer.weight, expected.layer.weight)
        assert not model.layer.weight.is_meta
        ghnfast.postprocess(model)
        assert torch.equal(model.layer.weight, ghnfast.postprocess(expected).layer.weight)
        with pytest.raises(TraceError):
            ghnfast.trace(Twice(norm, reads), input_shape=(11,))
        assert cache().keys() == {(id(other), "weight"), (id(model.layer), "weight")}
    assert not cache()
    assert type(parametrize._cache) is dict


def test_cache_of_a_thread_that_does_not_trace() -> None:
    """While others trace, it finds in the cache what it had put there, and nothing of theirs."""
    model = parametrizations.orthogonal(nn.Linear(10, 10))
    inside, checked = threading.Event(), threading.Event()

    def forward(x: Tensor) -> Tensor:
        result: Tensor = model(model(x))
        inside.set()
        assert checked.wait(60)
        return model(result)

    with parametrize.cached():
        first = model.weight
        with ThreadPoolExecutor(1) as pool:
            traced = pool.submit(ghnfast.trace, Net(lambda m, x: forward(x), a=model), input_shape=(10,))
            assert inside.wait(60)
            assert model.weight is first
            new = parametrizations.weight_norm(nn.Linear(3, 3))
            second = new.weight
            checked.set()
            assert len(traced.result()) == 7
        assert model.weight is first
        assert new.weight is second
        assert cache().keys() == {(id(model), "weight"), (id(new), "weight")}


# Made of parameters as the forward runs -------------------------------------------------------------------------------

MADE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a parameter": lambda m, x: F.linear(x, nn.Parameter(m.weight * 1), m.bias),
    "a parameter of a view": lambda m, x: F.linear(x, nn.Parameter(m.weight.view(6, 8)), nn.Parameter(m.bias[:])),
    "a buffer": lambda m, x: F.linear(x, nn.Buffer(m.weight.detach()), m.bias),
    "a copy of the layer": lambda m, x: copy.deepcopy(m)(x),
    "quantized": lambda m, x: F.linear(x, torch.fake_quantize_per_tensor_affine(m.weight, 0.1, 0, -128, 127), m.bias),
    "quantized by channel": lambda m, x: F.linear(
        x,
        torch.fake_quantize_per_channel_affine(m.weight, torch.ones(6), torch.zeros(6).int(), 0, -128, 127),
        m.bias,
    ),
}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_weight_that_the_forward_makes_of_a_parameter(name: str, reads: bool, ghn: GHN) -> None:
    """Whether the forward runs on shapes, or on numbers because it reads some."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = MADE[name](m.layer, m.stem(x).mean((2, 3)))
        return x if not reads or x.isfinite().all() else x * 0

    plain = Net(lambda m, x: m.layer(m.stem(x).mean((2, 3))), stem=nn.Conv2d(3, 8, 3), layer=nn.Linear(8, 6))
    model = Net(forward, stem=nn.Conv2d(3, 8, 3), layer=nn.Linear(8, 6))
    assert predict(model, ghn, 3, 16, 16).skipped == {}
    predict(plain, ghn, 3, 16, 16)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)
