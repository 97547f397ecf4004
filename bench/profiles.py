"""Where the time of a prediction, of GHN-2 and of GHN-3-T, and of a training step goes, kernel by kernel.

    python bench/profiles.py build/profile [--device cpu]

writes into the folder a trace of each, which chrome://tracing and Perfetto show, and `summary.json`: the device, and of
each what took most of the device's time, or, on the CPU, of the processor's: name, calls and microseconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import ghnfast
import ghnfast.vision  # makes `import torchvision` work beside a CPU build of torch, too
from ghnfast.deepnets import DeepNets1M
from ghnfast.training import Trainer, make_config
from ghnfast.training.networks import MetaBatches

MODEL, IMAGES, NETWORKS, ROWS = "resnet50", 64, 8, 25


def prediction(ghn: ghnfast.GHN, device: str) -> Callable[[], Any]:
    import torchvision

    model = getattr(torchvision.models, MODEL)(weights=None)
    graph = ghnfast.trace(model)
    ghn, model = ghn.eval().to(device), model.to(device)
    return lambda: ghn.predict(model, graph=graph)


def training_step(device: str) -> Callable[[], Any]:
    """Of random images: what they show does not matter here."""
    config = make_config({"data": "mnist5k", "meta_batch": NETWORKS, "batch_size": IMAGES, "device": device})
    trainer = Trainer(ghnfast.GHN(num_classes=10).to(device), config, config.steps)
    batch = MetaBatches(DeepNets1M("train"), NETWORKS, config.max_nodes, config.seed)[0]
    pixels, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))
    return lambda: trainer.train_step(pixels.to(device), labels.to(device), batch)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def profiled(run: Callable[[], Any], device: str, trace: Path) -> list[dict[str, Any]]:
    """What one call takes, after three others; the largest come first."""
    for _ in range(3):
        run()
    wait(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as found:
        run()
        wait(device)
    found.export_chrome_trace(str(trace))
    times = [
        (event.self_device_time_total if device == "cuda" else event.self_cpu_time_total, event)
        for event in found.key_averages()
    ]
    times.sort(key=lambda pair: -pair[0])
    return [{"name": event.key, "calls": event.count, "us": round(us, 1)} for us, event in times[:ROWS] if us > 0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    ghn3: dict[str, Any] = {"hypernet": "graphormer", "hid": 64, "layers": 3, "heads": 8, "max_shape": (64, 64, 16, 16)}
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "prediction": lambda: prediction(ghnfast.GHN(), given.device),
        "prediction-ghn3": lambda: prediction(ghnfast.GHN(**ghn3), given.device),
        "training": lambda: training_step(given.device),
    }
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    summary: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for what, make in makers.items():
        summary[what] = profiled(make(), given.device, given.folder / f"{what}.json")
        for row in summary[what]:
            print(f"{what:16}{row['us']:12.1f} us{row['calls']:6}  {row['name'][:90]}")
    (given.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
