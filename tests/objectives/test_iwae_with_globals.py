"""The importance-weighted bound with a latent outside of the data's plate, against the same by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import IWAE
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

K, SEED = 3, 5
X = torch.tensor([[0.3], [-1.2], [2.0], [0.7]], dtype=torch.double)


class OneRowAtATime(nn.Module):
    """A network that takes `(B, 1)` only, and acts as the identity."""

    def forward(self, x):
        rows, one = x.shape
        return x.view(rows, one)


class Regression(nn.Module):
    """t ~ N(0, 1); for each datum z ~ N(t, 1), x ~ N(z + b, 1). The guide draws t or sets it to a point."""

    def __init__(self, point=False, network=None):
        super().__init__()
        self.point, self.network = point, network or nn.Identity()
        self.loc, self.log_scale, self.slope, self.shift = (
            nn.Parameter(torch.tensor(value, dtype=torch.double)) for value in (0.3, -0.4, 0.4, 0.2)
        )
        self.log_scale.requires_grad_(not point)

    def model(self, x):
        t = pyro.sample("t", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + self.shift, 1.0).to_event(1), obs=x)

    def q_t(self, fixed=False):
        return Normal(*(p.detach() if fixed else p for p in (self.loc, self.log_scale.exp())))

    def q_z(self, x, t, fixed=False):
        slope = self.slope.detach() if fixed else self.slope
        return Normal(slope * self.network(x).squeeze(-1) + 0.2 * t, 0.8)

    def guide(self, x):
        of_t = dist.Delta(self.loc) if self.point else dist.Normal(self.loc, self.log_scale.exp())
        t = pyro.sample("t", of_t)
        with pyro.plate("data", len(x)):
            q = self.q_z(x, t)
            pyro.sample("z", dist.Normal(q.loc, q.scale))

    def log_p(self, t, z):
        """log p(x, z | t) of each datum, `(K, B)`, and log p(t), `(K,)`."""
        of_data = Normal(t, 1.0).log_prob(z) + Normal(z + self.shift, 1.0).log_prob(X.squeeze(-1))
        return of_data, Normal(0.0, 1.0).log_prob(t).squeeze(-1)


def gradients(bound, pair):
    names = {name: p for name, p in pair.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(bound, list(names.values()), allow_unused=True, retain_graph=True)
    return {
        n: torch.zeros((), dtype=torch.double) if g is None else g
        for n, g in zip(names, found, strict=True)
    }


def evaluated(objective, pair):
    torch.manual_seed(SEED)
    bound = -objective.evaluate(pair, X).loss
    return bound, gradients(bound, pair)


def draws(pair):
    torch.manual_seed(SEED)
    t = pair.loc.expand(K, 1) if pair.point else pair.q_t().rsample((K, 1))
    return t, pair.q_z(X, t).rsample()


def log_weights(pair, t, z, fixed=False):
    of_data, prior = pair.log_p(t, z)
    of_data = of_data - pair.q_z(X, t, fixed).log_prob(z)
    if pair.point:
        return of_data
    return of_data.sum(-1) + prior - pair.q_t(fixed).log_prob(t).squeeze(-1)


def test_with_a_drawn_global_all_data_have_one_weight():
    pair = Regression()
    by_hand = log_weights(pair, *draws(pair)).logsumexp(0) - math.log(K)
    found = evaluated(IWAE(K), pair)
    torch.testing.assert_close(found, (by_hand, gradients(by_hand, pair)))


def test_a_point_is_a_parameter_and_each_datum_has_its_weight():
    pair = Regression(point=True)
    prior = Normal(0.0, 1.0).log_prob(pair.loc)
    by_hand = (log_weights(pair, *draws(pair)).logsumexp(0) - math.log(K)).sum() + prior
    found = evaluated(IWAE(K), pair)
    torch.testing.assert_close(found, (by_hand, gradients(by_hand, pair)))


def test_the_doubly_reparameterised_gradient_is_that_of_equation_8():
    """All draws of a particle have the factor v^2 on their paths; the model's parameters have v."""
    pair = Regression()
    t, z = draws(pair)
    shares = log_weights(pair, t, z).softmax(0).detach()
    expected = gradients((shares**2 * log_weights(pair, t, z, fixed=True)).sum(), pair)
    of_model = (shares * pair.log_p(t, z)[0].sum(-1)).sum()
    expected["shift"] = gradients(of_model, pair)["shift"]
    torch.testing.assert_close(evaluated(IWAE(K, doubly_reparameterised=True), pair)[1], expected)


