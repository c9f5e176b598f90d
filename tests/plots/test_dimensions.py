"""Latents one dimension at a time, against the prior."""

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from pyrovae.plots import COLOURS
from pyrovae.plots.dimensions import draw_aggregated_posterior, draw_histograms

NAMES = ["cat", "dog", "eel"]


def bars(panel):
    """Left, lower edge, width, height and colour of each of the histogram's bars."""
    bars = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return [(b.get_x(), b.get_y(), b.get_width(), b.get_height(), b.get_facecolor()) for b in bars]


def test_stacked_histograms_have_area_1_and_each_class_its_share(y):
    y = (torch.arange(60) >= 15).long()  # a quarter and three quarters
    z, points = torch.randn(60, 2), torch.linspace(-4, 4, 9)
    prior = torch.rand(9, 2)
    figure = draw_histograms(z, y, points, prior, ["z[3]", "z[0]"], NAMES)
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
    assert "60 data" in figure.get_suptitle()


def test_the_aggregated_posterior_has_a_panel_for_each_dimension_and_one_for_a_pair():
    draws, means = torch.randn(100, 3), torch.zeros(100, 3)
    points = torch.linspace(-4, 4, 20)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(points).exp()[:, None].expand(20, 3)
    prior_draws = torch.randn(80, 3)
    names = ["z[1]", "z[0]", "z[4]"]
    figure = draw_aggregated_posterior(draws, means, prior_draws, points, prior, names)
    *panels, pair = figure.axes
    assert [panel.get_xlabel() for panel in panels] == names
    for panel in panels:
        filled = [bar for bar in bars(panel) if to_hex(bar[4]) == COLOURS[0]]
        assert sum(width * height for _, _, width, height, _ in filled) == pytest.approx(1)
        assert panel.get_ylim()[1] <= 2.5 * 0.4  # though the means are one tall bar
    assert (pair.get_xlabel(), pair.get_ylabel()) == ("z[1]", "z[0]")
    assert len(pair.collections[0].get_offsets()) == 100 + 80
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "draws from q(z | x), one for each datum",
        "means of q(z | x)",
        "prior",
        "draws from the prior",
    ]


def test_one_dimension_has_no_pair():
    points = torch.linspace(-4, 4, 20)
    z = torch.randn(50, 1)
    figure = draw_aggregated_posterior(z, z, z, points, torch.rand(20, 1), ["z[0]"])
    assert len(figure.axes) == 1
    assert len(figure.legends[0].get_texts()) == 3
