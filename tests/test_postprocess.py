"""Postprocessing: beside the formula in numpy, over kinds of weights, and what is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import Net, torchvision_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import ghnfast
from ghnfast import GhnfastError
from ghnfast.deepnets import DeepNets1M
from ghnfast.errors import ConfigError, PredictError
from ghnfast.postprocessing.matrices import correlation_deviation
from ghnfast.postprocessing.weights import weights_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def as_matrix(weight: Tensor) -> NDArray[np.float64]:
    rows = weight.detach().double().numpy().reshape(len(weight), -1)
    return rows.T if rows.shape[0] < rows.shape[1] else rows


def orthogonal(weight: Tensor) -> Tensor:
    """The formula: the columns of Q, where QR is the matrix, times the signs of R's diagonal."""
    q, r = np.linalg.qr(as_matrix(weight))
    q = q * np.sign(np.diag(r))
    wide = len(weight) < weight.numel() // len(weight)
    return torch.from_numpy((q.T if wide else q).reshape(tuple(weight.shape)).copy())


def random_weight(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def model_of(weight: Tensor) -> nn.Sequential:
    """A layer of torch with a weight of any shape, and a classifier."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return nn.Sequential(layer, nn.Linear(2, 2))


def weight_of(model: nn.Module, index: int) -> Tensor:
    weight = model.get_submodule(str(index)).weight
    assert isinstance(weight, Tensor)
    return weight


SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple)


@given(SHAPES, st.sampled_from([*TOLERANCE]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_orthogonal_weights_are_those_of_the_formula(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    weight = random_weight(*shape, seed=seed, dtype=dtype)
    wanted = orthogonal(weight)
    model = model_of(weight)
    classifier = weight_of(model, 1).clone()
    assert ghnfast.postprocess(model, beta=0) is model
    found = weight_of(model, 0)
    assert found.dtype == dtype
    matrix = as_matrix(found)
    assert np.abs(matrix.T @ matrix - np.eye(matrix.shape[1])).max() < TOLERANCE[dtype] * 2
    condition = np.linalg.cond(as_matrix(weight))
    if condition < 100:  # how far rounding moves Q
        assert (found.double() - wanted).abs().max() < TOLERANCE[dtype] * condition
    assert torch.equal(weight_of(model, 1), classifier)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99), st.sampled_from([1, 1e-30, 1e30]))
@settings(max_examples=100, deadline=None)
def test_the_deviation_of_correlations(rows: int, columns: int, constant: int, seed: int, scale: float) -> None:
    """Rows of equal numbers are left out."""
    matrix = random_weight(rows, columns, seed=seed).double() * scale
    matrix[:constant] = 0.1 * torch.arange(1.0, len(matrix[:constant]) + 1)[:, None]
    varying = matrix.numpy()[constant:] if columns > 1 else matrix.numpy()[:0]
    with np.errstate(divide="ignore"):
        wanted = np.corrcoef(varying / scale).std(ddof=1) if len(varying) > 1 else 0.0
    assert correlation_deviation(matrix) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_correlations_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_weight(37, 5)
    whole = correlation_deviation(matrix)
    monkeypatch.setattr("ghnfast.postprocessing.matrices.BLOCK", 16)
    assert correlation_deviation(matrix) == pytest.approx(whole, rel=1e-9)
    assert whole == pytest.approx(np.corrcoef(matrix.numpy()).std(ddof=1), rel=1e-5)


@pytest.mark.parametrize("shape", [(300, 20, 1, 1), (20, 300), (64, 1, 3, 3), (48, 6, 5, 5)])
def test_noise_has_the_scale_of_the_formula(shape: tuple[int, ...]) -> None:
    """As many standard normal numbers as the weight has, times beta and the deviation of its correlations."""
    weight = random_weight(*shape)
    deviation = np.corrcoef(as_matrix(weight)).std(ddof=1)
    model = ghnfast.postprocess(model_of(weight), orth=False, beta=0.5)
    noise = (weight_of(model, 0).detach() - weight).flatten() / (0.5 * deviation)
    assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=5 / noise.numel() ** 0.5)


def test_noise_comes_first() -> None:
    weight = random_weight(12, 5)
    noisy = weight_of(ghnfast.postprocess(model_of(weight), orth=False, beta=0.1, seed=7), 0)
    both = weight_of(ghnfast.postprocess(model_of(weight), beta=0.1, seed=7), 0)
    torch.testing.assert_close(both.double(), orthogonal(noisy), rtol=0, atol=1e-5)


def test_seeds() -> None:
    def made(seed: int, layer: int = 1) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 6), nn.Linear(6, 2))
        return ghnfast.postprocess(model, orth=False, beta=0.1, seed=seed, layer=layer)

    before = torch.get_rng_state()
    one, same, other = made(1), made(1), made(2)
    torch.manual_seed(0)
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(weight_of(one, 0), weight_of(other, 0))
    assert not torch.equal(weight_of(made(2**64 - 1), 0), weight_of(made(2**64 - 2), 0))
    # The noise of a weight is not moved by what is done with others.
    assert torch.equal(weight_of(one, 1), weight_of(made(1, layer=2), 1))
    torch.set_rng_state(before)
    ghnfast.postprocess(one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(6, 4),
        torch.ones(4, 6),
        random_weight(4, 3).repeat(3, 2),  # as a GHN repeats blocks
        torch.cat([random_weight(5, 3), torch.zeros(5, 2)], 1),
        torch.full((1, 5), 0.1),
    ],
)
@pytest.mark.parametrize("beta", [0, 3e-5])
def test_weights_without_full_rank_become_orthogonal(weight: Tensor, beta: float) -> None:
    matrix = as_matrix(weight_of(ghnfast.postprocess(model_of(weight), beta=beta), 0))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-5)


@pytest.mark.parametrize("weight", [torch.zeros(6, 4), torch.ones(4, 6), random_weight(7, 1), random_weight(1, 7)])
def test_without_correlations_there_is_no_noise(weight: Tensor) -> None:
    assert torch.equal(weight_of(ghnfast.postprocess(model_of(weight), orth=False, beta=1.0), 0), weight)


# Which weights -------------------------------------------------------------------------------------------------------


def changed(model: nn.Module, **options: Any) -> list[str]:
    """The names of the parameters that postprocessing changes, each of which is orthogonal."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            if parameter.is_floating_point():
                parameter.copy_(random_weight(*parameter.shape, seed=index))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ghnfast.postprocess(model, **options)
    names = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    for name in names:
        matrix = as_matrix(model.state_dict()[name])
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-5)
    return names


