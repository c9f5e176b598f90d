"""The command line's figures: which commands write which file, of which models, and what they refuse."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cyclopts import CycloptsError
from small_runs import PNG, pyrovae, train_by_words

from pyrovae.cli import figures
from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities
from pyrovae.plots import saving
from pyrovae.recipes import Run

# What each command writes under figures/, with options that keep it quick.
FIGURES = {
    "sample": ("samples", ["--count", 3]),
    "pairs": ("pairs", ["--columns", 3]),
    "reconstruct": ("reconstructions", ["--count", 3]),
    "interpolate": ("interpolation", ["--count", 1, "--steps", 3]),
    "interpolation-grid": ("interpolation_grid", ["--first", 7, "--steps", 3]),
    "manifold": ("manifold", ["--steps", 3]),
    "traverse": ("traversals", ["--image", 5, "--dimensions", 1]),
    "class-samples": ("class_samples", ["--count", 2]),
    "analogies": ("analogies", ["--count", 2]),
    "latent": ("latent_pca", ["--limit", 50]),
    "histograms": ("class_histograms", ["--limit", 50]),
    "aggregate": ("aggregated_posterior", ["--limit", 50]),
    "curves": ("learning_curves", []),
    "confusion": ("confusion_matrix", ["--limit", 50]),
    "overview": ("overview", []),
}
# What a model's figures need besides, or why there are none.
EXCEPTIONS = {
    ("vae", "class-samples"): "VAE has no classes",
    ("vae", "analogies"): "VAE has no classes",
    ("vae", "confusion"): "VAE has no classes",
    ("pcvae", "analogies"): "predicted from the latents.*draw class_samples instead",
    ("m2", "manifold"): "say which class.*--label",
    ("autoencoder", "sample"): "no prior over z",
    ("autoencoder", "pairs"): "no prior over z",
    ("autoencoder", "manifold"): "no prior over z",
    ("autoencoder", "traverse"): "no prior over z",
    ("autoencoder", "class-samples"): "no classes|no prior",
    ("autoencoder", "analogies"): "no classes",
    ("autoencoder", "histograms"): "no prior over z",
    ("autoencoder", "aggregate"): "no prior over z",
    ("autoencoder", "confusion"): "no classes",
    ("autoencoder", "overview"): "no prior over z",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on digits, to be read only."""
    folder = tmp_path_factory.mktemp("figures")
    for model in ("vae", "autoencoder", "m2", "pcvae", "m1m2"):
        labels = [] if model in ("vae", "autoencoder") else ["--labels", 5, "--no-spread"]
        train_by_words(folder / model, model, *labels)
    return folder


@pytest.fixture
def copy_of(runs, tmp_path):
    return lambda model: Path(shutil.copytree(runs / model, tmp_path / model))


@pytest.mark.parametrize("model", ["vae", "autoencoder", "m2", "pcvae", "m1m2"])
def test_every_figure_of_a_run_is_drawn_or_refused_with_a_reason(model, copy_of, monkeypatch):
    if model not in ("vae", "m2"):  # what matplotlib makes of a figure, which takes long, needs two models
        monkeypatch.setattr(saving, "content_of", lambda *_, **__: PNG)
    run = copy_of(model)
    for path in (run / "figures").iterdir():
        path.unlink()
    for command, (name, options) in FIGURES.items():
        if (model, command) in EXCEPTIONS:
            with pytest.raises(InputError, match=EXCEPTIONS[model, command]):
                pyrovae(command, run, *options)
        else:
            path = run / "figures" / f"{name}.png"
            assert pyrovae(command, run, *options).splitlines()[-1] == f"written: {path}"
            assert path.read_bytes().startswith(PNG)
    drawn = {name for command, (name, _) in FIGURES.items() if (model, command) not in EXCEPTIONS}
    assert {path.stem for path in (run / "figures").iterdir()} == drawn


def test_options_lead_to_what_was_refused_or_to_another_latent(copy_of):
    m2, stack = copy_of("m2"), copy_of("m1m2")
    pyrovae("manifold", m2, "--steps", 3, "--label", 4)
    pyrovae("latent", m2, "--by", "direct")
    pyrovae("latent", m2, "--by", "tsne", "--limit", 30)
    assert {"manifold.png", "latent_direct.png", "latent_tsne.png"} <= {
        path.name for path in (m2 / "figures").iterdir()
    }
    for command in ("traverse", "latent", "interpolation-grid"):
        name, options = FIGURES[command]
        pyrovae(command, stack, *options)
        first = (stack / "figures" / f"{name}.png").read_bytes()
        pyrovae(command, stack, *options, "--site", "z2")
        assert (stack / "figures" / f"{name}.png").read_bytes() == first
        assert (stack / "figures" / f"{name}_z2.png").read_bytes() != first


