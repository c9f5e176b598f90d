"""Run folders of models with classes: few labels, a VAE beneath, and what is never shown to training."""

import json
import shutil

import numpy as np
import pytest
import torch
from pyrovae.recipes.build import CLASSED
from pyrovae.recipes.config import Config
from pyrovae.recipes.runs import Run
from typer.testing import CliRunner

from pyrovae import data
from pyrovae.cli import app as cli
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.models import M1M2
from pyrovae.recipes import runs as runs
from pyrovae.semi_supervised import spread_labels, starting_point

SMALL = {"epochs": 2, "width": 8, "latent_dim": 2, "labels": 3}


def small(model, **options):
    return Config(**{"model": model} | SMALL | options)


def train(config, folder, **options):
    return runs.train(config, folder, progress=False, device="cpu", **options)


def pyrovae(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """An M1+M2 on digits, to be read only."""
    return train(small("m1m2"), tmp_path_factory.mktemp("runs") / "m1m2")


@pytest.fixture
def fit_calls(monkeypatch):
    """What every training is given."""
    calls = []
    real = runs.fit

    def fit(pair, x, y=None, **options):
        calls.append((x, y, options))
        return real(pair, x, y, **options)

    monkeypatch.setattr(runs, "fit", fit)
    return calls


@pytest.mark.parametrize("model", CLASSED)
def test_a_folder_alone_is_enough(model, tmp_path):
    config = small(model, spread=model == "m2")
    made = train(config, tmp_path / "run").model.state_dict()
    folder = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    opened = Run.open(folder)
    assert opened.config == config
    for name, value in made.items():
        assert torch.equal(value, opened.model.state_dict()[name])
    assert (folder / "m1" / "config.json").is_file() == (model in ("m1m2", "m2"))


@pytest.mark.parametrize("model", CLASSED)
def test_training_is_given_the_chosen_labels_and_no_other(model, tmp_path, fit_calls):
    train(small(model, validation_fraction=0.2), tmp_path / "run")
    x, y, options = fit_calls[-1]
    images = data.load("digits")
    kept = images.y_train[(images.x_train[:, None] == x[y != -1][None]).flatten(2).all(2).any(1)]
    assert y[y != -1].bincount().tolist() == [3] * 10
    assert kept.sort().values.tolist() == y[y != -1].sort().values.tolist()
    assert isinstance(options["validation"], torch.Tensor), "images without classes"
    for _, classes, _ in fit_calls[:-1]:
        assert classes is None, "the VAE beneath sees none"


def test_spread_labels_are_those_of_the_vae_beneath(tmp_path, fit_calls):
    run = train(small("pcvae", spread=True, epochs=5), tmp_path / "run")
    (x, none, _), (same, y, _) = fit_calls[0], fit_calls[-1]
    assert none is None
    given = run.training_data(run.images)[1]
    assert torch.equal(y, spread_labels(latent_means(run.m1.model, same), given))
    assert (y != -1).float().mean() > 0.9
    assert len(x) < len(same), "a VAE holds data out to choose its epoch, a model with classes does not"


def test_without_a_number_every_label_is_used(tmp_path, fit_calls):
    train(small("m2", labels=None), tmp_path / "run")
    assert torch.equal(fit_calls[0][1], data.load("digits").y_train)


def test_a_resumed_run_leaves_its_vae_as_it_is(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    before = {name: value.clone() for name, value in stacked.model.vae.state_dict().items()}
    longer = train(small("m1m2", epochs=4), folder, resume=True)
    assert len(longer.history.rows) == 4
    assert len(longer.m1.history.rows) == 2
    for name, value in longer.model.vae.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_run_that_was_stopped_between_its_halves_ends_the_same(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    again = train(small("m1m2"), folder, resume=True)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, stacked.model.state_dict()[name])


def test_a_vae_that_has_been_trained_outlives_what_fails_on_top_of_it(tmp_path, monkeypatch):
    def fails(model, *args, **settings):
        if isinstance(model, M1M2):
            raise InputError("nothing can stand on it")
        return starting_point(model, *args, **settings)

    folder = tmp_path / "run"
    monkeypatch.setattr("pyrovae.recipes.runs.starting_point", fails)
    with pytest.raises(InputError, match="nothing can stand on it"):
        train(small("m1m2"), folder)
    monkeypatch.undo()
    assert (folder / "m1" / "checkpoints").is_dir()
    assert len(train(small("m1m2"), folder, resume=True).history.rows) == 2


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_evaluate_measures_the_test_error(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    printed = pyrovae("evaluate", folder, "--num-samples", 5, "--limit", 50, "--quiet", "--device", "cpu")
    images, model = data.load("digits"), stacked.model
    z1 = model.vae.posterior(images.x_test[:50]).mean
    wrong = model.m2.classifier(z1).probs.argmax(-1) != images.y_test[:50]
    error = json.loads((folder / "metrics.json").read_text())["test_error"]
    assert error == pytest.approx(100 * wrong.float().mean().item())
    assert f"test error = {error:.2f} %" in printed


def test_classify_compares_all_ways_to_classify(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    printed = pyrovae("classify", folder, "--num-samples", 2, "--device", "cpu")
    errors = json.loads((folder / "classification.json").read_text())
    ways = ["own classifier", "Bayes' rule", "logistic", "linear-svm", "rbf-svm", "label-spreading"]
    assert [*errors] == ways
    for way, error in errors.items():
        assert 0 <= error <= 95
        assert f"{error:6.2f} %" in printed
        assert way in printed


def test_a_vae_is_classified_by_m1s_classifiers(tmp_path):
    run = train(Config("vae", epochs=3, width=32, latent_dim=4), tmp_path / "run")
    few, every = run.classify(labels=5, device="cpu"), run.classify(device="cpu")
    assert [*few] == ["logistic", "linear-svm", "rbf-svm", "label-spreading"]
    assert every["rbf-svm"] < few["rbf-svm"]
    drawn = run.classify(draws=True, device="cpu")
    assert drawn["rbf-svm"] > every["rbf-svm"], "draws tell less of the datum than the mean"


def test_the_command_line_trains_with_few_labels(tmp_path):
    printed = pyrovae(
        "train", "m2", "--labels", 2, "--spread", "--shift", 1, "--epochs", 1, "--width", 8,
        "--latent-dim", 2, "--alpha", 3, "--learn-class-prior", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    config = Run.open(tmp_path / "run").config
    assert (config.labels, config.spread, config.shift) == (2, True, 1)
    assert (config.alpha, config.learn_class_prior) == (3.0, True)
    assert "trained 1 epochs" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "vae"},
            "labels and spread are for models with classes .m2, m1m2, pcvae, cpcvae.; a vae",
        ),
        ({"model": "ppca", "labels": None, "spread": True}, "a ppca learns none"),
        ({"model": "m2", "shift": -1}, "shift is -1"),
        (
            {"model": "vae", "labels": None, "alpha": 3.0},
            "alpha is 3.0, but a vae has no use for it: .* m2, m1m2",
        ),
        ({"model": "m2", "prediction": 3.0}, "prediction is 3.0, but a m2 has no use"),
        ({"model": "pcvae", "consistency": 3.0}, "consistency is 3.0, .* option of cpcvae"),
        ({"model": "m2", "labels": 0}, "per_class is 0"),
        ({"model": "m2", "labels": 500}, "per_class is 500, but class 0 has 142 members"),
        ({"model": "cpcvae", "consistency": -1.0}, "consistency is -1.0; it must be at least 0"),
        ({"model": "pcvae", "constraint_delay": -1.0, "constraint_warm_up": 1.0}, "delay is -1.0"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(Config(**(SMALL | options)), tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_options_of_classes_are_not_the_vaes_beneath():
    beneath = small("m1m2", alpha=3.0, learn_class_prior=True, beta=0.3).of_m1()
    assert (beneath.model, beneath.beta, beneath.held_out) == ("vae", 0.3, 0.1)
    assert (beneath.alpha, beneath.learn_class_prior, beneath.labels) == (Config.alpha, False, None)


def test_data_without_classes_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((30, 1, 4, 4), dtype=np.float32))
    with pytest.raises(InputError, match="has no classes, which a m2 learns"):
        train(small("m2", data=str(tmp_path / "x.npy")), tmp_path / "run")
    run = train(small("vae", labels=None, data=str(tmp_path / "x.npy")), tmp_path / "vae")
    with pytest.raises(InputError, match="has no classes to compare predictions with"):
        run.classify()
