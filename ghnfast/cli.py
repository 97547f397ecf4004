"""The command line: `ghnfast predict`, `graph`, `bench`, `generate`, `train` and `evaluate`.

Results go to stdout, notices and errors to stderr. What a user can put right (a wrong name, a folder that is not there,
any `GhnfastError`) is one line and the exit code 2; what should not happen keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor, nn

from .checkpoint import DEFAULT
from .deepnets.dataset import SIZES
from .deepnets.generate import format_statistics, gather_statistics, splits_to_write, write_splits
from .drawing import to_svg
from .errors import DomainWarning, GhnfastError, MissingPackageError, UsageError
from .files import compact_copies, in_words, replacing
from .graph import MAX_DISTANCE, PRIMITIVES, ArchGraph
from .nn.slots import Report
from .predict import load, predict
from .profiling import extra_memory, medians, stages
from .trace import trace
from .training import baseline, evaluate, format_results, load_data, make_config, read_config, train
from .training.data import DATA_SETS
from .training.evaluate import STATISTICS
from .training.trainer import CONFIG

_log = logging.getLogger("ghnfast")

BAD_INPUT = 2  # the exit code
BROKEN_PIPE = 1
SEED = 0
GENERATED = ("eval", *SIZES)  # `eval` is all evaluation splits, which share a file
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
WEIGHT_SUFFIXES = (".safetensors", ".pt")
DRAWING_SUFFIXES = (".svg",)
SHOWN = 3  # as many names as a list in the summary shows
LIST_NAMES = "python -c 'import ghnfast.vision, torchvision.models as m; print(*m.list_models(module=m))'"
MODEL_HELP = (
    "a torchvision classification model (resnet50), or FILE.py:FACTORY or PACKAGE.MODULE:FACTORY, where FACTORY is a "
    "function that returns a torch.nn.Module and needs no arguments"
)

Json = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0, or 2 after an error message on stderr.

    Raises:
        SystemExit: after `--help` and `--version`.
    """
    try:
        arguments = make_parser().parse_args(argv)
        # What models print of themselves must not mix with the result, which may be JSON.
        with contextlib.redirect_stdout(sys.stderr):
            result: str = arguments.run(arguments)
        print(result, flush=True)
    except GhnfastError as error:
        print("ghnfast: error:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python flushes stdout once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


# Arguments -----------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="ghnfast", description="Predict the parameters of neural networks with Graph HyperNetworks.")
    parser.add_argument("--version", action="version", version=f"ghnfast {version('ghnfast')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_predict(commands)
    add_graph(commands)
    add_bench(commands)
    add_generate(commands)
    add_train(commands)
    add_evaluate(commands)
    return parser


def add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict the parameters of a model",
        description="Predict all parameters of a model in one pass of a GHN. Parameters that cannot be predicted keep "
        f"their initial values, which are drawn with the seed {SEED}: the same command writes the same file.",
    )
    add_model(parser)
    parser.add_argument("--ghn", default=DEFAULT, metavar="NAME_OR_PATH", help=f"the GHN; default: {DEFAULT}")
    parser.add_argument("--out", metavar="FILE", help="write the state dict to a .safetensors or .pt file")
    parser.add_argument(
        "--keep-classifier", action="store_true", help="leave the classification layer as it was initialized"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the model's parameters; default: what the model has")
    parser.add_argument("--device", default="cpu", help="where to predict; default: cpu")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=run_predict)


def add_graph(commands: Any) -> None:
    parser = commands.add_parser(
        "graph",
        help="show the architecture graph of a model",
        description="Trace a model and describe its architecture graph. The model needs no weights and no memory.",
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print nodes, edges and counts as one JSON object")
    parser.add_argument("--svg", metavar="FILE", help="draw the graph")
    parser.set_defaults(run=run_graph)


def add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the stages of predicting a model",
        description="Time the stages of predicting a model on the CPU, all of them taking turns, beside writing every "
        "parameter once with torch's fill_. OMP_NUM_THREADS sets the number of threads.",
    )
    add_model(parser)
    parser.add_argument("--ghn", default=DEFAULT, metavar="NAME_OR_PATH", help=f"the GHN; default: {DEFAULT}")
    parser.add_argument("--rounds", type=parse_count, default=15, metavar="N", help="how often each; default: 15")
    parser.add_argument("--json", action="store_true", help="print the seconds as one JSON object")
    parser.set_defaults(run=run_bench)


def add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate networks of DeepNets-1M",
        description="Sample the networks of a split and print the published statistics of them; with --out also write "
        "them in the published HDF5 and JSON format. A call that was interrupted goes on where it was when it is "
        "repeated.",
    )
    parser.add_argument("split", metavar="SPLIT", choices=GENERATED, help=f"one of {', '.join(GENERATED)}")
    parser.add_argument("--count", type=parse_count, metavar="N", help="networks of each split; default: as published")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="another seed gives others; default: 0")
    parser.add_argument("--out", metavar="FOLDER", help="write deepnets1m_*.hdf5 and deepnets1m_*_meta.json into it")
    parser.add_argument("--json", action="store_true", help="print the statistics as one JSON object")
    parser.set_defaults(run=run_generate)


