"""Results print as what a person wants to read, and notebooks show them as small tables."""

import math
import re
import sys
from html import unescape

import pytest
import torch
from tqdm.auto import tqdm

from pyrovae import small_tables
from pyrovae.compute.progress import progress_bar
from pyrovae.errors import InputError
from pyrovae.evaluation import (
    Classification,
    active_units,
    class_probabilities,
    classify,
    compare,
    gradient_variance,
    impute,
    inference_gaps,
    kl_decomposition,
    marginal_likelihood,
)
from pyrovae.models import PPCA
from pyrovae.objectives import ELBO
from pyrovae.recipes import About, Training, vae
from pyrovae.training import History

pytestmark = pytest.mark.filterwarnings("ignore:k-hat is above")


def cells(text):
    """The cells of a table in HTML, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


@pytest.fixture
def pair():
    return PPCA((4,), 2)


@pytest.fixture
def x():
    return torch.randn(20, 4)


def test_a_table_shows_text_as_it_is():
    text = small_tables.html(["", "a < b"], [["<script>", 1.5]], "R & D", ["a note"])
    assert cells(text) == [["", "a < b"], ["<script>", "1.5"]]
    assert "<script>" not in text
    assert "R &amp; D" in text
    assert text.endswith("<div>a note</div>")


def test_columns_of_words_begin_at_the_left_and_numbers_end_at_the_right():
    lines = small_tables.text(
        ["unit", "KL", "note"], [["z[0]", "12.5", ""], ["z[10]", "0.1", "idle"]], [0, 2]
    )
    assert lines == ["unit     KL  note", "z[0]   12.5", "z[10]   0.1  idle"]


def test_the_evidence_is_a_table_with_both_errors(pair, x):
    result = marginal_likelihood(pair, x, num_samples=50)
    heading, evidence, elbo, *bounds = cells(result._repr_html_())
    assert heading == ["", "nats per datum", "± Monte Carlo", "± choice of data"]
    assert evidence[:2] == ["log p(x)", f"{result.mean:.3f}"]
    assert elbo[:2] == ["ELBO", f"{result.elbo:.3f}"]
    assert [row[0] for row in bounds] == [f"L_{k}" for k in result.bounds if k > 1]
    assert "k-hat" in result._repr_html_()


def test_models_that_are_compared_are_a_table_without_their_ranks(x):
    pairs = {"one": PPCA((4,), 1), "two": PPCA((4,), 2)}
    found = compare({name: marginal_likelihood(pair, x, num_samples=40) for name, pair in pairs.items()})
    heading, *rows = cells(found._repr_html_())
    assert heading[:2] == ["model", "log p(x)"]
    assert [row[:2] for row in rows] == [[model.name, f"{model.mean:.3f}"] for model in found.models]


def test_gaps_units_and_parts_of_the_kl_are_tables(pair, x):
    gaps = inference_gaps(pair, x[:3], num_samples=50, steps=2)
    rows = {row[0]: row[1] for row in cells(gaps._repr_html_())}
    assert rows["approximation"] == f"{gaps.mean('approximation'):.3f}"
    units = active_units(pair, x)
    row = cells(units._repr_html_())[1]
    assert row[:2] == ["z", f"{units.counts['z']} of 2"]
    assert [float(v) for v in row[2].split(", ")] == sorted(
        (float(v) for v in row[2].split(", ")), reverse=True
    )
    kl = kl_decomposition(pair, x, num_samples=3)
    assert cells(kl._repr_html_())[1] == [
        "averaged KL",
        f"{kl.average_kl:.3f}",
        f"{kl.std_error['average_kl']:.3f}",
    ]


def test_noise_of_gradients_prints_in_one_line_and_has_a_row_for_each_parameter(pair, x):
    result = gradient_variance(ELBO(), pair, x, repeats=3)
    assert f"total variance {result.total_variance:.4g}" in str(result)
    rows = cells(result._repr_html_())[1:]
    assert [row[0] for row in rows] == list(result.mean)
    parts = sum(float(row[2]) for row in rows)
    assert parts == pytest.approx(result.total_variance, rel=1e-2)


def test_a_classification_tells_its_errors_by_class(make_m2, binary_images):
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.8, 0.1, 0.1]])
    result = Classification(probabilities, torch.tensor([0, 1, 1, 0]), ("cat", "dog", "eel"))
    assert result.error_rate == pytest.approx(25)
    assert result.balanced_accuracy == pytest.approx(75)  # 2 of 2 cats, 1 of 2 dogs, and no eel to judge
    assert result.log_loss == pytest.approx(-math.log(0.7 * 0.5 * 0.3 * 0.8) / 4)
    assert result.counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    first, cat, *_ = str(result).splitlines()
    assert "error 25.00 % of 4 data, balanced accuracy 75.00 %" in first
    assert cat == "cat: 100.0 % of 2 right"
    assert cells(result._repr_html_())[1:] == [
        ["cat", "2", "100.0 %"],
        ["dog", "2", "50.0 %"],
        ["eel", "0", ""],
    ]
    m2, x = make_m2(), binary_images.double()
    y = torch.arange(len(x)) % 3
    assert torch.equal(classify(m2, x, y).probabilities, class_probabilities(m2, x).cpu())
    with pytest.raises(InputError, match="y holds the class 3; the pair has 3 classes"):
        classify(m2, x, y + 1)
    with pytest.raises(InputError, match="class_names has 2 names; the pair has 3 classes"):
        classify(m2, x, y, class_names=["a", "b"])


def test_imputed_values_stand_with_their_spread_beside_observed_ones(pair, x):
    observed = torch.ones(20, 4, dtype=torch.bool)
    observed[5, 2] = False
    result = impute(pair, x, observed, num_samples=50)
    _, (name, *values) = cells(result._repr_html_())
    assert name == "datum 5"
    assert values[0] == f"{x[5, 0]:.4g}"
    assert values[2] == f"{result.x[5, 2]:.3g} ± {result.std[5, 2]:.2g}"


def many(epochs):
    rows = [{"elbo": -50.0 + n, "epoch": n + 1, "beta": 1.0, "seconds": 2.0} for n in range(epochs)]
    return History(rows, best_epoch=10)


def test_a_long_history_prints_its_ends_and_its_best_epoch():
    lines = str(many(30)).splitlines()
    assert lines[0] == many(30).outcome()
    assert lines[1].split() == ["epoch*", "elbo", "beta"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "...", "10*", "...", "28", "29", "30"]
    assert lines[6].split() == ["10*", "-41.00", "1"]
    assert [row[0] for row in cells(many(30)._repr_html_())][:4] == ["epoch*", "1", "2", "3"]
    assert str(History()) == "no epoch yet"


def test_a_history_is_a_table_of_pandas(monkeypatch):
    frame = many(12).table()
    assert frame.index.tolist() == [*range(1, 13)]
    assert frame["elbo"].iloc[-1] == -39.0
    assert frame.columns.tolist() == ["elbo", "beta", "seconds"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas.*pip install pandas.*history.rows"):
        many(2).table()


@pytest.mark.verdict
def test_a_trained_plan_tells_its_recipe_options_and_outcome():
    x = torch.rand(40, 6).round()
    fitted = vae(About.of(x), latent_dim=2, width=8).fit(x, training=Training(epochs=1), device="cpu")
    first, *others = str(fitted).splitlines()
    assert first == "plan of the recipe vae"
    assert "latent_dim 2" in str(fitted)
    assert "stages   : model (VAE)" in others
    assert f"model    : {fitted.history.outcome()}" in others
    assert str(fitted.verdict) in str(fitted)
    assert fitted.history.outcome() in unescape(fitted._repr_html_())


def test_progress_is_shown_as_the_place_allows():
    with progress_bar(False, 3, "step") as bar:
        assert isinstance(bar, tqdm)  # a widget in a notebook, else a line of text
