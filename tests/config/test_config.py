"""The schema and `conf/` agree, and a value that is not allowed is refused in plain words."""

from collections import defaultdict
from dataclasses import fields, replace

import pytest
import yaml
from omegaconf import OmegaConf

from mlp_jax.config import checks
from mlp_jax.config import schema as config
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import CHOICES, CONF, SECTIONS, Experiment, Role, Table
from mlp_jax.errors import UserError, nearest

GROUP_FILES = sorted((file.parent.name, file.stem) for file in CONF.glob("*/*.yaml"))
EXPERIMENTS = [name for group, name in GROUP_FILES if group == "exp"]
CHOICE_FILES = [(group, name) for group, name in GROUP_FILES if group != "exp"]
OF_A_TABLE = ["data.path=x.csv", "data.target=y"]
NEEDED = defaultdict(list, dict.fromkeys(("table", "tabular", "tabular_search"), OF_A_TABLE))


@pytest.fixture(scope="module")
def xor() -> Experiment:
    return compose(["+exp=xor"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str) -> None:
    assert isinstance(compose([f"+exp={name}", *NEEDED[name]]), Experiment)


@pytest.mark.parametrize(("group", "name"), CHOICE_FILES)
def test_every_choice_composes_under_its_name(group: str, name: str) -> None:
    chosen = getattr(compose([f"{group}={name}", *NEEDED[name]]), group)
    assert type(chosen) in CHOICES[group]
    assert getattr(chosen, "name", name) == name


@pytest.mark.parametrize(("group", "name"), CHOICE_FILES)
def test_a_file_has_the_keys_of_its_dataclass(group: str, name: str) -> None:
    keys = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    [[(where, schema)]] = [default.items() for default in keys.pop("defaults")]
    assert where == f"/schema/{group}@_here_"
    [dataclass] = [choice for choice in CHOICES[group] if choice.__name__ == schema]
    assert set(keys) == {item.name for item in fields(dataclass)}


def test_the_main_file_has_every_key_and_group() -> None:
    keys = yaml.safe_load((CONF / "config.yaml").read_text())
    groups = {
        group for default in keys["defaults"] if isinstance(default, dict) for group in default
    }
    for section, (schema,) in SECTIONS.items():
        assert set(keys[section]) == {item.name for item in fields(schema)}
    assert set(CHOICES) < groups
    assert set(CHOICES) | set(keys) - {"defaults", "hydra"} == {i.name for i in fields(Experiment)}


def test_every_dataclass_is_a_choice_of_some_file() -> None:
    texts = "\n".join(file.read_text() for file in CONF.glob("*/*.yaml"))
    for group, choices in CHOICES.items():
        for choice in choices:
            assert f"/schema/{group}@_here_: {choice.__name__}\n" in texts


def test_every_key_says_what_it_may_be() -> None:
    for choices in (*CHOICES.values(), *SECTIONS.values(), (Experiment,)):
        for item in (item for choice in choices for item in fields(choice)):
            words = config.describe(item)
            assert words
            assert "{" not in words
            assert "typing" not in words


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("seed=-1", "seed=-1: must be a whole number from 0 to 4,294,967,295."),
        ("data.num_inputs=1" + "0" * 400, "must be a whole number from 1 to 16."),
        ("num_epochs=0", "num_epochs=0: must be a whole number from 1 to 2,147,483,647, or null."),
        ("device=gpuu", "device=gpuu: must be one of auto, cpu, gpu, tpu. Did you mean gpu?"),
        (
            "name=''",
            "name='': must be a text of one line or less, not empty, of at most 250 characters, "
            "or null.",
        ),
        (f"name={251 * 'n'}", "of at most 250 characters"),
        (f"tracking.run_name={251 * 'n'}", "of at most 250 characters"),
        (
            "optimizer.learning_rate=inf",
            "optimizer.learning_rate=inf: must be a number > 0.",
        ),
        ("model.label_smoothing=1", "model.label_smoothing=1.0: must be a number >= 0 and < 1."),
        (
            "model.hidden_sizes=[8,0]",
            "model.hidden_sizes=[8, 0]: must be a list of whole numbers, each from 1 to 1,000,000.",
        ),
        (
            "model.class_weights=[1,true]",
            "model.class_weights=[1, True]: must be balanced, or a list with one number > 0 for "
            "each class, or null.",
        ),
        (
            "data.validation_size=2.5",
            "data.validation_size=2.5: must be a fraction >= 0 and < 1, or a whole number of "
            "examples.",
        ),
        ("early_stopping.monitor=r2x", "Did you mean r2?"),
        ("model.activation=[tanh,relux]", "model.activation=['tanh', 'relux']: must be one of"),
        ("model.activation=null", "model.activation=null: must be one of step, sigmoid"),
        ("optimizer.name=adam", "optimizer.name=adam: must be gradient_descent"),
        (
            "+model.hiden_sizes=[8]",
            "model.hiden_sizes: no such key. Did you mean model.hidden_sizes?",
        ),
        ("+learning_rate=1", "Did you mean optimizer.learning_rate?"),
        ("lr=0.1", "lr: no such key. Did you mean optimizer.learning_rate=0.1?"),
        ("optimizer.lr=.1", "Did you mean optimizer.learning_rate=.1?"),
        ("optimizer=sgd", "optimizer=sgd: no such choice. Did you mean gradient_descent?"),
        ("~seed", "seed is not set: give it as seed=VALUE."),
        ("seed=???", "seed is not set: give it as seed=VALUE."),
    ],
)
def test_a_value_that_is_not_allowed(override: str, error: str) -> None:
    with pytest.raises(UserError) as raised:
        compose([override])
    assert error in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["num_steps=10"], "num_epochs=100 num_steps=10: give exactly one of them"),
        (["num_epochs=null"], "num_epochs=null num_steps=null: give exactly one of them"),
        (["model.activation=[tanh,tanh]"], "2 activations for 1 hidden layers"),
        (
            ["model.output=tanh", "model.loss=cross_entropy"],
            "model.output=tanh model.loss=cross_entropy: no such pair; cross_entropy follows "
            "softmax, and tanh goes with squared_error or half_squared_error.",
        ),
        (
            ["model.initializer=standard_normal", "model.initializer_scale=2"],
            "use model.initializer=scaled_normal",
        ),
        (
            ["data.scaling=robust", "data.standardize=false"],
            "data.standardize=false data.scaling=robust: the first scales nothing",
        ),
        (["optimizer=lbfgs", "batch_size=2"], "batch_size=2: lbfgs needs the full batch"),
        (["model.hidden_sizes=[100000,100000]"], "must be at most 1,000,000,000"),
        (["schedule=piecewise", "schedule.boundaries=[0.7,0.2]"], "an increasing list of"),
    ],
)
def test_values_that_do_not_fit_together(overrides: list[str], error: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(overrides)
    assert error in str(raised.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("price", ["price"]), ("[price]", ["price"]), ("[price,rent]", ["price", "rent"]),
        ("7", ["7"]), ("[1,true]", ["1", "True"]), ('"1e3"', ["1e3"]),
    ],
)  # fmt: skip
def test_targets_are_names(given: str, names: list[str]) -> None:
    data = compose(["+exp=table", "data.path=t.csv", f"data.target={given}"]).data
    assert isinstance(data, Table) and data.targets == names


