"""Active units: latent dimensions whose mean varies with the data (Burda et al. 2016, section 5).

A variance of the means above 0.01 may still tell nothing: beside a posterior variance of 1 it carries 0.005
nats about a datum. So each unit's information is estimated, too. It is that of a Gaussian channel,

    I_d = 1/2 log( 1 + Var_x( E_q[z_d | x] ) / E_x( Var_q[z_d | x] ) )

and a unit carries information if I_d is at least 0.1 nats, where x explains 18 % of the unit's variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError, check_counts, check_numbers
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.checks import check_pair
from pyrovae.programs.copies import run_copies
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import closed_mean
from pyrovae.programs.given import with_given
from pyrovae.programs.layout import Layout
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import continuous_latents

INFORMATIVE = 0.1
"""The least information, in nats, of a unit that carries information."""

_FEW = 8  # the number of variances that a notebook shows
_ROWS = 20_000  # the number of data times particles that pass through the networks at once


@dataclass(frozen=True)
class ActiveUnits:
    """The variance over data of the mean of each latent dimension (Burda et al. 2016).

    Attributes:
        variances: Var_x( E_q[z_d | x] ) by site, in the latent's own shape.
        noise: E_x( Var_q[z_d | x] ) by site, in the latent's own shape.
        threshold: the variance above which a unit is active.
        num_data: N, the number of data.
    """

    variances: dict[str, Tensor]
    noise: dict[str, Tensor]
    threshold: float
    num_data: int

    @property
    def active(self) -> dict[str, Tensor]:
        """Whether each unit is active: a tensor of booleans for each site, in the latent's own shape."""
        return {name: values > self.threshold for name, values in self.variances.items()}

    @property
    def counts(self) -> dict[str, int]:
        """The number of active units of each site."""
        return {name: int(active.sum()) for name, active in self.active.items()}

    @property
    def information(self) -> dict[str, Tensor]:
        """The information of each unit about a datum, in nats, as of a Gaussian channel."""
        return {
            name: torch.where(values > 0, 0.5 * torch.log1p(values / self.noise[name]), 0.0)
            for name, values in self.variances.items()
        }

    @property
    def total_information(self) -> dict[str, float]:
        """The sum of the information of all units of each site, in nats."""
        return {name: values.sum().item() for name, values in self.information.items()}

    @property
    def informative_counts(self) -> dict[str, int]:
        """The number of units of each site that carry information: at least 0.1 nats each."""
        return {name: int((values >= INFORMATIVE).sum()) for name, values in self.information.items()}

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        return {
            "active_units": self.counts,
            "informative_units": self.informative_counts,
            "information": self.total_information,
            "units": {name: values.numel() for name, values in self.variances.items()},
            "threshold": self.threshold,
            "num_data": self.num_data,
        }

    def content(self) -> dict[str, Any]:
        """Return the summary, the variances and the information of each unit, as plain numbers."""
        variances, information = (
            {name: values.tolist() for name, values in of_sites.items()}
            for of_sites in (self.variances, self.information)
        )
        return {"summary": self.summary(), "variances": variances, "information": information}

    def to_json(self, path: str | Path) -> None:
        """Write the summary and the variances to a JSON file."""
        write_json(path, self.content())

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {self.informative_counts[name]} of {self.variances[name].numel()} units carry "
            f"information ({INFORMATIVE:g} nats or more), {self.total_information[name]:.2f} nats "
            f"together; {count} have a variance of E[{name} | x] above {self.threshold:g} "
            f"(over {self.num_data} data)"
            for name, count in self.counts.items()
        )

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the most variable units first."""
        rows = [
            (
                name,
                f"{count} of {self.variances[name].numel()}",
                ", ".join(
                    f"{v:.3g}" for v in self.variances[name].flatten().sort(descending=True)[0][:_FEW]
                ),
            )
            for name, count in self.counts.items()
        ]
        title = f"Active units over {self.num_data} data, threshold {self.threshold:g}"
        return small_tables.html(
            ("site", "active units", f"the largest {_FEW} variances of the means"), rows, title
        )


@takes_pair
def active_units(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    threshold: float = 0.01,
    num_samples: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """Count the latent dimensions whose mean under the guide varies with the data.

    The threshold of Burda et al. is for latents with a prior of about unit scale. The information of a unit
    does not depend on its scale.

    Args:
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given. All of
            its sites lie under a plate of the data.
        x: the data, `(N, *x_shape)`, N at least 2.
        y: classes `(N,)`. None means that the programs are called without classes.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        threshold: the variance above which a unit is active.
        num_samples: the number of draws over which E_q[z | x] is averaged. The mean of the site's
            distribution is averaged where it is known (which is exact unless it depends on other latents),
            else the draws themselves. The variance that a finite number of draws adds is subtracted.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        The variances of all continuous latents, and the information that they carry, on the CPU in 64-bit.
        Classes have no mean and are left out.

    Raises:
        InputError: there are fewer than two data or draws; `threshold` is below 0; the data are not usable;
            the pair does not run on them; or it has no continuous latent under a plate of the data.
    """
    pair, data = with_given(pair, x, y, given)
    check_numbers(threshold=threshold)
    check_counts(num_samples=num_samples)
    if not threshold >= 0:
        raise InputError(f"threshold is {threshold}; it must be at least 0, as a variance is.")
    for name, number in {"the number of data": len(x), "num_samples": num_samples}.items():
        if number < 2:
            raise InputError(f"{name} is {number}: a variance needs at least 2.")
    device = device_of(pair, otherwise=x.device)
    with evaluating(pair), seeded(seed, device), torch.no_grad():
        layout = check_scorable(pair, device, data, enumerate=False)

        def of_rows(rows: slice) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
            return _moments_of(pair, data.rows(rows).to(device), layout, num_samples)

        sizes = [layout.at_once(most, len(x)) for most in (max(1, _ROWS // num_samples), 1)]
        parts, _ = in_chunks(of_rows, len(x), *sizes)
    if not parts[0]:
        raise InputError("the pair has no continuous latent, so it has no units: give a pair with one.")
    variances, noise = {}, {}
    for name in parts[0]:
        means, of_means, of_draws = (torch.cat([part[name][i] for part in parts]) for i in range(3))
        variances[name] = (means.var(0) - of_means.mean(0)).clamp(min=0)
        noise[name] = of_draws.mean(0)
    return ActiveUnits(variances, noise, threshold, len(x))


def _moments_of(
    pair: ModelAndGuide, arguments: Arguments, layout: Layout, num_samples: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return the moments of each continuous latent for some data; see `_moments`."""
    check_pair(pair, *arguments.args, **arguments.kwargs)
    with pyro.validation_enabled(False):
        copies = layout.of_guide(num_samples)
        trace = run_copies(layout.ways.guide, pair.guide, arguments, copies, extras={"mean": _mean})
    trace = poutine.util.prune_subsample_sites(trace)
    return {name: _moments(trace.nodes[name], layout.data_dim) for name in continuous_latents(trace)}


def _mean(site: Mapping[str, Any]) -> Tensor | None:
    """Return the mean of a site's distribution, or None if it has none."""
    mean = closed_mean(site["fn"])
    return None if mean is None or not mean.isfinite().all() else mean


def _moments(site: Mapping[str, Any], data_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return E_q[z | x] of each datum, averaged over the particles, its variance, and Var_q[z | x]."""
    value, mean = site["value"], site["mean"]
    centres, draws = (
        number.cpu().double().movedim(data_dim - site["fn"].event_dim, 1)
        for number in (value if mean is None else mean.expand(value.shape), value)
    )
    return centres.mean(0), centres.var(0) / len(centres), draws.var(0)
