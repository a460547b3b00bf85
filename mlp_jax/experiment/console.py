"""What a run prints: a header, the gradient check, the progress, a table of results, the links."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console as RichConsole
from rich.table import Column, Table
from rich.text import Text

OnLog = Callable[[int, Mapping[str, float]], None]
"""Called at a log point with the step and what was measured."""

OnSweep = Callable[[float, int, int, str], None]
"""Called with the share of a sweep that is done, from 0 to 1; the number of networks that are;
the steps of all networks together; and the best result."""

NUM_PLAIN_LINES = 10


class Console:
    """Prints to the terminal: a live bar where there is one, plain lines where there is not."""

    def __init__(self, rich_console: RichConsole | None = None) -> None:
        self.rich = rich_console or RichConsole(highlight=False, soft_wrap=True)

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
        """A bar over the steps: epoch, metrics, steps/s and the time left."""
        if self.rich.is_terminal:
            with self._bar(num_steps, steps_per_epoch) as on_log:
                yield on_log
        else:
            yield self._lines(num_steps, steps_per_epoch)

    @contextmanager
    def _bar(self, num_steps: int, steps_per_epoch: int) -> Iterator[OnLog]:
        is_wide = self.rich.width >= 120

        def text(field: str) -> progress.TextColumn:
            return progress.TextColumn(field, table_column=Column(no_wrap=True))

        bar = progress.Progress(
            text("{task.description}"),
            *([progress.BarColumn(bar_width=20)] if is_wide else []),
            text("{task.fields[measured]}"),
            *([text("{task.fields[speed]}")] if is_wide else []),
            progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=self.rich,
        )
        speed = _Speed()
        with bar:
            task = bar.add_task("training", total=num_steps, measured="", speed="")

            def on_log(step: int, metrics: Mapping[str, float]) -> None:
                short = {
                    name.replace("train/", "").replace("validation/", "val "): value
                    for name, value in metrics.items()
                    if "/" in name
                }
                bar.update(
                    task,
                    completed=step,
                    description=where(step, num_steps, steps_per_epoch),
                    measured=measured(short),
                    speed=f"{speed.at(step):,.0f} steps/s",
                )

            yield on_log

    def _lines(self, num_steps: int, steps_per_epoch: int) -> OnLog:
        speed, printed = _Speed(), 0

        def on_log(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal printed
            tenth = step * NUM_PLAIN_LINES // num_steps
            if tenth > printed:
                printed = tenth
                place = where(step, num_steps, steps_per_epoch)
                shown = {name: value for name, value in metrics.items() if "/" in name}
                self.line(f"{place}  {measured(shown)}  {speed.at(step):,.0f} steps/s")

        return on_log

    @contextmanager
    def sweep_progress(self, num_networks: int) -> Iterator[OnSweep]:
        """A bar over the networks of a sweep: how many are done, steps/s summed, the best result.

        Without a terminal it is a line at each tenth.
        """
        speed, printed = _Speed(), 0

        def text(num_done: int, network_steps: int, best: str) -> str:
            return (
                f"{num_done:,}/{num_networks:,} networks  {speed.at(network_steps):,.0f} steps/s  "
                f"{best}"
            )

        def line(share: float, *what: Any) -> None:
            nonlocal printed
            tenth = int(share * NUM_PLAIN_LINES)
            if tenth > printed:
                printed = tenth
                self.line(text(*what))

        if not self.rich.is_terminal:
            yield line
            return
        bar = progress.Progress(
            progress.BarColumn(bar_width=20),
            progress.TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=self.rich,
        )
        with bar:
            task = bar.add_task("compiling", total=1.0)

            def show(share: float, *what: Any) -> None:
                bar.update(task, completed=share, description=text(*what))

            yield show


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


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
