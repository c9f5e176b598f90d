"""Train on the importance-weighted bound of Burda et al. (2016) on MNIST: test log-likelihoods.

The architecture is the paper's: 2 x 200 tanh units and 50 latents. It is trained on the bound with 1 and
with 50 samples; the latter with its plain gradient and with its doubly reparameterised gradient (Tucker et
al. 2019). `mnist_protocol.py` describes training and evaluation. The paper trains for 3,280 epochs with a
learning rate that falls from 1e-3 to 1e-4.

An epoch with 50 samples takes as long as 15 epochs with one sample, or 8 epochs with five. So the bound
with 50 samples is also tried as a second stage, after a training with one sample, which the paper does too
to compare the two bounds; and as a third stage, after a second stage with five samples. The images are
read from the folder that PYROVAE_DATA names.

    python experiments/iwae.py run --epochs 100
    python experiments/iwae.py run --objective "IWAE, 50 samples, after the ELBO"
    python experiments/iwae.py table

A command that is given again skips finished jobs and continues an interrupted training after its last
epoch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import mnist_protocol as protocol
import torch
from measurements import Measurements
from reporting import command_line, some_of
from torch import nn

from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.objectives import IWAE
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

LATENT_DIM, WIDTH = 50, 200
BATCH_SIZE, LEARNING_RATE = 20, 1e-3  # as in the paper
FIRST_STAGE = protocol.Budget(400, 100, 3e-3, protocol.NUM_SAMPLES)  # on the ELBO
SECOND_STAGE = protocol.Budget(300, 100, 2e-3, protocol.NUM_SAMPLES)  # on the bound with 5 samples
FROM_THE_START = (-84.78, "Burda et al. 2016, k = 50 from the start (second-hand)")
PUBLISHED = {
    ("ELBO",): (-86.76, "Burda et al. 2016, k = 1 (second-hand)"),
    ("IWAE, 50 samples",): (-84.78, "Burda et al. 2016, k = 50 (second-hand)"),
    ("IWAE, 50 samples, after the ELBO",): FROM_THE_START,
    ("IWAE, 50 samples, after 5",): FROM_THE_START,
}
MEASUREMENTS = Measurements(
    "iwae", partial(protocol.rows, names=("objective",), baseline=("ELBO",), published=PUBLISHED)
)


class Features(nn.Sequential):
    """Layers in sequence whose output is a vector of `WIDTH` features."""

    out_shape = (WIDTH,)


def build(seed: int) -> VAE:
    """Return the paper's VAE. The tanh after the second layer is part of the posterior's network."""
    torch.manual_seed(seed)
    tanh = partial(MLP, activation=nn.Tanh)
    encoder = Features(tanh(protocol.X_SHAPE, WIDTH, hidden=(WIDTH,)), nn.Tanh())
    decoder = tanh(LATENT_DIM, protocol.X_SHAPE, hidden=(WIDTH, WIDTH))
    return VAE(StandardNormal(LATENT_DIM), Bernoulli(decoder), DiagonalNormal(encoder, LATENT_DIM))


def weighted(
    name: str, objective: IWAE, first: tuple[protocol.Job, protocol.Budget] | None = None
) -> protocol.Job:
    """Return a job that trains on the importance-weighted bound. Beta stays at 1, as this bound has none.

    Args:
        name: the job's name.
        objective: the bound.
        first: another job and its budget, whose training comes before this one, or None.
    """
    options = {"objective": objective, "warm_up": False}
    return protocol.Job({"objective": name}, build, options, first)


ELBO_JOB = protocol.Job({"objective": "ELBO"}, build, {})
FIVE_SAMPLES_JOB = weighted("IWAE, 5 samples, after the ELBO", IWAE(5), (ELBO_JOB, FIRST_STAGE))
JOBS = (
    ELBO_JOB,
    weighted("IWAE, 50 samples", IWAE(50)),
    weighted("IWAE, 50 samples, doubly reparameterised", IWAE(50, doubly_reparameterised=True)),
    weighted("IWAE, 50 samples, after the ELBO", IWAE(50), (ELBO_JOB, FIRST_STAGE)),
    FIVE_SAMPLES_JOB,
    weighted("IWAE, 50 samples, after 5", IWAE(50), (FIVE_SAMPLES_JOB, SECOND_STAGE)),
)
OBJECTIVES = [job.key["objective"] for job in JOBS]

app = command_line(__doc__)


@app.command
def run(
    *,
    epochs: protocol.Epochs = 100,
    objective: Annotated[list[str] | None, some_of(OBJECTIVES)] = None,
    seeds: protocol.Seeds = 1,
    batch_size: protocol.BatchSize = BATCH_SIZE,
    learning_rate: protocol.LearningRate = LEARNING_RATE,
    num_samples: protocol.NumSamples = protocol.NUM_SAMPLES,
    cycles: protocol.Cycles = 1,
    decay: protocol.Decay = 1.0,
    clip_norm: protocol.ClipNorm = protocol.CLIP_NORM,
    threads: protocol.Threads = 2,
    runs: protocol.Runs = Path("runs/iwae"),
) -> None:
    """Train and evaluate the models that are not in the measurements yet."""
    jobs = [job for job in JOBS if not objective or job.key["objective"] in objective]
    budget = protocol.Budget(epochs, batch_size, learning_rate, num_samples, cycles, decay, clip_norm)
    protocol.measure(MEASUREMENTS, jobs, budget, seeds, threads, runs)


@app.command
def table() -> None:
    """Write and print the table of all measurements."""
    print(protocol.markdown(MEASUREMENTS, "objective", "ELBO"))


if __name__ == "__main__":
    app()
