"""Makes the GHN that comes with the package out of a finished training run: python bench/default.py RUN.

Weights are kept as float16, which halves the file; `bench/accuracy.py` measures what is shipped.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

from ghnfast import checkpoint
from ghnfast.training.trainer import CONFIG, LOG, WEIGHTS


def main(run: Path) -> None:
    trained = checkpoint.read(run / WEIGHTS)
    half = {name: weight.half() for name, weight in trained.state_dict.items()}
    target = checkpoint.resolve(checkpoint.DEFAULT)
    checkpoint.write(target, dataclasses.replace(trained, state_dict=half))
    for name in (CONFIG, LOG):
        shutil.copyfile(run / name, target.parent / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
