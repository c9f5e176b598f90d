"""Messages about numbers that are not finite."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import NonFiniteError
from pyrovae.programs.pair import Pair
from pyrovae.programs.rows import Arguments
from pyrovae.training.non_finite import check_finite, explain_non_finite, statistics

DATA = Arguments((torch.ones(4, 3),))


def pair(likelihood, x_event=1, latent="z", plate=True):
    """A model with the given likelihood, and a guide for its latent."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z).to_event(x_event), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(latent, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return model, guide


def bernoulli(z):
    return dist.Bernoulli(logits=torch.zeros(len(z), 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_that_are_not_finite_are_named(value):
    parameters = {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}
    with pytest.raises(NonFiniteError, match="after step 7 the parameters bad are not finite"):
        check_finite(parameters, 7)
    check_finite({"good": torch.ones(2)}, 7)


def test_statistics_are_of_the_finite_values():
    tensor = torch.tensor([[1.0, 3.0], [math.nan, math.inf]])
    assert statistics(tensor) == "shape (2, 2), from 1 to 3, mean 2, 1 NaN, 1 infinite of 4"
    assert statistics(torch.tensor([math.nan])) == "shape (1,), 1 NaN, 0 infinite of 1"


def test_the_first_bad_site_is_the_one_described():
    model, guide = pair(lambda z: dist.Normal(torch.full((len(z), 3), math.nan), 2.0, validate_args=False))
    message = str(explain_non_finite("the loss of step 5", Pair(model, guide), DATA))
    assert "the loss of step 5 is not finite" in message
    assert "the model's site 'x' (Normal)" in message
    assert "loc: shape (4, 3), 12 NaN, 0 infinite of 12" in message
    assert "scale: shape (4, 3), from 2 to 2, mean 2, 0 NaN" in message


def test_of_probs_and_logits_only_the_one_that_was_given_is_described():
    logits = torch.full((4, 3), math.nan)
    model, guide = pair(lambda z: dist.Bernoulli(logits=logits, validate_args=False))
    message = str(explain_non_finite("the loss", Pair(model, guide), DATA))
    assert "logits: " in message
    assert "probs: " not in message


def test_a_loss_that_only_overflows_as_a_sum_is_said_to():
    model, guide = pair(bernoulli)
    assert "sum overflowed" in str(explain_non_finite("the loss", Pair(model, guide), DATA))
