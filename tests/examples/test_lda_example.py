"""Latent Dirichlet allocation: words in documents, their topics summed out in the model alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, evidence_of_all, trained, unless_refused
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO

TOPICS, VOCABULARY = 2, 2


class LDA(nn.Module):
    """Documents at dimension -1, their words at -2. A guide at a point is the one of Pyro's example."""

    def __init__(self, at_a_point=False, takes_leading_dimensions=False):
        super().__init__()
        self.takes_leading_dimensions = takes_leading_dimensions
        self.topics = nn.Parameter(torch.tensor([[0.2, 0.0], [0.0, 0.2]]))  # log concentrations
        self.predictor = nn.Linear(1, TOPICS)
        self.at_a_point = at_a_point

    def model(self, data):
        with pyro.plate("topics", TOPICS):
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(VOCABULARY)))
        with pyro.plate("documents", len(data), dim=-1):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(TOPICS)))
            with pyro.plate("words", data.shape[1], dim=-2):
                topic = pyro.sample("topic", dist.Categorical(doc_topics), infer={"enumerate": "parallel"})
                if self.takes_leading_dimensions:
                    probs = Vindex(topic_words.unsqueeze(-3))[..., topic, :]
                else:
                    probs = topic_words[topic]
                pyro.sample("word", dist.Categorical(probs), obs=data.T)

    def guide(self, data):
        with pyro.plate("topics", TOPICS):
            pyro.sample("topic_words", dist.Dirichlet(self.topics.exp()))
        concentration = (self.predictor(data.mean(1, keepdim=True)) / 2).exp()
        with pyro.plate("documents", len(data), dim=-1):
            if self.at_a_point:
                point = concentration / concentration.sum(-1, keepdim=True)
                pyro.sample("doc_topics", dist.Delta(point, event_dim=1))
            else:
                pyro.sample("doc_topics", dist.Dirichlet(concentration))


def documents(num_data=3, words=4):
    """Words as floats, as data are; the model gets them as whole numbers."""
    return torch.randint(VOCABULARY, (num_data, words)).float()


def log_evidence(data):
    """log p(words), by quadrature over both topics' words and each document's topics, all uniform."""
    grid = (torch.arange(100).double() + 0.5) / 100
    of_first, of_second, mixed = torch.meshgrid(grid, grid, grid, indexing="ij")
    odds = mixed * of_first + (1 - mixed) * of_second  # of word 1
    total = torch.zeros(100, 100).double()
    for document in data:
        ones = document.sum().double()
        log_px = ones * odds.log() + (len(document) - ones) * (-odds).log1p()
        total += log_px.logsumexp(2) - torch.tensor(100.0).log()
    return (total.logsumexp((0, 1)) - 2 * torch.tensor(100.0).log()).item()


def test_bounds_and_gradients_are_those_of_pyro():
    for at_a_point in (True, False):
        assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=2), LDA(at_a_point), documents())


@pytest.mark.parametrize("takes_leading_dimensions", [False, True])
def test_it_is_scored_as_a_whole(takes_leading_dimensions):
    pair, x = LDA(takes_leading_dimensions=takes_leading_dimensions), documents()
    with pytest.raises(InputError, match="joint=True"):
        marginal_likelihood(pair, x, num_samples=50)
    # Topics of words, in a plate of their own, are summed out where the program takes leading dimensions.
    # Otherwise each draw is a run of its own, and their error is large enough to be seen for fewer.
    names, draws = ((), 4000) if takes_leading_dimensions else (("'topic'",), 1000)
    found = unless_refused(lambda: evidence_of_all(pair, x, num_samples=draws), *names)
    if found is not None:
        value, std_error, _ = found
        assert abs(value - log_evidence(x)) < 4.5 * std_error + 1e-3
        assert std_error < 0.1


def test_documents_at_a_point_have_no_evidence():
    pair, x = LDA(at_a_point=True), documents()
    evaluate = lambda: evidence_of_all(pair, x, num_samples=40)  # noqa: E731
    assert unless_refused(evaluate, "'doc_topics'") is None


def test_it_trains_in_minibatches():
    x = documents(40)
    x[:20] = 0.0
    for at_a_point in (True, False):
        history = trained(LDA(at_a_point), x, batch_size=10, epochs=40)
        assert sum(history["elbo"][-5:]) > sum(history["elbo"][:5])
