"""Compile every kernel for a GPU, in each configuration that the launchers use, and say what it takes.

    PYTHONPATH=tests/support python -m helpers.compiled 90

prints a JSON list: kernel, what it was launched for, registers, bytes of stack (which is where registers spill to) and
of shared memory. No GPU is needed. The launchers are called on tensors of the CPU; what they would launch is compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ghnfast.kernels import (
    attention,
    check,
    decode,
    decode_tables,
    driver,
    graphormer,
    layer_tables,
    layers,
    products,
    sweep,
)
from ghnfast.nn.stages import NARROW
from ghnfast.ops.attention import CODES
from ghnfast.ops.decode import PRECISIONS
from helpers.loops import loops_of
from helpers.table_rows import targets_of

POINTERS = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8"}


class Forms(NamedTuple):
    """What is compiled: widths of states; those of them without virtual edges, too; widths of heads; precisions of
    products, and those of which the last step is compiled as in training, too; and whether for parameters that need
    counters of 64 bits."""

    hids: tuple[int, ...]
    without_virtual_edges: tuple[int, ...]
    head_widths: tuple[int, ...]
    precisions: tuple[str, ...]
    flat: tuple[str, ...]
    in_64_bits: bool


def forms_for(architecture: int) -> Forms:
    """All for one architecture; for others the width of GHN-2 and a wide one, for kernels are the same on all.

    Registers, which are what widths take, are as many on all of them. Decoding does not depend on widths.
    """
    exact, tf32, bfloat16 = PRECISIONS
    if architecture == 90:
        return Forms((8, 32, 64, 128), (32, 128), (8, 24, 64, 128), (exact, tf32, bfloat16), (exact, bfloat16), True)
    return Forms((32, 128), (32,), (8, 128), (exact, bfloat16), (), False)


class Recorder:
    """Stands for a kernel: compiles what is launched instead of launching it."""

    def __init__(self, kernel: Any, architecture: int, found: list[dict[str, Any]]) -> None:
        self.kernel, self.architecture, self.found = kernel, architecture, found
        self.purpose = ""

    def __getitem__(self, grid: Any) -> Any:
        return self.compile

    def compile(self, *arguments: Any, **options: Any) -> None:
        signature, constants, attributes = {}, {}, {}
        for index, (parameter, value) in enumerate(zip(self.kernel.params, arguments, strict=True)):
            if parameter.is_constexpr:
                signature[parameter.name], constants[index,] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name], attributes[index,] = POINTERS[value.dtype], [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
                if isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
                    attributes[index,] = [["tt.divisibility", 16]]  # as launches have it
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", self.architecture, 32), options=options)
        used = resources(compiled.asm["cubin"])
        threads = 32 * options["num_warps"]
        name = self.kernel.fn.__name__
        entry = {"kernel": name, "for": self.purpose, "threads": threads, **used, "shared": compiled.metadata.shared}
        loops = [loop._asdict() for loop in loops_of(compiled.asm["ptx"])]
        entry["vectors"] = len(re.findall(r"\bst\.global\.v4\.b32", compiled.asm["ptx"]))
        self.found.append({**entry, "matrices": matrices_in(compiled.asm["ttgir"]), "loops": loops})


def matrices_in(code: str) -> list[dict[str, Any]]:
    """The loads and stores of matrices: of which numbers, and in which order a warp's lanes lie over dimensions."""
    layouts = dict(re.findall(r"^(#\w+) = #ttg\.blocked<.*order = \[(.*)\]\}>$", code, re.MULTILINE))
    moved = re.findall(r"tt\.(load|store) .*: tensor<\d+x\d+x!tt\.ptr<(\w+)>, (#\w+)>", code)
    return [{"does": does, "numbers": numbers, "order": layouts.get(layout, layout)} for does, numbers, layout in moved]


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, and bytes of stack and of local memory, of the kernel in a binary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        output = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", output)
    assert match, output
    return {"registers": int(match[1]), "stack": int(match[2]), "local": int(match[3])}


