"""Checkpoints: what was saved comes back bit for bit, whatever stops a save, or is not believed."""

import io
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_jax.durable import files
from mlp_jax.durable.checkpoint import Checkpoints, _best
from mlp_jax.errors import RunError
from mlp_jax.experiment.run import from_arrays, to_arrays

DTYPES = [
    "bool", "int8", "int32", "int64", "uint8", "uint32", "uint64", "float16", "bfloat16",
    "float32", "float64", "float8_e4m3fn", "complex64", "complex128",
]  # fmt: skip
POINT = {"train/loss": 0.1, "learning_rate": 0.3}


class State(NamedTuple):
    """As nested as the state of an optimizer."""

    params: tuple[dict[str, jax.Array], ...]
    nothing: None
    key: jax.Array
    step: jax.Array


def make_state(step: int = 0, num_outputs: int = 2) -> State:
    weights = jnp.arange(3 * num_outputs, dtype=jnp.float32).reshape(num_outputs, 3) / 7 + step
    return State(
        params=({"W": weights, "b": jnp.full(num_outputs, -0.0, jnp.float64)}, {}),
        nothing=None,
        key=jax.random.key_data(jax.random.key(step)),
        step=jnp.int32(step),
    )


def bits(tree):
    """Everything of a tree that could be lost: its structure, and each leaf's dtype and bytes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, to_arrays(make_state(step)), history_until(step))


def history_until(step: int):
    return [(at, POINT | {"train/loss": 1 / at}) for at in range(1, step + 1)]


def restored_step(checkpoints: Checkpoints, warn=pytest.fail) -> int | None:
    """The step that is restored; all of it is as it was saved."""
    found = checkpoints.restore(warn)
    if found is None:
        return None
    assert bits(from_arrays(make_state(), found)) == bits(make_state(found.step))
    assert found.history == history_until(found.step)
    return found.step


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=3)


def names(checkpoints: Checkpoints) -> list[str]:
    """Of the files in the directory."""
    return sorted(file.name for file in checkpoints.directory.iterdir())


def names_of(*steps: int) -> list[str]:
    return [f"{step:010d}.npz" for step in steps]


# --- what was saved comes back -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_every_bit_of_every_dtype_comes_back(dtype, shape, checkpoints):
    dtype = jnp.dtype(dtype)
    pattern = np.random.default_rng(0).integers(0, 256, 6 * dtype.itemsize, np.uint8)
    if dtype.kind == "b":
        pattern %= 2
    array = jnp.asarray(pattern.view(dtype)[: math.prod(shape)].reshape(shape))
    tree = {"a": (array, array.T), "none": None}
    checkpoints.save(1, to_arrays(tree), [])
    found = from_arrays(jax.eval_shape(lambda: tree), checkpoints.restore(pytest.fail))
    assert bits(found) == bits(tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    "history",
    [[], [(1, {})], [(7, POINT)], [(1, {"a": 0.1}), (2**40, {"a": -0.0})]],
)
def test_the_history_comes_back(history, checkpoints):
    checkpoints.save(1, to_arrays(make_state()), history)
    assert repr(checkpoints.restore(pytest.fail).history) == repr(history)


@given(st.lists(st.floats(), max_size=5))
def test_every_number_of_the_history_comes_back(tmp_path_factory, numbers):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("history"), keep=1)
    checkpoints.save(1, {}, [(step, {"train/loss": x}) for step, x in enumerate(numbers)])
    found = [metrics["train/loss"] for _, metrics in checkpoints.restore(pytest.fail).history]
    assert np.array(found).tobytes() == np.array(numbers).tobytes()


def test_without_a_checkpoint_nothing_is_restored(checkpoints):
    assert checkpoints.restore(pytest.fail) is None
    checkpoints.remove_unfinished()
    assert not checkpoints.directory.exists()


# --- which are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 1.0, 2.0], [2]), ([math.nan, 2.0, 1.0], [3]), ([2.0, math.inf, 3.0], [1]),
     ([math.nan] * 3, [])],
)  # fmt: skip
def test_the_best_has_the_lowest_finite_loss(losses, best):
    history = [(step, {"train/loss": loss}) for step, loss in enumerate(losses, start=1)]
    assert _best([1, 2, 3], history) == best


def test_the_best_is_that_of_the_validation_part():
    losses = {1: (2.0, 3.0), 2: (3.0, 1.0), 3: (1.0, 2.0)}
    history = [(at, {"train/loss": a, "validation/loss": b}) for at, (a, b) in losses.items()]
    assert _best([1, 2, 3], history) == [2]
    assert _best([1, 3], history) == [3]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_and_the_best_are_kept(keep, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep)
    losses = [5.0, 1.0, 4.0, 3.0, 2.0, 6.0]
    for step in range(1, 7):
        history = [(at, {"train/loss": losses[at - 1]}) for at in range(1, step + 1)]
        checkpoints.save(step, to_arrays(make_state(step)), history)
        assert checkpoints.steps() == sorted({*range(max(1, step - keep + 1), step + 1),
                                              *([2] if step >= 2 else [1])})  # fmt: skip
    assert names(checkpoints) == names_of(*checkpoints.steps())


def test_a_checkpoint_that_is_there_and_whole_stays_as_it_is(checkpoints):
    save(checkpoints, 1)
    before = checkpoints.path(1).stat()
    save(checkpoints, 1)
    assert os.path.samestat(checkpoints.path(1).stat(), before)


def test_a_file_can_be_opened_by_numpy_alone(checkpoints):
    save(checkpoints, 2)
    with np.load(checkpoints.path(2), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["history"][:, 0], [1, 2])
        assert arrays["state/.step:int32"] == 2


def test_what_was_damaged_after_the_point_of_resumption_outlives_no_whole_one(tmp_path):
    """A run that resumed at 1 saves at 4 before it comes to 5 and 6 again."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(Checkpoints(tmp_path, keep=9), 1, 5, 6)
    for step in (5, 6):
        checkpoints.path(step).write_bytes(b"damaged")
    save(checkpoints, 4)
    assert names(checkpoints) == names_of(1, 4)


