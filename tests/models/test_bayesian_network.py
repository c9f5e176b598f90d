"""The Bayesian neural network: its bound, its posterior where there is a closed form, and its recipe."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae.data import load
from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities, error_rate
from pyrovae.models import BayesianNetwork
from pyrovae.networks import MLP, WithWeights
from pyrovae.objectives import ELBO
from pyrovae.posteriors import FreeNormal
from pyrovae.priors import IndependentNormal
from pyrovae.recipes import About, Training, bnn

pytestmark = pytest.mark.cpu


@pytest.fixture
def network():
    torch.manual_seed(0)
    return WithWeights(MLP((1, 2, 2), 3, hidden=(4,)))


def test_a_network_with_its_own_weights_is_itself(network):
    x = torch.randn(5, 1, 2, 2)
    own = network.network(x)
    torch.testing.assert_close(network(x, network.initial_weights()), own)
    assert not list(filter(lambda p: p.requires_grad, network.parameters()))
    assert network.initial_weights().shape == (4 * 4 + 4 + 4 * 3 + 3,)


def test_the_bound_is_the_likelihood_less_one_divergence(network):
    """With a posterior of almost no width the draw is the mean; the KL is not divided by the data."""
    w = network.initial_weights()
    pair = BayesianNetwork(network, IndependentNormal(len(w), 0.5), FreeNormal(w, 1e-6))
    x, y = torch.randn(7, 1, 2, 2), torch.arange(7) % 3
    bound = ELBO(num_particles=50).evaluate(pair, x, y)
    likelihood = dist.Categorical(logits=network.network(x)).log_prob(y).sum()
    kl = torch.distributions.kl_divergence(dist.Normal(w, 1e-6), dist.Normal(0.0, 0.5)).sum()
    assert bound.terms["reconstruction"].item() == pytest.approx(likelihood.item(), abs=1e-3)
    assert bound.terms["kl"].item() == pytest.approx(kl.item(), rel=0.01)


def test_predictions_are_means_over_draws_of_the_weights():
    """A bias b ~ N(0, 4) and nothing else: p(y = 1) is E[sigmoid(b)] = 1/2, and not one draw's."""

    class Bias(nn.Module):
        out_shape = (2,)

        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.stack([torch.zeros(len(x)), self.b.expand(len(x)) + x[:, 0]], -1)

    network = WithWeights(Bias())
    pair = BayesianNetwork(network, IndependentNormal(1, 1.0), FreeNormal(torch.zeros(1), 2.0))
    x = torch.tensor([[0.0], [1.0]])
    b = 2 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torch.sigmoid(b).mean(), torch.sigmoid(b + 1).mean()])
    found = class_probabilities(pair, x, num_samples=1000)[:, 1]
    error = torch.sigmoid(b).std().item() / 1000**0.5
    torch.testing.assert_close(found, expected, atol=4 * error, rtol=0)
    assert torch.equal(found, class_probabilities(pair, x, num_samples=1000)[:, 1])
    with pytest.raises(InputError, match="num_samples is 0"):
        class_probabilities(pair, x, num_samples=0)


def test_the_recipe_learns_digits():
    digits = load("digits", seed=0)
    x, y = digits.x_train[:500], digits.y_train[:500]
    settings = Training(epochs=15, batch_size=50, learning_rate=1e-2, validation_fraction=0.2)
    fitted = bnn(About.of(x, y), width=20, prior_scale=0.5).fit(x, y, training=settings)
    error = error_rate(class_probabilities(fitted.pair, digits.x_test, num_samples=20), digits.y_test)
    assert error < 20
    assert fitted.history.best_epoch > 3  # by the bound on classes that are held out


def test_the_recipe_needs_the_class_of_each_datum():
    x, y = torch.rand(10, 4), torch.tensor([0, 1, *[-1] * 8])
    with pytest.raises(
        InputError, match=r"bnn needs the class of each datum, but 8 of 10 are unknown.*x\[y >= 0\]"
    ):
        bnn(About.of(x, y), width=4).fit(x, y, training=Training(epochs=1))
    known = y >= 0
    bnn(About.of(x, y), width=4).fit(x[known], y[known], training=Training(epochs=1))
