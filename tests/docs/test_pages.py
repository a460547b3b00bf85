"""The pages: what they name is there, and what they show runs as it is written."""

import importlib.util
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mlp_jax.config.compose import compose
from mlp_jax.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
GENERATED = {ROOT / "docs" / name for name in ("configuration.md", "mistakes.md")}
"""docs/build.py makes them."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
NAMED = re.compile(r"`((?:conf|docs|experiments|mlp_jax|requirements|tests)/[\w./]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MISTAKE = re.compile(r"^\$ python -m mlp_jax.train (.*)\nerror: (.*)\n", re.MULTILINE)
PLACEHOLDERS = re.compile(r"NAME|KEY|RUN|EXPERIMENT|FAULT|REPOSITORY|…")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [text for of, text in BLOCK.findall(page.read_text()) if of == language]


def commands() -> Iterator[str]:
    """The commands of all pages, without those that stand for many."""
    for page in PAGES:
        for block in blocks(page, ""):
            for line in MISTAKE.sub("", block).replace("\\\n", " ").splitlines():
                if "python -m " in line and not PLACEHOLDERS.search(line):
                    yield line.partition("python -m ")[2]


def overrides(words: list[str]) -> list[str]:
    """Those of a job: the first value of what is swept, the least of what is searched."""
    chosen = []
    for override in OverridesParser.create().parse_overrides(words):
        text = override.input_line or ""
        if override.is_discrete_sweep():
            text = f"{text.partition('=')[0]}={next(override.sweep_string_iterator())}"
        elif override.is_interval_sweep():
            text = f"{text.partition('=')[0]}={override.value().start}"  # type: ignore[union-attr]
        if not text.startswith("hydra"):
            chosen.append(text)
    return chosen


def test_each_mistake_gets_its_lines() -> None:
    lines = runpy.run_path(str(ROOT / "docs" / "mistakes.py"))["rows"]()
    assert len(lines) > 25
    for what, line in lines.items():
        assert len(line) < 1000 and line.count("\n") <= 5 and "Traceback" not in line, what


def test_the_readme_is_a_poster() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@every_page
def test_what_a_page_links_to_is_there(page: Path) -> None:
    files = {(page.parent / link).resolve() for link in LINK.findall(page.read_text())}
    assert not [file for file in files - GENERATED if not file.exists()]


@every_page
def test_the_files_and_commands_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    assert not [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    modules = set(re.findall(r"python -m ((?:mlp_jax|experiments|tests)[\w.]*)", text))
    assert not [name for name in modules if importlib.util.find_spec(name.rstrip(".")) is None]


@pytest.mark.parametrize("command", sorted({*commands()}))
def test_a_command_is_quoted_for_every_shell_and_asks_for_what_there_is(command: str) -> None:
    bare = re.sub(r"'[^']*'|\s#.*", "", command)
    assert not set(bare) & set("[](){}*?<>"), "zsh reads these otherwise"
    module, *words = shlex.split(command, comments=True)
    if module in ("mlp_jax.train", "mlp_jax.gradcheck") and "--config-dir" not in words:
        compose(overrides([word for word in words if not word.startswith("-")]))


MISTAKES = [found for page in PAGES for found in MISTAKE.findall(page.read_text())]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_answered_as_a_page_says(words: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message.rstrip("…"))):
        compose(shlex.split(words))


def test_the_experiment_of_ones_own_is_one(tmp_path: Path) -> None:
    [text] = blocks(ROOT / "docs" / "commands.md", "yaml")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "own.yaml").write_text(text)
    assert compose(["+exp=own"], str(tmp_path)).name == "own"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(block, names)
