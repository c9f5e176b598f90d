"""Small programs whose parameters are in Pyro's store, with guides that are somewhat off."""

import pyro
import pyro.distributions as dist
import torch


def parameter(name, *values):
    return pyro.param(name, torch.tensor(values, dtype=torch.double))


def hierarchy(x):
    """z2 -> z1 -> x."""
    weight, noise = parameter("weight", 1.3, -0.4), parameter("log noise", -0.5).exp()
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(parameter("centre", 0.2), 1.0))
        z1 = pyro.sample("z1", dist.Normal(weight[0] * z2 + 0.3 * z2.square(), noise))
        pyro.sample("x", dist.Normal(z1 + weight[1], 0.7), obs=x[:, 0])


def top_down(x):
    """q(z2 | x) q(z1 | x, z2)."""
    a, b = parameter("a", 0.4, 0.1, -0.4), parameter("b", 0.4, 0.6, -0.6)
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(a[0] * x[:, 0] + a[1], a[2].exp()))
        pyro.sample("z1", dist.Normal(b[0] * x[:, 0] + b[1] * z2, b[2].exp()))


def bottom_up(x):
    """q(z1 | x) q(z2 | z1)."""
    a, b = parameter("a", 0.6, 0.1, -0.4), parameter("b", 0.5, 0.1, -0.6)
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(a[0] * x[:, 0] + a[1], a[2].exp()))
        pyro.sample("z2", dist.Normal(b[0] * z1 + b[1] * z1.square(), b[2].exp()))


def encoder(x):
    """Shared by a prior and a guide, as a VampPrior shares it."""
    w = parameter("encoder", 0.5, 0.1, -0.3)
    return dist.Normal(w[0] * x + w[1], w[2].exp() * (1 + 0.2 * x.square()))


def vamp(x):
    components = encoder(parameter("pseudo-inputs", -1.0, 1.5))
    prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2, dtype=torch.double)), components)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(parameter("slope", 1.4) * z, 0.8), obs=x[:, 0])


def vamp_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", encoder(x[:, 0]))


def traps(x):
    """A latent for each datum, and one in each of an inner plate."""
    with pyro.plate("data", len(x), dim=-1):
        hare = pyro.sample("hare", dist.Normal(parameter("mean hare", 0.3), 1.0))
        with pyro.plate("traps", 2, dim=-2):
            track = pyro.sample("track", dist.Normal(parameter("weight", 1.2) * hare, 0.8))
            pyro.sample("x", dist.Normal(track, 0.5), obs=x.T)


def traps_guide(x):
    a, b = parameter("a", 0.5, -0.5), parameter("b", 0.5, 0.4, -0.6)
    with pyro.plate("data", len(x), dim=-1):
        hare = pyro.sample("hare", dist.Normal(a[0] * x.mean(1), a[1].exp()))
        with pyro.plate("traps", 2, dim=-2):
            pyro.sample("track", dist.Normal(b[0] * x.T + b[1] * hare, b[2].exp()))


def mixture(x):
    """A class beside z, as in M2."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = parameter("slope", 1.2) * z + parameter("centres", -1.0, 1.2)[y]
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def mixture_guide(x):
    w, offset = parameter("w", 0.4, -0.4), parameter("offset", 0.5, -0.5)
    with pyro.plate("data", len(x)):
        y = pyro.sample(
            "y", dist.Categorical(logits=x[:, :1] * parameter("lean", 0.3, -0.5)), infer=IN_PARALLEL
        )
        pyro.sample("z", dist.Normal(w[0] * x[:, 0] + offset[y], w[1].exp()))


def shared_draw(x):
    """The class comes last, so that its values share the particle's z."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([z, parameter("bias", 0.4) - z], -1)))
        mean = parameter("slope", 1.2) * z + parameter("centres", -1.0, 1.2)[y]
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def shared_draw_guide(x):
    w = parameter("w", 0.4, 0.2, -0.4)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w[0] * x[:, 0] + w[1], w[2].exp()))
        pyro.sample("y", dist.Categorical(logits=torch.stack([z, -z], -1)), infer=IN_PARALLEL)


IN_PARALLEL = {"enumerate": "parallel"}
PAIRS = {
    "hierarchy, top down": (hierarchy, top_down),
    "hierarchy, bottom up": (hierarchy, bottom_up),
    "shared encoder": (vamp, vamp_guide),
    "inner plate": (traps, traps_guide),
    "class": (mixture, mixture_guide),
    "class after the latent": (shared_draw, shared_draw_guide),
}


def points(copies):
    """Two data, often: as many independent draws of the gradient in one run."""
    return torch.tensor([[0.8, -0.2], [-1.1, 0.5]], dtype=torch.double).repeat(copies, 1)


def assert_same_mean(one, other, errors=4.5):
    assert one.mean.keys() == other.mean.keys()
    for name, mean in one.mean.items():
        error = (one.std_error[name].square() + other.std_error[name].square()).sqrt()
        assert ((mean - other.mean[name]).abs() <= errors * error + 1e-12).all(), name
