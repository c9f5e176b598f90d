"""The recipe of the conditional VAE: what it gives to the programs in training, evaluation and diagrams."""

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_by_words, train_small
from torch.utils.data import TensorDataset

from pyrovae import data, plots
from pyrovae.cli import figures
from pyrovae.cli.figures import diagram_of
from pyrovae.data import binarise_static
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.generation import class_samples, samples
from pyrovae.recipes import About, Data, Run, Training, cvae
from pyrovae.recipes.measuring import evaluate

SMALL = {"latent_dim": 2, "width": 8}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def part_of(condition):
    """The known pixels of an image of 8 x 8, row by row."""
    rows = {
        "quadrant": "........ " * 4 + "xxxx.... " * 4,
        "half": "xxxx.... " * 8,
        "three-quarters": "xxxxxxxx " * 4 + "xxxx.... " * 4,
    }
    return torch.tensor([[pixel == "x" for pixel in row] for row in rows[condition].split()])


@pytest.mark.filterwarnings("ignore:k-hat")
def test_a_run_is_given_the_class_of_each_datum(tmp_path, digits):
    run = train_small(tmp_path / "run", "cvae", training={"epochs": 3})
    result = evaluate(run, num_samples=30, limit=20, device="cpu", progress=False)
    rows = result.choice.rows
    x = binarise_static(digits.x_test, 0)[rows]
    c = torch.eye(10)[digits.y_test[rows]]
    expected = marginal_likelihood(run.pair, x, given={"c": c}, num_samples=30)
    assert torch.equal(result.result.log_px, expected.log_px)
    again = run.resume(device="cpu", progress=False, epochs=4)
    assert len(again.history.rows) == 4
    assert diagram_of(again).generative_edges == {("c", "z"), ("c", "x"), ("z", "x")}
    assert "class_samples.png" in pyrovae("class-samples", tmp_path / "run", "--count", 2)
    how = {"given": {"c": torch.eye(10).repeat_interleave(2, 0)}, "columns": 2}
    (axes,) = plots.samples(run.pair, 20, **how).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [*map(str, range(10))]
    with pytest.raises(InputError, match=r"CVAE has no classes.* is conditional on 'c': .*draw samples"):
        class_samples(run.pair, 10, given={"c": c})


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("condition", ["quadrant", "half", "three-quarters"])
def test_a_part_of_the_image_is_given_and_the_rest_is_scored(condition, digits):
    made = cvae(About.of(digits.x_train), condition=condition, **SMALL)
    known = part_of(condition)
    given = made.stages[0].given(digits.x_train, None)
    assert torch.equal(given["c"], digits.x_train.where(known, 0.0))
    assert torch.equal(given["observed"], (~known).expand(digits.x_train.shape))
    fitted = made.fit(digits.x_train[:200], training=Training(epochs=2))
    x = binarise_static(digits.x_test, 0)[:10]
    given = made.stages[0].given(digits.x_test[:10], None)
    found = marginal_likelihood(fitted.pair, x, given=given, num_samples=30)
    other = marginal_likelihood(fitted.pair, x.where(~known, 0.5), given=given, num_samples=30)
    torch.testing.assert_close(found.log_px, other.log_px)
    assert fitted.history.best_epoch is not None, "the validation images have their parts too"


def test_images_of_each_class_of_a_table_are_refused_with_what_to_draw(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.random.default_rng(0).normal(size=(80, 4)), y=np.arange(80) % 2)
    run = train_small(tmp_path / "run", "cvae", data={"data": str(tmp_path / "table.npz")})
    with pytest.raises(InputError, match=r"one datum has shape \(4,\): use sample for the columns of all"):
        pyrovae("class-samples", tmp_path / "run")
    assert "samples.png" in pyrovae("sample", tmp_path / "run", "--count", 20)  # the remedies
    given = {"c": torch.eye(2)[[1]].expand(6, 2)}
    assert samples(run.pair, 6, given=given).shape == (6, 4)


