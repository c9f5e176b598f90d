"""Programs with several, nested, dependent or Markov enumerated sites, with parameters in Pyro's store."""

import pyro
import pyro.distributions as dist
import torch
from by_hand import SEED
from pyro.ops.indexing import Vindex
from small_programs import IN_PARALLEL, parameter

T = 4


def chain(name):
    """Return the initial and the transition log probabilities of two states."""
    start, moves = parameter(f"{name} start", 0.2, -0.1), parameter(f"{name} moves", 0.9, -0.7, 0.3, 0.1)
    return start.log_softmax(0), moves.reshape(2, 2).log_softmax(1)


def hidden_markov(markov, infer):
    def model(x):
        """k_0 -> k_1 -> ..., k_t -> x_t."""
        start, moves = chain("p")
        means = parameter("means", -1.0, 1.3)
        with pyro.plate("data", len(x)):
            k = None
            for t in markov(range(T)):
                logits = start if k is None else Vindex(moves)[k]
                k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer=infer)
                pyro.sample(f"x{t}", dist.Normal(means[k], 0.8), obs=x[:, t])

    return model


def markov_guide(markov):
    def guide(x):
        start, moves = chain("q")
        lean = parameter("lean", 0.5, -0.4)
        with pyro.plate("data", len(x)):
            k = None
            for t in markov(range(T)):
                logits = start if k is None else Vindex(moves)[k]
                logits = logits + lean * x[:, t, None]
                k = pyro.sample(f"k{t}", dist.Categorical(logits=logits), infer=IN_PARALLEL)

    return guide


def forward(x):
    """log p(x) of the hidden Markov model, by the forward algorithm."""
    start, moves = chain("p")
    score = dist.Normal(parameter("means", -1.0, 1.3), 0.8).log_prob(x[..., None])
    alpha = start + score[:, 0]
    for t in range(1, T):
        alpha = (alpha[:, :, None] + moves).logsumexp(1) + score[:, t]
    return alpha.logsumexp(1)


def two_classes(x):
    """a -> b, (a, b, z) -> x."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(logits=parameter("class a", 0.2, -0.3)))
        logits = parameter("class b", 0.2, -0.3, 0.5) * (1.0 + a[..., None])
        b = pyro.sample("b", dist.Categorical(logits=logits))
        z = pyro.sample("z", dist.Normal(0.3 * b, 1.0))
        mean = (
            parameter("slope", 0.9) * z + parameter("as", -1.0, 1.0)[a] + parameter("bs", 0.1, 1.2, -0.8)[b]
        )
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def two_classes_guide(x):
    w = parameter("w", 0.4, -0.4)
    with pyro.plate("data", len(x)):
        a = pyro.sample(
            "a", dist.Categorical(logits=x[:, :1] * parameter("lean", 0.3, -0.5)), infer=IN_PARALLEL
        )
        logits = x[:, 1:2] * parameter("lean b", 0.3, -0.5, 0.2) + 0.3 * a[..., None]
        b = pyro.sample("b", dist.Categorical(logits=logits), infer=IN_PARALLEL)
        pyro.sample("z", dist.Normal(w[0] * x[:, 0] + 0.2 * a - 0.1 * b, w[1].exp()))


def views(data_dim):
    """y -> (z_v -> x_v for each of three views); the data's plate at dimension -1 or -2."""
    inner = -3 - data_dim

    def along(values):
        return values if data_dim == -1 else values.T

    def model(x):
        with pyro.plate("data", len(x), dim=data_dim):
            y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
            with pyro.plate("views", 3, dim=inner):
                z = pyro.sample("z", dist.Normal(parameter("centres", -1.0, 1.2)[y], 1.0))
                pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.7), obs=along(x[:, :3].T))

    def guide(x):
        w = parameter("w", 0.4, -0.4)
        lean = (
            (x[:, :1] * parameter("lean", 0.3, -0.5))
            if data_dim == -1
            else (x[:, None, :1] * parameter("lean", 0.3, -0.5))
        )
        with pyro.plate("data", len(x), dim=data_dim):
            y = pyro.sample("y", dist.Categorical(logits=lean), infer=IN_PARALLEL)
            with pyro.plate("views", 3, dim=inner):
                pyro.sample("z", dist.Normal(w[0] * along(x[:, :3].T) + 0.3 * y, w[1].exp()))

    return model, guide


