"""GHN checkpoints: names to files, files to tensors and back, every one read safely.

Two formats hold the same thing, the constructor arguments of a GHN and its weights:

- the published layout, ``.pt`` or ``.pth``: ``torch.save({"state_dict": ..., "config": ..., "epoch": ...})``, read with
  ``weights_only=True``, so that nothing in the file is ever run;
- ``.safetensors``: the configuration as JSON in the metadata key ``ghnfast_config``, beside ``ghnfast_format`` (the
  version of this layout, "1") and, where they are known, ``ghnfast_epoch`` and ``ghnfast_trained_on`` (JSON: the name
  of the images and the shape of one; ``trained_on`` in the other format).

This module knows files and names; it does not know the GHN class, which imports it.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import io
import json
import logging
import os
import pickle
import pickletools
import re
import reprlib
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import _weights_only_unpickler, nn

from ghnfast.errors import CheckpointError
from ghnfast.files import compact_copies, in_words, replacing

_log = logging.getLogger("ghnfast")

_PUBLISHED_URL = "https://github.com/facebookresearch/ppuda/raw/main/checkpoints/"
_TIMEOUT_SECONDS = 30.0  # without an answer or a byte, not for the whole file
_TOTAL_SECONDS = 1800.0  # for a whole file; the largest has 30 MB
_MOST_BYTES = 1 << 28  # of a published file
_CHUNK_BYTES = 1 << 20

_PICKLE_SUFFIXES = (".pt", ".pth")
_SAFETENSORS_SUFFIX = ".safetensors"
_FORMAT = "1"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files that torch.save wrote before it wrote zip archives
_LEGACY_PICKLES = 4  # magic number, protocol, system, the object; the tensors' bytes follow
_SHOWN = 3  # as many offending keys as a message names, of each kind

_ACCEPTED = (
    'accepted: .pt or .pth in the published layout, torch.save({"state_dict": ..., "config": ..., "epoch": ...}), '
    "and .safetensors written by ghnfast"
)


DEFAULT = "ghn2-mnist5k"  # the GHN that comes with the package
_DEFAULT_FILE = Path(__file__).parent / "default" / f"{DEFAULT}.safetensors"


class PublishedFile(NamedTuple):
    """A published checkpoint: the file's name on the server and in the cache, and its git blob id."""

    file: str
    blob: str


# The blob ids are those of the tree that publishes the files: what `git hash-object FILE` prints.
PUBLISHED: Mapping[str, PublishedFile] = MappingProxyType(
    {
        "ghn1-cifar10": PublishedFile("ghn1_cifar10.pt", "0c97a283aefc0445dd357c08f1b36698149b8013"),
        "ghn2-cifar10": PublishedFile("ghn2_cifar10.pt", "4f290e0fad1b73066eeabb50be52e0c377d0b15b"),
        "mlp-cifar10": PublishedFile("mlp_cifar10.pt", "3a987c98b437fd2dfc603668a846f2b632ed28a3"),
        "ghn1-imagenet": PublishedFile("ghn1_imagenet.pt", "985ebeb350c4ae79e0553d88c07d986fa69c227b"),
        "ghn2-imagenet": PublishedFile("ghn2_imagenet.pt", "7b5d6733e9fdf0069bc6186cad3a0b1b54fda68d"),
    }
)


