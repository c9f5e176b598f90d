"""Latents in the plane: the place, the colour and the name of each."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgba

from pyrovae.errors import InputError
from pyrovae.plots import (
    COLOURS,
    latent_pca,
    latent_space,
    latent_tsne,
)

NAMES = ["cat", "dog", "eel"]


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_point_is_drawn_in_its_classes_colour(z, y):
    z = z + 5 * y[:, None]  # apart, so that there is room for their names
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
    z = z + 5 * y[:, None]
    (axes,) = latent_space(z, y, NAMES).axes
    assert len(axes.texts) == 3
    for label, text in enumerate(axes.texts):
        members = z[y == label]
        distance = (members - torch.tensor(text.xy)).abs().sum(1)
        assert distance.min() < 1e-6


def test_names_that_would_lie_on_others_stand_in_the_legend_only(z, y):
    z = z / 10 + 9 * (y[:, None] == 2)  # the first two classes lie together
    (axes,) = latent_space(z, y, NAMES).axes
    assert [text.get_text() for text in axes.texts] == ["eel"]
    assert legend_of(axes) == NAMES


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
