"""Networks that take (B, ...) alone, beside particles and enumerated values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, gradients
from small_programs import IN_PARALLEL
from torch import nn

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.programs import Pair
from pyrovae.programs.densities import trace_log_probs

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(3)).double()


class Softmax(nn.Module):
    """A softmax over dimension 1, which particles would turn into one over the data."""

    def __init__(self, ins, outs):
        super().__init__()
        self.linear = nn.Linear(ins, outs)

    def forward(self, x):
        return self.linear(x).softmax(1)


class Viewed(nn.Module):
    """A view of the data that leaves no other dimension."""

    def __init__(self, ins, outs):
        super().__init__()
        self.linear = nn.Linear(ins, outs)

    def forward(self, x):
        return self.linear(x.view(x.size(0), -1)).tanh()


class Continuous(nn.Module):
    def __init__(self, network):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.decoder = network(4, 4), network(2, 4)
        self.double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(3 * self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, 1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


class WithClass(Continuous):
    def __init__(self, network):
        super().__init__(network)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.classifier, self.decoder = nn.Linear(4, 3).double(), network(5, 4).double()

    def joined(self, z, y):
        y = nn.functional.one_hot(y, 3).to(z)
        return self.decoder(torch.cat([z, y.expand(*z.shape[:-1], 3)], -1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.tensor([0.3, -0.3, 0.0]).double()))
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(3 * self.joined(z, y), 0.7).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, 1)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer=IN_PARALLEL)
            loc = loc + 0.3 * y[..., None]
            pyro.sample("z", dist.Normal(loc, scale.exp().expand(loc.shape)).to_event(1))


def scores_of(pair, x, values):
    """log p and log q of the sites of one copy, at given values."""
    model, guide = (pyro.poutine.condition(program, data=values) for program in (pair.model, pair.guide))
    return [trace_log_probs(pyro.poutine.trace(program).get_trace(x)) for program in (model, guide)]


def by_copies(pair, x, traces, values, particles):
    """log w, `(C, K, B)`, and q(y), each copy scored alone at the values of the objective's own draws."""
    log_w, q_y = [], []
    for label in range(values):
        for particle in range(particles):
            z = traces.nodes["z"]["value"]
            z = z.reshape(values, particles, len(x), 2)[label, particle]
            given = {"z": z} | ({"y": torch.full((len(x),), label)} if values > 1 else {})
            log_p, log_q = scores_of(pair, x, given)
            log_w.append(sum(log_p.values()) - sum(log_q.values()))
            q_y.append(log_q["y"] if values > 1 else torch.zeros(len(x)).double())
    shape = values, particles, len(x)
    return torch.stack(log_w).reshape(shape), torch.stack(q_y).reshape(shape)


class Noted(ELBO):
    """The ELBO, which keeps the guide's traces."""

    def _runs(self, pair, args, kwargs):
        for traces in super()._runs(pair, args, kwargs):
            self.noted = traces[1]
            yield traces


@pytest.mark.parametrize("network", [Softmax, Viewed])
@pytest.mark.parametrize(("kind", "values"), [(Continuous, 1), (WithClass, 3)])
@pytest.mark.parametrize("particles", [1, 4])
def test_the_elbo_is_that_of_single_copies(network, kind, values, particles):
    pair = kind(network)
    objective = Noted(particles, vectorize_particles=particles > 1)
    bound = objective.evaluate(pair, X)
    log_w, log_q_y = by_copies(pair, X, objective.noted, values, particles)
    expected = (log_q_y.exp() * log_w).sum() / particles
    torch.testing.assert_close(-bound.loss, expected)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], expected.detach())
    parameters = list(pair.parameters())
    found = torch.autograd.grad(-bound.loss, parameters, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters))


def leading(module):
    """Return the same network for any leading dimensions."""
    return lambda x: module.linear(x).softmax(-1)


@pytest.mark.parametrize("kind", [Continuous, WithClass])
@pytest.mark.parametrize("objective", [IWAE(4), IWAE(4, True), ScoreFunctionELBO(), FreeBits(0.1)])
def test_the_bound_has_the_mean_of_networks_that_take_leading_dimensions(kind, objective):
    if kind is WithClass and isinstance(objective, ScoreFunctionELBO):
        return
    pair, other = kind(Softmax), kind(Softmax)
    for module in (other.encoder, other.decoder):
        module.forward = leading(module)
    means = []
    for number, each in enumerate((pair, other)):
        torch.manual_seed(number)
        with torch.no_grad():
            losses = [objective.evaluate(each, X.repeat(40, 1)).loss / 200 for _ in range(10)]
        means.append(torch.stack(losses))
    error = (sum(part.var() for part in means) / 10).sqrt()
    assert abs(means[0].mean() - means[1].mean()) < 5 * error
    assert error < 0.1
    torch.manual_seed(SEED)
    found = gradients(objective.evaluate(pair, X).loss, pair)
    assert all(value.isfinite().all() for value in found.values())


def test_a_floor_for_each_dimension_is_that_of_one_copy_at_a_time_beside_a_class():
    pair = WithClass(Softmax)
    bounds = []
    for floor in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        bounds.append(FreeBits(floor, "dimension").evaluate(pair, X))
    losses = [float(bound.loss.detach()) for bound in bounds]
    assert losses == sorted(losses)  # a higher floor never lowers the loss
    assert losses[-1] >= float(bounds[-1].terms["kl"] - bounds[-1].terms["reconstruction"])
    assert FreeBits(0.1, "dimension").evaluate(Continuous(Softmax), X).loss.isfinite()


def test_several_enumerated_sites_need_leading_dimensions():
    pair = WithClass(Softmax)

    def also(program, infer):
        def run(x):
            with pyro.plate("views", 2, dim=-2), pyro.plate("more", len(x), dim=-1):
                pyro.sample("c", dist.Bernoulli(torch.tensor(0.3).double()), infer=infer)
            program(x)

        return run

    several = Pair(also(pair.model, {}), also(pair.guide, IN_PARALLEL))
    with pytest.raises(InputError, match=r"'c', 'y' are enumerated together.*leading dimensions"):
        ELBO().evaluate(several, X)
