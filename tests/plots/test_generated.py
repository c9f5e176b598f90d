"""Figures of generated images: where each image is drawn, and its labels."""

import numpy as np
import pytest
import torch
from figures import drawn, labels_of

from pyrovae import plots
from pyrovae.errors import InputError

NAMES = ["cat", "dog", "eel"]


def test_samples_fill_the_last_row_with_blanks():
    figure = plots.samples(torch.zeros(13, 1, 8, 8))
    sheet = drawn(figure)
    assert sheet.shape == (2 * 10, 10 * 10)
    assert (sheet[10:, 30:] == 1).all()
    assert (sheet[11:19, 21:29] == 0).all()
    assert "Samples" in figure.axes[0].get_title()
    assert drawn(plots.samples(torch.zeros(3, 1, 8, 8))).shape == (10, 30)


def test_reconstructions_stand_under_their_data():
    figure = plots.reconstructions(torch.zeros(4, 1, 8, 8), torch.full((4, 1, 8, 8), 0.5))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "E[x | z]"]
    sheet = drawn(figure)
    assert sheet.shape == (20, 40)
    assert sheet[5, 5] == 0
    assert sheet[15, 5] == 0.5


def test_what_was_binarised_is_shown_above_as_it_was():
    grey = torch.full((4, 1, 8, 8), 0.3)
    figure = plots.reconstructions(torch.zeros(4, 1, 8, 8), torch.full((4, 1, 8, 8), 0.5), grey)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["grey image", "binarised x", "E[x | z]"]
    assert drawn(figure)[[5, 15, 25], 5] == pytest.approx([0.3, 0, 0.5])


def test_interpolations_have_a_line_in_each_row():
    lines = torch.linspace(0, 1, 6).view(1, 6, 1, 1, 1).expand(2, 6, 1, 3, 3)
    figure = plots.interpolations(lines)
    assert drawn(figure).shape == (2 * 5, 6 * 5)
    assert drawn(figure)[2, 2::5] == pytest.approx(np.linspace(0, 1, 6))
    assert "Interpolation" in figure.axes[0].get_title()


@pytest.mark.parametrize("shape", [(6,), (2, 3, 3), (1, 2, 3, 3)], ids=str)
def test_data_that_are_no_images_are_refused(shape):
    x = torch.zeros(4, *shape)
    for draw in (
        plots.samples,
        lambda x: plots.reconstructions(x, x),
        lambda x: plots.interpolations(x[None]),
    ):
        with pytest.raises(InputError, match="not images"):
            draw(x)


def test_an_interpolation_grid_and_a_manifold_are_drawn_as_they_come():
    images = torch.linspace(0, 1, 9).view(3, 3, 1, 1, 1).expand(3, 3, 1, 3, 3)
    assert drawn(plots.interpolation_grid(images))[2::5, 2::5] == pytest.approx(
        images[..., 0, 0, 0].numpy()
    )
    assert "corner's" not in plots.interpolation_grid(images).axes[0].get_title()
    assert "class y is the nearest corner's" in plots.interpolation_grid(images, True).axes[0].get_title()
    assert (
        "class y is the nearer end's" in plots.interpolations(images, class_jumps=True).axes[0].get_title()
    )
    (axes,) = plots.manifold(images, "z2", "shirt").axes
    assert "E[x | z2, y = shirt]" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z2[0] grows to the right", "z2[1] grows upwards")
    assert "E[x | z] at" in plots.manifold(images).axes[0].get_title()


def test_traversals_stand_beside_their_datum():
    images = torch.full((3, 2, 1, 8, 8), 0.5)
    figure = plots.traversals(
        images, torch.zeros(1, 8, 8), images[0, 0], ["z[4]", "z[0]", "z[1]"], [0.1, 0.9]
    )
    datum, grid = figure.axes
    assert labels_of(datum)[1] == ["image", "E[x | z]"]
    assert labels_of(grid) == (["10%", "90%"], ["z[4]", "z[0]", "z[1]"])
    sheet = np.asarray(datum.images[0].get_array())
    assert sheet[[5, 15, 25], 5].tolist() == [0, 0.5, 1]  # the rest is blank
    assert "Latent traversals" in figure.get_suptitle()
    one = plots.traversals(images[:1], torch.zeros(1, 8, 8), images[0, 0], ["z[4]"], [0.1, 0.9])
    assert np.asarray(one.axes[0].images[0].get_array()).shape == (20, 10)


def test_class_samples_have_a_row_for_each_class():
    (axes,) = plots.class_samples(torch.zeros(2, 3, 1, 8, 8), ["cat", "dog"]).axes
    assert labels_of(axes)[1] == ["cat", "dog"]
    assert np.asarray(axes.images[0].get_array()).shape == (20, 30)


def test_analogies_have_the_image_on_the_left_and_a_column_for_each_class():
    figure = plots.analogies(torch.zeros(4, 1, 8, 8), torch.ones(4, 2, 1, 8, 8), ["cat", "dog"])
    left, right = figure.axes
    assert labels_of(left)[0] == ["image"]
    assert labels_of(right)[0] == ["cat", "dog"]
    assert np.asarray(left.images[0].get_array()).shape == (40, 10)
    assert np.asarray(right.images[0].get_array()).shape == (40, 20)
    assert "Analogies" in figure.get_suptitle()
