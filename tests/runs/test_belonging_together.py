"""Checkpoint, configuration and data that do not belong together are refused, with what differs."""

import json
import re
import shutil

import numpy as np
import pytest
from small_runs import files, pyrovae, train_small

from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import RECIPES, Run, load_recipe
from pyrovae.recipes.options import options_of
from pyrovae.training.checkpoints import checkpoints_in

pytestmark = pytest.mark.cpu

ASKED = {
    "evaluate": lambda folder: pyrovae("evaluate", folder, "--num-samples", 2, "--limit", 2, "--quiet"),
    "classify": lambda folder: pyrovae("classify", folder, "--labels", 5),
    "sample": lambda folder: pyrovae("sample", folder, "--count", 1),
    "latent": lambda folder: pyrovae("latent", folder, "--limit", 5),
    "encode": lambda folder: pyrovae("encode", folder, "--out", folder.parent / "z.npz"),
    "resume": lambda folder: pyrovae("resume", folder, "--epochs", 3, "--quiet"),
}
commands = pytest.mark.parametrize("command", ASKED.values(), ids=ASKED)


def change(folder, group, **values):
    """Edit config.json, as a person might."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"][group] |= values
    path.write_text(json.dumps(content))


def in_one_line(command, folder, named):
    before = files(folder)
    with pytest.raises((CheckpointError, InputError), match=named) as caught:
        command(folder)
    assert "\n" not in str(caught.value)
    assert files(folder) == before


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A run with another seed and another beta, to be read only."""
    training = {"seed": 1, "beta": 0.5}
    return train_small(tmp_path_factory.mktemp("runs") / "other", training=training)


@commands
def test_another_runs_checkpoint_is_refused(command, run, others):
    for file in checkpoints_in(run.folder / "checkpoints"):
        file.path.unlink()
    for path in (others.folder / "checkpoints").iterdir():
        shutil.copy(path, run.folder / "checkpoints")
    in_one_line(command, run.folder, "(run was|run =) '?[0-9a-f]{8}")


LATER = {
    **{name: ASKED[name] for name in ("evaluate", "sample", "resume")},
    "curves": lambda folder: pyrovae("curves", folder),
}


@pytest.fixture(scope="module")
def foreign(others, tmp_path_factory):
    """The last checkpoint of the other run, with 4 epochs, and its history."""
    folder = shutil.copytree(others.folder, tmp_path_factory.mktemp("longer") / "run")
    Run.open(folder).resume(epochs=4, device="cpu", progress=False)
    return [checkpoints_in(folder / "checkpoints")[0].path, *(folder / "checkpoints").glob("history-*")]


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("command", LATER.values(), ids=LATER)
def test_another_runs_later_checkpoint_is_passed_over(command, run, foreign):
    own = run.config.run
    for path in foreign:
        shutil.copy(path, run.folder / "checkpoints")
    with pytest.warns(UserWarning, match="another run's") as said:
        command(run.folder)
    place = run.folder / "checkpoints" / foreign[0].name
    of_checkpoints = [str(each.message) for each in said if "move it" in str(each.message)]
    for text in of_checkpoints:
        assert re.fullmatch(
            rf"{place} is another run's checkpoint: move it to the run that wrote it\. "
            rf"Using epoch-0000[23]-{own}-\w+\.pt instead\.",
            text,
        )
    assert place.read_bytes() == foreign[0].read_bytes()


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_readers_that_need_no_history_go_on_without_it(damage, run):
    epochs, (history,) = run.epochs, (run.folder / "checkpoints").glob("history-*")
    metrics = lambda: json.loads((run.folder / "metrics.json").read_text())  # noqa: E731
    ASKED["evaluate"](run.folder)
    expected = metrics()
    damage(history)
    for command in ("evaluate", "sample"):
        with pytest.warns(UserWarning, match=rf"{history.name} .*Using {run.checkpoint} without its hist"):
            ASKED[command](run.folder)
    assert metrics() == expected
    assert expected["epochs"] == epochs == 2
    with pytest.warns(UserWarning, match="without"), pytest.raises(CheckpointError, match="restore its f"):
        pyrovae("curves", run.folder)
    with pytest.raises(CheckpointError, match=rf"{history.name}.*restore what has been lost"):
        ASKED["resume"](run.folder)


