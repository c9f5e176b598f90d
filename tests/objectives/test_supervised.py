"""The classification term, whatever the class's site is called and however it holds the class."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED
from small_programs import IN_PARALLEL, parameter
from torch.nn.functional import one_hot

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, SupervisedELBO
from pyrovae.programs import Pair
from pyrovae.programs.classes import class_site

X = torch.linspace(-2.0, 2.0, 6).double()[:, None]
Y = torch.arange(6) % 3
LOGITS = 0.3, -0.5, 0.1


class Mixture:
    """A mixture whose class is a whole number or a one-hot vector, at a site of any name."""

    def __init__(self, site, family):
        self.site, self.family = site, family

    def held(self, y):
        one_hot_site = self.family is dist.OneHotCategorical and y is not None and y.dim() == 1
        return one_hot(y, 3).double() if one_hot_site else y

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            prior = self.family(logits=parameter("class", 0.3, -0.3, 0.0).expand(len(x), 3))
            c = pyro.sample(self.site, prior, obs=self.held(y))
            means = parameter("means", -1.0, 0.4, 1.2)
            mean = means[c] if self.family is dist.Categorical else c @ means
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                logits = x * parameter("lean", *LOGITS)
                pyro.sample(self.site, self.family(logits=logits), infer=IN_PARALLEL)


MIXTURES = {
    "classes": Mixture("y", dist.Categorical),
    "another name": Mixture("kind", dist.Categorical),
    "one-hot": Mixture("y", dist.OneHotCategorical),
    "one-hot and another name": Mixture("kind", dist.OneHotCategorical),
}


def by_hand():
    """The sum of log q(y | x), and that of log p(x, y)."""
    log_q = (X * parameter("lean", *LOGITS)).log_softmax(1).gather(1, Y[:, None]).sum()
    log_p = parameter("class", 0.3, -0.3, 0.0).log_softmax(0)[Y]
    log_p = log_p + dist.Normal(parameter("means", -1.0, 0.4, 1.2)[Y], 0.7).log_prob(X[:, 0])
    return log_q, log_p.sum()


@pytest.mark.parametrize("pair", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("encoded", [False, True])
def test_the_term_is_the_score_of_the_given_class(pair, encoded, param_store):
    if encoded and pair.family is dist.Categorical:
        return
    y = one_hot(Y, 3).double() if encoded else Y
    bound = SupervisedELBO(2.5).evaluate(pair, X, y)
    log_q, log_p = by_hand()
    torch.testing.assert_close(-bound.loss, log_p + 2.5 * log_q)
    found, expected = (
        torch.autograd.grad(v, [parameter("lean"), parameter("means")])
        for v in (-bound.loss, log_p + 2.5 * log_q)
    )
    torch.testing.assert_close(found, expected)
    name = f"q({pair.site} | x)"
    assert bound.added == (name,)
    torch.testing.assert_close(bound.terms[name], log_q.detach())
    unlabelled = SupervisedELBO(2.5).evaluate(pair, X)
    torch.testing.assert_close(unlabelled.loss, ELBO().evaluate(pair, X).loss)


@pytest.mark.parametrize("pair", MIXTURES.values(), ids=MIXTURES)
def test_the_class_site_is_found(pair, param_store):
    assert class_site(pair, X) == (pair.site, 3)


def test_another_site_can_be_named(param_store):
    pair = MIXTURES["another name"]
    named = SupervisedELBO(2.5, site="kind").evaluate(pair, X, Y)
    torch.testing.assert_close(named.loss, SupervisedELBO(2.5).evaluate(pair, X, Y).loss)
    with pytest.raises(InputError, match=r"the guide has no site 'y'.*use a guide that infers the class"):
        SupervisedELBO(2.5, site="y").evaluate(pair, X, Y)


def test_the_term_is_weighted_with_the_data(param_store):
    pair = MIXTURES["classes"]
    weights = torch.tensor([1.0, 0.2, 2.0, 0.5, 3.0, 1.5]).double()

    def weighted(program):
        def run(x, y=None):
            with pyro.poutine.scale(scale=weights):
                program(x, y)

        return run

    torch.manual_seed(SEED)
    bound = SupervisedELBO(2.5).evaluate(Pair(weighted(pair.model), weighted(pair.guide)), X, Y)
    log_q = (X * parameter("lean")).log_softmax(1).gather(1, Y[:, None])[:, 0]
    log_p = parameter("class").log_softmax(0)[Y]
    log_p = log_p + dist.Normal(parameter("means")[Y], 0.7).log_prob(X[:, 0])
    torch.testing.assert_close(-bound.loss, (weights * (log_p + 2.5 * log_q)).sum())
    torch.testing.assert_close(bound.terms["q(y | x)"], log_q.sum().detach())
