"""Hostile arrays and damaged files: nothing but errors that say what is wrong comes out; no crash, no hang, no flood.

Each target runs in a process of its own. A short round with fixed seeds is part of `make test`; `make fuzz` sets
GHNFAST_FUZZ_SECONDS, of all targets together, and takes another seed each time (GHNFAST_FUZZ_SEED repeats one).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzing.damage import chance, damaged, spoiled
from fuzzing.driver import TARGETS, Target, run_case
from helpers.children import SUPPORT, environment

SECONDS = float(os.environ.get("GHNFAST_FUZZ_SECONDS", 0))
SEED = int(os.environ.get("GHNFAST_FUZZ_SEED") or (secrets.randbelow(1 << 31) if SECONDS else 0))
SHORT = {"core": 300, "files": 25}  # cases of a short round
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))


def settings_of(kind: str) -> dict[str, str]:
    """The core is fuzzed under the sanitizers where there is a build for them; what loads torch cannot be."""
    # Torch's threads would wait for each other, turning, for longer than they work.
    threads = "2" if kind == "core" else "1"
    settings = environment(OMP_NUM_THREADS=threads)
    if kind == "core" and os.environ.get("GHNFAST_TEST_EXTENSION"):
        settings["LD_PRELOAD"] = os.environ["GHNFAST_FUZZ_PRELOAD"]
        # No report for allocations that fail: they raise, as they do without it.
        settings["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2000"
    else:
        settings.pop("GHNFAST_TEST_EXTENSION", None)
    return settings


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_errors_comes_out(name: str, tmp_path: Path) -> None:
    kind, progress = name.partition("/")[0], tmp_path / "case"
    length = ["--seconds", str(SECONDS * WORKERS / len(TARGETS))] if SECONDS else ["--cases", str(SHORT[kind])]
    command = [sys.executable, "-m", "fuzzing.driver", name, "--seed", str(SEED)]
    done = subprocess.run(
        [*command, *length, "--progress", str(progress)], env=settings_of(kind), capture_output=True, text=True
    )
    case = progress.read_text() if progress.exists() else "0"
    again = f"PYTHONPATH=tests/support python -m fuzzing.driver {name} --seed {SEED} --first {case} --cases 1"
    assert done.returncode == 0, f"{again}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


# The driver itself: it sees what it is there for. ---------------------------------------------------------------------

CRASHES = {
    "crash": "import ctypes; ctypes.string_at(0)",
    "wrong_error": "raise KeyError('a')",
    "hang": "while True: pass",
    "memory": "import numpy; numpy.ones(1 << 30)",
}


@pytest.mark.parametrize("what", CRASHES)
def test_the_driver_notices(what: str, tmp_path: Path) -> None:
    (tmp_path / "bad_targets.py").write_text(
        "from fuzzing import driver\ndef run(random):\n    if random.random() < 0.2:\n        "
        f"{CRASHES[what]}\nTARGETS = {{'run': driver.Target(run, (ValueError,))}}\n"
    )
    code = "from fuzzing import driver; driver.TARGETS += ('bad/run',); driver.SECONDS_OF_A_CASE = 1.0; driver.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "bad/run", "--cases", "40", "--progress", str(tmp_path / "case")],
        env=environment(SUPPORT, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert 0 <= int((tmp_path / "case").read_text()) < 40


def test_cases_are_functions_of_seed_and_number() -> None:
    drawn: list[float] = []

    def run(random: np.random.Generator) -> None:
        drawn.append(float(random.random()))
        raise ValueError

    target = Target(run, (ValueError,))
    for seed, number in [(1, 2), (1, 3), (2, 2), (1, 2)]:
        run_case(target, seed, number)
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_damage_is_damage() -> None:
    content = bytes(range(256)) * 8
    found = [damaged(np.random.default_rng(seed), content) for seed in range(200)]
    assert sum(each == content for each in found) < 10
    assert any(len(each) < len(content) for each in found)
    assert any(len(each) > len(content) for each in found)
    tree = {"a": [1, {"b": "c"}], "d": True}
    assert sum(spoiled(np.random.default_rng(seed), tree) == tree for seed in range(200)) < 20
    assert tree == {"a": [1, {"b": "c"}], "d": True}
    assert {chance(np.random.default_rng(seed)) for seed in range(20)} == {True, False}
