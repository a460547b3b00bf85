"""What a run prints: a header, the gradient check, the progress, a table of results, the links."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich import progress
from rich.console import Console as RichConsole
from rich.table import Column, Table
from rich.text import Text

from mlp_jax.config.schema import seconds_of

OnLog = Callable[[int, Mapping[str, float]], None]
"""Called at a log point with the step and what was measured."""

OnSweep = Callable[[float, int, str, int | None], None]
"""Called with the share of a sweep that is done, from 0 to 1; the number of networks that are; what
it is about, or the best result so far; and in training the steps of all networks together."""

NUM_PLAIN_LINES = 10


class Console:
    """Prints to the terminal: a live bar where there is one, plain lines where there is not."""

    def __init__(self, rich_console: RichConsole | None = None) -> None:
        self.rich = rich_console or RichConsole(highlight=False, soft_wrap=True)
        self._start = time.perf_counter()

    def age(self) -> str:
        """The time since the beginning."""
        return duration(self.seconds())

    def seconds(self) -> float:
        """Those since the beginning."""
        return time.perf_counter() - self._start

    def is_over(self, budget: str | None) -> bool:
        """Whether as much time as this has passed since the beginning."""
        return budget is not None and self.seconds() > seconds_of(budget)

    def line(self, text: str) -> None:
        self.rich.print(text, markup=False)

    def facts(self, facts: Mapping[str, object]) -> None:
        """A name and a value on each line."""
        width = max(map(len, facts))
        for name, value in facts.items():
            self.line(f"{name:{width}}  {value}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table whose first column is text and whose others are numbers."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(Text(column), justify="left" if column == columns[0] else "right")
        for row in rows:
            table.add_row(*(Text(number(cell)) for cell in row))
        self.rich.print(table)

    @contextmanager
    def progress(self, num_steps: int, steps_per_epoch: int) -> Iterator[OnLog]:
        """Over the steps of a run: epoch, metrics and steps/s."""
        speed = _Speed()
        with self._progress(num_steps) as show:

            def on_log(step: int, metrics: Mapping[str, float]) -> None:
                shown = {
                    name: value
                    for name, value in metrics.items()
                    if "/" in name and not _is_the_loss(name, metrics)
                }
                if self.rich.is_terminal:  # where a line is short
                    shown = {
                        name.replace("train/", "").replace("validation/", "val "): value
                        for name, value in shown.items()
                    }
                place = where(step, num_steps, steps_per_epoch)
                show(step, lambda: f"{place}  {measured(shown)}  {speed.at(step):,.0f} steps/s")

            yield on_log

    @contextmanager
    def sweep_progress(self, num_networks: int) -> Iterator[OnSweep]:
        """Over the networks of a sweep: how many are done, steps/s summed, the best result."""
        speed = _Speed()
        with self._progress(1.0) as show:

            def on_sweep(share: float, num_done: int, text: str, steps: int | None) -> None:
                def line() -> str:
                    per_second = "" if steps is None else f"{speed.at(steps):,.0f} steps/s  "
                    networks = f"{num_done:,}/{num_networks:,} networks done"
                    return f"{networks}, {100 * share:.0f} % of their steps  {per_second}{text}"

                show(share, line)

            yield on_sweep

    @contextmanager
    def _progress(
        self, total: float | int
    ) -> Iterator[Callable[[float | int, Callable[[], str]], None]]:
        """A bar with the time left and a text; without a terminal the text at each tenth."""
        if not self.rich.is_terminal:
            printed = 0

            def line(done: float | int, text: Callable[[], str]) -> None:
                nonlocal printed
                tenth = int(done * NUM_PLAIN_LINES / total)
                if tenth > printed:
                    printed = tenth
                    self.line(text())

            yield line
            return
        no_wrap = Column(no_wrap=True)
        bar = progress.Progress(
            *([progress.BarColumn(bar_width=20)] if self.rich.width >= 100 else []),
            progress.TextColumn("{task.description}", markup=False, table_column=no_wrap),
            progress.TimeElapsedColumn(table_column=no_wrap),
            progress.TextColumn("left", table_column=no_wrap),
            progress.TimeRemainingColumn(table_column=no_wrap),
            console=self.rich,
        )
        with bar:
            task = bar.add_task("compiling", total=total)
            yield lambda done, text: bar.update(task, completed=done, description=text())


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows a text and the time since, in a terminal, for as long as something takes."""
    console = RichConsole(stderr=True)
    columns = progress.TextColumn("{task.description}", markup=False), progress.TimeElapsedColumn()
    bar = progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
    with bar:
        bar.add_task(text, total=None)
        yield


def _is_the_loss(name: str, metrics: Mapping[str, float]) -> bool:
    """Whether it is a log loss that nothing weighs or smooths: the number beside it."""
    loss = metrics.get(name.replace("log_loss", "loss"), math.nan)
    return name.endswith("/log_loss") and math.isclose(metrics[name], loss, rel_tol=1e-4)


class _Speed:
    """Steps a second since the last time it was asked."""

    def __init__(self) -> None:
        self._step, self._time = 0, time.perf_counter()

    def at(self, step: int) -> float:
        now = time.perf_counter()
        speed = (step - self._step) / (now - self._time)
        self._step, self._time = step, now
        return speed


def where(step: int, num_steps: int, steps_per_epoch: int) -> str:
    """The epoch where epochs are whole, else the step."""
    if step % steps_per_epoch or num_steps % steps_per_epoch:
        return f"step {step:,}/{num_steps:,}"
    return f"epoch {step // steps_per_epoch:,}/{num_steps // steps_per_epoch:,}"


def measured(metrics: Mapping[str, float]) -> str:
    """Names and values on one line."""
    return "  ".join(f"{name} {number(value)}" for name, value in metrics.items())


def duration(seconds: float) -> str:
    """As 3.1 s or, from a minute on, 0:01:05."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
