"""The evidence (marginal likelihood) of any pair, by importance sampling, with its diagnostics.

    log p(x) ~ logsumexp_k [ log p(x, z_k) - log q(z_k | x) ] - log K,    z_k ~ q(z | x)

(Rezende et al. 2014, appendix E; Burda et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.errors import check_counts
from pyrovae.evaluation.arviz_adapter import to_group
from pyrovae.evaluation.importance import MOST_DATA, Sampling, over_log_weights
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.statistics import (
    KHAT_LIMIT,
    data_std_error,
    importance_statistics,
    mean_std_error,
    num_unreliable,
    warn_if_unreliable,
)
from pyrovae.programs.pair import ModelAndGuide, takes_pair, with_programs

_COLUMNS = ("log_px", "std_error", "khat", "ess")


@dataclass(frozen=True)
class MarginalLikelihood:
    """An importance-sampled estimate of log p(x), in nats, datum by datum.

    Attributes:
        log_px: the estimate, `(N,)`.
        std_error: its Monte-Carlo standard error, `(N,)` (delta method).
        khat: Pareto k-hat of the importance weights, `(N,)`. Above 0.7 the error is not reliable. It is NaN
            where the weights do not vary (the guide is exact) or are too few to fit a tail.
        ess: the effective sample size, between 1 and K, `(N,)`.
        bounds: `bounds[k]` is the importance-weighted bound with k samples, `(N,)`, from the same draws.
            `bounds[1]` is the ELBO (Burda et al. 2016).
        num_samples: K, the number of draws for each datum.
        precision_error: the change that a lower precision makes to the estimate: a mean absolute difference
            in nats over the first data, with the same random numbers. None in float32.
    """

    log_px: Tensor
    std_error: Tensor
    khat: Tensor
    ess: Tensor
    bounds: dict[int, Tensor]
    num_samples: int
    precision_error: float | None = None

    @property
    def mean(self) -> float:
        """The mean of log p(x) over these data, nats per datum."""
        return self.log_px.mean().item()

    @property
    def mean_std_error(self) -> float:
        """The Monte-Carlo standard error of `mean`, due to the draws of z."""
        return mean_std_error(self.std_error)

    @property
    def data_std_error(self) -> float:
        """The standard error of `mean` due to the choice of the data."""
        return data_std_error(self.log_px)

    @property
    def elbo(self) -> float:
        """The mean ELBO over these data, nats per datum."""
        return self.bounds[1].mean().item()

    @property
    def num_unreliable(self) -> int:
        """The number of data with k-hat above 0.7."""
        return num_unreliable(self.khat)

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        finite = self.khat[self.khat.isfinite()]
        return {
            "log_likelihood": self.mean,
            "mean_std_error": self.mean_std_error,
            "data_std_error": self.data_std_error,
            "elbo": self.elbo,
            "bounds": {str(k): bound.mean().item() for k, bound in self.bounds.items()},
            "khat_median": finite.median().item() if len(finite) else None,
            "khat_above_limit": self.num_unreliable,
            "ess_median": self.ess.median().item(),
            "num_data": len(self.log_px),
            "num_samples": self.num_samples,
            "precision_error": self.precision_error,
        }

    def to_json(self, path: str | Path) -> None:
        """Write the summary and the values for each datum (NaN as null)."""
        columns = {name: getattr(self, name).tolist() for name in _COLUMNS}
        bounds = {str(k): bound.tolist() for k, bound in self.bounds.items()}
        write_json(path, {"summary": self.summary(), "data": columns | {"bounds": bounds}})

    def to_arviz(self) -> Any:
        """Return the values for each datum as ArviZ's data structure.

        It is an `InferenceData`, or a `DataTree` from ArviZ 1.0 on. Its group `marginal_likelihood` has the
        dimensions `datum` and `bound_samples`.
        """
        values = {name: ("datum", getattr(self, name).numpy()) for name in _COLUMNS}
        bounds = (("bound_samples", "datum"), torch.stack(list(self.bounds.values())).numpy())
        coordinates = {"datum": range(len(self.log_px)), "bound_samples": list(self.bounds)}
        return to_group("marginal_likelihood", values | {"bound": bounds}, coordinates)

    def __str__(self) -> str:
        s = self.summary()
        rounding = f"; rounding moves it by {self.precision_error:.4f}" if self.precision_error else ""
        khat = "could not be fitted (the weights do not vary, or are too few)"
        if s["khat_median"] is not None:
            above = f"{self.num_unreliable} of {len(self.khat)} above {KHAT_LIMIT}"
            khat = f"median {s['khat_median']:.2f}, {above}"
        return "\n".join(
            [
                f"log p(x) = {self.mean:.3f} +- {self.mean_std_error:.3f} nats per datum "
                f"(Monte Carlo, K = {self.num_samples}); +- {self.data_std_error:.2f} over the "
                f"{len(self.log_px)} data{rounding}",
                f"ELBO     = {self.elbo:.3f}, "
                + ", ".join(f"L_{k} = {b.mean():.3f}" for k, b in self.bounds.items() if k > 1),
                f"k-hat    : {khat}; effective samples: median {s['ess_median']:.0f} of {self.num_samples}",
            ]
        )


@takes_pair
def marginal_likelihood(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 5000,
    enumerate: bool = True,
    bounds: Sequence[int] = (10, 100, 1000),
    seed: int = 0,
    progress: bool = False,
    compile: str = "auto",
    precision: str = "float32",
) -> MarginalLikelihood:
    """Estimate log p(x) of each datum with the guide as proposal.

    Within `processes.joined()`, the processes that torchrun started share the data. Each of them gets the
    whole result, which does not depend on their number.

    Args:
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given. All of
            its sites lie under a plate of the data at dimension -1.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`. Where the model observes them, the estimate is of log p(x, y). None means that
            the programs are called without classes.
        num_samples: K, the number of draws for each datum.
        enumerate: sum exactly over the sites that the guide marks for enumeration, such as M2's class:
            sum_y p(x, y, z_y) / q(z_y | x, y) for each draw. If false, these sites are drawn too.
        bounds: the numbers of draws whose importance-weighted bounds are reported beside the ELBO; those
            above K are left out.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.
        compile: "on" scores draws by one compiled graph. "auto" does so from 10 million draws on, and warns
            if it is not possible. "off" never compiles.
        precision: the precision of matrix products and convolutions. "tf32" (on CUDA) and "bfloat16" are
            faster than "float32"; `precision_error` of the result says what they change.

    Returns:
        Estimates, errors and diagnostics for each datum, on the CPU in 64-bit.

    Raises:
        InputError: K or a bound is below 1; `precision` or `compile` is unknown; the data are not usable;
            the pair does not run on them; a latent site is in one program only; a site lies outside
            of the data's plate; or there are other plates beside an enumerated site.

    Warns:
        UserWarning: k-hat is above 0.7 for some data. The warning says for how many.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation import marginal_likelihood
        >>> from pyrovae.models import PPCA
        >>> result = marginal_likelihood(PPCA((4,), 2), torch.zeros(3, 4), num_samples=10)
        >>> result.log_px.shape
        torch.Size([3])
    """
    sampling = Sampling(num_samples, seed, enumerate, progress, compile, precision)
    result = _estimate(pair, x, y, bounds, sampling)
    if precision != "float32":
        first = slice(min(MOST_DATA, len(x)))
        full = replace(sampling, precision="float32")
        exact = _estimate(pair, x[first], None if y is None else y[first], bounds, full)
        error = (result.log_px[first] - exact.log_px).abs().mean().item()
        result = replace(result, precision_error=error)
    _warn(result)
    return result


@takes_pair
def prior_marginal_likelihood(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 5000,
    bounds: Sequence[int] = (10, 100, 1000),
    seed: int = 0,
    progress: bool = False,
) -> MarginalLikelihood:
    """Estimate log p(x) with draws from the prior, log mean_k p(x | z_k).

    The estimate is right in the limit of many draws, and of little use before. Almost no draw explains the
    datum, and the number of draws that do falls quickly with M. So the estimate is far too low at any
    affordable K. A large k-hat shows this.

    Args:
        pair: a pair; its guide is not used.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        num_samples: K, the number of draws for each datum.
        bounds: the numbers of draws whose importance-weighted bounds are reported; those above K are left
            out.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.

    Returns:
        Estimates, errors and diagnostics for each datum, as `marginal_likelihood` returns them.

    Raises:
        InputError: for the reasons given at `marginal_likelihood`.
    """
    prior = poutine.block(pair.model, hide_fn=lambda site: bool(site.get("is_observed")))
    result = _estimate(
        with_programs(pair, guide=prior), x, y, bounds, Sampling(num_samples, seed, progress=progress)
    )
    _warn(result)
    return result


def _estimate(
    pair: ModelAndGuide, x: Tensor, y: Tensor | None, bounds: Sequence[int], sampling: Sampling
) -> MarginalLikelihood:
    for size in bounds:
        check_counts(bounds=size)
    sizes = [1, *(k for k in bounds if 1 < k < sampling.num_samples)]
    if sampling.num_samples > 1:
        sizes.append(sampling.num_samples)
    parts = over_log_weights(partial(importance_statistics, sizes=sizes), pair, x, y, sampling)
    columns: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in _COLUMNS}
    by_size = {size: torch.cat([part["bounds"][size] for part in parts]) for size in sizes}
    return MarginalLikelihood(**columns, bounds=by_size, num_samples=sampling.num_samples)


def _warn(result: MarginalLikelihood) -> None:
    if processes.is_first():
        warn_if_unreliable(result.khat, "their standard errors are not reliable")
