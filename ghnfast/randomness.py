"""Random numbers of our own.

torch's global generators belong to whoever calls us, and to all threads at once: seeding them changes what others draw,
and what others draw changes our results.

Out of reach are operators that take no generator (the dropout in fused attention and recurrent layers of GPUs), and
those that are called as such (`torch.ops.aten.rand`), which no function mode sees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# The seed where nobody gives one.
SEED = 0

# What may draw. Functions of Python that are made of these need no mention, but for those that hide what they call.
DRAWING = frozenset([
    *(getattr(torch, name) for name in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like")),
    *(getattr(torch, name) for name in ("randint_like", "normal", "bernoulli", "binomial", "multinomial", "poisson")),
    *(getattr(torch, name) for name in ("dropout", "dropout_", "alpha_dropout", "alpha_dropout_", "native_dropout")),
    *(getattr(torch, name) for name in ("feature_dropout", "feature_dropout_", "feature_alpha_dropout")),
    *(getattr(torch, name) for name in ("feature_alpha_dropout_", "rrelu", "rrelu_", "lstm", "gru", "rnn_tanh")),
    *(getattr(torch, name) for name in ("rnn_relu", "_standard_gamma", "_sample_dirichlet", "_fused_dropout")),
    *(getattr(torch._C._nn, name) for name in ("rrelu_with_noise", "rrelu_with_noise_")),
    *(getattr(Tensor, name) for name in ("bernoulli", "multinomial", "bernoulli_", "cauchy_", "exponential_")),
    *(getattr(Tensor, name) for name in ("geometric_", "log_normal_", "normal_", "random_", "uniform_")),
    *(getattr(F, name) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "rrelu")),
    *(getattr(F, name) for name in ("feature_alpha_dropout", "gumbel_softmax", "multi_head_attention_forward")),
    *(getattr(F, name) for name in ("scaled_dot_product_attention", "fractional_max_pool2d_with_indices", "rrelu_")),
    *(getattr(F, f"fractional_max_pool{d}d") for d in (2, 3)),
    F.fractional_max_pool3d_with_indices,
    *(getattr(nn.init, name) for name in ("uniform_", "normal_", "kaiming_uniform_")),
])  # fmt: skip


class drawing_from(TorchFunctionMode):
    """Within it, torch's functions that this thread calls draw from generators of their own, one for each device.

    They give what the global ones would give after `torch.manual_seed(seed)`.

    Args:
        seed: taken modulo 2^62.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.source = PrivateRandom(torch.Generator().manual_seed(seed % (1 << 62)))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in DRAWING:  # nearly all: the other mode is slow
            return func(*args, **(kwargs or {}))
        with self.source:
            return func(*args, **(kwargs or {}))


class PrivateRandom(TorchDispatchMode):
    """Within it, operators that draw random numbers draw them from our generators, where they are given none.

    Args:
        generator: that of its device; the others start from the seed that it has started from.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generators = {generator.device: generator}
        self.first = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler for that, which never sees what runs under this mode."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = device_of(args, kwargs)
        if device.type == "meta":  # nothing is drawn
            return func(*args, **kwargs)
        seeded, at = with_generator(func)
        if seeded is not None and len(args) > at:  # by its position
            return seeded(*args[:at], self.choose(args[at], device), *args[at + 1 :], **kwargs)
        if seeded is not None:
            return seeded(*args, **{**kwargs, "generator": self.choose(kwargs.get("generator"), device)})
        replacement = WITHOUT_GENERATOR.get(func.overloadpacket.__name__)
        return func(*args, **kwargs) if replacement is None else replacement(self, *args, **kwargs)

    def choose(self, given: torch.Generator | None, device: torch.device) -> torch.Generator:
        """The generator of an operator that is given this one, or none."""
        return self.generator(device) if given is None else given

    def generator(self, device: torch.device) -> torch.Generator:
        """That of a device."""
        if device not in self.generators:
            made = torch.Generator(device).manual_seed(self.first.initial_seed())
            # "cuda" is another name of one of its devices.
            self.generators[device] = self.generators.setdefault(made.device, made)
        return self.generators[device]

    def dropout(self, values: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """`native_dropout`, the dropout of GPUs in one operator: its output and what is kept."""
        kept = torch.ones_like(values, dtype=torch.bool)
        if train is False or p == 0:
            return values.clone(), kept
        kept = kept.bernoulli_(1 - p, generator=self.generator(values.device))
        return values * kept * (1 / (1 - p) if p < 1 else 0.0), kept


CPU = torch.device("cpu")


def device_of(args: Any, kwargs: dict[str, Any]) -> torch.device:
    """Where an operator draws."""
    given = kwargs.get("device")
    if given is not None:
        return torch.device(given)
    return next((item.device for item in args if isinstance(item, Tensor)), CPU)


@functools.cache  # operators are there as long as torch is
def with_generator(func: Any) -> tuple[Any, int]:
    """The overload of an operator that takes a generator beside what it takes, and that generator's position.

    It is the operator itself, another one, or None.
    """
    own = [(argument.name, str(argument.type)) for argument in func._schema.arguments]
    packet = func.overloadpacket
    for overload in (func, *(getattr(packet, name) for name in packet.overloads())):
        names = [argument.name for argument in overload._schema.arguments]
        rest = [(each.name, str(each.type)) for each in overload._schema.arguments if each.name != "generator"]
        if "generator" in names and (overload is func or rest == own):
            return overload, names.index("generator")
    return None, 0


def like(method: str) -> Callable[..., Tensor]:
    """`rand_like` and its kind by the method that fills a tensor: not every torch lets them have a generator."""

    def fill(mode: PrivateRandom, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs = {key: value for key, value in kwargs.items() if key in ("dtype", "layout", "device") and value}
        empty = torch.empty_like(tensor, **kwargs)
        made: Tensor = getattr(empty, method)(*args, generator=mode.generator(empty.device))
        return made

    return fill


# What stands for operators that take no generator.
WITHOUT_GENERATOR: dict[str, Callable[..., Any]] = {
    "rand_like": like("uniform_"),
    "randn_like": like("normal_"),
    "randint_like": lambda mode, tensor, *bounds, **kwargs: like("random_")(
        mode, tensor, *(bounds if len(bounds) == 2 else (0, *bounds)), **kwargs
    ),
    "native_dropout": lambda mode, *args: mode.dropout(*args),
}
