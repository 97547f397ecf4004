"""What a first trace imports: torch's Python kernels take sympy with them, many of them its compiler, for seconds."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, torch, torch.nn as nn, torch.nn.functional as F
from torch.nn.utils import parametrizations
import ghnfast

HEAVY = "sympy", "torch._dynamo", "torch._inductor"

class Layer(nn.Module):
    def __init__(self, layer, dims=2):
        super().__init__()
        self.stem, self.layer, self.dims, self.head = nn.Conv2d(3, 8, 3), layer, dims, nn.Linear(8, 5)
    def forward(self, x):
        x = self.stem(x)
        x = self.layer(x.flatten(2) if self.dims == 1 else x)
        return self.head(x.flatten(2).mean(2))

before = {name for name in HEAVY if name in sys.modules}
layers = {
    "conv1d": Layer(nn.Conv1d(8, 8, 3), 1),
    "conv_transpose1d": Layer(nn.ConvTranspose1d(8, 8, 3), 1),
    "conv_transpose2d": Layer(nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)),
    "linear": Layer(nn.Upsample(scale_factor=2, mode="linear"), 1),
    "bilinear": Layer(nn.UpsamplingBilinear2d(scale_factor=2)),
    "bicubic": Layer(nn.Upsample(size=(20, 30), mode="bicubic")),
    "nearest": Layer(nn.Upsample(scale_factor=1.5)),
    "weight_norm": Layer(parametrizations.weight_norm(nn.Conv2d(8, 8, 3))),
    "old weight_norm": Layer(nn.utils.weight_norm(nn.Conv2d(8, 8, 3))),
    **{f"{kind} {size}d": Layer(getattr(nn, f"{kind}Pad{size}d")(1), size)
       for kind in ("Reflection", "Replication", "Zero", "Circular") for size in (1, 2)},
    **{mode: Layer(nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)) for mode in ("reflect", "replicate", "circular")},
    **{kind: Layer(getattr(nn, kind)()) for kind in (
        "ELU", "CELU", "SELU", "Mish", "Hardshrink", "Softshrink", "Tanhshrink", "Softsign", "Softplus", "LogSigmoid",
        "LeakyReLU", "PReLU", "AlphaDropout", "Softmax2d")},
    "threshold": Layer(nn.Threshold(0.1, 2.0)),
    "log_softmax": Layer(nn.LogSoftmax(1)),
    "response norm": Layer(nn.LocalResponseNorm(2)),
}
class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
    def forward(self, x):
        return self.function(x)
layers.update({name: Layer(Function(function)) for name, function in {
    "normalize": lambda x: F.normalize(x, dim=1),
    "normalize of a view": lambda x: F.normalize(x.transpose(2, 3), dim=-1),
    "clamp": lambda x: x.clamp(-1, 1).clamp(min=0),
    "functions": lambda x: x.exp().log1p().sqrt().rsqrt().abs().sin().floor().square().pow(2) ** 0.5,
    "maximum": lambda x: torch.maximum(x, 2 * x),
    "stack": lambda x: torch.stack([x, x], 2).flatten(2),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
}.items()})
for name, model in layers.items():
    ghnfast.trace(model, input_shape=(3, 16, 16))
    found = {module for module in HEAVY if module in sys.modules} - before
    if found:
        sys.exit(f"{name}: {sorted(found)}")
"""


def test_tracing_common_layers_imports_neither_sympy_nor_the_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