def test_the_same_command_draws_the_same_and_another_seed_does_not(copy_of):
    run = copy_of("m2")
    for command in ("class-samples", "histograms"):
        name, options = FIGURES[command]
        drawn = []
        for seed in (0, 0, 1):
            pyrovae(command, run, *options, "--seed", seed)
            drawn.append((run / "figures" / f"{name}.png").read_bytes())
        assert drawn[0] == drawn[1] != drawn[2]


def test_the_confusion_matrix_is_the_models_own_on_the_test_data(copy_of, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "draw", lambda run, figure, name: shown.append(figure))
    folder = copy_of("m2")
    pyrovae("confusion", folder)
    run = Run.open(folder)
    predicted = class_probabilities(run.pair, run.images.x_test).argmax(-1)
    wrong = int((predicted != run.images.y_test).sum())
    (figure,) = shown
    assert f"{wrong} of {len(predicted)} wrong" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latent", "--limit", 0], "limit is 0"),
        (["latent", "--site", "w"], "no continuous latent 'w'; there are: 'z'"),
        (["traverse", "--image", 360], "test datum 360 was asked for; .*to 359"),
        (["traverse", "--dimensions", 0], "dimensions is 0"),
        (["interpolation-grid", "--first", -1], "test datum -1 was asked for"),
        (["interpolation-grid", "--steps", 1], "steps is 1"),
        (["class-samples", "--count", 0], "count is 0"),
        (["class-samples", "--candidates", 0], "candidates is 0"),
        (["analogies", "--count", 0], "0 test data were asked for"),
        (["manifold", "--label", 10], "unknown class '10'; choose from 0, 1, 2, .*, 9"),
        (["confusion", "--limit", -1], "limit is -1"),
    ],
    ids=str,
)
def test_what_a_run_cannot_show_is_refused(words, message, runs):
    before = sorted((runs / "m2" / "figures").iterdir())
    with pytest.raises(InputError, match=message):
        pyrovae(words[0], runs / "m2", *words[1:])
    assert sorted((runs / "m2" / "figures").iterdir()) == before


def test_larger_latent_spaces_are_not_drawn_as_planes(tmp_path):
    train_by_words(tmp_path / "run", "vae", "--latent-dim", 3)
    with pytest.raises(
        InputError, match="'z' has 3 dimensions, and a plane has 2: train with latent_dim 2"
    ):
        pyrovae("manifold", tmp_path / "run")
    with pytest.raises(InputError, match=r"\(360, 3\); only 2-D ones.*--by pca or --by tsne"):
        pyrovae("latent", tmp_path / "run", "--by", "direct")


def test_data_without_classes_are_drawn_in_one_colour(tmp_path):
    x = np.random.default_rng(0).random((60, 8, 8)).astype(np.float32).round()
    np.save(tmp_path / "x.npy", x)
    run = tmp_path / "run"
    train_by_words(run, "vae", "--data", tmp_path / "x.npy")
    for command in ("latent", "aggregate", "traverse"):
        pyrovae(command, run)
    with pytest.raises(InputError, match=r"x has no classes .*data set with classes"):
        pyrovae("histograms", run)


def test_the_way_to_the_plane_is_one_of_three(runs):
    with pytest.raises(CycloptsError, match=r"umap.*pca.*tsne.*direct"):
        pyrovae("latent", runs / "m2", "--by", "umap")


def test_each_commands_help_has_an_example_that_it_understands():
    assert figures.COMMANDS.keys() == FIGURES.keys()
    for command, (name, options) in FIGURES.items():
        printed = " ".join(pyrovae(command, "--help").split())
        (words,) = re.findall(rf"Example: pyrovae {command} (\S+.*?) Arguments:", printed)
        assert words.startswith("runs/")
        assert f"figures/{name}.png" in printed
        with pytest.raises(InputError, match="is not a run folder"):  # it was understood
            pyrovae(command, *words.split())
        for option in options[::2]:
            text = printed[printed.index(f"{option} ", printed.index("Options:")) :]
            assert "[default: " in re.split(r" --(?=\w)", text, maxsplit=1)[0], (command, option)
