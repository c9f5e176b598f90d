"""Draws that are copied, reshaped and scored again keep their density, or the guide is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyrovae.errors import InputError
from pyrovae.evaluation import gradient_variance, inference_gaps, kl_decomposition, marginal_likelihood
from pyrovae.flows import InverseAutoregressive
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, IWAE, ScoreFunctionELBO
from pyrovae.posteriors import FlowPosterior, FullCovarianceNormal
from pyrovae.programs.pair import Pair
from pyrovae.programs.values import changed

TEMPERATURE = torch.tensor(0.7).double()


def double(*values):
    return torch.tensor(values, dtype=torch.double)


X = double([0.3, -1.0], [2.0, 0.5], [-0.4, 1.5])
PRIOR, MEANS = double(0.5, 0.2, 0.3), double([0.0, 1.0], [2.0, 0.0], [-1.0, -1.0])


# Straight-through draws: a one-hot class and bits


def classes(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, probs=PRIOR))
        pyro.sample("x", dist.Normal(y @ MEANS, 1.0).to_event(1), obs=x)


def class_logits(x):
    return (x @ MEANS.T + PRIOR.log()) * 0.8


def guide_of_classes(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, logits=class_logits(x)))


def bits(x):
    prior = dist.RelaxedBernoulliStraightThrough(TEMPERATURE, probs=double(0.3, 0.6)).to_event(1)
    with pyro.plate("data", len(x)):
        pyro.sample("y", prior)
        pyro.sample("x", dist.Normal(x.new_zeros(2), 1.0).to_event(1), obs=x)


def guide_of_bits(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=x).to_event(1))


def relaxed_kls(q, p, draws):
    """Estimates of the averaged KL and its parts from the relaxed densities, and their errors."""
    z = q.sample((draws,))
    each = torch.stack([q.log_prob(z[:, n, None]) for n in range(len(X))], 1)  # (draws, n, m)
    own = each.diagonal(dim1=1, dim2=2)
    aggregated = each.logsumexp(-1) - math.log(len(X))
    terms = {
        "average_kl": own - p.log_prob(z),
        "mutual_information": own - aggregated,
        "marginal_kl": aggregated - p.log_prob(z),
    }
    return {
        name: (values.mean().item(), values.std().item() / draws**0.5) for name, values in terms.items()
    }


@pytest.mark.parametrize("kind", ["classes", "bits"])
def test_the_kl_of_straight_through_draws_is_that_of_their_relaxed_values(kind):
    if kind == "classes":
        pair, q = Pair(classes, guide_of_classes), dist.RelaxedOneHotCategorical
        q, p = q(TEMPERATURE, logits=class_logits(X)), q(TEMPERATURE, probs=PRIOR)
    else:
        pair, q = Pair(bits, guide_of_bits), dist.RelaxedBernoulli
        q, p = (
            q(TEMPERATURE, logits=X).to_event(1),
            q(TEMPERATURE, probs=double(0.3, 0.6)).to_event(1),
        )
    result = kl_decomposition(pair, X, num_samples=3000)
    for name, (value, error) in relaxed_kls(q, p, draws=10_000).items():
        assert abs(getattr(result, name) - value) < 4.5 * math.hypot(result.std_error[name], error), name
    # Bits are independent, and their KLs add up.
    assert (result.total_correlation is None) == (kind == "classes")


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_the_evidence_of_straight_through_draws_is_the_sum_over_classes():
    result = marginal_likelihood(Pair(classes, guide_of_classes), X, num_samples=5000)
    log_joint = dist.Normal(MEANS, 1.0).to_event(1).log_prob(X[:, None]) + PRIOR.log()
    assert ((result.log_px - log_joint.logsumexp(-1)).abs() < 4.5 * result.std_error).all()


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(
    "rows", [-1, 3]
)  # -1: any number of data, as rows; 3: three data, one copy at a time
def test_straight_through_draws_keep_their_density_whatever_way_copies_run(rows):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, probs=PRIOR))
            means = (y @ MEANS).view(rows, 1, 2).squeeze(1)  # refuses leading dimensions
            pyro.sample("x", dist.Normal(means, 1.0).to_event(1), obs=x)

    own_way = marginal_likelihood(Pair(model, guide_of_classes), X, num_samples=50)
    leading = marginal_likelihood(Pair(classes, guide_of_classes), X, num_samples=50)
    torch.testing.assert_close(own_way.log_px, leading.log_px)
    assert own_way.log_px.isfinite().all()


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_the_best_straight_through_guide_is_searched_at_its_temperature():
    result = inference_gaps(Pair(classes, guide_of_classes), X, num_samples=1000, steps=10)
    log_joint = dist.Normal(MEANS, 1.0).to_event(1).log_prob(X[:, None]) + PRIOR.log()
    assert ((result.log_px - log_joint.logsumexp(-1)).abs() < 4.5 * result.std_error["log_px"]).all()
    # Bits of which x says nothing: the best guide is the prior, whatever the guide is.
    free = inference_gaps(Pair(bits, guide_of_bits), X, num_samples=1000, steps=60, learning_rate=0.2)
    exact = dist.Normal(0.0, 1.0).log_prob(X).sum(-1)
    assert (free.log_px - exact).abs().max() < 0.02
    assert (free.approximation < 0.05).all()
    assert (free.amortisation > 0.05).all()


def test_a_distribution_whose_arguments_are_not_known_is_refused():
    class Shifted(dist.Normal):
        def __init__(self, loc, scale, shift, validate_args=None):
            super().__init__(loc + shift, scale, validate_args=validate_args)

        def expand(self, batch_shape, _instance=None):
            return Shifted(self.loc.expand(batch_shape), self.scale.expand(batch_shape), 0.0)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Shifted(x, 1.0, 0.5).to_event(1))

    with pytest.raises(InputError, match=r"'z' has a Shifted.* attributes hold its other arguments"):
        inference_gaps(Pair(coded(None, 2).model, guide), X, num_samples=10)


@pytest.mark.parametrize("objective", [ELBO(), IWAE(5), IWAE(5, True), ScoreFunctionELBO()])
def test_the_variance_of_straight_through_gradients_is_finite(objective):
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(3).double())

        def forward(self, x):
            logits = self.logits.expand(len(x), 3)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, logits=logits))

    # The gradients are biased, as straight-through gradients are, so no two estimators agree in the mean.
    found = gradient_variance(objective, Pair(classes, Guide()), X, repeats=10)
    assert math.isfinite(found.total_variance)
    assert found.total_variance > 0


def test_copies_of_a_draw_are_scored_like_the_draw():
    fn = dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=double(0.1, -2.0, 3.0))
    one, other = fn.rsample(), fn.rsample()
    both = changed(lambda *draws: torch.stack(draws)[:, [2, 0]], one, other)
    expected = torch.stack([fn.log_prob(one), fn.log_prob(other)])[:, [2, 0]]
    picked = dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=double(3.0, 0.1))
    torch.testing.assert_close(picked.log_prob(both), expected)
    assert not hasattr(changed(torch.clone, torch.ones(3)), "_unquantize")


# Two densities of one draw


def coded(posterior, latent_dim):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("posterior", posterior)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return Pair(model, guide)


def full_covariance(scale):
    """A posterior in 40 dimensions whose triangular factors have random entries of this size."""
    posterior = FullCovarianceNormal(MLP(3, 8, hidden=(8,)), 40)
    with torch.no_grad():
        posterior.scale_tril.bias.normal_(0, scale)
    return posterior


def test_an_ill_conditioned_covariance_is_refused_in_32_bit_and_right_in_64_bit():
    x = torch.randn(8, 3)
    posterior = full_covariance(2.0)
    with pytest.raises(InputError, match=r"draws of 'z' .* when it scores them again .* use 64-bit"):
        kl_decomposition(coded(posterior, 40), x, num_samples=20)
    posterior, x = posterior.double(), x.double()
    result = kl_decomposition(coded(posterior, 40), x, num_samples=200)
    prior = dist.Normal(x.new_zeros(40), 1.0).to_event(1)
    covariance = posterior(x).scale_tril @ posterior(x).scale_tril.mT
    exact = 0.5 * (
        covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        + posterior(x).mean.square().sum(-1)
        - 40
        - 2 * posterior(x).scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    )
    assert prior.event_shape == (40,)
    assert abs(result.average_kl - exact.mean().item()) < 4.5 * result.std_error["average_kl"]


def test_a_covariance_that_is_not_ill_conditioned_is_right_in_32_bit():
    x = torch.randn(8, 3)
    posterior = full_covariance(0.1)
    result = kl_decomposition(coded(posterior, 40), x, num_samples=200)
    q = dist.MultivariateNormal(posterior(x).mean, scale_tril=posterior(x).scale_tril)
    p = dist.MultivariateNormal(torch.zeros(40), torch.eye(40)).expand((8,))
    exact = kl_divergence(q, p).mean().item()
    assert abs(result.average_kl - exact) < 4.5 * result.std_error["average_kl"]


def test_the_inverse_of_a_flow_is_exact_enough(make_vae, binary_images):
    vae = make_vae()
    posterior = FlowPosterior(MLP((1, 4, 4), 6, hidden=(8,)), 2, InverseAutoregressive(2))
    result = kl_decomposition(VAE(vae.prior, vae.likelihood, posterior), binary_images, num_samples=5)
    assert math.isfinite(result.average_kl)


def test_a_guide_with_random_numbers_of_its_own_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            noise = torch.randn(len(x), 2).double()
            pyro.sample("z", dist.Normal(x[:, :2] + noise, 0.5).to_event(1))

    pair = Pair(coded(None, 2).model, guide)
    with pytest.raises(InputError, match=r"random numbers of its own: draw them with pyro\.sample"):
        kl_decomposition(pair, X, num_samples=5)
