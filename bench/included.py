"""Makes a GHN that comes with the package out of finished training runs: python bench/included.py NAME RUN [RUN ...].

Each run started from the weights of the one before it (`init`). Those of the last are shipped, as float16, which halves
the file; `bench/accuracy.py` measures what is shipped. Beside them stand each run's configuration, `stage-1.toml` and
so on, and one log, whose steps count on from run to run.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from ghnfast import checkpoints
from ghnfast.training import read_config
from ghnfast.training.folder import CONFIG, LOG, WEIGHTS


def main(runs: list[Path], folder: Path) -> None:
    """Write the last run's weights to a folder, and what all of them did beside them."""
    folder.mkdir(exist_ok=True)
    trained = checkpoints.read(runs[-1] / WEIGHTS)
    half = {name: weight.half() for name, weight in trained.state_dict.items()}
    checkpoints.write(folder / WEIGHTS, dataclasses.replace(trained, state_dict=half))
    for old in folder.glob("*.toml"):
        old.unlink()
    lines, done = [], 0
    for stage, run in enumerate(runs, start=1):
        shutil.copyfile(run / CONFIG, folder / f"stage-{stage}.toml")
        for line in map(json.loads, (run / LOG).read_text().splitlines()):
            lines.append(json.dumps({**line, "step": done + line["step"]}))
        done += read_config(run / CONFIG)["steps"]
    (folder / LOG).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not checkpoints.is_included(sys.argv[1]):
        sys.exit(__doc__)
    main([Path(run) for run in sys.argv[2:]], checkpoints.included_folder(sys.argv[1]))
