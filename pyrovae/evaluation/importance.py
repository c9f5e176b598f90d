"""Log importance weights of many draws for many data, in chunks.

K copies of the pair run, one for each draw. Only the log weight of each draw is kept. The more draws a
datum has, the fewer data are taken at once, so that the buffer of log weights has a fixed size. Memory
does not grow with K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.compilation import MODES, compile_if_asked
from pyrovae.compute.devices import seeded
from pyrovae.compute.memory import check_fits
from pyrovae.compute.precision import in_64_bits, products_in
from pyrovae.compute.progress import progress_bar
from pyrovae.errors import MOST_DRAWS, InputError, check_can_end, check_choice, check_counts
from pyrovae.evaluation.chunking import data_at_once, in_chunks, in_turns, particles_at_once, slices
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.checks import check_pair
from pyrovae.programs.copies import Extra
from pyrovae.programs.devices import device_of
from pyrovae.programs.layout import Layout, run_under_particles
from pyrovae.programs.log_weights import Scores, scores, scores_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments

T = TypeVar("T")

LONG_EVALUATION = 10_000_000  # the number of draws from which on compilation saves time
_WEIGHTS = 5_000  # log weights that are held at once for each of the data that are evaluated at once
_VALUES = 15_000_000  # values of further tensors that are held at once


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


@dataclass(frozen=True)
class Further:
    """Tensors of the draws that are wanted beside their scores.

    Args:
        extras: the tensors of single sites that a run of copies keeps (see `run_copies`).
        columns: a function of the traces of model and guide, the data and the layout of a run under
            particles. It returns tensors `(K, ...)`.
        count: the number of these tensors.
        size: the number of values that they have for each draw of a datum and enumerated value.
    """

    extras: Mapping[str, Extra]
    columns: Callable[[Trace, Trace, Tensor, Layout], list[Tensor]]
    count: int
    size: int


def over_log_weights(
    summarise: Callable[..., T],
    pair: ModelAndGuide,
    data: Arguments,
    sampling: Sampling,
    further: Further | None = None,
) -> tuple[Layout, list[T]]:
    """Summarise the scores of all data's draws: their log weights log p(x, z_k) - log q(z_k | x) and more.

    Args:
        summarise: a function of the scores `(K, n)`, in 64-bit, of some of the data, and of what is wanted
            further. They are where the pair is, if this device has 64-bit floats; what the function returns
            is on the CPU.
        pair: a pair whose sites all lie under a plate of the data, unless `sampling.joint`.
        data: the arguments of a call with all data (see `with_given`).
        sampling: the settings.
        further: what is wanted beside the scores. Single draws then have weights of their own, which
            several enumerated sites do not allow. None means nothing.

    Returns:
        The layout of the pair's log densities, and the summaries in the order of the data.

    Raises:
        InputError: several sites are enumerated, and something is wanted beside the scores; or for the
            reasons given at `marginal_likelihood`.
    """
    x, num_samples = data.args[0], sampling.num_samples
    check_num_samples(num_samples, len(x))
    alike = dict(zip(("x", "y"), data.args, strict=False)) | dict(data.kwargs)
    processes.check_alike(alike | {"the settings of the evaluation": sampling})
    device = device_of(pair, otherwise=x.device)
    summaries = []
    with (
        evaluating(pair),
        seeded(sampling.seed, device),
        torch.no_grad(),
        products_in(sampling.precision, device, x.dtype),
    ):
        with seeded(sampling.seed, device):
            layout = check_scorable(pair, device, data, sampling.enumerate, sampling.joint)
        _check_single_draws(layout, further)
        most = data_at_once(x, device)
        values, of_draw = (
            (_WEIGHTS * most, 1) if further is None else (_VALUES, further.size * (layout.values or 1))
        )
        at_once = layout.at_once(max(1, min(most, values // (num_samples * of_draw))), len(x))
        # Each part has a random stream of its own, so the result does not depend on its process.
        seeded_parts = [(rows, int(torch.randint(2**62, ()).item())) for rows in slices(len(x), at_once)]
        mine = seeded_parts[processes.rank() :: processes.count()]
        total = sum(rows.stop - rows.start for rows, _ in mine)
        score = _Scorer(pair, layout, sampling.compile, total * num_samples >= LONG_EVALUATION, further)
        with progress_bar(sampling.progress and processes.is_first(), total, "datum") as bar:
            for rows, part_seed in in_turns(mine):
                arguments = data.rows(rows).to(device)
                check_pair(pair, *arguments.args, **arguments.kwargs)
                torch.manual_seed(part_seed)
                summaries.append(summarise(*score.in_chunks(arguments, num_samples)))
                bar.update(len(arguments.args[0]))
    return layout, processes.gathered(summaries, len(seeded_parts))


def check_num_samples(num_samples: int, num_data: int) -> None:
    """Refuse numbers of draws whose log weights would not fit into the memory, or that would not end.

    Raises:
        InputError: there are too many.
    """
    remedy = f"choose num_samples of at most {max(1, MOST_DRAWS // max(1, num_data)):,}"
    check_can_end(num_samples * num_data, f"num_samples = {num_samples} for {num_data} data", remedy)
    of_a_datum = f"num_samples = {num_samples}, with a log weight for each draw of a datum,"
    check_fits(16 * num_samples, of_a_datum, "choose a smaller num_samples")


def _check_single_draws(layout: Layout, further: Further | None) -> None:
    if further is not None and layout.several:
        names = ", ".join(map(repr, layout.sites.summed_out))
        raise InputError(
            f"the sites {names} are enumerated and summed out together, so that no draw has a weight of "
            "its own: draw them, with enumerate=False. Add a site that the guide lacks to it first."
        )


class _Scorer:
    """Scores the draws for some data, by one compiled graph where that saves time."""

    def __init__(
        self,
        pair: ModelAndGuide,
        layout: Layout,
        compile: str,
        worthwhile: bool,
        further: Further | None = None,
    ) -> None:
        self.layout, self.compile, self.worthwhile = layout, compile, worthwhile
        self.further = 0 if further is None else further.count
        self.score = partial(_scored, pair, layout, further)
        self.graph: Callable[..., list[Tensor]] | None = None
        self.graph_shapes: list[Any] | None = None
        self.most = 2**63  # draws in a chunk, fewer after one did not fit into memory

    def in_chunks(self, arguments: Arguments, num_samples: int) -> tuple[Any, ...]:
        """Return the scores of `num_samples` draws of each of B data, in 64-bit, and further tensors.

        All of them are on the device of the pair, if it has 64-bit floats, else on the CPU.
        """
        size = min(num_samples, particles_at_once(arguments.args[0], self.layout), self.most)
        chunks, fitting = in_chunks(lambda c: self._chunk(arguments, c.stop - c.start), num_samples, size)
        if fitting < size:
            self.most = fitting
        columns = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        of_scores = len(columns) - self.further
        found = _unpacked(columns[:of_scores], self.layout)
        return found, *(column.to(found.log_weights.device) for column in columns[of_scores:])

    def _chunk(self, arguments: Arguments, particles: int) -> list[Tensor]:
        tensors = arguments.tensors
        if self.graph_shapes is None:
            self._compile(arguments, particles)
        if self.graph is not None and self.graph_shapes == [particles, *(each.shape for each in tensors)]:
            return self.graph(*tensors)
        return self.score(particles, arguments)

    def _compile(self, arguments: Arguments, particles: int) -> None:
        """Compile the scoring of chunks of this size. If memory runs out, a smaller chunk will be tried."""
        tensors = arguments.tensors
        others = [each.flip(0) for each in tensors]
        with seeded(0, tensors[0].device):
            self.graph = compile_if_asked(
                self.compile,
                self.worthwhile,
                "the evaluation",
                lambda *others: self.score(particles, arguments.with_tensors(others)),
                lambda: (tensors, others),
            )
        self.graph_shapes = [particles, *(each.shape for each in tensors)]


def _scored(
    pair: ModelAndGuide, layout: Layout, further: Further | None, particles: int, arguments: Arguments
) -> list[Tensor]:
    """Return the different tensors among the scores of a run, `(K, B)` each, and what is wanted further."""
    beside: list[Tensor] = []
    with pyro.validation_enabled(False):
        if further is None:
            found = scores(pair, arguments, particles, layout)
        else:
            x = arguments.args[0]
            traces = run_under_particles(pair, arguments, particles, layout, further.extras)
            found = scores_of(*traces, x, layout)
            beside = further.columns(*traces, x, layout)
    columns = [found.log_weights, found.elbo_terms] if layout.in_guide else [found.log_weights]
    return [*columns, *([] if found.fingerprints is None else [found.fingerprints]), *beside]


def _unpacked(columns: list[Tensor], layout: Layout) -> Scores:
    """Return the scores whose different tensors are given."""
    log_weights, *others = map(in_64_bits, columns)
    terms = others.pop(0) if layout.in_guide else log_weights
    return Scores(log_weights, terms, others[0] if others else None)
