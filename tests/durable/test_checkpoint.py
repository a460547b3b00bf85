"""Checkpoints: what was saved comes back bit for bit, whatever stops a save, or is not believed."""

import hashlib
import io
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_jax.durable.checkpoints import FILES, MANIFEST, STATE, Checkpoints, _best, _manifest
from mlp_jax.errors import RunError

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
        checkpoints.save(step, make_state(step), history_until(step))


def history_until(step: int):
    return [(at, POINT | {"train/loss": 1 / at}) for at in range(1, step + 1)]


def restored_step(checkpoints: Checkpoints, warn=pytest.fail) -> int | None:
    """The step that is restored; all of it is as it was saved."""
    found = checkpoints.restore(make_state(), warn)
    if found is None:
        return None
    step = int(found.state.step)
    assert bits(found.state) == bits(make_state(step))
    assert found.history == history_until(step)
    return step


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=3)


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
    checkpoints.save(1, tree, [])
    found = checkpoints.restore(jax.eval_shape(lambda: tree), pytest.fail)
    assert bits(found.state) == bits(tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.state))


@pytest.mark.parametrize(
    "history",
    [[], [(1, {})], [(7, POINT)], [(1, {"a": 0.1}), (2**40, {"a": -0.0})]],
)
def test_the_history_comes_back(history, checkpoints):
    checkpoints.save(1, make_state(), history)
    assert repr(checkpoints.restore(make_state(), pytest.fail).history) == repr(history)


@given(st.lists(st.floats(), max_size=5))
def test_every_number_of_the_history_comes_back(tmp_path_factory, numbers):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("history"), keep=1)
    checkpoints.save(1, {}, [(step, {"train/loss": x}) for step, x in enumerate(numbers)])
    found = [metrics["train/loss"] for _, metrics in checkpoints.restore({}, pytest.fail).history]
    assert np.array(found).tobytes() == np.array(numbers).tobytes()


def test_without_a_checkpoint_nothing_is_restored(checkpoints):
    assert checkpoints.restore(make_state(), pytest.fail) is None
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
        checkpoints.save(step, make_state(step), history)
        assert checkpoints.steps() == sorted({*range(max(1, step - keep + 1), step + 1),
                                              *([2] if step >= 2 else [1])})  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoints.path(step).name for step in checkpoints.steps()
    ]


def test_a_checkpoint_that_is_there_and_whole_stays_as_it_is(checkpoints):
    save(checkpoints, 1)
    before = checkpoints.path(1).stat()
    save(checkpoints, 1)
    assert os.path.samestat(checkpoints.path(1).stat(), before)


# --- a save that is stopped --------------------------------------------------------------------


class KilledError(BaseException):
    """The process is gone: nothing that it would have done later happens."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Lets `number` more of the calls that change the disk for good succeed, and no others.

    The one that is killed has done half of its work, where it has halves.
    """
    left = iter(range(number))
    is_alive = True

    def until_killed(original):
        def call(*args, **kwargs):
            nonlocal is_alive
            if next(left, None) is None:
                if is_alive and original is rmtree and args[0].is_dir():
                    for path in sorted(args[0].iterdir())[:1]:
                        path.unlink()
                is_alive = False
                raise KilledError
            return original(*args, **kwargs)

        return call

    rmtree = shutil.rmtree
    for owner, name in ((os, "fsync"), (os, "mkdir"), (Path, "rename"), (shutil, "rmtree")):
        patch.setattr(owner, name, until_killed(getattr(owner, name)))


@pytest.mark.parametrize("there_already", [[1], [1, 2], [1, 2, 3]], ids=str)
def test_a_kill_between_any_two_steps_of_a_save_loses_no_whole_checkpoint(
    there_already, tmp_path, monkeypatch
):
    """The third is saved: with nothing to remove, with one to remove, in place of a damaged one."""
    newest = set()
    for number in range(100):
        checkpoints = Checkpoints(tmp_path / str(number), keep=1)
        save(Checkpoints(checkpoints.directory, keep=3), *there_already)
        for file in checkpoints.directory.glob(f"*3/{STATE}"):
            file.write_bytes(b"damaged")
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                save(checkpoints, 3)
                is_done = True
            except KilledError:
                is_done = False
        told = []
        newest.add(restored_step(checkpoints, told.append))
        assert len(told) <= (3 in there_already)
        damaged = {step for step in checkpoints.steps() if not checkpoints._is_whole(
            checkpoints.path(step))}  # fmt: skip
        assert damaged <= {3} & {*there_already}
        checkpoints.remove_unfinished()
        assert [path.name for path in sorted(checkpoints.directory.iterdir())] == [
            checkpoints.path(step).name for step in checkpoints.steps()
        ]
        if is_done:
            break
    last_whole = max({1, 2} & {*there_already})
    assert is_done and number >= 6
    assert newest == {last_whole, 3}
    assert (checkpoints.steps(), told) == ([3], [])