def sweeps(hid: int, virtual: bool) -> None:
    """Launch the sweep and its backward pass as for a batch of two graphs."""
    width, nodes = (hid // 2 if virtual else hid), 5
    mlp = [(width, hid), (width,), (hid, width), (hid,)]
    gru = [(3 * hid, hid), (3 * hid, hid), (3 * hid,), (3 * hid,)]
    weights = [torch.zeros(shape) for shape in mlp + gru + (mlp if virtual else [])]
    ends = torch.tensor([0, 2, 5]), torch.zeros(2 * nodes, dtype=torch.int32), torch.zeros(2 * nodes + 1).long()
    topology = [*ends, torch.zeros(0, dtype=torch.uint8)]
    states = torch.zeros(nodes, hid)
    sweep.gated_sweep(states, weights, topology, 50, False)
    kept = sweep.gated_sweep(states, weights, topology, 50, True)
    sweep.gated_sweep_backward(states, states, kept, weights, topology, 50)


def decodings(precision: str, flat: bool) -> None:
    """Launch the last step of decoding; if it is `flat`, as in training, too; and its backward pass."""
    width = 256
    hidden, weight, bias, blocks = (
        torch.zeros(3, width),
        torch.zeros(64, 64, width),
        torch.zeros(64, 64),
        torch.zeros(8),
    )
    targets = targets_of([(0, 64, 64, 1, 64, 64, 0), (1, 64, 64, 2, 64, 64, 0), (0, 1, 8, 1, 1, 8, 2)])
    arrays = [decode_tables.target_table(targets, None), *decode_tables.item_tables(targets)]
    arrays += [*products.run_tables(np.array([[64, 64, 0, 3, 0]])), *decode_tables.check_tables(targets)]
    tables = decode_tables.Tables(*map(torch.from_numpy, [*arrays, np.array(64 * 64 * 3)]))
    largest = check.Largest(torch.zeros(9), 9)
    fine = torch.zeros((), dtype=torch.int32)
    decode.decode_into(hidden, weight, bias, blocks, tables, precision, fine, largest)
    if flat:
        decode.decode(hidden, weight, bias, blocks, tables, 64 * 64 * 3 + 8, precision)
    if precision == "float32":
        decode.decode_backward(torch.zeros(64 * 64 * 3 + 8), blocks, tables, 64 * 64 * 3)
        products.product_gradients(blocks, hidden, weight, bias, tables.runs, tables.backward_items_of_runs)


def attentions(width: int) -> None:
    """Launch attention and its backward pass as for a batch of two graphs."""
    heads, sizes = 4, (2, 40)
    nodes = sum(sizes)
    offsets = np.cumsum([0, *sizes])
    pairs = np.cumsum([0, *(size**2 for size in sizes)])
    arrays = offsets, pairs, np.zeros(pairs[-1], np.uint8), attention.tiles_of(offsets)
    relations = [torch.from_numpy(array) for array in arrays]
    qkv, table = torch.zeros(nodes, 3 * heads * width), torch.zeros(CODES, heads)
    attention.attention(qkv, table, relations, False)
    result, log_sums = attention.attention(qkv, table, relations, True)
    attention.attention_backward(result, qkv, table, relations, result, log_sums)


def stages(hid: int, positions: bool) -> None:
    """Launch the embedding of a batch, its layers, those around attention, and what looks at the weights."""
    nodes = 20
    indices = torch.zeros(nodes, 8 if positions else 5, dtype=torch.int32)
    addresses, parts = torch.zeros(9, 2).long(), torch.zeros(20, 2).long()
    states, status = torch.zeros(nodes, hid), torch.zeros((), dtype=torch.int32)
    layers.embed(states, status, indices, addresses, parts, 0)
    tables = torch.zeros(1, layer_tables.TABLE_WIDTH.value).long(), torch.zeros(1, 3, dtype=torch.int32)
    rows = torch.zeros(nodes, dtype=torch.int32), torch.zeros(8)
    layers.run_stage(states, states, addresses, (*tables, *rows), 0, 1)
    check.largest_of(addresses)
    if positions and hid <= NARROW:
        qkv = torch.zeros(nodes, 3 * hid)
        for aligned in (True, False):
            graphormer.begin(states, status, qkv, indices, addresses, parts, aligned, 0, 6, 1e-5)
            for following in (1e-5, None):
                graphormer.rest(states, states, qkv, addresses, aligned, 6, 1e-5, following)


def main(architecture: int) -> None:
    found: list[dict[str, Any]] = []
    recorders = []
    for module in (sweep, decode, check, attention, graphormer, layers, products):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            recorders.append(Recorder(getattr(module, name), architecture, found))
            setattr(module, name, recorders[-1])

    def of(purpose: str) -> None:
        for recorder in recorders:
            recorder.purpose = purpose

    driver.architecture_of = lambda device: architecture
    forms = forms_for(architecture)
    for hid in forms.hids:
        for virtual in (True, False) if hid in forms.without_virtual_edges else (True,):
            of(f"hid {hid}, {'with' if virtual else 'without'} virtual edges")
            sweeps(hid, virtual)
            stages(hid, virtual)
    for width in forms.head_widths:
        of(f"heads of {width}")
        attentions(width)
    for precision in forms.precisions:
        of(precision)
        decodings(precision, precision in forms.flat)
    if forms.in_64_bits:
        of("parameters that need counters of 64 bits")
        decode_tables.index_type = lambda targets: np.int64
        decodings(PRECISIONS[0], False)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
