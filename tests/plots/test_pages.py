"""The page about a trained pair."""

from types import ModuleType

import torch
from figures import history, semi_supervised_history

from pyrovae import plots
from pyrovae.models import PPCA


def test_the_overview_holds_diagram_curves_samples_and_reconstructions(make_vae, binary_images):
    x = binary_images
    figure = plots.overview(make_vae(), x, history(), title="A page")
    diagram, bound, samples, reconstructions = figure.axes
    assert "Plate diagram" in diagram.get_title()
    assert bound.get_title() == "Learning curves: the bound"
    assert samples.get_title().startswith("Samples")
    assert reconstructions.get_title().startswith("Reconstructions")
    assert figure.get_suptitle() == "A page"
    assert len(samples.images) == len(reconstructions.images) == 1


def test_the_overview_of_semi_supervised_training_has_the_panels_too(make_vae, binary_images):
    figure = plots.overview(make_vae(), binary_images, semi_supervised_history())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[2].startswith("KL")
    assert titles[3].startswith("Classification terms")


def test_the_overview_of_vectors_holds_their_columns():
    figure = plots.overview(PPCA((8,), 2), torch.randn(30, 8), history())
    samples, reconstructions = figure.axes[2:8], figure.axes[8:]
    assert all(axes.patches for axes in samples)
    assert [len(axes.collections[0].get_offsets()) for axes in reconstructions] == [30] * 6


def test_a_figure_is_not_hidden_by_a_file_of_its_name():
    for name in plots.__all__:
        assert not isinstance(getattr(plots, name), ModuleType)