class TrainedOn(NamedTuple):
    """The images that a GHN was trained on: their name, and the shape (channels, height, width) of one."""

    data: str
    input_shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A GHN as a file holds it.

    Attributes:
        config: constructor arguments of ``ghnfast.GHN``: numbers, booleans, strings, None, and tuples of them.
        state_dict: the weights by name, on the CPU when they were read from a file.
        source: where it was read from, for messages.
        epoch: the epoch it was saved after, counted from 0, where it is known.
        trained_on: what it was trained on, where it is known.
    """

    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor] = field(repr=False)
    source: str
    epoch: int | None = None
    trained_on: TrainedOn | None = None


# ---------------------------------------------------------------------------------------------- names to files


def cache_folder() -> Path:
    """The folder of downloaded checkpoints: $GHNFAST_CACHE, else $XDG_CACHE_HOME/ghnfast, else ~/.cache/ghnfast.

    Nothing is created. Raises CheckpointError where there is no home folder to start from.
    """
    own, shared = os.environ.get("GHNFAST_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else Path(shared or "~/.cache") / "ghnfast"
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"no home folder to keep downloaded checkpoints in ({error}); set GHNFAST_CACHE to a folder"
        ) from error


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file that a source stands for.

    Args:
        source: ``DEFAULT``, which comes with the package; a name from ``PUBLISHED``, whose file is downloaded into
            ``cache_folder()`` on first use and verified on every use; or the path of an existing file. A name wins over
            a file of that name ("./NAME" is the file).

    Raises:
        CheckpointError: neither a name nor a file; or the file could not be downloaded or verified.
    """
    if source == DEFAULT:
        return _DEFAULT_FILE
    if isinstance(source, str) and source in PUBLISHED:
        return _cached(source)
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"a checkpoint is a name or a path, not {type(source).__name__}; {_names()}")
    given = os.fsdecode(source)
    path = os.path.expanduser(given)
    if os.path.isfile(path):  # unlike Path.is_file, no error on a text that cannot be a path
        return Path(path)
    what = "is a folder" if given and os.path.isdir(path) else "is neither a published checkpoint nor an existing file"
    shown = repr(given if len(given) < 300 else given[:300] + "...")
    raise CheckpointError(f"{shown} {what}{_suggestion(given)}; {_names()}")


def _names() -> str:
    names = ", ".join((DEFAULT, *PUBLISHED))
    return f"names: {names}; the path of a checkpoint file is accepted too"


def _suggestion(given: str) -> str:
    """The known name that is nearly what was given, or whose file's name was given, as a question; else nothing."""
    stem = os.path.basename(given).lower().replace("_", "-").removesuffix(".pt")
    close = difflib.get_close_matches(stem, (DEFAULT, *PUBLISHED), n=1, cutoff=0.7)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _cached(name: str) -> Path:
    """The verified file of a published name, downloaded where the cache has none or a damaged one."""
    published = PUBLISHED[name]
    target = cache_folder() / published.file
    try:
        _check_regular(target)
        with open(target, "rb") as file:
            if _blob_id(file) == published.blob:
                return target
        _log.info("%s is not the published file: downloading it again", target)
    except FileNotFoundError:
        _log.debug("%s is not there yet", target)
    except OSError as error:
        raise CheckpointError(f"the cached checkpoint {target} cannot be read: {in_words(error)}") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the cache folder {target.parent} cannot be made ({in_words(error)}); set GHNFAST_CACHE to another"
        ) from error
    _download(name, target)
    return target


def _download(name: str, target: Path) -> None:
    """Download a published file to ``target``, which appears only once it is whole and verified."""
    published = PUBLISHED[name]
    base = os.environ.get("GHNFAST_URL") or _PUBLISHED_URL
    url = f"{base.rstrip('/')}/{published.file}"
    _log.info("downloading '%s' from %s to %s", name, url, target)
    try:
        with replacing(target) as file:
            _fetch(url, file)
            blob = _blob_id(file)
            if blob != published.blob:
                raise CheckpointError(f"what came is not the published file (git blob id {blob}, not {published.blob})")
    # ValueError: a malformed address in GHNFAST_URL, or one of ours. URLError and time-outs are OSErrors.
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CheckpointError(
            f"could not download the checkpoint '{name}' from {url}: {in_words(error)}. Download it elsewhere and "
            f"place it by hand at {target}, or set GHNFAST_URL to another folder's address"
        ) from error


def _fetch(url: str, file: BinaryIO) -> None:
    """Stream an address into a file, in a limited time.

    A time-out of sockets starts again with each byte, also of the headers; so another thread does it, which is left
    alone where it takes too long.

    Raises:
        CheckpointError: it took too long, or fewer or more bytes came than the server announced or a file can have.
    """
    local = urllib.parse.urlsplit(url)
    if local.scheme == "file":
        _check_regular(Path(urllib.request.url2pathname(local.path)))
    deadline = time.monotonic() + _TOTAL_SECONDS
    failures: list[Exception] = []

    def work() -> None:
        try:
            _stream(url, file, deadline)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_TOTAL_SECONDS + 1)
    if thread.is_alive():
        raise CheckpointError(_too_slow())
    if failures:
        raise failures[0]


