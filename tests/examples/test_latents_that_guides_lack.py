"""Latents that the guide lacks: left out if nothing observed depends on them, summed out, or refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, trained
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO, IWAE

IN_PARALLEL = {"enumerate": "parallel"}


class CaptureRecapture(nn.Module):
    """An animal is alive or not, in each year, and is seen in some of them (Cormack, Jolly and Seber)."""

    def __init__(self):
        super().__init__()
        self.survives, self.is_seen = nn.Parameter(torch.tensor(0.8)), nn.Parameter(torch.tensor(0.4))

    def model(self, seen):
        with pyro.plate("animals", len(seen), dim=-1):
            alive, first = torch.ones(len(seen)), torch.zeros(len(seen)).bool()
            for t in pyro.markov(range(seen.shape[1])):
                with poutine.mask(mask=first):
                    alive = pyro.sample(f"z_{t}", dist.Bernoulli(alive * self.survives), infer=IN_PARALLEL)
                    pyro.sample(f"y_{t}", dist.Bernoulli(alive * self.is_seen), obs=seen[:, t])
                first = first | seen[:, t].bool()
                # In the year of its first capture an animal is alive for certain.
                alive = torch.where(seen[:, t].bool() & ~_before(seen, t), torch.ones(()), alive)

    def guide(self, seen):
        pass


def _before(seen, t):
    return seen[:, :t].bool().any(1)


def log_px(pair, seen):
    """Each history's density: from its first capture on, a chain of two states in which death is final."""
    survives, is_seen, total = pair.survives.item(), pair.is_seen.item(), []
    for row in seen.tolist():
        alive, dead, started = 1.0, 0.0, False
        for caught in row:
            if started:
                alive, dead = alive * survives, dead + alive * (1 - survives)
                alive, dead = (alive * is_seen, 0.0) if caught else (alive * (1 - is_seen), dead)
            started = started or bool(caught)
        total.append(alive + dead)
    return torch.tensor(total).double().log()


def histories():
    return torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_capture_histories_have_their_exact_evidence():
    pair, seen = CaptureRecapture(), histories()
    result = marginal_likelihood(pair, seen, num_samples=40)
    torch.testing.assert_close(result.log_px, log_px(pair, seen), rtol=0, atol=1e-4)
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), pair, seen)
    before = log_px(pair, seen).mean()
    trained(pair, seen, batch_size=5, epochs=30)
    assert log_px(pair, seen).mean() > before


class Linear(nn.Module):
    """z -> x, with a further latent w that only the model has."""

    def __init__(self, w):
        super().__init__()
        self.encoder, self.w = nn.Linear(2, 2), w

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            mean = torch.stack([z, -z], -1)
            mean = mean + (self.w(z) if self.w else 0.0)
            pyro.sample("x", dist.Normal(mean, 0.8).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()))

    def log_px(self, x, shift=0.0):
        covariance = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) + 0.64 * torch.eye(2)
        return dist.MultivariateNormal(torch.zeros(2) + shift, covariance).log_prob(x).double()


def assert_exact(pair, x, exact):
    result = marginal_likelihood(pair, x, num_samples=2000)
    assert ((result.log_px - exact).abs() < 4.5 * result.std_error + 1e-4).all()
    assert result.std_error.max() < 0.1


@pytest.mark.parametrize("discrete", [False, True])
def test_a_latent_on_which_no_observation_depends_is_left_out(discrete):
    def unused(z):
        pyro.sample("w", dist.Bernoulli(z.sigmoid()) if discrete else dist.Normal(z, 1.0))
        return 0.0

    pair, x = Linear(unused), torch.randn(4, 2)
    assert_exact(pair, x, pair.log_px(x))
    torch.manual_seed(0)
    without = Linear(None).model
    torch.manual_seed(0)
    loss = ELBO().differentiable_loss(pair.model, pair.guide, x)
    torch.manual_seed(0)
    expected = ELBO().differentiable_loss(without, pair.guide, x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert trained(pair, x, epochs=2)["elbo"]


def test_a_class_on_which_the_data_depend_is_summed_out():
    def shift(z):
        w = pyro.sample("w", dist.Bernoulli(torch.full_like(z, 0.3)), infer=IN_PARALLEL)
        return 2 * w.unsqueeze(-1)

    pair, x = Linear(shift), torch.randn(4, 2)
    mixed = torch.stack(
        [pair.log_px(x) + torch.tensor(0.7).log(), pair.log_px(x, 2.0) + torch.tensor(0.3).log()]
    )
    assert_exact(pair, x, mixed.logsumexp(0))
    with torch.no_grad():
        many = x.repeat(500, 1)
        bound = -IWAE(200).evaluate(pair, many).loss / 500
    assert abs(bound - mixed.logsumexp(0).sum()) < 0.05


def test_a_continuous_latent_on_which_the_data_depend_is_refused_by_name():
    def shift(z):
        return pyro.sample("w", dist.Normal(z, 1.0)).unsqueeze(-1)

    pair, x = Linear(shift), torch.randn(4, 2)
    for evaluate in (marginal_likelihood, trained):
        with pytest.raises(InputError, match="'w'"):
            evaluate(pair, x)


def test_weights_on_what_depends_on_such_a_class_are_refused():
    def shift(z):
        return pyro.sample("w", dist.Bernoulli(torch.full_like(z, 0.3)), infer=IN_PARALLEL).unsqueeze(-1)

    with pytest.raises(InputError, match=r"'[wx]'"):
        trained(Linear(shift), torch.randn(8, 2), epochs=1, weights={"x": 2.0})


class SomeDraws(nn.Module):
    """The guide's class stands for a few draws, not for all values: each counts 1/S."""

    def __init__(self, num_samples):
        super().__init__()
        self.infer = {"enumerate": "parallel", "num_samples": num_samples}

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 1.0])[y], 0.8), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=x * torch.tensor([-1.0, 0.2, 1.0])), infer=self.infer)


def test_an_enumerated_dimension_of_draws_counts_each_draw_by_its_share():
    pair, x = SomeDraws(4), torch.tensor([[0.7], [-0.4]])
    means, prior = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.2, 0.5, 0.3]).log()
    joint = prior + dist.Normal(means, 0.8).log_prob(x)
    q = dist.Categorical(logits=x * torch.tensor([-1.0, 0.2, 1.0]))
    elbo = (q.probs * (joint - q.logits)).sum()
    losses = torch.stack([ELBO().evaluate(pair, x.repeat(500, 1)).loss / 500 for _ in range(4)])
    assert abs(-losses.mean() - elbo) < 0.1
    result = marginal_likelihood(pair, x, num_samples=4000)
    assert ((result.log_px - joint.logsumexp(1)).abs() < 4.5 * result.std_error + 1e-4).all()
