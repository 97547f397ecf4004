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
    **{f"{kind}{size}d": Layer(getattr(nn, f"{kind}{size}d")(2), size)
       for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool") for size in (1, 2)},
    "LPPool2d": Layer(nn.LPPool2d(2, 2)),
    "FractionalMaxPool2d": Layer(nn.FractionalMaxPool2d(2, output_size=4)),
    "area": Layer(nn.Upsample(size=(20, 30), mode="area")),
    "nearest-exact": Layer(nn.Upsample(size=(20, 30), mode="nearest-exact")),
    "ChannelShuffle": Layer(nn.ChannelShuffle(2)),
    "GroupNorm": Layer(nn.GroupNorm(2, 8)),
    "InstanceNorm1d": Layer(nn.InstanceNorm1d(8, affine=True), 1),
    "spectral_norm": Layer(parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))),
    "old spectral_norm": Layer(nn.utils.spectral_norm(nn.Conv2d(8, 8, 3))),
    "orthogonal": Layer(parametrizations.orthogonal(nn.Conv2d(8, 8, 3))),
}
class Sequence(nn.Module):
    # on (batch, 196, 8); what it returns has the outputs of each position first
    def __init__(self, layer, *inputs):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 8, 3), layer, nn.Linear(8, 5)
        self.inputs = inputs or (slice(None),)
    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.layer(*(x[..., part] for part in self.inputs))
        return self.head((x if isinstance(x, torch.Tensor) else x[0]).mean(1))
every, half = slice(None), slice(4)
layers.update({
    **{kind: Sequence(getattr(nn, kind)(8, 8, batch_first=first))
       for kind, first in (("LSTM", True), ("GRU", False), ("RNN", True))},
    "two-way LSTM": Sequence(nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True)),
    "attention": Sequence(nn.MultiheadAttention(8, 2, batch_first=True), every, every, every),
    "attention, positions first": Sequence(nn.MultiheadAttention(8, 2), every, every, every),
    "attention to other widths": Sequence(nn.MultiheadAttention(8, 2, kdim=4, vdim=4), every, half, half),
    "encoder": Sequence(nn.TransformerEncoderLayer(8, 2, 16)),
    "decoder": Sequence(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), every, every),
    "transformer": Sequence(nn.Transformer(8, 2, 1, 1, 16), every, every),
})
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
    "unfold": lambda x: F.unfold(x, 2, stride=2)[:, :8],
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=2), (14, 14), 2, stride=2),
    "pixels": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), 2)[:, :8],
    "antialias": lambda x: F.interpolate(x, size=(9, 9), mode="bilinear", antialias=True),
    "grid_sample": lambda x: F.grid_sample(x, F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 8, 9, 9])),
    "3d": lambda x: F.avg_pool3d(F.max_pool3d(x[:, :, None], (1, 2, 2)), (1, 2, 2))[:, :, 0],
    "einsum": lambda x: torch.einsum("bchw,cd->bdhw", torch.einsum("bchw,bcij->bchw", x, x), torch.ones(8, 8)),
    "comparisons": lambda x: torch.where(x > 0, x, 0.1 * x) * (x <= 1) + x.masked_fill(x < 0, 0.0),
    "sort": lambda x: x.sort(dim=1)[0] + x.topk(8, dim=1)[0] + x.gather(1, x.argsort(1)) * x.argmax(1, keepdim=True),
    "scatter": lambda x: torch.zeros_like(x).scatter_add(1, x.argsort(1), x).index_select(1, torch.arange(8)),
    "reductions": lambda x: x / x.std(1, keepdim=True) - x.amax(1, keepdim=True) * x.logsumexp(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(1) * x.norm(dim=1, keepdim=True) + torch.cdist(x, x),
    "quantile": lambda x: x - x.quantile(0.5, 1, keepdim=True) - x.median(1, keepdim=True)[0],
    "fft": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)) + torch.fft.fft2(x).real,
    "flips": lambda x: x.roll(1, 2).flip(2).triu() + x.tile(1, 1, 2, 2)[:, :, :14, :14],
    "gumbel": lambda x: F.gumbel_softmax(x, dim=1) * F.glu(x.repeat(1, 2, 1, 1), 1),
    "products": lambda x: torch.baddbmm(x[:, 0], x[:, 0], x[:, 0])[:, None] + torch.kron(x[..., :7], x[:1, :1, :1, :2]),
    "writes": lambda x: torch.zeros_like(x).index_fill_(1, torch.tensor([0]), 0.0).copy_(x).masked_fill_(x > 0, 1.0),
    "losses": lambda x: x + F.mse_loss(x, x) + F.cosine_similarity(x, x, 1)[:, None],
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
}.items()})
for name, model in layers.items():
    try:
        ghnfast.trace(model, input_shape=(3, 16, 16))
    except Exception as error:
        sys.exit(f"{name}: {error}")
    found = {module for module in HEAVY if module in sys.modules} - before
    if found:
        sys.exit(f"{name}: {sorted(found)}")
"""


def test_tracing_common_layers_imports_neither_sympy_nor_the_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
