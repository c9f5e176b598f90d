"""Figures of latent space: what is drawn where, in which colour, under which name."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import Rectangle

from pyrovae.errors import InputError
from pyrovae.plots.latents import (
    COLOURS,
    aggregated_posterior,
    class_histograms,
    confusion_matrix,
    latent_pca,
    latent_space,
    latent_tsne,
)

NAMES = ["cat", "dog", "eel"]


@pytest.fixture
def z():
    return torch.randn(60, 2)


@pytest.fixture
def y():
    return torch.arange(60) % 3


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_point_is_drawn_in_its_classes_colour(z, y):
    (axes,) = latent_space(z, y, NAMES).axes
    (points,) = axes.collections
    offsets = torch.tensor(np.asarray(points.get_offsets()), dtype=z.dtype)
    assert len(offsets) == 60
    for place, colour in zip(offsets, points.get_facecolors(), strict=True):
        label = y[(z - place).square().sum(1).argmin()]
        assert tuple(colour) == to_rgba(COLOURS[label])
    assert legend_of(axes) == NAMES
    assert [text.get_text() for text in axes.texts] == NAMES  # among the points
    assert "(N = 60)" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")


def test_a_classes_name_stands_at_a_point_of_it(z, y):
    (axes,) = latent_space(z, y, NAMES).axes
    for label, text in enumerate(axes.texts):
        members = z[y == label]
        distance = (members - torch.tensor(text.xy)).abs().sum(1)
        assert distance.min() < 1e-6


def test_only_classes_that_occur_are_in_the_legend(z, y):
    (axes,) = latent_space(z[y != 1], y[y != 1], NAMES).axes
    assert legend_of(axes) == ["cat", "eel"]
    (axes,) = latent_space(z, y).axes
    assert legend_of(axes) == ["0", "1", "2"]


def test_more_than_ten_classes_differ_in_their_markers(z):
    (axes,) = latent_space(z, torch.arange(60) % 12).axes
    circles, triangles = axes.collections
    assert len(circles.get_offsets()) == 50
    assert len(triangles.get_offsets()) == 10
    markers = {(h.get_marker(), h.get_color()) for h in axes.get_legend().legend_handles}
    assert len(markers) == 12


def test_without_classes_all_points_look_alike(z):
    (axes,) = latent_space(z).axes
    assert axes.get_legend() is None
    assert len(axes.collections[0].get_facecolors()) == 1


def test_the_ten_colours_differ():
    assert len({to_hex(colour) for colour in COLOURS}) == 10


@pytest.mark.parametrize(
    ("shape", "classes", "names", "message"),
    [
        ((5, 3), [0] * 5, [], r"shape \(5, 3\); only 2-D ones.*use PCA or t-SNE"),
        ((5, 2), [0] * 4, [], "5 data and 4 classes"),
        ((5, 2), [0, 1, 2, 3, 0], NAMES, "classes go from 0 to 3, and 3 have names"),
        ((5, 2), [0, 1, -1, 1, 0], [], "classes go from -1 to 1"),
    ],
    ids=str,
)
def test_points_that_cannot_be_coloured_are_refused(shape, classes, names, message):
    with pytest.raises(InputError, match=message):
        latent_space(torch.zeros(shape), torch.tensor(classes), names)


def test_pca_turns_the_widest_direction_to_the_right(y):
    direction = torch.tensor([3.0, 4.0, 0.0]) / 5
    wide, narrow = torch.randn(60), 0.1 * torch.randn(60)
    z = wide[:, None] * direction + narrow[:, None] * torch.tensor([0.0, 0.0, 1.0])
    (axes,) = latent_pca(z, y, NAMES).axes
    offsets = np.asarray(axes.collections[0].get_offsets())
    expected = (wide - wide.mean()).abs().sort().values.numpy()
    assert np.sort(np.abs(offsets[:, 0])) == pytest.approx(expected, abs=0.02)
    share = wide.var() / (wide.var() + narrow.var())
    assert axes.get_xlabel() == f"principal component 1 ({share:.0%} of the variance)"
    assert "3 dimensions" in axes.get_title()
    with pytest.raises(InputError, match="PCA needs at least 2 data and 2 dimensions"):
        latent_pca(z[:, :1], y)


def test_tsne_keeps_groups_together_and_repeats_with_its_seed(y):
    z = torch.nn.functional.one_hot(y, 3) * 20.0 + torch.randn(60, 3)

    def places(seed):
        (axes,) = latent_tsne(z, y, perplexity=5, seed=seed).axes
        points = axes.collections[0]
        return np.asarray(points.get_offsets()), points.get_facecolors(), axes

    offsets, colours, axes = places(0)
    distances = np.square(offsets[:, None] - offsets[None]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    assert (colours[distances.argmin(1)] == colours).all()
    assert np.array_equal(places(0)[0], offsets)
    assert "perplexity 5" in axes.get_title()
    assert not len(axes.get_xticks())
    with pytest.raises(InputError, match="there are 3 data; t-SNE needs at least 4"):
        latent_tsne(z[:3])


def test_a_few_data_lower_the_perplexity():
    (axes,) = latent_tsne(torch.randn(10, 1)).axes
    assert "perplexity 3" in axes.get_title()


def bars(panel):
    """Left, lower edge, width, height and colour of each of the histogram's bars."""
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return [(b.get_x(), b.get_y(), b.get_width(), b.get_height(), b.get_facecolor()) for b in bars]


