"""The density of observed elements: a product over them, whatever stands where a value is missing."""

import pyro.distributions as dist
import pytest
import torch

from pyrovae.distributions import ContinuousBernoulli, filled, masked
from pyrovae.errors import InputError
from pyrovae.programs.distributions import base_of

OBSERVED = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])


def by_name(parameter):
    """Distributions of shape (3, 3) over three elements, with a value of their support."""
    positive = parameter.exp()
    return {
        "normal": (dist.Normal(parameter, 0.5), 0.3),
        "heavy tails": (dist.StudentT(3.0, parameter, 0.5), 0.3),
        "bernoulli": (dist.Bernoulli(logits=parameter), 1.0),
        "levels": (dist.Categorical(logits=parameter.unsqueeze(-1) * torch.arange(4.0)), 2),
        "gamma": (dist.Gamma(positive / 9, positive), 0.7),  # its density at 0 is infinite
        "beta": (dist.Beta(positive / 9, positive), 0.4),
        "log-normal": (dist.LogNormal(parameter, 0.5), 0.7),
        "poisson": (dist.Poisson(positive), 3.0),
        "grey": (ContinuousBernoulli(logits=parameter), 0.4),
        "far from 0": (dist.Uniform(2 + positive, 9 + 2 * positive), 5.5),
    }


@pytest.mark.parametrize("missing", [torch.nan, torch.inf, -1.0, 0.0])
@pytest.mark.parametrize("family", by_name(torch.zeros(3, 3)))
def test_only_observed_elements_count(family, missing):
    parameter = torch.rand(3, 3, requires_grad=True)
    univariate, inside = by_name(parameter)[family]
    x = torch.full((3, 3), inside)
    if not x.is_floating_point():  # whole numbers have no NaN
        missing = -1
    by_hand = univariate.log_prob(x) * OBSERVED
    log_prob = masked(univariate.to_event(1), OBSERVED).log_prob(x.masked_fill(~OBSERVED, missing))
    torch.testing.assert_close(log_prob, by_hand.sum(1))
    gradients = [torch.autograd.grad(p.sum(), parameter, retain_graph=True)[0] for p in (log_prob, by_hand)]
    torch.testing.assert_close(*gradients)


def test_without_a_mask_nothing_changes():
    fn = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    assert masked(fn, None) is fn
    x = torch.randn(2, 3)
    assert filled(x, None) is x


def test_draws_and_moments_are_those_of_all_elements():
    fn = dist.Normal(torch.randn(3, 3), 2.0).to_event(1)
    other = masked(fn, OBSERVED)
    torch.testing.assert_close(other.mean, fn.mean)
    torch.testing.assert_close(other.variance, fn.variance)
    assert other.sample().shape == (3, 3)
    assert base_of(other) is fn.base_dist


def test_the_support_holds_for_observed_values_only():
    fn = masked(dist.Bernoulli(torch.full((3, 3), 0.5)).to_event(1), OBSERVED)
    x = torch.ones(3, 3).masked_fill(~OBSERVED, torch.nan)
    assert fn.support.check(x).all()
    assert fn.support.check(x.index_fill(1, torch.tensor([2]), 0.5)).tolist() == [False, True, False]


def test_copies_broadcast_against_the_mask():
    loc = torch.randn(7, 1, 3)
    x = torch.randn(3, 3)
    log_prob = masked(dist.Normal(loc, 1.0).to_event(1), OBSERVED).log_prob(x)
    torch.testing.assert_close(log_prob, (dist.Normal(loc, 1.0).log_prob(x) * OBSERVED).sum(-1))
    expanded = masked(dist.Normal(loc[0], 1.0).to_event(1), OBSERVED).expand((5, 3))
    by_hand = (dist.Normal(loc[0], 1.0).log_prob(x) * OBSERVED).sum(-1)
    torch.testing.assert_close(expanded.log_prob(x.where(OBSERVED, torch.nan)), by_hand.expand(5, 3))


@pytest.mark.parametrize(
    "fn",
    [
        dist.MultivariateNormal(torch.zeros(3, 3), torch.eye(3)),
        dist.OneHotCategorical(torch.ones(3, 3)),
        dist.Dirichlet(torch.ones(2, 3)).to_event(1),
    ],
    ids=lambda fn: type(base_of(fn)).__name__,
)
def test_elements_that_are_not_independent_are_refused(fn):
    with pytest.raises(InputError, match=f"a {type(base_of(fn)).__name__} with event shape .* Gaussian"):
        masked(fn, torch.ones(3, *fn.event_shape, dtype=torch.bool))


@pytest.mark.parametrize(
    ("observed", "found", "remedy"),
    [
        (OBSERVED.float(), "torch.float32", lambda mask, x: mask.bool()),
        (OBSERVED[0], r"\(3,\)", lambda mask, x: mask.expand(x.shape)),
        (OBSERVED.tolist(), "list", lambda mask, x: ~x.isnan()),
    ],
    ids=["floats", "one for all data", "list"],
)
def test_what_is_no_mask_of_the_elements_is_refused_with_a_remedy_that_works(observed, found, remedy):
    x, fn = torch.zeros(3, 3), dist.Normal(torch.zeros(3, 3), 1.0).to_event(1)
    for refuse in (lambda mask: filled(x, mask), lambda mask: masked(fn, mask)):
        with pytest.raises(InputError, match=f"observed .*{found}"):
            refuse(observed)
        refuse(remedy(observed, x))