def _too_slow() -> str:
    return f"it is not there after {_TOTAL_SECONDS:g} seconds"


def _stream(url: str, file: BinaryIO, deadline: float) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "ghnfast"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        announced = response.headers.get("Content-Length")
        received = 0
        # What one call of the system gives: `read` would wait for all of it.
        while chunk := response.read1(_CHUNK_BYTES):
            received += len(chunk)
            if received > _MOST_BYTES:
                raise CheckpointError(f"more than {_MOST_BYTES} bytes came, the most that a published file can have")
            if time.monotonic() > deadline:
                raise CheckpointError(_too_slow())
            file.write(chunk)
    # urllib takes a connection that closes early for the end of the file.
    if announced is not None and int(announced) != received:
        raise CheckpointError(f"the connection was cut after {received} of {announced} bytes")


def _blob_id(file: BinaryIO) -> str:
    """The git blob id of an open file: sha1 of "blob SIZE\\0" and the content, in hexadecimal."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ reading


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint: .pt or .pth in the published layout, or .safetensors written by ``write``.

    Nothing in the file is run. Lists in the configuration become tuples, and ``max_shape`` is a tuple of 4 ints.

    Raises:
        CheckpointError: no such file, another format, a damaged or cut off file, anything in it but tensors and plain
            values, or parts that are missing or of the wrong type.
    """
    path = Path(path)
    suffix = _suffix(path, "read")
    try:
        _check_regular(path)
        empty = path.stat().st_size == 0
        with open(path, "rb"):
            pass  # only to know now that it may be opened: the readers below wrap such errors in their own
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {in_words(error)}") from error
    if empty:
        raise CheckpointError(f"the checkpoint {path} is empty (0 bytes); {_ACCEPTED}")
    return _read_safetensors(path) if suffix == _SAFETENSORS_SUFFIX else _read_published(path)


