"""Options are told by the functions themselves: the contract over all recipes, and what breaks it."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Interval, Lt

from pyrovae.errors import InputError
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.objectives.table import OBJECTIVES
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes import (
    RECIPES,
    About,
    Data,
    OptionError,
    Plan,
    Posterior,
    Stage,
    Training,
    load_recipe,
    options_of,
    recipe,
)
from pyrovae.recipes.options import component_options, summary_of
from pyrovae.recipes.settings import Time
from pyrovae.schedules import chained, constant, cosine_decay, linear_warm_up

if TYPE_CHECKING:
    from decimal import Decimal

COMPONENTS = [
    (table, name) for table in (POSTERIORS, PRIORS, LIKELIHOODS, NETWORKS, OBJECTIVES) for name in table
]
PLAIN = (int, float, bool, str)


def is_plain(kind):
    if get_origin(kind) is Literal:
        return all(type(choice) in PLAIN for choice in get_args(kind))
    return kind in PLAIN


# The contract


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_is_a_shell_word_a_json_value_and_documented(name):
    options = options_of(load_recipe(name))
    assert [*dict.fromkeys(option.group for option in options.values())] == ["Model", "Training", "Data"]
    for option in options.values():
        assert is_plain(option.type), option
        assert json.loads(json.dumps(option.default)) == option.default
        assert option.help.endswith("."), f"{option.name} has no help"
        assert option.checked(option.default) == option.default


@pytest.mark.parametrize("name", RECIPES)
def test_the_tables_line_is_the_docstrings_first(name):
    assert RECIPES[name].summary == summary_of(load_recipe(name))


@pytest.mark.parametrize(("table", "name"), COMPONENTS, ids=lambda value: getattr(value, "kind", value))
def test_the_tables_options_are_those_of_the_component(table, name):
    row = table[name]
    assert row.summary.endswith(".")
    assert callable(row.load())
    told = component_options(table, name)
    assert tuple(option.name for option in told) == row.options
    assert all(option.help.endswith(".") for option in told)


def test_the_options_of_the_chosen_components_join_those_of_the_recipe():
    vae = load_recipe("vae")
    plain, flow = options_of(vae), options_of(vae, {"posterior": "iaf", "prior": "vamp"})
    assert flow.keys() - plain.keys() == {"flow_steps", "components"}
    assert (flow["flow_steps"].default, flow["components"].default) == (4, 100)
    assert "iaf" in flow["flow_steps"].component


def test_models_with_classes_take_the_estimators_defaults_and_others_the_command_lines():
    """Where the three faces of version 0.1 differed."""
    m2, vae = options_of(load_recipe("m2")), options_of(load_recipe("vae"))
    chosen = {"latent_dim": 20, "alpha": 25.0, "spread": True, "neighbours": 7, "batch_size": 100}
    chosen |= {"epochs": 50, "vae_epochs": 50, "vae_beta": 0.1, "beta": 1.0, "learning_rate": 2e-3}
    chosen |= {"decay": "cosine", "validation_fraction": 0.0, "vae_validation_fraction": 0.0}
    assert {name: m2[name].default for name in chosen} == chosen
    chosen = {"latent_dim": 10, "epochs": 100, "batch_size": None, "learning_rate": 5e-3, "decay": "cosine"}
    chosen |= {"beta": 1.0, "warm_up": None, "rate_warm_up": None, "validation_fraction": 0.1}
    assert {name: vae[name].default for name in chosen} == chosen


# One's own


def test_an_option_is_read_with_type_bounds_default_and_help():
    def build(
        about,
        *,
        width: Annotated[int, Ge(1), Lt(100)] = 64,
        rate: Annotated[float, Interval(gt=0, le=1)] | None = None,
        hidden: tuple[int, ...] = (8, 8),
        kind: Literal["a", "b"] = "a",
    ) -> Plan:
        """Mine.

        Args:
            width: The width,
                in units.
            rate: The rate.
        """

    options = options_of(build)
    width, rate, hidden, kind = (options[name] for name in ("width", "rate", "hidden", "kind"))
    assert (width.type, width.default, width.help) == (int, 64, "The width, in units.")
    assert width.limits == "at least 1 and below 100"
    assert (rate.type, rate.default, rate.limits) == (float, None, "above 0 and at most 1")
    assert hidden.checked([4, 4]) == (4, 4)
    assert kind.choices == ("a", "b")


def without_a_type(about, *, width=3): ...
def without_a_default(about, *, width: int): ...
def of_a_strange_type(about, *, width: list[int] = ()): ...
def with_a_default_that_is_not_none(about, *, width: int | None = 3): ...
def with_a_shared_name(about, *, epochs: int = 3): ...
def with_a_type_for_checkers_only(about, *, width: "Decimal" = 3): ...


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (without_a_type, "without_a_type: the option width has no type"),
        (without_a_default, "without_a_default: the option width has no default"),
        (of_a_strange_type, "of_a_strange_type: the option width is of type list"),
        (with_a_default_that_is_not_none, "option width .*None"),
        (with_a_shared_name, r"with_a_shared_name has an option epochs.*Training.*@recipe\(epochs="),
        (with_a_type_for_checkers_only, "'Decimal'.*TYPE_CHECKING"),
    ],
)
def test_recipes_that_break_the_rules_are_refused_by_name(build, message):
    with pytest.raises(OptionError, match=message):
        options_of(build)


def test_a_default_for_something_that_is_not_shared_is_refused():
    with pytest.raises(OptionError, match=r"build declares a default for epoch, .*epochs"):

        @recipe(epoch=3)
        def build(about) -> Plan: ...


def test_a_recipe_changes_shared_defaults_by_a_declaration_that_is_read_without_running_it():
    @recipe(epochs=7, shift=1)
    def build(about, *, width: int = 3) -> Plan:
        raise AssertionError("it runs")

    options = options_of(build)
    assert (options["epochs"].default, options["shift"].default) == (7, 1)


def test_a_recipe_returns_a_plan():
    @recipe()
    def build(about) -> Plan:
        return object()

    with pytest.raises(OptionError, match=r"build returned a object.*Plan"):
        build(About((3,)))


def test_a_component_that_reuses_an_option_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self, n, m, *, width: int = 1): ...\n")
    monkeypatch.chdir(tmp_path)

    def build(about, *, width: int = 3, posterior: Posterior = "normal") -> Plan: ...

    with pytest.raises(OptionError, match=r"posterior mine.py:Mine has an option width.*the recipe build"):
        options_of(build, {"posterior": "mine.py:Mine"})


# Values


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("learning_rate", 1, 1.0),
        ("clip_norm", None, None),
        ("posterior", "mine.py:Mine", "mine.py:Mine"),
        ("compile", "on", "on"),
    ],
)
def test_values_are_brought_to_their_types(name, value, checked):
    found = options_of(load_recipe("vae"))[name].checked(value)
    assert (found, type(found)) == (checked, type(checked))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 1.5, "epochs is 1.5.*whole number"),
        ("epochs", True, "epochs is True.*whole number"),
        ("epochs", None, "epochs is None"),
        ("latent_dim", "ten", "latent_dim is 'ten'"),
        ("learning_rate", float("nan"), "learning_rate is nan.*above 0"),
        ("validation_fraction", 1.0, "validation_fraction is 1.0.*below 1"),
        ("compile", "maybe", "compile 'maybe'.*auto, on, off"),
        ("posterior", "iff", "posterior 'iff'.*'iaf'.*FILE.py"),
        ("posterior", 3, "posterior"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(name, value, message):
    with pytest.raises(OptionError, match=message):
        options_of(load_recipe("vae"))[name].checked(value)
    with pytest.raises(OptionError, match=r"settings.toml"):
        options_of(load_recipe("vae"))[name].checked(value, "settings.toml")


# Training and Data


def test_settings_know_what_was_given_and_leave_the_rest_to_the_recipe():
    training = Training(epochs=100).over({"epochs": 50, "learning_rate": 2e-3, "shift": 1})
    assert (training.epochs, training.learning_rate, training.validation_fraction) == (100, 2e-3, 0.1)
    assert training.given == {"epochs"}
    assert training.changed(beta=2.0).given == {"epochs", "beta"}
    assert Data(shift=2).over({"shift": 1, "epochs": 3}).shift == 2


def test_equal_settings_are_equal_however_they_were_given():
    assert Training(epochs=100) == Training()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patience": 3, "validation_fraction": 0.0}, "patience is 3, .*validation_fraction"),
        ({"warm_up": 1.0, "cycle": 2.0}, "warm_up is 1.0 and cycle is 2.0.*set one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Training(**values).check()


LONG = Time(steps=1000, ends=[40])


def test_beta_schedules_are_those_of_the_words():
    assert Training(beta=4.0, warm_up=0.0).beta_schedule(LONG)(0) == 4
    assert Training(beta=4.0, warm_up=8.0).beta_schedule(LONG)(2) == 1
    assert Training(cycle=4.0).beta_schedule(LONG)(5) == 0.5


@pytest.mark.parametrize(
    ("time", "rise"),
    [
        (LONG, 10),  # a quarter of the epochs
        (Time(steps=100, ends=[30]), 10),  # 1,000 steps
        (Time(steps=2, ends=[30]), 15),  # at most half of the epochs
        (Time(steps=100, ends=[30, 90]), 10),  # new epochs change nothing
    ],
)
def test_beta_rises_by_default_over_a_part_of_the_epochs_or_of_the_steps(time, rise):
    schedule = Training(beta=2.0).beta_schedule(time)
    assert [schedule(epoch) for epoch in (0, rise / 2, rise, 100)] == [0, 1, 2, 2]


def test_beta_does_not_move_by_default_where_there_is_none():
    assert Training().beta_schedule(Time(20, [30], has_beta=False))(0) == 1
    assert Training(warm_up=2.0).beta_schedule(Time(20, [30], has_beta=False))(1) == 0.5  # refused by fit


@pytest.mark.parametrize(
    ("training", "time", "expected"),
    [
        (Training(), LONG, cosine_decay(40, 5e-3, warm_up=2)),
        (Training(), Time(20, [4]), cosine_decay(4, 5e-3, warm_up=0.5)),  # 10 steps
        (Training(), Time(2, [4]), cosine_decay(4, 5e-3, warm_up=2)),  # at most half of the epochs
        (Training(rate_warm_up=30.0), LONG, cosine_decay(40, 5e-3, warm_up=20)),
        (Training(rate_warm_up=3.0, decay="none"), LONG, linear_warm_up(3, end=5e-3)),
        (Training(rate_warm_up=0.0, decay="none"), LONG, constant(5e-3)),
        (Training(decay="none"), Time(1000, [40, 80]), linear_warm_up(2, end=5e-3)),
        (
            Training(learning_rate=1.0, rate_warm_up=1.0),
            Time(20, [10, 30]),
            chained([(10, cosine_decay(10, 1.0, warm_up=1)), (20, cosine_decay(20, 1.0, warm_up=1))]),
        ),
    ],
)
def test_the_learning_rate_rises_and_falls_over_the_epochs_and_over_new_ones(training, time, expected):
    schedule = training.rate_schedule(time)
    times = [half / 2 for half in range(2 * time.ends[-1])]
    assert [schedule(time) for time in times] == [expected(time) for time in times]


@pytest.mark.parametrize(
    ("given", "num_data", "size"),
    [
        (None, 60_000, 100),
        (None, 2000, 100),
        (None, 1293, 64),
        (None, 130, 16),
        (500, 130, 500),
        (1, 60_000, 1),
    ],
)
def test_minibatches_of_few_data_are_smaller(given, num_data, size):
    assert Training(batch_size=given).sized(num_data).batch_size == size


def test_the_settings_of_fit_are_made_from_words():
    settings = Training(epochs=40, batch_size=7, learning_rate=0.1).fit_settings(LONG)
    assert settings.items() >= {"epochs": 40, "batch_size": 7, "seed": 0}.items()
    assert settings["learning_rate"](2) == 0.1
    assert settings["beta"](10) == 1


def test_a_stage_fixes_settings_of_training_only():
    @dataclass
    class Nothing:
        model = guide = print

    with pytest.raises(InputError, match="'vae' fixes 'epoch'"):
        Stage(Nothing(), name="vae", training={"epoch": 3})
    with pytest.raises(InputError, match="stages"):
        Plan([])
    with pytest.raises(InputError, match="own name"):
        Plan([Stage(Nothing()), Stage(Nothing())])
