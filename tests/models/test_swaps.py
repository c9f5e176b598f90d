"""Every posterior and every prior in every kind of model: one argument is swapped, the rest stays."""

import pytest
import torch
from component_table import POSTERIORS, PRIORS

from pyrovae import fit
from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import M2, PCVAE, VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.objectives import ELBO, SupervisedELBO
from pyrovae.priors import (
    Classes,
)
from pyrovae.programs.checks import check_pair

pytestmark = pytest.mark.cpu

IMAGE, LATENT, CLASSES, FEATURES = (1, 4, 4), 3, 3, 6


def make_vae(posterior, prior):
    q = posterior(MLP(IMAGE, FEATURES, hidden=(8,)), LATENT)
    return VAE(prior(LATENT, q, IMAGE), Bernoulli(MLP(LATENT, IMAGE, hidden=(8,))), q)


def make_m2(posterior, prior):
    features = MLP(IMAGE, FEATURES, hidden=(8,))
    q = posterior(WithClass(MLP(FEATURES + CLASSES, FEATURES, hidden=(8,)), CLASSES, features), LATENT)
    decoder = WithClass(MLP(LATENT + CLASSES, IMAGE, hidden=(8,)), CLASSES)
    return M2(
        Classes(CLASSES),
        prior(LATENT, q, IMAGE, CLASSES),
        Bernoulli(decoder),
        Classifier(MLP(IMAGE, CLASSES)),
        q,
    )


def make_pcvae(posterior, prior):
    vae = make_vae(posterior, prior)
    return PCVAE(vae.prior, vae.likelihood, vae.posterior, LinearClassifier(LATENT, CLASSES))


MODELS = {
    "vae": (make_vae, None),
    "m2": (make_m2, SupervisedELBO(alpha=1.0)),
    "pcvae": (make_pcvae, ELBO()),
}

one_swapped = [(posterior, "standard normal") for posterior in POSTERIORS]
one_swapped += [("diagonal normal", prior) for prior in PRIORS if prior != "standard normal"]
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
    with pytest.raises(InputError, match=r"FlowPosterior scores its own draws only .*flow with an inverse"):
        make(POSTERIORS[posterior].build, PRIORS["vamp"])
