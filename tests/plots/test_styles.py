"""Nothing disappears on a dark style, in a small picture or in a notebook."""

import io

import numpy as np
import pytest
import torch
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from pyrovae import plate_diagram, plots
from pyrovae.canvas import Canvas


@pytest.fixture
def y(binary_images):
    return torch.arange(len(binary_images)) % 3


def pixels(figure, dpi=100):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("RGB")) / 255


def drawings(pair, x, y):
    yield plate_diagram(pair, x).draw()
    yield plots.latents(pair, x, y, by="direct")
    yield plots.histograms(pair, x, y)
    yield plots.aggregated_posterior(pair, x)


@pytest.mark.parametrize("name", ["dark_background", "default"])
def test_lines_and_texts_stand_out_from_the_background_of_the_style(name, make_vae, binary_images, y):
    with style.context(name):
        for figure in drawings(make_vae(), binary_images, y):
            figure.canvas.draw()
            background = np.array(to_rgb(figure.get_facecolor()))
            for axes in figure.axes:
                colours = [line.get_color() for line in axes.lines]
                colours += [text.get_color() for text in axes.texts]
                # Of a patch, the outline stands out, or the filling does.
                outlines = [(patch.get_edgecolor(), patch.get_facecolor()) for patch in axes.patches]
                for shades in [*zip(colours), *outlines]:
                    contrast = max(np.abs(np.array(to_rgb(shade)) - background).max() for shade in shades)
                    assert contrast > 0.25, (figure, shades)


def test_a_diagram_on_a_dark_style_is_the_negative_of_one_on_a_light_style(make_vae, binary_images):
    diagram = plate_diagram(make_vae(), binary_images)
    light = pixels(diagram.draw())
    with style.context("dark_background"):
        dark = pixels(diagram.draw())
    assert np.abs(light + dark - 1).max() < 0.05
    assert light.min() < 0.05 < 0.95 < light.max()


@pytest.mark.parametrize("columns", [1, 10])
def test_thin_lines_of_large_images_survive(columns):
    lines = torch.zeros(256, 256)
    lines[4::8] = 1.0  # 32 lines, one pixel wide
    figure = plots.image_grid(lines.view(1, 1, 1, 256, 256).expand(1, columns, 1, 256, 256))
    grey = pixels(figure, dpi=150)[..., 0]
    left = int(
        figure.axes[0].get_window_extent().x0 * 1.5 + 0.4 * figure.axes[0].bbox.width * 1.5 / columns
    )
    column = grey[:, left]
    inside = column[np.flatnonzero(column < 0.1).min() :]
    inside = inside[: np.flatnonzero(inside < 0.1).max()]
    peaks = (inside[1:-1] > inside[:-2]) & (inside[1:-1] >= inside[2:]) & (inside[1:-1] > 0.2)
    assert peaks.sum() == 32


def test_pixels_of_small_images_stay_sharp():
    figure = plots.image_grid(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(1, 1, 1, 2, 2))
    assert set(np.unique(pixels(figure).round(2)[20:80, 30:90])) <= {0.0, 1.0}


def test_a_notebook_shows_a_figure_once_as_the_value_of_its_cell(make_vae, binary_images):
    for figure in drawings(make_vae(), binary_images, torch.arange(len(binary_images)) % 3):
        assert isinstance(figure, Canvas)
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert type(plots.confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]))) is Canvas
    import matplotlib._pylab_helpers

    assert not matplotlib._pylab_helpers.Gcf.figs  # pyplot knows none, so it shows none again


def test_a_notebook_shows_a_diagram_as_a_drawing(make_vae, binary_images):
    text = plate_diagram(make_vae(), binary_images)._repr_svg_()
    assert "<svg" in text
    assert isinstance(plate_diagram(make_vae(), binary_images).draw(), Figure)
