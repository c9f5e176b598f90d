"""Train a conditional VAE to complete MNIST images of which one, two or three quadrants are given.

c holds the pixels of the given quadrants: the lower left one, the left half, or all but the lower right
one. x holds all other pixels. Pixels are grey values g in [0, 1], scored by g log p + (1 - g) log(1 - p),
as in Pyro's tutorial (Sohn et al. 2015 complete images in the same way).

The CVAE has 50 latent dimensions, and each of its networks two hidden layers of 500 units. It is trained on
50,000 images by the ELBO with Adam and a cosine decay of the learning rate from 1e-3. The baseline is one
network from c to p without latents, trained in the same way. The best epoch of each is chosen on 10,000
images of the training set that are held out. The images are read from the folder that PYROVAE_DATA names.

    python experiments/conditional_vae.py run --quadrants 1
    python experiments/conditional_vae.py table

A command that is given again continues an interrupted training.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from reporting import RESULTS, command_line, write_row
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyrovae import data, fit
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import CVAE
from pyrovae.networks import MLP, Joined
from pyrovae.posteriors import DiagonalNormal
from pyrovae.storage import write_atomically

PUBLISHED = {1: (-100.4, -71.8), 2: (-61.9, -51.0), 3: (-25.4, -24.2)}
"""Pyro's tutorial: the baseline's, and the CVAE's ELBO. Test images chose the epochs of both."""

LATENTS, WIDTH, VALIDATION = 50, 500, 10_000
app = command_line(__doc__)


class Grey(Bernoulli):
    """The Bernoulli likelihood with the density extended to grey values, as the cross-entropy is."""

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z, c), whose support is not checked."""
        return dist.Bernoulli(logits=self.network(*context), validate_args=False).to_event(1)


class Baseline(nn.Module):
    """x ~ p(x | c), without latents."""

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood

    def model(self, x: Tensor, c: Tensor) -> None:
        """Define p(x | c)."""
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.likelihood(c), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        """Define nothing, since there are no latents."""


def likelihood(pair: CVAE | Baseline) -> Grey:
    """Return the likelihood of a pair, with its own type."""
    assert isinstance(pair.likelihood, Grey)
    return pair.likelihood


def split(images: Tensor, quadrants: int) -> tuple[Tensor, Tensor]:
    """Return the other pixels x and the given pixels c of images `(N, 1, 28, 28)`, as rows."""
    is_given = torch.zeros(28, 28, dtype=torch.bool)
    is_given[14:, :14] = True
    is_given[:, :14] |= quadrants > 1
    is_given[:14] |= quadrants > 2
    pixels = images.flatten(1)
    return pixels[:, ~is_given.flatten()], pixels[:, is_given.flatten()]


def networks(size_x: int, size_c: int) -> tuple[CVAE, Baseline]:
    """Build the CVAE and the baseline for x and c of these sizes."""
    cvae = CVAE(
        prior=DiagonalNormal(MLP(size_c, WIDTH, hidden=(WIDTH,)), LATENTS),
        likelihood=Grey(Joined(MLP(LATENTS + size_c, size_x, hidden=(WIDTH, WIDTH)), None, None)),
        posterior=DiagonalNormal(Joined(MLP(size_x + size_c, WIDTH, hidden=(WIDTH,)), None, None), LATENTS),
    )
    return cvae, Baseline(Grey(MLP(size_c, size_x, hidden=(WIDTH, WIDTH))))


@app.command
def run(
    quadrants: int = 1, seed: int = 0, epochs: int = 15, folder: Path = Path("runs/conditional_vae")
) -> None:
    """Train with 1, 2 or 3 given quadrants, and write the figures to results/conditional_vae.json."""
    images = data.load("mnist", seed=seed)
    x, c = split(images.x_train, quadrants)
    x_test, c_test = split(images.x_test, quadrants)
    torch.manual_seed(seed)
    cvae, baseline = networks(x.shape[1], c.shape[1])
    row: dict[str, Any] = {"protocol": {"quadrants": quadrants, "epochs": epochs, "seed": seed}}
    start = time.process_time()
    pairs: dict[str, CVAE | Baseline] = {"cvae": cvae, "baseline": baseline}
    for name, pair in pairs.items():
        place = folder / f"{name}-{quadrants}-{epochs}-{seed}"
        likelihood(pair).start_at_marginals(x[:-VALIDATION])
        history = fit(
            pair,
            x[:-VALIDATION],
            given={"c": c[:-VALIDATION]},
            validation=(x[-VALIDATION:], {"c": c[-VALIDATION:]}),
            epochs=epochs,
            scheduler=partial(CosineAnnealingLR, T_max=epochs),
            seed=seed,
            folder=place,
            resume=True,
            compile="off",
            progress=False,
        )
        row[f"{name}_best_epoch"] = history.best_epoch
    result = marginal_likelihood(
        cvae, x_test, given={"c": c_test}, num_samples=100, bounds=(), compile="off"
    )
    with torch.no_grad():
        row["baseline"] = likelihood(baseline)(c_test).log_prob(x_test).mean().item()
    row |= {"cvae": result.mean, "mean_std_error": result.mean_std_error, "elbo": result.elbo}
    row |= {"khat_above_limit": result.num_unreliable, "cpu_seconds": time.process_time() - start}
    print(f"{result}\nbaseline = {row['baseline']:.3f}; written: {write_row('conditional_vae', row)}")


@app.command
def table() -> None:
    """Write the table of results/conditional_vae.json to results/conditional_vae.md."""
    rows = json.loads((RESULTS / "conditional_vae.json").read_text())["rows"]
    head = (
        "given quadrants", "epochs", "baseline", "ELBO", "log p(x given c), K = 100",
        "tutorial, baseline", "tutorial, ELBO", "CPU minutes",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for row in sorted(rows, key=lambda row: row["protocol"]["quadrants"]):
        quadrants, epochs = row["protocol"]["quadrants"], row["protocol"]["epochs"]
        figures = [
            f"{row['baseline']:.1f}",
            f"{row['elbo']:.1f}",
            f"{row['cvae']:.1f} ± {row['mean_std_error']:.3f}",
            *(f"{figure:.1f}" for figure in PUBLISHED[quadrants]),
            f"{row['cpu_seconds'] / 60:.0f}",
        ]
        lines.append(f"| {quadrants} | {epochs} | {' | '.join(figures)} |")
    path = RESULTS / "conditional_vae.md"
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    print(path.read_text())


if __name__ == "__main__":
    app()
