"""What is printed is what was meant."""

import io

from rich.console import Console as RichConsole

from mlp_jax.experiment.console import Console


def test_a_table_shows_what_stands_in_brackets():
    file = io.StringIO()
    table = [["[relu,tanh]", 0.25], ["[bold]", 1.0]]
    Console(RichConsole(file=file, width=80)).table(["[activation]", "loss"], table)
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert lines == [["[activation]", "loss"], ["[relu,tanh]", "0.25"], ["[bold]", "1"]]
