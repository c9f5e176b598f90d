"""Rows and columns of images."""

import numpy as np
import torch
from figures import drawn, labels_of

from pyrovae import plots

NAMES = ["cat", "dog", "eel"]


def test_a_grid_holds_each_image_at_its_row_and_column():
    images = torch.arange(6).div(10).view(2, 3, 1, 1, 1).expand(2, 3, 1, 4, 5)
    figure = plots.image_grid(images, "A title", ["first", "second"])
    sheet = drawn(figure)
    assert sheet.shape == (2 * (4 + 2), 3 * (5 + 2))
    assert sheet[0, 0] == 1  # the gap between images is white
    for row in range(2):
        for column in range(3):
            tile = sheet[row * 6 + 1 : row * 6 + 5, column * 7 + 1 : column * 7 + 6]
            assert np.allclose(tile, (3 * row + column) / 10)
    (axes,) = figure.axes
    assert axes.get_title() == "A title"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]


def test_a_grid_of_colour_images_keeps_the_channels_last():
    images = torch.tensor([1.0, 0.0, 0.5]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 4, 4)
    sheet = drawn(plots.image_grid(images))
    assert sheet.shape == (6, 12, 3)
    assert sheet[2, 2].tolist() == [1, 0, 0.5]


def test_values_outside_of_0_and_1_are_drawn_as_black_and_white():
    sheet = drawn(plots.image_grid(torch.tensor([-3.0, 3.0]).view(1, 2, 1, 1, 1)))
    assert sheet[1].tolist() == [1, 0, 1, 1, 1, 1]


def test_columns_are_labelled_in_their_middles():
    (axes,) = plots.image_grid(torch.zeros(1, 3, 1, 8, 8), column_labels=["a", "b", "c"]).axes
    assert labels_of(axes)[0] == ["a", "b", "c"]
    assert axes.get_xticks().tolist() == [4.5, 14.5, 24.5]
