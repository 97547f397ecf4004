"""What is left of a model, and of the process, after a trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.models import Net
from helpers.traced import (
    IMAGE,
    A,
    Snapshot,
    attention_network,
    check,
    conv,
    labels,
    restless,
    same,
    set_attributes,
    trace,
    update_running_mean,
)
from torch import Tensor, nn

from ghnfast import TraceError


def add_to_count(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return m.a(x)


def replace_running_mean(m: Any, x: Tensor) -> Tensor:
    m.running = 0.9 * m.running + 0.1 * x.mean((0, 2, 3))
    return m.a(x - m.running[:, None, None])


def copy_into_buffer(m: Any, x: Tensor) -> Tensor:
    m.running.copy_(x.mean((0, 2, 3)))
    m.running.data = x.mean((0, 2, 3))
    return m.a(x)


def write_by_index(m: Any, x: Tensor) -> Tensor:
    m.running[0] = 7
    m.running[1] += 1
    return m.a(x)


def write_through_view(m: Any, x: Tensor) -> Tensor:
    m.running.view(-1).mul_(0.5)
    return m.a(x)


def write_through_index(m: Any, x: Tensor) -> Tensor:
    m.running[0].add_(1)
    return m.a(x)


def write_through_data(m: Any, x: Tensor) -> Tensor:
    m.count.data += 1
    return m.a(x)


def write_through_detach(m: Any, x: Tensor) -> Tensor:
    m.running.detach().zero_()
    return m.a(x)


def write_through_numpy(m: Any, x: Tensor) -> Tensor:
    m.running.numpy()[:] = 3
    return m.a(x)


def write_through_out(m: Any, x: Tensor) -> Tensor:
    torch.add(m.running, 1, out=m.running)
    return m.a(x)


def write_from_queue(m: Any, x: Tensor) -> Tensor:
    """As the momentum encoders' queues do."""
    at = int(m.count)
    m.queue[:, at : at + 2] = x.mean((2, 3)).T
    m.count[...] = (at + 2) % 8
    return m.a(x)


def normalize_constant(m: Any, x: Tensor) -> Tensor:
    m.bn(torch.ones(2, 3, 4, 4))
    return m.a(x)