EDITED = {
    "seed": ("training", {"seed": 1}, r"training\.seed"),
    "likelihood": ("options", {"likelihood": "continuous-bernoulli"}, r"options\.likelihood"),
    "shift": ("data", {"shift": 1}, r"data\.shift"),
}
SOME = [("seed", name) for name in ASKED] + [
    (n, c) for n in ("likelihood", "shift") for c in ("sample", "resume")
]


@pytest.mark.parametrize(("field", "command"), SOME)
def test_a_configuration_that_was_edited_is_refused(field, command, run):
    group, values, named = EDITED[field]
    change(run.folder, group, **values)
    in_one_line(ASKED[command], run.folder, named)


@pytest.mark.parametrize(
    ("group", "name", "value", "named"),
    [
        ("options", "network", "gated", r"options\.network was 'gated' .* is 'mlp' now"),
        ("training", "seed", 1, r"training\.seed was 1 .* is 0 now"),
        ("data", "shift", 1, r"data\.shift was 1 .* is 0 now"),
    ],
    ids=["options", "training", "data"],
)
def test_what_was_removed_from_a_configuration_is_missed(group, name, value, named, tmp_path):
    asked = {"options": {}, "training": {}, "data": {}} | {group: {name: value}}
    options = asked.pop("options")
    run = train_small(tmp_path / "run", **asked, **options)
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    del content["config"][group][name]
    path.write_text(json.dumps(content))
    in_one_line(ASKED["sample"], run.folder, named)


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A run whose data have changed in place. No command changes it."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("changed")
    y = np.arange(60) % 2
    np.savez(folder / "x.npz", x=rng.random((60, 1, 4, 4), dtype=np.float32), y=y)
    run = train_small(folder / "run", data={"data": str(folder / "x.npz")})
    np.savez(folder / "x.npz", x=rng.random((60, 1, 4, 4), dtype=np.float32), y=y)
    return run


@commands
def test_data_that_have_changed_in_place_are_refused(command, changed):
    in_one_line(
        command, changed.folder, r"the values of .*x\.npz \(data\) are not those on which .*trained"
    )


def test_classes_that_have_changed_in_place_are_changed_data(tmp_path):
    x, file = np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32), tmp_path / "x.npz"
    np.savez(file, x=x, y=np.arange(60) % 2)
    run = train_small(tmp_path / "run", data={"data": str(file)})
    np.savez(file, x=x, y=np.arange(60) // 30)
    in_one_line(ASKED["sample"], run.folder, r"the values of .*x\.npz \(data\)")


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """Two M1+M2 on few digits that differ in their seed, to be read only."""
    folder = tmp_path_factory.mktemp("runs")
    how = {"model": "m1m2", "data": {"labels": 3}, "spread": False}
    return [train_small(folder / str(seed), training={"seed": seed}, **how) for seed in (0, 1)]


@pytest.mark.parametrize("name", ["evaluate", "encode", "resume"])
@pytest.mark.parametrize("whose", ["another run's", "an earlier epoch's"])
def test_another_m1_beneath_is_refused(name, whose, stacked, tmp_path):
    command = ASKED[name]
    one, two = stacked
    folder = shutil.copytree(one.folder, tmp_path / "run")
    beneath = folder / "vae" / "checkpoints"
    if whose == "another run's":
        shutil.rmtree(beneath)
        shutil.copytree(two.folder / "vae" / "checkpoints", beneath)
        in_one_line(command, folder, "(run was|run =) '?[0-9a-f]{8}")
        return
    checkpoints_in(beneath)[0].path.unlink()
    if name == "resume":  # which trains the last epoch of the M1 again, to the same parameters
        command(folder)
        assert len(Run.open(folder).history.rows) == 3
    else:
        in_one_line(command, folder, "parameters of stage vae")


# What may change


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": 0.5}, r"learning_rate from 0 to 0\.00\d+ -> from 0 to 0\.\d+"),
        ({"rate_warm_up": 0.0}, r"learning_rate from 0 to 0\.00\d+ -> from 0\.005 to 0\.\d+"),
        ({"decay": "none"}, r"learning_rate from 0 to 0\.00\d+ -> from 0 to 0\.005"),
        ({"beta": 0.25}, r"beta from 0 to 1 -> from 0 to 0\.25"),
        ({"warm_up": 8.0}, r"beta from 0 to 1 -> from 0 to 0\.\d+"),
    ],
    ids=str,
)
def test_rates_and_weights_may_change_are_used_and_said(values, said, run):
    change(run.folder, "training", **values)
    _ = Run.open(run.folder).pair
    with pytest.warns(UserWarning, match=said):
        longer = Run.open(run.folder).resume(epochs=3, device="cpu", progress=False)
    assert len(longer.history.rows) == 3
    assert longer.training.given >= values.keys()


