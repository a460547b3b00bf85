"""A store is brought up to a run's directory, each thing once, whatever fails on the way."""

import json
import zlib
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mlp_jax.commands import sync
from mlp_jax.errors import RunError
from mlp_jax.tracking import old, recovery, store
from mlp_jax.tracking.facts import Data
from mlp_jax.tracking.mirror import Mirror, mirror
from mlp_jax.tracking.record import FACTS, FORM, HISTORY, MODEL, Point, Record

STEPS = range(5)
DATA = Data("xor", "digest", '{"uri": "here"}', '{"mlflow_colspec": []}', "{}")


@pytest.fixture(scope="module")
def client(tmp_path_factory, make_store):
    client = store.open_store(make_store(tmp_path_factory.mktemp("store")))
    store.experiment_id(client, "mirror")
    return client


def write_model(path):
    from mlflow.models import Model

    (path / "data").mkdir(parents=True)
    (path / "data" / "params").write_text("1 2 3")
    Model(utc_time_created="2026-01-01 00:00:00.000000").save(path / "MLmodel")


def written(directory, uri, id_):
    """A run that has ended, with every kind of thing that a run can have."""
    record = Record(directory)
    record.note(
        form=FORM,
        id=id_,
        name="a run",
        experiment="mirror",
        uri=uri,
        parent=None,
        status="RUNNING",
        started=3,
        start_time=3,
        params={f"p{k}": str(k) for k in range(101)},
        tags={"a": "b", "mlflow.note.content": "**a note**"},
        data=DATA,
    )
    for step in STEPS:
        record.log(Point(step, 5 + step, {"train/loss": 1 / (step + 1), "m": step / 4}))
    record.add("notes/found.txt", lambda path: path.write_text("what was found"))
    record.add("config.yaml", lambda path: path.write_text("seed: 1"))
    record.add(MODEL, write_model)
    record.end("FINISHED", 70)
    return record


