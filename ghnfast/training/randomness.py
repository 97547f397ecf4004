"""Random numbers of our own.

torch's global generators belong to whoever calls us, and to all threads at once: seeding them changes what others draw,
and what others draw changes our results.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What may draw. Functions of Python that are made of these need no mention, but for those that hide what they call.
DRAWING = {
    *(getattr(torch, name) for name in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like")),
    *(getattr(torch, name) for name in ("randint_like", "normal", "bernoulli", "multinomial", "poisson", "rrelu")),
    *(getattr(torch, name) for name in ("dropout", "dropout_", "alpha_dropout", "feature_dropout", "native_dropout")),
    *(getattr(torch, name) for name in ("feature_alpha_dropout", "lstm", "gru", "rnn_tanh", "rnn_relu")),
    *(getattr(Tensor, name) for name in ("bernoulli", "multinomial", "bernoulli_", "cauchy_", "exponential_")),
    *(getattr(Tensor, name) for name in ("geometric_", "log_normal_", "normal_", "random_", "uniform_")),
    *(getattr(F, name) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "rrelu")),
    *(getattr(F, name) for name in ("feature_alpha_dropout", "gumbel_softmax", "multi_head_attention_forward")),
    *(getattr(F, name) for name in ("scaled_dot_product_attention", "fractional_max_pool2d_with_indices")),
    *(getattr(F, f"fractional_max_pool{d}d") for d in (2, 3)),
    F.fractional_max_pool3d_with_indices,
    *(getattr(nn.init, name) for name in ("uniform_", "normal_", "kaiming_uniform_")),
}
# Overloads of operators, and those beside them that take a generator.
WITH_GENERATOR = {
    "default": "generator",
    "low": "low_generator",
    "low_dtype": "low_generator_dtype",
    "Tensor": "Tensor_generator",
}


class drawing_from(TorchFunctionMode):
    """Within it, torch's functions that this thread calls draw from generators of their own, one for each device.

    They give what the global ones would give after `torch.manual_seed(seed)`.

    Args:
        seed: taken modulo 2^62.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.source = GeneratorsOf(seed % (1 << 62))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in DRAWING:  # nearly all: the other mode is slow
            return func(*args, **(kwargs or {}))
        with self.source:
            return func(*args, **(kwargs or {}))


class GeneratorsOf(TorchDispatchMode):
    """Gives the operators that functions are made of a generator where they have none."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.generators = seed, dict[torch.device, torch.Generator]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_dropout.default:
            return self.dropout(*args, **(kwargs or {}))
        drawing = with_generator(func)
        if drawing is None or (kwargs or {}).get("generator") is not None:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        tensors = [value for value in args if isinstance(value, Tensor)]
        kwargs["generator"] = self.generator(tensors[0].device if tensors else kwargs.get("device"))
        return drawing(*args, **kwargs)

    def generator(self, device: torch.device | None) -> torch.Generator | None:
        device = torch.device("cpu") if device is None else torch.device(device)
        if device.type == "meta":  # nothing is drawn
            return None
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def dropout(self, values: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """GPUs have dropout in one operator, which takes no generator: its output and what is kept."""
        kept = torch.ones_like(values, dtype=torch.bool)
        if train is False or p == 0:
            return values.clone(), kept
        kept = kept.bernoulli_(1 - p, generator=self.generator(values.device))
        return values * kept * (1 / (1 - p) if p < 1 else 0.0), kept


@functools.cache
def with_generator(func: Any) -> Any:
    """The overload of an operator that takes a generator: itself, another one, or None."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = WITH_GENERATOR.get(func._overloadname)
    packet = func.overloadpacket
    return getattr(packet, name) if name is not None and name in packet.overloads() else None
