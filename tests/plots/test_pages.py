"""The page about a run."""

from figures import history, semi_supervised_history

from pyrovae import plots
from pyrovae.diagrams import plate_diagram

NAMES = ["cat", "dog", "eel"]


def test_the_overview_holds_diagram_curves_samples_and_reconstructions(make_vae, binary_images):
    vae = make_vae()
    diagram = plate_diagram(vae, binary_images)
    x = binary_images[:5]
    figure = plots.overview(diagram, history(), binary_images[:20], (x, x, None), "A page")
    titles = [axes.get_title() for axes in figure.axes]
    assert "Plate diagram" in titles[0]
    assert titles[1] == "Learning curves"
    assert titles[2].startswith("Samples")
    assert titles[3].startswith("Reconstructions")
    assert figure.get_suptitle() == "A page"
    assert len(figure.axes[2].images) == len(figure.axes[3].images) == 1


def test_the_overview_of_semi_supervised_training_has_the_panel_too(make_vae, binary_images):
    vae = make_vae()
    diagram = plate_diagram(vae, binary_images)
    x = binary_images[:5]
    figure = plots.overview(diagram, semi_supervised_history(), binary_images[:20], (x, x, None), "A page")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 5
    assert titles[2].startswith("Classification terms")
