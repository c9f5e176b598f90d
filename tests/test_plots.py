"""Figures: what is drawn where, and that a file is written whole or not at all."""

import errno
import os

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrovae.diagrams.diagram import plate_diagram
from pyrovae.errors import InputError
from pyrovae.plots import figures as plots
from pyrovae.training import History


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


def test_learning_curves_show_the_importance_weighted_bound_where_it_was_trained():
    trained = history()
    for row in trained.rows:
        row["validation_bound"] = row["elbo"] + 2
    (axes,) = plots.learning_curves(trained).axes
    assert axes.lines[2].get_label() == "validation bound, importance-weighted"
    assert axes.lines[2].get_ydata().tolist() == [-48, -47, -46, -45, -44]


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


# Figures of conditional generation and of semi-supervised training


def labels_of(axes):
    return [t.get_text() for t in axes.get_xticklabels()], [t.get_text() for t in axes.get_yticklabels()]


def test_columns_are_labelled_in_their_middles():
    (axes,) = plots.image_grid(torch.zeros(1, 3, 1, 8, 8), column_labels=["a", "b", "c"]).axes
    assert labels_of(axes)[0] == ["a", "b", "c"]
    assert axes.get_xticks().tolist() == [4.5, 14.5, 24.5]


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


def semi_supervised_history():
    whole = history()
    for number, row in enumerate(whole.rows):
        row |= {
            "q(y | x)": -2.0 + number / 10,
            "consistency": -3.0,
            "weight of consistency": 5.0,
            "new": -1.0,
        }
        row |= {"kl": 5.0, "beta": 1.0, "seconds": 2.0, "validation_error": 3.0}
    return whole


def test_classification_terms_have_a_panel_of_their_own():
    bounds, terms = plots.learning_curves(semi_supervised_history()).axes
    assert len(bounds.lines) == 3
    assert terms.lines[0].get_ydata() == pytest.approx([-2, -1.9, -1.8, -1.7, -1.6])
    legend = [text.get_text() for text in terms.get_legend().get_texts()]
    assert legend[:3] == [
        "log q(y | x), labelled data",
        "Σ p(y | z) log p(y | z̄), unlabelled data",
        "new",
    ]
    assert "best epoch" in legend[3]
    assert terms.get_ylabel() == "nats per datum"
    assert len({line.get_linestyle() for line in terms.lines[:3]}) == 3
    assert len(plots.learning_curves(history()).axes) == 1


def test_the_overview_of_semi_supervised_training_has_the_panel_too(make_vae, binary_images):
    vae = make_vae()
    diagram = plate_diagram(vae, binary_images)
    x = binary_images[:5]
    figure = plots.overview(diagram, semi_supervised_history(), binary_images[:20], (x, x, None), "A page")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 5
    assert titles[2].startswith("Classification terms")
