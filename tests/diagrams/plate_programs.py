"""Small programs whose plate diagrams are known."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

N, PIXELS, LATENT, CLASSES = 6, 5, 2, 3


class VAE(nn.Module):
    """A VAE with batch normalisation, whose edges can be cut."""

    def __init__(self, decodes: bool = True, encodes: bool = True) -> None:
        super().__init__()
        self.decodes, self.encodes = decodes, encodes
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, LATENT)
        )
        self.decoder = nn.Linear(LATENT, PIXELS)

    def model(self, x: Tensor) -> None:
        pyro.module("vae", self, update_module_params=True)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal())
            logits = self.decoder(z) if self.decodes else torch.zeros(PIXELS)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.view(-1, PIXELS))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.encoder(x.view(-1, PIXELS))
            pyro.sample("z", normal(loc if self.encodes else torch.zeros(len(x), LATENT)))


class ClassVAE(nn.Module):
    """y -> x <- z, with q(y | x) and q(z | x, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(PIXELS, CLASSES)
        self.encoder = nn.Linear(PIXELS + CLASSES, LATENT)
        self.decoder = nn.Linear(LATENT + CLASSES, PIXELS)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            drawn = pyro.sample("y", dist.OneHotCategorical(torch.ones(CLASSES)), obs=y)
            z = pyro.sample("z", standard_normal())
            label = drawn if y is None else y
            logits = self.decoder(torch.cat([z, label], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            pyro.sample("z", normal(self.encoder(torch.cat([x, y], -1))))


def standard_normal() -> dist.Distribution:
    return dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)


def normal(loc: Tensor) -> dist.Distribution:
    return dist.Normal(loc, 1.0).to_event(1)


def rows() -> Tensor:
    """Binary data for `VAE` and the others."""
    return torch.rand(N, PIXELS, generator=torch.Generator().manual_seed(0)).round()


def nested_model(x: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", x.shape[0], dim=-2):
        theta = pyro.sample("theta", dist.Normal(alpha, 1.0))
        with pyro.plate("data", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def overlapping_model(x: Tensor) -> None:
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-1)
    with rows:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with columns:
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with rows, columns:
        pyro.sample("x", dist.Normal(u * v, 1.0), obs=x)


def pca_model(x: Tensor) -> None:
    weights = pyro.sample("W", dist.Normal(torch.zeros(LATENT, PIXELS), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", standard_normal())
        pyro.sample("x", normal(z @ weights), obs=x)
