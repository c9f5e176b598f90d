"""Commands that train, and what they write."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from small_runs import PNG, files, pyrovae, small_words, train_by_words

from pyrovae.errors import InputError
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.recipes import Run

# Each likelihood and each network with each model; test_building.py builds all combinations.
COMBINATIONS = [
    *(
        (model, ["--likelihood", likelihood, "--network", network])
        for model, networks in {"vae": [*NETWORKS], "autoencoder": [*NETWORKS][::-1]}.items()
        for likelihood, network in zip(LIKELIHOODS, networks, strict=True)
    ),
    ("ppca", []),
]


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(("model", "words"), COMBINATIONS, ids=str)
def test_every_model_is_trained_evaluated_and_drawn(model, words, tmp_path):
    folder = tmp_path / "run"
    printed = train_by_words(folder, model, *words)
    assert "trained 1 epochs; best epoch 1: validation ELBO" in printed
    expected = {"config.json", "history.json", "verdict.json"}
    expected |= {"figures/learning_curves.png", "figures/plate_diagram.png"}
    if model == "autoencoder":
        with pytest.raises(InputError, match="no latent site"):
            pyrovae("evaluate", folder, "--num-samples", 20, "--limit", 20, "--quiet")
    else:
        printed = pyrovae("evaluate", folder, "--num-samples", 20, "--limit", 20, "--quiet")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert printed.startswith(f"log p(x) = {metrics['log_likelihood']:.3f} ")
        assert metrics["num_samples"] == 20
        assert metrics["num_data"] == 20
        expected |= {"metrics.json", "marginal_likelihood.json"}
    pyrovae("reconstruct", folder, "--count", 3)
    pyrovae("interpolate", folder, "--count", 2, "--steps", 4)
    expected |= {"figures/reconstructions.png", "figures/interpolation.png"}
    written = {str(path) for path in files(folder)}
    checkpoint, history = sorted(written - expected)
    assert written - {checkpoint, history} == expected
    run = re.fullmatch(r"checkpoints/epoch-00001-([0-9a-f]{8})-[0-9a-f]{16}\.pt", checkpoint)[1]
    assert history == f"checkpoints/history-{run}.jsonl"
    assert all(path.read_bytes().startswith(PNG) for path in folder.rglob("*.png"))


def test_the_command_and_its_options_are_kept(tmp_path, monkeypatch):
    words = ["pyrovae", "train", "vae", "--out", str(tmp_path / "run"), *small_words()]
    monkeypatch.setattr(sys, "argv", [*words, "--beta", "2.5", "--warm-up", "3"])
    pyrovae(*sys.argv[1:])
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["command"] == " ".join(sys.argv)
    assert content["config"]["training"].items() >= {"beta": 2.5, "warm_up": 3}.items()
    assert content["config"]["options"]["latent_dim"] == 2


def test_posterior_prior_and_objective_are_options(tmp_path):
    options = ["--posterior", "planar", "--flow-steps", "3", "--prior", "mixture", "--components", "5"]
    train_by_words(
        tmp_path / "run", "vae", *options, "--objective", "iwae", "--particles", "4", "--compile", "off"
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["options"]
    chosen = {"posterior": "planar", "flow_steps": 3, "prior": "mixture", "components": 5}
    assert config.items() >= (chosen | {"objective": "iwae", "particles": 4}).items()
    model = Run.open(tmp_path / "run").pair
    assert len(model.posterior.flow(torch.zeros(model.posterior.flow.context_dim))) == 3
    assert len(model.prior.loc) == 5
    assert "log p(x) =" in pyrovae("evaluate", tmp_path / "run", "--num-samples", "20", "--limit", "10")


def test_two_levels_are_trained_and_evaluated(tmp_path):
    train_by_words(tmp_path / "run", "hvae", "--prior", "vamp", "--components", "5")
    assert "log p(x) =" in pyrovae("evaluate", tmp_path / "run", "--num-samples", "20", "--limit", "10")
    pyrovae("sample", tmp_path / "run")
    pyrovae("reconstruct", tmp_path / "run")


def test_resume_goes_on_for_more_epochs(run):
    assert "trained 3 epochs" in pyrovae("resume", run, "--epochs", 3, "--quiet")
    assert len(json.loads((run / "history.json").read_text())["rows"]) == 3
    assert "trained 3 epochs" in pyrovae("resume", run, "--quiet")


def test_a_run_is_resumed_as_it_was_begun(tmp_path, recorded):
    """Compiled, for one, whose rounding is not that of a run that is not."""
    for name, epochs in (("whole", 2), ("part", 1)):
        train_by_words(tmp_path / name, "vae", "--epochs", epochs, "--compile", "on")
    pyrovae("resume", tmp_path / "part", "--epochs", 2, "--quiet")
    assert (
        json.loads((tmp_path / "part" / "config.json").read_text())["config"]["training"]["compile"] == "on"
    )
    whole, part = (Run.open(tmp_path / name).pair.state_dict() for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    pyrovae("evaluate", tmp_path / "part", "--num-samples", 20, "--limit", 10, "--compile", "on", "--quiet")
    pyrovae("resume", tmp_path / "part", "--epochs", 3, "--compile", "off", "--quiet")


def test_an_early_stop_is_told_in_one_line(tmp_path):
    options = ["--epochs", 60, "--learning-rate", 0.5, "--patience", 1]
    stopped = r"(?m)^trained (\d+) epochs \(stopped early\); best epoch \d+:"
    epochs = re.search(stopped, train_by_words(tmp_path / "r", "vae", *options))[1]
    assert re.search(stopped, pyrovae("resume", tmp_path / "r", "--quiet"))[1] == epochs
    more = pyrovae("resume", tmp_path / "r", "--patience", 4, "--quiet")
    assert int(re.search(r"trained (\d+) epochs", more)[1]) >= int(epochs) + 3


def test_tensorboard_is_written_when_asked_for(tmp_path):
    train_by_words(tmp_path / "run", "vae", "--tensorboard")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_colour_images_of_the_users_own_are_trained_and_drawn(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    words = ["--data", tmp_path / "x.npz", "--likelihood", "categorical", "--network", "conv"]
    train_by_words(tmp_path / "run", "vae", *words)
    for command in ("sample", "reconstruct", "interpolate"):
        pyrovae(command, tmp_path / "run", "--count", 2)
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 5


def test_a_data_set_with_few_test_images_has_an_overview(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 8, 8)).astype(np.float32).round())
    train_by_words(tmp_path / "run", "vae", "--data", tmp_path / "x.npy")
    assert pyrovae("overview", tmp_path / "run").endswith("overview.png\n")


def test_vectors_are_trained_and_evaluated_but_not_drawn(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 6)))
    train_by_words(tmp_path / "run", "vae", "--data", tmp_path / "x.npy", "--likelihood", "gaussian")
    assert "log p(x)" in pyrovae("evaluate", tmp_path / "run", "--num-samples", 20, "--quiet")
    before = files(tmp_path / "run")
    with pytest.raises(InputError, match=r"\(6,\).* images"):
        pyrovae("sample", tmp_path / "run")
    assert files(tmp_path / "run") == before
