"""Launching kernels that were compiled before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ghnfast.kernels import launching


class Compiled:
    """Stands for a kernel that Triton has compiled. found: who was asked to launch it, and with what."""

    function, packed_metadata = "function", "metadata"

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []

    def run(self, *arguments: Any) -> None:
        self.found.append(("directly", *arguments))

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments: self.found.append(("by Triton", grid, *arguments))


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
@pytest.mark.parametrize("is_chain", [True, False])  # what hooks are in newer and in older versions
def test_hooks_of_triton_are_called(monkeypatch: pytest.MonkeyPatch, hook: str, is_chain: bool) -> None:
    """By Triton, where there are any; else it is not asked."""
    hooks = {
        name: SimpleNamespace(calls=[]) if is_chain else None for name in ("launch_enter_hook", "launch_exit_hook")
    }
    runtime = SimpleNamespace(**hooks)
    monkeypatch.setattr(launching, "RUNTIME", runtime)
    active = SimpleNamespace(get_current_device=lambda: 3, get_current_stream=lambda device: 10 * device)
    monkeypatch.setattr(launching, "driver", SimpleNamespace(active=active))
    compiled = Compiled()
    launch = launching.launcher(compiled, (5, 2, 1))
    launch("a", "b")
    setattr(runtime, hook, SimpleNamespace(calls=[print]) if is_chain else print)
    launch("c")
    directly = "directly", 5, 2, 1, 30, "function", "metadata", None, None, None, "a", "b"
    assert compiled.found == [directly, ("by Triton", (5, 2, 1), "c")]


def test_the_hooks_that_triton_has_are_known() -> None:
    assert not launching.has_hooks()
