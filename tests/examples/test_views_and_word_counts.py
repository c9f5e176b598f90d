"""Networks that use `.view` on data laid out in another order, and documents of several lengths."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_evidence, assert_iwae, one_copy_at_a_time, trained
from torch import nn


class Views(nn.Module):
    """Encoder and decoder flatten by `.view`, which asks for contiguous tensors."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            logits = self.decoder(z.view(-1, 2)).view(x.shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(2), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x.reshape(len(x), -1)).view(-1, 2, 2).unbind(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


class ViewsOfData(Views):
    """The encoder views the data themselves."""

    def guide(self, x):
        loc, scale = self.encoder(x.contiguous().view(len(x), -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


@pytest.mark.parametrize("make", [Views, ViewsOfData])
@pytest.mark.parametrize("transposed", [False, True], ids=["contiguous", "transposed"])
def test_evidence_and_bounds_are_right_for_views(make, transposed):
    pair, x = make(), torch.rand(4, 2, 3).round()
    if transposed:
        x = x.transpose(0, 2).contiguous().transpose(0, 2)
        assert not x.is_contiguous()
    reference = one_copy_at_a_time(pair, x)
    assert_evidence(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)
    assert trained(pair, x, epochs=1)["elbo"]


class Words(nn.Module):
    """Word counts; a document's length is its own, `total_count` only an upper bound."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def model(self, x):
        total = int(x.sum(-1).max())
        with pyro.plate("documents", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            words = dist.Multinomial(total, logits=self.decoder(z), validate_args=False)
            pyro.sample("words", words, obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x / x.sum(-1, keepdim=True)).chunk(2, -1)
        with pyro.plate("documents", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def test_documents_of_several_lengths_are_scored_as_pyro_does():
    pair, x = Words(), torch.tensor([[3.0, 1, 0, 0], [0, 0, 1, 1], [2, 2, 2, 2], [0, 5, 1, 0]])
    reference = one_copy_at_a_time(pair, x)
    assert_evidence(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)
    history = trained(pair, x.repeat(10, 1), epochs=10)
    assert history["elbo"][-1] > history["elbo"][0]
