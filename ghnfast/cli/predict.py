"""`ghnfast predict`: predict the parameters of a model, and write them to a file."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..checkpoints.safetensors_files import write_safetensors
from ..errors import DomainWarning, UsageError
from ..files import compact_copies, in_words, replacing
from ..predict import load, predict
from ..prediction import Report, other_domain
from ..progress import say
from ..tracing import trace
from .arguments import add_ghn, add_model, check_device
from .models import SEED, adapt, find_model
from .shared import Json, check_output, format_groups, group_by_reason

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
WEIGHT_SUFFIXES = (".safetensors", ".pt")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict the parameters of a model",
        description="Predict all parameters of a model in one pass of a GHN. Parameters that cannot be predicted keep "
        f"their initial values, which are drawn with the seed {SEED}: the same command writes the same file.",
    )
    add_model(parser)
    add_ghn(parser)
    parser.add_argument("--out", metavar="FILE", help="write the state dict to a .safetensors or .pt file")
    parser.add_argument(
        "--keep-classifier", action="store_true", help="leave the classification layer as it was initialized"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the model's parameters; default: what the model has")
    parser.add_argument("--device", default="cpu", help="where to predict; default: cpu")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    out = check_output(arguments.out, WEIGHT_SUFFIXES)
    device = check_device(arguments.device)
    ghn = load(arguments.ghn, device=device)
    build = find_model(arguments.model, arguments.num_classes)
    model = adapt(build(), arguments.small_images).to(device=device, dtype=DTYPES.get(arguments.dtype))

    start = time.perf_counter()
    graph = trace(model, input_shape=arguments.input_shape)
    traced = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)  # the notice says it in terms of the command line
        _, report = predict(model, ghn, graph=graph, classifier=not arguments.keep_classifier, report=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = {"trace": traced - start, "predict": time.perf_counter() - traced}

    notice = other_domain(ghn, graph)
    if notice is not None:
        hint = "pass --input-shape C,H,W if it takes others, or another GHN, such as --ghn ghn2-imagenet"
        say(f"ghnfast: notice: {notice}; {hint}")
    if out is not None:
        write_weights(out, model)
    summary = summarize(arguments.model, ghn.name, notice, model, report, seconds, out)
    return json.dumps(summary) if arguments.json else format_summary(summary)


def write_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state dict, whole or not at all. Tensors that share memory are written one by one.

    Raises:
        UsageError: the file cannot be written, or not in this format.
    """
    state = model.state_dict()
    tensors = compact_copies({name: value for name, value in state.items() if isinstance(value, Tensor)})
    others = {name: value for name, value in state.items() if name not in tensors}
    is_safetensors = path.suffix.lower() == ".safetensors"
    if is_safetensors and others:
        raise UsageError(f"cannot write {path}: {', '.join(others)} in the state dict is no tensor; .pt takes it")
    try:
        with replacing(path) as file:
            if is_safetensors:
                write_safetensors(file, tensors, {"format": "pt"})
            else:
                torch.save({name: tensors.get(name, others.get(name)) for name in state}, file)
    # KeyError: how safetensors says that it has no such type of numbers.
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise UsageError(f"{path} could not be written: {in_words(error)}") from error


def summarize(
    name: str,
    ghn_name: str,
    notice: str | None,
    model: nn.Module,
    report: Report,
    seconds: dict[str, float],
    out: Path | None,
) -> Json:
    return {
        "model": name,
        "ghn": ghn_name,
        "other_domain": notice,
        "parameters": report.elements,
        "predicted_parameters": report.predicted_elements,
        "coverage": report.coverage,
        "predicted_tensors": len(report.predicted),
        "kept_tensors": len(report.skipped),
        "seconds": seconds,
        "out": None if out is None else str(out),
        "kept": group_by_reason(report.skipped, model),
    }


def format_summary(summary: Json) -> str:
    other = " (trained for other images or classes)" if summary["other_domain"] else ""
    seconds = summary["seconds"]
    lines = [
        f"model       {summary['model']}",
        f"GHN         {summary['ghn']}{other}",
        f"parameters  {summary['predicted_parameters']:,} of {summary['parameters']:,} predicted "
        f"({100 * summary['coverage']:.2f} %)",
        f"tensors     {summary['predicted_tensors']:,} predicted, {summary['kept_tensors']:,} kept",
        f"seconds     {seconds['trace']:.3f} tracing, {seconds['predict']:.3f} predicting",
        f"written     {summary['out'] or 'nothing (--out FILE.safetensors keeps the parameters)'}",
    ]
    if summary["kept"]:
        lines.append("kept as initialized, because of this:")
        lines += format_groups(summary["kept"])
    return "\n".join(lines)
