"""What becomes of a run's record that is damaged on the disk before its store has it."""

import io
import os
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from mlp_jax.commands import sync
from mlp_jax.tracking import recovery, store
from mlp_jax.tracking.record import FACTS, FORM, HISTORY, MODEL, Point, Record
from tests.faults.rows import Row

if TYPE_CHECKING:  # takes seconds to import
    from mlflow import MlflowClient

NUM_POINTS = 30
NUM_BEATEN = 20
"""Of a run that is killed: the points of which its `run.json` knows."""
EXPERIMENT = "damage"


class Left(NamedTuple):
    """What a run left on the disk, as bytes by name, and whether it was killed before its end."""

    directory: Path
    id: str
    was_killed: bool
    content: dict[str, bytes]

    @property
    def lines(self) -> list[bytes]:
        return self.content[HISTORY].splitlines(keepends=True)


def leave(directory: Path, uri: str, was_killed: bool) -> Left:
    """A process records a run whose store does not answer, and ends."""
    child = os.fork()
    if child == 0:
        _write(directory, uri, was_killed)
        os._exit(0)
    os.waitpid(child, 0)
    return Left(directory, directory.name, was_killed, _content(directory))


def _write(directory: Path, uri: str, is_killed: bool) -> None:
    record = Record(directory)
    record.note(
        form=FORM, id=directory.name, name="a run", experiment=EXPERIMENT, uri=uri, parent=None,
        status="RUNNING", started=3, start_time=3, **recovery.process_facts(directory),
    )  # fmt: skip
    record.add("notes/found.txt", lambda path: path.write_text("what was found"))
    record.add(MODEL, _write_model)
    for step in range(NUM_POINTS):
        record.log(Point(step, 5 + step, {"train/loss": 1 / (step + 1)}))
        if step + 1 == NUM_BEATEN:
            record.beat()
    if not is_killed:
        record.end("FINISHED", 70)


def _write_model(path: Path) -> None:
    """As far as MLflow looks at it."""
    path.mkdir(parents=True)
    (path / "MLmodel").write_text("flavors: {}\nutc_time_created: '2026-01-01 00:00:00.000000'\n")
    for name in ("network.json", "params.npz", "requirements.txt"):
        (path / name).write_text(f"what is in {name}")


def _content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


# --- damage: each returns what was done, and the number of points that are whole -----------------


def cut(left: Left, random: Random) -> tuple[str, int]:
    """The history, at any byte of what `run.json` knows of."""
    known = len(b"".join(left.lines[: NUM_BEATEN if left.was_killed else NUM_POINTS]))
    at = random.randrange(known)
    (left.directory / HISTORY).write_bytes(left.content[HISTORY][:at])
    return f"history cut at {at}", left.content[HISTORY][:at].count(b"\n")


def zero(left: Left, random: Random) -> tuple[str, int]:
    """The end of the history: its length was on the disk, its content not yet."""
    known = len(b"".join(left.lines[: NUM_BEATEN if left.was_killed else NUM_POINTS]))
    content = left.content[HISTORY]
    at = random.randrange(known)
    (left.directory / HISTORY).write_bytes(content[:at] + bytes(len(content) - at))
    return f"history zeroed from {at} on", content[:at].count(b"\n")


def drop(left: Left, random: Random) -> tuple[str, int]:
    """The last lines of the history."""
    known = NUM_BEATEN if left.was_killed else NUM_POINTS
    number = random.randrange(known)
    (left.directory / HISTORY).write_bytes(b"".join(left.lines[:number]))
    return f"{number} lines left", number


def spoil_model(left: Left, random: Random) -> tuple[str, int]:
    """A file of the model, by a bit, a cut, or wholly."""
    return _spoil(left, random, [name for name in left.content if name.startswith(MODEL)])


def spoil_facts(left: Left, random: Random) -> tuple[str, int]:
    """The file that says what run this is; in a copy, so that none of it can be made up."""
    return _spoil(left, random, [FACTS])