def _check_regular(path: Path) -> None:
    """A pipe would be waited for, and a device has no end.

    Raises:
        CheckpointError: it is there, and is neither a file nor a folder, which the system refuses in its own words.
        OSError: it is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a pipe, a device or a socket; a regular file is accepted")


def _suffix(path: Path, verb: str) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*_PICKLE_SUFFIXES, _SAFETENSORS_SUFFIX):
        raise CheckpointError(f"cannot {verb} the checkpoint {path}: its suffix is '{path.suffix}'; {_ACCEPTED}")
    return suffix


def _read_published(path: Path) -> Checkpoint:
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        _refuse_pickle(path, error)
    except Exception as error:  # a damaged file raises nearly anything: KeyError, struct.error, UnicodeDecodeError, ...
        raise CheckpointError(
            f"the checkpoint {path} is damaged, cut off or of another format ({in_words(error)}); {_ACCEPTED}"
        ) from None  # torch's own text recommends weights_only=False
    if not isinstance(data, dict):
        raise CheckpointError(f"the checkpoint {path} holds a {type(data).__name__}, not a dict; {_ACCEPTED}")
    missing = [key for key in ("state_dict", "config") if key not in data]
    if missing:
        raise CheckpointError(
            f"the checkpoint {path} has no {_list(missing)} (it has {_list(data) or 'no keys'}); {_ACCEPTED}"
        )
    checkpoint = _checked(data["config"], data["state_dict"], str(path), data.get("epoch"), data.get("trained_on"))
    _check_sizes(checkpoint.state_dict, path)
    return checkpoint


def _check_archive(path: Path) -> None:
    """Look at a zip archive's members, and at its pickle without the tensors' numbers, before any memory is taken.

    torch.load takes the sizes of storages and tensors from the pickle: it reads beyond a member that is shorter, and
    grows a storage that is smaller than its tensor. This runs the same restricted unpickler on the meta device, which
    has sizes and no memory.

    Raises:
        CheckpointError: a member is compressed, or a storage or tensor is larger than what the file has of it.
        pickle.UnpicklingError, and anything that damaged bytes make of unpickling.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"the checkpoint {path} is compressed, or of another format; {_ACCEPTED}")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise CheckpointError(f"the members of the archive {path} are larger than itself; {_ACCEPTED}")
        sizes = {member.filename: member.file_size for member in members}
        folder = members[0].filename.partition("/")[0] if members else ""
        if len(sizes) < len(members) or f"{folder}/data.pkl" not in sizes:
            raise CheckpointError(f"the archive {path} is damaged or of another format; {_ACCEPTED}")
        content = archive.read(f"{folder}/data.pkl")
    storages: dict[str, tuple[torch.UntypedStorage, int]] = {}

    def storage_of(found: tuple[Any, ...]) -> torch.TypedStorage:
        _, kind, key, _, count = found
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        claimed, there = count * dtype.itemsize, sizes.get(f"{folder}/data/{key}", -1)
        if not 0 <= claimed <= there:
            raise CheckpointError(
                f"a tensor in the checkpoint {path} claims {claimed} bytes of memory, and the file has "
                f"{max(there, 0)} of them: it is damaged, cut off or of another format; {_ACCEPTED}"
            )
        if key not in storages:
            storages[key] = torch.UntypedStorage(there, device="meta"), there
        return torch.TypedStorage(wrap_storage=storages[key][0], dtype=dtype, _internal=True)

    unpickler = _weights_only_unpickler.Unpickler(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = storage_of  # type: ignore[method-assign]
    unpickler.load()
    grown = next(((now.nbytes(), before) for now, before in storages.values() if now.nbytes() > before), None)
    if grown is not None:
        raise CheckpointError(
            f"a tensor in the checkpoint {path} claims {grown[0]} bytes of a memory of {grown[1]}; {_ACCEPTED}"
        )


def _check_sizes(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Tensors whose elements share memory (expanded ones, views of one storage) are small in a file and large in use.

    Raises:
        CheckpointError: a tensor has more elements than its memory, or all of them have more than the file.
    """
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{name} in the checkpoint {path} has the shape {_shape(tensor)}, {tensor.nbytes} bytes, in "
                f"{tensor.untyped_storage().nbytes()} bytes of memory; tensors with memory of their own are accepted"
            )
    total, most = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if total > most:
        raise CheckpointError(
            f"the tensors in the checkpoint {path} have {total} bytes, and the file has {most}: they share memory; "
            "tensors with memory of their own are accepted"
        )


def _refuse_pickle(path: Path, error: pickle.UnpicklingError) -> NoReturn:
    """Say why torch's restricted unpickler stopped: at something it does not build, or at bytes that are no pickle."""
    if not _is_whole_pickle(path):
        raise CheckpointError(f"the checkpoint {path} is damaged, cut off or of another format; {_ACCEPTED}") from None
    found = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    what = f" ('{found[1]}')" if found else ""
    raise CheckpointError(
        f"the checkpoint {path} contains something other than tensors and plain values{what} and was not loaded: such "
        f"a file can run any program when it is loaded; {_ACCEPTED}"
    ) from None  # torch's own text recommends weights_only=False


def _is_whole_pickle(path: Path) -> bool:
    """Whether the object in a file is a complete pickle. Reads its instructions and runs none."""
    if zipfile.is_zipfile(path):
        return True  # the directory of a zip archive is at its end, so nothing is cut off
    try:
        with open(path, "rb") as file:
            legacy = _LEGACY_MAGIC in [argument for _, argument, _ in pickletools.genops(file)]
            for _ in range(_LEGACY_PICKLES - 1 if legacy else 0):
                for _ in pickletools.genops(file):
                    pass  # genops raises where the pickle ends early
    except (ValueError, MemoryError, OverflowError):  # the last two: a damaged length
        return False
    return True


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, for the tensors of safe_open are the file itself, which may be replaced while they live.
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged, cut off or of another format ({in_words(error)}); {_ACCEPTED}"
        ) from error
    if metadata.get("ghnfast_format") != _FORMAT or "ghnfast_config" not in metadata:
        found = _list(f"{key}={value[:40]}" for key, value in metadata.items())
        raise CheckpointError(
            f"the checkpoint {path} is not one that this version of ghnfast writes: its metadata has "
            f"{found or 'nothing'}; accepted: 'ghnfast_format' = '{_FORMAT}' beside 'ghnfast_config'"
        )
    epoch = metadata.get("ghnfast_epoch")
    trained_on = metadata.get("ghnfast_trained_on")
    try:
        config = json.loads(metadata["ghnfast_config"])
        number = None if epoch is None else int(epoch)
        images = None if trained_on is None else json.loads(trained_on)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata of the checkpoint {path} is damaged ({in_words(error)}); accepted: a JSON object in "
            "'ghnfast_config', an integer in 'ghnfast_epoch', a JSON list in 'ghnfast_trained_on'"
        ) from error
    return _checked(config, tensors, str(path), number, images)


