"""Latents that only the model has: left out, summed out, or refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED
from enumerated_programs import loss_and_gradients, nothing
from small_programs import IN_PARALLEL, parameter

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.programs import Pair

X = torch.linspace(-2.0, 2.0, 5).double()
OBJECTIVES = {
    "elbo": ELBO(2, vectorize_particles=True),
    "iwae": IWAE(3),
    "dreg": IWAE(3, True),
    "free bits": FreeBits(0.1),
    "score function": ScoreFunctionELBO(),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def observed(x):
    with (plate := pyro.plate("data", len(x))):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x)
    return plate, z


def with_forecast(x):
    """A forecast y of each datum, and its sum with noise, on which nothing observed depends."""
    plate, z = observed(x)
    with plate:
        y = pyro.sample("y", dist.Normal(z + parameter("drift", 0.3), 1.0))
        k = pyro.sample("k", dist.Poisson(y.exp()))
    pyro.sample("total", dist.Normal(k.sum(), 1.0))


def guide(x):
    w = parameter("w", 0.4, 0.1, -0.5)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(w[0] * x + w[1], w[2].exp()))


@every_objective
def test_a_latent_on_which_nothing_depends_is_left_out(objective, param_store):
    """Its density integrates to 1."""
    expected = loss_and_gradients(objective, (observed, guide), X)
    loss, found = loss_and_gradients(objective, (with_forecast, guide), X)
    torch.testing.assert_close(loss, expected[0])
    assert not found.pop("drift").any()
    torch.testing.assert_close(found, expected[1])
    bounds = []
    for model in (observed, with_forecast):
        torch.manual_seed(SEED)
        bounds.append(objective.evaluate(Pair(model, guide), X).terms)
    torch.testing.assert_close(*bounds)


@every_objective
def test_a_latent_with_infinitely_many_values_on_which_data_depend_is_refused(objective, param_store):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            y = pyro.sample("y", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(y, 0.8), obs=x)

    with pytest.raises(InputError, match=r"no site for the model's latent 'y' \(Normal; .*sample 'y' in"):
        objective.evaluate(Pair(model, guide), X)


@every_objective
def test_a_latent_of_a_branch_of_python_is_refused(objective, param_store):
    """No tensor shows that x depends on the switch, but its density does."""

    def model(x):
        switch = pyro.sample("switch", dist.Bernoulli(torch.tensor(0.4)))
        mean = 1.0 if switch.item() else -1.0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z + mean, 0.8), obs=x)

    with pytest.raises(InputError, match=r"latent 'switch', and the density of site 'x' changes"):
        objective.evaluate(Pair(model, guide), X)


def test_a_class_on_which_a_latent_depends_is_summed_out_of_the_divergence(param_store):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
            z = pyro.sample("z", dist.Normal(parameter("centres", -1.0, 1.2)[c], 0.6))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def mixture(x):
        components = dist.Normal(parameter("centres", -1.0, 1.2), 0.6)
        prior = dist.MixtureSameFamily(dist.Categorical(logits=parameter("class", 0.3, -0.3)), components)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    for objective in (ELBO(), ELBO(3, vectorize_particles=True), IWAE(3)):
        expected = loss_and_gradients(objective, (mixture, guide), X)
        torch.testing.assert_close(loss_and_gradients(objective, (model, guide), X), expected)
        torch.manual_seed(SEED)
        terms = objective.evaluate(Pair(mixture, guide), X).terms
        torch.manual_seed(SEED)
        torch.testing.assert_close(objective.evaluate(Pair(model, guide), X).terms, terms)
    with pytest.raises(InputError, match=r"'z' has no single floor"):
        FreeBits(0.1).evaluate(Pair(model, guide), X)
    with pytest.raises(InputError, match=r"'c' is summed out, since the guide lacks it.*score function"):
        ScoreFunctionELBO().evaluate(Pair(model, guide), X)


@pytest.mark.parametrize("infer", [IN_PARALLEL, {}])
def test_a_class_of_all_data_is_summed_out_of_their_joint_density(infer, param_store):
    """log sum_c p(c) prod_i p(x_i | c): the class lies outside of the data's plate."""

    def model(x):
        c = pyro.sample("c", dist.Categorical(logits=parameter("class", 0.3, -0.3)), infer=infer)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(parameter("centres", -1.0, 1.2)[c], 0.7), obs=x)

    bound = ELBO().evaluate(Pair(model, nothing), X)
    scores = dist.Normal(parameter("centres"), 0.7).log_prob(X[:, None]).sum(0)
    exact = (parameter("class").log_softmax(0) + scores).logsumexp(0)
    torch.testing.assert_close(-bound.loss, exact)
    torch.testing.assert_close(-IWAE(2).evaluate(Pair(model, nothing), X).loss, exact)
