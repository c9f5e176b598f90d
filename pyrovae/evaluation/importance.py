"""Log importance weights of many draws for many data, in chunks.

K copies of the pair run, one for each draw. Only the log weight of each draw is kept. The more draws a
datum has, the fewer data are taken at once, so that the buffer of log weights has a fixed size. Memory
does not grow with K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.compilation import MODES, compile_if_asked
from pyrovae.compute.devices import seeded
from pyrovae.compute.precision import products_in
from pyrovae.compute.progress import progress_bar
from pyrovae.data.checks import check_data
from pyrovae.errors import check_choice, check_counts
from pyrovae.evaluation.chunking import arguments_of, in_chunks, in_turns, particles_at_once, slices
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.log_weights import Layout, Scores, scores
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide

T = TypeVar("T")

LONG_EVALUATION = 10_000_000  # the number of draws from which on compilation saves time
MOST_DATA = 100  # data that are evaluated at once, at most
_WEIGHTS = 500_000  # log weights that are held at once


@dataclass(frozen=True)
class Sampling:
    """Settings of importance sampling.

    Args:
        num_samples: K, the number of draws for each datum.
        seed: the seed of the random draws.
        enumerate: sum out the sites that the guide marks for enumeration.
        progress: show a progress bar.
        compile: "on" scores draws by one compiled graph; "auto" does so for many draws, "off" never.
        precision: the precision of matrix products and convolutions, "float32", "tf32" or "bfloat16".
        joint: estimate one evidence of all data together.

    Raises:
        InputError: K is not a whole number of at least 1, or `compile` is unknown.
    """

    num_samples: int
    seed: int = 0
    enumerate: bool = False
    progress: bool = False
    compile: str = "off"
    precision: str = "float32"
    joint: bool = False

    def __post_init__(self) -> None:
        check_counts(num_samples=self.num_samples)
        check_choice("way to compile", self.compile, MODES)


def over_log_weights(
    summarise: Callable[[Scores], T], pair: ModelAndGuide, x: Tensor, y: Tensor | None, sampling: Sampling
) -> tuple[Layout, list[T]]:
    """Summarise the scores of all data's draws: their log weights log p(x, z_k) - log q(z_k | x) and more.

    Args:
        summarise: a function of the scores `(K, n)`, in 64-bit on the CPU, of some of the data.
        pair: a pair whose sites all lie under a plate of the data, unless `sampling.joint`.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        sampling: the settings.

    Returns:
        The layout of the pair's log densities, and the summaries in the order of the data.

    Raises:
        InputError: for the reasons given at `marginal_likelihood`.
    """
    check_data(x, y)
    processes.check_alike({"x": x, "y": y, "the settings of the evaluation": sampling})
    device = device_of(pair, otherwise=x.device)
    num_samples = sampling.num_samples
    summaries = []
    with (
        evaluating(pair),
        seeded(sampling.seed, device),
        torch.no_grad(),
        products_in(sampling.precision, device, x.dtype),
    ):
        with seeded(sampling.seed, device):
            layout = check_scorable(pair, device, x, y, sampling.enumerate, sampling.joint)
        at_once = layout.at_once(max(1, min(MOST_DATA, _WEIGHTS // num_samples)), len(x))
        # Each part has a random stream of its own, so the result does not depend on its process.
        seeded_parts = [(rows, int(torch.randint(2**62, ()).item())) for rows in slices(len(x), at_once)]
        mine = seeded_parts[processes.rank() :: processes.count()]
        total = sum(rows.stop - rows.start for rows, _ in mine)
        score = _Scorer(pair, layout, sampling.compile, total * num_samples >= LONG_EVALUATION)
        with progress_bar(sampling.progress and processes.is_first(), total, "datum") as bar:
            for rows, part_seed in in_turns(mine):
                args = arguments_of(rows, device, x, y)
                check_pair(pair, *args)
                torch.manual_seed(part_seed)
                summaries.append(summarise(score.in_chunks(args, num_samples)))
                bar.update(len(args[0]))
    return layout, processes.gathered(summaries, len(seeded_parts))


class _Scorer:
    """Scores the draws for some data, by one compiled graph where that saves time."""

    def __init__(self, pair: ModelAndGuide, layout: Layout, compile: str, worthwhile: bool) -> None:
        self.layout, self.compile, self.worthwhile = layout, compile, worthwhile
        self.score = partial(_scored, pair, layout)
        self.graph: Callable[..., list[Tensor]] | None = None
        self.graph_shapes: list[Any] | None = None
        self.most = 2**63  # draws in a chunk, fewer after one did not fit into memory

    def in_chunks(self, args: tuple[Tensor, ...], num_samples: int) -> Scores:
        """Return the scores of `num_samples` draws of each of B data, in 64-bit on the CPU."""
        size = min(num_samples, particles_at_once(args[0], self.layout), self.most)
        if self.graph_shapes is None:
            self._compile(args, size)
        chunks, fitting = in_chunks(lambda c: self._chunk(args, c.stop - c.start), num_samples, size)
        if fitting < size:
            self.most = fitting
        columns = [torch.cat(parts).cpu().double() for parts in zip(*chunks, strict=True)]
        return _unpacked(columns, self.layout)

    def _chunk(self, args: tuple[Tensor, ...], particles: int) -> list[Tensor]:
        if self.graph is not None and self.graph_shapes == [particles, *(arg.shape for arg in args)]:
            return self.graph(*args)
        return self.score(particles, *args)

    def _compile(self, args: tuple[Tensor, ...], particles: int) -> None:
        self.graph_shapes = [particles, *(arg.shape for arg in args)]
        others = [arg.flip(0) for arg in args]
        with seeded(0, args[0].device):
            self.graph = compile_if_asked(
                self.compile,
                self.worthwhile,
                "the evaluation",
                lambda *args: self.score(particles, *args),
                lambda: (args, others),
            )


def _scored(pair: ModelAndGuide, layout: Layout, particles: int, *args: Tensor) -> list[Tensor]:
    """Return the different tensors among the scores of a run, `(K, B)` each."""
    with pyro.validation_enabled(False):
        found = scores(pair, args, particles, layout)
    columns = [found.log_weights, found.elbo_terms] if layout.in_guide else [found.log_weights]
    return columns if found.fingerprints is None else [*columns, found.fingerprints]


def _unpacked(columns: list[Tensor], layout: Layout) -> Scores:
    """Return the scores whose different tensors are given."""
    log_weights, *others = columns
    terms = others.pop(0) if layout.in_guide else log_weights
    return Scores(log_weights, terms, others[0] if others else None)
