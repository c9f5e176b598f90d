"""Small components by name. The contract tests run over these tables: a new component is one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from pyrovae import flows, likelihoods, posteriors, priors
from pyrovae.distributions.zuko_import import zuko

SMALL = {"hidden": (16,), "context": 4}

# Each builds a flow over M dimensions.
FLOWS: dict[str, Callable[[int], flows.Flow]] = {
    "planar": lambda m: flows.Planar(m, 3),
    "radial": lambda m: flows.Radial(m, 3),
    "householder": lambda m: flows.Householder(m, 3),
    "convex combination": lambda m: flows.ConvexCombination(m, 3),
    "inverse autoregressive": lambda m: flows.InverseAutoregressive(m, 3, **SMALL),
    "spline coupling": lambda m: flows.SplineCoupling(m, 3, bins=4, **SMALL),
    "sylvester orthogonal": lambda m: flows.Sylvester(m, 3),
    "sylvester householder": lambda m: flows.Sylvester(m, 3, "householder", reflections=2),
    "sylvester triangular": lambda m: flows.Sylvester(m, 3, "triangular"),
}
ZUKO_FLOWS = {
    "zuko maf inverted": (zuko.flows.MAF, True),
    "zuko spline": (partial(zuko.flows.NSF, passes=2), False),
}


class Posterior(NamedTuple):
    build: Callable[[nn.Module, int], nn.Module]  # from a network to features, and M
    scores_any_point: bool = True  # or only its own draws


def flow_posterior(make):
    return lambda network, latent_dim: posteriors.FlowPosterior(network, latent_dim, make(latent_dim))


def zuko_posterior(make, invert):
    def build(network, latent_dim):
        (features,) = network.out_shape
        flow = make(latent_dim, features, transforms=2, hidden_features=(16,))
        return posteriors.ZukoPosterior(network, flow, invert)

    return build


FLOW_POSTERIORS = {
    name: Posterior(flow_posterior(make), make(3).has_inverse) for name, make in FLOWS.items()
} | {name: Posterior(zuko_posterior(*row)) for name, row in ZUKO_FLOWS.items()}
POSTERIORS = {
    "diagonal normal": Posterior(posteriors.DiagonalNormal),
    "full covariance normal": Posterior(posteriors.FullCovarianceNormal),
    **FLOW_POSTERIORS,
}


def vamp(**settings):
    def build(latent_dim, posterior, x_shape, num_classes=None):
        return priors.VampPrior(posterior, x_shape, 5, num_classes, **settings)

    return build


# Each is built from M, a VampPrior also from the posterior, the shape of its data and the classes.
PRIORS: dict[str, Callable[..., nn.Module]] = {
    "standard normal": lambda m, *_: priors.StandardNormal(m),
    "mixture": lambda m, *_: priors.MixtureOfGaussians(m, components=4),
    "vamp": vamp(),
    "vamp with weights": vamp(learn_weights=True),
    "real nvp": lambda m, *_: priors.RealNVP(m, steps=3, hidden=(8,)),
    "splines": lambda m, *_: priors.SplineCoupling(m, steps=2, hidden=(8,)),
    "autoregressive": lambda m, *_: priors.MaskedAutoregressive(m, steps=2, hidden=(8,)),
    "zuko polynomials": lambda m, *_: priors.ZukoPrior(
        zuko.flows.SOSPF(m, transforms=1, hidden_features=(8,))
    ),
    "zuko neural": lambda m, *_: priors.ZukoPrior(zuko.flows.NAF(m, transforms=1, hidden_features=(8,))),
}


class Likelihood(NamedTuple):
    build: Callable[[nn.Module], nn.Module]
    levels: int = 1  # outputs of the network for each pixel


LIKELIHOODS = {
    "bernoulli": Likelihood(likelihoods.Bernoulli),
    "continuous bernoulli": Likelihood(likelihoods.ContinuousBernoulli),
    "gaussian": Likelihood(partial(likelihoods.Gaussian, scale=0.3)),
    "categorical": Likelihood(likelihoods.Categorical, levels=256),
}
