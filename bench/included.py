"""Makes a GHN that comes with the package out of finished training runs.

    python bench/included.py NAME RUN [RUN ...]
    python bench/included.py --after NAME RUN [RUN ...]

Each run started from the weights of the one before it (`init`), the first with `--after` from those that are shipped.
Those of the last are shipped, as float16, which halves the file; `bench/accuracy.py` measures what is shipped. Beside
them stand each run's configuration, `stage-1.toml` and so on, and one log, whose steps count on from run to run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

from ghnfast import checkpoints
from ghnfast.training import read_config
from ghnfast.training.folder import CONFIG, LOG, WEIGHTS


def main(runs: list[Path], folder: Path, after: bool = False) -> None:
    """Write the last run's weights to a folder, and what all of them did beside them, or beside what stands there."""
    folder.mkdir(exist_ok=True)
    trained = checkpoints.read(runs[-1] / WEIGHTS)
    half = {name: weight.half() for name, weight in trained.state_dict.items()}
    checkpoints.write(folder / WEIGHTS, dataclasses.replace(trained, state_dict=half))
    lines, done, stages = [], 0, list(folder.glob("stage-*.toml"))
    if after:
        lines = (folder / LOG).read_text().splitlines()
        done = sum(read_config(stage)["steps"] for stage in stages)
    else:
        for stage in stages:
            stage.unlink()
    for number, run in enumerate(runs, start=1 + len(stages) * after):
        shutil.copyfile(run / CONFIG, folder / f"stage-{number}.toml")
        for line in map(json.loads, (run / LOG).read_text().splitlines()):
            lines.append(json.dumps({**line, "step": done + line["step"]}))
        done += read_config(run / CONFIG)["steps"]
    (folder / LOG).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after", action="store_true", help="what stands there goes on with these runs")
    parser.add_argument("name", help="of a GHN that comes with the package")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, in order")
    given = parser.parse_args()
    if not checkpoints.is_included(given.name):
        parser.error(f"{given.name} is no GHN that comes with the package")
    main(given.runs, checkpoints.included_folder(given.name), given.after)
