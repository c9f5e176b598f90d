"""Validation, the best epoch and early stopping."""

import math
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from training_helpers import X_SHAPE, frozen, same, train

from pyrovae.classifiers import LinearClassifier
from pyrovae.data import binarise
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import PCVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, IWAE
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

pytestmark = pytest.mark.cpu


def test_the_best_epoch_is_that_of_the_bound_that_is_trained(make_vae, binary_images):
    """With a small beta the ELBO itself falls while the weighted bound rises."""
    settings = {"validation": binary_images, "optimizer": partial(torch.optim.Adam, lr=0.05)}
    history = train(make_vae(), binary_images, epochs=40, beta=0.05, **settings)
    elbo, kl = history["validation_elbo"], history["validation_kl"]
    weighted = [bound + 0.95 * one for bound, one in zip(elbo, kl, strict=True)]
    assert history.best_epoch == weighted.index(max(weighted)) + 1 != elbo.index(max(elbo)) + 1


def test_with_importance_weights_epochs_compete_by_the_importance_weighted_bound(make_vae, binary_images):
    """It goes on rising where the ELBO of the same epochs falls."""
    vae = make_vae()
    train(vae, binary_images, epochs=120, batch_size=24, optimizer=partial(torch.optim.Adam, lr=0.08))
    settings = {"validation": binary_images, "objective": IWAE(1000), "epochs": 14}
    history = train(vae, binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    elbo, bound = history["validation_elbo"], history["validation_bound"]
    assert history.best_epoch == bound.index(max(bound)) + 1
    assert elbo[history.best_epoch - 1] < max(elbo) - 0.5


@pytest.mark.parametrize("double", [False, True])
def test_the_importance_weighted_bound_on_validation_data_is_that_of_a_sum_over_draws(
    double, make_vae, binary_images
):
    vae, x = make_vae().double(), binary_images.double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2.5)  # so that the weights vary
    objective = IWAE(7, doubly_reparameterised=double)
    history = train(vae, x[:10], epochs=1, validation=x, objective=objective, optimizer=frozen)
    with torch.no_grad():
        q = vae.posterior(x)
        z = q.sample((400, 7))
        log_w = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
        bounds, elbos = (log_w.logsumexp(1) - math.log(7)).mean(-1), log_w.mean((1, 2))
    assert abs(history["validation_bound"][0] - bounds.mean()) < 4 * bounds.std()
    assert abs(history["validation_elbo"][0] - elbos.mean()) < 4 * elbos.std()
    assert bounds.mean() - elbos.mean() > 8 * bounds.std()  # different numbers


def rates_on_plateau(bounds, rate):
    """What ReduceLROnPlateau(factor=0.5, patience=0, eps=0) makes of these bounds."""
    rates, best = [rate], -math.inf
    for bound in bounds:
        rates.append(rates[-1] * (1.0 if bound > best * (1 - 1e-4 * math.copysign(1, best)) else 0.5))
        best = max(best, bound)
    return rates[:-1]


def test_reduce_on_plateau_follows_the_bound_by_which_epochs_compete(make_vae, binary_images):
    """With a small beta the ELBO itself falls while the weighted bound rises."""
    scheduler = partial(ReduceLROnPlateau, factor=0.5, patience=0, eps=0.0)
    settings = {"epochs": 30, "scheduler": scheduler, "validation": binary_images, "beta": 0.05}
    history = train(make_vae(), binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    elbo, kl = history["validation_elbo"], history["validation_kl"]
    weighted = [bound + 0.95 * one for bound, one in zip(elbo, kl, strict=True)]
    assert history["learning_rate"] == pytest.approx(rates_on_plateau(weighted, 0.05))
    assert history["learning_rate"][-1] > 2 * rates_on_plateau(elbo, 0.05)[-1]


def test_reduce_on_plateau_follows_the_importance_weighted_bound(make_vae, binary_images):
    scheduler = partial(ReduceLROnPlateau, factor=0.5, patience=0, eps=0.0)
    settings = {"epochs": 30, "scheduler": scheduler, "validation": binary_images, "objective": IWAE(50)}
    history = train(make_vae(), binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    assert history["learning_rate"] == pytest.approx(rates_on_plateau(history["validation_bound"], 0.05))


def test_a_weighted_site_is_apart_from_the_validation_elbo_and_counts_among_competing_epochs():
    x = binarise(torch.rand(40, *X_SHAPE, generator=torch.Generator().manual_seed(0)))
    y = torch.arange(40) % 3
    y[30:] = -1  # two parts of the validation data
    torch.manual_seed(0)
    pcvae = PCVAE(
        StandardNormal(2),
        Bernoulli(MLP(2, X_SHAPE, hidden=(8,))),
        DiagonalNormal(MLP(X_SHAPE, 6, hidden=(8,)), 2),
        LinearClassifier(2, 3),
    )
    settings = {"y": y, "validation": (x, y), "optimizer": partial(torch.optim.Adam, lr=0.05), "epochs": 60}
    history = train(pcvae, x, weights={"y": 25.0}, **settings)
    elbo, log_py = history["validation_elbo"], history["validation_y"]
    weighted = [one + 25 * term for one, term in zip(elbo, log_py, strict=True)]
    assert history.best_epoch == weighted.index(max(weighted)) + 1 != elbo.index(max(elbo)) + 1
    # The same programs' ELBO without classes has no factor p(y | z); nor should theirs have.
    best = history.rows[history.best_epoch - 1]
    without = [-ELBO(500).loss(pcvae.model, pcvae.guide, x) / 40 for _ in range(2)]
    assert best["validation_elbo"] == pytest.approx(without[0], abs=40 * abs(without[0] - without[1]))
    with torch.no_grad():
        z = pcvae.posterior(x[:30]).sample((2000,))
        by_hand = pcvae.classifier(z).log_prob(y[:30]).mean(0).sum().item() / 40
    assert best["validation_y"] == pytest.approx(by_hand, abs=0.1)


def test_training_stops_early_and_puts_the_best_epochs_parameters_back(make_vae, binary_images, tmp_path):
    vae = make_vae()
    settings = {"validation": 1 - binary_images, "optimizer": partial(torch.optim.Adam, lr=0.1)}
    history = train(vae, binary_images, epochs=200, patience=4, **settings)
    bounds = history["validation_elbo"]
    assert history.stopped_early
    assert len(bounds) < 200
    assert history.best_epoch == bounds.index(max(bounds)) + 1 == len(bounds) - 4
    alone = make_vae()
    train(alone, binary_images, epochs=history.best_epoch, **settings)
    assert same(vae.state_dict(), alone.state_dict())


def test_without_patience_all_epochs_run_and_the_best_is_still_put_back(make_vae, binary_images):
    settings = {"validation": 1 - binary_images, "optimizer": partial(torch.optim.Adam, lr=0.1)}
    vae, alone = make_vae(), make_vae()
    history = train(vae, binary_images, epochs=25, **settings)
    assert not history.stopped_early
    assert len(history.rows) == 25
    assert history.best_epoch < 25
    train(alone, binary_images, epochs=history.best_epoch, **settings)
    assert same(vae.state_dict(), alone.state_dict())
