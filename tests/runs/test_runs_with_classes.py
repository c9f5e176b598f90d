"""Run folders of models with classes: few labels, a VAE beneath, and what is never shown to training."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from small_runs import pyrovae, small_words, train_small

from pyrovae import data
from pyrovae.errors import InputError
from pyrovae.generation import class_samples, latent_means
from pyrovae.recipes import RECIPES, About, Run, fitting, load_recipe
from pyrovae.recipes.declaration import declaration_of
from pyrovae.recipes.measuring import classify
from pyrovae.recipes.options import options_of
from pyrovae.semi_supervised import M1_CLASSIFIERS, spread_labels

pytestmark = pytest.mark.cpu

CLASSED = [name for name in RECIPES if declaration_of(load_recipe(name)).classes]
SPREADING = [name for name in CLASSED if "spread" in options_of(load_recipe(name))]
FEW = {"labels": 3}


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """An M1+M2 on digits, to be read only."""
    return train_small(tmp_path_factory.mktemp("runs") / "m1m2", "m1m2", data=FEW, spread=False)


@pytest.fixture
def fit_calls(monkeypatch):
    """What every training is given."""
    calls = []
    real = fitting.fit

    def fit(pair, x, y=None, **options):
        calls.append((x, y, options))
        return real(pair, x, y, **options)

    monkeypatch.setattr(fitting, "fit", fit)
    return calls


@pytest.mark.parametrize("model", SPREADING)
def test_a_folder_alone_is_enough(model, tmp_path):
    run = train_small(tmp_path / "run", model, data=FEW, spread=model == "m2")
    made = run.pair.state_dict()
    folder = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    opened = Run.open(folder)
    assert opened.config == run.config
    for name, value in made.items():
        assert torch.equal(value, opened.pair.state_dict()[name])
    assert (folder / "vae" / "checkpoints").is_dir() == (model in ("m1m2", "m2"))


@pytest.mark.parametrize("model", SPREADING)
def test_training_is_given_the_chosen_labels_and_no_other(model, tmp_path, fit_calls):
    train_small(tmp_path / "run", model, data=FEW, training={"validation_fraction": 0.2}, spread=False)
    x, y, options = fit_calls[-1]
    images = data.load("digits")
    kept = images.y_train[(images.x_train[:, None] == x[y != -1][None]).flatten(2).all(2).any(1)]
    assert y[y != -1].bincount().tolist() == [3] * 10
    assert kept.sort().values.tolist() == y[y != -1].sort().values.tolist()
    assert isinstance(options["validation"], torch.Tensor), "images without classes"
    for _, classes, _ in fit_calls[:-1]:
        assert classes is None, "the VAE beneath sees none"


def test_spread_labels_are_those_of_the_vae_beneath(tmp_path, fit_calls):
    run = train_small(
        tmp_path / "run", "pcvae", data=FEW, vae_epochs=5, latent_dim=4, vae_validation_fraction=0.1
    )
    (x, none, _), (same, y, _) = fit_calls[0], fit_calls[-1]
    assert none is None
    given = run.training_data()[1]
    _ = run.pair  # trained
    assert torch.equal(y, spread_labels(latent_means(run.plan.stages[0].pair, same), given, 7))
    assert (y != -1).float().mean() > 0.9
    assert len(x) < len(same), "the VAE alone holds data out to choose its epoch"


def test_without_a_number_every_label_is_used(tmp_path, fit_calls):
    train_small(tmp_path / "run", "m2")
    assert torch.equal(fit_calls[0][1], data.load("digits").y_train)


def test_a_resumed_run_leaves_its_vae_as_it_is(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    before = {name: value.clone() for name, value in stacked.pair.vae.state_dict().items()}
    longer = Run.open(folder).resume(epochs=4, device="cpu", progress=False)
    assert len(longer.history.rows) == 4
    assert len(longer.histories["vae"].rows) == 2
    for name, value in longer.pair.vae.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_run_that_was_stopped_between_its_halves_ends_the_same(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    again = Run.open(folder).resume(device="cpu", progress=False)
    for name, value in again.pair.state_dict().items():
        assert torch.equal(value, stacked.pair.state_dict()[name])


def test_a_vae_that_has_been_trained_outlives_what_fails_on_top_of_it(tmp_path, monkeypatch):
    real = fitting.fit

    def fails(pair, x, y=None, **settings):
        if y is not None:
            raise InputError("nothing can stand on it")
        return real(pair, x, y, **settings)

    folder = tmp_path / "run"
    monkeypatch.setattr(fitting, "fit", fails)
    with pytest.raises(InputError, match="nothing can stand on it"):
        train_small(folder, "m1m2", data=FEW, spread=False)
    monkeypatch.undo()
    assert (folder / "vae" / "checkpoints").is_dir()
    assert len(Run.open(folder).resume(device="cpu", progress=False).history.rows) == 2


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_evaluate_measures_the_test_error(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    printed = pyrovae("evaluate", folder, "--num-samples", 5, "--limit", 50, "--quiet", "--device", "cpu")
    images, model = data.load("digits"), stacked.pair
    rows = json.loads((folder / "marginal_likelihood.json").read_text())["limit"]["rows"]
    assert len(rows) == 50
    z1 = model.vae.posterior(images.x_test[rows]).mean
    wrong = model.m2.classifier(z1).probs.argmax(-1) != images.y_test[rows]
    error = json.loads((folder / "metrics.json").read_text())["test_error"]
    assert error == pytest.approx(100 * wrong.float().mean().item())
    assert f"test error = {error:.2f} %" in printed


def test_classify_compares_all_ways_to_classify(stacked, tmp_path):
    folder = shutil.copytree(stacked.folder, tmp_path / "run")
    printed = pyrovae("classify", folder, "--num-samples", 2, "--device", "cpu")
    errors = json.loads((folder / "classification.json").read_text())["test_errors"]
    ways = [
        "own classifier",
        "Bayes' rule",
        "logistic",
        "linear-svm",
        "rbf-svm",
        "label-spreading",
        "averaged",
    ]
    assert [*errors] == ways
    for way, error in errors.items():
        assert 0 <= error <= 95
        assert f"{error:6.2f} %" in printed
        assert way in printed


def imbalanced(path):
    """Two columns that tell three classes apart, which have 80 %, 15 % and 5 % of the data."""
    y = np.repeat([0, 1, 2], [80, 15, 5])
    np.savez(path, x=np.random.default_rng(0).normal(size=(100, 2)) + 4 * y[:, None], y=y)
    return str(path)


@pytest.mark.verdict
def test_imbalanced_classes_are_spoken_of(tmp_path):
    path = imbalanced(tmp_path / "mine.npz")
    words = ["--data", path, "--out", tmp_path / "run", *small_words("m2")]
    told = "classes: they have 5 % to 80 % of the data each.*--learn-class-prior learns it"
    assert re.search(told, pyrovae("train", "m2", *words))
    others = [tmp_path / "learned" if word == tmp_path / "run" else word for word in words]
    learned = pyrovae("train", "m2", *others, "--learn-class-prior")
    assert "p(y) is uniform" not in learned
    words = ["--data", path, "--out", tmp_path / "vae", *small_words()]
    assert "p(y) is uniform" not in pyrovae("train", "vae", *words)
    printed = pyrovae("classify", tmp_path / "run", "--device", "cpu")
    found = json.loads((tmp_path / "run" / "classification.json").read_text())
    run = Run.open(tmp_path / "run")
    x, y = run.images.x_test, run.images.y_test
    predicted = run.pair.classifier(x).probs.argmax(-1)
    balanced = 100 * balanced_accuracy_score(y, predicted)
    assert found["balanced_accuracies"]["own classifier"] == pytest.approx(balanced)
    assert f"{balanced:6.2f} % balanced accuracy" in printed
    for warning in run.verdict.warnings:
        assert f"warning: {warning}" in printed
    assert run.verdict.warnings, "one epoch is not enough"
    for command in ("class-samples", "analogies"):
        with pytest.raises(
            InputError, match=r"trained on vectors, .*\.class_samples\(Run.open.* mean=False"
        ):
            pyrovae(command, run.folder)
    assert class_samples(run.pair, 10, mean=False).shape == (3, 10, 2), "the remedy"


def test_a_vae_is_classified_by_m1s_classifiers(tmp_path):
    run = train_small(tmp_path / "run", training={"epochs": 3}, width=32, latent_dim=4)
    few, every = classify(run, labels=5, device="cpu"), classify(run, device="cpu")
    assert [*few] == [*M1_CLASSIFIERS]
    assert every["rbf-svm"] < few["rbf-svm"]
    drawn = classify(run, draws=True, device="cpu")
    assert drawn["rbf-svm"] > every["rbf-svm"], "draws tell less of the datum than the mean"


def test_the_command_line_trains_with_few_labels(tmp_path):
    words = ["--labels", 2, "--spread", "--shift", 1, "--alpha", 3, "--learn-class-prior"]
    printed = pyrovae("train", "m2", "--out", tmp_path / "run", *small_words("m2"), *words)
    run = Run.open(tmp_path / "run")
    assert (run.data.labels, run.data.shift) == (2, 1)
    assert run.plan.options.items() >= {"alpha": 3.0, "learn_class_prior": True, "spread": True}.items()
    assert "vae: trained 1 epochs" in printed
    assert "\ntrained 1 epochs" in printed


def test_options_of_classes_are_not_the_vaes_beneath():
    plan = load_recipe("m1m2")(
        About((1, 8, 8), num_classes=3), alpha=3.0, learn_class_prior=True, vae_beta=0.3
    )
    beneath, above = plan.stages
    assert (beneath.classes, beneath.objective, beneath.supervised) == (False, None, None)
    assert beneath.training == {"epochs": 50, "beta": 0.3, "validation_fraction": 0.0, "patience": None}
    assert above.training == {}


def test_data_without_classes_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((30, 1, 4, 4), dtype=np.float32))
    with pytest.raises(InputError, match="m2 learns classes"):
        train_small(tmp_path / "run", "m2", data={"data": str(tmp_path / "x.npy")})
    run = train_small(tmp_path / "vae", data={"data": str(tmp_path / "x.npy")})
    with pytest.raises(InputError, match="has no classes to compare predictions with"):
        classify(run)
