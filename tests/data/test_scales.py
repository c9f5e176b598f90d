"""The scale of data: grey levels are divided by 255, and all parts of a data set alike."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.data import load
from pyrovae.data.arrays import read_values
from pyrovae.errors import InputError

LEVELS = np.array([[[0, 51, 255]]])
HALF = LEVELS / 255


@pytest.mark.parametrize(
    ("x", "scale", "expected"),
    [
        (LEVELS.astype(np.uint8), 255, [0, 0.2, 1]),
        (LEVELS.astype(np.float64), 255, [0, 0.2, 1]),
        (HALF, 255, [0, 0.2, 1]),
        (np.array([[[0, 1, 1]]]), 255, [0, 1 / 255, 1 / 255]),
        (np.array([[[0, 1, 1]]]), 1, [0, 1, 1]),
        (HALF, 1, [0, 0.2, 1]),
        (np.array([[0, 51, 255]], np.uint8), 1, [0, 51, 255]),
        (np.array([[-7, 3000]]), 1, [-7, 3000]),
        (np.array([[-7.5, 3000]]), 1, [-7.5, 3000]),
        (np.array([[0.0, 51.0]]), 255, [0, 0.2]),
    ],
)
def test_values_are_brought_to_the_scale_of_a_run(x, scale, expected):
    (found,) = read_values(x, "x").over(scale)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("x", "scale", "message"),
    [
        (
            LEVELS,
            1,
            r"lies in \[0, 255\], expected \[0, 1\], since the training data were not",
        ),
        (np.array([[0, 256]]), 255, r"lies in \[0, 256\], expected \[0, 255\]"),
        (np.array([[0.5, 1.5]]), 255, r"lies in \[0.5, 1.5\], expected \[0, 1\]"),
        (np.array([[0.0, -1.0]]), 255, r"expected \[0, 255\]"),
        (np.array([[0.0, 1.0]]), 255, "holds 0 and 1 alone"),
        (np.array([[False, True]]), 255, "holds 0 and 1 alone"),
    ],
)
def test_values_of_another_scale_are_refused(x, scale, message):
    with pytest.raises(InputError, match=message):
        read_values(x, "x").over(scale)


def test_the_test_part_has_the_scale_of_the_training_part(save):
    """A dark test part of 0 and 1 alone would be white otherwise."""
    x_train = np.tile(LEVELS.astype(np.uint8), (3, 1, 1))
    data = load(save(x_train=x_train, x_test=np.ones((2, 1, 3), np.uint8)))
    assert data.scale == 255
    assert torch.equal(data.x_test, torch.full((2, 1, 1, 3), 1 / 255))
    vectors = load(save(x_train=np.array([[0.5, 30]]), x_test=np.array([[2, 40]])))
    assert vectors.scale == 1
    assert vectors.x_test.tolist() == [[2, 40]]
    with pytest.raises(InputError, match=r"x_test .* were not divided by 255"):
        load(save(x_train=HALF, x_test=LEVELS))


def test_images_of_files_are_grey_levels_in_both_parts(tmp_path):
    for part, grey in (("train", 1), ("test", 255)):
        (tmp_path / part).mkdir()
        for number in range(2):
            Image.new("L", (4, 2), grey).save(tmp_path / part / f"{number}.png")
    data = load(tmp_path)
    assert (data.scale, float(data.x_train.max())) == (255, pytest.approx(1 / 255))
