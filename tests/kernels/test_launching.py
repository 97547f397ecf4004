"""Launching kernels that were compiled before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.children import without_an_interpreter

from ghnfast.errors import BackendError
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
    launch = launching.launcher(compiled, None, (5, 2, 1))
    launch("a", "b")
    setattr(runtime, hook, SimpleNamespace(calls=[print]) if is_chain else print)
    launch("c")
    directly = "directly", 5, 2, 1, 30, "function", "metadata", None, None, None, "a", "b"
    assert compiled.found == [directly, ("by Triton", (5, 2, 1), "c")]


def test_the_hooks_that_triton_has_are_known() -> None:
    assert not launching.has_hooks()


@pytest.mark.parametrize("has_constants", [True, False])  # the signatures of Triton 3.3 and later, and that of 3.2
def test_arguments_are_those_that_triton_launches_with(monkeypatch: pytest.MonkeyPatch, has_constants: bool) -> None:
    """Again and again, with hooks and without."""
    parameters = [
        SimpleNamespace(name=name, num=number, do_not_specialize=False, is_constexpr=name in "bd")
        for number, name in enumerate("abcd")
    ]
    signature = {each.name: "constexpr" if each.is_constexpr else "i32" for each in parameters}
    compiled: Any = Compiled()
    compiled.src = SimpleNamespace(
        signature={name: kind for name, kind in signature.items() if has_constants or kind != "constexpr"}
    )
    taken = launching.taken_by(compiled, SimpleNamespace(params=parameters))
    active = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 0)
    monkeypatch.setattr(launching, "driver", SimpleNamespace(active=active))
    launch = launching.launcher(compiled, taken, (1, 1, 1))
    launch(1, 2, 3, 4)
    monkeypatch.setattr(launching, "has_hooks", lambda: True)
    launch(1, 2, 3, 4)
    given = (1, 2, 3, 4) if has_constants else (1, 3)
    assert [found[-len(given) :] for found in compiled.found] == [given, given]
    assert [len(found) - len(given) for found in compiled.found] == [10, 2]


TYPES = {"u64": "c_void_p", "u32": "c_long", "f32": "c_float"}


def test_what_is_recorded_is_what_is_launched(tmp_path: Path) -> None:
    """Of all kernels of forward passes, as Triton compiles them for a GPU; in a process of its own, for in this one
    kernels may be interpreted."""
    settings = without_an_interpreter(TRITON_CACHE_DIR=str(tmp_path), GHNFAST_BACKEND="triton")
    command = [sys.executable, "-m", "helpers.recorded", "mlp", "ghn3"]
    run = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    kernels = {"embed_kernel", "layers_kernel", "begin_kernel", "attention_kernel", "rest_kernel"}
    assert {entry["kernel"] for entry in found} == kernels
    for entry in found:
        assert entry["same"], entry
        # Behind them pointers, of which a kernel has two or, in older versions of Triton, fewer.
        expected = [TYPES[kind] for kind in entry["ptx"]]
        assert entry["recorded"][: len(expected)] == expected, entry
        assert len(entry["recorded"]) - len(expected) in (0, 1, 2), entry


@pytest.mark.parametrize("extra", [{"num_ctas": 2}, *({name: 1} for name in launching.EXTRAS)])
def test_launches_of_another_kind_are_not_recorded(monkeypatch: pytest.MonkeyPatch, extra: dict[str, int]) -> None:
    kernel = SimpleNamespace(fn=SimpleNamespace(__name__="one"), params=[])
    metadata = SimpleNamespace(**{"num_ctas": 1, "num_warps": 4, "shared": 7, **extra})
    compiled = SimpleNamespace(metadata=metadata, function=5, src=SimpleNamespace(signature={}, constants={}))
    monkeypatch.setattr(launching, "JITFunction", SimpleNamespace)
    monkeypatch.setattr(launching, "key_of", lambda *arguments: "key")
    monkeypatch.setattr(launching, "COMPILED", {"key": (compiled, None)})
    recorder = launching.Recorder()
    with pytest.raises(BackendError, match="one was compiled for launches of another kind"):
        recorder["any"](kernel, (3, 2))
    vars(metadata).update({name: 1 if name == "num_ctas" else 0 for name in extra})
    recorder["any"](kernel, (3, 2))
    recorder["any"](kernel, (3, 0))  # nothing
    (node,) = recorder.nodes
    assert (node.function, node.grid, node.threads, node.shared) == (5, (3, 2, 1), 128, 7)
    for name, value in (("COMPILED", {}), ("JITFunction", str)):  # nothing was launched; kernels are interpreted
        with monkeypatch.context() as patch:
            patch.setattr(launching, name, value)
            with pytest.raises(BackendError, match="one was not launched for such arguments before"):
                recorder["any"](kernel, (3, 2))
