"""Flow posteriors, moved away from their start, and their draws. For the tests of flows."""

import pytest
import torch
from component_table import FLOW_POSTERIORS, FLOWS

from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.priors import StandardNormal

FEATURES = 6


X_SHAPE = (1, 4, 4)


WITH_INVERSE = [name for name, row in FLOW_POSTERIORS.items() if row.scores_any_point]
WITHOUT_INVERSE = [name for name, row in FLOW_POSTERIORS.items() if not row.scores_any_point]

every_posterior = pytest.mark.parametrize("name", FLOW_POSTERIORS)


every_invertible = pytest.mark.parametrize("name", WITH_INVERSE)


every_other = pytest.mark.parametrize("name", WITHOUT_INVERSE)


every_flow = pytest.mark.parametrize("name", FLOWS)


def posterior_of(name, network, latent_dim):
    return FLOW_POSTERIORS[name].build(network, latent_dim)


def build(name, latent_dim=3, x_shape=FEATURES, seed=0, strength=0.0):
    """A posterior in 64-bit, its parameters moved away from their start by normal draws."""
    torch.manual_seed(seed)
    posterior = posterior_of(name, MLP(x_shape, 8, hidden=(8,)), latent_dim).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
    return posterior


def data(*leading):
    return torch.randn(*leading, FEATURES).double()


def draw(distribution, seed=5):
    """z, its log density, and the z_0 that it was made of."""
    torch.manual_seed(seed)
    z = distribution.rsample()
    torch.manual_seed(seed)
    return z, distribution.log_prob(z), distribution.base.rsample()


def push(distribution, z):
    for transform in distribution.transforms:
        z = transform(z)
    return z


def by_jacobian(distribution, z0):
    """log q at f(z_0), with autograd's determinant for each of the data `(B, M)`."""
    jacobian = torch.autograd.functional.jacobian(lambda z: push(distribution, z).sum(0), z0)
    return distribution.base.log_prob(z0) - torch.linalg.slogdet(jacobian.movedim(0, 1))[1]


few_samples = pytest.mark.filterwarnings("ignore:k-hat is above")


def make_vae(name, seed=0):
    torch.manual_seed(seed)
    posterior = posterior_of(name, MLP(X_SHAPE, 6, hidden=(8,)), 2)
    return VAE(StandardNormal(2), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))), posterior)


def dependence(transform, latent_dim):
    """Which output changes with which input, `(M, M)`."""
    z = torch.randn(latent_dim).double()
    return torch.autograd.functional.jacobian(transform, z) != 0