# --- a save that is stopped --------------------------------------------------------------------


class KilledError(BaseException):
    """The process is gone: nothing that it would have done later happens."""


class _File:
    """A file of which the process is killed as it writes, with half of the bytes written."""

    def __init__(self, opened: Any, until_killed: Callable[..., Any]) -> None:
        self._opened, self._until_killed = opened, until_killed

    def write(self, content: bytes) -> None:
        def half() -> None:
            self._opened.write(content[: len(content) // 2])
            self._opened.flush()

        self._until_killed(lambda: self._opened.write(content), half)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()


def kill_before(patch: pytest.MonkeyPatch, number: int) -> None:
    """Lets `number` more of the calls that change the disk succeed, and no others."""
    left = iter(range(number))
    is_alive = True

    def until_killed(call: Callable[[], Any], half: Callable[[], None] = lambda: None) -> Any:
        nonlocal is_alive
        if is_alive and next(left, None) is not None:
            return call()
        if is_alive:
            half()
        is_alive = False
        raise KilledError

    for name in ("fsync", "mkdir", "replace", "unlink", "open"):
        original = getattr(os, name)
        patch.setattr(
            os, name, lambda *a, original=original, **k: until_killed(lambda: original(*a, **k))
        )
    open_file = io.open

    def opening(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if "w" not in mode:
            return open_file(file, mode, *rest, **named)
        return _File(until_killed(lambda: open_file(file, mode, *rest, **named)), until_killed)

    patch.setattr(io, "open", opening)


@pytest.mark.parametrize("there_already", [[1], [1, 2], [1, 2, 3]], ids=str)
def test_a_kill_before_any_call_of_a_save_loses_no_whole_checkpoint(
    there_already, tmp_path, monkeypatch
):
    """The third is saved: with nothing to remove, with one to remove, in place of a damaged one."""
    newest = set()
    for number in range(100):
        checkpoints = Checkpoints(tmp_path / str(number), keep=1)
        save(Checkpoints(checkpoints.directory, keep=3), *there_already)
        if 3 in there_already:
            checkpoints.path(3).write_bytes(b"damaged")
        with monkeypatch.context() as patch:
            kill_before(patch, number)
            try:
                save(checkpoints, 3)
                is_done = True
            except KilledError:
                is_done = False
        told = []
        newest.add(restored_step(checkpoints, told.append))
        assert len(told) <= (3 in there_already)
        checkpoints.remove_unfinished()
        assert names(checkpoints) == names_of(*checkpoints.steps())
        if is_done:
            break
    last_whole = max({1, 2} & {*there_already})
    assert is_done and number >= 7
    assert newest == {last_whole, 3}
    assert (checkpoints.steps(), told) == ([3], [])


def test_a_kill_before_any_call_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    found = []
    for number in range(20):
        file = tmp_path / "file"
        files.write(file, {"is": "old"})
        with monkeypatch.context() as patch:
            kill_before(patch, number)
            try:
                files.write(file, {"is": "new"})
            except KilledError:
                pass
            else:
                break
        found.append(files.read(file)["is"])
    assert sorted({*found}) == ["new", "old"] and found == sorted(found, reverse=True)


def test_what_cannot_be_written_changes_nothing(checkpoints, monkeypatch):
    save(checkpoints, 1, 2)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        save(checkpoints, 3)
    assert names(checkpoints) == names_of(1, 2)
    assert restored_step(checkpoints) == 2


def test_all_of_it_is_synced_before_it_has_its_name_and_the_name_after(checkpoints, monkeypatch):
    synced, unsynced = [], []
    fsync, replace = os.fsync, os.replace

    def note(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def look(path, target):
        unsynced.extend([path] if Path(path).stat().st_ino not in synced else [])
        synced.clear()
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", look)
    save(checkpoints, 1)
    assert not unsynced
    assert synced == [checkpoints.directory.stat().st_ino]


# --- damage ------------------------------------------------------------------------------------


def directory_in_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(change(file.read_bytes()))


ANOTHER = "its SHA-256 is another"
DAMAGES = {
    "a directory": (directory_in_place, "Is a directory"),
    "empty": (changed(lambda content: b""), ANOTHER),
    "cut": (changed(lambda content: content[:-1]), ANOTHER),
    "longer": (changed(lambda content: content + b"\0"), ANOTHER),
    "flipped": (changed(lambda c: c[:1] + bytes([c[1] ^ 1]) + c[2:]), ANOTHER),
    "zeroed": (changed(lambda content: bytes(len(content))), ANOTHER),
    "of another step": (
        lambda file: shutil.copy(file.parent / names_of(1)[0], file), "is of another step"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_it_restored(damage, checkpoints):
    save(checkpoints, 1, 2, 3)
    do, words = DAMAGES[damage]
    do(checkpoints.path(3))
    told = []
    assert restored_step(checkpoints, told.append) == 2
    assert told == [f"damaged checkpoint {checkpoints.path(3)}: {words}; taking the one before it"]
    do(checkpoints.path(2))
    checkpoints.path(1).unlink()
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        checkpoints.restore(told.append)
    assert len(told) == 3


def test_a_checkpoint_that_goes_away_is_named(checkpoints, monkeypatch):
    save(checkpoints, 1, 2)
    monkeypatch.setattr(checkpoints, "steps", lambda: [1, 2, 3])
    told = []
    assert restored_step(checkpoints, told.append) == 2
    assert told == [
        f"damaged checkpoint {checkpoints.path(3)}: No such file or directory; taking the one "
        "before it"
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One checkpoint that tests change and put right again."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("saved"), keep=2)
    save(checkpoints, 3)
    return checkpoints


def assert_noticed(saved: Checkpoints, content: bytes) -> None:
    """A checkpoint that becomes `content` is named as damaged, and as no more."""
    file = saved.path(3)
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        told = []
        with pytest.raises(RunError, match="every checkpoint is damaged"):
            saved.restore(told.append)
        assert told == [f"damaged checkpoint {file}: {ANOTHER}; taking the one before it"]
    finally:
        file.write_bytes(before)


def test_every_byte_that_is_another_is_noticed(saved):
    content = saved.path(3).read_bytes()
    for place, byte in enumerate(content):
        assert_noticed(
            saved, content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :]
        )
    assert restored_step(saved) == 3


def test_every_length_that_is_too_short_is_noticed(saved):
    content = saved.path(3).read_bytes()
    for length in range(len(content)):
        assert_noticed(saved, content[:length])
        zeroed = content[:length] + bytes(len(content) - length)
        if zeroed != content:
            assert_noticed(saved, zeroed)
    assert restored_step(saved) == 3


@given(st.integers(0, 10**6), st.sampled_from(["insert", "delete"]), st.integers(0, 255))
def test_no_byte_can_come_or_go_unnoticed(saved, place, change, byte):
    content = saved.path(3).read_bytes()
    place %= len(content)
    new = bytes([byte]) + content[place : place + 1] if change == "insert" else b""
    assert_noticed(saved, content[:place] + new + content[place + 1 :])
    assert restored_step(saved) == 3


@pytest.mark.parametrize("values", [{"a": 1, "b": ["ä", 0.1, None]}, {}])
def test_every_byte_of_a_json_file_that_changes_a_value_is_noticed(values, tmp_path):
    file = tmp_path / "file.json"
    files.write(file, values)
    content = file.read_bytes()
    damaged = [content[:n] for n in range(len(content) - 1)]  # the last byte is a line's end
    for place, byte in enumerate(content):
        flipped = bytes([byte ^ 1 << place % 8])
        damaged.append(content[:place] + flipped + content[place + 1 :])
    for each in damaged:
        file.write_bytes(each)
        try:
            assert files.read(file) == values
        except RunError:
            continue


# --- what was not saved by this run ------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (make_state(num_outputs=4), r"'W'.*:float32 has shape \(2, 3\), this run \(4, 3\)\.$"),
        (make_state()._replace(nothing=jnp.zeros(1)), r"another kind of training; \.nothing:"),
        (make_state()._replace(key=None), r"another kind of training; \.key:uint32"),
        (jax.tree.map(lambda leaf: leaf.astype("float32"), make_state()), "another kind of train"),
    ],
)
def test_another_network_or_optimizer_is_an_error_that_names_the_array(saved, template, words):
    with pytest.raises(RunError, match=rf"^{saved.path(3)}: .*{words}") as error:
        from_arrays(template, saved.restore(pytest.fail))
    assert len(str(error.value).splitlines()) == 1


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def with_objects(target: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([Bomb(target)], object))
    return buffer.getvalue()


FORGERIES = {
    "an array of objects": with_objects,
    "a pickle": lambda target: pickle.dumps(Bomb(target)),
    "half an archive": lambda target: with_objects(target)[:-9],
    "nothing": lambda target: b"",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_pickle_is_never_read_even_if_the_digest_is_right(forge, checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    file = checkpoints.path(2)
    files.write_bytes(file, forge(tmp_path / "exploded"))
    told = []
    assert restored_step(checkpoints, told.append) == 1
    assert len(told) == 1 and f"{file}: " in told[0]
    assert not (tmp_path / "exploded").exists()


def test_checkpoints_of_an_earlier_version_are_said_to_be_that(checkpoints):
    old = checkpoints.directory / "0000000003"
    old.mkdir(parents=True)
    for name in ("state.npz", "history.npz", "manifest.json"):
        (old / name).touch()
    with pytest.raises(RunError, match="is of an earlier version of mlp_jax"):
        checkpoints.restore(pytest.fail)
