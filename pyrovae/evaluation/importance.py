"""The marginal likelihood of any model/guide pair, by importance sampling, with its diagnostics.

    log p(x) ~ logsumexp_k [ log p(x, z_k) - log q(z_k | x) ] - log K,    z_k ~ q(z | x)

(Rezende et al. 2014, appendix E; Burda et al. 2016). The pair is run under a plate of particles, in
chunks; of every draw one number is kept, its log weight, and as many data are taken at once as keep
that buffer at a fixed size. Memory does not grow with K.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyrovae.compute import processes
from pyrovae.compute.compilation import MODES, compile_if_asked
from pyrovae.compute.devices import seeded
from pyrovae.compute.precision import products_in
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError, check_choice, warn
from pyrovae.evaluation.arviz_adapter import pareto_khat, to_group
from pyrovae.evaluation.parts import check_scorable, part_of, particles_at_once, slices, without_nan
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.log_weights import Layout, log_weights
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Pair, takes_pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.storage import write_atomically

T = TypeVar("T")

KHAT_LIMIT = 0.7  # above it, the estimate's error is not to be trusted (Vehtari et al. 2024)
LONG_EVALUATION = 10_000_000  # draws, from which on compilation repays itself
_WEIGHTS = 500_000  # log weights held at once
_DATA = 100  # evaluated at once, at most
_COLUMNS = ("log_px", "std_error", "khat", "ess")


@dataclass(frozen=True)
class MarginalLikelihood:
    """An importance-sampled estimate of log p(x), in nats, datum by datum.

    Attributes:
        log_px: the estimate, `(N,)`.
        std_error: its Monte-Carlo standard error, `(N,)` (delta method).
        khat: Pareto k-hat of the importance weights, `(N,)`; above 0.7 the error is unreliable. NaN
            where the weights do not vary (the guide is exact) or are too few to fit a tail.
        ess: effective sample size, between 1 and K, `(N,)`.
        bounds: `bounds[k]` is the importance-weighted bound with k samples, `(N,)`, from the same
            draws; `bounds[1]` is the ELBO (Burda et al. 2016).
        num_samples: K.
        precision_error: how far a lower precision has moved the estimate, a mean absolute difference in
            nats over the first data, with the same random numbers; None in float32.
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
        """The Monte-Carlo standard error of `mean`: how far other draws of z would move it."""
        return self.std_error.square().sum().sqrt().item() / len(self.log_px)

    @property
    def data_std_error(self) -> float:
        """The standard error of `mean` over data: how far other data of the same kind would move it."""
        return self.log_px.std().item() / math.sqrt(len(self.log_px)) if len(self.log_px) > 1 else math.nan

    @property
    def elbo(self) -> float:
        """The mean ELBO over these data, nats per datum."""
        return self.bounds[1].mean().item()

    @property
    def num_unreliable(self) -> int:
        """How many data have k-hat above 0.7."""
        return int((self.khat > KHAT_LIMIT).sum())

    def summary(self) -> dict[str, Any]:
        """The figures to report, as plain numbers."""
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
        content = {"summary": self.summary(), "data": columns | {"bounds": bounds}}
        text = json.dumps(without_nan(content), indent=1, allow_nan=False)
        write_atomically(Path(path), text.encode())

    def to_arviz(self) -> Any:
        """The values for each datum as ArviZ's data structure (`InferenceData`, or `DataTree` from
        ArviZ 1.0 on), in a group `marginal_likelihood` with dimensions `datum` and `bound_samples`."""
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

    Within `processes.joined()` the processes that torchrun started share the data; each has the whole
    result, and it does not depend on how many they are.

    Args:
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given) whose sites all lie
            under a plate of the data at dimension -1.
        guide: a Pyro program with the model's latent sites.
        x: the data, `(N, *x_shape)`.
        y: observed classes `(N,)`; then the estimate is of log p(x, y) where the model has a site y.
        num_samples: K, the draws for each datum.
        enumerate: sum exactly over the sites that the guide marks for enumeration, such as M2's class,
            sum_y p(x, y, z_y) / q(z_y | x, y) for each draw, rather than drawing them too.
        bounds: importance-weighted bounds to report beside the ELBO; those above K are left out.
        seed: of the draws. The caller's random stream stays in place.
        progress: show a progress bar.
        compile: "on" scores draws by one compiled graph; "auto" where there are enough of them to repay
            compilation (10 million), with a line that says so if it is not possible; "off" never.
        precision: of matrix products and convolutions; "tf32" (on CUDA) and "bfloat16" are faster, and
            the result says what they change.

    Returns:
        Estimates, errors and diagnostics for each datum, on the CPU in 64-bit.

    Raises:
        InputError: K is below 1, there is no such precision or way to compile, the data are not usable, the
            pair does not run on them, a latent site is in one of the programs only, a site lies outside
            of the data plate, or there are other plates beside an enumerated site.

    Warns:
        UserWarning: k-hat is above 0.7 for some data; says for how many.
    """
    estimate = partial(_estimate, pair)
    settings = (num_samples, bounds, seed, progress, enumerate, compile)
    result = estimate(x, y, *settings, precision)
    if precision != "float32":
        first = slice(min(_DATA, len(x)))
        exact = estimate(x[first], None if y is None else y[first], *settings)
        error = (result.log_px[first] - exact.log_px).abs().mean().item()
        result = replace(result, precision_error=error)
    _warn_if_unreliable(result)
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
    """Estimate log p(x) with draws from the prior, log mean_k p(x | z_k): right in the limit, and a
    bad idea. Almost no draw explains the datum, the fewer the larger M is, so that the estimate falls
    far short at any K that can be afforded; its k-hat tells so. Arguments as `marginal_likelihood`'s.
    """
    prior = poutine.block(pair.model, hide_fn=lambda site: bool(site.get("is_observed")))
    result = _estimate(Pair(pair.model, prior), x, y, num_samples, bounds, seed, progress)
    _warn_if_unreliable(result)
    return result


def _estimate(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None,
    num_samples: int,
    bounds: Sequence[int],
    seed: int,
    progress: bool,
    enumerate: bool = False,
    compile: str = "off",
    precision: str = "float32",
) -> MarginalLikelihood:
    if any(k < 1 for k in bounds):
        raise InputError(f"bounds = {tuple(bounds)}: use at least 1 sample.")
    sizes = [1, *(k for k in bounds if 1 < k < num_samples)]
    if num_samples > 1:
        sizes.append(num_samples)

    def summarise(log_weights: Tensor) -> dict[str, Any]:
        return _summarise(log_weights, sizes)

    parts = over_log_weights(
        summarise,
        pair,
        x,
        y,
        num_samples,
        seed=seed,
        enumerate=enumerate,
        progress=progress,
        compile=compile,
        precision=precision,
    )
    return _concatenate(parts, num_samples)


def over_log_weights(
    summarise: Callable[[Tensor], T],
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None,
    num_samples: int,
    *,
    seed: int,
    enumerate: bool,
    progress: bool = False,
    compile: str = "off",
    precision: str = "float32",
) -> list[T]:
    """Summaries of log p(x, z_k) - log q(z_k | x) for K draws, `(K, n)` in 64-bit on the CPU, of as many
    data at a time as memory allows. Other arguments, and errors, are `marginal_likelihood`'s."""
    if num_samples < 1:
        raise InputError(f"num_samples = {num_samples}: use at least 1 sample.")
    check_choice("way to compile", compile, MODES)
    check_data(x, y)
    device = device_of(pair, otherwise=x.device)
    summaries = []
    with (
        own_parameters(),
        evaluating(pair),
        seeded(seed, device),
        torch.no_grad(),
        products_in(precision, device, x.dtype),
    ):
        layout = check_scorable(pair, device, x, y, enumerate)
        parts = slices(len(x), max(1, min(_DATA, _WEIGHTS // num_samples)))
        # Each part has a stream of its own: whichever process takes it, it finds the same.
        seeded_parts = [(rows, int(torch.randint(2**62, ()).item())) for rows in parts]
        mine = seeded_parts[processes.rank() :: processes.count()]
        total = sum(rows.stop - rows.start for rows, _ in mine)
        score = _Scorer(pair, layout, compile, total * num_samples >= LONG_EVALUATION)
        with tqdm(total=total, unit="datum", disable=not progress or not processes.is_first()) as bar:
            for rows, part_seed in mine:
                args = part_of(rows, device, x, y)
                check_pair(pair, *args)
                torch.manual_seed(part_seed)
                log_weights = score.in_chunks(args, num_samples)
                summaries.append(summarise(log_weights.double().cpu()))
                bar.update(len(args[0]))
    return processes.gathered(summaries, len(seeded_parts))


def _warn_if_unreliable(result: MarginalLikelihood) -> None:
    if result.num_unreliable and processes.is_first():
        warn(
            f"k-hat is above {KHAT_LIMIT} for {result.num_unreliable} of {len(result.khat)} data: their "
            "standard errors are not reliable. Use more samples, or a guide with heavier tails."
        )


class _Scorer:
    """log p(x, z_k) - log q(z_k | x) for draws of some data, by one graph where that is worthwhile."""

    def __init__(self, pair: ModelAndGuide, layout: Layout, compile: str, worthwhile: bool) -> None:
        self.layout, self.compile, self.worthwhile = layout, compile, worthwhile
        self.score = partial(_scored, pair, layout)
        self.graph: Callable[..., list[Tensor]] | None = None
        self.graph_shapes: list[Any] | None = None

    def in_chunks(self, args: tuple[Tensor, ...], num_samples: int) -> Tensor:
        """For `num_samples` draws of each of B data: `(K, B)`."""
        size = min(num_samples, particles_at_once(args[0], self.layout))
        if self.graph_shapes is None:
            self._compile(args, size)
        return torch.cat([self._chunk(args, c.stop - c.start) for c in slices(num_samples, size)])

    def _chunk(self, args: tuple[Tensor, ...], particles: int) -> Tensor:
        if self.graph is not None and self.graph_shapes == [particles, *(arg.shape for arg in args)]:
            return self.graph(*args)[0]
        return self.score(particles, *args)

    def _compile(self, args: tuple[Tensor, ...], particles: int) -> None:
        self.graph_shapes = [particles, *(arg.shape for arg in args)]
        others = [arg.flip(0) for arg in args]
        with seeded(0, args[0].device):
            self.graph = compile_if_asked(
                self.compile,
                self.worthwhile,
                "the evaluation",
                lambda *args: [self.score(particles, *args)],
                lambda: (args, others),
            )


def _scored(pair: ModelAndGuide, layout: Layout, particles: int, *args: Tensor) -> Tensor:
    with pyro.validation_enabled(False):
        return log_weights(pair, args, particles, layout)


def _summarise(log_weights: Tensor, sizes: Sequence[int]) -> dict[str, Any]:
    """Estimates from the log weights `(K, B)`."""
    num_samples = len(log_weights)
    log_total = log_weights.logsumexp(0)
    weights = (log_weights - log_total).exp()  # normalised: each column sums to 1
    inverse_ess = weights.square().sum(0)
    # var(w) / (K mean(w)^2), with the unbiased variance.
    relative = (inverse_ess - 1 / num_samples).clamp(min=0) * num_samples / max(num_samples - 1, 1)
    return {
        "log_px": log_total - math.log(num_samples),
        "std_error": relative.sqrt() if num_samples > 1 else torch.full_like(log_total, math.nan),
        "ess": 1 / inverse_ess,
        "khat": pareto_khat(log_weights),
        "bounds": {size: _bound(log_weights, size) for size in sizes},
    }


def _bound(log_weights: Tensor, size: int) -> Tensor:
    """The importance-weighted bound L_size, averaged over the groups of `size` draws there are."""
    groups = len(log_weights) // size
    grouped = log_weights[: groups * size].unflatten(0, (groups, size))
    return (grouped.logsumexp(1) - math.log(size)).mean(0)


def _concatenate(parts: list[dict[str, Any]], num_samples: int) -> MarginalLikelihood:
    columns: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in _COLUMNS}
    bounds = {size: torch.cat([part["bounds"][size] for part in parts]) for size in parts[0]["bounds"]}
    return MarginalLikelihood(**columns, bounds=bounds, num_samples=num_samples)