def test_the_commands_give_it_too(tmp_path):
    text = train_by_words(tmp_path / "run", "cvae", "--condition", "half")
    assert "plate_diagram.png" in text
    text = pyrovae("diagnose", tmp_path / "run", "--limit", 4, "--num-samples", 30, "--steps", 2, "--quiet")
    assert "active" in text
    assert "no kl decomposition for this guide: the model's prior of 'z' differs between data" in text
    assert "approximation" in text
    assert Run.open(tmp_path / "run").plan.options["condition"] == "half"
    assert "p: c -> z" in pyrovae("plates", "cvae")
    commands = (["sample"], ["reconstruct"], ["interpolate", "--count", 2], ["traverse", "--dimensions", 2])
    with pytest.raises(InputError, match="CVAE has no classes"):  # the condition is no class
        pyrovae("class-samples", tmp_path / "run", "--count", 2)
    for command, *words in (*commands, ["manifold", "--steps", 3], ["latent"], ["overview"]):
        assert "written: " in pyrovae(command, tmp_path / "run", *words), command
    assert "% test error" in pyrovae("classify", tmp_path / "run", "--labels", 10)
    for command in ("histograms", "aggregate"):
        with pytest.raises(InputError, match=r"the prior p\(z \| c\) of cvae is another one for each"):
            pyrovae(command, tmp_path / "run")
    for command in ("analogies", "class-samples", "confusion"):
        with pytest.raises(InputError, match="CVAE has no classes: train m2"):
            pyrovae(command, tmp_path / "run")


@pytest.fixture
def drawn(monkeypatch):
    """The last figure of each name."""
    seen = {}
    monkeypatch.setattr(figures, "draw", lambda run, figure, name, site=None: seen.update({name: figure}))
    return seen


def images_in(axes):
    """The images of a grid of digits, `(rows, columns, 1, 8, 8)`. There is a gap of 1 around each."""
    sheet = torch.tensor(np.asarray(axes.images[0].get_array()))
    tiles = sheet.unflatten(0, (-1, 10)).unflatten(2, (-1, 10)).transpose(1, 2)
    return tiles[:, :, None, 1:-1, 1:-1]


def test_figures_show_the_given_pixels_where_they_were_given(tmp_path, digits, drawn):
    """The left half is given, so it is that of the test image; lines have that of the nearer end."""
    run = tmp_path / "run"
    train_small(run, "cvae", condition="half", training={"epochs": 1})
    left, x = part_of("half"), digits.x_test

    def assert_given(images, rows):
        torch.testing.assert_close(images[..., left], x[torch.tensor(rows)][..., left], rtol=0, atol=0)
        assert not torch.equal(images[..., ~left], x[torch.tensor(rows)][..., ~left])

    pyrovae("sample", run, "--count", 4)
    assert_given(images_in(drawn["samples"].axes[0]), [[0, 1, 2, 3]])
    pyrovae("reconstruct", run, "--count", 3)
    assert_given(images_in(drawn["reconstructions"].axes[0])[-1], [0, 1, 2])
    pyrovae("interpolate", run, "--count", 2, "--steps", 3)
    assert_given(images_in(drawn["interpolation"].axes[0]), [[0, 0, 1], [2, 2, 3]])
    pyrovae("interpolation-grid", run, "--first", 5, "--steps", 2)
    assert_given(images_in(drawn["interpolation_grid"].axes[0]), [[5, 6], [7, 8]])
    pyrovae("traverse", run, "--image", 9, "--dimensions", 1)
    datum, grid = drawn["traversals"].axes
    assert_given(images_in(grid), [[9] * 9])
    assert_given(images_in(datum)[1], [9])
    for name, whose in (("interpolation", "nearer end's"), ("interpolation_grid", "nearest corner's")):
        assert f"The condition is the {whose}" in drawn[name].axes[0].get_title()


def test_a_model_that_is_given_the_class_is_not_asked_for_it(tmp_path):
    folder = train_small(tmp_path / "run", "cvae", training={"epochs": 1}).folder
    with pytest.raises(InputError, match="cvae is given the class of each datum, as 'c', so its latents"):
        pyrovae("classify", folder, "--labels", 10)
    assert not (folder / "classification.json").exists()


def test_what_does_not_fit_is_refused_by_name(digits, tmp_path):
    x, y = digits.x_train[:50], digits.y_train[:50]
    with pytest.raises(InputError, match=r"num_classes is 0; cvae .* at least 2 .*condition='half'"):
        cvae(About.of(x), **SMALL)
    with pytest.raises(InputError, match=r"condition is half, .* shape \(64,\): use condition=class"):
        cvae(About.of(x.flatten(1), y), condition="half", **SMALL)
    by_class, half = cvae(About.of(x, y), **SMALL), cvae(About.of(x), condition="half", **SMALL)
    unknown = torch.where(torch.arange(50) < 5, -1, y)
    with pytest.raises(InputError, match=r"the class of each datum as its condition, but .* are unknown"):
        by_class.fit(x, unknown, training=Training(epochs=1), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="as its condition, but none is given"):
        by_class.fit(x, training=Training(epochs=1))
    with pytest.raises(InputError, match="shift is 2, but the condition of cvae would not be shifted"):
        half.fit(x, training=Training(epochs=1), data=Data(shift=2))
    with pytest.raises(InputError, match=r"a part of each image, but a Subset is read item by item"):
        half.fit(TensorDataset(x), training=Training(epochs=1))
