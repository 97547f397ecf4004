"""Rules for functions that draw random numbers: see `ghnfast.tracing.chance`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .chance import FAR, Site, TraceRandom, calling_site
from .registry import Arguments, Function, Keywords, argument, functions, rule
from .tensors import tensors_in
from .tracer import Tracer

# A number for each element of a draw, or a tensor that is as large: the highest or the lowest that there could be.
Extreme = Callable[[bool, Tensor, Arguments, Keywords], Any]


def below(bound: float, dtype: torch.dtype) -> float:
    """The largest number of a floating-point type that is less than a bound."""
    if not dtype.is_floating_point or not math.isfinite(bound):
        return bound
    return float(torch.nextafter(torch.tensor(bound, dtype=torch.float64).to(dtype), torch.tensor(-math.inf).to(dtype)))


def unit(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> float:
    return below(1.0, made.dtype) if high else 0.0


def uniform(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> float:
    low, end = argument(args, kwargs, 1, "from", 0.0), argument(args, kwargs, 2, "to", 1.0)
    return max(below(float(end), made.dtype), float(low)) if high else float(low)


def integer(first: int) -> Extreme:
    """Of a function whose bounds begin at its argument of this number."""

    def extreme(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> int:
        given = [item for item in args[first : first + 2] if isinstance(item, int)]
        low = kwargs.get("low", given[0] if len(given) == 2 else 0)
        end = kwargs.get("high", given[-1] if given else low + 1)
        return int(end) - 1 if high else int(low)

    return extreme


def standard_normal(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> float:
    return FAR if high else -FAR


def normal(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> float:
    mean, deviation = argument(args, kwargs, 1, "mean", 0.0), argument(args, kwargs, 2, "std", 1.0)
    return float(mean + FAR * deviation if high else mean - FAR * deviation)


def success(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> Any:
    """Of a draw that is one with the probability `p`, an argument: the ones of `bernoulli` are in its first."""
    chance = argument(args, kwargs, 1, "p", 0.5)
    if isinstance(chance, Tensor):
        return (chance > 0 if high else chance >= 1).to(made.dtype)
    return float(chance > 0 if high else chance >= 1)


def successes(high: bool, made: Tensor, args: Arguments, kwargs: Keywords) -> Any:
    return (args[0] > 0 if high else args[0] >= 1).to(made.dtype)


# The names of torch that draw, and those whose draws can be extreme.
ORDINARY = """
normal randperm multinomial exponential cauchy geometric log_normal random poisson gumbel_softmax rrelu
fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices
binomial
""".split()


# What fills its first argument; and what else takes a generator and has extremes.
FILLING = frozenset([Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_])
TAKING_GENERATORS = frozenset([torch.rand, torch.randn, torch.randint, torch.bernoulli, Tensor.bernoulli])


def draw(extreme: Extreme | None, likes: bool = False) -> Callable[..., Any]:
    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        if any(value.operation >= 0 or value.parameters for value in map(tracer.value, tensors_in(args, kwargs))):
            # Of features: their shape is all that counts. What is drawn in their likeness does not come from them.
            return tracer.draw_in_likeness(func, args, kwargs) if likes else tracer.generic(func, args, kwargs)
        site = calling_site(sys._getframe(1))
        level = None if extreme is None else tracer.chance.level(site)
        kwargs = {key: item for key, item in kwargs.items() if key != "generator"}
        fills = func in FILLING
        takes_generator = not likes and (fills or func in TAKING_GENERATORS)

        def drawn(*args: Any, **kwargs: Any) -> Any:
            if level is not None and extreme is not None and fills and not args[0].is_meta:
                made = args[0]
            elif takes_generator:
                made = func(*args, **kwargs, generator=tracer.chance.generators[0])
            else:
                with TraceRandom(tracer.chance.generators[0]):
                    made = func(*args, **kwargs)
            if level is None or extreme is None or not isinstance(made, Tensor) or made.is_meta:
                return made
            value = extreme(level, made, args, kwargs)
            return made.copy_(value) if isinstance(value, Tensor) else made.fill_(value)

        return marked(tracer, tracer.run_constant(drawn, args, kwargs), site)

    return apply


def marked(tracer: Tracer, result: Any, site: Site) -> Any:
    """The result of a draw, which remembers where it was drawn."""
    for tensor in tensors_in(result):
        tracer.add_site(tensor, site)
    return result


rule(functions(*ORDINARY))(draw(None))
rule([torch.randn])(draw(standard_normal))
rule([torch.randn_like])(draw(standard_normal, likes=True))
rule([Tensor.normal_])(draw(normal))
rule([torch.rand])(draw(unit))
rule([torch.rand_like])(draw(unit, likes=True))
rule([Tensor.uniform_])(draw(uniform))
rule([torch.randint])(draw(integer(0)))
rule([torch.randint_like])(draw(integer(1), likes=True))
rule([torch.bernoulli, Tensor.bernoulli])(draw(successes))
rule([Tensor.bernoulli_])(draw(success))