def write_parameter(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.a.weight.mul_(0.5)
        m.a.weight.data.clamp_(-0.1, 0.1)
        m.a.weight[0] = 0
        m.a.weight.data = m.a.weight.data * 2
        m.a.weight.view(-1).zero_()
    return m.a(x)


def write_other_parameter_from_parameter(m: Any, x: Tensor) -> Tensor:
    """As momentum (teacher) copies of a network are updated."""
    for teacher, student in zip(m.teacher.parameters(), m.a.parameters(), strict=True):
        teacher.data.mul_(0.9).add_(student.data, alpha=0.1)
    return m.a(x) + m.teacher(x)


def change_settings(m: Any, x: Tensor) -> Tensor:
    m.a.weight.requires_grad_(False)
    m.a.weight.requires_grad = False
    m.a.weight.grad = None
    m.bn.eval()
    m.train(False)
    return m.a(m.bn(x))


def register_new_buffer(m: Any, x: Tensor) -> Tensor:
    m.register_buffer("late", torch.zeros(3))
    return m.a(x)


def build_module_late(m: Any, x: Tensor) -> Tensor:
    if not hasattr(m, "late"):
        m.late = nn.Conv2d(8, 4, 1)
    return m.late(m.a(x))


def replace_module(m: Any, x: Tensor) -> Tensor:
    m.bn = nn.Identity()
    return m.a(m.bn(x))


MISCHIEF = [
    add_to_count,
    replace_running_mean,
    update_running_mean,
    copy_into_buffer,
    write_by_index,
    write_through_view,
    write_through_index,
    write_through_data,
    write_through_detach,
    write_through_numpy,
    write_through_out,
    write_from_queue,
    normalize_constant,
    write_parameter,
    write_other_parameter_from_parameter,
    change_settings,
    set_attributes,
    register_new_buffer,
    build_module_late,
    replace_module,
]


@pytest.mark.parametrize("function", MISCHIEF)
def test_what_the_forward_writes_does_not_reach_the_model(function: Callable[..., Any]) -> None:
    model = restless(function)
    before = Snapshot(model)
    graph = trace(model)
    before.check(model)
    assert A in {f"{op}:{parameter}" for op, parameter in labels(graph)}


def test_written_buffer_is_read_back_within_the_trace() -> None:
    """Control flow may depend on it, as it would in a real forward."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.count += 1
        m.count.add_(1)
        assert m.count.item() == 2
        return m.a(x) if int(m.count) == 2 else x

    check(trace(Net(forward, a=conv(3, 8), count=torch.tensor(0))), f"input > {A}")


def test_plain_tensor_attribute_is_left_alone() -> None:
    """Not a buffer, but as much a part of the model."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.table.contiguous()
        m.table.add_(1)
        return m.a(x)

    model = Net(forward, a=conv(3, 8))
    model.table = torch.zeros(3)
    for _ in range(2):
        trace(model)
        assert torch.equal(model.table, torch.zeros(3))
        assert not model.table.__dict__


@pytest.mark.parametrize("container", [dict, list])
def test_model_that_caches_tensors_still_runs_after_a_trace(container: type) -> None:
    """A cache that the trace filled would hold tensors without data, and the next real forward would fail on them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        if not len(m.cache):
            grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
            if isinstance(m.cache, dict):
                m.cache[x.shape[-1]] = grid
            else:
                m.cache.append(grid)
        grid = m.cache[x.shape[-1]] if isinstance(m.cache, dict) else m.cache[0]
        return m.a(x + grid)

    model = Net(forward, a=conv(3, 8), cache=container())
    trace(model)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 8, 16, 16)


def test_lists_that_the_forward_appends_to_do_not_disturb_the_next_trace() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.seen.append(m.a(x))
        return m.b(m.seen[-1])

    model = Net(forward, a=conv(3, 8), b=conv(8, 8), seen=[])
    assert same(trace(model), trace(model))


def test_training_leaves_batch_statistics_alone() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Sequential(nn.BatchNorm2d(8, momentum=None))).train()
    before = Snapshot(model)
    check(trace(model), "input > conv:0.weight > bn:1.weight > bn:2.0.weight")
    before.check(model)
    assert model[1].num_batches_tracked == 0


def test_mixed_modes_and_frozen_parameters_stay() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8).eval(), nn.Dropout().eval()).train()
    model[1].eval()
    model[0].requires_grad_(False)
    before = Snapshot(model)
    trace(model)
    before.check(model)


def test_gradients_stay() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 5))
    model[0].weight.grad = torch.full((8, 3, 3, 3), 3.0)
    before = Snapshot(model)
    trace(model)
    before.check(model)
    assert bool((model[0].weight.grad == 3).all())
    assert model[1].weight.grad is None


def test_trace_within_a_training_step_keeps_its_graph() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 5))
    loss = model(torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))).square().mean()
    trace(model)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_hooks_run_and_stay() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    extra = conv(8, 8)
    model.add_module("extra", extra)
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append("hook"))
    model[1].register_forward_pre_hook(lambda module, args: seen.append("pre"))
    model[1].register_forward_hook(lambda module, args, output: output + args[0])
    before = Snapshot(model)
    check(
        trace(model),
        "input > conv:0.weight > conv:1.weight > sum > conv:extra.weight",
        "conv:0.weight > sum",
    )
    before.check(model)
    assert seen == ["hook", "pre"]


def test_random_states_stay() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        random.random(), np.random.rand(), torch.rand(3), torch.randperm(4)
        return m.a(F.dropout(x + torch.randn_like(x) + torch.rand(3, 1, 1), 0.5))

    model = Net(forward, a=conv(3, 8))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    trace(model)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])


def test_normal_number_that_numpy_has_left_over_stays() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        np.random.standard_normal()
        return m.a(x)

    np.random.seed(0)
    np.random.standard_normal()  # numpy makes them in pairs
    state: Any = np.random.get_state()
    trace(Net(forward, a=conv(3, 8)))
    assert state[3] == 1
    assert np.random.get_state(legacy=True)[2:] == state[2:]


def test_failed_trace_leaves_the_model_and_the_random_state_alone() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.count += 1
        m.cache = torch.rand(3)
        m.eval()
        m.running.add_(x.mean((0, 2, 3)))
        raise ValueError("broken on purpose")

    model = restless(forward)
    before, state = Snapshot(model), torch.get_rng_state()
    with pytest.raises(TraceError, match="broken on purpose"):
        trace(model)
    before.check(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_trace_leaves_no_mode_behind() -> None:
    with pytest.raises(TraceError):
        trace(Net(lambda m, x: 1 / 0, a=conv(3, 8)))
    assert torch.is_grad_enabled()
    assert torch.overrides._get_current_function_mode() is None
    assert not torch.ones(1).add(1).is_meta


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_trace_under_gradient_modes(context: Callable[[], Any]) -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 5))
    with context():
        graph = trace(model)
    assert same(graph, trace(model))
    model(torch.zeros(2, *IMAGE)).sum().backward()  # nothing in the model became an inference tensor


def test_trace_under_autocast() -> None:
    model = attention_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        graph = trace(model)
    assert same(graph, trace(model))


def test_second_trace_gives_the_same_graph() -> None:
    model = restless(update_running_mean)
    assert same(trace(model), trace(model))
