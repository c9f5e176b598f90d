"""The decomposition of the averaged KL into information about the data and distance from the prior.

    mean_n KL(q(z | x_n) || p(z))  =  I_q(n; z)  +  KL(q(z) || p(z))
    averaged KL                       index-code    marginal KL         (Hoffman & Johnson 2016)
                                      mutual information

    KL(q(z) || p(z))  =  KL(q(z) || prod_d q(z_d))  +  sum_d KL(q(z_d) || p(z_d))
    marginal KL          total correlation             dimension-wise KL    (Chen et al. 2018)

q(z) = mean_n q(z | x_n) is the aggregated posterior of the N given data. z stands for all latents of the
pair together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute.devices import seeded
from pyrovae.compute.indices import indices_checked
from pyrovae.compute.progress import progress_bar
from pyrovae.errors import check_counts
from pyrovae.evaluation.aggregated_posterior import (
    DATA,
    Draws,
    check_scored_alike,
    draws_of_guide,
    log_q_of_all,
    only_own_errors,
    separate_sites,
)
from pyrovae.evaluation.chunking import in_chunks, slices
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.statistics import shown
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.layout import Layout
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Program, takes_pair
from pyrovae.programs.rows import Arguments

DENSITIES = 200_000  # log densities that are held at once
FIGURES = {
    "average_kl": "averaged KL",
    "mutual_information": "mutual information",
    "marginal_kl": "marginal KL",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}
"""The names of the figures in tables, by their attributes."""

_ALL = ""  # the name of the group of all latents
_ROUNDING = 1e-5  # terms this close, in nats, are equal up to rounding

_Terms = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class KLDecomposition:
    """The averaged KL and its parts, in nats per datum.

    Attributes:
        average_kl: mean_n KL(q(z | x_n) || p(z)), the ELBO's KL term.
        mutual_information: I_q(n; z), the information in z about the index n of its datum. It is at most
            log N, however informative the code is. A value near log N says only that N is too small.
        marginal_kl: KL(q(z) || p(z)), the part that a better prior could save.
        total_correlation: KL(q(z) || prod_d q(z_d)). None unless prior and guide are both independent over
            dimensions.
        dimension_wise_kl: sum_d KL(q(z_d) || p(z_d)). None in the same case.
        per_dimension: the terms of `dimension_wise_kl` by site, in the latent's own shape. None in the same
            case.
        std_error: standard errors over the draws, by name. They hold for these N data. They are NaN,
            unknown, with one draw for each datum, or if all draws of a discrete latent are the same.
        sites: if there are several latents, the decomposition of each one that depends on no other, in
            model and guide.
        num_data: N, the number of data.
        num_samples: the number of draws for each datum.
    """

    average_kl: float
    mutual_information: float
    marginal_kl: float
    total_correlation: float | None
    dimension_wise_kl: float | None
    per_dimension: dict[str, Tensor] | None
    std_error: dict[str, float]
    sites: dict[str, KLDecomposition]
    num_data: int
    num_samples: int

    @property
    def log_num_data(self) -> float:
        """log N, the upper bound of the mutual information."""
        return math.log(self.num_data)

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        figures: dict[str, Any] = {name: getattr(self, name) for name in FIGURES}
        if self.per_dimension is not None:
            figures["per_dimension"] = {name: kl.tolist() for name, kl in self.per_dimension.items()}
        figures |= {"std_error": self.std_error, "log_num_data": self.log_num_data}
        figures |= {"sites": {name: part.summary() for name, part in self.sites.items()}}
        return figures | {"num_data": self.num_data, "num_samples": self.num_samples}

    def content(self) -> dict[str, Any]:
        """Return the summary, as plain numbers."""
        return self.summary()

    def to_json(self, path: str | Path) -> None:
        """Write the summary to a JSON file (NaN as null)."""
        write_json(path, self.content())

    def __str__(self) -> str:
        def figure(name: str) -> str:
            return f"{getattr(self, name):.3f} +- {shown(self.std_error[name])}"

        lines = [
            f"averaged KL           = {figure('average_kl')} nats per datum (N = {self.num_data}, "
            f"{self.num_samples} draws each)",
            f"  mutual information  = {figure('mutual_information')} (at most log N = "
            f"{self.log_num_data:.3f})",
            f"  marginal KL         = {figure('marginal_kl')}",
        ]
        if self.total_correlation is not None:
            lines.append(f"    total correlation = {figure('total_correlation')}")
            lines.append(f"    dimension-wise KL = {figure('dimension_wise_kl')}")
        for name, part in self.sites.items():
            lines += [f"{name} alone:", *(f"  {line}" for line in str(part).splitlines())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        rows = [*self._shown_rows("all latents" if self.sites else "")]
        for name, part in self.sites.items():
            rows += part._shown_rows(name)
        title = f"Parts of the KL over {self.num_data} data, {self.num_samples} draws each"
        note = f"The mutual information is at most log N = {self.log_num_data:.3f}."
        return small_tables.html(("", "nats per datum", "± Monte Carlo"), rows, title, [note])

    def _shown_rows(self, of: str) -> list[tuple[str, str, str]]:
        suffix = f" ({of})" if of else ""
        known = {name: value for name in FIGURES if (value := getattr(self, name)) is not None}
        return [
            (f"{FIGURES[name]}{suffix}", f"{value:.3f}", shown(self.std_error[name]))
            for name, value in known.items()
        ]


@takes_pair
def kl_decomposition(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> KLDecomposition:
    """Decompose the averaged KL of a pair (Hoffman & Johnson 2016; Chen et al. 2018).

    Every draw z ~ q(z | x_n) is scored under q(z | x_m) for all data m, by running the guide conditioned on
    it. These are N^2 times `num_samples` densities in all; memory holds a fixed number of them at a time.
    All figures come from the same draws, so the parts add up exactly. A class is drawn and scored like any
    other latent.

    Args:
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given. All of
            its sites lie under a plate of the data.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`; the prior must not depend on them. None means that the programs are called
            without classes.
        given: further arguments of both programs by name, as in `fit`; the prior must not depend on their
            rows. None means nothing.
        num_samples: the number of draws for each datum. With one draw the standard errors are NaN.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.

    Returns:
        The averaged KL, its parts, and their standard errors.

    Raises:
        InputError: `num_samples` is below 1; the data are not usable; the pair does not run on them; a site
            lies outside of the data's plate; the model's prior differs between data; the guide scores only
            its own draws, as some flows do (the flow raises the error); or it gives its own draws another
            density when it scores them again, as an ill-conditioned covariance does in 32-bit.
    """
    check_counts(num_samples=num_samples)
    pair, whole = with_given(pair, x, y, given)
    device = device_of(pair, otherwise=x.device)
    with (
        evaluating(pair),
        seeded(seed, device),
        torch.no_grad(),
        only_own_errors(),
        indices_checked(device, whole),
    ):
        layout = check_scorable(pair, device, whole, enumerate=False)
        data = whole.to(device)
        separate = separate_sites(pair, data)
        terms: list[_Terms] = []
        most = max(1, DENSITIES // len(x))
        with progress_bar(progress, num_samples * len(x), "draw") as bar:

            def of_rows(rows: slice) -> _Terms:
                found = _terms(draws, pair.guide, data, rows, layout)
                bar.update(rows.stop - rows.start)
                return found

            for part in slices(num_samples, max(1, DATA // len(x))):
                draws = draws_of_guide(pair, data, part.stop - part.start, layout, separate)
                found, most = in_chunks(of_rows, len(draws), most)
                terms += found
    joined = {key: torch.cat([part[key] for part in terms]).cpu() for key in terms[0]}
    columns = {key: values.unflatten(0, (num_samples, len(x))) for key, values in joined.items()}
    latents = list(draws.codes)
    each = separate if len(latents) > 1 else ()
    sites = {name: _decomposition(columns, name, [name], {}, name in draws.repeatable) for name in each}
    return _decomposition(columns, _ALL, latents, sites, bool(draws.repeatable))


def _groups(draws: Draws) -> dict[str, list[str]]:
    """Return the groups of sites whose KL is decomposed, by name."""
    return {_ALL: list(draws.codes)} | {name: [name] for name in draws.separate}


def _terms(draws: Draws, guide: Program, data: Arguments, rows: slice, layout: Layout) -> _Terms:
    """Compute the contributions of some draws to the figures.

    Returns:
        For each (group of sites, figure) the terms `(c,)`, and for each (site, "per_dimension") the terms
        of the KLs of its dimensions, `(c, *inner_plates, *event_shape)`.
    """
    log_q, log_q_dims = log_q_of_all(draws, guide, data, rows, layout)
    num_data = len(data.args[0])
    device = next(iter(log_q.values())).device  # where there are 64-bit numbers
    index = torch.arange(rows.start, rows.stop, device=device)[:, None] % num_data
    own_log_q = {name: values.gather(1, index).squeeze(1) for name, values in log_q.items()}
    check_scored_alike(draws, rows, own_log_q)
    terms: _Terms = {}
    for group, sites in _groups(draws).items():
        together = torch.stack([log_q[name] for name in sites]).sum(0)
        own = torch.stack([own_log_q[name] for name in sites]).sum(0)
        aggregated = together.logsumexp(1) - math.log(num_data)
        log_p = torch.stack([draws.log_p[name][rows] for name in sites]).sum(0)
        terms[group, "average_kl"] = own - log_p
        terms[group, "mutual_information"] = own - aggregated
        terms[group, "marginal_kl"] = aggregated - log_p
        if all(name in log_q_dims for name in sites):
            product = torch.stack([_summed(log_q_dims[name]) for name in sites]).sum(0)
            terms[group, "total_correlation"] = aggregated - product
            terms[group, "dimension_wise_kl"] = product - log_p
    for name, values in log_q_dims.items():
        terms[name, "per_dimension"] = values - draws.log_p_dims[name][rows]
    return terms


def _summed(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first."""
    return values.reshape(len(values), -1).sum(1)


def _decomposition(
    columns: Mapping[tuple[str, str], Tensor],
    group: str,
    names: Sequence[str],
    sites: dict[str, KLDecomposition],
    repeatable: bool,
) -> KLDecomposition:
    """Make the decomposition of a group's KL from its terms, `(S, N)` each for S draws and N data.

    `repeatable` says whether draws of the group's sites may repeat.
    """
    terms = {name: columns[group, name] for name in FIGURES if (group, name) in columns}
    means = {name: values.mean().item() for name, values in terms.items()}
    per_dimension = None
    if "dimension_wise_kl" in terms:
        per_dimension = {name: columns[name, "per_dimension"].mean((0, 1)) for name in names}
    num_samples, num_data = terms["average_kl"].shape
    return KLDecomposition(
        average_kl=means["average_kl"],
        mutual_information=means["mutual_information"],
        marginal_kl=means["marginal_kl"],
        total_correlation=means.get("total_correlation"),
        dimension_wise_kl=means.get("dimension_wise_kl"),
        per_dimension=per_dimension,
        std_error={name: _std_error(values, repeatable) for name, values in terms.items()},
        sites=sites,
        num_data=num_data,
        num_samples=num_samples,
    )


def _std_error(terms: Tensor, repeatable: bool) -> float:
    """Return the standard error of the mean of terms `(S, N)`. The N columns are strata of S draws each.

    It is NaN if it is not known: with one draw, or if draws that may repeat give the same terms.
    """
    num_samples, num_data = terms.shape
    if num_samples == 1 or (repeatable and (terms.amax(0) - terms.amin(0)).max() < _ROUNDING):
        return math.nan
    return (terms.var(0) / num_samples).sum().sqrt().item() / num_data
