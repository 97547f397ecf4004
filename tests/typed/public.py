"""What type checkers make of the public names. It is checked by mypy (`make lint`) and never run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from typing_extensions import assert_type

import ghnfast
from ghnfast import GHN, ArchGraph, Report

linear = nn.Linear(2, 2)
models = [nn.Linear(2, 2), nn.Linear(2, 2)]
pair = (nn.Linear(2, 2), nn.Conv2d(3, 3, 3))
ghn = ghnfast.load("ghn2-mnist5k", device="cpu")
graph = ghnfast.trace(linear, input_shape=(2,))


def some() -> bool:
    return bool(models)


assert_type(ghn, GHN)
assert_type(ghnfast.load(Path("ghn.pt")), GHN)
assert_type(graph, ArchGraph)
assert_type(graph.to_svg(fold=False), str)
assert_type(ghnfast.available(), dict[str, str])

assert_type(ghnfast.predict(linear), nn.Linear)
assert_type(ghnfast.predict(linear, ghn, graph=graph, classifier=False), nn.Linear)
assert_type(ghnfast.predict(linear, report=False), nn.Linear)
assert_type(ghnfast.predict(linear, "ghn2-mnist5k", report=True), tuple[nn.Linear, Report])
assert_type(ghnfast.predict(linear, report=some()), nn.Linear | tuple[nn.Linear, Report])
assert_type(ghnfast.predict(models, None, graph=[graph, graph]), list[nn.Linear])
assert_type(ghnfast.predict(models, report=True), tuple[list[nn.Linear], list[Report]])
assert_type(ghnfast.predict(pair), tuple[nn.Linear, nn.Conv2d])
assert_type(ghnfast.predict(models, report=some()), list[nn.Linear] | tuple[list[nn.Linear], list[Report]])

assert_type(ghnfast.postprocess(linear, orth=True, beta=0.0, layer=2, seed=1), nn.Linear)

assert_type(ghn.predict(linear, input_shape=(2,)), nn.Linear)
assert_type(ghn.predict(linear, example_inputs={"input": None}, report=True), tuple[nn.Linear, Report])
assert_type(ghn.predict(models), list[nn.Linear])
assert_type(ghn.predict(models, report=True), tuple[list[nn.Linear], list[Report]])
assert_type(ghn.predict(models, report=some()), list[nn.Linear] | tuple[list[nn.Linear], list[Report]])
model, report = ghnfast.predict(nn.Sequential(linear), report=True)
assert_type(model, nn.Sequential)
assert_type(report.coverage, float)

assert_type(ghn.embed(linear, input_shape=(2,)), Tensor)
assert_type(ghn.embed(graph), Tensor)
assert_type(ghn.embed([graph, graph]), list[Tensor])
assert_type(ghn.embed(models), list[Tensor])
assert_type(ghn.embed([linear, graph]), list[Tensor])

# What mypy has to refuse; an ignore that is not needed is an error, too.
ghnfast.predict("resnet50")  # type: ignore[type-var]
ghnfast.predict(linear, report="yes")  # type: ignore[call-overload]
ghnfast.predict(linear, grahp=graph)  # type: ignore[call-overload]
ghn.predict(linear, classifier="no")  # type: ignore[call-overload]
ghn.embed(5)  # type: ignore[call-overload]
ghnfast.load(5)  # type: ignore[arg-type]
