"""The evidence (marginal likelihood) of any pair, by importance sampling, with its diagnostics.

    log p(x) ~ logsumexp_k [ log p(x, z_k) - log q(z_k | x) ] - log K,    z_k ~ q(z | x)

(Rezende et al. 2014, appendix E; Burda et al. 2016).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute import processes
from pyrovae.data.digests import fingerprint
from pyrovae.errors import InputError, check_counts
from pyrovae.evaluation.arviz_adapter import to_group
from pyrovae.evaluation.chunking import data_at_once
from pyrovae.evaluation.importance import Sampling, over_log_weights
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.statistics import (
    JudgedByKhat,
    data_std_error,
    importance_statistics,
    khat_line,
    mean_std_error,
    repeats_line,
    shown,
    warn_if_repeated,
    warn_if_unreliable,
)
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.pair import ModelAndGuide, takes_pair, with_programs
from pyrovae.programs.rows import Arguments

_COLUMNS = ("log_px", "std_error", "khat", "ess", "datum_elbo", "datum_elbo_std_error", "repeated")


@dataclass(frozen=True)
class MarginalLikelihood(JudgedByKhat):
    """An importance-sampled estimate of log p(x), in nats, datum by datum.

    Attributes:
        log_px: the estimate, `(N,)`.
        std_error: its Monte-Carlo standard error, `(N,)` (delta method); 0 if the guide is exact. It is
            NaN, unknown, with one draw, or where the draws of discrete latents have equal weights: they may
            have missed other values.
        khat: Pareto k-hat of the importance weights, `(N,)`. Many values above `khat_limit` say that the
            guide is a poor proposal, and that the errors of all data are too small. It is NaN where the
            weights do not vary or have few values, or K is below 30.
        ess: the effective sample size, between 1 and K, `(N,)`.
        datum_elbo: the ELBO, averaged over the K draws, `(N,)`. If classes are enumerated, q(y | x) is in
            it.
        datum_elbo_std_error: its Monte-Carlo standard error, `(N,)`; NaN where `std_error` is.
        bounds: `bounds[k]` is the importance-weighted bound L_k, the mean over groups of k draws of the
            logarithm of their mean weight, `(N,)`. The weights have enumerated classes summed out.
            `bounds[1]` is the ELBO if nothing is enumerated. Else it lies between the ELBO and L_2.
        num_samples: K, the number of draws for each datum.
        repeated: whether all K draws of the latents that are discrete, and not enumerated, are the same,
            `(N,)`. What was not drawn does not enter the estimate, and no error shows this. It is false
            for all data if there are no such latents.
        enumerated: whether classes were enumerated, and so summed out in the weights.
        precision_error: the change that a lower precision makes to the estimate: a mean absolute difference
            in nats over the first data, with the same random numbers. None in float32.
        joint: whether the estimate is of log p(x_1, ..., x_N), one number for all data together. All
            columns then have length 1.
        notes: what the estimate leaves out, in words: global latents that the guide sets to a point, whose
            values are given, and the guide's terms of training.
        data: the shape and a digest of x, by which `compare` knows whether two estimates are of the same
            data.
    """

    log_px: Tensor
    std_error: Tensor
    khat: Tensor
    ess: Tensor
    datum_elbo: Tensor
    datum_elbo_std_error: Tensor
    bounds: dict[int, Tensor]
    num_samples: int
    repeated: Tensor
    enumerated: bool = False
    precision_error: float | None = None
    joint: bool = False
    notes: tuple[str, ...] = ()
    data: str = ""

    @property
    def mean(self) -> float:
        """The mean of log p(x) over these data, nats per datum; if joint, the estimate itself, in nats."""
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
        return self.datum_elbo.mean().item()

    @property
    def elbo_std_error(self) -> float:
        """The Monte-Carlo standard error of `elbo`, due to the draws of z."""
        return mean_std_error(self.datum_elbo_std_error)

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        known = self.khat[~self.khat.isnan()]
        return {
            "log_likelihood": self.mean,
            "mean_std_error": self.mean_std_error,
            "data_std_error": self.data_std_error,
            "elbo": self.elbo,
            "elbo_std_error": self.elbo_std_error,
            "bounds": {str(k): bound.mean().item() for k, bound in self.bounds.items()},
            "enumerated": self.enumerated,
            "khat_median": known.median().item() if len(known) else None,
            "khat_limit": self.khat_limit,
            "khat_above_limit": self.num_unreliable,
            "is_poor_proposal": self.is_poor_proposal,
            "ess_median": self.ess.median().item(),
            "num_repeated": int(self.repeated.sum()),
            "num_data": len(self.log_px),
            "num_samples": self.num_samples,
            "precision_error": self.precision_error,
            "joint": self.joint,
            "notes": list(self.notes),
            "data": self.data,
        }

    def content(self) -> dict[str, Any]:
        """Return the summary and the values for each datum, as plain numbers."""
        columns = {name: getattr(self, name).tolist() for name in _COLUMNS}
        bounds = {str(k): bound.tolist() for k, bound in self.bounds.items()}
        return {"summary": self.summary(), "data": columns | {"bounds": bounds}}

    def to_json(self, path: str | Path) -> None:
        """Write the summary and the values for each datum (NaN as null)."""
        write_json(path, self.content())

    def to_arviz(self) -> Any:
        """Return the values for each datum as ArviZ's data structure.

        It is an `InferenceData`, or a `DataTree` from ArviZ 1.0 on. Its group `marginal_likelihood` has the
        dimensions `datum` and `bound_samples`.
        """
        values = {name: ("datum", getattr(self, name).numpy()) for name in _COLUMNS}
        bounds = (("bound_samples", "datum"), torch.stack(list(self.bounds.values())).numpy())
        coordinates = {"datum": range(len(self.log_px)), "bound_samples": list(self.bounds)}
        return to_group("marginal_likelihood", values | {"bound": bounds}, coordinates)

    @property
    def _unit(self) -> str:
        return "nats for all data together" if self.joint else "nats per datum"

    @property
    def _shown_bounds(self) -> dict[str, str]:
        sizes = [k for k in self.bounds if k > 1 or self.enumerated]
        return {f"L_{k}": f"{self.bounds[k].mean():.3f}" for k in sizes}

    @property
    def _remarks(self) -> list[str]:
        lines = [
            f"k-hat    : {khat_line(self.khat, self.num_samples)}; effective samples: median "
            f"{self.ess.median():.0f} of {self.num_samples}",
        ]
        if self.repeated.any():
            lines.append(f"draws    : {repeats_line(self.repeated, 'the estimate')}")
        return [*lines, *(f"note     : {note}" for note in self.notes)]

    def __str__(self) -> str:
        rounding = f"; rounding moves it by {self.precision_error:.4f}" if self.precision_error else ""
        collapsed = "(classes summed out) " if self.enumerated else ""
        bounds = ", ".join(f"{name} = {value}" for name, value in self._shown_bounds.items())
        over = f"; +- {shown(self.data_std_error, 2)} over the {len(self.log_px)} data"
        lines = [
            f"log p(x) = {self.mean:.3f} +- {shown(self.mean_std_error)} {self._unit} "
            f"(Monte Carlo, K = {self.num_samples}){'' if self.joint else over}{rounding}",
            f"ELBO     = {self.elbo:.3f} +- {shown(self.elbo_std_error)}"
            + (f"; {collapsed}{bounds}" if bounds else ""),
        ]
        return "\n".join([*lines, *self._remarks])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        over = "" if self.joint else shown(self.data_std_error, 2)
        rows = [
            ("log p(x)", f"{self.mean:.3f}", shown(self.mean_std_error), over),
            ("ELBO", f"{self.elbo:.3f}", shown(self.elbo_std_error), ""),
            *((name, value, "", "") for name, value in self._shown_bounds.items()),
        ]
        title = f"Marginal likelihood of {len(self.datum_elbo)} data, K = {self.num_samples}"
        return small_tables.html(
            ("", self._unit, "± Monte Carlo", "± choice of data"), rows, title, self._remarks
        )


@takes_pair
def marginal_likelihood(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 5000,
    enumerate: bool = True,
    bounds: Sequence[int] = (10, 100, 1000),
    seed: int = 0,
    progress: bool = False,
    compile: str = "auto",
    precision: str = "float32",
    joint: bool = False,
) -> MarginalLikelihood:
    """Estimate log p(x) of each datum, or of all data together, with the guide as proposal.

    The draws of a datum are copies of the pair. They are run in the fastest way that gives the densities of
    one copy at a time: with a leading dimension, as more rows of data, or one after the other. So networks
    need not know of draws. What is found out at the beginning of a call, on a few data, is this way, and
    whether the densities have the shapes of their plates.

    Within `processes.joined()`, the processes that torchrun started share the data. Each of them gets the
    whole result, which does not depend on their number.

    Args:
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given. Without
            `joint`, all of its sites lie under a plate of the data.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`. Where the model observes them, the estimate is of log p(x, y). None means that
            the programs are called without classes.
        given: further arguments of both programs by name, as in `fit`: the estimate is of log p(x | given).
            None means nothing.
        num_samples: K, the number of draws for each datum.
        enumerate: sum exactly over the sites that the guide marks for enumeration, such as M2's class:
            sum_y p(x, y, z_y) / q(z_y | x, y) for each draw. If false, these sites are drawn too.
        bounds: the numbers of draws k whose importance-weighted bounds L_k are reported beside the ELBO;
            those above K are left out.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.
        compile: "on" scores draws by one compiled graph. "auto" does so from 10 million draws on, and warns
            if it is not possible. "off" never compiles.
        precision: the precision of matrix products and convolutions. "tf32" (on CUDA) and "bfloat16" are
            faster than "float32"; `precision_error` of the result says what they change.
        joint: estimate log p(x_1, ..., x_N), one number in nats. A pair with latents outside of the data's
            plate, such as the weights of a regression, has only this evidence. All data are run at once.

    Returns:
        Estimates, errors and diagnostics for each datum, on the CPU in 64-bit.

    Raises:
        InputError: K or a bound is below 1; `precision` or `compile` is unknown; the data are not usable;
            the pair does not run on them; a log density has another shape than its plates say; the guide
            lacks a latent that can neither be left out nor summed out, or its density is not known (a
            `Delta` without a log density, for example); several enumerated sites stand beside a network
            that takes no leading dimensions. Without `joint` also: a site lies outside of the data's plate,
            the programs subsample the data, or a density depends on other data.

    Warns:
        UserWarning: k-hat is above its limit for some data, or K is below 30, too few draws for k-hat; or
            all draws of the discrete latents are the same for some data. The warning says for how many.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation import marginal_likelihood
        >>> from pyrovae.models import PPCA
        >>> result = marginal_likelihood(PPCA((4,), 2), torch.zeros(3, 4), num_samples=10)
        >>> result.log_px.shape
        torch.Size([3])
    """
    sampling = Sampling(num_samples, seed, enumerate, progress, compile, precision, joint)
    pair, data = with_given(pair, x, y, given)
    result = _estimate(pair, data, bounds, sampling)
    if precision != "float32":
        # With another number of data in the first part, its random numbers would be others.
        first = slice(None) if joint else slice(data_at_once(x, device_of(pair, otherwise=x.device)))
        full = replace(sampling, precision="float32")
        exact = _estimate(pair, data.rows(first), bounds, full)
        error = (result.log_px[: len(exact.log_px)] - exact.log_px).abs().mean().item()
        result = replace(result, precision_error=error)
    _warn(result)
    return result


@takes_pair
def prior_marginal_likelihood(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 5000,
    bounds: Sequence[int] = (10, 100, 1000),
    seed: int = 0,
    progress: bool = False,
) -> MarginalLikelihood:
    """Estimate log p(x) with draws from the prior, log mean_k p(x | z_k).

    The estimate is right in the limit of many draws, and of little use before. Almost no draw explains the
    datum, and the number of draws that do falls quickly with M. So the estimate is far too low at any
    affordable K. A large k-hat shows this. The result's `elbo` is the ELBO of the prior as guide.

    Args:
        pair: a pair; its guide is not used.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        given: further arguments of the model by name, as in `fit`. None means nothing.
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
    pair, data = with_given(pair, x, y, given)
    prior = poutine.block(pair.model, hide_fn=lambda site: bool(site.get("is_observed")))
    sampling = Sampling(num_samples, seed, progress=progress)
    result = _estimate(with_programs(pair, guide=prior), data, bounds, sampling)
    _warn(result)
    return result


def _estimate(
    pair: ModelAndGuide, data: Arguments, bounds: Sequence[int], sampling: Sampling
) -> MarginalLikelihood:
    if not isinstance(bounds, Collection):
        raise InputError(f"bounds is {bounds!r}; it must be a list of whole numbers, such as (10, 100).")
    for size in bounds:
        check_counts(bounds=size)
    sizes = [1, *(k for k in bounds if 1 < k < sampling.num_samples)]
    if sampling.num_samples > 1:
        sizes.append(sampling.num_samples)
    dtype = data.args[0].dtype
    layout, parts = over_log_weights(
        lambda scores: importance_statistics(scores, sizes, dtype), pair, data, sampling
    )
    columns: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in _COLUMNS}
    return MarginalLikelihood(
        **columns,
        bounds={size: torch.cat([part["bounds"][size] for part in parts]) for size in sizes},
        num_samples=sampling.num_samples,
        enumerated=parts[0]["enumerated"],
        joint=sampling.joint,
        notes=layout.notes,
        data=fingerprint(data.args[0]),
    )


def _warn(result: MarginalLikelihood) -> None:
    if not processes.is_first():
        return
    consequence = (
        "the guide is a poor proposal, so the standard errors of all data, and of their mean, are too small"
        if result.is_poor_proposal
        else "the standard errors of single data are not reliable"
    )
    warn_if_unreliable(result.khat, result.num_samples, consequence)
    warn_if_repeated(result.repeated, result.num_samples, "the estimate")