def add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a GHN",
        description="Train a GHN on an image data set and networks of DeepNets-1M. A run that was interrupted goes on "
        "when the command is repeated; with --out alone, from the configuration it has saved. torchrun shares the "
        "networks of each step between several processes.",
    )
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="of the configuration; these come last")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the run lives")
    parser.add_argument("--config", metavar="FILE", help="a .toml or .yaml file with names and values")
    parser.set_defaults(run=run_train)


def add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure the accuracy of networks with predicted parameters",
        description="Predict the parameters of networks of DeepNets-1M, and measure their accuracy on test images; or, "
        "with --baseline, train the same networks from random initialization.",
    )
    parser.add_argument("--ghn", default=DEFAULT, metavar="NAME_OR_PATH", help=f"the GHN; default: {DEFAULT}")
    parser.add_argument("--data", default="mnist5k", choices=DATA_SETS, help="the images; default: mnist5k")
    parser.add_argument("--root", default="data", metavar="FOLDER", help="where the images are; default: data")
    parser.add_argument("--split", default="test", help="of networks, or several: test,wide,deep; default: test")
    parser.add_argument("--limit", type=parse_count, metavar="N", help="networks of each split; default: all")
    parser.add_argument("--validation", action="store_true", help="on validation images, rather than on test images")
    parser.add_argument(
        "--batch-statistics", choices=STATISTICS, default=STATISTICS[0], help="of batch normalization; default: batch"
    )
    parser.add_argument("--baseline", choices=("sgd", "adam"), help="train the networks with it")
    parser.add_argument("--epochs", type=parse_count, default=0, metavar="N", help="that --baseline trains")
    parser.add_argument("--steps", type=parse_count, default=0, metavar="N", help="that --baseline trains")
    parser.add_argument("--batch-size", type=parse_count, default=64, metavar="N", help="images at once; default: 64")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="of networks and training; default: 0")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, too")
    parser.set_defaults(run=run_evaluate)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input-shape",
        type=parse_shape,
        metavar="C,H,W",
        help="the shape of one input, such as 3,32,32; default: what the model says of itself, else 3,224,224",
    )
    parser.add_argument(
        "--num-classes",
        type=parse_count,
        metavar="N",
        help="is passed on as num_classes, which a factory must then take; default: what the model has",
    )
    parser.add_argument("--small-images", action="store_true", help="give torchvision models the stem for 32x32 images")


