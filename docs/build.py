"""What MkDocs builds beside the pages of docs/.

README is the front page, and the schema of the configs and the lines of mistakes are pages. Files
of the repository that pages link to come along, so that a link works on the site and in a checkout.

The repository's folders are the site's, but for docs/, whose pages stand at its root.
"""

import os
import posixpath
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import mistakes
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mlp_jax.config.schema import CHOICES, SECTIONS, Experiment, Role, describe

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
CONFIGURATION = """\
# The configuration

Every key, what it may be, and what it is for; `python -m mlp_jax.train +exp=NAME --cfg job` prints
the values of an experiment. Networks of a [sweep](sweeps.md) that differ in keys with a × only are
trained together.
"""


def _on_site(path: str) -> str:
    """Where the site has the repository's file `path`."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _in_repository(uri: str) -> str:
    if uri == "index.md":
        return "README.md"
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def _target(page: str, link: str) -> str:
    """The repository's file that `page`, of the repository too, means by `link`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def links(page: str) -> list[str]:
    """The repository's files that one of its pages links to."""
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [_target(page, link) for link in LINK.findall(text)]


def configuration() -> str:
    """The page of all keys, a table for each group."""
    page = [CONFIGURATION]
    for group, schemas in {"": (Experiment,), **CHOICES, **SECTIONS}.items():
        page += [f"\n## {group or 'experiment'}\n", "| key | may be | for |", "|---|---|---|"]
        page += _lines(f"{group}." if group else "", schemas)
    return "\n".join(page) + "\n"


def _lines(prefix: str, schemas: tuple[type, ...]) -> list[str]:
    """A line for each key, once for all choices that say the same of it."""
    every: tuple[str, ...] = ()
    lines: dict[tuple[str, str], tuple[str, ...]] = {}
    for schema in schemas:
        keys = {item.name: item for item in fields(schema) if "role" in item.metadata}
        choices = keys["name"].metadata["allowed"].names if "name" in keys else ()
        every += choices
        for name, item in keys.items():
            if help := item.metadata["help"]:
                role = item.metadata["role"]
                key = f"`{prefix}{name}`{' ×' * (role in (Role.NUMBER, Role.START))}"
                rest = " | ".join(cell.replace("|", "\\|") for cell in (describe(item), help))
                lines[key, rest] = lines.get((key, rest), ()) + choices
    shown = {of: "" if of == every else f" ({', '.join(of)})" for of in lines.values()}
    return [f"| {key}{shown[of]} | {rest} |" for (key, rest), of in lines.items()]


def on_files(files: Files, config: Any) -> Files:
    have = {_in_repository(file.src_uri) for file in files}
    wanted = [*PAGES, *(link for page in have if page.endswith(".md") for link in links(page))]
    while wanted:
        path = wanted.pop()
        if path in have or not (ROOT / path).is_file():
            continue
        have.add(path)
        files.append(File.generated(config, _on_site(path), abs_src_path=os.fspath(ROOT / path)))
        if path.endswith(".md"):
            wanted += links(path)
    files.append(File.generated(config, "configuration.md", content=configuration()))
    files.append(File.generated(config, "mistakes.md", content=mistakes.page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Each link as the site needs it."""
    here = _in_repository(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri) or "."
    return LINK.sub(
        lambda link: posixpath.relpath(_on_site(_target(here, link[1])), folder), markdown
    )
