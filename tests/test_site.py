"""The README and the site: every code block runs, every command is one, every public name is in the reference."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_hooks
import yaml

from ghnfast.cli.program import make_parser
from ghnfast.nn import HYPERNETS
from ghnfast.training import make_config, read_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
PACKAGES = ("", ".checkpoints", ".deepnets", ".families", ".graph", ".nn", ".postprocessing", ".prediction",
            ".properties", ".spaces", ".tracing", ".training")  # fmt: skip


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a page in a language, each with the number of its first line."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


@pytest.mark.parametrize(
    "page", [page for page in TEXTS if blocks(page, "python")], ids=lambda page: str(page.relative_to(ROOT))
)
@pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # torch.export's own
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, as a reader runs them; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    with unittest.mock.patch.dict(HYPERNETS):  # which a page may add to
        for line, code in blocks(page, "python"):
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, in words: of its blocks for the shell, and of indented ones."""
    lines = [line for _, text in blocks(page, "sh") for line in text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^ {4}(\S.*)", page.read_text().replace("\\\n", " "), re.M)
    for line in lines:
        if re.match(r"(ghnfast|torchrun|python|make) ", line):
            yield shlex.split(line, comments=True)


class Parsed(Exception):
    """The arguments of a program were understood."""


def stop_after_parsing(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    if parser.parse_known_args(arguments)[1]:
        parser.error(f"not known: {parser.parse_known_args(arguments)[1]}")
    raise Parsed


def understand(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises what is wrong with a command. What it does is tested where it is."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif "ghnfast" in words:
        given = make_parser().parse_args(words[words.index("ghnfast") + 1 :])
        if hasattr(given, "values"):  # of a configuration
            make_config(dict(value.split("=", 1) for value in given.values))
            if "--config" in words and given.config != "cifar.toml":
                known = ROOT / given.config
                read_config(known if known.exists() else given.config)
    else:
        assert program == "python"
        assert (ROOT / rest[0]).is_file()
        if rest[0].startswith("examples/"):
            monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after_parsing)
            with pytest.raises(Parsed):
                importlib.import_module(Path(rest[0]).stem).main(rest[1:])
            monkeypatch.undo()


def test_commands_are_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(page, words) for page in TEXTS for words in commands(page)]
    assert len(found) >= 50
    assert {words[0] for _, words in found} == {"ghnfast", "torchrun", "python", "make"}
    for page, words in found:
        try:
            understand(words, monkeypatch)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page}: {shlex.join(words)}: {error}") from error


def test_commands_within_sentences_are_ones() -> None:
    known = set(site_hooks.commands())
    for page in TEXTS:
        assert set(re.findall(r"`ghnfast ([a-z]\w*)", page.read_text())) <= known, page


def documented() -> set[int]:
    """What the reference has an entry for, by identity."""
    found = set()
    for page in (DOCS / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
            found.add(id(resolve(name)))
    return found


def resolve(name: str) -> object:
    """What a dotted name stands for: an attribute rather than a module of this name."""
    package, _, attribute = name.rpartition(".")
    module = sys.modules.get(package) or importlib.import_module(package)
    return getattr(module, attribute) if hasattr(module, attribute) else importlib.import_module(name)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    module = importlib.import_module(f"ghnfast{package}")
    known = documented()
    errors = importlib.import_module("ghnfast.errors")
    for name in module.__all__:
        if name != "__version__" and not hasattr(errors, name):
            assert id(getattr(module, name)) in known, f"{module.__name__}.{name}"


def test_every_package_that_offers_something_is_looked_at() -> None:
    """Operations and kernels are folders of folders; commands are documented as such."""
    packages = {f".{path.parent.name}" for path in (ROOT / "ghnfast").glob("*/__init__.py")}
    assert packages - {".ops", ".kernels", ".cli"} == set(PACKAGES) - {""}


def test_every_page_is_in_the_contents() -> None:
    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text().replace("docs/site_hooks.py", "x"))["nav"]
    listed = {page for section in contents for pages in section.values() for page in pages}
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES}


def test_commands_of_the_reference_are_all_of_them() -> None:
    page = site_hooks.on_page_markdown((DOCS / "reference" / "commands.md").read_text())
    for name in site_hooks.commands():
        assert f"## ghnfast {name}\n" in page
    assert page.count("usage: ghnfast ") == len(site_hooks.commands())
    assert site_hooks.on_page_markdown("other") == "other"


@pytest.mark.parametrize("name", site_hooks.DRAWN)
def test_drawings_are_what_the_package_draws(name: str) -> None:
    assert (site_hooks.FIGURES / f"{name}.svg").read_text() == site_hooks.drawing(name), "run `make figures`"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Strictly: links and anchors lead somewhere. No address but of the machine itself can be reached."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **proxies, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path) for path in tmp_path.rglob("index.html")}
    assert {
        Path(page.relative_to(DOCS).with_suffix("")) / "index.html" for page in PAGES if page.stem != "index"
    } <= pages
    for page in pages:
        text = (tmp_path / page).read_text()
        # Nothing of others is fetched when a page is read.
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!github\.com/ghnfast)[^"]+', text), (
            page
        )
    assert "times faster" in (tmp_path / "performance" / "index.html").read_text()