def nested_classes(x):
    """A class c for each view of a datum, under a class y of the datum."""
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
        with pyro.plate("views", 3, dim=-2):
            c = pyro.sample("c", dist.Bernoulli(logits=parameter("cs", -0.4, 0.8)[y]))
            mean = parameter("centres", -1.0, 1.2)[y] + parameter("shift", 0.7) * c
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, :3].T)


def nested_classes_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        lean = x[:, :1] * parameter("lean", 0.3, -0.5)
        y = pyro.sample("y", dist.Categorical(logits=lean), infer=IN_PARALLEL)
        with pyro.plate("views", 3, dim=-2):
            logits = parameter("u", 0.6) * x[:, :3].T + 0.2 * y
            pyro.sample("c", dist.Bernoulli(logits=logits), infer=IN_PARALLEL)


def global_class(x):
    """One class for all data, and a latent for each datum."""
    y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(parameter("centres", -1.0, 1.2)[y], 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=x[:, 0])


def global_class_guide(x):
    w = parameter("w", 0.4, -0.4)
    y = pyro.sample("y", dist.Categorical(logits=parameter("lean", 0.3, -0.5)), infer=IN_PARALLEL)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(w[0] * x[:, 0] + 0.2 * y, w[1].exp()))


def mixed(x):
    """A class that only the model has beside one of the guide, and a continuous latent."""
    with pyro.plate("data", len(x)):
        c = pyro.sample(
            "c", dist.Categorical(logits=parameter("class c", 0.2, -0.3, 0.1)), infer=IN_PARALLEL
        )
        y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
        z = pyro.sample("z", dist.Normal(parameter("centres", -1.0, 1.2)[y], 1.0))
        mean = z + parameter("shifts", -1.0, 0.2, 0.9)[c]
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def mixed_guide(x):
    w = parameter("w", 0.4, -0.4)
    with pyro.plate("data", len(x)):
        y = pyro.sample(
            "y", dist.Categorical(logits=x[:, :1] * parameter("lean", 0.3, -0.5)), infer=IN_PARALLEL
        )
        pyro.sample("z", dist.Normal(w[0] * x[:, 0] + 0.2 * y, w[1].exp()))


def nothing(x):
    """A guide without latents."""


PAIRS = {
    "markov": (hidden_markov(pyro.markov, None), markov_guide(pyro.markov)),
    "chain without markov": (hidden_markov(list, None), markov_guide(list)),
    "markov in the model": (hidden_markov(pyro.markov, IN_PARALLEL), nothing),
    "two classes": (two_classes, two_classes_guide),
    "inner plate": views(-1),
    "the data's plate outermost": views(-2),
    "nested classes": (nested_classes, nested_classes_guide),
    "global class": (global_class, global_class_guide),
    "classes of both programs": (mixed, mixed_guide),
}
DEPTHS = {"inner plate": 2, "the data's plate outermost": 2, "nested classes": 2}


def data(count=5):
    return torch.randn(count, T, generator=torch.Generator().manual_seed(1)).double() * 1.5


def loss_and_gradients(objective, pair, x):
    """The loss and the gradients of all parameters, on the draws that follow from one seed."""
    pair[0](x), pair[1](x)
    torch.manual_seed(SEED)
    loss = objective.differentiable_loss(*pair, x)
    parameters = dict(pyro.get_param_store().named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(value) if g is None else g
        for (name, value), g in zip(parameters.items(), found, strict=True)
    }
    return loss.detach(), gradients
