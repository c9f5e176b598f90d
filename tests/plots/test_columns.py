"""Figures of vectors: their columns beside the model's, in pairs, and against their reconstructions."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import Polygon, Rectangle

from pyrovae import generation, plots
from pyrovae.errors import InputError
from pyrovae.models import PPCA
from pyrovae.programs import Pair
from pyrovae.training import History

NAMES = ["alcohol", "acid", "ash"]


@pytest.fixture
def pair():
    pair = PPCA((3,), 2)
    pair.fit_closed_form(torch.randn(100, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.5]]))
    return pair


@pytest.fixture
def x():
    return torch.randn(40, 3)


def shares(patches):
    """The share of values in each bar of a histogram of area 1."""
    return [bar.get_height() * bar.get_width() for bar in patches if isinstance(bar, Rectangle)]


def test_samples_of_vectors_are_draws_beside_the_data_column_by_column(pair, x):
    figure = plots.samples(pair, x=x, seed=4, column_names=NAMES)
    drawn = generation.samples(pair, 1000, seed=4)
    assert [axes.get_xlabel() for axes in figure.axes] == NAMES
    for column, axes in enumerate(figure.axes):
        bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
        edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
        both = torch.cat([x[:, column], drawn[:, column]])
        assert edges[0] == pytest.approx(float(both.min()))  # no datum lies outside
        assert edges[-1] == pytest.approx(float(both.max()))
        inside = np.histogram(x[:, column].double().numpy(), edges)[0]
        assert shares(axes.patches) == pytest.approx(inside / 40, abs=0.03)
        (outline,) = (patch for patch in axes.patches if isinstance(patch, Polygon))
        heights = outline.get_xy()[1:-1:2, 1]
        expected = np.histogram(drawn[:, column].double().numpy(), edges, density=True)[0]
        assert heights == pytest.approx(expected, rel=0.05, abs=0.02)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "draws from the model"]
    alone = plots.samples(pair, 50)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["draws from the model"]
    assert "50 draws" in alone.get_suptitle()


def test_of_many_columns_those_that_differ_most_are_shown_and_this_is_said():
    pair = PPCA((40,), 2)
    x = generation.samples(pair, 300, seed=9)
    x[:, 33] += 8
    figure = plots.samples(pair, x=x)
    assert "24 of 40 columns that differ most" in figure.get_suptitle()
    assert "x[33]" in [axes.get_xlabel() for axes in figure.axes]


def test_reconstructions_of_vectors_are_scattered_with_their_explained_share(pair, x):
    figure = plots.reconstructions(pair, x, column_names=NAMES)
    made = generation.reconstruct(pair, x)
    for column, axes in enumerate(figure.axes):
        points = np.asarray(axes.collections[0].get_offsets())
        assert points == pytest.approx(torch.stack([x[:, column], made[:, column]], 1).numpy())
        left = (x[:, column] - made[:, column]).square().sum() / (39 * x[:, column].var())
        assert axes.get_title() == f"{NAMES[column]}: R² = {1 - left:.2f}"
    x[:, 1] = 2.0
    assert plots.reconstructions(pair, x).axes[1].get_title() == "x[1]: constant"


def test_pairs_of_columns_show_every_datum_and_as_many_draws(pair, x):
    figure = plots.pairs(pair, x, [2, 0], count=30, column_names=NAMES)
    first, scattered, second = figure.axes
    points = np.concatenate([np.asarray(group.get_offsets()) for group in scattered.collections])
    assert len(points) == 40 + 30
    expected = torch.cat([x, generation.samples(pair, 30)])[:, [2, 0]].numpy()
    assert np.sort(points, 0) == pytest.approx(np.sort(expected, 0))
    assert (scattered.get_xlabel(), scattered.get_ylabel()) == ("ash", "alcohol")
    assert second.get_xlabel() == "alcohol"
    assert shares(first.patches)
    assert shares(second.patches)
    with pytest.raises(InputError, match="there is no column 3; there are 3"):
        plots.pairs(pair, x, [3])


def test_pairs_choose_the_columns_that_depend_on_each_other():
    x = torch.randn(300, 8)
    x[:, 6] = x[:, 1] ** 3  # rank correlation 1
    x[:, 3] = 1.0
    figure = plots.pairs(PPCA((8,), 2), x)
    shown = {axes.get_xlabel() for axes in figure.axes} - {""}
    assert {"x[1]", "x[6]"} <= shown
    assert len(shown) == 5
    assert "x[3]" not in shown
    assert "5 of 8 columns that depend most on others" in figure.get_suptitle()


def test_a_traversal_of_vectors_says_how_far_each_column_moves(pair, x):
    figure = plots.traversal(pair, x, 7, 2, column_names=NAMES)
    axes = figure.axes[0]
    shown = generation.latent_means(pair, x).var(0).argsort(descending=True).tolist()
    moved = generation.traverse(pair, x[7], shown, levels=[0.05, 0.95])
    expected = (moved[:, 1] - moved[:, 0]) / x.std(0)
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert [text.get_text() for text in axes.get_xticklabels()] == NAMES
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"z[{d}]" for d in shown]


def test_names_that_do_not_fit_are_refused(pair, x):
    with pytest.raises(InputError, match="2 names and 3 columns: name each column"):
        plots.samples(pair, x=x, column_names=["a", "b"])


def test_the_shape_of_a_datum_is_that_of_the_data_in_the_call():
    """Without data, nothing says the shape: the model takes the number of columns from its data."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :1] + torch.zeros(x.shape[1]), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    pair, x, y = Pair(model, guide), torch.randn(20, 3), torch.arange(20) % 2
    with pytest.raises(InputError, match=r"give the pair the shape, such as Pair\(model, guide, x_shape"):
        plots.samples(pair, 5)
    assert len(plots.samples(pair, 5, x=x).axes) == 3
    history = History([{"epoch": 1, "elbo": -9.0}])
    for figure in (
        plots.pairs(pair, x),
        plots.overview(pair, x, history),
        plots.histograms(pair, x, y, 1),
        plots.aggregated_posterior(pair, x, 1),
        plots.traversal(pair, x, 1, 2),
    ):
        assert figure.axes
    assert plots.samples(Pair(model, guide, x_shape=(3,)), 5).axes  # the remedy


def test_in_pairs_neither_data_nor_draws_hide_the_others_and_names_stay_apart(pair, x):
    names = ["od280/od315_of_diluted_wines", "nonflavanoid_phenols", "alcalinity_of_ash"]
    figure = plots.pairs(pair, x, column_names=names)
    panel = next(axes for axes in figure.axes if len(axes.collections) == 2)
    draws, data = panel.collections
    assert len(draws.get_facecolors()) == 0, "draws are rings"
    assert data.get_sizes()[0] < draws.get_sizes()[0]
    assert len(data.get_offsets()) == len(x)
    figure.draw_without_rendering()
    for labels in ([axes.xaxis.label for axes in figure.axes], [axes.yaxis.label for axes in figure.axes]):
        shown = [label for label in labels if label.get_text()]
        boxes = [label.get_window_extent() for label in shown]
        assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
        assert all(label.get_text().replace("\n", "") in names for label in shown)
