"""p(y | x) of a class that only the model has, against Bayes' rule."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pyrovae.errors import InputError
from pyrovae.evaluation import class_posterior, class_probabilities
from pyrovae.programs import Pair

X = torch.tensor([[-1.3], [0.2], [0.9], [2.4]], dtype=torch.double)
PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)
CENTRES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.double)


def nothing(x):
    pass


def mixture(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(PRIOR), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(CENTRES[k], 0.7), obs=x[:, 0])


def with_a_code(x):
    """x ~ N(c_k + z, 0.7), z ~ N(0, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        k = pyro.sample("k", dist.Categorical(PRIOR), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(CENTRES[k] + z, 0.7), obs=x[:, 0])


def code(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * x[:, 0], 1.0))


def exact(scale):
    return (PRIOR.log() + Normal(CENTRES, scale).log_prob(X)).softmax(-1)


def test_without_a_draw_it_is_exact():
    found = class_probabilities(Pair(mixture, nothing), X, num_samples=2)
    torch.testing.assert_close(found, exact(0.7))
    torch.testing.assert_close(class_probabilities(Pair(mixture, nothing), X, site="k"), found)


def test_the_code_is_integrated_out():
    scale = (1 + 0.7**2) ** 0.5
    pair, count = Pair(with_a_code, code), 20_000
    before = torch.random.get_rng_state()
    found = class_probabilities(pair, X, num_samples=count)
    assert torch.equal(before, torch.random.get_rng_state())
    # The weights of these draws vary by a factor of a few, so an error is at most about 3 / sqrt(K).
    assert (found - exact(scale)).abs().max() < 4 * 3 / count**0.5
    torch.testing.assert_close(found.sum(-1), torch.ones(len(X), dtype=X.dtype))
    assert (exact(scale) - exact(0.7)).abs().max() > 0.1  # the value if z were left out


def test_a_prediction_is_the_models_own_classifier():
    """y ~ p(y | z) depends on z, and nothing depends on it: no class to sum out."""

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x[:, 0])
            pyro.sample("y", dist.Categorical(logits=z[:, None] * CENTRES), obs=y)

    def guide(x, y=None):
        code(x)

    found = class_probabilities(Pair(model, guide), X)
    torch.testing.assert_close(found, (0.4 * X * CENTRES).softmax(-1))


def test_a_model_that_takes_no_classes_is_told_which_function_does_it():
    with pytest.raises(InputError, match=r"takes no classes, model\(x\).*class_probabilities"):
        class_posterior(Pair(mixture, nothing), X, 3)
