"""Files that were damaged, or made by somebody else: checkpoints, DeepNets-1M, folders of runs, pickled graphs."""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
import shutil
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

import ghnfast
from fuzzing.damage import Random, chance, damaged, extreme, odd_value, pick, spoil, spoiled
from fuzzing.driver import Target
from ghnfast.deepnets import DeepNets1M
from ghnfast.errors import GhnfastError
from ghnfast.training import make_config, read_config, train
from ghnfast.training.folder import CHECKPOINT, CONFIG, LOG

ERRORS = (GhnfastError,)
PUBLISHED = Path(__file__).parents[2] / "golden" / "deepnets1m"
SMALL: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8}
RUN = {
    "data": "mnist5k", "batch_size": 2, "meta_batch": 1, "num_ch": (8, 8), "fc_dim": (8, 8), "max_shape": (8, 8, 3, 3),
    "hid": 8, "steps": 2, "log_every": 1, "save_every": 1, "nets": "resnet", "members": 4,
}  # fmt: skip


class Files:
    """Where a process keeps what it damages, and what that was before."""

    def __init__(self) -> None:
        self.owner = tempfile.TemporaryDirectory(prefix="ghnfast-fuzz-")
        self.folder = Path(self.owner.name)
        self.contents: dict[str, bytes] = {}

    def keep(self, path: Path) -> None:
        self.contents[path.name] = path.read_bytes()


files = Files()
warnings.simplefilter("ignore")


# Checkpoints ---------------------------------------------------------------------------------------------------------


def make_checkpoints() -> None:
    torch.manual_seed(0)
    for name in ("small.pt", "small.safetensors"):
        ghnfast.GHN(**SMALL).save(files.folder / name)
        files.keep(files.folder / name)
    # As joblib writes a published GHN-3.
    state = ghnfast.GHN(**SMALL, hypernet="graphormer", layers=1, heads=2).state_dict()
    weights = {name.replace("primitive_embedding", "embed"): weight for name, weight in state.items()}
    files.contents["ghn3.pt"] = pickle.dumps(weights, 4)
    files.contents["packed.pt"] = zlib.compress(files.contents["ghn3.pt"], 1)


def load(path: Path) -> None:
    ghn = ghnfast.load(path)
    assert not ghn.training
    ghn.predict(nn.Linear(6, 3), input_shape=(6,))


def checkpoint_bytes(random: Random) -> None:
    name = pick(random, sorted(files.contents))
    content = files.contents[name]
    damage = inside_of_archive if name == "small.pt" and chance(random) else damaged
    content = damage(random, content)
    path = files.folder / pick(random, (f"a{Path(name).suffix}",) * 5 + ("a.pth", "a.pt", "a.safetensors"))
    path.write_bytes(content)
    load(path)


def inside_of_archive(random: Random, content: bytes) -> bytes:
    """A member of a zip archive is damaged, and its checksum fits what it then is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = pick(random, [name for name in members if chance(random, 0.3) or "data.pkl" in name])
    members[chosen] = damaged(random, members[chosen])
    if chance(random, 0.1):
        del members[pick(random, list(members))]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if chance(random, 0.2) else zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return target.getvalue()


def checkpoint_values(random: Random) -> None:
    """A file that is whole, of a GHN that is not."""
    is_pickle = chance(random)
    ghn = ghnfast.load(files.folder / "small.pt")
    config: dict[str, Any] = {**ghn.config, "max_shape": list(SMALL["max_shape"])}
    state: dict[str, Any] = dict(ghn.state_dict())
    if chance(random, 0.7):
        config = spoiled(random, config) if chance(random, 0.8) else odd_value(random, config)
    if chance(random, 0.7):
        for _ in range(int(random.integers(1, 3))):
            spoil_weights(random, state, is_pickle)
    path = files.folder / ("b.pt" if is_pickle else "b.safetensors")
    if is_pickle:
        content: Any = {"state_dict": state, "config": config, "epoch": 3}
        if chance(random, 0.2):
            content = spoiled(random, content)
        torch.save(content, path)
    else:
        import safetensors.torch

        known = {"ghnfast_config": json.dumps(config, default=str), "ghnfast_format": "1", "ghnfast_epoch": "3"}
        known["ghnfast_trained_on"] = json.dumps(["mnist5k", [3, 32, 32]])
        if chance(random, 0.3):
            known[pick(random, list(known))] = str(odd_value(random, "3"))
        safetensors.torch.save_file({name: value.clone().contiguous() for name, value in state.items()}, path, known)
    load(path)


def spoil_weights(random: Random, state: dict[str, Any], any_object: bool) -> None:
    name = pick(random, list(state))
    weight = state[name]
    if not isinstance(weight, torch.Tensor) or weight.numel() > 1_000_000:  # one that was made large, see below
        return
    way = int(random.integers(9))
    if way == 0:
        del state[name]
    elif way == 1:
        state[f"{name}{pick(random, ('x', '.', '.weight', ' '))}"] = weight
    elif way == 2:
        state[name] = weight.to(pick(random, (torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8)))
    elif way == 3:
        state[name] = weight.reshape(-1)[: int(random.integers(weight.numel() + 1))].clone()
    elif way == 4:
        state[name] = weight[None].clone()
    elif way == 5:
        state[name] = torch.full_like(weight, float(pick(random, (np.nan, np.inf, 1e38, 0))))
    elif way == 6 and any_object:
        state[name] = torch.zeros(1).expand(10 ** int(random.integers(3, 12)))
    elif way == 7 and any_object:
        state[name] = pick(
            random, (None, "a", weight.to("meta"), weight.to_sparse(), [weight], weight.to(torch.complex64), 3)
        )
    else:
        state[name] = torch.zeros(tuple(int(random.integers(0, 2 + 2 * size)) for size in weight.shape))


# DeepNets-1M ---------------------------------------------------------------------------------------------------------


def copy_deepnets() -> None:
    for path in PUBLISHED.iterdir():
        shutil.copyfile(path, files.folder / path.name)
        files.keep(path)


def read_split(random: Random, split: str) -> None:
    dataset = DeepNets1M(split, files.folder)
    for index in integers_below(random, len(dataset)):
        item = dataset[index]
        if chance(random):
            assert len(item.graph) > 0
        else:
            item.build(light=True)


def integers_below(random: Random, count: int) -> list[int]:
    return [int(random.integers(count)) for _ in range(2)] if count else []


def restore(name: str) -> Path:
    path = files.folder / name
    path.write_bytes(files.contents[name])
    return path


def split_of(name: str, random: Random) -> str:
    return pick(random, ("test", "bnfree", "val", "deep")) if "eval" in name else name.split("_")[1].split(".")[0]


def deepnets_json(random: Random) -> None:
    name = pick(random, [name for name in files.contents if name.endswith(".json")])
    path = restore(name)
    if chance(random):
        path.write_bytes(damaged(random, files.contents[name]))
    else:
        tree = json.loads(files.contents[name])
        for _ in range(int(random.integers(1, 3))):
            tree = spoiled(random, tree)
        path.write_text(json.dumps(tree, default=str))
    try:
        read_split(random, split_of(name, random))
    finally:
        restore(name)


def deepnets_hdf5(random: Random) -> None:
    name = pick(random, [name for name in files.contents if name.endswith(".hdf5")])
    path, split = restore(name), split_of(name, random)
    if chance(random, 0.4):
        path.write_bytes(damaged(random, files.contents[name]))
    else:
        with h5py.File(path, "r+") as file:
            for group in file[split].values() if split in file else ():
                spoil_group(random, group)
    try:
        read_split(random, split)
    finally:
        restore(name)


def spoil_group(random: Random, group: Any) -> None:
    """Other arrays in the place of a network's."""
    name = pick(random, ("adj", "nodes"))
    if name not in group:
        return
    array = np.asarray(group[name])
    del group[name]
    way = int(random.integers(5))
    if way == 0:
        side = int(pick(random, (0, 1, 50_000, 10**6)))
        group.create_dataset(name, (side, side), array.dtype, chunks=True if side else None)
    elif way == 1:
        group[name] = np.zeros_like(array)
    elif way == 2:
        group[name] = array.astype(pick(random, (np.float64, np.int64, "S8", np.bool_)))
    elif way == 3:
        group[name] = spoil(random, array, 1)
    elif chance(random):
        group.create_group(name)


