"""The fixed cost of a call, and the slower ways to run copies, for `benchmark.py`.

A call's fixed cost is its time on a small model and few data: the checks, the search for the layout of
dimensions, and the comparison of the ways. The ways run the same copies of the same programs; which one is
taken depends on what the programs' networks can do.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from benchmark_contestants import PIXELS, our_model, problem

from pyrovae import evaluation as ev
from pyrovae import fit, generation, plate_diagram
from pyrovae.objectives import ELBO, SupervisedELBO
from pyrovae.programs.copies import Copies, Way, run_copies
from pyrovae.programs.modes import evaluating
from pyrovae.programs.rows import Arguments
from pyrovae.programs.structure import structure

DATA, SAMPLES, REPEATS = 20, 10, 5
WAYS: dict[str, Way] = {
    "leading dimensions": "leading",
    "rows": "rows",
    "mapped by vmap": "mapped",
    "one copy at a time": "single",
}


class Cost(NamedTuple):
    """The cost of something, in milliseconds.

    Attributes:
        name: its name.
        first: the time of the first call.
        later: the shortest time of later calls.
    """

    name: str
    first: float
    later: float


def calls() -> Iterator[Cost]:
    """Measure one call of each public function, on a small VAE or M2 with 20 data and 10 draws."""
    p = problem("vae", 16, 2, DATA)
    q = problem("m2", 16, 2, DATA)
    vae, m2 = our_model(p), our_model(q)
    x, y = p.x[:DATA], p.y[:DATA]
    few = torch.zeros(4, 2)
    one_step: dict[str, Any] = {
        "epochs": 1, "batch_size": DATA, "progress": False, "compile": "off", "device": "cpu"
    }  # fmt: skip
    actions: dict[str, Callable[[], Any]] = {
        "fit, 1 step": lambda: fit(our_model(p), x, **one_step),
        "fit, 1 step, M2": lambda: fit(our_model(q), x, y, objective=SupervisedELBO(0.1), **one_step),
        "ELBO().evaluate": lambda: ELBO().evaluate(vae, x),
        "marginal_likelihood": partial(ev.marginal_likelihood, vae, x, num_samples=SAMPLES),
        "marginal_likelihood, M2": partial(ev.marginal_likelihood, m2, x, num_samples=SAMPLES),
        "inference_gaps": partial(ev.inference_gaps, vae, x, num_samples=SAMPLES, steps=1, particles=1),
        "best_guide": partial(ev.best_guide, vae, x, steps=1, particles=1),
        "kl_decomposition": partial(ev.kl_decomposition, vae, x, num_samples=1),
        "active_units": partial(ev.active_units, vae, x, num_samples=SAMPLES),
        "gradient_variance": partial(ev.gradient_variance, ELBO(), vae, x, repeats=2),
        "class_posterior": partial(ev.class_posterior, m2, x, q.classes, num_samples=SAMPLES),
        "impute": partial(
            ev.impute, vae, x, torch.arange(PIXELS).expand(DATA, -1) % 2 > 0, num_samples=SAMPLES
        ),
        "samples": partial(generation.samples, vae, 4),
        "reconstruct": partial(generation.reconstruct, vae, x),
        "latent_means": partial(generation.latent_means, vae, x),
        "decode": partial(generation.decode, vae, few),
        "interpolate": partial(generation.interpolate, vae, x[:1], x[1:2], 3),
        "prior_density": partial(generation.prior_density, vae, few),
        "plate_diagram": partial(plate_diagram, vae, x),
        "str(structure)": lambda: str(structure(vae, x)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the k-hat of few draws
        for name, action in actions.items():
            yield _cost(name, action)


def ways() -> Iterator[tuple[str, str, float]]:
    """Measure the four ways to run 20 particles of a VAE, and the 10 classes of M2, of 100 data.

    Yields:
        What is run, the name of the way, and the time in milliseconds.
    """
    p, q = problem("vae", 400, 50, 100), problem("m2", 400, 50, 100)
    of_vae = Copies(20, 1, -1, "data")
    of_m2 = Copies(1, 1, -1, "data", values=q.classes, enumerated=("y",))
    for what, model, copies in (
        ("20 particles of a VAE", our_model(p), of_vae),
        ("10 classes of M2", our_model(q), of_m2),
    ):
        arguments = Arguments((p.x[:100],))
        for name, way in WAYS.items():
            if way == "mapped" and copies.number == 1:
                continue  # vmap runs particles at once, and values one at a time
            with torch.no_grad(), evaluating(model):
                cost = _cost(name, partial(_run, way, model, arguments, copies))
            yield what, name, cost.later


def _run(way: Way, model: Any, arguments: Arguments, copies: Copies) -> None:
    """Run copies of guide and model."""
    guide = run_copies(way, model.guide, arguments, copies)
    of_model = copies._replace(enumerated=(), draws=False)
    run_copies(way, model.model, arguments, of_model, guide)


def _cost(name: str, action: Callable[[], Any]) -> Cost:
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return Cost(name, times[0], min(times[1:]))
