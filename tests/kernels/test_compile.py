"""Every kernel compiles for the GPUs that people have, fits, and keeps its values in registers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.children import without_an_interpreter
from helpers.compiled import resources
from helpers.loops import barriers_of, loops_of

from ghnfast.kernels import chain, chain_backward

# Bytes of shared memory that a program may have without asking for more; registers of a multiprocessor, of a thread.
SHARED, REGISTERS, MOST_REGISTERS = 48 * 1024, 65536, 255
# Of shared memory where three chunks of operands are on their way at once: what a block may have on any of these GPUs.
SHARED_OF_PRODUCTS = 99 * 1024
KERNELS = {
    "sweep_kernel", "sweep_backward_kernel", "decode_kernel", "products_kernel", "decode_backward_kernel",
    "layers_kernel", "embed_kernel", "largest_kernel", "attention_kernel", "queries_backward_kernel",
    "keys_backward_kernel", "hidden_gradient_kernel", "weight_gradient_kernel", "begin_kernel",
    "rest_kernel",
}  # fmt: skip
# Barriers of a block a node at most, in each form that is launched: forward without a backward pass and with one;
# backward. Triton 3.6 takes a few less.
BARRIERS = {
    ("sweep_kernel", "hid 32, with virtual edges"): [12, 20],
    ("sweep_kernel", "hid 32, without virtual edges"): [12, 20],
    ("sweep_backward_kernel", "hid 32, with virtual edges"): [31],
    ("sweep_backward_kernel", "hid 32, without virtual edges"): [26],
}


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_kernels_compile(architecture: int, tmp_path: Path) -> None:
    """In a process of its own: in this one, kernels may be interpreted."""
    settings = without_an_interpreter(TRITON_CACHE_DIR=str(tmp_path))
    command = [sys.executable, "-m", "helpers.compiled", str(architecture)]
    run = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {entry["kernel"] for entry in found} == KERNELS
    for entry in found:
        assert entry["stack"] == 0, entry
        assert entry["shared"] <= (SHARED_OF_PRODUCTS if entry["kernel"] == "products_kernel" else SHARED), entry
        assert 0 < entry["registers"] <= MOST_REGISTERS, entry
        assert entry["registers"] * entry["threads"] <= REGISTERS, entry
        # Neighbours in a row of a matrix are neighbours in memory: a warp's lanes move them together.
        for matrix in entry["matrices"]:
            if matrix["does"] == "store" or entry["kernel"] == "decode_backward_kernel":
                assert matrix["order"] == "1, 0", (entry["kernel"], entry["for"], matrix)
    assert any(entry["matrices"] for entry in found if entry["kernel"] == "decode_kernel")
    # Of float32, and of halves where those are written.
    assert all(entry["vectors"] >= 2 for entry in found if entry["kernel"] == "decode_kernel")
    barriers: dict[tuple[str, str], list[int]] = {}
    for entry in found:
        if (entry["kernel"], entry["for"]) in BARRIERS:
            # Of the two loops that all of a node is in, that over nodes: the other one has matrices' products, too.
            loops = [loop for loop in entry["loops"] if loop["barriers"] >= 10]
            chain_loop = min(loops, key=lambda loop: (loop["products"], loop["barriers"]))
            barriers.setdefault((entry["kernel"], entry["for"]), []).append(chain_loop["barriers"])
    assert barriers.keys() == BARRIERS.keys()
    for form, most in BARRIERS.items():
        assert len(barriers[form]) == len(most)
        assert all(found <= limit for found, limit in zip(barriers[form], most, strict=True)), (form, barriers[form])


# MLPs, the widths of states and of the MLPs' hidden layers, and whether there is a backward pass.
CHAINS = [(2, 32, 16, False), (2, 32, 16, True), (1, 32, 32, True)]
OTHER_CHAINS = [(2, 8, 4, True), (2, 20, 10, True), (1, 24, 24, False)]


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_chain_compiles(architecture: int) -> None:
    """Nothing spills, two warps' registers fit into each quarter of a multiprocessor, and no loop has a barrier."""
    for form in CHAINS + (OTHER_CHAINS if architecture == 90 else []):
        compiled = chain.compiled("chain", architecture, chain.macros(*form))
        used = resources(compiled.binary)
        assert used["stack"] == used["local"] == 0, (form, used)
        assert used["registers"] * chain.THREADS <= REGISTERS, (form, used)
        loops = loops_of(compiled.assembly)
        # Before the first step: two of staging weights, and one for each kind of warp, when they have them.
        assert barriers_of(compiled.assembly) == 5
        assert all(loop.barriers == 0 for loop in loops)
        # The chain's loop has all products of a node but those of the hidden half: five matrices' of hid x hid.
        columns = form[1] + -form[1] % 4
        (walk,) = (loop for loop in loops if 4 * columns < loop.products <= 6 * columns and loop.instructions < 450)
        assert walk.products >= 5 * form[1]


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_its_backward_pass_compiles(architecture: int) -> None:
    """As above: the loop of the chain has all products of a node but those of the hidden half,
    the kernel of weights' gradients has its registers for as many threads as it has."""
    others = [(2, 8, 4), (2, 20, 10), (1, 24, 24)] if architecture == 90 else []
    for form in [(2, 32, 16), (1, 32, 32), *others]:
        defined = chain_backward.macros(*form)
        walk, gradients = (
            chain.compiled(name, architecture, defined) for name in (chain_backward.BACKWARD, chain_backward.GRADIENTS)
        )
        used = resources(walk.binary)
        assert used["stack"] == used["local"] == 0, (form, used)
        assert used["registers"] * chain.THREADS <= REGISTERS, (form, used)
        loops = loops_of(walk.assembly)
        assert barriers_of(walk.assembly) == 5
        assert all(loop.barriers == 0 for loop in loops)
        columns = form[1] + -form[1] % 4
        (walking,) = (loop for loop in loops if 4 * columns < loop.products <= 6 * columns and loop.instructions < 400)
        assert walking.products >= 5 * form[1]
        used = resources(gradients.binary)
        assert used["stack"] == used["local"] == 0, (form, used)
        assert used["registers"] * chain_backward.GRADIENT_THREADS <= REGISTERS, (form, used)
