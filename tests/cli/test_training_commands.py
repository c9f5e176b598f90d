"""Commands that train, and what they write."""

import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import PNG, files, pyrovae, small_words, train_by_words
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyrovae.errors import InputError
from pyrovae.generation import sample_images
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.recipes import Run

# Each likelihood and each network with each model; test_building.py builds all combinations.
CHOSEN = [name for name in LIKELIHOODS if name != "auto"]
COMBINATIONS = [
    *(
        (model, ["--likelihood", likelihood, "--network", network])
        for model, networks in {"vae": [*NETWORKS], "autoencoder": [*NETWORKS][::-1]}.items()
        for likelihood, network in zip(CHOSEN, networks, strict=True)
    ),
    ("ppca", []),
]


@pytest.mark.verdict
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
    constant = ("--warm-up", 0, "--rate-warm-up", 0, "--decay", "none")  # others depend on the epochs
    for name, epochs in (("whole", 2), ("part", 1)):
        train_by_words(tmp_path / name, "vae", "--epochs", epochs, "--compile", "on", *constant)
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


def board_of(folder):
    """What TensorBoard shows of a folder: the steps of each scalar, and the images by step."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    scalars = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return scalars, {name: events.Images(name) for name in events.Tags()["images"]}


def test_tensorboard_goes_on_by_itself_when_a_run_is_resumed(run):
    pyrovae("resume", run, "--epochs", 2, "--tensorboard", "--quiet")
    pyrovae("resume", run, "--epochs", 3, "--quiet")
    steps = [row["step"] for row in Run.open(run).history.rows]
    scalars, images = board_of(run / "tensorboard")
    assert scalars["elbo"] == scalars["kl"] == steps
    assert len(steps) == 3
    assert images == {}


@pytest.mark.parametrize(
    ("model", "words", "kinds"),
    [
        ("vae", ["--likelihood", "categorical"], {"samples", "reconstructions", "data"}),
        ("m1m2", ["--labels", "5"], {"samples", "reconstructions", "data"}),
        ("cvae", ["--condition", "class"], {"samples", "reconstructions", "data"}),
        ("autoencoder", [], {"reconstructions", "data"}),
    ],
    ids=["levels", "two stages", "conditional", "no prior"],
)
def test_tensorboard_gets_images_on_request(model, words, kinds, tmp_path):
    train_by_words(
        tmp_path / "run", model, *words, "--tensorboard-images", 2, "--epochs", 5, "--batch-size", 2000
    )
    run = Run.open(tmp_path / "run")
    scalars, _ = board_of(run.folder / "tensorboard")
    assert scalars["loss"] == [1, 2, 3, 4, 5]
    _, images = board_of(run.folder / "tensorboard" / "images")
    steps = {kind: [event.step for event in each] for kind, each in images.items()}
    assert steps == {kind: [2] if kind == "data" else [2, 4] for kind in kinds}


def test_images_for_tensorboard_are_those_of_the_trained_pair(tmp_path):
    train_by_words(tmp_path / "run", "vae", "--tensorboard-images", 1, "--validation-fraction", 0)
    run = Run.open(tmp_path / "run")
    _, images = board_of(run.folder / "tensorboard" / "images")
    sent = Image.open(io.BytesIO(images["samples"][0].encoded_image_string))
    found = torch.from_numpy(np.array(sent.convert("L"))).reshape(8, 8, 8).movedim(1, 0)
    assert torch.equal(found, (sample_images(run.pair, 8, 0)[:, 0] * 255).to(torch.uint8))


def test_images_for_tensorboard_are_refused_for_data_that_are_no_images(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    with pytest.raises(InputError, match=r"TensorBoard shows images with 1 or 3 channels.*\(4, 3\)"):
        train_by_words(tmp_path / "run", "ppca", "--data", tmp_path / "x.npy", "--tensorboard-images", 1)
    assert not (tmp_path / "run").exists()


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


def test_vectors_are_trained_evaluated_and_drawn(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 6)))
    train_by_words(tmp_path / "run", "vae", "--data", tmp_path / "x.npy", "--likelihood", "gaussian")
    assert "log p(x)" in pyrovae("evaluate", tmp_path / "run", "--num-samples", 20, "--quiet")
    pyrovae("sample", tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "samples.png").is_file()
