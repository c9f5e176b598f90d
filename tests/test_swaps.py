"""Every posterior and every prior in every kind of model: one argument changes, and nothing else."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from pyrovae import fit, flows
from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.flows.sylvester import Sylvester
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import M2, PCVAE, VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.objectives import ELBO, SupervisedELBO
from pyrovae.posteriors import DiagonalNormal, FlowPosterior, FullCovarianceNormal, ZukoPosterior
from pyrovae.priors import (
    Classes,
    MaskedAutoregressive,
    MixtureOfGaussians,
    RealNVP,
    SplineCoupling,
    StandardNormal,
    VampPrior,
    ZukoPrior,
)
from pyrovae.programs.checks import check_pair

IMAGE, LATENT, CLASSES, FEATURES = (1, 4, 4), 3, 3, 6


class Posterior(NamedTuple):
    build: Callable[[nn.Module], nn.Module]  # from the network of x, in M2 of x and y
    scores_any_point: bool = True  # or its own draws only


def through(flow, **settings):
    return lambda network: FlowPosterior(network, LATENT, flow(LATENT, **settings))


def zuko_flow(network):
    return ZukoPosterior(network, zuko.flows.MAF(LATENT, FEATURES, hidden_features=(8,)), invert=True)


# A new posterior or prior is one row here.
POSTERIORS = {
    "diagonal": Posterior(lambda network: DiagonalNormal(network, LATENT)),
    "full": Posterior(lambda network: FullCovarianceNormal(network, LATENT)),
    "planar": Posterior(through(flows.Planar, steps=2), scores_any_point=False),
    "radial": Posterior(through(flows.Radial, steps=2), scores_any_point=False),
    "sylvester": Posterior(through(Sylvester, steps=2), scores_any_point=False),
    "sylvester by reflections": Posterior(
        through(Sylvester, steps=2, orthogonal="householder", reflections=2), scores_any_point=False
    ),
    "sylvester by triangles": Posterior(
        through(Sylvester, steps=2, orthogonal="triangular"), scores_any_point=False
    ),
    "householder": Posterior(through(flows.Householder, steps=2)),
    "convex": Posterior(through(flows.ConvexCombination, combinations=2)),
    "iaf": Posterior(through(flows.InverseAutoregressive, steps=2, hidden=(8,), context=4)),
    "spline": Posterior(through(flows.SplineCoupling, steps=2, hidden=(8,), context=4)),
    "zuko": Posterior(zuko_flow),
}
PRIORS = {
    "standard": lambda posterior, classes: StandardNormal(LATENT),
    "mixture": lambda posterior, classes: MixtureOfGaussians(LATENT, components=4),
    "vamp": lambda posterior, classes: VampPrior(posterior, IMAGE, 4, num_classes=classes),
    "realnvp": lambda posterior, classes: RealNVP(LATENT, steps=2, hidden=(8,)),
    "spline": lambda posterior, classes: SplineCoupling(LATENT, steps=2, hidden=(8,)),
    "maf": lambda posterior, classes: MaskedAutoregressive(LATENT, steps=2, hidden=(8,)),
    "zuko": lambda posterior, classes: ZukoPrior(zuko.flows.NAF(LATENT, transforms=1)),
}


def make_vae(posterior, prior):
    q = posterior(MLP(IMAGE, FEATURES, hidden=(8,)))
    return VAE(prior(q, None), Bernoulli(MLP(LATENT, IMAGE, hidden=(8,))), q)


def make_m2(posterior, prior):
    features = MLP(IMAGE, FEATURES, hidden=(8,))
    q = posterior(WithClass(MLP(FEATURES + CLASSES, FEATURES, hidden=(8,)), CLASSES, features))
    decoder = WithClass(MLP(LATENT + CLASSES, IMAGE, hidden=(8,)), CLASSES)
    return M2(Classes(CLASSES), prior(q, CLASSES), Bernoulli(decoder), Classifier(MLP(IMAGE, CLASSES)), q)


def make_pcvae(posterior, prior):
    vae = make_vae(posterior, prior)
    return PCVAE(vae.prior, vae.likelihood, vae.posterior, LinearClassifier(LATENT, CLASSES))


MODELS = {
    "vae": (make_vae, None),
    "m2": (make_m2, SupervisedELBO(alpha=1.0)),
    "pcvae": (make_pcvae, ELBO()),
}

one_swapped = [(posterior, "standard") for posterior in POSTERIORS]
one_swapped += [("diagonal", prior) for prior in PRIORS if prior != "standard"]
# Both at once where the prior runs the posterior.
both_swapped = [(name, "vamp") for name, row in POSTERIORS.items() if row.scores_any_point][1:]


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("posterior", "prior"), one_swapped + both_swapped, ids=str)
def test_a_swap_trains_and_is_scored(posterior, prior, model, binary_images, classes):
    make, objective = MODELS[model]
    pair = make(POSTERIORS[posterior].build, PRIORS[prior])
    before = {name: value.clone() for name, value in pair.named_parameters()}
    x, y = binary_images, None
    check_pair(pair, x)
    if objective is not None:
        check_pair(pair, x, classes)
        y = torch.where(torch.arange(len(x)) % 2 == 0, classes, -1)
    history = fit(pair, x, y, objective=objective, epochs=2, batch_size=6, progress=False)
    assert torch.tensor(history["elbo"]).isfinite().all()
    still = [name for name, value in pair.named_parameters() if torch.equal(value, before[name])]
    assert still == [name for name, value in pair.named_parameters() if not value.requires_grad]
    result = marginal_likelihood(pair, x[:4], num_samples=20)
    assert result.log_px.isfinite().all()
    assert (result.log_px > -30).all()  # 16 pixels at random have -11 nats


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "posterior", [name for name, row in POSTERIORS.items() if not row.scores_any_point]
)
def test_a_vamp_prior_through_a_flow_without_an_inverse_is_refused_when_built(posterior, model):
    make, _ = MODELS[model]
    message = (
        "scores each z under the posteriors of all pseudo-inputs, but this FlowPosterior scores its own"
    )
    with pytest.raises(
        InputError, match=f"{message} draws only .*Use a normal posterior or a flow with an"
    ):
        make(POSTERIORS[posterior].build, PRIORS["vamp"])