def test_stacked_histograms_have_area_1_and_each_class_its_share(y):
    y = (torch.arange(60) >= 15).long()  # a quarter and three quarters
    z, points = torch.randn(60, 2), torch.linspace(-4, 4, 9)
    prior = torch.rand(9, 2)
    figure = class_histograms(z, y, points, prior, ["z[3]", "z[0]"], NAMES)
    assert len(figure.axes) == 2
    for column, panel in enumerate(figure.axes):
        area = dict.fromkeys((0, 1), 0.0)
        for _, _, width, height, colour in bars(panel):
            area[COLOURS.index(to_hex(colour))] += width * height
        assert area == pytest.approx({0: 0.25, 1: 0.75})
        tops = {}
        for left, low, width, height, _ in bars(panel):
            tops[left] = max(tops.get(left, 0), low + height)
            inside = ((z[:, column] >= left) & (z[:, column] < left + width)).sum()
            expected = inside / 60 / width
        assert tops[left] == pytest.approx(float(expected))
        (line,) = panel.lines
        assert line.get_xdata().tolist() == points.tolist()
        assert line.get_ydata().tolist() == prior[:, column].tolist()
    assert [panel.get_xlabel() for panel in figure.axes] == ["z[3]", "z[0]"]
    assert figure.axes[0].get_ylabel() == "density"
    classes, prior_legend = figure.legends
    assert [text.get_text() for text in classes.get_texts()] == ["cat", "dog"]
    assert [text.get_text() for text in prior_legend.get_texts()] == ["prior"]
    assert "60 test images" in figure.get_suptitle()


def test_the_aggregated_posterior_has_a_panel_for_each_dimension_and_one_for_a_pair():
    draws, means = torch.randn(100, 3), torch.zeros(100, 3)
    points = torch.linspace(-4, 4, 20)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(points).exp()[:, None].expand(20, 3)
    prior_draws = torch.randn(80, 3)
    names = ["z[1]", "z[0]", "z[4]"]
    figure = aggregated_posterior(draws, means, prior_draws, points, prior, names)
    *panels, pair = figure.axes
    assert [panel.get_xlabel() for panel in panels] == names
    for panel in panels:
        filled = [bar for bar in bars(panel) if to_hex(bar[4]) == COLOURS[0]]
        assert sum(width * height for _, _, width, height, _ in filled) == pytest.approx(1)
        assert panel.get_ylim()[1] <= 2.5 * 0.4  # though the means are one tall bar
    assert (pair.get_xlabel(), pair.get_ylabel()) == ("z[1]", "z[0]")
    assert len(pair.collections[0].get_offsets()) == 2 * 80
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "draws from q(z | x), one for each image",
        "means of q(z | x)",
        "prior",
        "draws from the prior",
    ]


def test_one_dimension_has_no_pair():
    points = torch.linspace(-4, 4, 20)
    z = torch.randn(50, 1)
    figure = aggregated_posterior(z, z, z, points, torch.rand(20, 1), ["z[0]"])
    assert len(figure.axes) == 1
    assert len(figure.legends[0].get_texts()) == 3


def test_the_confusion_matrix_counts_rows_by_truth_and_columns_by_prediction():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    for given in (predicted, torch.nn.functional.one_hot(predicted, 3) * 0.5 + 0.1):
        axes = confusion_matrix(y, given, NAMES).axes[0]
        shares = np.asarray(axes.images[0].get_array())
        assert shares == pytest.approx(np.array([[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]]))
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(0, 0): "3", (1, 0): "1", (1, 1): "1", (2, 1): "1", (2, 2): "1"}
        assert axes.get_title() == "Confusion matrix: 2 of 7 test images wrong, error 28.57%"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
        assert [text.get_text() for text in axes.get_xticklabels()] == NAMES


def test_a_class_that_never_occurs_has_an_empty_row():
    axes = confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0])).axes[0]
    assert np.asarray(axes.images[0].get_array()).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 data and 3 classes"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match="classes go from 0 to 5"):
        confusion_matrix(torch.tensor([0, 5]), torch.tensor([0, 1]), NAMES)
