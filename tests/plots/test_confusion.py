"""The confusion matrix."""

import numpy as np
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities
from pyrovae.plots import confusion, confusion_matrix, latent_space

NAMES = ["cat", "dog", "eel"]


def test_the_confusion_matrix_counts_rows_by_truth_and_columns_by_prediction():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    for given in (predicted, torch.nn.functional.one_hot(predicted, 3) * 0.5 + 0.1):
        figure = confusion_matrix(y, given, NAMES)
        axes = figure.axes[0]
        shares = np.asarray(axes.images[0].get_array())
        assert shares == pytest.approx(np.array([[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]]))
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(0, 0): "3", (1, 0): "1", (1, 1): "1", (2, 1): "1", (2, 2): "1"}
        assert figure.get_suptitle() == "Confusion matrix:\n2 of 7 wrong, error 28.57%"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
        assert [text.get_text() for text in axes.get_xticklabels()] == NAMES


@pytest.mark.parametrize("size", [2, 3, 5, 8, 12])
def test_the_title_stands_clear_of_the_colour_bar_and_in_the_figure(size):
    figure = confusion_matrix(torch.arange(1000) % size, torch.zeros(1000, dtype=torch.long))
    figure.draw_without_rendering()
    title = figure.texts[0].get_window_extent()
    assert all(not title.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert title.x0 > 0
    assert title.x1 < figure.bbox.width
    assert title.y1 < figure.bbox.height


def test_a_class_that_never_occurs_has_an_empty_row():
    axes = confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0])).axes[0]
    assert np.asarray(axes.images[0].get_array()).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 data and 3 classes"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match="classes go from 0 to 5"):
        confusion_matrix(torch.tensor([0, 5]), torch.tensor([0, 1]), NAMES)


def test_a_pairs_own_classifier_is_drawn_in_one_call(make_m2, binary_images):
    m2, x = make_m2(), binary_images.double()
    y = torch.arange(len(x)) % 3
    wrong = int((class_probabilities(m2, x).argmax(-1) != y).sum())
    figure = confusion(m2, x, y, class_names=NAMES)
    axes = figure.axes[0]
    assert f"{wrong} of {len(x)} wrong" in figure.get_suptitle()
    assert [text.get_text() for text in axes.get_yticklabels()] == NAMES


def test_names_are_shown_as_they_are_and_long_ones_in_part():
    """A dollar sign begins a formula, and a legend leaves out what begins with an underscore."""
    names = ["a$b$c", "_rest", "bell\x07", 20 * "long" + "est"]
    figure = confusion_matrix(torch.arange(4), torch.arange(4), names)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == [r"a\$b\$c", " _rest", r"bell\x07", "longlonglonglonglon…onglongest"]
    figure.draw_without_rendering()
    scatter = latent_space(torch.randn(8, 2), torch.arange(8) % 4, names)
    legend = [text.get_text() for text in scatter.axes[0].get_legend().get_texts()]
    assert legend == shown
