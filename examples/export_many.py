"""Predicts many models in batches, and writes each into a .safetensors file that `load_state_dict` takes.

    python examples/export_many.py resnet18 resnet34 mobilenet_v2 --ghn ghn2-imagenet --out weights

A file that is there already is left alone, so that a call which was interrupted goes on. Needs torchvision.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_model

import ghnfast
import ghnfast.vision  # before torchvision, so that it can be imported beside any build of torch


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="of torchvision")
    parser.add_argument("--ghn", default=ghnfast.checkpoints.DEFAULT)
    parser.add_argument("--batch", type=int, default=8, help="models in memory at once")
    parser.add_argument("--out", type=Path, default=Path("weights"))
    given = parser.parse_args(arguments)
    from torchvision import models

    given.out.mkdir(parents=True, exist_ok=True)
    ghn = ghnfast.load(given.ghn)
    wanted = [name for name in dict.fromkeys(given.models) if not (given.out / f"{name}.safetensors").exists()]
    written = []
    for start in range(0, len(wanted), given.batch):
        names = wanted[start : start + given.batch]
        batch = [models.get_model(name) for name in names]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ghnfast.DomainWarning)  # the default GHN is for clothes
            reports = ghn.predict(batch, report=True)[1]
        for name, model, report in zip(names, batch, reports, strict=True):
            target = given.out / f"{name}.safetensors"
            unfinished = target.with_suffix(".part")
            save_model(model, str(unfinished))  # of tied weights it writes one
            unfinished.rename(target)
            written.append(target)
            print(f"{target}: {report.coverage:.1%} predicted")
    return written


if __name__ == "__main__":
    main()
