"""What becomes of a run under one fault, measured in a process of its own.

    python -m tests.faults FAULT [TRIALS [SEED]]

Prints rows of the table of faults as JSON; the exit status is 1 where something was not as it must
be. `python -m experiments.reliability` makes the whole table.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.rows import Row

Measure = Callable[[Path, int, int], list[Row]]
"""From a folder, a number of trials and a seed."""


def _kills(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import processes

    return [processes.kills(processes.Bench(folder), trials, seed)]


def _sweeps(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import sweeps

    return [sweeps.kills(folder, trials, seed)]


def _signals(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import processes

    return [processes.signals(processes.Bench(folder), trials, seed)]


def _full_disk(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import processes

    return [processes.full_disk(processes.Bench(folder), trials, seed)]


def _failing(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import disk

    at = disk.Bench(folder)
    return [disk.failing_operations(at, stays_full) for stays_full in (False, True)]


def _damage(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import disk

    return [disk.damaged_files(disk.Bench(folder), trials, seed)]


def _records(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import records

    return [records.damage_row(folder, damage, trials, seed) for damage in records.DAMAGES]


def _store(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import tracking_faults

    folders = [folder / name for name in ("faults", "kills", "processes")]
    for place in folders:
        place.mkdir()
    return [
        *tracking_faults.tracking_rows(folders[0]),
        tracking_faults.kill_row(folders[1]),
        tracking_faults.many_processes_row(folders[2], trials),
    ]


def _cost(folder: Path, trials: int, seed: int) -> list[Row]:
    from tests.faults import disk

    return [disk.cost(folder, trials)]


FAULTS: dict[str, tuple[Measure, int]] = {
    "kills": (_kills, 60),
    "sweeps": (_sweeps, 40),
    "signals": (_signals, 2),
    "failing": (_failing, 1),
    "damage": (_damage, 240),
    "records": (_records, 40),
    "full-disk": (_full_disk, 2),
    "store": (_store, 20),
    "cost": (_cost, 120),
}
"""By name, with the number of trials for the table: kills, rounds, files, runs, epochs."""


def measure(fault: str, trials: int | None = None, seed: int = 0) -> list[Row]:
    """Measures in a process of its own, and for a small disk in a mount namespace of its own."""
    command = [sys.executable, "-m", "tests.faults", fault]
    command += [str(trials or FAULTS[fault][1]), str(seed)]
    if fault == "full-disk":
        command = ["unshare", "--map-root-user", "--mount", *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{shlex.join(command)}: crashed, exit status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])  # after what was printed on the way
    return [
        Row(name, num_trials, must, outcome, tuple(problems))
        for name, num_trials, must, outcome, problems in found
    ]


def can_mount() -> bool:
    """Whether this machine lets anyone mount a small disk in a namespace."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def main() -> None:
    fault, *numbers = sys.argv[1:]
    function, usual = FAULTS[fault]
    trials, seed = (*map(int, numbers), *(usual, 0)[len(numbers) :])
    with TemporaryDirectory() as folder:
        rows = function(Path(folder), trials, seed)
    print(json.dumps(rows))
    sys.exit(any(row.problems for row in rows))


if __name__ == "__main__":
    main()
