"""A row of the table of faults."""

from typing import NamedTuple


class Row(NamedTuple):
    """What was done to a run how often, what must come of it, and what did."""

    fault: str
    num_trials: int
    must: str
    outcome: str
    problems: tuple[str, ...]
    """What was wrong, each with the seed that repeats it; empty where all is as it must be."""
