"""Train a Bayesian neural network on MNIST (Blundell et al. 2015): test errors beside the published ones.

The network has two hidden layers of 400 units. Its weights have a normal prior of standard deviation 0.1
and an independent normal posterior. They are trained on 60,000 images by the ELBO with one draw of the
weights for each minibatch of 128, with Adam and a cosine decay of the learning rate from 1e-3. The class of
a test image is the most probable one under the mean of the probabilities for 100 draws of the weights.

The learning rate was chosen on 10,000 images of the training set that were held out. The images are read
from the folder that PYROVAE_DATA names.

    python experiments/bayesian_network.py run --seed 0
    python experiments/bayesian_network.py table

An epoch takes six seconds on one core. A command that is given again continues an interrupted training.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from reporting import RESULTS, command_line, write_row

from pyrovae import data
from pyrovae.evaluation import class_probabilities, error_rate
from pyrovae.recipes import About, Data, Training, bnn
from pyrovae.storage import write_atomically

PUBLISHED = "1.3 to 2.0"
app = command_line(__doc__)


@app.command
def run(seed: int = 0, epochs: int = 100, folder: Path = Path("runs/bayesian_network")) -> None:
    """Train one network, and write its test errors to results/bayesian_network.json."""
    images = data.load("mnist", seed=seed)
    x_train, y_train, x_test, y_test = images.x_train, images.y_train, images.x_test, images.y_test
    assert y_train is not None
    assert y_test is not None
    place = folder / f"{epochs}-{seed}"
    start = time.process_time()
    fitted = bnn(About.of(x_train, y_train, seed=seed)).fit(
        x_train,
        y_train,
        training=Training(epochs=epochs, seed=seed, compile="off"),
        data=Data(split_seed=seed),
        folder=place,
        resume=(place / "checkpoints").is_dir(),
    )
    seconds = time.process_time() - start
    errors = {
        draws: error_rate(class_probabilities(fitted.pair, x_test, num_samples=draws, seed=seed), y_test)
        for draws in (1, 10, 100)
    }
    last = fitted.history.rows[-1]
    row = {
        "protocol": {"epochs": epochs, "seed": seed},
        "test_error": errors[100],
        "test_error_by_draws": errors,
        "elbo": last["elbo"],
        "kl": last["kl"],
        "cpu_seconds": seconds,
    }
    print(f"{errors[100]:.2f} % test error; written: {write_row('bayesian_network', row)}")


@app.command
def table() -> None:
    """Write the table of results/bayesian_network.json to results/bayesian_network.md."""
    rows = json.loads((RESULTS / "bayesian_network.json").read_text())["rows"]
    head = ("epochs", "seeds", "test error, %", "one draw of w, %", "ELBO, nats per image", "published, %")
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for epochs in sorted({row["protocol"]["epochs"] for row in rows}):
        of_epochs = [row for row in rows if row["protocol"]["epochs"] == epochs]
        figures = [
            _mean_and_sd([row["test_error"] for row in of_epochs]),
            _mean_and_sd([row["test_error_by_draws"]["1"] for row in of_epochs]),
            _mean_and_sd([row["elbo"] for row in of_epochs], digits=3),
        ]
        lines.append(f"| {epochs} | {len(of_epochs)} | {' | '.join(figures)} | {PUBLISHED} |")
    path = RESULTS / "bayesian_network.md"
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    print(path.read_text())


def _mean_and_sd(values: list[float], digits: int = 2) -> str:
    """Return the mean of the seeds' values and, for several seeds, their standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    app()