def parse_shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_count(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is no shape; positive sizes such as 3,32,32 are accepted") from None


def parse_seed(text: str) -> int:
    if not text.strip().isdecimal() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; 0 to 2^64 - 1 are accepted")
    return int(text)


def parse_count(text: str) -> int:
    # Not isdigit, which also accepts digits that int does not.
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return int(text)


def check_device(text: str) -> torch.device:
    """A device that tensors can be on."""
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: torch was built without it
        raise UsageError(f"the device '{text}' cannot be used: {str(error).partition(chr(10))[0]}") from error
    if device.type == "meta":
        raise UsageError("the device 'meta' has no memory to predict into; cpu, cuda and the like are accepted")
    return device


def check_output(text: str | None, suffixes: Sequence[str]) -> Path | None:
    """The file to write, if any. Called before any work, for a result that cannot be written is lost."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write {text}: its suffix is '{path.suffix}'; accepted: {', '.join(suffixes)}")
    if os.path.isdir(path):
        raise UsageError(f"cannot write {text}: it is a folder")
    if not os.path.isdir(path.parent):
        raise UsageError(f"cannot write {text}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {text}: no permission to write into the folder {path.parent}")
    return path


# Models --------------------------------------------------------------------------------------------------------------


def find_model(name: str, num_classes: int | None) -> Callable[[], nn.Module]:
    """What builds the model that a name stands for. Every call builds the same one, with the same random numbers.

    Raises:
        UsageError: there is no such model; the message says what there is. The function that is returned raises it
            where a factory returns something else than a module.
    """
    settings = {} if num_classes is None else {"num_classes": num_classes}
    build = factory_builder(name, settings) if ":" in name else torchvision_builder(name, settings)

    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return build()

    return seeded


def torchvision_builder(name: str, settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    if name.endswith(".py") or os.sep in name:
        raise UsageError(f"{name} does not say which function builds the model; FILE.py:FACTORY is accepted")
    models = import_torchvision_models()
    names: list[str] = models.list_models(module=models)
    if name not in names:
        raise UsageError(unknown_model(name, names, models.list_models()))
    # What these two do by default takes a minute, and scipy.
    own = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}

    def build() -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, **settings, **own)
        return model

    return build


def import_torchvision_models() -> Any:
    # Before torchvision, which this makes importable beside any build of torch.
    importlib.import_module("ghnfast.vision")
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "torchvision":
            raise
        raise MissingPackageError("models by name need torchvision: pip install 'ghnfast[vision]'") from error


def unknown_model(name: str, names: Sequence[str], names_of_all_tasks: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), names, n=3)
    if name in names_of_all_tasks:
        what = f"'{name}' is a torchvision model, but not for classification"
    else:
        what = f"'{name}' is no torchvision classification model"
    guess = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{what}{guess}; this lists their names: {LIST_NAMES}; FILE.py:FACTORY and MODULE:FACTORY are accepted too"


def factory_builder(name: str, settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    source, _, attribute = name.rpartition(":")
    is_file = source.endswith(".py") or os.sep in source
    folder = Path(source).absolute().parent if is_file else Path.cwd()
    with importable(folder):
        module = load_file(Path(source)) if is_file else import_module(source)
    factory = find_factory(module, source, attribute)
    check_call(factory, f"{attribute} in {source}", settings)

    def build() -> nn.Module:
        with importable(folder):
            model = factory(**settings)
        if not isinstance(model, nn.Module):
            raise UsageError(f"{name} returned a {type(model).__name__}; a torch.nn.Module is accepted")
        return model

    return build


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        # What was loaded may have changed the path too.
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module. What the file raises is its own and propagates."""
    if not os.path.isfile(path):
        raise UsageError(f"the file {path} does not exist; FILE.py:FACTORY is accepted")
    if path.suffix != ".py":
        raise UsageError(f"{path} is no .py file; FILE.py:FACTORY is accepted")
    if not os.access(path, os.R_OK):
        raise UsageError(f"no permission to read the file {path}")
    # The prefix keeps a file called torch.py from taking torch's place.
    spec = importlib.util.spec_from_file_location(f"ghnfast_model_{path.stem}", path)
    assert spec is not None  # for a .py file there is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    spec.loader.exec_module(module)
    return module


def import_module(name: str) -> ModuleType:
    """Import a module. What it raises is its own and propagates."""
    accepted = "PACKAGE.MODULE:FACTORY and FILE.py:FACTORY are accepted"
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"'{name}' is no name of a module; {accepted}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there may itself import one that is not, which is its own error.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module '{name}' ({error}); {accepted}") from error


