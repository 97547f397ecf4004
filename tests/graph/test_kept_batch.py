"""What is computed of one graph is kept with it, and with nothing else."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import torch
from helpers.graphs import graph_of
from torch import nn

import ghnfast
from ghnfast.graph import batch_of

MODEL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_one_graph_has_one_batch() -> None:
    one, other = (graph_of(4, [(0, 1), (1, 2), (1, 3)]) for _ in range(2))
    assert batch_of([one]) is batch_of([one])
    assert batch_of([one]) is not batch_of([other])
    assert batch_of([one, other]) is not batch_of([one, other])
    assert batch_of([one]).topology() is batch_of([one]).topology()
    assert batch_of([one]).topology(1) is not batch_of([one]).topology(2)


def test_it_is_no_part_of_the_graph() -> None:
    graph = ghnfast.trace(MODEL, input_shape=(3, 9, 9))
    before = pickle.dumps(graph)
    batch_of([graph]).topology()
    assert pickle.dumps(graph) == before
    for made in (pickle.loads(before), copy.copy(graph), copy.deepcopy(graph)):
        assert batch_of([made]) is not batch_of([graph])
        assert batch_of([made]).graphs == [made]


def test_it_goes_with_the_graph() -> None:
    graph = graph_of(4, [(0, 1), (1, 2), (1, 3)])
    gone = weakref.ref(batch_of([graph]).topology())
    del graph
    gc.collect()
    assert gone() is None


def test_predictions_from_a_graph_are_those_of_the_model() -> None:
    graph = ghnfast.trace(MODEL, input_shape=(3, 9, 9))
    for seed, hypernet in enumerate(("gatedgnn", "mlp", "graphormer", "gatedgnn")):
        torch.manual_seed(seed)
        ghn = ghnfast.GHN(hypernet=hypernet, hid=8, max_shape=(8, 8, 3, 3), num_classes=10, ve=seed != 3)
        found = [copy.deepcopy(MODEL) for _ in range(3)]
        ghn.predict(found[0], input_shape=(3, 9, 9))
        for model in found[1:]:
            ghn.predict(model, graph=graph)
        for values in zip(*(model.parameters() for model in found), strict=True):
            assert torch.equal(values[0], values[1])
            assert torch.equal(values[0], values[2])
