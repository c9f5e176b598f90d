"""The inference gap and its two parts, datum by datum (Cremer et al. 2018).

    log p(x) - ELBO(q)  =  [ log p(x) - ELBO(q*) ]  +  [ ELBO(q*) - ELBO(q) ]
    inference gap          approximation gap           amortisation gap

q is the guide, whose networks serve all data; q* is the best member of the guide's family for this datum
alone. What a richer family would gain is in the first part, what a better encoder would gain in the
second. q* is found by gradient ascent from q, with all data of a batch side by side.

log p(x) is importance-sampled with q* as proposal, decided beforehand: the larger of two estimates, as
reported at times, is too high in expectation. (The guide's own estimate is reported beside it, as a
check.) The draws are fresh, so that exp(estimate) is unbiased however q* was found. Both parts come from
those draws, and the two bounds share their random numbers, so that much of the error cancels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError, warn
from pyrovae.evaluation.arviz_adapter import pareto_khat
from pyrovae.evaluation.best_guide import check_search, compare, search
from pyrovae.evaluation.importance import KHAT_LIMIT
from pyrovae.evaluation.parts import check_scorable, part_of, slices, without_nan
from pyrovae.programs.devices import device_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.storage import write_atomically

_BOUNDS = ("log_px", "log_px_by_guide", "elbo", "best_elbo")
_COLUMNS = (*_BOUNDS, "approximation", "amortisation", "total")
_LABELS = {
    "total": "log p(x) - ELBO  ",
    "approximation": "  approximation  ",
    "amortisation": "  amortisation   ",
}


@dataclass(frozen=True)
class InferenceGaps:
    """The inference gap of each datum and its parts, in nats.

    Attributes:
        log_px: log p(x), importance-sampled with the best q as proposal, `(N,)`.
        log_px_by_guide: log p(x) with the guide as proposal, `(N,)`: no part of the gaps, but where the
            two disagree by more than their errors, the errors are not to be trusted.
        elbo: the guide's ELBO, `(N,)`.
        best_elbo: the ELBO of the best q of the guide's family, `(N,)`. It is found by optimisation, so
            that the approximation gap is at most too large, by what is missing here.
        std_error: Monte-Carlo standard errors, `(N,)` each, of the four and of `approximation`,
            `amortisation` and `total`; NaN with one draw.
        khat: Pareto k-hat of the importance weights, `(N,)`: above 0.7 log p(x), and with it the
            approximation gap, is likely too small, and its error understated.
        num_samples: K, the draws for each datum.
        steps: of the optimisation.
        particles: draws for each datum and step.
    """

    log_px: Tensor
    log_px_by_guide: Tensor
    elbo: Tensor
    best_elbo: Tensor
    std_error: dict[str, Tensor]
    khat: Tensor
    num_samples: int
    steps: int
    particles: int

    @property
    def approximation(self) -> Tensor:
        """log p(x) - ELBO(q*), `(N,)`: the guide's family is too small."""
        return self.log_px - self.best_elbo

    @property
    def amortisation(self) -> Tensor:
        """ELBO(q*) - ELBO(q), `(N,)`: one network serves all data."""
        return self.best_elbo - self.elbo

    @property
    def total(self) -> Tensor:
        """log p(x) - ELBO(q), `(N,)`: the sum of the two."""
        return self.log_px - self.elbo

    @property
    def num_unreliable(self) -> int:
        """How many data have k-hat above 0.7."""
        return int((self.khat > KHAT_LIMIT).sum())

    def mean(self, name: str) -> float:
        """The mean over these data of `"approximation"`, `"amortisation"`, `"total"` or a bound by its
        attribute's name, nats per datum."""
        return getattr(self, name).mean().item()

    def mean_std_error(self, name: str) -> float:
        """The Monte-Carlo standard error of a mean: how far other draws of z would move it."""
        errors = self.std_error[name]
        return errors.square().sum().sqrt().item() / len(errors)

    def data_std_error(self, name: str) -> float:
        """The standard error of a mean over data: how far other data of the same kind would move it."""
        values = getattr(self, name)
        return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan

    def summary(self) -> dict[str, Any]:
        """The figures to report, as plain numbers: for each quantity its mean and standard errors."""
        figures: dict[str, Any] = {
            name: {
                "mean": self.mean(name),
                "mean_std_error": self.mean_std_error(name),
                "data_std_error": self.data_std_error(name),
            }
            for name in _COLUMNS
        }
        return figures | {
            "khat_above_limit": self.num_unreliable,
            "num_data": len(self.log_px),
            "num_samples": self.num_samples,
            "steps": self.steps,
            "particles": self.particles,
        }

    def to_json(self, path: str | Path) -> None:
        """Write the summary, and the values and errors for each datum (NaN as null)."""
        columns = {name: getattr(self, name).tolist() for name in (*_COLUMNS, "khat")}
        errors = {name: self.std_error[name].tolist() for name in _COLUMNS}
        content = {"summary": self.summary(), "data": columns | {"std_error": errors}}
        text = json.dumps(without_nan(content), indent=1, allow_nan=False)
        write_atomically(Path(path), text.encode())

    def __str__(self) -> str:
        lines = [
            f"{label} = {self.mean(name):.3f} +- {self.mean_std_error(name):.3f} nats per datum; "
            f"+- {self.data_std_error(name):.2f} over the {len(self.log_px)} data"
            for name, label in _LABELS.items()
        ]
        return "\n".join(
            [
                *lines,
                f"log p(x) = {self.mean('log_px'):.3f} (with the guide as proposal "
                f"{self.mean('log_px_by_guide'):.3f}), best q's ELBO = {self.mean('best_elbo'):.3f}, "
                f"guide's ELBO = {self.mean('elbo'):.3f} (Monte Carlo, K = {self.num_samples})",
                f"k-hat    : {self.num_unreliable} of {len(self.khat)} above {KHAT_LIMIT}; "
                f"best q: {self.steps} steps with {self.particles} draws",
            ]
        )


