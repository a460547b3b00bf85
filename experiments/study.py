"""The frame of a study: one question, a pure measurement, a figure and a table, all recorded.

A study is a module of this package. Its docstring's first line is its question; the rest says what
the reader should see. It has

    def measure() -> Results: ...               # numbers only: no files, no drawing
    def draw(results: Results) -> Figure: ...   # one figure, from `results.arrays`

    if __name__ == "__main__":
        run_study(measure, draw)

It is recorded in MLflow; `--write` also writes its figure, its table and the gallery, which are
tracked files. To add one, copy a study; the gallery lists it after the lecture's own.
"""

import argparse
import inspect
import io
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import mlp_jax as mlp
from mlp_jax.core.network import Params
from mlp_jax.core.training import keys_of
from mlp_jax.tracking import links, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

HERE = Path(__file__).parent
FIGURES, TABLES, GALLERY = HERE / "figures", HERE / "tables", HERE / "README.md"

LECTURE_ORDER = (
    "boolean_functions",
    "towers",
    "two_inputs",
    "trained_against_constructed",
    "xor_seeds",
    "saturation",
    "information",
    "hand_backprop",
    "deep_thin",
    "published_results",
)

Number = float | int | np.generic


class Row(NamedTuple):
    """A measured number beside what theory or a source says, and their difference.

    `relation` says how the two should compare: = (or ≈), ≤ or ≥; `beside` promises nothing, where
    the source is of another case or itself in doubt. `interval` is the confidence interval or range
    of `measured` where it varies with the seed.
    """

    quantity: str
    measured: Number
    theory: Number
    source: str
    relation: str = "="
    interval: tuple[Number, Number] | None = None
    digits: int = 6

    def cells(self) -> tuple[str, str, str, str, str]:
        measured = _text(self.measured, self.digits)
        if self.interval is not None:
            measured += " [{}, {}]".format(*(_text(end, self.digits) for end in self.interval))
        theory = ("" if self.relation == "=" else f"{self.relation} ") + _text(
            self.theory, self.digits
        )
        deviation = float(self.measured) - float(self.theory)
        return (
            self.quantity,
            measured,
            theory,
            f"{deviation:+.2g}" if deviation else "0",
            self.source,
        )


class ChildRun(NamedTuple):
    """One configuration of a study, as a child run: a sequence is a curve over its steps."""

    params: Mapping[str, Any]
    metrics: Mapping[str, Number | Sequence[Number] | np.ndarray]


@dataclass(frozen=True)
class Results:
    """What a study measured; `headline` is the answer in a sentence, with its number."""

    headline: str
    rows: list[Row]
    arrays: dict[str, Any] = field(default_factory=dict)
    children: list[ChildRun] = field(default_factory=list)


COLUMNS = ("quantity", "measured", "theory", "deviation", "source")


def _text(value: Number, digits: int) -> str:
    return f"{value:,d}" if isinstance(value, int | np.integer) else f"{float(value):.{digits}g}"


def subplots(
    nrows: int = 1, ncols: int = 1, *, height: float = 4.0, **keywords: Any
) -> tuple[Figure, Any]:
    """`plt.subplots` in the studies' style: 9 inches wide, `height` inches high."""
    plt.style.use(HERE / "study.mplstyle")
    return plt.subplots(nrows, ncols, figsize=(9.0, height), **keywords)


def machine() -> str:
    """The processor, its cores and the versions, as a table's numbers were measured on them."""
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu_info.read_text()) if cpu_info.exists() else []
    cpu = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{cpu}, {os.cpu_count()} cores, {jax.default_backend()}, "
        f"Python {platform.python_version()}, jax {version('jax')}, numpy {version('numpy')}"
    )


def run_study(
    measure: Callable[[], Results], draw: Callable[[Results], Figure], *, float64: bool = True
) -> None:
    """Measures, draws and records the run; with `--write` also rewrites the study's files."""
    module = sys.modules[measure.__module__]
    name = Path(str(module.__file__)).stem
    text = inspect.cleandoc(str(module.__doc__))
    question = text.splitlines()[0]
    parser = argparse.ArgumentParser(
        f"python -m experiments.{name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--write", action="store_true", help="rewrite the figure, the table and the gallery"
    )
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", float64)
    plt.switch_backend("Agg")

    client = store.open_store(None)  # first, so that a store out of reach costs no time
    start = time.perf_counter()
    results = measure()
    seconds = time.perf_counter() - start
    _print(question, results)
    page, picture = _markdown(name, question, results, seconds), io.BytesIO()
    draw(results).savefig(picture, metadata={"Software": None})
    written = _write(name, page, picture.getvalue()) if options.write else []
    link = _record(client, name, page, picture.getvalue(), results)
    Console().print(*written, link, sep="\n", soft_wrap=True, highlight=False)


