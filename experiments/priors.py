"""Which prior? Test log-likelihoods on MNIST, after Tomczak & Welling (2018) and Norouzi et al. (2020).

One level of latents (40) or two (40 each), gated networks of two layers of 300, and as prior of the
(upper) latents the standard normal, a mixture of 500 Gaussians, the VampPrior with 500 pseudo-inputs,
which begin as training images, or RealNVP. `mnist_protocol` says how they are trained and scored. It
differs from the papers in the learning rate and its schedule, in the warm-up's length, and in the pixels'
biases, which begin at the pixels' frequencies. The normals' scales are free, or bounded as in the papers:
between exp(-3) and exp(1).

    PYROVAE_DATA=... python experiments/priors.py run --epochs 30 --seeds 3
    PYROVAE_DATA=... python experiments/priors.py run --epochs 600 --learning-rate 5e-3 --scales bounded
    python experiments/priors.py table

What is done is skipped when a command is given again, and an interrupted training goes on from its last
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
from torch import nn

from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE, HierarchicalVAE
from pyrovae.networks import GatedMLP, Joined
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import MixtureOfGaussians, RealNVP, StandardNormal, VampPrior

LATENT_DIM, WIDTH, COMPONENTS = 40, 300, 500
# Large minibatches, since for each one the VampPrior's 500 pseudo-inputs are encoded. With the standard
# prior, 30 epochs give on validation -93.9 nats with 100 and 3e-3, -93.8 with 250 and 6e-3, -93.7 so.
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
    """Gated layers, the last of `WIDTH` units."""
    return GatedMLP(in_shape, WIDTH, hidden=hidden, gated_output=True)


def build(prior: str, levels: int, scales: str, seed: int) -> nn.Module:
    """The model with one or two levels of latents."""
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


@app.command()
def run(
    epochs: protocol.Epochs = 30,
    prior: Annotated[list[str] | None, some_of(PRIORS)] = None,
    levels: Annotated[list[int] | None, some_of((1, 2))] = None,
    scales: Annotated[list[str] | None, some_of(SCALE_BOUNDS)] = None,
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
    """Train and evaluate what is still to be done."""
    jobs = [
        protocol.Job(
            {"prior": name, "levels": level, "scales": its_scales},
            partial(build, name, level, its_scales),
            {},
        )
        for level in levels or (1, 2)
        for name in prior or PRIORS
        for its_scales in scales or ("free",)
    ]
    budget = protocol.Budget(epochs, batch_size, learning_rate, num_samples, cycles, decay, clip_norm)
    protocol.measure(MEASUREMENTS, jobs, budget, seeds, threads, runs)


@app.command()
def table() -> None:
    """Write the table of what has been measured so far."""
    print(protocol.markdown(MEASUREMENTS, "prior, levels, scales", "normal, 1, free"))


if __name__ == "__main__":
    app()