WEIGHTS = {
    "m2": ("alpha", r"objective's weights of 'alpha' [\d.]+ -> [\d.]+\."),
    "pcvae": ("prediction", r"weights of 'y' [\d.]+ -> [\d.]+\."),
    "cpcvae": ("consistency", "weights "),
}


@pytest.mark.parametrize("model", WEIGHTS)
def test_weights_among_a_recipes_options_may_change(model, tmp_path):
    name, said = WEIGHTS[model]
    training = {"epochs": 1, "batch_size": 500}
    run = train_small(tmp_path / "run", model, training=training, data={"labels": 100}, spread=False)
    change(run.folder, "options", **{name: 2.0})
    _ = Run.open(run.folder).pair
    with pytest.warns(UserWarning, match=said):
        Run.open(run.folder).resume(epochs=2, device="cpu", progress=False)


def test_only_weights_and_their_schedules_are_marked_as_such():
    marked = {n for r in RECIPES for n, o in options_of(load_recipe(r)).items() if o.is_weight}
    assert marked == {
        *("alpha", "prediction", "consistency", "aggregate", "vae_beta"),
        *("constraint_delay", "constraint_warm_up"),
    }


# Damaged JSON


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "truncated"),
        ("[1]", "Expected `object`, got `array`"),
        ("{}", "missing required field `checkpoint`"),
        ('{"checkpoint": 5}', r"Expected `str`, got `int` - at `\$\.checkpoint`"),
        (
            '{"checkpoint": "e", "log_likelihood": "a", "mean_std_error": 1, "num_samples": 1}',
            "log_likelihood",
        ),
        ("[" * 200_000, ""),
        (b"\xff\xfe", ""),
        ("9" * 5_000, ""),
    ],
    ids=["empty", "list", "no fields", "number", "text", "brackets", "bytes", "digits"],
)
def test_damaged_metrics_are_refused_by_file_and_field(text, named, run):
    (run.folder / "metrics.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        InputError, match=rf"metrics\.json cannot be read as the metrics of a run: .*{named}|{named}"
    ):
        _ = run.metrics


@pytest.mark.parametrize(
    ("change_to", "named"),
    [
        (lambda c: c | {"resumed": 5}, r"got `int` - at `\$\.resumed`"),
        (
            lambda c: c | {"config": c["config"] | {"options": []}},
            r"got `array` - at `\$\.config\.options`",
        ),
        (lambda c: c | {"versions": None}, r"\$\.versions"),
        (lambda c: c | {"config": c["config"] | {"run": 1}}, r"\$\.config\.run"),
    ],
    ids=["resumed", "options", "versions", "run"],
)
def test_a_config_of_other_types_is_refused_by_its_field(change_to, named, run):
    path = run.folder / "config.json"
    path.write_text(json.dumps(change_to(json.loads(path.read_text()))))
    with pytest.raises(
        InputError, match=rf"config\.json cannot be read as a run's configuration: .*{named}"
    ):
        Run.open(run.folder)