@takes_pair
def inference_gaps(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 5000,
    steps: int = 500,
    particles: int = 10,
    learning_rate: float = 0.03,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> InferenceGaps:
    """Split log p(x) - ELBO of each datum into approximation and amortisation gap (Cremer et al. 2018).

    The guide's networks are replaced by parameters of each datum's own, in unconstrained space, which
    start where the networks put them and are optimised by Adam with a learning rate that falls to 0 by
    a half cosine. Where a datum's q* is not above its q on draws of its own, q is kept. Nothing happens
    to the parameters of model and guide.

    Args:
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given) whose sites all lie
            under a plate of the data at dimension -1.
        guide: a Pyro program with the model's latent sites, which are independent of one another given
            the data. Sites that it marks for enumeration, such as M2's class, are summed out, and what
            depends on them has free parameters for each of their values.
        x: the data, `(N, *x_shape)`.
        y: observed classes `(N,)`; then all is about log p(x, y) where the model has a site y.
        num_samples: K, the draws for each datum behind every number that is reported.
        steps: of the optimisation. Twice as many should change no figure.
        particles: draws for each datum in each step.
        learning_rate: of the first step.
        batch_size: data that are optimised at a time; for memory and speed only.
        seed: of the draws. The caller's random stream stays in place.
        progress: show a progress bar.

    Returns:
        Gaps and bounds for each datum with their errors, on the CPU in 64-bit.

    Raises:
        InputError: a setting is out of range; what `marginal_likelihood` raises; a latent of the guide
            depends on another one's draws, is neither reparameterised nor enumerated, or is of a family
            whose parameters are not known.

    Warns:
        UserWarning: k-hat is above 0.7 for some data; says for how many.
    """
    check_search(steps, particles, learning_rate)
    for name, value in {"num_samples": num_samples, "batch_size": batch_size}.items():
        if value < 1:
            raise InputError(f"{name} = {value}: use at least 1.")
    check_data(x, y)
    device = device_of(pair, otherwise=x.device)
    parts = []
    with own_parameters(), evaluating(pair), seeded(seed, device):
        with torch.no_grad():
            layout = check_scorable(pair, device, x, y, enumerate=True)
        batches = list(slices(len(x), batch_size))
        with tqdm(total=len(batches) * steps, unit="step", disable=not progress) as bar:
            for rows in batches:
                args = part_of(rows, device, x, y)
                free = search(pair, args, layout, steps, particles, learning_rate, bar)
                parts.append(
                    _summarise(*compare(pair.model, (pair.guide, free), args, num_samples, layout))
                )
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    errors = {name: columns.pop(f"error of {name}") for name in _COLUMNS}
    result = InferenceGaps(
        **columns, std_error=errors, num_samples=num_samples, steps=steps, particles=particles
    )
    _warn_if_unreliable(result)
    return result


def _summarise(guides: tuple[Tensor, Tensor], best: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Estimates and errors from log weights and terms, `(K, B)`, of the guide and of the best q."""
    (guide_weights, terms), (log_weights, best_terms) = guides, best
    by_guide, log_px = (of.logsumexp(0) - math.log(len(of)) for of in (guide_weights, log_weights))
    weights = (log_weights - log_px).exp()  # of mean 1: log p(x) moves with their mean (delta method)
    draws: Mapping[str, Tensor] = {
        "log_px": weights,
        "log_px_by_guide": (guide_weights - by_guide).exp(),
        "elbo": terms,
        "best_elbo": best_terms,
        "approximation": weights - best_terms,
        "amortisation": best_terms - terms,
        "total": weights - terms,
    }
    # The variance of one draw is not known: it is not 0.
    errors = {
        f"error of {name}": values.std(0) / math.sqrt(len(values))
        if len(values) > 1
        else torch.full_like(log_px, math.nan)
        for name, values in draws.items()
    }
    bounds = (log_px, by_guide, terms.mean(0), best_terms.mean(0))
    return dict(zip(_BOUNDS, bounds, strict=True)) | {"khat": pareto_khat(log_weights)} | errors


def _warn_if_unreliable(result: InferenceGaps) -> None:
    if result.num_unreliable:
        warn(
            f"k-hat is above {KHAT_LIMIT} for {result.num_unreliable} of {len(result.khat)} data: their "
            "log p(x), and with it their approximation gap, is likely too small. Use more samples, or a "
            "guide with heavier tails."
        )