def test_weights_from_a_layer_on() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 2)
    )
    assert changed(model) == ["0.weight", "2.weight"]
    assert changed(model, layer=2) == ["2.weight"]
    assert changed(model, layer=3) == changed(model, layer=10**6) == []
    assert changed(model, orth=False, beta=0) == []


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("squeezenet1_1", "classifier.1.weight"),
        ("mobilenet_v3_small", "classifier.3.weight"),
        ("resnet18", "fc.weight"),
    ],
)
def test_the_classifiers_of_models(name: str, classifier: str) -> None:
    weights = [key for key, value in torchvision_model(name).named_parameters() if value.ndim > 1]
    assert weights[-1] == classifier
    assert changed(torchvision_model(name)) == weights[:-1]


def test_a_transformer_keeps_what_is_no_matrix() -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=5)
    blocks = [f"encoder.layers.encoder_layer_{index}." for index in range(2)]
    parts = ["self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight", "mlp.3.weight"]
    wanted = ["conv_proj.weight", *(block + part for block in blocks for part in parts)]
    assert changed(model) == wanted  # not class_token, not encoder.pos_embedding


def test_networks_of_deepnets_keep_encodings_of_positions() -> None:
    names = changed(DeepNets1M("predefined")[1].build())
    assert "stem0.weight" in names
    assert not {"pos_enc.weight", "classifier.0.weight"} & {*names}


