"""Measure how noisy each estimator of the gradient is, for the VAE of `iwae.py` on MNIST.

The minibatch (100 images) and the parameters are fixed, and the gradient is drawn many times. This is done
at the start of training and at two later stages. The numbers are the trace of the gradients' covariance
and the signal-to-noise ratio: the length of the mean gradient over the square root of that trace. They are
given for the guide's parameters and for the model's parameters separately.

- The ELBO has two estimators: the reparameterised gradient and the score function's. The latter is the
  only one for a latent that cannot be reparameterised.
- The importance-weighted bound with K samples has a plain gradient and a doubly reparameterised one. For
  large K, the guide's signal-to-noise ratio falls as 1 / sqrt(K) with the plain gradient (Rainforth et al.
  2018), and rises as sqrt(K) with the other (Tucker et al. 2019).

All estimators of one bound have the same mean. The mean of the score function's gradients is therefore
taken from the reparameterised ones, since its own draws are too noisy to tell it from 0. The images are
read from the folder that PYROVAE_DATA names.

    python experiments/gradient_noise.py
    python experiments/gradient_noise.py report
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Annotated, Any

import torch
from cyclopts import Parameter, validators
from iwae import build
from matplotlib.figure import Figure
from mnist_protocol import images
from reporting import RESULTS, command_line

from pyrovae import data, fit, plots
from pyrovae.evaluation import gradient_variance
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.objectives import ELBO, IWAE, Objective, ScoreFunctionELBO
from pyrovae.plots import COLOURS
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

STAGES = (0, 1, 20)  # epochs of training
BATCH_SIZE = 100
SAMPLES = (1, 2, 5, 10, 20, 50)  # K
PLAIN, DOUBLY, SCORE = "IWAE", "IWAE, doubly reparameterised", "ELBO, score function"
PARTS = {"guide": "posterior", "model": "likelihood"}

Row = dict[str, Any]
app = command_line(__doc__)


def estimators() -> list[tuple[str, int, Objective]]:
    """Return name, K and objective of each estimator. The IWAE bound with K = 1 is the ELBO."""
    bounds: list[tuple[str, int, Objective]] = [(SCORE, 1, ScoreFunctionELBO()), (PLAIN, 1, ELBO())]
    bounds += [(PLAIN, samples, IWAE(samples)) for samples in SAMPLES[1:]]
    return bounds + [(DOUBLY, samples, IWAE(samples, True)) for samples in SAMPLES]


def measure(vae: VAE, epochs: int, x: torch.Tensor, repeats: int) -> list[Row]:
    """Measure the noise of every estimator's gradient at the VAE's current parameters.

    Args:
        vae: the VAE.
        epochs: the number of epochs of its training so far, for the rows.
        x: the minibatch `(B, 1, 28, 28)`.
        repeats: the number of gradients drawn for each estimator.
    """
    rows: list[Row] = []
    for name, samples, objective in estimators():
        noise = gradient_variance(objective, vae, x, repeats=repeats)
        for part, prefix in PARTS.items():
            summary = noise.of(prefix).summary()
            rows.append({"estimator": name, "K": samples, "epochs": epochs, "of": part} | summary)
    of = {(row["estimator"], row["K"], row["of"]): row for row in rows}
    for part in PARTS:
        score, other = of[SCORE, 1, part], of[PLAIN, 1, part]
        ratio = math.sqrt(other["total_variance"] / score["total_variance"])
        score["signal_to_noise"] = ratio * other["signal_to_noise"]
    return rows


@app.default
def main(
    *,
    repeats: Annotated[
        int, Parameter(help="Gradients drawn for each estimator.", validator=validators.Number(gte=2))
    ] = 300,
    seed: Annotated[int, Parameter(help="Seed of the initial parameters and of training.")] = 0,
) -> None:
    """Train the VAE, measure at each stage, and write the numbers, the table and the figure."""
    x_train = images()[0]
    x = data.binarise_static(x_train[:BATCH_SIZE], seed)
    vae = build(seed)
    assert isinstance(vae.likelihood, Bernoulli)
    vae.likelihood.start_at_marginals(x_train)
    rows: list[Row] = []
    for begin, end in zip((0, *STAGES), STAGES, strict=False):
        if end > begin:
            fit(
                vae,
                x_train,
                epochs=end - begin,
                batch_size=BATCH_SIZE,
                optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
                transform=data.binarise,
                seed=seed + end,
                progress=False,
            )
        rows += measure(vae, end, x, repeats)
        print(table([row for row in rows if row["epochs"] == end]), flush=True)
    content = {
        "command": f"python experiments/gradient_noise.py --repeats {repeats} --seed {seed}",
        "versions": versions(),
        "git_commit": git_commit(),
        "rows": rows,
    }
    write_atomically(RESULTS / "gradient_noise.json", json.dumps(content, indent=1).encode() + b"\n")
    report()


@app.command
def report() -> None:
    """Write the table and the figure of all measurements."""
    rows = json.loads((RESULTS / "gradient_noise.json").read_text())["rows"]
    write_atomically(RESULTS / "gradient_noise.md", table(rows).encode())
    print(f"written: {plots.save(draw(rows), RESULTS / 'gradient_noise.png')}")


def table(rows: list[Row]) -> str:
    """Return the numbers as a Markdown table with one line for each estimator."""
    lines = [
        "| epochs | estimator | K | guide: variance | guide: signal / noise | model: signal / noise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for guide, model in zip(rows[::2], rows[1::2], strict=True):
        lines.append(
            f"| {guide['epochs']} | {guide['estimator']} | {guide['K']} | {guide['total_variance']:.3g} | "
            f"{guide['signal_to_noise']:.3g} | {model['signal_to_noise']:.3g} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[Row]) -> Figure:
    """Draw the signal-to-noise ratios of guide and model over K, one column for each stage of training."""
    figure = Figure(figsize=(4 * len(STAGES), 6.4), layout="constrained")
    figure.suptitle(
        "Signal-to-noise ratio of the gradient for one minibatch of 100 images (higher is better)\n"
        "All estimators of one bound give the model's parameters the same gradient"
    )
    panels = figure.subplots(len(PARTS), len(STAGES), sharex=True, sharey="row")
    looks = {
        PLAIN: ("o-", COLOURS[0], f"{PLAIN} (K = 1: the ELBO)"),
        DOUBLY: ("s-", COLOURS[2], DOUBLY),
        SCORE: ("D", COLOURS[1], SCORE),
    }
    for line, part in zip(panels, PARTS, strict=True):
        for panel, epochs in zip(line, STAGES, strict=True):
            here = [row for row in rows if (row["epochs"], row["of"]) == (epochs, part)]
            for name, (style, colour, label) in looks.items():
                points = [(row["K"], row["signal_to_noise"]) for row in here if row["estimator"] == name]
                panel.loglog(*zip(*points, strict=True), style, color=colour, label=label)
            panel.set_title(
                f"parameters of the {part}, after {epochs} epoch{'s' * (epochs != 1)}", fontsize=10
            )
            panel.grid(alpha=0.3)
        line[0].set_ylabel("signal / noise of the gradient")
    panels[-1, 0].set(yscale="linear", ylim=(0, None))
    for panel in panels[-1]:
        panel.set(xlabel="samples K", xticks=SAMPLES, xticklabels=[str(k) for k in SAMPLES])
        panel.minorticks_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    app()
