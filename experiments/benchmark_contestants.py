"""The contestants of `benchmark.py`: functions that return a training step, or a model to evaluate.

A contestant that is not installed raises ImportError. The benchmark then names it and leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import benchmark_handwritten as handwritten
import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.flows import InverseAutoregressive
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import M2, PCVAE, VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.objectives import ELBO, Objective, SupervisedELBO
from pyrovae.posteriors import DiagonalNormal, FlowPosterior
from pyrovae.priors import Classes, StandardNormal
from pyrovae.training import Settings, TrainingRun
from pyrovae.training.fit import minibatches_of
from pyrovae.training.sources import source_of
from pyrovae.training.step import STEPS_BETWEEN

PIXELS, CLASSES = 784, 10
MODELS = ("vae", "pcvae", "m2", "iaf")
SIZES = {"small": (400, 50, 256), "large": (1000, 100, 256)}  # hidden units, latents, batch size
LARGE_ON_GPU = (1000, 100, 1024)
M2_BATCH = 100  # labelled data, and as many unlabelled ones
Step = Callable[[], Any]


class Problem(NamedTuple):
    """A model of a given size, and data for it.

    Attributes:
        model: the model's name: vae, pcvae, m2 or iaf.
        hidden: the number of hidden units.
        latent: the number of latents.
        batch_size: the number of data in a minibatch.
        classes: the number of classes.
        x: the data `(N, 784)`.
        y: the classes `(N,)`.
    """

    model: str
    hidden: int
    latent: int
    batch_size: int
    classes: int
    x: Tensor
    y: Tensor

    @property
    def device(self) -> torch.device:
        """The device of the data, on which all contestants run."""
        return self.x.device


def problem(
    model: str,
    hidden: int,
    latent: int,
    batch_size: int,
    classes: int = CLASSES,
    device: str = "cpu",
    num_data: int | None = None,
) -> Problem:
    """Return a problem with random binary images and random classes, 20 minibatches by default."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(num_data or 20 * batch_size, PIXELS, generator=generator).round()
    y = torch.randint(classes, (len(x),), generator=generator)
    return Problem(model, hidden, latent, batch_size, classes, x.to(device), y.to(device))


def problem_of(model: str, size: str, device: str = "cpu", num_data: int | None = None) -> Problem:
    """Return the problem of a model and a size by their names."""
    hidden, latent, batch = SIZES[size] if device == "cpu" or size == "small" else LARGE_ON_GPU
    batch = M2_BATCH if model == "m2" else batch
    return problem(model, hidden, latent, batch, device=device, num_data=num_data)


def batches_of(p: Problem) -> Callable[[], tuple[Tensor, ...]]:
    """Return a function that gives the next minibatch by shuffled indices, as a handwritten loop does."""
    rows: list[Tensor] = []
    needed = 2 if p.model == "m2" else 1

    def following() -> tuple[Tensor, ...]:
        if len(rows) < needed:
            rows[:] = torch.randperm(len(p.x), device=p.device).split(p.batch_size)
        return minibatch(p, [rows.pop() for _ in range(needed)])

    return following


