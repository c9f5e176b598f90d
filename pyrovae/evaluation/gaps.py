"""The inference gap and its two parts, datum by datum (Cremer et al. 2018).

    log p(x) - ELBO(q)  =  [ log p(x) - ELBO(q*) ]  +  [ ELBO(q*) - ELBO(q) ]
    inference gap          approximation gap           amortisation gap

q is the guide, whose networks serve all data. q* is the best member of the guide's family for one datum. A
richer family would reduce the approximation gap, a better encoder the amortisation gap. q* is found by
gradient ascent from q, for all data of a batch side by side.

log p(x) is importance-sampled with q* as proposal. This is decided beforehand: the larger of two estimates,
which is sometimes reported, is too high in expectation. The estimate with the guide as proposal is reported
beside it, as a check. The draws are fresh, so exp(estimate) is unbiased however q* was found. Both gaps
come from these draws, and the two bounds share their random numbers, so much of the error cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute.devices import seeded
from pyrovae.compute.progress import progress_bar
from pyrovae.errors import check_can_end, check_counts
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.evaluation.guide_search import check_search, compare, search
from pyrovae.evaluation.importance import check_num_samples
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.pareto import pareto_khat
from pyrovae.evaluation.statistics import (
    JudgedByKhat,
    data_std_error,
    khat_line,
    log_mean,
    mean_std_error,
    rounding_of,
    shown,
    std_error_of_draws,
    warn_if_unreliable,
)
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair

_BOUNDS = ("log_px", "log_px_by_guide", "elbo", "best_elbo")
_COLUMNS = (*_BOUNDS, "approximation", "amortisation", "total")
_LABELS = {
    "total": "log p(x) - ELBO  ",
    "approximation": "  approximation  ",
    "amortisation": "  amortisation   ",
}


@dataclass(frozen=True)
class InferenceGaps(JudgedByKhat):
    """The inference gap of each datum and its parts, in nats.

    Attributes:
        log_px: log p(x), importance-sampled with the best q as proposal, `(N,)`.
        log_px_by_guide: log p(x) with the guide as proposal, `(N,)`. It enters no gap. If it differs from
            `log_px` by more than the errors of both, these errors are not reliable.
        elbo: the guide's ELBO, averaged over the draws, `(N,)`. Where classes are enumerated, q(y | x) is
            in it.
        best_elbo: the ELBO of the best q of the guide's family, `(N,)`. If the optimisation falls short of
            the optimum, the approximation gap is too large by the same amount.
        std_error: Monte-Carlo standard errors, `(N,)` each, of the four bounds and of `approximation`,
            `amortisation` and `total`; NaN with one draw.
        khat: Pareto k-hat of the best q's importance weights, `(N,)`. Many values above `khat_limit` say
            that the family is a poor proposal. Then log p(x) is likely too small, and so are the
            approximation gap and its error, for all data. It is NaN where the weights do not vary, or K is
            below 30.
        num_samples: K, the number of draws for each datum.
        steps: the number of steps of the optimisation.
        particles: the number of draws for each datum in each step.
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
        """The approximation gap, log p(x) - ELBO(q*), `(N,)`: the cost of the guide's family."""
        return self.log_px - self.best_elbo

    @property
    def amortisation(self) -> Tensor:
        """The amortisation gap, ELBO(q*) - ELBO(q), `(N,)`: the cost of one network for all data."""
        return self.best_elbo - self.elbo

    @property
    def total(self) -> Tensor:
        """The inference gap, log p(x) - ELBO(q), `(N,)`: the sum of the two."""
        return self.log_px - self.elbo

    def mean(self, name: str) -> float:
        """Return the mean of a quantity over these data, in nats per datum.

        Args:
            name: `"approximation"`, `"amortisation"`, `"total"`, or the name of a bound's attribute.
        """
        return getattr(self, name).mean().item()

    def mean_std_error(self, name: str) -> float:
        """Return the Monte-Carlo standard error of a mean, due to the draws of z."""
        return mean_std_error(self.std_error[name])

    def data_std_error(self, name: str) -> float:
        """Return the standard error of a mean due to the choice of the data."""
        return data_std_error(getattr(self, name))

    def summary(self) -> dict[str, Any]:
        """Return the mean and the standard errors of each quantity, as plain numbers."""
        figures: dict[str, Any] = {
            name: {
                "mean": self.mean(name),
                "mean_std_error": self.mean_std_error(name),
                "data_std_error": self.data_std_error(name),
            }
            for name in _COLUMNS
        }
        return figures | {
            "khat_limit": self.khat_limit,
            "khat_above_limit": self.num_unreliable,
            "is_poor_proposal": self.is_poor_proposal,
            "num_data": len(self.log_px),
            "num_samples": self.num_samples,
            "steps": self.steps,
            "particles": self.particles,
        }

    def content(self) -> dict[str, Any]:
        """Return the summary and the values and errors of each datum, as plain numbers."""
        columns = {name: getattr(self, name).tolist() for name in (*_COLUMNS, "khat")}
        errors = {name: self.std_error[name].tolist() for name in _COLUMNS}
        return {"summary": self.summary(), "data": columns | {"std_error": errors}}

    def to_json(self, path: str | Path) -> None:
        """Write the summary and the values and errors of each datum to a JSON file (NaN as null)."""
        write_json(path, self.content())

    @property
    def _remark(self) -> str:
        return (
            f"k-hat    : {khat_line(self.khat, self.num_samples)}; "
            f"best q: {self.steps} steps with {self.particles} draws"
        )

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        labels = {name: label.strip() for name, label in _LABELS.items()}
        labels |= {"log_px": "log p(x)", "best_elbo": "ELBO of the best q", "elbo": "ELBO of the guide"}
        rows = [
            (
                label,
                f"{self.mean(name):.3f}",
                shown(self.mean_std_error(name)),
                shown(self.data_std_error(name), 2),
            )
            for name, label in labels.items()
        ]
        heading = ("", "nats per datum", "± Monte Carlo", "± choice of data")
        title = f"Inference gaps of {len(self.log_px)} data, K = {self.num_samples}"
        return small_tables.html(heading, rows, title, [self._remark])

    def __str__(self) -> str:
        lines = [
            f"{label} = {self.mean(name):.3f} +- {shown(self.mean_std_error(name))} nats per datum; "
            f"+- {shown(self.data_std_error(name), 2)} over the {len(self.log_px)} data"
            for name, label in _LABELS.items()
        ]
        return "\n".join(
            [
                *lines,
                f"log p(x) = {self.mean('log_px'):.3f} (with the guide as proposal "
                f"{self.mean('log_px_by_guide'):.3f}), best q's ELBO = {self.mean('best_elbo'):.3f}, "
                f"guide's ELBO = {self.mean('elbo'):.3f} (Monte Carlo, K = {self.num_samples})",
                self._remark,
            ]
        )


