"""A process is gone only where that is certain."""

import subprocess
import sys
import time

import pytest

from mlp_jax.tracking import recovery
from mlp_jax.tracking.record import is_locked


def facts(tmp_path, **changes):
    return {**recovery.process_facts(tmp_path), **changes}


@pytest.mark.parametrize(
    ("changes", "age", "is_unlocked", "is_gone"),
    [
        ({}, 1e9, False, True),
        ({}, 1000, False, False),
        ({}, 0, True, True),
        ({"host": "a container"}, 0, True, True),
        ({"process": "1/another"}, 60, True, False),
        ({"process": "1/another"}, 200, True, True),
        ({"process": "1/another", "host": "elsewhere"}, 200, True, False),
        ({"process": "1/another", "host": "elsewhere"}, 4000, True, True),
        ({"process": "1/another", "host": "elsewhere"}, 200, False, False),
        ({"process": ""}, 60, True, False),
        ({"process": "12/345/boot/pid:[1]"}, 60, True, False),
    ],
    ids=["locked, not heard of for years", "locked", "unlocked", "unlocked, in a container",
         "restarted just now", "restarted a while ago", "other host over NFS, where it is unlocked",
         "other host, not heard of for an hour", "other host, locked", "not known", "old form"],
)  # fmt: skip
def test_gone_or_not(tmp_path, changes, age, is_unlocked, is_gone):
    heartbeat = time.time() - age
    process = facts(tmp_path, **changes)
    assert recovery.is_gone(process, heartbeat, is_unlocked=is_unlocked) is is_gone


HOLDER = """
import sys
from pathlib import Path
from mlp_jax.tracking.record import Record
record = Record(Path(sys.argv[1]))
print("held", flush=True)
input()
"""


@pytest.mark.parametrize("namespace", [[], ["unshare", "--user", "--pid", "--fork"]])
def test_a_lock_is_held_until_the_process_ends_in_any_way(tmp_path, namespace):
    """Also before its parent asks for it, and in a namespace of its own, as a container has."""
    if namespace and subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    command = [*namespace, sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as child:
        assert child.stdout.readline() == b"held\n"
        assert is_locked(tmp_path)
        child.stdin.close()  # it ends with an exception
        child.stdout.read()  # ends with the process, which is a zombie then
        deadline = time.monotonic() + 30
        while is_locked(tmp_path) and time.monotonic() < deadline:
            pass
        assert not is_locked(tmp_path)


def test_where_nothing_was_locked_nothing_is_made(tmp_path):
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