def _spoil(left: Left, random: Random, names: list[str]) -> tuple[str, int]:
    name = random.choice(sorted(names))
    file, content = left.directory / name, bytearray(left.content[name])
    where = random.randrange(len(content))
    how = random.choice(["gone", "flip", "cut"])
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:where])
    else:
        content[where] = (content[where] + 1) % 128 or 1
        file.write_bytes(content)
    return f"{how} {name} at {where}", NUM_POINTS


class Damage(NamedTuple):
    """What is damaged, and of what then is nothing else to be lost."""

    fault: str
    do: Callable[[Left, Random], tuple[str, int]]
    what: str


DAMAGES = (
    Damage("history cut at a random byte", cut, HISTORY),
    Damage("history zeroed at its end", zero, HISTORY),
    Damage("last lines of the history gone", drop, HISTORY),
    Damage("a file of the model damaged or gone", spoil_model, MODEL),
    Damage("run.json damaged or gone", spoil_facts, FACTS),
)


def damage_row(folder: Path, damage: Damage, num_trials: int, seed: int) -> Row:
    """The records of runs, of which half were killed, are damaged and then delivered."""
    uri = f"sqlite:///{folder}/mlflow.db"
    problems = []
    for trial in range(num_trials):
        random = Random(f"{seed}-{damage.fault}-{trial}")
        directory = folder / damage.do.__name__ / f"{damage.do.__name__}-{seed}-{trial}"
        left = leave(directory, uri, was_killed=bool(trial % 2))
        done, num_points = damage.do(left, random)
        wrong = _after(left, damage, _content(directory), num_points, uri)
        problems += [f"seed {seed}, trial {trial}, {done}: {each}" for each in wrong]
    num_bad = len({problem.split(":")[0] for problem in problems})
    return Row(
        f"{damage.fault}, before the delivery",
        num_trials,
        "reported, exit status 1; all that is whole is in the store once, what is not stays here",
        f"{num_bad} silent or lost, {num_trials - num_bad} reported and the rest delivered",
        tuple(problems),
    )


def _after(
    left: Left, damage: Damage, damaged: dict[str, bytes], num_points: int, uri: str
) -> list[str]:
    """What is wrong once the run is delivered, as far as that goes."""
    with redirect_stdout(io.StringIO()) as told:
        first, second = (sync.sync([left.directory]) for _ in range(2))
    wrong = {
        f"silent: {told.getvalue()}": first or second,
        "not named": str(left.directory) not in told.getvalue(),
    }
    if damage.what == FACTS:
        now = _content(left.directory)
        kept = {name: content for name, content in damaged.items() if name != FACTS}
        wrong |= {"something was removed": not kept.items() <= now.items()}
        return [what for what, is_wrong in wrong.items() if is_wrong]
    aside = _content(left.directory / "damaged")
    changed = [name for name in damaged if damaged[name] != left.content[name]]
    wrong |= {f"{name} was not kept": damaged[name] not in aside.values() for name in changed}
    return [what for what, is_wrong in wrong.items() if is_wrong] + _wrong_in_store(
        store.open_store(uri), left, num_points, has_model=damage.what != MODEL
    )


def _wrong_in_store(
    client: "MlflowClient", left: Left, num_points: int, has_model: bool
) -> list[str]:
    experiment = store.experiment_id(client, EXPERIMENT)
    found = client.search_runs([experiment], f"tags.`run.id` = '{left.id}'")
    if len(found) != 1:
        return [f"{len(found)} runs"]
    (run,) = found
    points = client.get_metric_history(run.info.run_id, "train/loss") if num_points else []
    outputs = run.outputs.model_outputs if run.outputs else []
    wrong = {
        f"status {run.info.status}": run.info.status
        != ("KILLED" if left.was_killed else "FINISHED"),
        f"{len(points)} points of {num_points}": Counter((p.step, p.value) for p in points)
        != Counter((step, 1 / (step + 1)) for step in range(num_points)),
        f"files {client.list_artifacts(run.info.run_id, 'notes')}": [
            file.path for file in client.list_artifacts(run.info.run_id, "notes")
        ]
        != ["notes/found.txt"],
        f"{len(outputs)} models": len(outputs) != has_model,
        "no tag says so": "run.damaged" not in run.data.tags,
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]
