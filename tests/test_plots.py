"""Figures: what is drawn where, and that a file is written whole or not at all."""

import errno
import os

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrovae import plots
from pyrovae.errors import InputError
from pyrovae.history import History
from pyrovae.plates import plate_diagram


def drawn(figure):
    """The pixels of the figure's image."""
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def history(epochs=5, validation=True):
    rows = [{"epoch": n + 1, "elbo": -50.0 + n} for n in range(epochs)]
    for row in rows if validation else ():
        row["validation_elbo"] = row["elbo"] - 1
    return History(rows, best_epoch=4 if validation else None)


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


def test_learning_curves_show_both_bounds_and_the_best_epoch():
    (axes,) = plots.learning_curves(history()).axes
    training, validation, best = axes.lines
    assert training.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert training.get_ydata().tolist() == [-50, -49, -48, -47, -46]
    assert validation.get_ydata().tolist() == [-51, -50, -49, -48, -47]
    assert list(best.get_xdata()) == [4, 4]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["training ELBO", "validation ELBO", "best epoch"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "nats per datum")


def test_learning_curves_without_validation_show_one_curve():
    (axes,) = plots.learning_curves(history(validation=False)).axes
    assert len(axes.lines) == 1


def test_learning_curves_of_one_epoch_have_limits():
    (axes,) = plots.learning_curves(history(1, validation=False)).axes
    low, high = axes.get_ylim()
    assert low < -50 < high


def test_the_end_of_a_long_curve_is_not_flattened_by_its_first_epochs():
    rows = [{"epoch": n + 1, "elbo": -1e6 if n < 2 else -50.0 + n / 100} for n in range(100)]
    (axes,) = plots.learning_curves(History(rows)).axes
    assert axes.get_ylim()[0] > -60


def test_the_overview_holds_diagram_curves_samples_and_reconstructions(make_vae, binary_images):
    vae = make_vae()
    diagram = plate_diagram(vae.model, vae.guide, binary_images)
    x = binary_images[:5]
    figure = plots.overview(diagram, history(), binary_images[:20], (x, x, None), "A page")
    titles = [axes.get_title() for axes in figure.axes]
    assert "Plate diagram" in titles[0]
    assert titles[1] == "Learning curves"
    assert titles[2].startswith("Samples")
    assert titles[3].startswith("Reconstructions")
    assert figure.get_suptitle() == "A page"
    assert len(figure.axes[2].images) == len(figure.axes[3].images) == 1


@pytest.mark.parametrize("shape", [(6,), (2, 3, 3), (1, 2, 3, 3)], ids=str)
def test_data_that_are_no_images_are_refused(shape):
    x = torch.zeros(4, *shape)
    for draw in (
        plots.samples,
        lambda x: plots.reconstructions(x, x),
        lambda x: plots.interpolations(x[None]),
    ):
        with pytest.raises(InputError, match="are no images"):
            draw(x)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_says_the_format_and_folders_are_made(suffix, start, tmp_path):
    path = plots.save(Figure(), tmp_path / "figures" / f"figure.{suffix}")
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    def disk_full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = plots.save(Figure(), tmp_path / "figure.png")
    former = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full)
        with pytest.raises(OSError, match="No space left"):
            plots.save(plots.samples(torch.zeros(3, 1, 8, 8)), path)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]
