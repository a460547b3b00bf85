"""What becomes of a run under every fault: `python -m experiments.reliability --write`.

`python -m tests.faults FAULT TRIALS SEED` measures one of them.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from experiments.study import machine
from tests.faults.__main__ import FAULTS, can_mount, measure
from tests.faults.rows import Row

TABLE = Path(__file__).parent / "faults.md"


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.reliability", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"rewrite {TABLE.name} as it goes")
    options = parser.parse_args()
    table: list[Row] = []
    for fault in FAULTS:
        if fault != "full-disk" or can_mount():
            table += measure(fault)
            if options.write:
                TABLE.write_text(_markdown(table), encoding="utf-8")
    print(_markdown(table))
    sys.exit(any(row.problems for row in table))


def _markdown(rows: list[Row]) -> str:
    lines = [
        "# Faults, and what became of the runs",
        "",
        f"Made by `python -m experiments.reliability` on {machine()}, mlflow {version('mlflow')}. "
        "A problem names its seed;",
        "`python -m tests.faults FAULT TRIALS SEED` repeats it.",
        "",
        "| fault | trials | must | measured |",
        "|---|---|---|---|",
        *(f"| {row.fault} | {row.num_trials} | {row.must} | {row.outcome} |" for row in rows),
        "",
        *(f"- {problem.splitlines()[0]}" for row in rows for problem in row.problems),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