class Scaled(nn.Module):
    """What has dimensions and is no matrix; a matrix that no layer of torch has; frozen and other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.positions = nn.Parameter(torch.zeros(1, 5, 6))
        self.layer_scale = nn.Parameter(torch.zeros(6, 1, 1))
        self.bias_table = nn.Parameter(torch.zeros(9, 2))
        self.mixing = nn.Parameter(torch.zeros(5, 5), requires_grad=False)
        self.codes = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
        self.norm = nn.LayerNorm([4, 5])
        self.narrow = nn.Linear(6, 1)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.recurrent = nn.LSTM(4, 4)
        self.head = nn.Linear(6, 2)


def test_kinds_of_parameters() -> None:
    recurrent = ["recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
    assert changed(Scaled()) == ["mixing", "narrow.weight", "up.weight", *recurrent]


@pytest.mark.parametrize("how", ["module", "parameter", "memory", "transposed"])
def test_tied_weights_are_processed_once(how: str) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    if how == "module":
        model[2] = model[0]
    elif how == "parameter":
        model[2].weight = model[0].weight
    else:
        model[2].weight.data = model[0].weight.data if how == "memory" else model[0].weight.data.t()
    twin = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    twin[0].weight.data, twin[1].weight.data = model[0].weight.data.clone(), model[1].weight.data.clone()
    assert len(weights_of(model)) == len(weights_of(twin)) == 2
    ghnfast.postprocess(model)
    ghnfast.postprocess(twin)
    assert torch.equal(weight_of(model, 0), weight_of(twin, 0))
    assert torch.equal(weight_of(model, 1), weight_of(twin, 1))
    assert torch.equal(weight_of(model, 2), weight_of(model, 0).t() if how == "transposed" else weight_of(model, 0))


def test_a_classifier_that_is_an_embedding() -> None:
    """Tied to the first weight, which is therefore the last one, too."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    assert changed(model) == ["1.weight"]


def test_memory_in_any_layout() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Linear(4, 4))
    wanted = ghnfast.postprocess(copy.deepcopy(model))
    model[0].weight.data = weight_of(model, 0).to(memory_format=torch.channels_last)
    ghnfast.postprocess(model)
    assert torch.equal(weight_of(model, 0), weight_of(wanted, 0))
    assert weight_of(model, 0).is_contiguous(memory_format=torch.channels_last)
    strided = torch.zeros(4, 20)[:, ::2]
    model = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 4))
    wanted = ghnfast.postprocess(copy.deepcopy(model))
    strided.copy_(weight_of(model, 0).detach())
    model[0].weight.data = strided
    assert torch.equal(weight_of(ghnfast.postprocess(model), 0), weight_of(wanted, 0))


# Weights that are computed -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral_norm", "old spectral_norm"])
def test_weights_that_are_computed(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(6, 2)).eval()
    plain = weight_of(ghnfast.postprocess(copy.deepcopy(model)), 0)
    make = getattr(nn.utils if kind.startswith("old") else parametrizations, kind.removeprefix("old "))
    make(model[0].train())
    for _ in range(20):  # until the older spectral normalization, too, knows the largest singular value
        model[0](torch.zeros(1, 4, 5, 5))
    model.eval()
    assert len(weights_of(model)) == 1
    ghnfast.postprocess(model)
    model[0](torch.zeros(1, 4, 5, 5))  # what hooks compute
    # An orthogonal matrix has norms of 1 and singular values of 1. Spectral normalization reads the unprocessed weight
    # divided by its largest singular value, which the noise is not scaled with.
    torch.testing.assert_close(weight_of(model, 0), plain, rtol=0, atol=1e-3)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_weights_without_an_inverse_are_kept_and_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    before = weight_of(model, 0).clone()
    assert [weight.is_kept for weight in weights_of(model)] == [True, False]
    kept = weight_of(model, 1).clone()
    ghnfast.postprocess(model, layer=3)
    assert torch.equal(weight_of(model, 1), kept)
    ghnfast.postprocess(model, layer=2)
    assert torch.equal(weight_of(model, 0), before)
    assert not torch.equal(weight_of(model, 1), kept)


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({"orth": value} for value in (1, None, "yes")),
        *({"beta": value} for value in (-1, float("nan"), float("inf"), "1", None, True)),
        *({"layer": value} for value in (0, -1, 1.0, None, True)),
        *({"seed": value} for value in (-1, 2**64, 0.5, None, False)),
    ],
)
def test_bad_arguments(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=rf"^{name} is .* accepted$"):
        ghnfast.postprocess(nn.Linear(3, 3), **options)
    with pytest.raises(ConfigError, match=r"the model is a str; a torch\.nn\.Module is accepted"):
        ghnfast.postprocess("resnet50", **options)  # type: ignore[type-var]


