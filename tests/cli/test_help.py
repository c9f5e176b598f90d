"""Help: every command, the options of the chosen model and no others, and nothing heavy imported for it."""

import json
import re
import subprocess
import sys

import pytest
from small_runs import pyrovae

from pyrovae.cli.app import COMMANDS
from pyrovae.recipes import RECIPES, load_recipe, options_of
from pyrovae.recipes.options import shared_options
from pyrovae.recipes.settings import MAY_CHANGE

HEAVY = ("torch", "pyro", "numpy", "matplotlib", "sklearn", "scipy", "arviz", "torchvision", "tensorboard")


def test_help_lists_the_commands():
    printed = pyrovae("--help")
    assert all(re.search(rf"^  {command} ", printed, re.M) for command in ("train", *COMMANDS))
    assert "Example: pyrovae train" in printed
    assert pyrovae() == printed


def test_help_of_train_lists_the_models():
    printed = " ".join(pyrovae("train", "--help").split())
    for name, row in RECIPES.items():
        assert f" {name} {row.summary}" in printed


@pytest.mark.parametrize("command", ["train", *COMMANDS])
def test_help_of_each_command_shows_an_example(command):
    assert f"Example: pyrovae {command}" in pyrovae(command, "--help")


def shown_options(printed):
    """The option at the beginning of each entry, and the entry."""
    entries = re.split(r"^  (?=--)", printed, flags=re.M)[1:]
    return {
        re.match(r"--([\w-]+)", entry)[1].replace("-", "_"): " ".join(entry.split()) for entry in entries
    }


@pytest.mark.parametrize("model", RECIPES)
def test_help_of_a_model_shows_its_options_and_no_others_with_defaults(model):
    printed = pyrovae("train", model, "--help")
    shown, options = shown_options(printed), options_of(load_recipe(model))
    run = {"out", "config", "device", "download", "tensorboard", "tensorboard_images", "quiet"}
    assert shown.keys() == options.keys() | run
    for name, option in options.items():
        assert option.help in shown[name]
        assert option.limits.capitalize() in shown[name]
        if option.default is not None:
            assert f"[default: {option.default}]" in shown[name]
    groups = re.findall(r"^(\w+):$", printed, re.M)
    assert groups == ["Model", "Training", "Data", "Run"]
    assert RECIPES[model].summary.split(":")[0] in printed


def test_help_of_resume_shows_the_settings_that_may_change():
    shown, training = shown_options(pyrovae("resume", "--help")), shared_options("Training")
    assert MAY_CHANGE - {"data"} <= shown.keys() & training.keys()
    assert all(training[name].help in shown[name] for name in ("learning_rate", "beta"))


def test_the_options_of_a_chosen_component_are_shown_with_it():
    assert "flow_steps" not in shown_options(pyrovae("train", "vae", "--help"))
    printed = shown_options(pyrovae("train", "vae", "--posterior", "iaf", "--prior=vamp", "--help"))
    assert "posterior iaf" in printed["flow_steps"]
    assert "[default: 100]" in printed["components"]


def test_help_shows_defaults_of_other_commands():
    for command, default in {
        "evaluate": "5000",
        "interpolate": "12",
    }.items():
        assert f"[default: {default}]" in pyrovae(command, "--help")


COMMAND_LINES = [
    ["--help"],
    ["--version"],
    ["models"],
    ["train", "--help"],
    ["train", "vae", "--posterior", "iaf", "--prior", "vamp", "--objective", "iwae", "--help"],
    *(["train", name, "--help"] for name in RECIPES),
    ["evaluate", "--help"],
    ["sample", "--help"],
    ["--install-completion", "--shell", "bash", "--output", "completion"],
]
SCRIPT = """
import contextlib, io, json, sys
from pyrovae.cli.app import run
found = {{}}
for words in {lines}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run(words)
    found[" ".join(words)] = [name for name in {heavy} if name in sys.modules]
print(json.dumps(found))
"""


def test_help_version_models_and_completion_import_nothing_heavy(tmp_path):
    code = SCRIPT.format(lines=COMMAND_LINES, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(COMMAND_LINES)
    assert {line: heavy for line, heavy in found.items() if heavy} == {}
    completion = (tmp_path / "completion").read_text()
    assert "--vae-epochs" in completion
    assert "interpolation-grid" in completion


def test_the_version_is_the_packages():
    from pyrovae import __version__

    assert pyrovae("--version").strip() == __version__