def _write(name: str, page: str, picture: bytes) -> list[Path]:
    """The study's figure and table, and the gallery anew."""
    FIGURES.mkdir(exist_ok=True)
    TABLES.mkdir(exist_ok=True)
    figure_path, table_path = FIGURES / f"{name}.png", TABLES / f"{name}.md"
    figure_path.write_bytes(picture)
    table_path.write_text(page, encoding="utf-8")
    GALLERY.write_text(_gallery(), encoding="utf-8")
    return [figure_path, table_path]


def _print(question: str, results: Results) -> None:
    table = Table(*COLUMNS, title=question, caption=results.headline)
    for row in results.rows:
        table.add_row(*row.cells())
    Console(markup=False).print(table)  # so that [brackets] stay


def _markdown(name: str, question: str, results: Results, seconds: float) -> str:
    """The study's page. The gallery reads its first two paragraphs: question and headline."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(c.replace("|", "\\|") for c in row.cells()) for row in results.rows]
    table = "\n".join(f"| {line} |" for line in lines)
    return (
        f"# {question}\n\n{results.headline}\n\n![{question}](../figures/{name}.png)\n\n{table}\n\n"
        f"`python -m experiments.{name}` measured this in {seconds:.0f} s on {machine()}.\n"
    )


def _gallery() -> str:
    """All studies on one page, in the lecture's order, from the tables that lie there."""

    def position(name: str) -> tuple[int, str]:
        known = name in LECTURE_ORDER
        return (LECTURE_ORDER.index(name) if known else len(LECTURE_ORDER), name)

    sections = [
        "# The lecture, proved\n\n"
        "Each claim of the lecture is a study: a question, one command, a figure and a table of "
        "measured numbers beside what theory says. With `--write` a study writes its part of this "
        "page."
    ]
    for name in sorted((path.stem for path in TABLES.glob("*.md")), key=position):
        page = (TABLES / f"{name}.md").read_text(encoding="utf-8")
        title, headline = page.split("\n\n")[:2]
        question = title.removeprefix("# ")
        sections.append(
            f"## {question}\n\n{headline}\n\n![{question}](figures/{name}.png)\n\n"
            f"`python -m experiments.{name}` · [the measured table](tables/{name}.md) · "
            f"[the study]({name}.py)"
        )
    return "\n\n".join(sections) + "\n"


def _record(client: "MlflowClient", name: str, page: str, picture: bytes, results: Results) -> str:
    """Logs the parent run with figure and page, and its child runs; returns where to see it."""
    note = re.sub(r"^!\[.*\n\n", "", page, flags=re.MULTILINE)  # the figure is an artifact here
    record = RunRecord(name, {"study": name, "machine": machine()}, note=note)
    parent = tracking.begin(client, "lecture", record)
    with parent:
        log_curves(parent, {row.quantity: row.measured for row in results.rows})
        parent.add(f"{name}.png", picture)
        parent.add(f"{name}.md", page)
        for child in results.children:
            child_name = " ".join(f"{key}={value}" for key, value in child.params.items())
            record = RunRecord(child_name, child.params)
            with tracking.begin(client, "lecture", record, parent=parent) as run:
                log_curves(run, child.metrics)
    command = links.ui_command(client.tracking_uri)
    return f"{parent.url} (with {command})" if parent.is_delivered else f"{parent.where()}"


def log_curves(run: tracking.Run, metrics: Mapping[str, Any]) -> None:
    """Logs numbers at step 0 and sequences step by step, under names that MLflow allows."""
    for name, values in metrics.items():
        for step, value in enumerate(np.atleast_1d(np.asarray(values))):
            run.log({metric_name(name): float(value)}, step)


def metric_name(quantity: str) -> str:
    """A quantity as MLflow can name it: letters, digits, blanks and `_ . - : /`.

    >>> metric_name("largest |∂L/∂z| of squared error, ¼‖W‖₂, w = 1")
    'largest dL/dz of squared error ¼ W ₂ w 1'
    """
    return " ".join(re.sub(r"[^\w.\- :/]", " ", quantity.replace("∂", "d")).split())


def networks(sizes: tuple[int, ...], initializer: str, num_seeds: int) -> Params:
    """The initial networks that the seeds 0 … `num_seeds` − 1 have in every training, stacked."""
    net = mlp.Network(sizes)
    return jax.vmap(lambda seed: net.init(keys_of(seed)[0], initializer))(jnp.arange(num_seeds))
