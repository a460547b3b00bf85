"""A journal keeps whatever was written whole, and says what was not."""

import json
import os
import random
from pathlib import Path

import pytest

from mlp_jax.errors import RunError
from mlp_jax.tracking import journal
from mlp_jax.tracking.journal import BusyError, Journal


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """All are closed at the end."""
    held = []
    original = Journal._open
    monkeypatch.setattr(Journal, "_open", lambda self: (held.append(self), original(self)))
    yield
    for each in held:
        if hasattr(each, "_file"):
            each.close()


def written(directory, num_entries=20):
    held = Journal(directory)
    held.note(id="abc", name="a run")
    entries = [held.append("metrics", {"points": [["ü", 0.1, 5, n]]}) for n in range(num_entries)]
    held.close()
    return entries


def test_what_was_appended_is_read_again(tmp_path):
    entries = written(tmp_path / "run")
    held = Journal(tmp_path / "run")
    assert held.pending() == entries
    assert not held.lost
    assert held.append("tags", {}).number == 20


def test_entries_that_are_delivered_are_not_pending(tmp_path):
    entries = written(tmp_path / "run")
    held = Journal(tmp_path / "run")
    held.acknowledge(6)
    held.close()
    assert Journal(tmp_path / "run").pending() == entries[7:]


@pytest.mark.parametrize("after_the_line", [b"", b"\0" * 50])
def test_a_line_that_was_cut_short_is_dropped(tmp_path, after_the_line):
    entries = written(tmp_path / "run")
    file = tmp_path / "run" / journal.JOURNAL
    content = file.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content) - 1):
        file.write_bytes(content[:end] + after_the_line)
        held = Journal(tmp_path / "run")
        assert held.pending() == entries[:-1]
        assert not held.lost
        assert held.append("tags", {}).number == 19
        held.close()
        assert [entry.kind for entry in journal.read(file).entries[18:]] == ["metrics", "tags"]


@pytest.mark.parametrize("seed", range(200))
def test_no_flipped_bit_goes_unnoticed(tmp_path, seed):
    entries = written(tmp_path / "run", num_entries=3)
    file = tmp_path / "run" / journal.JOURNAL
    content, rng = bytearray(file.read_bytes()), random.Random(seed)
    place = rng.randrange(len(content) - 1)  # without its last end of a line, it is cut short
    content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    read = journal.read(file)
    assert read.lost
    assert len(read.entries) < len(entries)
    assert [entry for entry in read.entries if entry not in entries] == []


@pytest.mark.parametrize("gone", [0, 7, 18])
def test_a_line_that_is_gone_is_noticed(tmp_path, gone):
    written(tmp_path / "run")
    file = tmp_path / "run" / journal.JOURNAL
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    held = Journal(tmp_path / "run")
    assert held.lost == [gone]


def test_damage_to_what_is_delivered_loses_nothing(tmp_path):
    written(tmp_path / "run")
    held = Journal(tmp_path / "run")
    held.acknowledge(7)
    held.close()
    file = tmp_path / "run" / journal.JOURNAL
    file.write_bytes(b"x" + file.read_bytes()[1:])
    assert not Journal(tmp_path / "run").lost


def test_one_process_holds_it(tmp_path):
    held = Journal(tmp_path / "run")
    with pytest.raises(BusyError, match="another process"):
        Journal(tmp_path / "run")
    held.close()
    Journal(tmp_path / "run").close()


@pytest.fixture
def full_disk(monkeypatch):
    """Writes half of what it is given, and then no more."""
    is_full = [True]
    original = journal.Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            if not is_full[0]:
                return self.file.write(line)
            self.file.write(line[: len(line) // 2])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(self, mode="r", *args, **kwargs):
        file = original(self, mode, *args, **kwargs)
        return Full(file) if mode == "ab" else file

    monkeypatch.setattr(journal.Path, "open", opened)
    return is_full


def test_what_the_disk_does_not_take_is_written_later(tmp_path, full_disk):
    held = Journal(tmp_path / "run")
    entries = [held.append("tags", {"a": str(n)}) for n in range(3)]
    with pytest.raises(OSError, match="No space"):
        held.secure()
    assert journal.read(tmp_path / "run" / journal.JOURNAL).entries == []
    full_disk[0] = False
    held.secure()
    entries.append(held.append("tags", {"a": "3"}))
    assert journal.read(tmp_path / "run" / journal.JOURNAL) == (
        entries, [], (tmp_path / "run" / journal.JOURNAL).stat().st_size
    )  # fmt: skip


def test_secured_entries_are_synced_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    held = Journal(tmp_path / "run")
    held.append("tags", {})
    held.secure()
    held.secure()
    assert len(synced) == 2  # the file and its directory
    held.append("tags", {})
    held.secure()
    assert len(synced) == 4


def test_a_record_is_synced_before_it_takes_its_place(tmp_path, monkeypatch):
    done, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("synced"))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("replaced"), replace(*paths)))
    Journal(tmp_path / "run").note(id="abc")
    assert done == ["synced", "replaced"]


def test_removed_it_leaves_the_record_and_goes_on_counting(tmp_path):
    written(tmp_path / "run")
    held = Journal(tmp_path / "run")
    held.acknowledge(19)
    (held.outbox / "1").mkdir(parents=True)
    held.remove()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [journal.RECORD]
    assert Journal(tmp_path / "run").append("tags", {}).number == 20


def test_a_record_that_is_not_what_was_written_is_refused(tmp_path):
    written(tmp_path / "run")
    file = tmp_path / "run" / journal.RECORD
    record = json.loads(file.read_text())
    for text in ("", "{", "[]", "{}", json.dumps(record | {"name": "another"})):
        file.write_text(text)
        with pytest.raises(RunError, match=r"run\.json: "):
            journal.read_record(tmp_path / "run")
    with pytest.raises(RunError):
        Journal(tmp_path / "run")
    file.write_text(json.dumps(record))
    Journal(tmp_path / "run").close()  # the failure before has let go of it