# Runs ----------------------------------------------------------------------------------------------------------------


def make_run() -> None:
    folder = files.folder / "run"
    train(make_config(RUN), folder)
    for name in (CHECKPOINT, CONFIG, LOG):
        files.keep(folder / name)


def run(random: Random) -> None:
    """A run that has ended is taken up once more."""
    folder = files.folder / "run"
    shutil.rmtree(folder)
    folder.mkdir()
    for name in (CHECKPOINT, CONFIG, LOG):
        (folder / name).write_bytes(files.contents[name])
    name = pick(random, (CHECKPOINT, CHECKPOINT, CONFIG, LOG, LOG))
    path = folder / name
    if chance(random, 0.05):
        path.unlink()
        path.mkdir()
    elif name == CHECKPOINT and chance(random, 0.7):
        spoil_checkpoint(random, path)
    else:
        path.write_bytes(damaged(random, files.contents[name]))
    # Other settings are another run, which may take as long as they say.
    config = make_config(read_config(folder / CONFIG))
    if config == make_config(RUN):
        train(config, folder)


def spoil_checkpoint(random: Random, path: Path) -> None:
    if chance(random):
        path.write_bytes(inside_of_archive(random, files.contents[CHECKPOINT]))
        return
    content = torch.load(io.BytesIO(files.contents[CHECKPOINT]), weights_only=True)
    torch.save(spoiled(random, content), path)


# Graphs --------------------------------------------------------------------------------------------------------------


def make_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))


def make_graph() -> None:
    files.contents["graph"] = pickle.dumps(ghnfast.trace(make_model(), input_shape=(3, 3, 3)))


def graph(random: Random) -> None:
    """A graph whose arrays somebody else made is refused, or predicted from."""
    made = pickle.loads(files.contents["graph"])
    fields = {name: copy.copy(getattr(made, name)) for name in made.__dataclass_fields__}
    for _ in range(int(random.integers(1, 3))):
        name = pick(random, list(fields))
        value = fields[name]
        if isinstance(value, np.ndarray):
            fields[name] = spoil(random, value, 1) if chance(random, 0.9) else odd_value(random)
        elif value is None or isinstance(value, int):
            fields[name] = extreme(random, np.int32)
        else:
            fields[name] = spoiled(random, value)
    found = pickle.loads(pickle.dumps(ghnfast.ArchGraph(**fields)))
    assert found.distances().shape == (len(found), len(found))
    ghn = small_ghn()
    ghn.embed(found)
    ghn.predict(make_model(), graph=found)


@functools.cache
def small_ghn() -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(**SMALL).eval()


TARGETS = {
    "checkpoint_bytes": Target(checkpoint_bytes, ERRORS, make_checkpoints),
    "checkpoint_values": Target(checkpoint_values, ERRORS, make_checkpoints),
    "deepnets_json": Target(deepnets_json, ERRORS, copy_deepnets),
    "deepnets_hdf5": Target(deepnets_hdf5, ERRORS, copy_deepnets),
    "run": Target(run, ERRORS, make_run),
    "graph": Target(graph, ERRORS, make_graph),
}
