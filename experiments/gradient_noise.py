"""How noisy is each estimator of the gradient? The VAE of `iwae.py` on MNIST, at the start and in training.

For one minibatch of 100 images and fixed parameters, gradients are drawn again and again, and what is
reported is the trace of their covariance and the signal-to-noise ratio, the length of the mean gradient
over the root of that trace; for the guide's parameters and, by themselves, the model's. Estimators of one
bound have one mean, that of the score function's is therefore taken from the reparameterised draws: its own
are too noisy to tell it from 0.

- One bound, the ELBO, and two estimators: reparameterised, and the score function's (which is what a latent
  without reparameterisation is left with).
- The importance-weighted bound with more and more samples, with its plain gradient and the doubly
  reparameterised one. In the limit of many samples the guide's signal-to-noise ratio falls as 1 / sqrt(K)
  with the plain gradient (Rainforth et al. 2018), and rises as sqrt(K) with the other (Tucker et al. 2019).

    PYROVAE_DATA=... python experiments/gradient_noise.py
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Annotated, Any

import torch
import typer
from iwae import build
from matplotlib.figure import Figure
from mnist_protocol import images
from reporting import RESULTS, command_line

from pyrovae import data, fit, plots
from pyrovae.evaluation import gradient_variance
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
    """Name, K, and the objective. The ELBO's reparameterised gradient is the bound's with K = 1."""
    bounds: list[tuple[str, int, Objective]] = [(SCORE, 1, ScoreFunctionELBO()), (PLAIN, 1, ELBO())]
    bounds += [(PLAIN, samples, IWAE(samples)) for samples in SAMPLES[1:]]
    return bounds + [(DOUBLY, samples, IWAE(samples, True)) for samples in SAMPLES]


def measure(vae: VAE, epochs: int, x: torch.Tensor, repeats: int) -> list[Row]:
    """The noise of every estimator's gradient at these parameters."""
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


@app.command()
def main(
    repeats: Annotated[int, typer.Option(help="Gradients drawn for each estimator.", min=2)] = 300,
    seed: Annotated[int, typer.Option(help="Of the parameters and of training.")] = 0,
) -> None:
    """Train, measure at each stage, and write figure, table and numbers."""
    x_train = images()[0]
    x = data.binarise_static(x_train[:BATCH_SIZE], seed)
    vae = build(seed)
    vae.likelihood.start_at_marginals(x_train)  # type: ignore[operator]
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
    write_atomically(RESULTS / "gradient_noise.md", table(rows).encode())
    print(f"written: {plots.save(draw(rows), RESULTS / 'gradient_noise.png')}")


def table(rows: list[Row]) -> str:
    """The numbers in Markdown: an estimator a line."""
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
    """The guide's and the model's signal-to-noise ratio over K, a column for each stage of training."""
    figure = Figure(figsize=(4 * len(STAGES), 6.4), layout="constrained")
    figure.suptitle(
        "How much of a gradient is signal, for one minibatch of 100 images (higher is better)\n"
        "The model's parameters get the same gradient from all estimators of a bound"
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
        line[0].set_ylabel("signal / noise of a gradient")
    panels[-1, 0].set(yscale="linear", ylim=(0, None))
    for panel in panels[-1]:
        panel.set(xlabel="samples K", xticks=SAMPLES, xticklabels=[str(k) for k in SAMPLES])
        panel.minorticks_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    app()
