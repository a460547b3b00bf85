"""A record keeps whatever was written whole, and says what was not."""

import json
import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from mlp_jax.errors import RunError
from mlp_jax.tracking import record as records
from mlp_jax.tracking.record import (
    DAMAGED,
    FACTS,
    HISTORY,
    MODEL,
    BusyError,
    History,
    Point,
    Record,
    read_facts,
)

POINTS = [Point(n, 5, {"ü": 0.1 + n}) for n in range(20)]


def write(path):
    path.write_text("what was found")


def write_model(path):
    (path / "data").mkdir(parents=True)
    (path / "data" / "params").write_bytes(bytes(range(100)))
    (path / "MLmodel").write_text("flavors: {}")


def written(directory, status="FINISHED"):
    """A record that has ended, closed."""
    with closing(Record(directory)) as record:
        record.note(id="abc", name="a run", status="RUNNING")
        for point in POINTS:
            record.log(point)
        record.add("notes/a.txt", write)
        record.add(MODEL, write_model)
        if status:
            record.end(status, 7)


@pytest.fixture
def run(tmp_path):
    written(tmp_path / "run")
    return tmp_path / "run"


def mended(directory):
    """What is whole of it, and what is said of the rest."""
    with closing(Record(directory)) as record:
        record.mend()
        return record.history.points, record.facts


def test_what_was_written_is_read_again(run):
    points, facts = mended(run)
    assert points == POINTS
    assert "damage" not in facts
    assert (facts["status"], facts["end_time"]) == ("FINISHED", 7)
    with closing(Record(run)) as record:
        assert record.file("notes/a.txt").read_text() == "what was found"
        assert (record.model() / "MLmodel").read_text() == "flavors: {}"


@pytest.mark.parametrize("after_the_line", [b"", b"\0" * 50])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, after_the_line):
    written(tmp_path / "run", status=None)
    file = tmp_path / "run" / HISTORY
    content = file.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content) - 1):
        file.write_bytes(content[:end] + after_the_line)
        again = History(file, None)
        assert again.points == POINTS[:-1] and not again.num_lost
        again.append(POINTS[-1])
        assert file.read_bytes() == content


@pytest.mark.parametrize("seed", range(200))
def test_no_flipped_bit_of_a_history_goes_unnoticed(tmp_path, seed):
    content, length = records.encode(POINTS[:3])
    rng, damaged = random.Random(seed), bytearray(content)
    damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    (tmp_path / HISTORY).write_bytes(damaged)
    read = History(tmp_path / HISTORY, length)
    assert read.num_lost
    assert [point for point in read.points if point not in POINTS] == []


@pytest.mark.parametrize("how", ["cut", "zeroed", "last lines gone"])
@pytest.mark.parametrize("seed", range(40))
def test_no_end_of_a_history_is_lost_unnoticed(tmp_path, how, seed):
    content, length = records.encode(POINTS)
    place = random.Random(seed).randrange(len(content))
    if how == "last lines gone":
        place = content.rfind(b"\n", 0, place) + 1
    end = bytes(len(content) - place) if how == "zeroed" else b""
    (tmp_path / HISTORY).write_bytes(content[:place] + end)
    read = History(tmp_path / HISTORY, length)
    num_whole = content[:place].count(b"\n")
    assert read.points == POINTS[:num_whole]
    assert read.num_lost == len(POINTS) - num_whole


@pytest.mark.parametrize("gone", [0, 7, 18, 19])
def test_a_line_that_is_gone_is_noticed_and_the_others_are_kept(run, gone):
    lines = (run / HISTORY).read_bytes().splitlines(keepends=True)
    (run / HISTORY).write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    points, facts = mended(run)
    assert points == POINTS[:gone] + POINTS[gone + 1 :]
    assert facts["damage"] == ["1 log points"]
    assert facts["tags"]["run.damaged"] == "1 log points"
    assert (run / DAMAGED / HISTORY).exists()
    assert mended(run) == (points, facts)  # what is left is whole


