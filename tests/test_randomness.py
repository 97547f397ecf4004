"""ghnfast/randomness.py: what a seed gives, and that nobody else's numbers change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghnfast.vision  # noqa: F401  (first: it makes torchvision importable beside a CPU torch)
from ghnfast.randomness import DRAWING, PrivateRandom, drawing_from, with_generator


def parameters_of(*modules: nn.Module) -> list[Tensor]:
    return [parameter.detach() for module in modules for parameter in module.parameters()]


def resnet() -> list[Tensor]:
    from torchvision.models import resnet18

    return parameters_of(resnet18(num_classes=3))[::7]


ONES = torch.ones(2, 8, 4, 4)
DRAWS: dict[str, Callable[[], list[Tensor]]] = {
    "layers": lambda: parameters_of(nn.Linear(3, 4), nn.Embedding(3, 4), nn.Conv2d(3, 4, 3), nn.LSTM(3, 4)),
    "attention layers": lambda: parameters_of(nn.MultiheadAttention(4, 2), nn.Bilinear(2, 3, 4)),
    "initialization": lambda: [
        nn.init.trunc_normal_(torch.empty(5, 5)), nn.init.orthogonal_(torch.empty(5, 5)),
        nn.init.kaiming_normal_(torch.empty(5, 5)), nn.init.xavier_uniform_(torch.empty(5, 5)),
        nn.init.sparse_(torch.empty(5, 5), 0.5),
    ],
    "factories": lambda: [
        torch.rand(3), torch.randn(2, dtype=torch.float64), torch.randint(5, (3,)), torch.randint(2, 9, (3,)),
        torch.randperm(7), torch.normal(torch.zeros(3), 1.0), torch.normal(0.0, 1.0, (3,)),
    ],
    "samples": lambda: [
        torch.bernoulli(torch.full((9,), 0.5)), torch.multinomial(torch.ones(9), 3), torch.poisson(torch.ones(9)),
        torch.ones(9).multinomial(2), torch.full((9,), 0.5).bernoulli(),
    ],
    "in place": lambda: [
        torch.ones(6).uniform_(-1, 2), torch.ones(6).normal_(), torch.ones(6).random_(9), torch.ones(6).bernoulli_(0.5),
        torch.ones(6).exponential_(), torch.ones(6).cauchy_(), torch.ones(6).geometric_(0.5),
        torch.ones(6).log_normal_(),
    ],
    "dropout": lambda: [
        F.dropout(ONES), F.dropout1d(ONES[0]), F.dropout2d(ONES), F.alpha_dropout(ONES, 0.5, True),
        F.feature_alpha_dropout(ONES, 0.5, True), nn.Dropout(0.3, inplace=True)(torch.ones(9)), nn.Dropout3d()(ONES),
        torch.dropout(ONES, 0.5, True), torch.native_dropout(ONES, 0.5, True)[0],
    ],
    "functions": lambda: [
        nn.RReLU()(-ONES), F.gumbel_softmax(torch.zeros(5)), nn.FractionalMaxPool2d(2, output_size=2)(ONES),
        F.scaled_dot_product_attention(ONES, ONES, ONES, dropout_p=0.5),
    ],
    "rare functions": lambda: [
        torch.binomial(torch.full((9,), 5.0), torch.full((9,), 0.5)), torch.distributions.Gamma(ONES, ONES).sample(),
        torch.distributions.Dirichlet(ONES).sample(), torch.rrelu_(-ONES, training=True),
    ],
    "outputs that are given": lambda: [
        torch.rand(3, out=torch.empty(3)), torch.randn(3, out=torch.empty(3)), torch.bernoulli(ONES / 2, out=ONES + 0),
        torch.randint(5, (3,), out=torch.empty(3, dtype=torch.int64)), torch.normal(ONES, 1.0, out=ONES + 0),
        torch.randint(2, 5, (3,), out=torch.empty(3, dtype=torch.int64)),
        torch.randperm(9, out=torch.empty(9, dtype=torch.int64)),
    ],
    "likenesses": lambda: [
        torch.rand_like(ONES), torch.randn_like(ONES), torch.randint_like(ONES, 9), torch.randint_like(ONES, 5, 9),
    ],
    "networks": lambda: [
        nn.MultiheadAttention(4, 2, dropout=0.5)(ONES[0], ONES[0], ONES[0])[0].detach(),
        nn.LSTM(4, 4, 2, dropout=0.5)(ONES[0])[0].detach(), *resnet(),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_what_the_global_generator_gives_and_leaves_that(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        wanted = DRAWS[name]()
        state = torch.get_rng_state()
        with drawing_from(123):
            found = DRAWS[name]()
            assert not torch.equal(torch.cat([each.flatten().float() for each in DRAWS[name]()]),
                                   torch.cat([each.flatten().float() for each in found]))  # fmt: skip
        assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, found, wanted))


def test_generators_that_are_given_are_used() -> None:
    generator = torch.Generator().manual_seed(7)
    with drawing_from(123):
        found = torch.rand(3, generator=generator)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_generators_that_are_given_by_position_are_used() -> None:
    """As operators are called that a mode hands on: one mode's generator is not another's."""
    generator = torch.Generator().manual_seed(7)
    wanted = torch.poisson(torch.ones(9), generator=torch.Generator().manual_seed(7))
    with PrivateRandom(torch.Generator()):
        assert torch.equal(torch.ops.aten.poisson(torch.ones(9), generator), wanted)
    with PrivateRandom(torch.Generator()), PrivateRandom(generator.manual_seed(7)):
        assert torch.equal(torch.poisson(torch.ones(9)), wanted)


def test_modes_have_a_generator_for_each_device_of_one_seed() -> None:
    mode = PrivateRandom(first := torch.Generator().manual_seed(5))
    assert mode.generator(torch.device("cpu")) is first
    with mode:
        assert torch.rand(3, device="meta").is_meta
        assert torch.rand_like(torch.rand(3), device="meta").is_meta
        torch.rand(2)
    assert first.initial_seed() == 5
    assert not torch.equal(first.get_state(), torch.Generator().manual_seed(5).get_state())


def drawing_operators() -> list[str]:
    """torch's operators that draw random numbers, by the name of their function."""
    names = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "aten::" in name}
    packets = [packet for name in sorted(names) if (packet := getattr(torch.ops.aten, name, None)) is not None]
    return [
        packet.__name__
        for packet in packets
        if any(torch.Tag.nondeterministic_seeded in getattr(packet, each).tags for each in packet.overloads())
    ]


def test_every_public_function_that_draws_is_known_and_takes_a_generator() -> None:
    made_of_others = ("lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention")
    places = (torch, torch._C._nn, F, Tensor)
    names = [name for name in drawing_operators() if not name.startswith("_") and name != "miopen_rnn"]
    assert {"rand", "randperm", "bernoulli_", "poisson", "rrelu_with_noise"} <= set(names)
    for name in names:
        found = [getattr(place, name) for place in places if callable(getattr(place, name, None))]
        assert set(found) <= DRAWING, name
        packet = getattr(torch.ops.aten, name)
        for overload in (getattr(packet, each) for each in packet.overloads()) if found else ():
            taken = with_generator(overload)[0] is not None
            assert taken or "dropout" in name or name in made_of_others, overload


def test_gradients_of_dropout_are_those_of_what_was_kept() -> None:
    for dropout in (F.dropout, lambda values: torch.native_dropout(values, 0.5, True)[0]):
        values = torch.ones(100, requires_grad=True)
        with drawing_from(0):
            dropped = dropout(values)
        dropped.sum().backward()
        assert torch.equal(values.grad, dropped.detach())  # type: ignore[arg-type]
