"""Compare posteriors by test log-likelihoods on MNIST (van den Berg et al. 2018).

Models: 40 latents under a standard-normal prior, with gated networks of two layers of 300 units. The
posterior is a normal with diagonal or full covariance, or a flow on top of the diagonal normal.

`mnist_protocol.py` describes training and evaluation. The paper differs from this: it uses gated
convolutions, 64 latents, static binarisation, at most 2,000 epochs and no schedule of the learning rate.
Its flows have 16 steps, planar flows have 80, and IAF has hidden layers of 1,920 units; ours have the
steps that the table names. So compare differences from the first row, not absolute values. The images are
read from the folder that PYROVAE_DATA names.

    python experiments/posteriors.py run --epochs 30 --seeds 3
    python experiments/posteriors.py run --epochs 30 --seeds 8 --together     # all seeds in common steps
    python experiments/posteriors.py table

A command that is given again skips finished jobs and continues an interrupted training after its last
epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import mnist_protocol as protocol
import torch
from measurements import Measurements
from reporting import command_line, some_of
from torch import nn

from pyrovae import flows
from pyrovae.flows import Sylvester
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import GatedMLP
from pyrovae.posteriors import DiagonalNormal, FlowPosterior, FullCovarianceNormal
from pyrovae.priors import StandardNormal

LATENT_DIM, WIDTH = 40, 300
# Minibatches of 500 and a rate of 1e-2 halve the KL term of the IAF posterior in the first epochs, and it
# stays low: test log p(x) is then -94.7 nats, against -89.6 of the diagonal normal (one seed). The rate is
# therefore lower for all posteriors.
BATCH_SIZE, LEARNING_RATE = 200, 3e-3
FLOWS: dict[str, Callable[[], flows.Flow]] = {
    "planar, 16 steps": lambda: flows.Planar(LATENT_DIM, 16),
    "IAF, 4 steps": lambda: flows.InverseAutoregressive(LATENT_DIM, 4, hidden=(320,)),
    "orthogonal Sylvester, 4 steps": lambda: Sylvester(LATENT_DIM, 4, "orthogonal", columns=20),
    "Householder Sylvester, 4 steps": lambda: Sylvester(LATENT_DIM, 4, "householder"),
    "triangular Sylvester, 4 steps": lambda: Sylvester(LATENT_DIM, 4, "triangular"),
}
POSTERIORS = ("diagonal normal", "full covariance", *FLOWS)
BERG = "van den Berg et al. 2018 (other protocol)"
PUBLISHED = {
    ("diagonal normal",): (-82.14, f"{BERG}, ± 0.07"),
    ("planar, 16 steps",): (-81.91, f"{BERG}, ± 0.22"),
    ("IAF, 4 steps",): (-80.79, f"{BERG}, ± 0.12"),
    ("orthogonal Sylvester, 4 steps",): (-80.22, BERG),
    ("Householder Sylvester, 4 steps",): (-80.29, BERG),
    ("triangular Sylvester, 4 steps",): (-80.28, BERG),
}
MEASUREMENTS = Measurements(
    "posteriors", partial(protocol.rows, names=("posterior",), baseline=POSTERIORS[:1], published=PUBLISHED)
)


def build(posterior: str, seed: int) -> VAE:
    """Return the VAE with this posterior."""
    torch.manual_seed(seed)
    network = GatedMLP(protocol.X_SHAPE, WIDTH, hidden=(WIDTH,), gated_output=True)
    decoder = GatedMLP(LATENT_DIM, protocol.X_SHAPE, hidden=(WIDTH, WIDTH))
    chosen: nn.Module
    if posterior == "diagonal normal":
        chosen = DiagonalNormal(network, LATENT_DIM)
    elif posterior == "full covariance":
        chosen = FullCovarianceNormal(network, LATENT_DIM)
    else:
        chosen = FlowPosterior(network, LATENT_DIM, FLOWS[posterior]())
    return VAE(StandardNormal(LATENT_DIM), Bernoulli(decoder), chosen)


app = command_line(__doc__)


@app.command
def run(
    *,
    epochs: protocol.Epochs = 30,
    posterior: Annotated[list[str] | None, some_of(POSTERIORS)] = None,
    seeds: protocol.Seeds = 1,
    batch_size: protocol.BatchSize = BATCH_SIZE,
    learning_rate: protocol.LearningRate = LEARNING_RATE,
    num_samples: protocol.NumSamples = protocol.NUM_SAMPLES,
    cycles: protocol.Cycles = 1,
    decay: protocol.Decay = 1.0,
    clip_norm: protocol.ClipNorm = protocol.CLIP_NORM,
    threads: protocol.Threads = 2,
    runs: protocol.Runs = Path("runs/posteriors"),
    together: protocol.Together = False,
) -> None:
    """Train and evaluate the models that are not in the measurements yet."""
    jobs = [protocol.Job({"posterior": name}, partial(build, name), {}) for name in posterior or POSTERIORS]
    budget = protocol.Budget(epochs, batch_size, learning_rate, num_samples, cycles, decay, clip_norm)
    protocol.measure(MEASUREMENTS, jobs, budget, seeds, threads, runs, together)


@app.command
def table() -> None:
    """Write and print the table of all measurements."""
    print(protocol.markdown(MEASUREMENTS, "posterior", "diagonal normal"))


if __name__ == "__main__":
    app()