def test_the_doubly_reparameterised_gradient_of_a_point_is_that_of_a_parameter():
    """v where the model uses the point, v^2 on the path of the draws that the guide bases on it."""
    pair = Regression(point=True)
    t, z = draws(pair)
    shares = log_weights(pair, t, z).softmax(0).detach()
    of_draws = (shares**2 * log_weights(pair, t.detach(), z, fixed=True)).sum()
    of_model = (shares * pair.log_p(t, z.detach())[0]).sum() + Normal(0.0, 1.0).log_prob(pair.loc)
    expected = {
        "loc": gradients(of_draws, pair)["loc"] + gradients(of_model, pair)["loc"],
        "slope": gradients(of_draws, pair)["slope"],
        "shift": gradients(of_model, pair)["shift"],
    }
    torch.testing.assert_close(evaluated(IWAE(K, doubly_reparameterised=True), pair)[1], expected)


def test_a_class_of_each_datum_is_summed_out_beside_a_global():
    """w_k = p(t_k) / q(t_k) prod_b sum_y p(y) p(x_b | y, t_k)."""
    q, centres = Normal(0.3, 0.7), torch.tensor([-1.0, 1.0], dtype=torch.double)

    def model(x):
        t = pyro.sample("t", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7], dtype=x.dtype)))
            pyro.sample("x", dist.Normal(t + centres[y], 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("t", dist.Normal(torch.tensor(0.3, dtype=x.dtype), 0.7))
        with pyro.plate("data", len(x)):
            probabilities = torch.tensor([0.5, 0.5], dtype=x.dtype)
            pyro.sample("y", dist.Categorical(probabilities), infer={"enumerate": "parallel"})

    torch.manual_seed(SEED)
    found = -IWAE(K).evaluate(Pair(model, guide), X).loss
    torch.manual_seed(SEED)
    t = 0.3 + 0.7 * torch.randn(K, 1, dtype=torch.double)
    log_y = torch.tensor([0.3, 0.7], dtype=torch.double).log()
    of_data = (log_y + Normal(t.unsqueeze(-1) + centres, 1.0).log_prob(X)).logsumexp(-1)
    log_w = of_data.sum(-1) + (Normal(0.0, 1.0).log_prob(t) - q.log_prob(t)).squeeze(-1)
    torch.testing.assert_close(found, log_w.logsumexp(0) - math.log(K))


@pytest.mark.parametrize("double", [False, True])
def test_networks_that_take_no_leading_dimensions_run_one_copy_at_a_time(double):
    """The mean of exp(L_K) over draws is p(x_1, ..., x_N), whatever the way to run copies."""
    pair = Regression(network=OneRowAtATime())
    torch.manual_seed(SEED)
    with torch.no_grad():
        bounds = torch.stack([-IWAE(K, double).evaluate(pair, X).loss for _ in range(100)])
        log_px = marginal_likelihood(pair, X, joint=True, num_samples=1000).log_px
    ratios = (bounds - log_px).exp()
    assert abs(ratios.mean() - 1.0) < 4 * ratios.std() / len(ratios) ** 0.5 + 0.05


def test_it_trains_on_all_data_at_once():
    history = fit(Regression(), X, objective=IWAE(2), epochs=2, batch_size=len(X), progress=False)
    assert math.isfinite(history["loss"][-1])


def test_a_minibatch_says_nothing_of_the_weight_of_all_data():
    with pytest.raises(InputError, match=r"'t' is drawn outside of the data's plate.*batch_size=len\(x\)"):
        fit(Regression(), X, objective=IWAE(2), epochs=2, batch_size=2, progress=False)


def test_a_point_counts_once_for_all_data_in_minibatches():
    """With two minibatches, the mean loss at fixed parameters is minus the bound per datum."""
    objective, pair = IWAE(K), Regression(point=True)
    still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
    options = {"optimizer": still, "epochs": 200, "batch_size": 2, "progress": False, "compile": "off"}
    found = torch.tensor(fit(pair, X, objective=objective, **options)["loss"])
    with torch.no_grad():
        bound = torch.stack([-objective.evaluate(pair, X).loss for _ in range(100)])
    error = (found.std() / 200**0.5) ** 2 + (bound.std() / 200**0.5 / len(X)) ** 2
    assert abs(found.mean() + bound.mean() / len(X)) < 4 * error**0.5


def test_weights_of_data_have_no_place_in_one_weight():
    pair = Regression()
    weighted = pyro.poutine.scale(scale=torch.ones(len(X)))
    with pytest.raises(InputError, match="all data have one importance weight"):
        IWAE(K).evaluate(Pair(weighted(pair.model), weighted(pair.guide)), X)
    with pytest.raises(InputError, match="all data have one importance weight"):
        IWAE(K).evaluate(reweight_pair(pair, {"t": 0.5}), X)
