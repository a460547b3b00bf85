"""A process is gone only where that is certain."""

import subprocess
import sys
import time

import pytest

from mlp_jax.tracking import liveness

NOW = time.time()
AGES = 1e9  # seconds
OWN = liveness.this_process()


def test_a_tag_says_which_process():
    assert liveness.parse(OWN.host, str(OWN)) == OWN


@pytest.mark.parametrize(
    ("host", "text"),
    [("", str(OWN)), ("a", ""), ("a", "x/1/b/n"), ("a", "1/2")],
    ids=["no host", "nothing", "no number", "half of it"],  # the same in each process of pytest
)
def test_a_tag_that_says_no_process(host, text):
    assert liveness.parse(host, text) is None


@pytest.mark.parametrize(
    ("change", "age", "is_gone"),
    [
        ({}, AGES, False),
        ({"started": "1"}, 0, True),  # another process has its number now
        ({"pid": 2**22 + 1}, 0, True),
        ({"host": "elsewhere", "started": "1"}, AGES, False),
        ({"namespace": "pid:[1]", "started": "1"}, AGES, False),
        ({"boot": "another"}, 0, False),  # maybe a machine of the same name
        ({"boot": "another"}, 3600, True),
        ({"boot": "", "started": "1"}, AGES, False),
    ],
    ids=["itself", "number reused", "number unused", "other host", "other namespace",
         "other boot, just now", "other boot, long ago", "boot unknown"],
)  # fmt: skip
def test_gone_or_not(change, age, is_gone):
    assert liveness.is_gone(OWN._replace(**change), time.time() - age) is is_gone


def test_a_process_that_ended_is_gone_before_its_parent_asks_for_it():
    module = "mlp_jax.tracking.liveness"
    program = f"import {module} as liveness; print(liveness.this_process(), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process = liveness.parse(OWN.host, child.stdout.readline().strip())
    assert not liveness.is_gone(process, NOW)
    child.kill()
    child.stdout.read()  # ends with the process, which is a zombie then
    deadline = time.monotonic() + 30
    while not liveness.is_gone(process, NOW) and time.monotonic() < deadline:
        pass
    assert liveness.is_gone(process, NOW)
    child.communicate()


def test_processes_that_are_not_shown_may_be_alive(monkeypatch):
    def hidden(pid, signal):
        raise PermissionError

    monkeypatch.setattr(liveness.os, "kill", hidden)
    assert not liveness.is_gone(OWN._replace(pid=2**22 + 1), 0.0)
