"""Compare priors by test log-likelihoods on MNIST (Tomczak & Welling 2018, Norouzi et al. 2020).

Models: one level of 40 latents, or two levels of 40 each, with gated networks of two layers of 300 units.
The prior of the (upper) latents is the standard normal, a mixture of 500 Gaussians, the VampPrior with 500
pseudo-inputs that start as training images, or RealNVP. The scales of the normals are free, or bounded
between exp(-3) and exp(1) as in the papers.

`mnist_protocol.py` describes training and evaluation. They differ from the papers in the learning rate and
its schedule, in the length of the warm-up, and in the initial biases of the pixels, which start at the
pixels' frequencies. The images are read from the folder that PYROVAE_DATA names.

    python experiments/priors.py run --epochs 30 --seeds 3
    python experiments/priors.py run --epochs 600 --learning-rate 5e-3 --scales bounded
    python experiments/priors.py table

A command that is given again skips finished jobs and continues an interrupted training after its last
epoch.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import mnist_protocol as protocol
import torch
from measurements import Measurements
from reporting import command_line, some_of

from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE, HierarchicalVAE
from pyrovae.networks import GatedMLP, Joined
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import MixtureOfGaussians, RealNVP, StandardNormal, VampPrior

LATENT_DIM, WIDTH, COMPONENTS = 40, 300, 500
# The minibatches are large because the VampPrior encodes its 500 pseudo-inputs for every minibatch. The
# standard-normal prior loses nothing by it. Validation after 30 epochs, by batch size and learning rate:
# -93.9 nats with 100 and 3e-3, -93.8 with 250 and 6e-3, -93.7 with 500 and 1e-2.
BATCH_SIZE, LEARNING_RATE = 500, 1e-2
PRIORS = ("normal", "mixture", "vamp", "realnvp")
SCALE_BOUNDS = {"free": None, "bounded": (math.exp(-3), math.exp(1))}
TW, NOROUZI = "Tomczak & Welling 2018", "Norouzi et al. 2020"
_PUBLISHED = {
    ("normal", 1): (-84.45, f"{NOROUZI}, ± 0.12 (-84.50 in {TW})"),
    ("vamp", 1): (-82.43, f"{NOROUZI}, ± 0.06 (-82.38 in {TW})"),
    ("normal", 2): (-82.39, f"{NOROUZI}, ± 0.11 (-82.42 in {TW})"),
    ("vamp", 2): (-81.56, f"{NOROUZI}, ± 0.09 (-81.24 in {TW})"),
}
PUBLISHED = {(*model, scales): figure for model, figure in _PUBLISHED.items() for scales in SCALE_BOUNDS}
MEASUREMENTS = Measurements(
    "priors",
    partial(
        protocol.rows,
        names=("prior", "levels", "scales"),
        baseline=("normal", 1, "free"),
        published=PUBLISHED,
    ),
)


def features(in_shape: int | tuple[int, ...], hidden: tuple[int, ...] = (WIDTH,)) -> GatedMLP:
    """Return an encoder's network: gated layers, the last of which has `WIDTH` units."""
    return GatedMLP(in_shape, WIDTH, hidden=hidden, gated_output=True)


def build(prior: str, levels: int, scales: str, seed: int) -> protocol.Model:
    """Return a model with one or two levels of latents."""
    torch.manual_seed(seed)
    size = LATENT_DIM
    normal = partial(DiagonalNormal, latent_dim=size, scale_bounds=SCALE_BOUNDS[scales])
    posterior = normal(features(protocol.X_SHAPE))
    chosen = {
        "normal": lambda: StandardNormal(size),
        "mixture": lambda: MixtureOfGaussians(size, COMPONENTS),
        "vamp": lambda: VampPrior(posterior, protocol.X_SHAPE, COMPONENTS),
        "realnvp": lambda: RealNVP(size),
    }[prior]()
    if isinstance(chosen, VampPrior):
        chosen.start_at(protocol.images()[0])
    if levels == 1:
        return VAE(chosen, Bernoulli(GatedMLP(size, protocol.X_SHAPE, hidden=(WIDTH, WIDTH))), posterior)
    single, both = partial(features, hidden=()), 2 * WIDTH
    decoder = Joined(GatedMLP(both, protocol.X_SHAPE, hidden=(WIDTH,)), single(size), single(size))
    encoder = Joined(features(both, hidden=()), single(protocol.X_SHAPE), single(size))
    return HierarchicalVAE(
        prior=chosen,
        latent=normal(features(size)),
        likelihood=Bernoulli(decoder),
        posterior2=posterior,
        posterior1=normal(encoder),
    )


app = command_line(__doc__)


@app.command
def run(
    *,
    epochs: protocol.Epochs = 30,
    prior: Annotated[list[str] | None, some_of(PRIORS)] = None,
    levels: Annotated[list[int] | None, some_of((1, 2))] = None,
    scales: Annotated[list[str] | None, some_of(SCALE_BOUNDS, default="free")] = None,
    seeds: protocol.Seeds = 1,
    batch_size: protocol.BatchSize = BATCH_SIZE,
    learning_rate: protocol.LearningRate = LEARNING_RATE,
    num_samples: protocol.NumSamples = protocol.NUM_SAMPLES,
    cycles: protocol.Cycles = 1,
    decay: protocol.Decay = 1.0,
    clip_norm: protocol.ClipNorm = protocol.CLIP_NORM,
    threads: protocol.Threads = 2,
    runs: protocol.Runs = Path("runs/priors"),
) -> None:
    """Train and evaluate the models that are not in the measurements yet."""
    jobs = [
        protocol.Job(
            {"prior": name, "levels": level, "scales": bounds},
            partial(build, name, level, bounds),
            {},
        )
        for level in levels or (1, 2)
        for name in prior or PRIORS
        for bounds in scales or ("free",)
    ]
    budget = protocol.Budget(epochs, batch_size, learning_rate, num_samples, cycles, decay, clip_norm)
    protocol.measure(MEASUREMENTS, jobs, budget, seeds, threads, runs)


@app.command
def table() -> None:
    """Write and print the table of all measurements."""
    print(protocol.markdown(MEASUREMENTS, "prior, levels, scales", "normal, 1, free"))


if __name__ == "__main__":
    app()
