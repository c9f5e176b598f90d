"""Configuration files: options in TOML, over which the command line wins."""

import json

import pytest
from small_runs import pyrovae, refused, small_words

from pyrovae.recipes import OptionError

FILE = """
latent-dim = 3
posterior = "iaf"
flow_steps = 2
beta = 2

[training]
epochs = 1
learning_rate = 0.01

[data]
shift = 1
"""


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(FILE)
    return path


def test_options_come_from_the_file_and_the_command_line_wins(settings, tmp_path):
    words = ["--width", 8, "--beta", 0.5, "--device", "cpu", "--quiet", "--batch-size", 500]
    pyrovae("train", "vae", "--config", settings, "--out", tmp_path / "run", *words)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    options = {"latent_dim": 3, "posterior": "iaf", "flow_steps": 2, "width": 8, "prior": "normal"}
    assert config["options"].items() >= options.items()
    training = {"epochs": 1, "learning_rate": 0.01, "beta": 0.5, "batch_size": 500}
    assert config["training"].items() >= training.items()
    assert config["data"]["shift"] == 1


def test_help_shows_the_options_of_the_component_that_the_file_chooses(settings):
    assert "--flow-steps" in pyrovae("train", "vae", "--config", settings, "--help")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latent_dims = 3", r"settings\.toml.*'latent_dims'.*'latent_dim'"),
        ("latent_dim = 'ten'", r"settings\.toml: latent_dim is 'ten'"),
        ("epochs = 1.5", r"settings\.toml: epochs is 1\.5"),
        ("learning_rate = -1", r"settings\.toml: learning_rate is -1"),
        ("posterior = 'iff'", r"settings\.toml: .*posterior 'iff'"),
        ("flow_steps = 3", r"settings\.toml: flow_steps is an option of posterior planar"),
        ("alpha = 3.0", r"settings\.toml: vae has no option alpha"),
        ("epochs = 1\n[training]\nepochs = 2", "settings.toml: epochs is given twice"),
        ("[modle]\nlatent_dim = 3", r"settings\.toml.*'modle'"),
        ("epochs =", "settings.toml is not TOML"),
    ],
)
def test_a_key_or_a_value_that_does_not_fit_is_refused_by_key_and_file(text, message, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        pyrovae("train", "vae", "--config", path, "--out", tmp_path / "run", *small_words())
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path, tmp_path_factory):
    words = ["train", "vae", "--config", tmp_path / "none.toml", "--out", tmp_path / "run"]
    refused("none.toml cannot be read", *words, log=tmp_path_factory.mktemp("log") / "log", status=2)
