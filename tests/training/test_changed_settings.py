"""Resuming with other settings than at first: used and said, or refused. The plateau's direction."""

from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    ReduceLROnPlateau,
    StepLR,
)
from training_helpers import same, snapshot, train

from pyrovae.errors import CheckpointError
from pyrovae.objectives import IWAE
from pyrovae.schedules import linear_warm_up

pytestmark = pytest.mark.cpu


def at_rate(rate):
    return partial(torch.optim.Adam, lr=rate)


def resumed(vae, x, folder, first, then, message):
    train(vae, x, epochs=4, folder=folder, **first)
    with pytest.warns(UserWarning, match=message):
        return train(vae, x, epochs=8, folder=folder, resume=True, **then)


def test_a_new_learning_rate_is_used_and_said(make_vae, binary_images, tmp_path):
    first, then = {"optimizer": at_rate(1e-3)}, {"optimizer": at_rate(1e-5)}
    message = r"after epoch 4 with other settings .*: learning_rate 0.001 -> 1e-05\.$"
    history = resumed(make_vae(), binary_images, tmp_path, first, then, message)
    assert history["learning_rate"] == [1e-3] * 4 + [1e-5] * 4
    history = train(make_vae(), binary_images, epochs=9, folder=tmp_path, resume=True, **then)
    assert history["learning_rate"][-1] == 1e-5, "the next time it is what the run was begun with"


SCHEDULES = {
    "period": (partial(CosineAnnealingLR, T_max=4), partial(CosineAnnealingLR, T_max=8)),
    "kind": (partial(StepLR, step_size=2), partial(ExponentialLR, gamma=0.5)),
    "function": (
        partial(LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
        partial(LambdaLR, lr_lambda=lambda epoch: 0.8**epoch),
    ),
    "gamma": (partial(StepLR, step_size=1, gamma=0.9), partial(StepLR, step_size=1, gamma=0.5)),
    "none before": (None, partial(CosineAnnealingLR, T_max=8)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_another_schedule_is_used_as_from_the_beginning_and_said(name, make_vae, binary_images, tmp_path):
    before, after = SCHEDULES[name]
    expected = train(make_vae(), binary_images, epochs=8, scheduler=after)["learning_rate"]
    first, then = {"scheduler": before}, {"scheduler": after}
    history = resumed(make_vae(), binary_images, tmp_path, first, then, "scheduler ")
    assert history["learning_rate"][4:] == pytest.approx(expected[4:])


def test_another_rate_beside_the_same_schedule(make_vae, binary_images, tmp_path):
    schedule = {"scheduler": partial(CosineAnnealingLR, T_max=8)}
    first, then = schedule | {"optimizer": at_rate(1e-3)}, schedule | {"optimizer": at_rate(1e-5)}
    expected = train(make_vae(), binary_images, epochs=8, **then)["learning_rate"]
    message = r"beginning: learning_rate 0.001 -> 1e-05\.$"
    history = resumed(make_vae(), binary_images, tmp_path, first, then, message)
    assert history["learning_rate"][4:] == pytest.approx(expected[4:])


def test_another_plateau_sees_the_epochs_that_are_done(make_vae, binary_images, tmp_path):
    x = binary_images
    first = {"optimizer": at_rate(1.0), "validation": 1 - x, "seed": 2}
    then = first | {"scheduler": partial(ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.5)}
    history = resumed(make_vae(), x, tmp_path, first, then, "scheduler None -> ReduceLROnPlateau")
    # No epoch is an improvement by this threshold, so each one halves the rate.
    assert history["learning_rate"][4] == pytest.approx(0.5**4, rel=1e-6)


def test_beta_and_weights_may_change(make_vae, binary_images, tmp_path):
    first, then = {"beta": linear_warm_up(8)}, {"beta": 0.25, "weights": {"x": 2.0}}
    history = resumed(make_vae(), binary_images, tmp_path, first, then, r"beta .* -> .*; weights ")
    assert history["beta"][4:] == [0.25] * 4


def test_settings_that_are_the_same_are_not_spoken_of(make_vae, binary_images, tmp_path):
    def settings():  # made anew, as in another process
        return {
            "optimizer": at_rate(1e-2),
            "scheduler": partial(LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
            "beta": linear_warm_up(5),
            "weights": {"x": lambda epoch: 1.0 + epoch},
            "transform": lambda x: 1 - x,
        }

    train(make_vae(), binary_images, folder=tmp_path, **settings())
    train(make_vae(), binary_images, folder=tmp_path, resume=True, epochs=4, **settings())


def times(factor):
    return lambda x: x.mul(factor).round()


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({}, {"optimizer": partial(torch.optim.Adam, weight_decay=0.1)}, r"weight_decay = 0, not 0\.1"),
        ({}, {"optimizer": partial(torch.optim.Adam, eps=1e-3)}, "eps = 1e-08, not 0.001"),
        (
            {"transform": times(1.0)},
            {"transform": times(0.99)},
            r"transform = times.*what they keep differs",
        ),
        (
            {"transform": lambda x: x.round()},
            {"transform": lambda x: 1 - x.round()},
            r"transform = .*code .* differs",
        ),
        ({}, {"labelled_batch_size": None, "batch_size": 5}, "batch_size = 10, not 5"),
    ],
    ids=["weight_decay", "eps", "kept", "code", "size"],
)
def test_what_may_not_change_is_refused_by_name(first, then, message, make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path, **first)
    vae = make_vae(seed=1)
    before = snapshot(vae)
    with pytest.raises(CheckpointError, match=message):
        train(vae, binary_images, folder=tmp_path, resume=True, epochs=4, **then)
    assert same(vae.state_dict(), before)


# ReduceLROnPlateau


def rates_by_hand(bounds, rate, factor, tolerance=0.0):
    """The rate of each epoch if it is lowered after each epoch whose bound is no new best one."""
    best, rates = bounds[0], [rate, rate]
    for bound in bounds[1:]:
        rates.append(rates[-1] if bound > best + tolerance * abs(best) else rates[-1] * factor)
        best = max(best, bound)
    return rates[:-1]


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("rising", [False, True])
def test_a_plateau_lowers_the_rate_only_when_the_bound_does_not_rise(
    rising, mode, validated, make_vae, binary_images
):
    plateau = partial(ReduceLROnPlateau, mode=mode, patience=0, threshold=0.0, factor=0.9)
    rate = 0.1 if rising else 0.02
    sgd = partial(torch.optim.SGD, lr=rate, maximize=not rising)
    settings = {"scheduler": plateau, "validation": binary_images if validated else None}
    history = train(make_vae(), binary_images, epochs=8, optimizer=sgd, **settings)
    bounds = history["validation_elbo" if validated else "elbo"]
    assert (bounds[-1] > bounds[0]) == rising
    assert history["learning_rate"] == pytest.approx(rates_by_hand(bounds, rate, 0.9))
    assert (history["learning_rate"][-1] > 0.6 * rate) == rising, "most epochs go one way"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_by_the_importance_weighted_bound(mode, make_vae, binary_images):
    plateau = partial(ReduceLROnPlateau, mode=mode, patience=0, factor=0.5)
    settings = {"validation": binary_images, "objective": IWAE(5), "scheduler": plateau}
    history = train(make_vae(), binary_images, epochs=5, optimizer=at_rate(0.02), **settings)
    bounds = history["validation_bound"]
    assert history["learning_rate"] == pytest.approx(rates_by_hand(bounds, 0.02, 0.5, tolerance=1e-4))
