"""Learning curves."""

import pytest
from figures import history, semi_supervised_history

from pyrovae import plots
from pyrovae.models import CPCVAE
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


def test_classification_terms_have_a_panel_of_their_own():
    labels = plots.term_labels(CPCVAE)
    bounds, terms = plots.learning_curves(semi_supervised_history(), labels=labels).axes
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


def test_a_term_without_a_declared_label_has_its_name():
    assert plots.term_labels(object()) == {}
    _, terms = plots.learning_curves(semi_supervised_history()).axes
    legend = [text.get_text() for text in terms.get_legend().get_texts()]
    assert legend[:3] == ["log q(y | x), labelled data", "consistency", "new"]
