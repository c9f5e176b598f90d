"""Programs with a condition, whose log p(x | c) is known."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

N, B = 24, 10  # data, and data in a minibatch


def conditions(count=N):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(2))


def data(count=N):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(3)) + 2.0


def condition_of(x):
    """A condition that can be told from its datum."""
    return torch.cat([x.sin(), x.cos()], -1)


class LinearGaussian(nn.Module):
    """z ~ N(a c, 1), x ~ N(b z + d c, 0.25), with the exact posterior as guide, each datum by itself.

    The parameters of the guide are those of the model, so the ELBO is log p(x | c) without noise.
    """

    def __init__(self, a=0.7, b=1.5, d=-0.4):
        super().__init__()
        self.a, self.b, self.d = (nn.Parameter(torch.tensor(value)) for value in (a, b, d))

    def model(self, x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.a * c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.b * z + self.d * c, 0.5).to_event(1), obs=x)

    def guide(self, x, c):
        precision = 1 + self.b**2 / 0.25
        mean = (self.a * c + self.b * (x - self.d * c) / 0.25) / precision
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, precision**-0.5).to_event(1))

    def log_px(self, x, c):
        """log p(x | c) = log N(x; (a b + d) c, b^2 + 0.25), `(N,)`."""
        scale = (self.b**2 + 0.25).sqrt()
        return dist.Normal((self.a * self.b + self.d) * c, scale).log_prob(x).squeeze(-1).detach()
