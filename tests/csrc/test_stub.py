"""ghnfast/_C.pyi says what the extension has: names, parameters, kinds of arrays, and what can be set.

pybind11 writes the signatures of functions into their docstrings, as Python.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

STUB = Path(__file__).parents[2] / "ghnfast" / "_C.pyi"
# What is compared of a type, and what pybind11 calls what converts to one.
SCALARS = {"int8", "uint8", "int32", "int64", "float32", "float64", "void", "int", "float", "bool", "str"}
ACCEPTED = {"SupportsInt": {"int"}, "SupportsFloat": {"float"}}
# What a stub may say in more detail than a docstring, by the name in the docstring.
VAGUE = {"object", "tuple", "list", "dict"}


class Signature(NamedTuple):
    """Parameters, without `self`: (name, whether it has a default, the scalars in its type); and those returned."""

    parameters: tuple[tuple[str, bool, frozenset[str]], ...]
    returned: frozenset[str] | None  # None where a docstring does not say


class Class(NamedTuple):
    methods: dict[str, Signature]
    fields: dict[str, tuple[bool, frozenset[str]]]  # whether each can be set, and the scalars in its type


def scalars(annotation: ast.expr | None, meant: dict[str, set[str]]) -> frozenset[str]:
    """The scalars in an annotation, those of arrays too; `meant` are those that a type variable stands for."""
    found: set[str] = set()
    for node in ast.walk(annotation) if annotation is not None else ():
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        found |= {**ACCEPTED, **meant}.get(name, {name} & SCALARS)
    return frozenset(found)


def signature_of(function: ast.FunctionDef, meant: dict[str, set[str]] | None = None) -> Signature:
    arguments = function.args
    assert not arguments.vararg
    assert not arguments.kwarg
    assert not arguments.kwonlyargs
    parameters = arguments.posonlyargs + arguments.args
    required = len(parameters) - len(arguments.defaults)
    described = tuple(
        (parameter.arg, index >= required, scalars(parameter.annotation, meant or {}))
        for index, parameter in enumerate(parameters)
        if parameter.arg != "self"
    )
    return Signature(described, scalars(function.returns, meant or {}))


# What the stub says -------------------------------------------------------------------------------------------------


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in function.decorator_list)


def class_in_stub(node: ast.ClassDef, meant: dict[str, set[str]]) -> Class:
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    methods = {item.name: signature_of(item, meant) for item in functions if not is_property(item)}
    fields = {item.name: (False, scalars(item.returns, meant)) for item in functions if is_property(item)}
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            assert isinstance(item.target, ast.Name)
            fields[item.target.id] = (True, scalars(item.annotation, meant))
    return Class(methods, fields)


def read_stub(text: str) -> dict[str, Signature | Class]:
    """What a stub offers; generic classes by the names of their aliases, such as `GhnFloat = Ghn[float32]`."""
    body = ast.parse(text).body
    generic = {
        node.name: node
        for node in body
        if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Subscript) for base in node.bases)
    }
    found: dict[str, Signature | Class] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = signature_of(node, {"T": {"float32", "float64"}})
        elif isinstance(node, ast.ClassDef) and node.name not in generic:
            found[node.name] = class_in_stub(node, {})
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            (target,) = node.targets
            of = node.value.value
            if isinstance(target, ast.Name) and isinstance(of, ast.Name) and of.id in generic:
                found[target.id] = class_in_stub(generic[of.id], {"T": set(scalars(node.value.slice, {}))})
    return found


# What the extension says --------------------------------------------------------------------------------------------


def signature_in_docstring(name: str, docstring: str) -> Signature:
    """That of a function of the extension; overloads differ in the scalars of arrays only."""
    lines = re.findall(rf"^(?:\d+\. )?{name}(\(.*\) -> .*)$", docstring, re.MULTILINE)
    lines = [line for line in lines if line != "(*args, **kwargs)"]
    assert lines, f"{name} has no signature: {docstring}"
    functions = [ast.parse(f"def {name or 'getter'}{line}: ...").body[0] for line in lines]
    signatures = [signature_of(function) for function in functions if isinstance(function, ast.FunctionDef)]
    first, *others = signatures
    for other in others:
        assert [parameter[:2] for parameter in other.parameters] == [parameter[:2] for parameter in first.parameters]
    merged = tuple(
        (parameter[0], parameter[1], frozenset().union(*(same[2] for same in together)))
        for parameter, together in zip(
            first.parameters, zip(*(each.parameters for each in signatures), strict=True), strict=True
        )
    )
    vague = any(isinstance(f, ast.FunctionDef) and ast.unparse(f.returns or f) in VAGUE for f in functions)
    returned = None if vague else frozenset().union(*(each.returned or frozenset() for each in signatures))
    return Signature(merged, returned)


def class_of_extension(kind: type) -> Class:
    methods, fields = {}, {}
    for name, member in vars(kind).items():
        if isinstance(member, property):
            getter = signature_in_docstring("", str(member.fget.__doc__))
            fields[name] = (member.fset is not None, getter.returned or frozenset())
        elif name == "__init__" and "Initialize self" in str(member.__doc__):
            continue  # it cannot be made from Python
        elif callable(member) and (name == "__init__" or not name.startswith("_")):
            methods[name] = signature_in_docstring(name, str(member.__doc__))
    return Class(methods, fields)


def read_extension(core: ModuleType) -> dict[str, Signature | Class]:
    found: dict[str, Signature | Class] = {}
    for name, member in vars(core).items():
        if not name.startswith("_"):
            is_class = isinstance(member, type)
            found[name] = class_of_extension(member) if is_class else signature_in_docstring(name, member.__doc__)
    return found


def differences(stub: Any, extension: Any, name: str) -> list[str]:
    """What a stub says otherwise than the extension, about one of its members."""
    if isinstance(stub, Class) and isinstance(extension, Class):
        found = [] if stub.fields == extension.fields else [f"{name} has fields {extension.fields}, not {stub.fields}"]
        for method in sorted(stub.methods.keys() | extension.methods.keys()):
            found += differences(stub.methods.get(method), extension.methods.get(method), f"{name}.{method}")
        return found
    if isinstance(stub, Signature) and isinstance(extension, Signature):
        same = stub.parameters == extension.parameters and extension.returned in (None, stub.returned)
        return [] if same else [f"{name} is {extension}, not {stub}"]
    return [f"{name} is {extension} in the extension, {stub} in the stub"]


def all_differences(core: ModuleType, text: str) -> list[str]:
    stub, extension = read_stub(text), read_extension(core)
    found = []
    for name in sorted(stub.keys() | extension.keys()):
        found += differences(stub.get(name), extension.get(name), name)
    return found


def test_stub_is_that_of_the_extension(core: ModuleType) -> None:
    assert all_differences(core, STUB.read_text()) == []


CHANGES = {
    "a function is missing": (r"def is_writable\(.*\n", ""),
    "there is one more function": (r"^(def is_writable)", r"def more() -> None: ...\n\1"),
    "a parameter is missing": (r"address: int, bytes: int", "address: int"),
    "there is one more parameter": (r"address: int, bytes: int", "address: int, bytes: int, more: int"),
    "a parameter has another name": (r"address: int, bytes: int", "address: int, size: int"),
    "parameters change places": (r"address: int, bytes: int", "bytes: int, address: int"),
    "a default is missing": (r"( \| None) = None", r"\1"),
    "an array has other numbers": (r"kinds: NDArray\[int8\]", "kinds: NDArray[int32]"),
    "an overloaded array has one kind of numbers": (r"grad: NDArray\[T\]", "grad: NDArray[float32]"),
    "a result has other numbers": (r"node_cells\(self\) -> NDArray\[int32\]", "node_cells(self) -> NDArray[int64]"),
    "a class is missing": (r"class TrainingRanges:\n.*\n", ""),
    "a class has another name": (r"^GhnFloat =", "GhnHalf ="),
    "a method is missing": (r"    def changed\(.*\n", ""),
    "a method has one more parameter": (r"def changed\(self\)", "def changed(self, more: int)"),
    "a flag is a number": (r"check: bool", "check: int"),
    "a number is a string": (r"threads: int", "threads: str"),
    "a field is missing": (r"    fc_width: int\n", ""),
    "a field has another type": (r"fc_width: int", "fc_width: float"),
    "a field can be set": (r"    @property\n    def begin\(self\) -> int: ...\n", "    begin: int\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stub_that_differs_is_noticed(core: ModuleType, change: str) -> None:
    pattern, replacement = CHANGES[change]
    text, count = re.subn(pattern, replacement, STUB.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    assert len(all_differences(core, text)) in (1, 2)
