"""Hidden Markov models by `pyro.markov`, their states enumerated in the guide or in the model alone."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, trained
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO, IWAE
from pyrovae.programs import Pair

IN_PARALLEL = {"enumerate": "parallel"}


class HMM(nn.Module):
    """Hidden states k_1 -> k_2 -> ... -> k_T, each with a Gaussian observation."""

    def __init__(self, states=2, steps=4, in_model=False, loop=pyro.markov):
        super().__init__()
        self.first = nn.Parameter(torch.randn(states))
        self.next = nn.Parameter(torch.randn(states, states))
        self.means = nn.Parameter(2 * torch.randn(states))
        if not in_model:
            self.logits = nn.Parameter(torch.randn(states, states))  # of the guide
        self.steps, self.infer, self.loop = steps, IN_PARALLEL if in_model else None, loop
        self.in_model = in_model

    def model(self, x):
        with pyro.plate("data", len(x)):
            logits = self.first.expand(len(x), -1)
            for t in self.loop(range(self.steps)):
                k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer=self.infer)
                pyro.sample(f"x{t}", dist.Normal(self.means[k], 0.7), obs=x[:, t])
                logits = self.next[k]

    def guide(self, x):
        if self.in_model:
            return
        with pyro.plate("data", len(x)):
            logits = self.logits[0].expand(len(x), -1)
            for t in self.loop(range(self.steps)):
                lean = x[:, t, None] * self.logits[1] / 4
                k = pyro.sample(f"k{t}", dist.Categorical(logits=logits + lean), infer=IN_PARALLEL)
                logits = self.logits[k]


def forward_algorithm(hmm, x):
    """log p(x), `(N,)`."""
    emission = dist.Normal(hmm.means, 0.7).log_prob(x.unsqueeze(-1))  # (N, T, K)
    alpha = hmm.first.log_softmax(-1) + emission[:, 0]
    for t in range(1, hmm.steps):
        alpha = (alpha.unsqueeze(-1) + hmm.next.log_softmax(-1)).logsumexp(-2) + emission[:, t]
    return alpha.logsumexp(-1).detach().double()


def elbo_over_all_paths(hmm, x):
    """The ELBO of the guide's chain, `(N,)`, by a sum over all paths."""
    states, total = len(hmm.means), torch.zeros(len(x))
    for path in itertools.product(range(states), repeat=hmm.steps):
        log_q, log_p = 0.0, 0.0
        q_logits, p_logits = hmm.logits[0].expand(len(x), -1), hmm.first
        for t, k in enumerate(path):
            lean = x[:, t, None] * hmm.logits[1] / 4
            log_q = log_q + (q_logits + lean).log_softmax(-1)[:, k]
            log_p = log_p + p_logits.log_softmax(-1)[k] + dist.Normal(hmm.means[k], 0.7).log_prob(x[:, t])
            q_logits, p_logits = hmm.logits[k], hmm.next[k]
        total = total + log_q.exp() * (log_p - log_q)
    return total.detach().double()


def sequences(num_data=5, steps=4):
    return 2 * torch.randn(num_data, steps)