def problems(client, id_):
    """What is missing, doubled or wrong in the store, in words."""
    from mlflow.artifacts import download_artifacts

    experiment = client.get_experiment_by_name("mirror").experiment_id
    found = client.search_runs([experiment], f"tags.`run.id` = '{id_}'")
    if len(found) != 1:
        return [f"{len(found)} runs"]
    (run,) = found
    run_id, info = run.info.run_id, run.info
    models = client.search_logged_models([experiment], f"tags.`run.id` = '{id_}'")
    ready = [model.model_id for model in models if model.status == "READY"]
    outputs = [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
    files = {}
    for name in ("notes/found.txt", "config.yaml"):
        files[name] = Path(client.download_artifacts(run_id, name)).read_text()
    model = Path(download_artifacts(client.get_logged_model(outputs[0]).artifact_location))
    histories = {
        key: Counter((p.step, p.value) for p in client.get_metric_history(run_id, key))
        for key in ("train/loss", "m")
    }
    wrong = {
        f"{info}": (info.run_name, info.status, info.start_time, info.end_time)
        != ("a run", "FINISHED", 3, 70),
        f"{run.data.params}": run.data.params != {f"p{k}": str(k) for k in range(101)},
        f"{run.data.tags}": not {"a": "b", "mlflow.note.content": "**a note**"}.items()
        <= run.data.tags.items(),
        f"{histories}": histories
        != {
            "train/loss": Counter((s, 1 / (s + 1)) for s in STEPS),
            "m": Counter((s, s / 4) for s in STEPS),
        },
        f"{files}": files != {"notes/found.txt": "what was found", "config.yaml": "seed: 1"},
        f"{ready} {outputs}": ready != outputs or len(outputs) != 1,
        "model": (model / "data" / "params").read_text() != "1 2 3",
        "inputs": [i.dataset.digest for i in run.inputs.dataset_inputs] != ["digest"],
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


class Failing:
    """A client whose call of a number fails, before or after the store did what it was asked."""

    def __init__(self, client, number, when):
        self.client, self.number, self.when = client, number, when
        self.num_calls = 0

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if not callable(method):
            return method

        def call(*args, **kwargs):
            self.num_calls += 1
            is_now = self.num_calls == self.number
            if is_now and self.when == "before":
                raise ConnectionError(name)
            answer = method(*args, **kwargs)
            if is_now:
                raise ConnectionError(name)
            return answer

        return call


def count_calls(client, directory, id_):
    counting = Failing(client, 0, "never")
    with closing(written(directory, client.tracking_uri, id_)) as record:
        mirror(record, counting)
    return counting.num_calls


@pytest.mark.parametrize("when", ["before", "after"])
def test_each_thing_arrives_once_whichever_call_fails(client, tmp_path, when):
    num_calls = count_calls(client, tmp_path / "count", f"no call {when}")
    assert problems(client, f"no call {when}") == []
    assert num_calls > 24
    for number in range(1, num_calls + 1):
        directory, id_ = tmp_path / str(number), f"{when} {number}"
        record = written(directory, client.tracking_uri, id_)
        with closing(record), pytest.raises(ConnectionError):
            mirror(record, Failing(client, number, when))
        assert recovery.is_left(directory)
        with closing(Record(directory)) as record:
            mirror(record, client)
        assert problems(client, id_) == [], f"call {number}"
        assert [path.name for path in directory.iterdir()] == [FACTS]


def test_what_is_there_is_not_sent_again(client, tmp_path):
    with closing(written(tmp_path / "run", client.tracking_uri, "once")) as record:
        assert Mirror(record, client).update() > 0
        assert Mirror(record, client).update() == 0


def test_nothing_is_removed_that_the_store_does_not_keep(client, tmp_path, monkeypatch):
    with closing(written(tmp_path / "run", client.tracking_uri, "forgetful")) as record:
        with monkeypatch.context() as patched:
            patched.setattr(client, "log_artifact", lambda *args: None)
            with pytest.raises(RunError, match="does not keep what it is sent"):
                mirror(record, client)
        assert record.file("config.yaml").read_text() == "seed: 1"
        mirror(record, client)
    assert problems(client, "forgetful") == []


def test_what_was_half_written_in_the_store_is_written_whole(client, tmp_path):
    with closing(written(tmp_path / "run", client.tracking_uri, "half")) as record:
        Mirror(record, client).update()
        run_id = record.facts["run_id"]
        Path(client.download_artifacts(run_id, "config.yaml")).write_text("se")
        mirror(record, client)
    assert problems(client, "half") == []


# --- damage ------------------------------------------------------------------------------------


def damaged(directory, uri, what):
    written(directory, uri, what).close()
    (model,) = (directory / MODEL).iterdir()
    if what == "history":
        content = (directory / HISTORY).read_bytes()
        (directory / HISTORY).write_bytes(content[: len(content) // 2])
    elif what == "model":
        (model / "data" / "params").write_text("1 2 4")
    elif what == "a file of the model":
        (model / "data" / "params").unlink()
    elif what == "file":
        next((directory / "files").rglob("found.txt")).unlink()


@pytest.mark.parametrize("what", ["history", "model", "a file of the model", "file"])
def test_damage_is_said_and_the_rest_is_delivered(client, tmp_path, capsys, what):
    damaged(tmp_path / "run", client.tracking_uri, what)
    for _ in range(2):  # it is not forgotten
        assert not sync.sync([tmp_path / "run"])
        assert "DAMAGED: " in capsys.readouterr().out.splitlines()[-1]
    experiment = client.get_experiment_by_name("mirror").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`run.id` = '{what}'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["run.damaged"]
    num_points = len(client.get_metric_history(run.info.run_id, "m"))
    assert num_points == (2 if what == "history" else len(STEPS))
    ready = client.search_logged_models([experiment], f"tags.`run.id` = '{what}'")
    assert len(ready) == ("model" not in what)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files - {"model"} == {"config.yaml"} | ({"notes"} if what != "file" else set())


def test_a_run_whose_facts_are_gone_is_not_passed_over(client, tmp_path, capsys):
    written(tmp_path / "run", client.tracking_uri, "nameless").close()
    (tmp_path / "run" / FACTS).unlink()
    runs = recovery.run_directories(tmp_path)
    assert runs == [tmp_path / "run"]
    assert not sync.sync(runs)
    assert "run.json: is gone" in capsys.readouterr().out
    assert (tmp_path / "run" / HISTORY).exists()


# --- the old form ------------------------------------------------------------------------------


def line(number, kind, body):
    text = json.dumps([number, kind, body]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


DATASET = {"name": "xor", "digest": "digest", "source_type": "local", "source": DATA.source,
           "schema": DATA.schema, "profile": DATA.profile}  # fmt: skip


def old_directory(directory, uri, id_, *, status="FINISHED", delivered=0, drop=(), end=None):
    """As it was written until version 1."""
    from mlp_jax.durable import files

    entries = [
        ("run", {"id": id_, "experiment": "mirror", "name": "a run", "parent": None,
                 "start_time": 3, "tags": {"a": "c", "mlflow.note.content": "**a note**"}}),
        ("params", {f"p{k}": str(k) for k in range(101)}),
        ("dataset", {"dataset": DATASET, "tags": {"mlflow.data.context": "training"}}),
        *[("metrics", {"points": [["train/loss", 1 / (s + 1), 5, s], ["m", s / 4, 5, s]]})
          for s in STEPS],
        ("tags", {"a": "b"}),
        ("artifact", {"folder": "1-a", "file": "notes/found.txt"}),
        ("artifact", {"folder": "2-b", "file": "config.yaml"}),
        ("model", {"folder": "3-c"}),
        ("status", {"status": "FINISHED", "end_time": 70}),
    ]  # fmt: skip
    outbox = directory / "outbox"
    (outbox / "1-a" / "notes").mkdir(parents=True)
    (outbox / "1-a" / "notes" / "found.txt").write_text("what was found")
    (outbox / "2-b").mkdir()
    (outbox / "2-b" / "config.yaml").write_text("seed: 1")
    write_model(outbox / "3-c")
    lines = [line(number, *entry) for number, entry in enumerate(entries)][:end]
    for number in drop:
        lines[number] = b"x" + lines[number]
    (directory / old.JOURNAL).write_bytes(b"".join(lines))
    facts = {"id": id_, "name": "a run", "experiment": "mirror", "uri": uri, "status": status,
             "started": 3, "is_temporary": False, "host": "vm", "process": "1/2/boot/pid:[3]",
             "delivered": delivered}  # fmt: skip
    files.write(directory / FACTS, facts)


@pytest.mark.parametrize("status", ["FINISHED", "RUNNING"])
def test_a_directory_of_the_old_form_is_delivered(client, tmp_path, status):
    """Where `run.json` says RUNNING the process died after its end was in the journal."""
    old_directory(tmp_path / "run", client.tracking_uri, f"old {status}", status=status)
    assert recovery.run_directories(tmp_path) == [tmp_path / "run"]
    assert sync.sync([tmp_path / "run"])
    assert problems(client, f"old {status}") == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FACTS]


@pytest.mark.parametrize(
    ("changes", "damage"),
    [
        ({"drop": [5]}, "1 entries of its journal"),
        ({"drop": [0], "delivered": 5}, None),
        ({"end": 6}, "1 entries of its journal"),
    ],
    ids=["a line", "a line that is delivered", "its end"],
)
def test_damage_to_the_old_form_is_said(client, tmp_path, changes, damage):
    id_ = f"old damage {changes}".replace("'", "")
    old_directory(tmp_path / "run", client.tracking_uri, id_, **changes)
    assert sync.sync([tmp_path / "run"]) is (damage is None)
    assert recovery.damage(tmp_path / "run") == ([damage] if damage else [])
    experiment = client.get_experiment_by_name("mirror").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`run.id` = '{id_}'")
    assert run.info.status == "FINISHED"


def test_a_delivered_run_of_the_old_form_is_left_in_peace(client, tmp_path):
    old_directory(tmp_path / "run", client.tracking_uri, "old delivered")
    (tmp_path / "run" / old.JOURNAL).unlink()
    assert not recovery.is_left(tmp_path / "run")