@takes_pair
def inference_gaps(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 5000,
    steps: int = 500,
    particles: int = 10,
    learning_rate: float = 0.03,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> InferenceGaps:
    """Split log p(x) - ELBO of each datum into approximation and amortisation gap (Cremer et al. 2018).

    The guide's networks are replaced by separate parameters for each datum. These are unconstrained, start
    at the networks' outputs, and are optimised by Adam with a learning rate that falls to 0 by a half
    cosine. Where a datum's q* has no higher ELBO than its q on further draws, q is kept. The parameters of
    model and guide do not change.

    Args:
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given. All of
            its sites lie under a plate of the data. The guide's latents are independent of
            one another given the data. Sites that the guide marks for enumeration, such as M2's class, are
            summed out; a site that depends on them has free parameters for each of their values.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`. Where the model observes them, all bounds are of log p(x, y). None means that the
            programs are called without classes.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        num_samples: K, the number of draws for each datum from which the figures are computed.
        steps: the number of steps of the optimisation. If twice as many change a figure, use more.
        particles: the number of draws for each datum in each step.
        learning_rate: the learning rate of the first step.
        batch_size: the number of data that are optimised at a time. It affects memory and speed only.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.

    Returns:
        Gaps and bounds of each datum with their errors, on the CPU in 64-bit.

    Raises:
        InputError: a setting is out of range; a latent of the guide depends on the draw of another one, is
            neither reparameterised nor enumerated, or is of a family whose parameters are not known; or
            for the reasons given at `marginal_likelihood`.

    Warns:
        UserWarning: k-hat is above its limit for some data (the warning says for how many), or K is below
            30, too few draws for k-hat.
    """
    check_search(steps, particles, learning_rate)
    check_counts(num_samples=num_samples, batch_size=batch_size)
    pair, data = with_given(pair, x, y, given)
    check_num_samples(num_samples, len(x))
    searched = f"steps = {steps} with particles = {particles} for {len(x)} data"
    check_can_end(steps * particles * len(x), searched, "choose fewer steps")
    device = device_of(pair, otherwise=x.device)
    with evaluating(pair), seeded(seed, device):
        with torch.no_grad():
            layout = check_scorable(pair, device, data, enumerate=True)
        with progress_bar(progress, len(x) * steps, "step of a datum") as bar:

            def of_rows(rows: slice) -> dict[str, Tensor]:
                bar.n = rows.start * steps  # also after a larger chunk that did not fit into memory
                arguments = data.rows(rows).to(device)
                free = search(pair, arguments, layout, steps, particles, learning_rate, bar)
                by_guide, by_best = compare(pair, (pair.guide, free), arguments, num_samples, layout)
                return gap_statistics(by_guide, by_best, x.dtype)

            sizes = [layout.at_once(most, len(x)) for most in (batch_size, 1)]
            parts, _ = in_chunks(of_rows, len(x), *sizes)
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    errors = {name: columns.pop(f"error of {name}") for name in _COLUMNS}
    result = InferenceGaps(
        **columns, std_error=errors, num_samples=num_samples, steps=steps, particles=particles
    )
    warn_if_unreliable(
        result.khat,
        num_samples,
        "the best q is a poor proposal, so log p(x), and with it the approximation gap, is likely too "
        "small, for all data"
        if result.is_poor_proposal
        else "log p(x) of single data, and with it their approximation gap, may be too small",
    )
    return result


def gap_statistics(
    by_guide: tuple[Tensor, Tensor], by_best: tuple[Tensor, Tensor], dtype: torch.dtype = torch.double
) -> dict[str, Tensor]:
    """Compute estimates and errors of the bounds and gaps.

    Args:
        by_guide: log weights and terms of the ELBO, `(K, B)` each, of the guide's draws
            (`guide_search.compare`).
        by_best: the same for the draws of the best q.
        dtype: the type in which they were computed.

    Returns:
        The four bounds, k-hat, and the error of each quantity under the name `"error of ..."`, `(B,)` each,
        on the CPU.
    """
    (guide_weights, terms), (log_weights, best_terms) = by_guide, by_best
    log_px_by_guide, log_px = log_mean(guide_weights), log_mean(log_weights)
    weights = (log_weights - log_px).exp()  # mean 1; log p(x) changes as their mean does (delta method)
    draws: Mapping[str, Tensor] = {
        "log_px": weights,
        "log_px_by_guide": (guide_weights - log_px_by_guide).exp(),
        "elbo": terms,
        "best_elbo": best_terms,
        "approximation": weights - best_terms,
        "amortisation": best_terms - terms,
        "total": weights - terms,
    }
    errors = {f"error of {name}": std_error_of_draws(values) for name, values in draws.items()}
    bounds = (log_px, log_px_by_guide, terms.mean(0), best_terms.mean(0))
    khat = pareto_khat(log_weights, rounding_of(log_weights, dtype))
    found = dict(zip(_BOUNDS, bounds, strict=True)) | {"khat": khat} | errors
    return {name: values.cpu() for name, values in found.items()}