@pytest.mark.parametrize("loop", [pyro.markov, iter], ids=["markov", "range"])
@pytest.mark.parametrize("in_model", [False, True], ids=["in the guide", "in the model"])
def test_the_evidence_is_the_forward_algorithms(in_model, loop):
    hmm, x = HMM(in_model=in_model, loop=loop), sequences()
    result = marginal_likelihood(hmm, x, num_samples=40)
    torch.testing.assert_close(result.log_px, forward_algorithm(hmm, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("states", [2, 3])
def test_with_states_in_the_guide_the_elbo_is_the_sum_over_all_paths(states):
    hmm, x = HMM(states), sequences()
    loss = ELBO().differentiable_loss(hmm.model, hmm.guide, x)
    exact = elbo_over_all_paths(hmm, x)
    torch.testing.assert_close(-loss.double(), exact.sum(), rtol=0, atol=1e-3)
    result = marginal_likelihood(hmm, x, num_samples=40)
    torch.testing.assert_close(result.elbo, exact.mean().item(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("in_model", [False, True], ids=["in the guide", "in the model"])
def test_elbo_and_gradients_are_those_of_pyro(in_model):
    hmm, x = HMM(in_model=in_model, steps=3), sequences(steps=3)
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), hmm, x)


@pytest.mark.parametrize("in_model", [False, True], ids=["in the guide", "in the model"])
def test_the_importance_weighted_bound_is_the_evidence_itself(in_model):
    hmm, x = HMM(in_model=in_model), sequences()
    loss = IWAE(3).evaluate(hmm, x).loss.detach()
    torch.testing.assert_close(-loss.double(), forward_algorithm(hmm, x).sum(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("in_model", [False, True], ids=["in the guide", "in the model"])
def test_training_never_exceeds_the_evidence(in_model):
    hmm, x = HMM(in_model=in_model), sequences(40)
    before = forward_algorithm(hmm, x).mean().item()
    history = trained(hmm, x, epochs=10, optimizer=lambda p: torch.optim.Adam(p, lr=0.03))
    after = forward_algorithm(hmm, x).mean().item()
    assert history["elbo"][-1] > history["elbo"][0]
    assert history["elbo"][-1] <= after + 1e-3
    assert after > before


def test_a_guide_without_a_chain_is_scored_too():
    """Each state is inferred alone, so the guide has dimensions that the model's chain shares out."""
    hmm, x = HMM(), sequences()

    def guide(x):
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(hmm.steps)):
                pyro.sample(f"k{t}", dist.Categorical(logits=x[:, t, None] * hmm.first), infer=IN_PARALLEL)

    result = marginal_likelihood(Pair(hmm.model, guide), x, num_samples=40)
    torch.testing.assert_close(result.log_px, forward_algorithm(hmm, x), rtol=0, atol=1e-4)


class Switching(nn.Module):
    """A chain of states, summed out in the model, under a Gaussian latent that shifts all observations."""

    def __init__(self):
        super().__init__()
        self.hmm = HMM(steps=3)
        self.encoder = nn.Linear(3, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            logits = self.hmm.first.expand(len(x), -1)
            for t in pyro.markov(range(3)):
                k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer=IN_PARALLEL)
                pyro.sample(f"x{t}", dist.Normal(self.hmm.means[k] + z, 0.7), obs=x[:, t])
                logits = self.hmm.next[k]

    def guide(self, x):
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc / 4, 1 + 0.5 * scale.sigmoid()))


def test_a_chain_beside_a_drawn_latent_has_the_evidence_of_quadrature():
    pair, x = Switching(), sequences(4, steps=3)
    nodes = torch.linspace(-6, 6, 241)
    given_z = torch.stack([forward_algorithm(pair.hmm, x - z) for z in nodes])
    log_prior = dist.Normal(0.0, 1.0).log_prob(nodes).double()
    exact = (given_z + log_prior[:, None]).logsumexp(0) + torch.tensor(12 / 240).double().log()
    result = marginal_likelihood(pair, x, num_samples=3000)
    assert ((result.log_px - exact).abs() < 4.5 * result.std_error + 1e-4).all()
    assert result.std_error.max() < 0.2
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), pair, x)


class Lengths(HMM):
    """Sequences of several lengths: steps past a sequence's end are masked."""

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            logits = self.first.expand(len(x), -1)
            for t in pyro.markov(range(self.steps)):
                with pyro.poutine.mask(mask=t < y):
                    k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer=IN_PARALLEL)
                    pyro.sample(f"x{t}", dist.Normal(self.means[k], 0.7), obs=x[:, t])
                logits = self.next[k]

    def guide(self, x, y):
        pass


def test_sequences_of_several_lengths_have_the_evidence_of_their_own_steps():
    hmm, x, lengths = Lengths(steps=4), sequences(6), torch.tensor([4, 1, 3, 2, 4, 2])
    exact = []
    for row, length in zip(x, lengths, strict=True):
        hmm.steps = int(length)
        exact.append(forward_algorithm(hmm, row[None, :length]))
    hmm.steps = 4
    result = marginal_likelihood(hmm, x, lengths, num_samples=40)
    torch.testing.assert_close(result.log_px, torch.cat(exact), rtol=0, atol=1e-4)