def _checked(config: object, state_dict: object, source: str, epoch: object, trained_on: object) -> Checkpoint:
    """A checkpoint of these parts, or a CheckpointError that says which of them is not what it should be."""
    if epoch is not None and type(epoch) is not int:
        raise CheckpointError(f"'epoch' in the checkpoint {source} is {_kind(epoch)}; accepted: an int or None")
    images = None if trained_on is None else _plain_trained_on(trained_on, source)
    return Checkpoint(_plain_config(config, source), _plain_tensors(state_dict, source), source, epoch, images)


def _plain_trained_on(value: object, source: str) -> TrainedOn:
    match value:
        case [str(data), [int(channels), int(height), int(width)]] if min(channels, height, width) > 0:
            return TrainedOn(data, (channels, height, width))
    raise CheckpointError(
        f"'trained_on' in the checkpoint {source} is {reprlib.repr(value)}; accepted: the name of the images and "
        "(channels, height, width)"
    )


def _plain_config(config: object, source: str) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise CheckpointError(
            f"'config' in the checkpoint {source} is {_kind(config)}; accepted: a dict of the constructor arguments"
        )
    plain: dict[str, Any] = {}
    for key, value in config.items():
        value = tuple(value) if isinstance(value, (list, tuple)) else value
        # Exact types: a numpy.float64 is a float, but a file with one cannot be read back safely.
        wrong = [part for part in (value if type(value) is tuple else (value,)) if not _is_plain_value(part)]
        if type(key) is not str or wrong:
            kind = _kind(wrong[0] if wrong else key)
            raise CheckpointError(
                f"config[{reprlib.repr(key)}] in the checkpoint {source} is {kind}; accepted: names with an "
                "int, float, bool, str or None each, or a list or tuple of these"
            )
        plain[key] = value
    if "max_shape" in plain:
        shape = plain["max_shape"]
        if type(shape) is not tuple or len(shape) != 4 or any(type(n) is not int or n < 1 for n in shape):
            raise CheckpointError(
                f"config['max_shape'] in the checkpoint {source} is {shape!r}; accepted: 4 positive ints "
                "(out, in, height, width)"
            )
    return plain