def find_factory(module: ModuleType, source: str, attribute: str) -> Callable[..., object]:
    accepted = "a function that returns a torch.nn.Module is accepted"
    if not hasattr(module, attribute):
        candidates = [key for key, value in vars(module).items() if callable(value)]
        close = difflib.get_close_matches(attribute, candidates, n=3)
        guess = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UsageError(f"{source} has no '{attribute}'{guess}; {accepted}")
    factory: Callable[..., object] = getattr(module, attribute)
    if not callable(factory):
        raise UsageError(f"{attribute} in {source} is a {type(factory).__name__}; {accepted}")
    return factory


def check_call(factory: Callable[..., object], name: str, settings: Mapping[str, Any]) -> None:
    """Check that a factory takes these keyword arguments, so that a TypeError in a call is its own."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(**settings)
    except TypeError as error:
        how = "with num_classes (--num-classes was given)" if settings else "without arguments"
        raise UsageError(f"{name} cannot be called {how}: {error}; its signature is {signature}") from error


def adapt(model: nn.Module, small_images: bool) -> nn.Module:
    if not small_images:
        return model
    from .vision import adapt_to_small_images

    return adapt_to_small_images(model)


def group_by_reason(reasons: Mapping[str, str], model: nn.Module) -> list[Json]:
    """Parameters by the reason why something was not done with them."""
    parameters = dict(model.named_parameters())
    groups: dict[str, Json] = {}
    for name, reason in reasons.items():
        group = groups.setdefault(reason, {"reason": reason, "tensors": 0, "parameters": 0, "names": []})
        group["tensors"] += 1
        group["parameters"] += parameters[name].numel()
        group["names"].append(name)
    return list(groups.values())


# predict -------------------------------------------------------------------------------------------------------------


def run_predict(arguments: argparse.Namespace) -> str:
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

    notice = ghn.other_domain(graph)
    if notice is not None:
        hint = "pass --input-shape C,H,W if it takes others, or another GHN, such as --ghn ghn2-imagenet"
        print(f"ghnfast: notice: {notice}; {hint}", file=sys.stderr)
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
                # By name, for large models can do without a copy of the file in memory. The library makes a file that
                # only its owner may read; this one gets the permissions of any other.
                permissions = os.fstat(file.fileno()).st_mode & 0o777
                safetensors.torch.save_file(tensors, file.name, metadata={"format": "pt"})
                os.chmod(file.name, permissions)
            else:
                torch.save({name: tensors.get(name, others.get(name)) for name in state}, file)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # When a write fails, torch.save raises a RuntimeError about its archive; the reason is in the error before it.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UsageError(f"{path} could not be written: {in_words(cause)}") from error


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


def format_groups(groups: Sequence[Json]) -> Iterator[str]:
    for group in groups:
        names = group["names"]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        plural = "" if group["tensors"] == 1 else "s"
        yield f"  {group['reason']}:"
        yield (
            f"    {group['tensors']:,} tensor{plural}, {group['parameters']:,} parameters: "
            f"{', '.join(names[:SHOWN])}{more}"
        )


# graph ---------------------------------------------------------------------------------------------------------------


def run_graph(arguments: argparse.Namespace) -> str:
    svg = check_output(arguments.svg, DRAWING_SUFFIXES)
    build = find_model(arguments.model, arguments.num_classes)
    model, graph = trace_without_weights(build, arguments.input_shape, arguments.small_images)
    if svg is not None:
        write_text(svg, to_svg(graph, arguments.model))
    description = describe(arguments.model, model, graph, svg)
    if arguments.json:
        return json.dumps({**description, **list_graph(graph)})
    return format_graph(description)


def trace_without_weights(
    build: Callable[[], nn.Module], input_shape: Sequence[int] | None, small_images: bool
) -> tuple[nn.Module, ArchGraph]:
    """A model and its graph; on the meta device, in no memory and in no time, where that works."""
    try:
        with torch.device("meta"):
            model = adapt(build(), small_images)
        return model, trace(model, input_shape=input_shape)
    except (UsageError, MissingPackageError):
        raise
    except Exception as error:  # anything: models compute with their weights while they are built, RegNets for one
        _log.debug("tracing without weights failed, now with them: %s: %s", type(error).__name__, error)
    model = adapt(build(), small_images)
    return model, trace(model, input_shape=input_shape)


def write_text(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"{path} could not be written: {in_words(error)}") from error


def describe(name: str, model: nn.Module, graph: ArchGraph, svg: Path | None) -> Json:
    """The counts of a graph."""
    counts = Counter(graph.ops)
    with_node = {param for params in (graph.weights, graph.norm_biases) for param in params if param is not None}
    # Distances fit a byte, so counting them is cheap also for the 10^8 pairs of the largest graphs.
    distances = torch.from_numpy(graph.distances(MAX_DISTANCE)).flatten()
    pairs = torch.bincount(distances, minlength=MAX_DISTANCE + 1)[1:].tolist()
    total = sum(pairs)
    return {
        "model": name,
        "counts": {"nodes": len(graph), "edges": len(graph.edges), "levels": graph.depth},
        "primitives": {op: counts[op] for op in PRIMITIVES if op in counts},
        "parameter_tensors": {"with_node": len(with_node), "without_node": len(graph.skipped)},
        "without_node": group_by_reason(graph.skipped, model),
        "virtual_edges": {
            "cutoff": MAX_DISTANCE,
            "pairs": total,
            "mean_distance": sum(d * n for d, n in enumerate(pairs, 1)) / total if total else None,
            "longest": max((d for d, n in enumerate(pairs, 1) if n), default=None),
        },
        "svg": None if svg is None else str(svg),
    }


def list_graph(graph: ArchGraph) -> Json:
    labels = zip(graph.ops, graph.params, graph.levels.tolist(), strict=True)
    return {
        "nodes": [{"op": op, "param": param, "level": level} for op, param, level in labels],
        "edges": graph.edges.tolist(),
    }


def format_graph(description: Json) -> str:
    counts, tensors, virtual = (description[key] for key in ("counts", "parameter_tensors", "virtual_edges"))
    lines = [
        f"model              {description['model']}",
        f"graph              {counts['nodes']:,} nodes, {counts['edges']:,} edges, {counts['levels']:,} levels",
        f"parameter tensors  {tensors['with_node']:,} with a node, {tensors['without_node']:,} without",
    ]
    found = f"{virtual['pairs']:,} pairs within {virtual['cutoff']} hops"
    if virtual["pairs"]:
        found += f", mean distance {virtual['mean_distance']:.2f}, longest {virtual['longest']}"
    lines.append(f"virtual edges      {found}")
    if description["svg"]:
        lines.append(f"drawn to           {description['svg']}")
    lines += ["", f"{'primitive':<10}{'nodes':>8}{'share':>10}"]
    lines += [
        f"{op:<10}{number:>8,}{100 * number / counts['nodes']:>8.1f} %"
        for op, number in sorted(description["primitives"].items(), key=lambda item: -item[1])
    ]
    if description["without_node"]:
        lines += ["", "parameters without a node, because of this:", *format_groups(description["without_node"])]
    return "\n".join(lines)


# Bench ---------------------------------------------------------------------------------------------------------------

STAGES = {
    "trace": "from module to graph",
    "graph": "all shortest paths up to 50 hops",
    "sweep": "node states: embedding, and message passing forward and in reverse",
    "decode": "from node states to parameters",
    "total": "everything, from module to parameters",
    "given": "everything but tracing, the graph given",
    "fill": "torch's fill_ on every parameter",
}


def run_bench(arguments: argparse.Namespace) -> str:
    build = find_model(arguments.model, arguments.num_classes)
    ghn = load(arguments.ghn)
    model = adapt(build(), arguments.small_images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)  # speed does not depend on it
        functions = stages(model, ghn, arguments.input_shape)
        memory = extra_memory(functions["total"])
        seconds = medians(functions, arguments.rounds)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if arguments.json:
        result = {"model": arguments.model, "parameters": parameters, "threads": torch.get_num_threads()}
        return json.dumps(result | {"seconds": seconds, "extra_bytes": memory})
    lines = [
        f"{arguments.model}: {parameters:,} parameters, {torch.get_num_threads()} threads, medians of "
        f"{arguments.rounds} rounds"
    ]
    lines += [f"{name:>7} {value * 1e3:9.2f} ms  {STAGES[name]}" for name, value in seconds.items()]
    lines.append(
        f"total / fill: {seconds['total'] / seconds['fill']:.2f}; given / fill: "
        f"{seconds['given'] / seconds['fill']:.2f}"
    )
    if memory is not None:
        lines.append(f"memory beyond the model and the GHN: {memory / 2**20:.1f} MiB")
    return "\n".join(lines)


# Generate ------------------------------------------------------------------------------------------------------------


def run_generate(arguments: argparse.Namespace) -> str:
    counts = splits_to_write(arguments.split, arguments.count)
    total, threads = sum(counts.values()), torch.get_num_threads()
    written: tuple[Path, ...] = ()
    if arguments.out is not None:
        with progress_bar("writing", total) as step:
            written = write_splits(arguments.out, counts, arguments.seed, step)
    with progress_bar("statistics", total) as step:
        columns = {
            split: gather_statistics(split, count, arguments.seed, threads, step) for split, count in counts.items()
        }
    if arguments.json:
        return json.dumps({"seed": arguments.seed, "files": [str(path) for path in written], "statistics": columns})
    return "\n".join([format_statistics(columns), *(f"wrote {path}" for path in written)])


# Train and evaluate ---------------------------------------------------------------------------------------------------


def run_train(arguments: argparse.Namespace) -> str:
    folder = Path(arguments.out)
    values: dict[str, Any] = {}
    known = folder / CONFIG
    if arguments.config is not None or known.exists():
        values.update(read_config(arguments.config if arguments.config is not None else known))
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} was given; NAME=VALUE is accepted")
        values[name] = value
    try:
        return f"wrote {train(make_config(values), folder)}"
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {in_words(error)}") from error
    except KeyboardInterrupt:
        raise UsageError(f"interrupted; the same command goes on from the checkpoint in {folder}") from None


def run_evaluate(arguments: argparse.Namespace) -> str:
    out = check_output(arguments.json, (".json",))
    check_device(arguments.device)
    splits = arguments.split.split(",")
    ghn = None if arguments.baseline else load(arguments.ghn, device=arguments.device)
    data = load_data(arguments.data, arguments.root, validation=arguments.validation)
    with progress_bar("evaluating", None) as step:
        options = {
            "limit": arguments.limit,
            "validation": arguments.validation,
            "batch_statistics": arguments.batch_statistics,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "progress": step,
        }
        if ghn is not None:
            name, results = ghn.name, evaluate(ghn, data, splits, **options)
        else:
            how = {"optimizer": arguments.baseline, "epochs": arguments.epochs, "steps": arguments.steps}
            results = baseline(data, splits, device=arguments.device, **how, **options)
            length = f"{arguments.epochs} epochs" if arguments.epochs else f"{arguments.steps} steps"
            name = f"{arguments.baseline}, {length}"
    if out is not None:
        write_text(out, json.dumps(results, indent=1) + "\n")
    return format_results({name: results})


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Tells how far something is on a terminal, where tqdm is installed; nothing elsewhere."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    with tqdm(desc=what, total=total, unit=" networks", disable=None, file=sys.stderr) as bar:
        yield bar.update
