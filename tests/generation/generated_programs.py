"""Small programs of several kinds, whose moments are known in closed form."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

T = 5
"""The length of the sequences."""


class Conditional(nn.Module):
    """x given a condition c: z ~ N(0, 1), x ~ N(z + c, 1), in two dimensions."""

    def model(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + c, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - c) / 2, 0.5**0.5).to_event(1))


class TwoSites(nn.Module):
    """Two observed sites: x1 ~ N(z, 1) and x2 ~ N(-2 z, 1), and a factor behind them."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x1", dist.Normal(z, 1.0).to_event(1), obs=x[..., :2])
            pyro.sample("x2", dist.Normal(-2 * z, 1.0).to_event(1), obs=x[..., 2:])
            pyro.factor("penalty", -z.square().sum(-1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[..., :2], 1.0).to_event(1))


class TeacherForcing(nn.Module):
    """x_t ~ N(z + x_{t-1} / 2, 1), where x_{t-1} is read off the data."""

    x_shape = (T,)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
            pyro.sample("x", dist.Normal(z + before / 2, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.1).to_event(1))


class TeacherForcingBySteps(TeacherForcing):
    """The same model with a site for each step."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)).squeeze(-1)
            before = torch.zeros(len(x))
            for t in range(T):
                pyro.sample(f"x{t}", dist.Normal(z + before / 2, 1.0), obs=x[:, t])
                before = x[:, t]


class LatentsBySteps(nn.Module):
    """z_t ~ N(x_{t-1} / 2, 1), x_t ~ N(z_t, 1): latents that depend on earlier values of the data."""

    x_shape = (T,)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            before = torch.zeros(len(x))
            for t in range(T):
                z = pyro.sample(f"z{t}", dist.Normal(before / 2, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])
                before = x[:, t]

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(T):
                pyro.sample(f"z{t}", dist.Normal(x[:, t], 1.0))


class LibrarySize(nn.Module):
    """Counts with mean rho(z) times their sum, which is read off the data unless it is given."""

    def model(self, x: Tensor, library: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            size = x.sum(-1) if library is None else library
            pyro.sample("x", dist.Poisson(size[..., None] * z.softmax(-1)).to_event(1), obs=x)

    def guide(self, x: Tensor, library: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.log(), 0.1).to_event(1))


class Mixture(nn.Module):
    """A class c, z ~ N(0, 1), and x ~ N(z + centre of c, 1).

    Args:
        one_hot: whether the class is a one-hot vector.
        argument: whether the class is an argument of the model, else it is a latent alone.
    """

    probs = torch.tensor([0.2, 0.3, 0.5])
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]])

    def __init__(self, one_hot: bool = True) -> None:
        super().__init__()
        self.family: Any = dist.OneHotCategorical if one_hot else dist.Categorical

    def centre(self, c: Tensor) -> Tensor:
        return self.centres[c] if self.family is dist.Categorical else c @ self.centres

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("kind", self.family(self.probs))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.centre(c), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = -torch.cdist(x, self.centres).square() / 4
            c = pyro.sample("kind", self.family(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((x - self.centre(c)) / 2, 0.5**0.5).to_event(1))


class LabelledMixture(Mixture):
    """The mixture as M2: the class is the second argument of both programs."""

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("kind", self.family(self.probs), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.centre(y), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                logits = -torch.cdist(x, self.centres).square() / 4
                y = pyro.sample("kind", self.family(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((x - self.centre(y)) / 2, 0.5**0.5).to_event(1))


class EncodingMixture(LabelledMixture):
    """The mixture with one-hot classes, whose programs take them as whole numbers."""

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        super().model(x, None if y is None else one_hot(y, 3).float())

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        super().guide(x, None if y is None else one_hot(y, 3).float())


class SignOfZ(nn.Module):
    """A PC-VAE in one dimension: the class is predicted from the sign of z, right in 97 % of draws."""

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            if y is not None:
                right = torch.where(z < 0, 0.97, 0.03)
                pyro.sample("y", dist.Categorical(torch.cat([right, 1 - right], -1)), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


class Linear(nn.Module):
    """z ~ N(0, 1) and x around z, with a posterior and a likelihood of any family around x and z."""

    def __init__(self, posterior: Any, likelihood: Any = lambda z: dist.Normal(z, 1.0)) -> None:
        super().__init__()
        self.posterior, self.likelihood = posterior, likelihood

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def cauchy(x: Tensor) -> dist.TorchDistribution:
    return dist.Cauchy(x, 1.0).to_event(1)


@contextmanager
def nothing_changes(pair: nn.Module) -> Iterator[None]:
    """Check that the random streams, and the modules' modes and devices, are the same afterwards."""

    def state() -> tuple[Any, ...]:
        modes = [part.training for part in pair.modules()]
        devices = [value.device for value in pair.state_dict().values()]
        numpy = np.random.get_state()
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            numpy[1].tolist(),
            numpy[2],
            modes,
            devices,
        )

    before = state()
    yield
    assert state() == before
