"""The house: what imports what, and how long files and functions are. CONTRIBUTING.md says where things go."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ghnfast"
# From the ground up: what stands in one line may import what stands in the lines above it, and nothing else.
FLOORS = (
    "errors starting plain",
    "optional files memory randomness weightless progress figures surroundings",
    "locks refusals",
    "graph",
    "tracing checkpoints",
    "kernels",
    "ops",
    "prediction",
    "nn tallies",
    "predict calibration postprocessing vision",
    "profiling deepnets spaces",
    "families",
    "training",
    "properties",
    "cli",
    "__main__",
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
MOST_LINES, MOST_FUNCTION_LINES = 450, 70


def modules() -> dict[str, Path]:
    """{dotted name: file} of all modules."""
    found = {}
    # `ghnfast/kernels` is a link in a clone, which not every Python follows.
    files = {file.relative_to(ROOT): file for file in PACKAGE.rglob("*.py") if "kernels" not in file.parts}
    files |= {Path("ghnfast") / file.relative_to(ROOT): file for file in (ROOT / "kernels").glob("*.py")}
    for place, file in sorted(files.items()):
        parts = place.with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports when it runs: not those for the type checker alone."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_text())
    hidden = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in hidden or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.add(inner if inner in MODULES else base)
    return {module for module in found if module in MODULES} - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def floor_of(name: str) -> int:
    return FLOOR[name.split(".")[1]]


def test_no_module_imports_itself_through_others() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in IMPORTS[name]:
                # A package's `__init__` offers what its modules have; they do not go through it.
                if not name.startswith(f"{other}."):
                    visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"ghnfast"}))
def test_a_module_imports_from_the_floors_below(name: str) -> None:
    own = name.split(".")[1]
    for other in sorted(IMPORTS[name] - {"ghnfast"}):
        if other.split(".")[1] != own:
            assert floor_of(other) < floor_of(name), f"{name} imports {other}"


def test_every_module_has_a_floor() -> None:
    assert {name.split(".")[1] for name in MODULES if "." in name} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(name for name, file in MODULES.items() if file.name == "__init__.py"))
def test_a_package_says_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    if name in ("ghnfast.ops", "ghnfast.kernels"):
        return  # folders of folders
    assert module.__all__, name
    assert all(hasattr(module, each) for each in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


SOURCES = [*MODULES.values(), *sorted((ROOT / "csrc").rglob("*.?pp"))]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES


# What a kernel holds in registers it cannot hand to another function without a word for each.
NAMES = sorted(name for name in MODULES if not name.startswith("ghnfast.kernels."))


@pytest.mark.parametrize("name", NAMES)
def test_functions_need_no_scrolling(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = (node.body[1] if documented and len(node.body) > 1 else first).lineno
            lines = (node.end_lineno or start) - start + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("name", MODULES)
def test_paths_are_asked_about_without_an_error(name: str) -> None:
    """Where the file system refuses, as it does names that are too long, `Path.exists()` raises what nobody expects."""
    nodes = [node for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Attribute)]
    asked = [ast.unparse(node) for node in nodes if node.attr in ("exists", "is_dir", "is_file", "is_symlink")]
    assert set(asked) <= {"os.path.exists", "entry.is_file"}, "os.path.isdir and its like say False"