def test_a_heartbeat_notes_how_much_there_is_at_least(tmp_path):
    with closing(Record(tmp_path)) as record:
        record.note(id="abc")
        record.log(POINTS[0])
        record.beat()
        record.log(POINTS[1])
    (tmp_path / HISTORY).write_bytes(b"")
    assert Record(tmp_path).history.num_lost == 1


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("seed", range(40))
def test_no_damage_to_a_file_goes_unnoticed(run, how, seed):
    rng = random.Random(seed)
    file = rng.choice([path for path in run.rglob("*") if path.is_file()])
    if file.parent == run:
        return
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    file.write_bytes(content)
    if how == "gone":
        file.unlink()
    points, facts = mended(run)
    is_model = MODEL in file.parts
    assert points == POINTS
    assert len(facts["damage"]) == 1 and file.name in facts["damage"][0]
    assert (facts["files"] == {}) is not is_model and (facts["model"] == {}) is is_model
    assert (run / DAMAGED).exists() or how == "gone"


def test_a_file_that_is_replaced_has_its_last_content(tmp_path):
    with closing(Record(tmp_path)) as record:
        record.note(id="abc")
        for text in ("one", "two", "one"):
            record.add("a.txt", lambda path, text=text: path.write_text(text))
            assert record.file("a.txt").read_text() == text


def test_a_disk_that_is_full_is_told_as_such_whatever_a_library_makes_of_it(tmp_path):
    def write_half(path):
        path.mkdir()
        (path / "MLmodel").write_text("half")
        try:
            raise OSError(28, "No space left on device", "/elsewhere/params")
        except OSError as error:
            raise ValueError("cannot copy; specify another path") from error

    with closing(Record(tmp_path)) as record:
        record.note(id="abc")
        with pytest.raises(OSError, match="No space left on device") as raised:
            record.add(MODEL, write_half)
        assert raised.value.filename == str(tmp_path)
        assert not list(tmp_path.rglob("MLmodel"))
        with pytest.raises(ZeroDivisionError):
            record.add("a.txt", lambda path: 1 / 0)


def test_one_process_holds_it(run):
    with closing(Record(run)), pytest.raises(BusyError, match="another process"):
        Record(run)
    Record(run).close()


@pytest.fixture
def full_disk(monkeypatch):
    """Writes half of what it is given, and then no more."""
    is_full = [True]
    original = records.Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            if not is_full[0]:
                return self.file.write(line)
            self.file.write(line[: len(line) // 2])
            raise OSError(28, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(self, mode="r", *args, **kwargs):
        file = original(self, mode, *args, **kwargs)
        return Full(file) if mode == "ab" else file

    monkeypatch.setattr(records.Path, "open", opened)
    return is_full


def test_what_the_disk_does_not_take_is_written_later(tmp_path, full_disk):
    record = History(tmp_path / HISTORY, None)
    for point in POINTS[:3]:
        record.append(point)
    with pytest.raises(OSError, match="No space"):
        record.secure()
    assert History(tmp_path / HISTORY, None).points == []
    full_disk[0] = False
    record.secure()
    record.append(POINTS[3])
    again = History(tmp_path / HISTORY, record.length)
    assert (again.points, again.num_lost) == (POINTS[:4], 0)


def test_secured_points_are_synced_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    record = History(tmp_path / HISTORY, None)
    record.append(POINTS[0])
    record.secure()
    record.secure()
    assert len(synced) == 2  # the file and its directory
    record.append(POINTS[1])
    record.secure()
    assert len(synced) == 4


def test_facts_are_synced_before_they_take_their_place(tmp_path, monkeypatch):
    done, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("synced"))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("replaced"), replace(*paths)))
    Record(tmp_path).note(id="abc")
    assert done[:2] == ["synced", "replaced"]


def test_stripped_it_leaves_the_names_and_can_go_on(run):
    with closing(Record(run)) as record:
        record.strip()
    assert [path.name for path in run.iterdir()] == [FACTS]
    with closing(Record(run)) as record:
        assert (record.facts["id"], record.facts["name"]) == ("abc", "a run")
        record.log(POINTS[0])
        record.end("FINISHED", 8)
    assert mended(run)[0] == POINTS[:1]


def test_facts_that_are_not_what_was_written_are_refused(run):
    record = json.loads((run / FACTS).read_text())
    for text in ("", "{", "[]", "{}", json.dumps(record | {"name": "another"})):
        (run / FACTS).write_text(text)
        with pytest.raises(RunError, match=r"run\.json: "):
            read_facts(run)
    with pytest.raises(RunError):
        Record(run)
    (run / FACTS).write_text(json.dumps(record))
    Record(run).close()  # the failure before has let go of it
