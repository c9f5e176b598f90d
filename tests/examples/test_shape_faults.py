"""Log densities of another shape than their plates say: refused, with a remedy that works."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_evidence, one_copy_at_a_time, trained
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import IWAE


class Regression(nn.Module):
    """z -> (x, y) with a real target for each datum."""

    def __init__(self, target=lambda h: h.squeeze(-1)):
        super().__init__()
        self.decoder, self.head, self.encoder = nn.Linear(2, 3), nn.Linear(2, 1), nn.Linear(3, 4)
        self.target = target

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(self.target(self.head(z)), 1.0), obs=y)

    def guide(self, x, y):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


class Images(nn.Module):
    """z -> x, images with a channel; `event_dims` of their three dimensions belong to the event."""

    def __init__(self, event_dims, latent_event_dims=1):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (1, 3, 4)))
        self.encoder = nn.Linear(12, 4)
        self.event_dims, self.latent_event_dims = event_dims, latent_event_dims

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(self.latent_event_dims)
            logits = self.decoder(pyro.sample("z", z))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(self.event_dims), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(self.latent_event_dims))


class Masked(Regression):
    """The same, with a mask for each datum that has one dimension too many."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            with pyro.poutine.mask(mask=self.mask(x[:, :1] > 0)):
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(self.head(z).squeeze(-1), 1.0), obs=y)


def table(num_data=8):
    return torch.randn(num_data, 3), torch.randn(num_data)


def pictures(num_data=8):
    return (torch.rand(num_data, 1, 3, 4).round(),)


def column(x, y):
    return x, y[:, None]


FAULTS = {
    "target in a column": (Regression, lambda: column(*table()), "y", "squeeze"),
    "prediction in a column": (lambda: Regression(lambda h: h), table, "y", "squeeze"),
    "to_event(2) of three dimensions": (lambda: Images(2), pictures, "x", "to_event(3)"),
    "to_event(1) of three dimensions": (lambda: Images(1), pictures, "x", "to_event(3)"),
    "latent without to_event": (lambda: Images(3, 0), pictures, "z", "to_event(1)"),
    "as many data as latent dimensions": (lambda: Images(3, 0), lambda: pictures(2), "z", "to_event(1)"),
    "mask in a column": (lambda: Masked(lambda m: m), table, "x", "squeeze"),
}
WAYS = {
    "fit": lambda pair, *data: trained(pair, *data, epochs=1),
    "fit by IWAE": lambda pair, *data: trained(pair, *data, epochs=1, objective=IWAE(3)),
    "evidence": lambda pair, *data: marginal_likelihood(pair, *data, num_samples=40),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_density_of_another_shape_is_refused_by_name_with_both_shapes(fault, way):
    make, data, site, remedy = FAULTS[fault]
    with pytest.raises(InputError) as error:
        WAYS[way](make(), *data())
    message = str(error.value)
    assert f"'{site}'" in message
    assert len(set(re.findall(r"\([\d, ]+\)", message))) >= 2, message
    assert remedy in message, message


@pytest.mark.parametrize(
    ("pair", "data"),
    [
        (Regression, table),
        (lambda: Images(3), pictures),
        (lambda: Masked(lambda m: m.squeeze(-1)), table),
    ],
    ids=["regression", "images", "mask"],
)
def test_with_the_remedy_the_evidence_is_right(pair, data):
    pair, data = pair(), data(5)
    assert_evidence(pair, *data, reference=one_copy_at_a_time(pair, *data), largest_error=0.2)
    assert trained(pair, *data, epochs=1)["elbo"]


def test_a_table_that_holds_each_datum_once_is_no_fault():
    """A program sums its components itself. They have a dimension left of the data's."""

    class Components(Images):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                logits = torch.stack([self.decoder(z), self.decoder(-z)])
                each = dist.Bernoulli(logits=logits).to_event(3).log_prob(x)
                pyro.factor("x", each.logsumexp(0))

    pair, (x,) = Components(3), pictures(4)
    assert_evidence(pair, x, reference=one_copy_at_a_time(pair, x), largest_error=0.2)
