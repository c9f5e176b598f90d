"""Figures of generated images: each image stands where it belongs, in the figure of one call."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from figures import drawn, labels_of

from pyrovae import generation, plots
from pyrovae.errors import InputError
from pyrovae.likelihoods import Categorical
from pyrovae.models import PPCA, VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs import Pair

NAMES = ["cat", "dog", "eel"]
SIDE = 4 + 2  # of a tile: the images of the pairs have 4 x 4 pixels, and a gap of 1


@pytest.fixture
def x(binary_images):
    return binary_images


def tile(sheet, row, column):
    top, left = row * SIDE + 1, column * SIDE + 1
    return sheet[top : top + 4, left : left + 4]


def the_same(tile, image):
    return np.allclose(tile, image.reshape(4, 4).clamp(0, 1).numpy())


def test_samples_fill_the_last_row_with_blanks(make_vae):
    vae = make_vae()
    figure = plots.samples(vae, 13, seed=2)
    images, sheet = generation.samples(vae, 13, seed=2, mean=True), drawn(figure)
    assert sheet.shape == (2 * SIDE, 10 * SIDE)
    assert (sheet[SIDE:, 3 * SIDE :] == 1).all()
    assert all(the_same(tile(sheet, *divmod(n, 10)), image) for n, image in enumerate(images))
    assert "Samples: means" in figure.axes[0].get_title()
    assert drawn(plots.samples(vae, 3)).shape == (SIDE, 3 * SIDE)
    assert drawn(plots.samples(vae)).shape == (10 * SIDE, 10 * SIDE)


def test_samples_show_the_class_that_was_given():
    def model(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = (z + c.reshape(len(x), -1)[:, 0])[:, None, None, None].expand(-1, 1, 4, 4)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    pair, y = Pair(model, lambda x, c: None, x_shape=(1, 4, 4)), torch.tensor([2, 2, 0, 0, 1, 1])
    for c in (y, torch.eye(3)[y]):
        (axes,) = plots.samples(pair, 6, given={"c": c}, columns=2, class_names=NAMES).axes
        assert labels_of(axes)[1] == ["eel", "cat", "dog"]
        (axes,) = plots.samples(pair, 6, given={"c": c}, columns=5).axes
        places = {text.get_text(): text.get_position() for text in axes.texts}
        assert [text.get_text() for text in axes.texts] == [*"220011"]
        assert places["0"] == (3 * SIDE + 1, 1)
    for other in (torch.rand(6, 3), torch.rand(6)):
        (axes,) = plots.samples(pair, 6, given={"c": other}, columns=2).axes
        assert (labels_of(axes)[1], [*axes.texts]) == ([], [])


def test_samples_are_draws_where_these_are_asked_for(make_vae):
    figure = plots.samples(make_vae(), 10, mean=False)
    assert set(np.unique(drawn(figure))) == {0.0, 1.0}
    assert "Samples: draws" in figure.axes[0].get_title()


def test_reconstructions_stand_under_their_data(make_vae, x):
    vae = make_vae()
    figure = plots.reconstructions(vae, x)
    assert labels_of(figure.axes[0])[1] == ["x", "E[x | z]"]
    sheet, made = drawn(figure), generation.reconstruct(vae, x[:10])
    assert sheet.shape == (2 * SIDE, 10 * SIDE)
    for n in range(10):
        assert the_same(tile(sheet, 0, n), x[n])
        assert the_same(tile(sheet, 1, n), made[n])
    assert drawn(plots.reconstructions(vae, x, 3)).shape == (2 * SIDE, 3 * SIDE)


def test_what_was_binarised_is_shown_above_as_it_was(make_vae, x):
    figure = plots.reconstructions(make_vae(), x[:4], original=x[:4] * 0.3)
    assert labels_of(figure.axes[0])[1] == ["grey image", "binarised x", "E[x | z]"]
    assert the_same(tile(drawn(figure), 0, 2), x[2] * 0.3)
    assert the_same(tile(drawn(figure), 1, 2), x[2])


def test_levels_are_shown_as_grey_values():
    likelihood = Categorical(MLP(2, (256, 1, 4, 4), hidden=(8,)))
    pair = VAE(StandardNormal(2), likelihood, DiagonalNormal(MLP((1, 4, 4), 8), 2))
    x = torch.arange(16.0).mul(17).expand(3, 16).reshape(3, 1, 4, 4)
    assert the_same(tile(drawn(plots.reconstructions(pair, x)), 0, 1), x[1] / 255)


def test_interpolations_have_a_line_in_each_row(make_vae, make_m2, x):
    vae = make_vae()
    figure = plots.interpolation(vae, x[:2], x[2:4], 6)
    lines = generation.interpolate(vae, x[:2], x[2:4], 6)
    assert all(the_same(tile(drawn(figure), 1, n), lines[1, n]) for n in range(6))
    assert "nearer end" not in figure.axes[0].get_title()
    assert (
        "class y is the nearer end's"
        in plots.interpolation(make_m2(), x[:1].double(), x[1:2].double(), 3).axes[0].get_title()
    )


def test_an_interpolation_grid_and_a_manifold_are_drawn_as_they_come(make_vae, make_m2, x):
    vae, m2 = make_vae(), make_m2()
    images = generation.interpolate_grid(vae, x[:4], 3)
    sheet = drawn(plots.interpolation_grid(vae, x[:4], 3))
    assert all(
        the_same(tile(sheet, row, column), images[row, column]) for row in range(3) for column in range(3)
    )
    assert "nearest corner's" in plots.interpolation_grid(m2, x[:4].double(), 3).axes[0].get_title()
    (axes,) = plots.manifold(m2, 3, 1, class_names=NAMES).axes
    assert "E[x | z, y = dog]" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0] grows to the right", "z[1] grows upwards")
    assert "E[x | z] at" in plots.manifold(vae, 3).axes[0].get_title()


def test_traversals_stand_beside_their_datum(make_vae, x):
    vae = make_vae()
    figure = plots.traversal(vae, x, 3)
    datum, grid = figure.axes
    assert labels_of(datum)[1] == ["image", "E[x | z]"]
    shown = generation.latent_means(vae, x).var(0).argsort(descending=True).tolist()
    assert labels_of(grid)[1] == [f"z[{d}]" for d in shown]
    assert labels_of(grid)[0][0] == "1%"
    sheet = np.asarray(datum.images[0].get_array())
    assert the_same(tile(sheet, 0, 0), x[3])
    assert the_same(tile(sheet, 1, 0), generation.reconstruct(vae, x[3:4]))
    moved = generation.traverse(vae, x[3], shown)
    assert the_same(tile(np.asarray(grid.images[0].get_array()), 1, 4), moved[1, 4])
    one = plots.traversal(vae, x[:1], 0, 1)
    assert np.asarray(one.axes[0].images[0].get_array()).shape == (2 * SIDE, SIDE)
    with pytest.raises(InputError, match="index is 99; choose a datum from 0 to"):
        plots.traversal(vae, x, 99)


def test_classes_have_rows_of_samples_and_columns_of_analogies(make_m2, x):
    m2, x = make_m2(), x.double()
    (axes,) = plots.class_samples(m2, 4, class_names=NAMES).axes
    assert labels_of(axes)[1] == NAMES
    assert drawn(plots.class_samples(m2, 4)).shape == (3 * SIDE, 4 * SIDE)
    left, right = plots.analogies(m2, x[:5], class_names=NAMES).axes
    assert (labels_of(left)[0], labels_of(right)[0]) == (["image"], NAMES)
    assert the_same(tile(np.asarray(left.images[0].get_array()), 4, 0), x[4])
    expected = generation.analogies(m2, x[:5])[4, 2]
    assert the_same(tile(np.asarray(right.images[0].get_array()), 4, 2), expected)


def test_what_only_images_have_is_refused_of_vectors():
    pair, x = PPCA((6,), 2), torch.randn(4, 6)
    for draw in (
        lambda: plots.interpolation(pair, x[:2], x[2:]),
        lambda: plots.interpolation_grid(pair, x),
        lambda: plots.manifold(pair),
    ):
        with pytest.raises(InputError, match=r"shape \(6,\) are not images .*drawn by plots.samples"):
            draw()


def test_what_is_given_with_each_image_is_put_into_it(make_vae, x):
    def complete(images, rows):
        return images * 0 + rows.view(-1, 1, 1, 1) / 10

    def shades(figure, row):
        sheet = drawn(figure) if len(figure.axes) == 1 else np.asarray(figure.axes[1].images[0].get_array())
        return [round(float(shade), 4) for shade in sheet[row * SIDE + 2, 2::SIDE]]

    vae = make_vae()
    assert shades(plots.samples(vae, 4, complete=complete), 0) == [0, 0.1, 0.2, 0.3]
    assert shades(plots.reconstructions(vae, x, 3, complete=complete), 1) == [0, 0.1, 0.2]
    lines = plots.interpolation(vae, x[:2], x[2:4], 4, complete=complete)
    assert shades(lines, 1) == [0.2, 0.2, 0.3, 0.3]  # rows 2 and 3 are the start and the end of line 1
    assert shades(plots.interpolation_grid(vae, x[:4], 2, complete=complete), 1) == [0.2, 0.3]
    assert set(shades(plots.traversal(vae, x, 5, 1, complete=complete), 0)) == {0.5}
    assert set(shades(plots.manifold(vae, 3, complete=complete), 2)) == {0.0}