def test_what_cannot_be_written_changes_nothing(checkpoints, monkeypatch):
    save(checkpoints, 1, 2)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        save(checkpoints, 3)
    assert [path.name for path in sorted(checkpoints.directory.iterdir())] == [
        "0000000001", "0000000002",
    ]  # fmt: skip
    assert restored_step(checkpoints) == 2


def test_all_of_it_is_synced_before_it_has_its_name_and_the_name_after(checkpoints, monkeypatch):
    synced, unsynced = [], []
    fsync, rename = os.fsync, Path.rename

    def note(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def look(path, target):
        content = [path, *path.iterdir()]
        unsynced.extend(p.name for p in content if p.stat().st_ino not in synced)
        synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", look)
    save(checkpoints, 1)
    assert not unsynced
    assert synced == [checkpoints.directory.stat().st_ino]


# --- damage ------------------------------------------------------------------------------------


def other_manifest(path: Path) -> None:
    shutil.copy(path.parent / "0000000001" / MANIFEST, path / MANIFEST)


def in_place_of_a_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def directory_in_place(name: str):
    def damage(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def changed(name: str, change):
    return lambda path: (path / name).write_bytes(change((path / name).read_bytes()))


def deleted(name: str):
    return lambda path: (path / name).unlink()


ANOTHER = "the SHA-256 of {} is another"
MISSING = "{}: No such file or directory"
DAMAGES = {
    f"{name} {how}": (damage, words.format(name))
    for name in (*FILES, MANIFEST)
    for how, damage, words in [
        ("deleted", deleted(name), MISSING),
        ("a directory", directory_in_place(name), "{}: Is a directory"),
        ("empty", changed(name, lambda content: b""), ANOTHER),
        ("cut", changed(name, lambda content: content[:-1]), ANOTHER),
        ("longer", changed(name, lambda content: content + b"\0"), ANOTHER),
        ("flipped", changed(name, lambda c: c[:1] + bytes([c[1] ^ 1]) + c[2:]), ANOTHER),
    ]
} | {
    f"{MANIFEST} empty": (changed(MANIFEST, lambda content: b""), ANOTHER.format(STATE)),
    "of another checkpoint": (other_manifest, ANOTHER.format(STATE)),
    "no directory": (in_place_of_a_directory, f"{STATE}: Not a directory"),
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
    shutil.rmtree(checkpoints.path(1))
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        checkpoints.restore(make_state(), told.append)
    assert len(told) == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One checkpoint that tests change and put right again."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("saved"), keep=2)
    save(checkpoints, 3)
    return checkpoints


@given(
    st.sampled_from([*FILES, MANIFEST]),
    st.integers(0, 10**6),
    st.sampled_from(["flip", "insert", "delete"]),
    st.integers(1, 255),
)
def test_no_byte_can_change_unnoticed(saved, name, place, change, byte):
    file = saved.path(3) / name
    content = file.read_bytes()
    place %= len(content)
    old = content[place : place + 1]
    new = {"flip": bytes([old[0] ^ byte]), "insert": bytes([byte]) + old, "delete": b""}[change]
    file.write_bytes(content[:place] + new + content[place + 1 :])
    try:
        told = []
        with pytest.raises(RunError, match="every checkpoint is damaged"):
            saved.restore(make_state(), told.append)
        assert len(told) == 1
        assert name == MANIFEST or ANOTHER.format(name) in told[0]
    finally:
        file.write_bytes(content)
    assert restored_step(saved) == 3


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
        saved.restore(template, pytest.fail)
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


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_pickle_is_never_read_even_if_the_manifest_is_right(name, forge, checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    path = checkpoints.path(2)
    (path / name).write_bytes(forge(tmp_path / "exploded"))
    sums = {n: hashlib.sha256((path / n).read_bytes()).hexdigest() for n in FILES}
    (path / MANIFEST).write_bytes(_manifest(sums))
    told = []
    assert restored_step(checkpoints, told.append) == 1
    assert len(told) == 1 and f"{path}: {name}: " in told[0]
    assert not (tmp_path / "exploded").exists()
