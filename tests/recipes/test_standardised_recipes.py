"""Recipes on vectors in raw units: units change nothing but the units."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from small_runs import train_small

from pyrovae.generation import latent_means, only_site, reconstruct, sample_images
from pyrovae.networks import Standardised
from pyrovae.recipes import About, Run, Training, load_recipe, options_of

# Powers of two, by which a multiplication does not round.
UNITS = torch.tensor([2.0**10, 2.0**-12, 1.0, 2.0])
TRAINING = Training(epochs=2, batch_size=30, validation_fraction=0.2)


def vectors(num_data=60):
    torch.manual_seed(5)
    y = torch.arange(num_data) % 3
    return torch.randn(num_data, 4) @ torch.randn(4, 4) + y[:, None] + 3, y


def small_plan(model, x, y, **options):
    recipe = load_recipe(model)
    sizes = {"latent_dim": 2, "width": 8, "vae_epochs": 1, "spread": False}
    if model not in ("ppca", "bnn"):
        options = {"likelihood": "gaussian"} | options
    known = options_of(recipe, options)
    return recipe(About.of(x, y), **{n: v for n, v in sizes.items() if n in known}, **options)


def trained(model, x, y, **options):
    return small_plan(model, x, y, **options).fit(x, y, training=TRAINING, device="cpu")


CASES = [
    *((model, {}) for model in ("vae", "hvae", "autoencoder", "ppca")),
    *((model, {}) for model in ("m2", "m1m2", "pcvae", "cpcvae", "cvae")),
    ("vae", {"posterior": "iaf", "flow_steps": 1}),
    ("vae", {"prior": "vamp", "components": 6}),
    ("m2", {"prior": "vamp", "components": 6}),
]


@pytest.mark.parametrize(("model", "options"), CASES)
def test_other_units_change_the_density_by_their_jacobian_and_nothing_else(model, options):
    x, y = vectors()
    own, other = trained(model, x, y, **options), trained(model, x * UNITS, y, **options)
    first = own.plan.stages[0].name  # for M1+M2 the stage whose data are x
    jacobian = UNITS.log().sum().item()
    for before, after in zip(own.histories[first].rows, other.histories[first].rows, strict=True):
        for column in {"elbo", "validation_elbo"} & before.keys():
            assert math.isclose(after[column], before[column] - jacobian, abs_tol=1e-4)
        assert math.isclose(after["kl"], before["kl"], abs_tol=1e-4)
    if model == "m1m2":  # M1 beneath shares one standardisation
        vae = own.pair.vae
        assert vae.likelihood.standardisation is vae.posterior.network.standardisation
    torch.testing.assert_close(
        samples_of(other, x * UNITS, y), samples_of(own, x, y) * UNITS, rtol=1e-4, atol=0
    )


def samples_of(fitted, x, y):
    """Generated data, or reconstructions where the model is given a class or cannot generate."""
    if fitted.plan.recipe in ("cvae", "autoencoder"):
        given = fitted.plan.stages[0].given
        return only_site(reconstruct(fitted.pair, x, given=None if given is None else given(x, y)))
    return only_site(sample_images(fitted.pair, 10, 3))


def test_likelihood_encoder_and_prior_share_the_statistics_of_the_training_part():
    x, y = vectors()
    fitted = trained("vae", x, y, prior="vamp", components=6)
    pair = fitted.pair
    shared = pair.likelihood.standardisation
    assert isinstance(pair.posterior.network, Standardised)
    assert pair.posterior.network.standardisation is pair.prior.standardisation is shared
    assert not torch.allclose(shared.shift, x.mean(0))  # a fifth is held out
    close = (shared.shift - x.mean(0)).abs() / x.std(0)
    assert close.max() < 0.5
    # The pseudo-inputs start as data, in the units of the data.
    plan = small_plan("vae", x * UNITS, y, prior="vamp", components=6)
    plan.stages[0].start(x * UNITS)
    distance = (plan.pair.prior.pseudo_inputs[:, None] / UNITS - x).abs().amax(-1)
    assert distance.amin(1).max() < 1e-4


@pytest.mark.parametrize("model", ["vae", "ppca"])
def test_images_and_vectors_with_the_option_off_stay_as_they_are(model):
    x, y = vectors()
    options = {} if model == "ppca" else {"likelihood": "gaussian"}
    for shape, chosen in (((1, 2, 2), {}), ((4,), {"standardise": False})):
        pair = small_plan(model, x.view(60, *shape), y, **options, **chosen).pair
        assert pair.likelihood.standardisation is None
        assert not any("standardisation" in name for name in pair.state_dict())
    with pytest.raises(ValueError, match="standardise needs likelihood gaussian"):
        small_plan("vae", x, y, likelihood="bernoulli", standardise=False)


@pytest.fixture
def wine(tmp_path):
    x, y = load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", x=x, y=y)
    return tmp_path / "wine.npz"


def test_a_run_keeps_the_standardisation_in_its_checkpoints(tmp_path, wine):
    run = train_small(tmp_path / "run", "vae", data={"data": str(wine)}, likelihood="gaussian")
    x_train, _, _ = run.training_data()
    kept = run.pair.likelihood.standardisation
    torch.testing.assert_close(kept.shift, x_train.mean(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(kept.scale, x_train.std(0, correction=0), rtol=1e-5, atol=0)
    before = latent_means(run.pair, run.images.x_test)
    run.resume(epochs=2, progress=False, device="cpu")
    again = Run.open(tmp_path / "run")
    assert torch.equal(latent_means(again.pair, run.images.x_test), before)
    assert torch.equal(again.pair.likelihood.standardisation.scale, kept.scale)


def test_probabilistic_pca_is_trained_in_the_units_of_the_data(tmp_path, wine):
    data, training = {"data": str(wine)}, {"epochs": 40}
    run = train_small(tmp_path / "run", "ppca", data, training, latent_dim=2)
    # Without a standardisation the evidence ends below -75, and the bound below -100,000.
    assert run.pair.log_evidence(run.images.x_test).mean() > -24
    assert run.history["validation_elbo"][-1] > -26