@pytest.mark.parametrize("given", ["null", "''", "[]", "[a,a]", "[a,[b]]", "[a,null]", "{a: 1}"])
def test_what_is_no_target(given: str) -> None:
    with pytest.raises(
        UserError, match=r"^data\.target=.*: must be a text, or a list of different"
    ):
        compose(["+exp=table", "data.path=t.csv", f"data.target={given}"])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 10_000.0])
def test_the_size_of_a_part_is_a_fraction_or_a_count(xor: Experiment, value: float) -> None:
    checks.validate(replace(xor, data=replace(xor.data, validation_size=value)))


def test_to_experiment_refuses_a_key_without_a_value() -> None:
    with pytest.raises(UserError, match=r"^data\.path is not set"):
        compose(["data=table"])


def test_a_long_value_is_cut_short(xor: Experiment) -> None:
    with pytest.raises(UserError) as raised:
        checks.validate(replace(xor, device="cpu " * 1_000))
    assert len(str(raised.value)) < 200


def test_the_nearest_name() -> None:
    assert nearest("sigmod", config.ACTIVATION_NAMES) == " Did you mean sigmoid?"
    assert nearest("", config.ACTIVATION_NAMES) == ""


def test_the_schema_has_no_values_of_its_own() -> None:
    for choices in CHOICES.values():
        for choice in choices:
            names = {item.name for item in fields(choice)} - {"name"}
            assert names <= OmegaConf.missing_keys(OmegaConf.structured(choice))


def test_every_key_has_one_role_and_help() -> None:
    every = dict(config.all_fields())
    roles = [config.keys(role) for role in Role]
    assert sum(map(len, roles)) == len(frozenset.union(*roles)) == len(every)
    names = {f"{group}.name" for group in CHOICES}
    assert all(item.metadata["help"] for path, item in every.items() if path not in names)
    assert config.keys(Role.LENGTH) == {"num_epochs", "num_steps"}
    assert config.keys(Role.SECRET) == {"tracking.uri"}
    assert config.TRACED_KEYS.isdisjoint(config.RECORD_KEYS)


@pytest.mark.parametrize("group", ["optimizer", "schedule"])
def test_the_numbers_of_an_optimizer_are_those_of_its_function(group: str) -> None:
    """The schema refuses without JAX what the tables of `core/optimizers.py` do not take."""
    from mlp_jax.core import optimizers

    table = {"optimizer": optimizers.OPTIMIZERS, "schedule": optimizers.SCHEDULES}[group]
    choices = {choice.__name__: choice for choice in CHOICES[group]}
    assert set(choices) == set(table)
    for name, entry in table.items():
        keys = {item.name for item in fields(choices[name])}
        common = {"name", "learning_rate", "clip_norm", "weight_decay_schedule"}
        assert keys - common == set(optimizers.numbers_of(entry))
        values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
        numbers = optimizers.numbers_of(entry)
        assert {key: values[key] for key in numbers} == {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in numbers.items()
        }
