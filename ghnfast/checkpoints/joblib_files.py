"""Files of joblib: the published GHN-3s. One pickle of plain values and tensors, compressed or not.

A pickle is a program, and Python's unpickler runs it. This one knows the instructions that make plain values, and three
names: what they stand for is done here, and nothing of the file is run. It reads the numbers of a tensor from the file
into the tensor's memory: no second copy of them lies in the memory of the program, as it does in Python's.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import in_words
from ..memory import is_out_of_memory
from ..refusals import verdict
from .contents import ACCEPTED, as_type
from .space import Room
from .streams import Part, opened
from .torch_files import dangerous, global_in
from .wording import kind_of

MOST_INSTRUCTIONS = 1 << 20  # the largest published GHN has some 15,000
MOST_TEXT, MOST_INTEGER = 1 << 12, 16  # bytes
NEWEST_PROTOCOL = 5


class Damaged(CheckpointError):
    """The pickle is none, or ends early."""


class Foreign(CheckpointError):
    """The pickle has something in it that no weights need: the text says what."""


class Numbers:
    """The content of a storage, as a flat tensor."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


class Name(str):
    """One of `NAMES`."""


def read_dump(path: Path, head: bytes, dtype: torch.dtype | None) -> tuple[object, int]:
    """What a file of joblib holds, and how many bytes that has at most.

    Args:
        head: what the file begins with.
        dtype: of floating-point tensors; None: as in the file.

    Raises:
        CheckpointError: anything but plain values and tensors is in it, it is damaged or cut off, or too large for the
            memory that there is.
    """
    room = Room(str(path))
    try:
        with open(path, "rb") as file:
            stream, most = opened(file, head, path)
            if stream is file:
                Room(str(path)).take(most)  # nearly all of the file is numbers
            found = Machine(stream, most, dtype, room).run()
            if stream is not file and stream.read(1):  # which reads, and compares, the checksum at the end
                raise Damaged("it goes on after its end")
            return found, most
    except Foreign as error:
        raise dangerous(path, str(error)) from None
    except Exception as error:  # a damaged file raises nearly anything
        if is_out_of_memory(error):
            raise room.refusal(least=True) from None
        if isinstance(error, CheckpointError) and not isinstance(error, Damaged):
            raise
        raise CheckpointError(
            f"the checkpoint {path} {verdict(error, 'is damaged, cut off or of another format')} ({in_words(error)}); "
            f"{ACCEPTED}"
        ) from None


