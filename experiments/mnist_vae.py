"""Train the VAE of Burda et al. (2016, k = 1) on dynamically binarised MNIST: test log-likelihood.

The model has a Gaussian posterior, a standard-normal prior, MLP networks and 50 latents. It is trained on
the ELBO with all 60,000 training images, with two budgets: 10 minutes and an hour.

The pixels start at their frequencies, and beta rises from 0 to 1 over the first epochs. Without either of
these, a quarter of the KL term is lost, because some latents become inactive and stay so. The learning
rate falls to zero along half a cosine. All settings were chosen on 5,000 held-out training images. The
test images are binarised once and are used only after training. The images are read from the folder that
PYROVAE_DATA names.

    python experiments/mnist_vae.py --budget short
    python experiments/mnist_vae.py --budget long

A command that is given again continues an interrupted training after its last epoch.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from matplotlib.figure import Figure
from reporting import RESULTS, command_line, write_row

from pyrovae import data, fit, plots
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.generation import only_site, reconstruct, sample_images
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import ResidualMLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.schedules import linear_warm_up
from pyrovae.training import History

# The number of epochs that fits the budget, and the published figure for comparison (nats, K = 5,000).
BUDGETS: dict[str, dict[str, Any]] = {
    "short": {"epochs": 54, "minutes": 10, "published": -86.76, "source": "VAE, k = 1"},
    "long": {"epochs": 310, "minutes": 60, "published": -84.78, "source": "IWAE, k = 50"},
}
WARM_UP = {"short": 12, "long": 40}  # number of epochs during which beta rises
WEIGHT_DECAY = {"short": 0.0, "long": 0.05}
LATENT_DIM, WIDTH, BLOCKS = 50, 400, 2
BATCH_SIZE, LEARNING_RATE = 200, 3e-3


def build(seed: int, x_train: torch.Tensor) -> VAE:
    """Return the VAE, whose pixels start at their frequencies in the training images."""
    torch.manual_seed(seed)
    encoder = ResidualMLP((1, 28, 28), WIDTH, width=WIDTH, blocks=BLOCKS)
    decoder = ResidualMLP(LATENT_DIM, (1, 28, 28), width=WIDTH, blocks=BLOCKS)
    likelihood = Bernoulli(decoder)
    likelihood.start_at_marginals(x_train)
    return VAE(StandardNormal(LATENT_DIM), likelihood, DiagonalNormal(encoder, LATENT_DIM))


app = command_line(__doc__)


@app.default
def main(
    *,
    budget: Annotated[
        Literal["short", "long"], Parameter(help="Training time: 10 minutes or an hour.")
    ] = "short",
    seed: Annotated[int, Parameter(help="Seed of parameters, minibatches and random draws.")] = 0,
    threads: Annotated[int, Parameter(help="Number of CPU threads.")] = 2,
    epochs: Annotated[int | None, Parameter(help="Training epochs. Default: the budget's.")] = None,
    num_samples: Annotated[int, Parameter(help="Importance samples K for each test image.")] = 5000,
    runs: Annotated[Path, Parameter(help="Folder of the checkpoints.")] = Path("runs/experiments"),
    evaluate: Annotated[bool, Parameter(help="Evaluate after training.")] = True,
) -> None:
    """Train and evaluate with one budget, and write row and figure to experiments/results/."""
    torch.set_num_threads(threads)
    setting = BUDGETS[budget]
    epochs = epochs or setting["epochs"]
    images = data.load("mnist")
    vae = build(seed, images.x_train)
    history = fit(
        vae,
        images.x_train,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=partial(
            torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY[budget], fused=True
        ),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        beta=linear_warm_up(WARM_UP[budget]),
        transform=data.binarise,
        seed=seed,
        folder=runs / f"mnist_vae-{budget}-{seed}",
        resume=True,
    )
    minutes = sum(history["seconds"]) / 60
    print(f"{epochs} epochs in {minutes:.1f} minutes on {threads} threads, ELBO {history['elbo'][-1]:.2f}")
    if not evaluate:
        return
    x_test = data.binarise_static(images.x_test, seed=seed)
    result = marginal_likelihood(vae, x_test, num_samples=num_samples, seed=seed, progress=True)
    print(result)
    print(f"written: {write_row('mnist_vae', row(budget, seed, threads, epochs, minutes, result))}")
    draw(budget, vae, history, x_test)


def row(
    budget: str, seed: int, threads: int, epochs: int, minutes: float, result: MarginalLikelihood
) -> dict[str, Any]:
    """Return the row of results."""
    setting = BUDGETS[budget]
    return {
        "model": f"VAE, {LATENT_DIM} latents, residual MLP {WIDTH} x {BLOCKS} blocks",
        "dataset": "MNIST, dynamic binarisation, 60,000 train, 10,000 test",
        "protocol": f"{budget} budget, at most {setting['minutes']} minutes",
        "metric": "log_likelihood",
        "value": result.mean,
        "std": None,
        "std_error": result.mean_std_error,
        "seeds": [seed],
        "published": setting["published"],
        "source": f"Burda et al. 2016, table 1, {setting['source']}",
        "training_minutes": minutes,
        "epochs": epochs,
        "threads": threads,
        "evaluation": result.summary(),
    }


def draw(budget: str, vae: VAE, history: History, x_test: torch.Tensor) -> None:
    """Write a figure of learning curve, samples and reconstructions, and the history as JSON."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    curve, sampled, reconstructed = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])
    plots.learning_curves(history, curve)
    drawn = only_site(sample_images(vae, 64)).unflatten(0, (8, 8))
    plots.image_grid(drawn, "Samples: means of p(x | latents), latents drawn from the prior", axes=sampled)
    x = x_test[:24]
    images = only_site(reconstruct(vae, x))
    pairs = torch.stack([x.unflatten(0, (3, 8)), images.unflatten(0, (3, 8))], 1)
    labels = ["x", "E[x | z]"] * 3
    plots.image_grid(pairs.flatten(0, 1), "Reconstructions of test images", labels, reconstructed)
    print(f"written: {plots.save(figure, RESULTS / f'mnist_vae-{budget}.png')}")
    curves = RESULTS / f"mnist_vae-{budget}-history.json"
    curves.write_text(json.dumps(history.rows) + "\n")


if __name__ == "__main__":
    app()
