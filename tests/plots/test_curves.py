"""Learning curves."""

import numpy as np
import pytest
import torch
from figures import history, semi_supervised_history

from pyrovae import plots
from pyrovae.errors import InputError
from pyrovae.models import CPCVAE, PPCA
from pyrovae.training import History

NAMES = ["cat", "dog", "eel"]


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


def points_of(axes):
    """The points along the curves of axes, on the page."""
    for line in axes.lines:
        if "epoch" not in line.get_label():
            points = line.get_transform().transform(np.column_stack(line.get_data()))
            steps = np.linspace(0, len(points) - 1, 400)
            yield from np.column_stack([np.interp(steps, range(len(points)), c) for c in points.T])


@pytest.mark.parametrize("kl", [[0, 9, 9, 9, 9], [9, 9, 9, 9, 9], [9, 5, 3, 2, 9], [0, 2, 5, 7, 9]])
@pytest.mark.parametrize("draw", ["history", "overview"])
def test_the_legend_of_the_kl_stands_clear_of_its_curves(kl, draw):
    trained = history()
    for number, row in enumerate(trained.rows):
        row |= {"kl": float(kl[number]), "reconstruction": row["elbo"] + kl[number], "beta": number / 4}
        row["validation_kl"] = kl[number] + 0.5
    if draw == "history":
        figure = plots.history(trained)
    else:
        figure = plots.overview(PPCA((3,), 2), torch.randn(20, 3), trained)
    figure.draw_without_rendering()
    (panel,) = (axes for axes in figure.axes if axes.get_title().startswith("KL"))
    (beta,) = (axes for axes in figure.axes if axes is not panel and axes.bbox.bounds == panel.bbox.bounds)
    box = panel.get_legend().get_window_extent()
    assert box.y1 <= panel.bbox.y1
    assert not any(box.contains(*point) for axes in (panel, beta) for point in points_of(axes))


def test_what_is_no_history_is_refused_with_what_to_give():
    pair = PPCA((3,), 2)
    for draw in (
        plots.history,
        plots.learning_curves,
        lambda h: plots.overview(pair, torch.zeros(4, 3), h),
    ):
        with pytest.raises(InputError, match=r"given a PPCA: give what fit returned, history = fit\("):
            draw(pair)
    with pytest.raises(InputError, match=r"given a PPCA: give what pyrovae\.evaluation\.compare returned"):
        plots.comparison(pair)


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


def test_what_lies_below_the_axis_is_said():
    rows = [{"epoch": n + 1, "elbo": -1234.0 if n == 0 else -50.0 + n / 100} for n in range(40)]
    (axes,) = plots.learning_curves(History(rows)).axes
    assert "below the axis: the first epoch, from -1,234" in axes.get_title()


@pytest.mark.parametrize("fallen", [slice(96, 100), slice(50, 51), slice(10, 12)], ids=str)
def test_only_the_first_descent_is_cut(fallen):
    elbo = [-26.0 + n / 100 for n in range(100)]
    elbo[fallen] = [-3000.0] * len(elbo[fallen])
    elbo[0] = -1e5
    rows = [{"epoch": n + 1, "elbo": value} for n, value in enumerate(elbo)]
    (axes,) = plots.learning_curves(History(rows)).axes
    low, high = axes.get_ylim()
    assert -1e4 < low < -3000 < -25.01 < high


def test_a_steady_rise_is_shown_from_its_beginning():
    (axes,) = plots.learning_curves(history(40, validation=False)).axes
    assert axes.get_ylim()[0] < -50
    assert axes.get_title() == "Learning curves: the bound"


def test_a_column_that_some_epochs_lack_is_drawn_where_it_is():
    trained = history()
    del trained.rows[0]["validation_elbo"]
    (axes,) = plots.learning_curves(trained).axes
    assert axes.lines[1].get_ydata()[1:].tolist() == [-50, -49, -48, -47]


def test_reconstruction_and_kl_have_panels_of_their_own():
    trained = history()
    for number, row in enumerate(trained.rows):
        row |= {"kl": 2.0 + number, "reconstruction": row["elbo"] + 2.0 + number, "beta": number / 4}
        row |= {"validation_kl": 3.0}
    bound, reconstruction, kl, beta = plots.history(trained).axes
    assert bound.lines[0].get_ydata().tolist() == [-50, -49, -48, -47, -46]
    of_training, of_validation, _ = reconstruction.lines
    assert of_training.get_ydata().tolist() == [-48, -46, -44, -42, -40]
    assert of_validation.get_ydata().tolist() == [-48, -47, -46, -45, -44]  # validation ELBO + KL
    assert kl.lines[0].get_ydata().tolist() == [2, 3, 4, 5, 6]
    assert kl.lines[1].get_ydata().tolist() == [3] * 5
    assert beta.lines[0].get_ydata().tolist() == [0, 0.25, 0.5, 0.75, 1]
    for row in trained.rows:
        row["beta"] = 1.0
    assert len(plots.history(trained).axes) == 3


def test_classification_terms_have_a_panel_of_their_own():
    labels = plots.term_labels(CPCVAE)
    bounds, *_, terms = plots.history(semi_supervised_history(), labels).axes
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
    assert len(plots.history(history()).axes) == 1


def test_a_term_without_a_declared_label_has_its_name():
    assert plots.term_labels(object()) == {}
    *_, terms = plots.history(semi_supervised_history()).axes
    legend = [text.get_text() for text in terms.get_legend().get_texts()]
    assert legend[:3] == ["log q(y | x), labelled data", "consistency", "new"]