def _is_plain_value(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _plain_tensors(state_dict: object, source: str) -> dict[str, torch.Tensor]:
    if not isinstance(state_dict, dict):
        raise CheckpointError(
            f"'state_dict' in the checkpoint {source} is {_kind(state_dict)}; accepted: a dict of tensors by name"
        )
    wrong = [key for key, value in state_dict.items() if type(key) is not str or not _is_plain_tensor(value)]
    if wrong:
        kinds = [f"{key!r} ({_kind(state_dict[key])})" for key in wrong]
        raise CheckpointError(
            f"'state_dict' in the checkpoint {source} has {_some(kinds)}; accepted: names with a dense tensor each"
        )
    return {name: tensor.detach() for name, tensor in state_dict.items()}


def _is_plain_tensor(value: object) -> bool:
    """Dense numbers in memory: not sparse, nested, quantized, or on the meta device."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_nested or value.is_quantized or value.is_meta)


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor on {value.device}, {value.layout}, {value.dtype}"
    return f"of type {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")


def _list(keys: Iterable[object]) -> str:
    return _some([repr(key) for key in keys], shown=8)


def _some(items: list[str], shown: int = _SHOWN) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


# ------------------------------------------------------------------------------------------------------ writing


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint to .safetensors, or to .pt or .pth in the published layout, by the path's suffix.

    The file appears whole or not at all: a file that was there stays as it is until the new one is on the disk.

    Raises:
        CheckpointError: another suffix, a configuration or tensors that could not be read back, or the file could not
            be written.
    """
    path = Path(path)
    suffix = _suffix(path, "write")
    images = checkpoint.trained_on and (checkpoint.trained_on.data, list(checkpoint.trained_on.input_shape))
    checked = _checked(checkpoint.config, checkpoint.state_dict, f"for {path}", checkpoint.epoch, images)
    tensors = compact_copies(checked.state_dict)
    try:
        with replacing(path) as file:
            if suffix == _SAFETENSORS_SUFFIX:
                metadata = {"ghnfast_format": _FORMAT, "ghnfast_config": json.dumps(checked.config)}
                if checked.epoch is not None:
                    metadata["ghnfast_epoch"] = str(checked.epoch)
                if images is not None:
                    metadata["ghnfast_trained_on"] = json.dumps(images)
                # Not save_file: what it writes only its owner may read.
                file.write(safetensors.torch.save(tensors, metadata))
            else:
                content = {"state_dict": tensors, "config": checked.config, "epoch": checked.epoch}
                torch.save(content if images is None else {**content, "trained_on": images}, file)
    # KeyError: how safetensors says that it has no such type of numbers.
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} could not be written: {in_words(error)}") from error


# ------------------------------------------------------------------------------------------------ into a module


def fitted_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    rename: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> dict[str, torch.Tensor]:
    """A checkpoint's weights as a module's ``load_state_dict`` takes them, all of them checked.

    ``rename`` gives the names that files have to the module's weights, and to those of a file that has the module's.
    The 1x1 convolution weights (out, in, 1, 1) may be given as (out, in), as the GHN-3 code base stores them. The
    module may be on the meta device: only its names, shapes and dtypes count.

    Raises:
        CheckpointError: missing or unexpected names, wrong shapes, values that are no floating-point numbers, NaN or
            infinite values; it names the first few of each.
    """
    expected = rename({name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)})
    given = rename(_plain_tensors(checkpoint.state_dict, checkpoint.source))
    faults: dict[str, list[str]] = {
        "missing keys": [f"{name} {_shape(value)}" for name, value in expected.items() if name not in given],
        "unexpected keys": [f"{name} {_shape(value)}" for name, value in given.items() if name not in expected],
    }
    fitted: dict[str, torch.Tensor] = {}
    for name in [name for name in expected if name in given]:
        fault, what = _misfit(expected[name], given[name])
        if fault:
            faults.setdefault(fault, []).append(f"{name} {what}")
        else:
            fitted[name] = given[name].reshape(expected[name].shape)
    found = [f"{fault}: {_some(names)}" for fault, names in faults.items() if names]
    if found:
        raise CheckpointError(
            f"the checkpoint {checkpoint.source} does not fit its configuration, and nothing was loaded; "
            f"{'; '.join(found)}. Accepted: finite floating-point weights with the names and shapes that the "
            "configuration asks for"
        )
    return fitted


def _misfit(expected: torch.Tensor, given: torch.Tensor) -> tuple[str, str]:
    """What keeps a given tensor from taking an expected one's place: the kind of fault and its details, or ("", "")."""
    as_matrix = expected.shape[:2] if expected.dim() == 4 and expected.shape[2:] == (1, 1) else expected.shape
    if given.shape not in (expected.shape, as_matrix):
        return "wrong shapes", f"expected {_shape(expected)}, given {_shape(given)}"
    if not given.is_floating_point():
        return "no floating-point numbers", f"expected {expected.dtype}, given {given.dtype}"
    # After the conversion, for 1e300 is infinite in float32.
    if not torch.isfinite(given.to(expected.dtype)).all():
        return "NaN or infinite values", f"{_shape(given)} in {expected.dtype}"
    return "", ""


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
