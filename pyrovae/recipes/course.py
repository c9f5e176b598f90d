"""The course of a stage's training: its steps, the ends of its schedules, and whether beta may move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.progress import say
from pyrovae.data import Transform
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.objective import Objective, as_objective
from pyrovae.programs.given import given_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.structure import Structure
from pyrovae.recipes.settings import Time, Training
from pyrovae.runs import Configuration
from pyrovae.training import Data as Source
from pyrovae.training import few
from pyrovae.training.batches import parts_of


class Call(NamedTuple):
    """What the programs of a stage are called with.

    Attributes:
        x: the data, `(N, *x_shape)` or a dataset.
        y: the classes that the stage learns, `(N,)`, -1 for unlabelled data, or None.
        given: further arguments by name. A tensor of length N has a row for each datum.
        transform: the function that each minibatch passes through, or None.
    """

    x: Source
    y: Tensor | None
    given: Mapping[str, Any]
    transform: Transform | None

    @property
    def num_data(self) -> int:
        """N, the number of data."""
        return len(cast(Any, self.x))


def time_of(
    pair: ModelAndGuide, objective: Objective | None, call: Call, training: Training, ends: Sequence[int]
) -> Time:
    """Return the course of a stage's training.

    Args:
        pair: the stage's pair.
        objective: its objective. None means the ELBO.
        call: what its programs are called with.
        training: its settings, with the size of a minibatch.
        ends: the epochs at which the schedules of its learning rate end.
    """
    assert training.batch_size is not None
    steps = max(part.steps for part in parts_of(call.num_data, call.y, training.batch_size))
    weighted = objective is not None and isinstance(as_objective(objective), IWAE)
    return Time(steps, ends, not weighted and not _enumerates_alone(pair, call, training.seed))


def ends_of(former: Configuration | None, training: Training, folder: Path) -> list[int]:
    """Return the epochs at which the schedules of a run's learning rate end.

    A line on standard error says that the rate of a run that is resumed beyond its last epoch rises and
    falls once more. `--quiet` hides progress bars alone.

    Args:
        former: the configuration of the run that is resumed; None for a new run.
        training: the settings of the training.
        folder: the run folder, for the message.
    """
    if former is None:
        return [training.epochs]
    ends = former.ends or [int(former.training["epochs"])]
    if training.epochs <= ends[-1]:
        return ends
    say(
        training.decay != "none" and processes.is_first(),
        f"{folder} goes on beyond its {ends[-1]} epochs: the learning rate warms up and decays once "
        f"more from epoch {ends[-1] + 1} to epoch {training.epochs}, and beta does not.",
    )
    return [*ends, training.epochs]


def _enumerates_alone(pair: ModelAndGuide, call: Call, seed: int) -> bool:
    """Whether the model enumerates a class that the guide lacks: the logarithm of a sum has no beta."""
    all_known = call.y is not None and not bool((call.y < 0).any())
    with seeded(seed):
        try:
            x = few(call.x, 2)
            x = x if call.transform is None else call.transform(x)
            y = (call.y[:2],) if call.y is not None and all_known else ()
            given = given_of(pair, call.given, call.num_data, bool(y))
            first = {name: values[:2] for name, values in given.rows.items()}
            found = Structure(pair, (x, *y), first | dict(given.whole))
            return any(found[name].enumerated for name in found.model_only)
        except Exception:  # of programs that do not run, of which the training tells more
            return False
