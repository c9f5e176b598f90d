"""Active units: latent dimensions that say something about the data (Burda et al. 2016, section 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError
from pyrovae.evaluation.parts import check_scorable, part_of, slices, without_nan
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import has_mean
from pyrovae.programs.log_weights import particle_plate
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.programs.running import latent_sites
from pyrovae.storage import write_atomically

_ROWS = 20_000  # data times particles that pass through the networks at once


@dataclass(frozen=True)
class ActiveUnits:
    """How far the mean of each latent dimension moves with the data (Burda et al. 2016).

    Attributes:
        variances: Var_x( E_q[z_d | x] ) by site, in the latent's own shape.
        threshold: above it a unit is active.
        num_data: N.
    """

    variances: dict[str, Tensor]
    threshold: float
    num_data: int

    @property
    def active(self) -> dict[str, Tensor]:
        """Which units are active, by site."""
        return {name: values > self.threshold for name, values in self.variances.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many units are active, by site."""
        return {name: int(active.sum()) for name, active in self.active.items()}

    def summary(self) -> dict[str, Any]:
        """The figures to report, as plain numbers."""
        return {
            "active_units": self.counts,
            "units": {name: values.numel() for name, values in self.variances.items()},
            "threshold": self.threshold,
            "num_data": self.num_data,
        }

    def to_json(self, path: str | Path) -> None:
        """Write the summary and the variances."""
        variances = {name: values.tolist() for name, values in self.variances.items()}
        content = without_nan({"summary": self.summary(), "variances": variances})
        write_atomically(Path(path), json.dumps(content, indent=1, allow_nan=False).encode())

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {count} of {self.variances[name].numel()} units are active "
            f"(variance of E[{name} | x] over {self.num_data} data above {self.threshold:g})"
            for name, count in self.counts.items()
        )


@takes_pair
def active_units(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    threshold: float = 0.01,
    num_samples: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """Count the latent dimensions whose mean under the guide varies with the data.

    The threshold of Burda et al. is for latents with a prior of about unit scale.

    Args:
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given) whose sites all lie
            under a plate of the data at dimension -1.
        guide: a Pyro program with the model's latent sites.
        x: the data, `(N, *x_shape)`, N at least 2.
        y: observed classes `(N,)`.
        threshold: the variance above which a unit is active.
        num_samples: draws over which E_q[z | x] is averaged: of the distribution's mean where it has one
            (exact, unless it depends on other latents), else of the values. The variance that a finite
            number of them adds is taken off.
        seed: of the draws. The caller's random stream stays in place.

    Returns:
        The variances of all continuous latents, on the CPU in 64-bit. Classes have no mean and are left
        out.

    Raises:
        InputError: fewer than two data or draws, a threshold below 0, the data are not usable, the pair
            does not run on them, or it has no continuous latent under a plate of the data.
    """
    check_data(x, y)
    if not threshold >= 0:
        raise InputError(f"threshold is {threshold}; a variance is at least 0, and so must it be.")
    for name, number in {"the number of data": len(x), "num_samples": num_samples}.items():
        if number < 2:
            raise InputError(f"{name} is {number}: a variance needs at least 2.")
    device = device_of(pair, otherwise=x.device)
    parts = []
    with own_parameters(), evaluating(pair), seeded(seed, device), torch.no_grad():
        layout = check_scorable(pair, device, x, y, enumerate=False)
        for rows in slices(len(x), max(1, _ROWS // num_samples)):
            args = part_of(rows, device, x, y)
            check_pair(pair, *args)
            with pyro.validation_enabled(False), particle_plate(num_samples, layout):
                trace = poutine.trace(pair.guide).get_trace(*args)
            parts.append({name: _mean_and_noise(trace.nodes[name]) for name in _continuous(trace)})
    if not parts[0]:
        raise InputError("the pair has no continuous latent, whose units could be active.")
    variances = {}
    for name in parts[0]:
        means, noise = (torch.cat([part[name][i] for part in parts]) for i in (0, 1))
        variances[name] = (means.var(0) - noise.mean(0)).clamp(min=0)
    return ActiveUnits(variances, threshold, len(x))


def _continuous(trace: Trace) -> list[str]:
    pruned = poutine.util.prune_subsample_sites(trace)
    return [name for name in latent_sites(pruned) if trace.nodes[name]["value"].is_floating_point()]


def _mean_and_noise(site: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """E_q[z | x] of each datum over the particles, and that estimate's variance: data first."""
    fn, value = site["fn"], site["value"]
    centres = (fn.mean if has_mean(fn) else value).expand(value.shape).double().cpu()
    centres = centres.movedim(-1 - fn.event_dim, 1)
    return centres.mean(0), centres.var(0) / len(centres)
