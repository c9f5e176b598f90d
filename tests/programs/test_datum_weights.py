"""A weight for each datum multiplies its bound."""

import pytest
import torch

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.models import PPCA
from pyrovae.objectives import ELBO
from pyrovae.programs.weighted import with_datum_weights
from pyrovae.recipes import About, Training, load_recipe, vae

pytestmark = pytest.mark.cpu


def test_the_bound_is_the_weighted_sum_of_the_bounds_of_the_data():
    """With the exact posterior as guide each draw of a datum's bound is its log p(x)."""
    torch.manual_seed(0)
    x, weight = torch.randn(12, 3) @ torch.randn(3, 3), torch.rand(12)
    ppca = PPCA(3, 1)
    ppca.fit_closed_form(x)
    loss = ELBO().evaluate(with_datum_weights(ppca), x, weight=weight).loss
    torch.testing.assert_close(-loss.double(), weight.double() @ ppca.log_evidence(x), rtol=1e-5, atol=1e-5)


def test_the_loss_of_a_plan_is_the_weighted_mean_over_the_data():
    """The first loss is sum_n w_n L_n / sum_n w_n with the same L_n for all weights."""
    torch.manual_seed(0)
    x, v = torch.rand(30, 5).round(), torch.rand(30) + 0.1
    settings = Training(epochs=1, batch_size=30, validation_fraction=0.0)

    def loss(weight):
        plan = vae(About.of(x), latent_dim=2, width=8)
        return plan.fit(x, weight=weight, training=settings).history.rows[0]["loss"]

    of_sum = loss(1 + v) * (1 + v).sum()
    assert of_sum == pytest.approx(float(30 * loss(torch.ones(30)) + v.sum() * loss(v)), rel=1e-5)
    assert loss(None) == pytest.approx(loss(torch.ones(30)), rel=1e-6)
    assert loss(v) == pytest.approx(loss(7 * v), rel=1e-6)


def test_weights_go_with_their_data_when_some_are_held_out(monkeypatch):
    """The programs get the weight of each datum, in training and in validation."""
    seen = {}
    x, weight = torch.rand(30, 5), torch.rand(30) + 0.1

    def keep(pair, x, y, *, given, validation, **settings):
        seen["training"], seen["validation"] = (x, given), validation
        return fit(pair, x, y, given=given, validation=validation, **settings)

    monkeypatch.setattr("pyrovae.recipes.fitting.fit", keep)
    settings = Training(epochs=1, validation_fraction=0.3)
    vae(About.of(x), latent_dim=2, width=8).fit(x, weight=weight, training=settings)
    of = {tuple(row): float(w) for row, w in zip(x.tolist(), weight, strict=True)}
    assert len(of) == 30, "no datum is there twice"
    for some, given in seen.values():
        expected = torch.tensor([of[tuple(row)] for row in some.tolist()])
        torch.testing.assert_close(given["weight"], expected / expected.mean())
    assert len(seen["validation"][0]) == 9


@pytest.mark.parametrize("model", ["m2", "pcvae", "cpcvae"])
def test_models_with_classes_take_weights_and_missing_values(model):
    """What stands for a missing value has no effect but on the frequencies at which training starts."""
    torch.manual_seed(0)
    x, y = torch.rand(30, 5).round(), torch.arange(30) % 3
    y[15:], observed = -1, torch.rand(30, 5) > 0.4
    other = x.clone()
    for column, known in zip(other.T, observed.T, strict=True):
        column[~known] = column[~known].roll(1)
    assert not x.equal(other)
    small = {"latent_dim": 2, "width": 8, "vae_epochs": 1, "spread": False}
    how = {"given": {"observed": observed}, "weight": torch.rand(30) + 0.1}
    settings = Training(epochs=1, batch_size=30)
    histories = [
        load_recipe(model)(About.of(x, y), **small).fit(given, y, training=settings, **how).history
        for given in (x, other)
    ]
    assert histories[0].rows[0]["loss"] == histories[1].rows[0]["loss"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weight": torch.ones(4)}, r"weight is \(4,\); expected .* each of the 5 data"),
        ({"weight": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])}, "finite numbers above 0.*leave data of"),
        ({"given": {"observed": [True] * 5}}, "observed is list; expected a tensor"),
        ({"weight": torch.ones(5), "folder": "run"}, "weight is given, but a run folder does not hold it"),
        ({"given": {"colour": torch.ones(5)}}, "given has 'colour', which the model does not take"),
    ],
)
def test_what_does_not_fit_is_refused(how, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.rand(5, 4).round()
    with pytest.raises(InputError, match=message):
        vae(About.of(x), latent_dim=2, width=8).fit(x, training=Training(epochs=1), **how)
    assert not [*tmp_path.iterdir()]


def test_programs_show_their_arguments_and_the_weight():
    pair = with_datum_weights(PPCA(3, 1))
    with pytest.raises(InputError, match="needs its argument 'weight'"):
        fit(pair, torch.randn(5, 3), epochs=1, progress=False)
    with pytest.raises(InputError, match="'c', which the model does not take"):
        fit(pair, torch.randn(5, 3), given={"weight": torch.ones(5), "c": 1}, epochs=1, progress=False)
