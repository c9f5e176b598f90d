"""What is refused before training or evaluation, and what is said about it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae.checks import (
    check_data,
    check_finite,
    check_gradients,
    check_pair,
    data_plate_problem,
    explain_non_finite,
    statistics,
)
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.programs import run_pair


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


# Data


def test_sound_data_pass():
    check_data(torch.rand(3, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0], "the data are a list, not a tensor: use torch.as_tensor"),
        (torch.rand(3), r"shape \(3,\); expected at least one datum, \(N, \*x_shape\)"),
        (torch.rand(0, 3), r"shape \(0, 3\); expected at least one datum"),
        (torch.rand(3, 0), r"shape \(3, 0\)"),
        (torch.zeros(3, 2, dtype=torch.uint8), r"type torch\.uint8.*x\.float\(\) / 255"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), "2 of 3 data .*the first is datum 1"),
    ],
    ids=["list", "numbers", "empty", "no pixels", "bytes", "nan"],
)
def test_data_that_no_model_can_use_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        check_data(x)


def test_classes_must_be_as_many_as_the_data():
    with pytest.raises(InputError, match="3 data and 2 classes"):
        check_data(torch.rand(3, 2), torch.zeros(2))


# Pairs


def test_a_sound_pair_passes():
    check_pair(*pair(bernoulli), torch.ones(4, 3))


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (
            bernoulli,
            torch.full((4, 3), 0.25),
            r"4 of 4 data .*Bernoulli likelihood at site 'x' \(values from 0.25",
        ),
        (bernoulli, torch.full((4, 3), 0.25), r"transform=pyrovae\.data\.binarise.*ContinuousBernoulli"),
        (
            lambda z: dist.ContinuousBernoulli(logits=torch.zeros(len(z), 3)),
            torch.tensor([[0.5, 0.5, 0.5], [0.0, 7.0, 1.0]]),
            r"1 of 2 data .*\(values from 0 to 7 in the first of them\).*lie in \[0, 1\]: scale them",
        ),
        (
            lambda z: dist.Categorical(logits=torch.zeros(len(z), 3, 256)),
            torch.full((2, 3), 256.0),
            r"the levels 0, 1, \.\.\., 255: convert grey values with pyrovae\.data\.to_levels",
        ),
        (
            lambda z: dist.Exponential(torch.ones(len(z), 3)),
            -torch.ones(2, 3),
            "Exponential likelihood .*its values must satisfy",
        ),
    ],
)
def test_values_outside_of_the_likelihoods_support_are_refused_with_a_remedy(likelihood, x, message):
    with pytest.raises(InputError, match=message):
        check_pair(*pair(likelihood), x)


def test_values_outside_of_a_support_without_event_dimensions_are_refused():
    with pytest.raises(InputError, match=r"1 of 4 data .*\(values from 0.5 to 0.5"):
        check_pair(
            *pair(lambda z: dist.Bernoulli(logits=torch.zeros(len(z))), x_event=0),
            torch.tensor([0, 1, 0.5, 0]),
        )


def test_data_of_another_shape_than_the_model_makes_are_refused():
    with pytest.raises(InputError, match=r"makes data of shape \(3,\) at site 'x', but was given \(4,\)"):
        check_pair(*pair(bernoulli), torch.ones(2, 4))


def test_a_latent_that_the_guide_lacks_is_named():
    with pytest.raises(InputError, match=r"no site for the model's latent 'z' \(it has 'code'\)"):
        check_pair(*pair(bernoulli, latent="code"), torch.ones(2, 3))


def test_a_program_that_does_not_run_is_reported_with_the_datas_shape():
    def broken(x):
        raise ValueError("matrices do not fit")

    _, guide = pair(bernoulli)
    with pytest.raises(InputError, match=r"do not run on data of shape \(2, 3\): matrices do not fit"):
        check_pair(broken, guide, torch.ones(2, 3))


def test_pyros_list_of_shapes_is_left_out_of_the_librarys_own_messages(make_vae):
    vae = make_vae()
    with pytest.raises(InputError) as caught:
        check_pair(vae.model, vae.guide, torch.ones(2, 1, 5, 5))
    assert "\n" not in str(caught.value)


def test_checking_draws_nothing_into_the_parameters_and_keeps_the_mode(make_vae, binary_images):
    vae = make_vae().train()
    check_pair(vae.model, vae.guide, binary_images)
    assert vae.training
    assert all(value.grad is None for value in vae.parameters())


# Gradients


def test_idle_unknown_and_missing_parameters_are_told_apart():
    used, idle, unknown = (nn.Parameter(torch.ones(size)) for size in (1, 2, 3))
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    check_gradients(used.sum(), {"used": used, "frozen": frozen})
    with pytest.raises(InputError, match="no gradient reaches idle:"):
        check_gradients(used.sum(), {"used": used, "idle": idle})
    with pytest.raises(InputError, match=r"1 parameters that are unknown to fit \(shapes \(3,\)\)"):
        check_gradients(used.sum() + unknown.sum(), {"used": used})
    with pytest.raises(InputError, match="no parameter to train"):
        check_gradients(torch.ones(()), {"frozen": frozen})


def test_a_detached_loss_reaches_nothing():
    used = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="no gradient reaches used"):
        check_gradients(used.detach().sum(), {"used": used})


# Numbers that are not finite


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
    message = str(explain_non_finite("the loss of step 5", model, guide, (torch.ones(4, 3),)))
    assert "the loss of step 5 is not finite" in message
    assert "the model's site 'x' (Normal)" in message
    assert "loc: shape (4, 3), 12 NaN, 0 infinite of 12" in message
    assert "scale: shape (4, 3), from 2 to 2, mean 2, 0 NaN" in message


def test_of_probs_and_logits_only_the_one_that_was_given_is_described():
    logits = torch.full((4, 3), math.nan)
    model, guide = pair(lambda z: dist.Bernoulli(logits=logits, validate_args=False))
    message = str(explain_non_finite("the loss", model, guide, (torch.ones(4, 3),)))
    assert "logits: " in message
    assert "probs: " not in message


def test_a_loss_that_only_overflows_as_a_sum_is_said_to():
    model, guide = pair(bernoulli)
    assert "its sum overflowed" in str(explain_non_finite("the loss", model, guide, (torch.ones(4, 3),)))


# Plates


def test_a_site_outside_of_the_datas_plate_is_named():
    def without(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", bernoulli(z.expand(len(x), 2)).to_event(2), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.ones(4, 3)
    trace, _ = run_pair(without, guide, x)
    assert "site 'z' is not under a plate of 4 data at dimension -1" in data_plate_problem(trace, 4)
    trace, _ = run_pair(*pair(bernoulli), x)
    assert data_plate_problem(trace, 4) is None