def minibatch(p: Problem, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the arguments of a handwritten loss for these rows, two sets of them for M2."""
    first = rows[0]
    if p.model == "m2":
        return p.x[first], p.y[first], p.x[rows[1]]
    return (p.x[first], p.y[first]) if p.model == "pcvae" else (p.x[first],)


# This library


class Features(nn.Sequential):
    """A linear layer and ReLU, as in the handwritten encoders."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs), nn.ReLU())
        self.out_shape = (outputs,)


def our_model(p: Problem) -> VAE | PCVAE | M2:
    """Return the problem's model, built from this library's components."""
    h, m = p.hidden, p.latent
    relu = partial(MLP, hidden=(h,), activation=nn.ReLU)
    prior = StandardNormal(m)
    if p.model == "m2":
        mixer = WithClass(Features(h + p.classes, h), p.classes, features=Features(PIXELS, h))
        likelihood = Bernoulli(WithClass(relu(m + p.classes, PIXELS), p.classes))
        classifier = Classifier(relu(PIXELS, p.classes))
        return M2(Classes(p.classes), prior, likelihood, classifier, DiagonalNormal(mixer, m))
    encoder, likelihood = Features(PIXELS, h), Bernoulli(relu(m, PIXELS))
    if p.model == "pcvae":
        return PCVAE(prior, likelihood, DiagonalNormal(encoder, m), LinearClassifier(m, p.classes))
    if p.model == "iaf":
        flow = InverseAutoregressive(m, steps=2, hidden=(128,), context=64)
        return VAE(prior, likelihood, FlowPosterior(encoder, m, flow))
    return VAE(prior, likelihood, DiagonalNormal(encoder, m))


def our_run(p: Problem, compile: str) -> TrainingRun:
    """Return a run of `fit` without progress bar and checkpoints."""
    model = our_model(p)
    y = None if p.model in ("vae", "iaf") else p.y.clone()
    objective: Objective = ELBO()
    if p.model == "m2":
        assert y is not None
        y[len(y) // 2 :] = -1
        objective = SupervisedELBO(0.1)
    settings = Settings(
        epochs=1,
        batch_size=p.batch_size,
        optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
        objective=objective,
        weights={"y": 25.0} if p.model == "pcvae" else None,
        progress=False,
        compile=compile,
    )
    data = minibatches_of(source_of(p.x, y), y, settings, p.device)
    return TrainingRun(model, data, None, settings)


def ours(p: Problem, compile: str) -> Step:
    """Return a training step of `fit`."""
    run = our_run(p, compile)
    epochs = iter(lambda: list(run.data.epoch(0)), None)
    pending: list[Any] = []
    with pyro.validation_enabled(False):
        take_step = run.build_step()

    def step() -> None:
        if not pending:
            pending.extend(next(epochs))
        with pyro.validation_enabled(False):
            take_step(pending.pop(), run.numbers(0.0))

    return step


def comparison(p: Problem) -> Step:
    """Return the comparison of a compiled step with the programs, which `fit` makes now and then."""
    with pyro.validation_enabled(False):
        take_step = our_run(p, "on").build_step()
    take_step.compare(0)  # nothing: the step has just been recorded

    def compare() -> None:
        with pyro.validation_enabled(False):
            take_step.compare(STEPS_BETWEEN)  # an epoch before which the comparison is due

    return compare


# The same programs in Pyro's own training loop


def svi(p: Problem) -> Step:
    """Return a step of `pyro.infer.SVI` with the same programs."""
    pyro.clear_param_store()
    model = our_model(p).to(p.device)
    elbo = pyro.infer.TraceEnum_ELBO() if p.model == "m2" else pyro.infer.Trace_ELBO()
    optimizer = pyro.optim.Adam({"lr": 1e-3})
    loop = pyro.infer.SVI(model.model, model.guide, optimizer, elbo)
    following = batches_of(p)

    def step() -> None:
        batch = following()
        with pyro.validation_enabled(False):
            loop.step(*batch[:2])
            if p.model == "m2":
                loop.step(batch[2])

    return step


# Handwritten PyTorch


def by_hand(p: Problem) -> handwritten.VAE | handwritten.M2:
    """Return the problem's model, written by hand."""
    sizes = (PIXELS, p.hidden, p.latent)
    if p.model == "m2":
        return handwritten.M2(*sizes, p.classes)
    if p.model == "pcvae":
        return handwritten.PCVAE(*sizes, p.classes)
    return handwritten.IAFVAE(*sizes) if p.model == "iaf" else handwritten.VAE(*sizes)


def pytorch(p: Problem, compiled: bool) -> Step:
    """Return a training step of the handwritten model."""
    model = by_hand(p).to(p.device)
    # On a GPU, "reduce-overhead" captures the compiled kernels of forward and backward in CUDA graphs.
    mode = "reduce-overhead" if p.device.type == "cuda" else None
    loss: Any = torch.compile(model, mode=mode) if compiled else model
    step, following = handwritten.training_step(model, loss), batches_of(p)
    return lambda: step(*following())


def captured(p: Problem) -> Step:
    """Return a training step of the handwritten model as one CUDA graph, the limit of what is possible.

    Minibatch, loss, gradients and optimiser are captured. Between two replays only indices are copied.

    Raises:
        ImportError: the device is no GPU.
    """
    if p.device.type != "cuda":
        raise ImportError("a step is captured on a GPU only.")
    model = by_hand(p).to(p.device)
    batches: list[Tensor] = []
    static = [torch.arange(p.batch_size, device=p.device) for _ in range(2 if p.model == "m2" else 1)]
    replay = handwritten.captured_step(model, lambda: minibatch(p, static))

    def step() -> None:
        if len(batches) < len(static):
            batches[:] = torch.randperm(len(p.x), device=p.device).split(p.batch_size)
        for rows in static:
            rows.copy_(batches.pop())
        replay()

    return step


# NumPyro


def numpyro(p: Problem) -> Step:
    """Return a training step of the VAE or the PC-VAE as a NumPyro program, compiled by jit."""
    import jax
    import numpyro as npr
    import numpyro.distributions as dist

    if p.model not in ("vae", "pcvae"):
        raise ImportError(f"there is no NumPyro program for {p.model}.")
    if p.device.type == "cuda" and jax.default_backend() != "gpu":
        raise ImportError("jax is installed without CUDA.")
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 for anyone

    def affine(name: str, x: Any, outputs: int) -> Any:
        bound = x.shape[-1] ** -0.5

        def start(key: Any) -> Any:
            return jax.random.uniform(key, (x.shape[-1], outputs), minval=-bound, maxval=bound)

        weight, bias = npr.param(f"{name}.w", start), npr.param(f"{name}.b", jax.numpy.zeros(outputs))
        return x @ weight + bias

    def model(x: Any, y: Any = None) -> None:
        with npr.plate("data", x.shape[0]):
            z = npr.sample("z", dist.Normal(jax.numpy.zeros(p.latent), 1.0).to_event(1))
            logits = affine("logits", jax.nn.relu(affine("decoder", z, p.hidden)), PIXELS)
            npr.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)
            if y is not None:
                npr.sample("y", dist.Categorical(logits=affine("classifier", z, p.classes)), obs=y)

    def guide(x: Any, y: Any = None) -> None:
        with npr.plate("data", x.shape[0]):
            h = jax.nn.relu(affine("encoder", x, p.hidden))
            scale = jax.nn.softplus(affine("scale", h, p.latent)) + 1e-4
            npr.sample("z", dist.Normal(affine("loc", h, p.latent), scale).to_event(1))

    loop = npr.infer.SVI(model, guide, npr.optim.Adam(1e-3), npr.infer.Trace_ELBO())
    data = [
        jax.numpy.asarray(part.cpu().numpy()) for part in ((p.x, p.y) if p.model == "pcvae" else (p.x,))
    ]
    rows: list[Tensor] = []
    state = loop.init(jax.random.PRNGKey(0), *(part[: p.batch_size] for part in data))

    @jax.jit
    def update(state: Any, rows: Any) -> Any:
        return loop.update(state, *(part[rows] for part in data))

    def step() -> None:
        nonlocal state
        if not rows:
            rows[:] = torch.randperm(len(p.x)).split(p.batch_size)
        state, loss = update(state, rows.pop().numpy())
        loss.block_until_ready()

    return step


# pythae: its trainer and its evaluation are measured as a whole


def pythae_model(p: Problem) -> Any:
    """Return the problem's VAE as a model of pythae."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.h = nn.Linear(PIXELS, p.hidden)
            self.loc, self.log_var = nn.Linear(p.hidden, p.latent), nn.Linear(p.hidden, p.latent)

        def forward(self, x: Tensor) -> Any:
            h = torch.relu(self.h(x))
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.logits = nn.Linear(p.latent, p.hidden), nn.Linear(p.hidden, PIXELS)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.logits(torch.relu(self.h(z)))))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=p.latent, reconstruction_loss="bce")
    return PythaeVAE(config, encoder=Encoder(), decoder=Decoder())


def pythae_training(p: Problem, folder: str) -> Callable[[int], None]:
    """Return a function that trains for a given number of epochs with pythae's pipeline."""
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    def train(epochs: int) -> None:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            per_device_train_batch_size=p.batch_size,
            learning_rate=1e-3,
            no_cuda=True,
        )
        TrainingPipeline(pythae_model(p), config)(train_data=p.x.numpy().astype(np.float32))

    return train


CONTESTANTS: dict[str, Callable[[Problem], Step]] = {
    "handwritten, eager": partial(pytorch, compiled=False),
    "handwritten, torch.compile": partial(pytorch, compiled=True),
    "handwritten, captured": captured,
    "pyrovae, eager": partial(ours, compile="off"),
    "pyrovae, compiled": partial(ours, compile="on"),
    "pyro.infer.SVI": svi,
    "NumPyro, jit": numpyro,
}
BASELINE = "handwritten, eager"