class Machine:
    """Runs a pickle's instructions, those of `INSTRUCTIONS` only."""

    def __init__(self, stream: io.BufferedReader, most: int, dtype: torch.dtype | None, room: Room) -> None:
        self.stream, self.most, self.dtype, self.room = stream, most, dtype, room
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        for _ in range(MOST_INSTRUCTIONS):
            code = self.take(1)
            if code == pickle.STOP:
                return self.pop()
            if code not in INSTRUCTIONS:
                raise Foreign(f"the pickle instruction {code!r}")
            INSTRUCTIONS[code](self)
        raise Foreign(f"more than {MOST_INSTRUCTIONS} pickle instructions")

    # The file --------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise Damaged("it ends early")
        return data

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        text = self.stream.readline(MOST_TEXT)
        if not text.endswith(b"\n"):
            raise Damaged("a name in it has no end")
        return text[:-1].decode()

    def text(self, size: int) -> None:
        length = self.number(size)
        if length > MOST_TEXT:
            raise Foreign(f"a text of {length} bytes")
        self.stack.append(self.take(length).decode("utf-8"))

    def integer(self) -> None:
        length = self.number(1)
        if length > MOST_INTEGER:
            raise Foreign(f"an integer of {length} bytes")
        self.stack.append(self.number(length, signed=True))

    def numbers(self, size: int) -> None:
        """Bytes, which are the content of a storage as `torch.save` writes it."""
        length = self.number(size)
        if length > self.most:
            raise Damaged("it ends early")
        self.room.take(length, least=True)
        part = Part(self.stream, length)
        try:
            storage = torch.load(part.buffered(), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise Foreign(global_in(error) or "bytes that are no tensor's") from None
        if not isinstance(storage, torch.TypedStorage):
            raise Foreign(f"bytes that are {kind_of(storage)}")
        memory = storage._untyped_storage  # its public methods warn that the class will go
        if memory.nbytes() > length or not part.is_read():
            raise Damaged("it ends early")
        flat = torch.empty(0, dtype=storage.dtype, device="cpu").set_(memory)
        if self.dtype is not None and flat.is_floating_point():  # what is converted is there twice for a moment
            self.room.take(max(0, self.dtype.itemsize - flat.element_size()) * flat.numel(), least=True)
        self.stack.append(Numbers(as_type(flat, self.dtype)))

    # The stack -------------------------------------------------------------------------------------------------------

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Damaged("an instruction lacks its arguments")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise Damaged("an instruction lacks its arguments")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, size: int) -> None:
        key = self.number(size)
        if key not in self.memo:
            raise Damaged("it uses what it has not made")
        self.stack.append(self.memo[key])

    # What is made ----------------------------------------------------------------------------------------------------

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def named(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise Damaged("a name in it is no text")
        if f"{module}.{name}" not in NAMES:
            raise Foreign(f"'{module}.{name}'")
        self.stack.append(Name(f"{module}.{name}"))

    def stack_named(self) -> None:
        name, module = self.pop(), self.pop()
        self.named(module, name)

    def call(self) -> None:
        arguments, name = self.pop(), self.pop()
        if type(name) is not Name or type(arguments) is not tuple:
            raise Foreign("a call of something that is no function")
        self.stack.append(NAMES[name](arguments))

    def build(self) -> None:
        """The attributes of a dictionary, such as the versions of modules in a state dict: nothing needs them."""
        state, target = self.pop(), self.top()
        if type(target) is not OrderedDict or type(state) is not dict:
            raise Foreign(f"attributes of something {kind_of(target)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise Damaged("items of something that has none")
        if any(type(key) is not str for key in items[::2]):
            raise Foreign("a dict whose keys are no text")
        target.update(zip(items[::2], items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise Damaged("items of something that has none")
        target.extend(items)


def made_dict(arguments: tuple[Any, ...]) -> OrderedDict[str, Any]:
    if arguments:
        raise Foreign("an OrderedDict with arguments")
    return OrderedDict()


def made_storage(arguments: tuple[Any, ...]) -> Numbers:
    match arguments:
        case (Numbers() as numbers,):
            return numbers
    raise Foreign("a storage of something that is not its bytes")


def made_tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Numbers(flat=flat), int(offset), tuple(size), tuple(stride), *_):
            pass
        case _:
            raise Foreign("a tensor of something that is no storage")
    counts = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(count) is not int or not 0 <= count < 1 << 48 for count in counts):
        raise Damaged("a tensor in it has no shape")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if elements else 0
    if elements > len(flat) or last >= max(1, len(flat)):
        raise Damaged(f"a tensor in it claims {max(elements, last + 1)} elements of a memory of {len(flat)}")
    return flat.as_strided(size, stride, offset)


NAMES: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": made_dict,
    "torch._utils._rebuild_tensor_v2": made_tensor,
    "torch.storage._load_from_bytes": made_storage,
}


def protocol(machine: Machine) -> None:
    if (number := machine.number(1)) > NEWEST_PROTOCOL:
        raise Foreign(f"pickle protocol {number}")


INSTRUCTIONS: dict[bytes, Callable[[Machine], object]] = {
    pickle.PROTO: protocol,
    pickle.FRAME: lambda m: m.take(8),  # only a hint at how much to read at once
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.pop,
    pickle.POP_MARK: Machine.since_mark,
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINGET: lambda m: m.recall(1),
    pickle.LONG_BINGET: lambda m: m.recall(4),
    pickle.NONE: lambda m: m.stack.append(None),
    pickle.NEWTRUE: lambda m: m.stack.append(True),
    pickle.NEWFALSE: lambda m: m.stack.append(False),
    pickle.BININT: lambda m: m.stack.append(m.number(4, signed=True)),
    pickle.BININT1: lambda m: m.stack.append(m.number(1)),
    pickle.BININT2: lambda m: m.stack.append(m.number(2)),
    pickle.LONG1: Machine.integer,
    pickle.BINFLOAT: lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    pickle.SHORT_BINUNICODE: lambda m: m.text(1),
    pickle.BINUNICODE: lambda m: m.text(4),
    pickle.BINUNICODE8: lambda m: m.text(8),
    pickle.SHORT_BINBYTES: lambda m: m.numbers(1),
    pickle.BINBYTES: lambda m: m.numbers(4),
    pickle.BINBYTES8: lambda m: m.numbers(8),
    pickle.EMPTY_TUPLE: lambda m: m.tuple_of(0),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.stack.append(tuple(m.since_mark())),
    pickle.EMPTY_LIST: lambda m: m.stack.append([]),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.EMPTY_DICT: lambda m: m.stack.append({}),
    pickle.SETITEM: Machine.set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.GLOBAL: lambda m: m.named(m.line(), m.line()),
    pickle.STACK_GLOBAL: Machine.stack_named,
    pickle.REDUCE: Machine.call,
    pickle.BUILD: Machine.build,
}