def broken(how: str, model: nn.Sequential) -> None:
    if how == "nan":
        model[1].weight.data[0, 0] = float("nan")
    elif how == "meta":
        model[1].to("meta")
    elif how == "expanded":
        model[1].weight.data = torch.ones(1, 4).expand(4, 4)
    elif how == "part":
        memory = torch.randn(8, 4)
        model[0].weight.data, model[1].weight.data = memory[:4], memory[2:6]
    elif how == "lazy":
        model[1] = nn.LazyLinear(4)
    elif how == "gone":
        model[1].weight.untyped_storage().resize_(0)


@pytest.mark.parametrize("how", ["nan", "meta", "expanded", "part", "lazy", "gone"])
def test_a_failure_leaves_the_model_as_it_was(how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    broken(how, model)
    before = [weight_of(model, index).clone() for index in (0, 2)]
    with pytest.raises(PredictError) as caught:
        ghnfast.postprocess(model)
    assert isinstance(caught.value, GhnfastError)
    assert "1.weight" in str(caught.value)
    assert all(map(torch.equal, before, (weight_of(model, 0), weight_of(model, 2))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("script", [torch.jit.script, lambda layer: torch.jit.trace(layer, torch.ones(2, 4))])
def test_torchscript_is_not_accepted(script: Any, whole: bool) -> None:
    layers = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model: nn.Module = script(nn.Sequential(*layers)) if whole else nn.Sequential(layers[0], script(layers[1]))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(PredictError, match=f"the module {'' if whole else '1'!r} is TorchScript"):
        ghnfast.postprocess(model)
    assert all(map(torch.equal, before, model.parameters()))


def test_noise_that_is_too_large() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    before = weight_of(model, 0).clone()
    with pytest.raises(PredictError, match=r"beta is 1e\+30, with which the weight 0\.weight is not finite"):
        ghnfast.postprocess(model, orth=False, beta=1e30)
    assert torch.equal(weight_of(model, 0), before)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm2d(3), nn.Linear(3, 3)])
def test_models_with_a_classifier_at_most(model: nn.Module) -> None:
    assert changed(model) == []


def test_callers_settings_do_not_matter() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4))
    wanted = ghnfast.postprocess(copy.deepcopy(model))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = ghnfast.postprocess(copy.deepcopy(model))
    assert torch.equal(weight_of(found, 0), weight_of(wanted, 0))
    with torch.inference_mode():
        made = copy.deepcopy(model)
        made[0].weight = nn.Parameter(weight_of(model, 0).clone())
    assert torch.equal(weight_of(ghnfast.postprocess(made), 0), weight_of(wanted, 0))
    assert weight_of(model, 0).requires_grad


def test_what_a_ghn_predicts_can_be_postprocessed() -> None:
    model = Net(
        lambda net, x: net.head(net.second(net.first(x)).mean((2, 3))),
        first=nn.Conv2d(3, 128, 3),
        second=nn.Conv2d(128, 128, 1),
        head=nn.Linear(128, 10),
    )
    ghnfast.predict(model, input_shape=(3, 32, 32))
    assert np.linalg.matrix_rank(as_matrix(model.second.weight)) <= 64  # type: ignore[arg-type]
    ghnfast.postprocess(model)
    assert np.linalg.matrix_rank(as_matrix(model.second.weight)) == 128  # type: ignore[arg-type]
