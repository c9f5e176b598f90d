"""`fit_many`, which trains a pair under several seeds at once."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.memory import memory_explained
from pyrovae.compute.precision import products_in
from pyrovae.compute.progress import progress_bar
from pyrovae.compute.turns import alone, give_way
from pyrovae.data.transforms import Transform
from pyrovae.errors import InputError, NonFiniteError, warn
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Objective, PyroObjective
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import move_to
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.pair import ModelAndGuide, is_pair
from pyrovae.programs.reach import modules_of
from pyrovae.schedules import Schedule
from pyrovae.training.batches import Minibatches
from pyrovae.training.fit import data_of, fit, in_form_of_programs, ready_to_train
from pyrovae.training.history import History
from pyrovae.training.loop import row_of
from pyrovae.training.losses import MinibatchLoss
from pyrovae.training.non_finite import check_finite
from pyrovae.training.preparation import Prepared, prepare
from pyrovae.training.settings import Settings, adam
from pyrovae.training.sources import Data, item_seeds
from pyrovae.training.stacking import (
    OWN_LOSS,
    Stack,
    StackedLoss,
    StackedMinibatches,
    StackedParameters,
    disagreement,
    member_of,
)
from pyrovae.training.state import load_state, state
from pyrovae.training.step import EagerStep
from pyrovae.training.steps import build_step
from pyrovae.training.validation import Validation

ELEMENTWISE = (
    optim.Adadelta, optim.Adagrad, optim.Adam, optim.Adamax, optim.AdamW, optim.ASGD, optim.NAdam,
    optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD,
)  # fmt: skip
"""The optimisers whose step for each number depends on that number's gradients alone."""


@dataclass
class Member:
    """A trained pair and its history.

    Attributes:
        seed: the seed of its initial parameters, of its order of the data and of its draws.
        pair: the pair, with modules and parameters of its own.
        history: its history, as `fit` returns it.
    """

    seed: int
    pair: ModelAndGuide
    history: History = field(default_factory=History)


def fit_many(
    make: Callable[[int], ModelAndGuide],
    x: Data,
    y: Tensor | None = None,
    *,
    seeds: Iterable[int],
    given: Mapping[str, Any] | None = None,
    epochs: int = 50,
    batch_size: int = 128,
    optimizer: Callable[[Sequence[Tensor]], Optimizer] = adam,
    learning_rate: float | Schedule | None = None,
    scheduler: Callable[[Optimizer], Any] | None = None,
    objective: Objective | PyroObjective | None = None,
    beta: float | Schedule = 1.0,
    weights: Mapping[str, float | Schedule] | None = None,
    labelled_batch_size: int | None = None,
    data_weights: tuple[float, float] = (1.0, 1.0),
    transform: Transform | None = None,
    clip_norm: float | None = None,
    validation: Data | tuple[Data | Tensor | Mapping[str, Any], ...] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    compile: str = "auto",
) -> list[Member]:
    """Train a pair under several seeds, for error bars. All members take their steps together.

    A member agrees in distribution with `fit` under the same seed: it has initial parameters, an order of
    the data and draws of its own. Parameters and order follow from its own seed. The draws of all members
    come from one stream, which follows from all seeds together. So the same list of seeds gives the same
    members, and another list gives a member other draws.

    The parameters of all members are stacked, and `torch.func.vmap` runs the programs once for all of them.
    That is much faster where a step is short, so that Python or the launches of a GPU's kernels take most
    of its time. It takes the memory of as many steps. The members train one after another by `fit`, and a
    warning says why, where they cannot train together: if `vmap` cannot run the programs, if one minibatch
    gives other numbers than each member alone, if the optimiser is not elementwise (such as Adam, AdamW,
    SGD, RMSprop, Adagrad) or has several groups, with `ReduceLROnPlateau`, with data outside of memory, or
    with several processes.

    There are no early stopping, no folder and no callbacks: use `fit` where you need them.

    Args:
        make: a function from a seed to a pair. It builds all trained modules, the same ones for each seed.
            The random streams start at the seed when it is called, so it need not use the seed.
        x: the data, as in `fit`.
        y: the classes, as in `fit`.
        seeds: the seeds, one for each member, all different.
        given: further arguments of both programs by name, as in `fit`.
        epochs: the number of passes through the data.
        batch_size: the number of data in a minibatch of each member.
        optimizer: a function from the parameters to a torch optimiser, as in `fit`.
        learning_rate: the learning rate of all members, a number or a schedule, as in `fit`.
        scheduler: a function from the optimiser to a learning-rate scheduler, one for all members.
        objective: the objective. None means `ELBO()`.
        beta: the weight of the latent sites, as in `fit`.
        weights: the weights of further sites, as in `fit`.
        labelled_batch_size: the number of labelled data in a minibatch, as in `fit`.
        data_weights: the weights of a labelled and of an unlabelled datum, as in `fit`.
        transform: a function that is applied to each minibatch of each member, as in `fit`.
        clip_norm: the largest norm of each member's gradient. None means no limit.
        validation: validation data, as in `fit`. The bound of each member is measured after each epoch. At
            the end each member has the parameters of its own best epoch.
        device: the device of the training, as in `fit`.
        progress: whether to show a progress bar.
        compile: "on", "off" or "auto", as in `fit`. The step of all members is one graph.

    Returns:
        The members in the order of the seeds. Each is a pair that trained alone for all other functions.
        The column `seconds` of a history is the time of all members together.

    Raises:
        InputError: data, settings or programs do not fit together; `make` returns no pair, other modules
            for another seed, or modules that members share; or the programs keep parameters in Pyro's
            store, where members would share them.
        NonFiniteError: a loss or a parameter of a member is not finite. The message names its seed.

    Warns:
        UserWarning: the members train one after another. The message says why.

    Example:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> members = fit_many(
        ...     lambda seed: PPCA(5, 2), torch.randn(100, 5), seeds=[1, 2, 3], epochs=2, progress=False
        ... )
        >>> [len(member.history["elbo"]) for member in members]
        [2, 2, 2]
        >>> bounds = torch.tensor([member.history["elbo"][-1] for member in members])
        >>> print(f"{bounds.mean():.2f} ± {bounds.std() / 3**0.5:.2f}")   # doctest: +SKIP
    """
    chosen: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "scheduler": scheduler,
        "objective": objective,
        "beta": beta,
        "weights": weights,
        "labelled_batch_size": labelled_batch_size,
        "data_weights": data_weights,
        "transform": transform,
        "clip_norm": clip_norm,
        "validation": validation,
        "device": device,
        "progress": progress,
        "compile": compile,
    }
    numbers = _checked_seeds(seeds)
    # One stream for the draws of all members, which belongs to these seeds alone.
    settings = Settings(**chosen, seed=int(item_seeds(0, 1, "members", *numbers)))
    with alone(), memory_explained("fit_many", "batch_size, or number of seeds"):
        members = [Member(seed, _made(make, seed)) for seed in numbers]
        data, held_out = data_of(members[0].pair, x, y, given, settings)
        reason = _reason_before(members, data)
        if reason is None:
            pairs = [member.pair for member in members]
            with ready_to_train(*pairs, seed=settings.seed, device=data.device):
                reason = _train_together(members, data, held_out, settings)
        if reason is not None:
            warn(f"the members train one after another: {reason}.")
            for member in members:
                member.history = fit(member.pair, x, y, given=given, seed=member.seed, **chosen)
    return members


def _checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    found = tuple(int(seed) for seed in seeds)
    if not found or len(set(found)) < len(found):
        raise InputError(
            f"seeds are {list(found)}; give at least one, all different, one for each member: "
            "seeds=range(5)."
        )
    return found


def _made(make: Callable[[int], ModelAndGuide], seed: int) -> ModelAndGuide:
    """Make the pair of a member under its seed.

    Raises:
        InputError: `make` takes no seed, or returns something else than a pair.
    """
    if not callable(make) or (is_pair(make) and not isinstance(make, type)):
        raise InputError(
            f"make is a {type(make).__name__}; expected a function that builds a new pair for each seed: "
            "write fit_many(lambda seed: VAE(...), x, seeds=range(5))."
        )
    try:
        inspect.signature(make).bind(seed)
    except TypeError:
        raise InputError(
            "make cannot be called with a seed: write it as a function of one argument, "
            "fit_many(lambda seed: VAE(...), x, seeds=range(5)). It need not use the seed."
        ) from None
    with seeded(seed):
        pair = make(seed)
    if not is_pair(pair):
        raise InputError(
            f"make returns a {type(pair).__name__}; expected a pair, an object with `model` and `guide`, "
            "such as a VAE or Pair(model, guide)."
        )
    return pair


def _reason_before(members: Sequence[Member], data: Minibatches) -> str | None:
    """Return why the members cannot train together, as far as nothing must run to see it; else None."""
    if processes.count() > 1:
        return "several processes train each of them"
    if data.source.stream:
        return "the data are outside of memory"
    parts = (part for module in modules_of(members[0].pair) for part in module.modules())
    if any(isinstance(part, PyroModule) and part._pyro_params for part in parts):
        return "a PyroParam of a PyroModule is in Pyro's parameter store, where members would share it"
    return None


def _reason_after(optimizer: Optimizer, settings: Settings, prepared: Prepared) -> str | None:
    """Return why the members cannot train together, as the preparation of the first one shows; else None.

    Args:
        optimizer: an optimiser of the first member alone.
        settings: the settings.
        prepared: what is known of the first member.
    """
    name = type(optimizer).__name__
    if type(optimizer) not in ELEMENTWISE:
        return f"the optimiser {name} does not treat each number of a parameter by itself"
    if len(optimizer.param_groups) > 1:
        return f"{name} has several groups of parameters"
    if isinstance(settings.make_scheduler(optimizer), ReduceLROnPlateau):
        return "ReduceLROnPlateau sets the learning rate of each by its own loss"
    if prepared.draws_elsewhere:
        return "the programs draw from the random streams of Python or NumPy"
    return None


def _train_together(
    members: Sequence[Member], data: Minibatches, held_out: Minibatches | None, settings: Settings
) -> str | None:
    """Train the members in common steps, unless that is not possible. Return the reason then, else None."""
    first = members[0].pair
    data = in_form_of_programs(first, data)
    held_out = None if held_out is None else in_form_of_programs(first, held_out)
    bound = [data.given.bound_to(member.pair, data.device) for member in members]
    with seeded(members[0].seed, data.device):  # lazy modules get their shapes, and initial values
        prepared = prepare(bound[0], data, held_out, settings)
    for member, pair in zip(members[1:], bound[1:], strict=True):
        _move_and_check(pair, member.seed, data)
    if reason := _reason_after(settings.make_optimizer(prepared.trained), settings, prepared):
        return reason
    stack = Stack([prepared.loss, *(_of_another(prepared.loss, pair) for pair in bound[1:])])
    _check_in_modules(prepared, stack)
    seeds = tuple(member.seed for member in members)
    own = prepared.loss
    loss = StackedLoss(own.pair, own.objective, own.parts, own.unit, own.apart, stack=stack, seeds=seeds)
    names = {id(value): name for name, value in prepared.parameters.items()}
    trained = stack.of(prepared.trained)
    together = StackedMinibatches(**vars(data) | {"shuffle": not prepared.in_order, "seeds": seeds})
    with seeded(settings.seed, data.device):
        if reason := disagreement(loss, trained, together.first()):
            return reason
    parameters = StackedParameters(first, stack.named(names), trained, settings.make_optimizer)
    nothing, terms = prepared.nothing
    zeros = {
        name: value.expand(len(members)).clone() for name, value in (terms | {OWN_LOSS: nothing}).items()
    }
    prepared = replace(prepared, loss=loss, nothing=(nothing, zeros))
    _Run(members, together, held_out, prepared, parameters, stack, settings).train()
    return None


def _move_and_check(pair: ModelAndGuide, seed: int, data: Minibatches) -> None:
    """Move a further pair to the device of the data, and check it on a minibatch."""
    move_to(data.device, pair)
    with seeded(seed, data.device):
        for call in data.first().calls:
            check_pair(pair, *call.arguments.args, **call.arguments.kwargs)


def _of_another(loss: MinibatchLoss, pair: ModelAndGuide) -> MinibatchLoss:
    """Return the same loss of another pair. Its objective remembers nothing of the first."""
    return replace(loss, pair=pair, objective=copy.deepcopy(loss.objective))


def _check_in_modules(prepared: Prepared, stack: Stack) -> None:
    """Refuse parameters of `pyro.param`, which belong to no module.

    Raises:
        InputError: there is one. The message names it.
    """
    inside = {id(value) for value in stack.members[0].parameters()}
    for name, value in prepared.parameters.items():
        if id(value) not in inside:
            raise InputError(
                f"the parameter '{name}' is in Pyro's parameter store (pyro.param), where all members "
                "would share it: make it an nn.Parameter of a module that make builds, whose methods are "
                "the programs."
            )


class _Run:
    """The course of the training of several members.

    Args:
        members: the members, whose pairs and histories change.
        data: the minibatches.
        held_out: the validation data, or None.
        prepared: the stacked loss.
        parameters: the stacked parameters.
        stack: the stacked tensors.
        settings: the settings.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: StackedMinibatches,
        held_out: Minibatches | None,
        prepared: Prepared,
        parameters: StackedParameters,
        stack: Stack,
        settings: Settings,
    ) -> None:
        self.members, self.data, self.stack, self.settings = members, data, stack, settings
        self.prepared, self.parameters = prepared, parameters
        self.scheduler = settings.make_scheduler(parameters.optimizer)
        unit, size = prepared.loss.unit, data.parts[-1].batch_size
        self.validations = [
            Validation(
                held_out.given.bound_to(member.pair, data.device),
                replace(held_out, seed=member.seed),
                replace(settings, seed=member.seed),
                unit,
                size,
            )
            for member in (members if held_out is not None else ())
            if held_out is not None
        ]

    def train(self) -> None:
        """Train to the last epoch. Then each member has its parameters, of its best epoch if validated."""
        epochs, steps = self.settings.epochs, self.data.steps
        with (
            products_in(self.settings.precision, self.data.device, torch.float32),
            closing(build_step(self.data, self.prepared, self.parameters, self.settings)) as step,
            self.parameters.gradients_released(),
            progress_bar(self.settings.progress, epochs * steps, "step") as bar,
        ):
            for epoch in range(epochs):
                self._end_epoch(self._pass_through_data(step, epoch, bar))
        for number, member in enumerate(self.members):
            self.stack.write_back(number)
            if self.validations and (best := self.validations[number].best_state) is not None:
                load_state(member.pair, {}, best)

    def _pass_through_data(self, step: EagerStep, epoch: int, bar: Any) -> list[dict[str, float]]:
        """Take the steps of an epoch, and return each member's row of the history."""
        start, steps = time.perf_counter(), self.data.steps
        if epoch == 1 and isinstance(self.settings.bound, ELBO):
            self._look_again(step)
        step.begin(epoch * steps)
        step.compare(epoch)
        own_rate = float(self.parameters.optimizer.param_groups[0]["lr"])
        for number, rows in enumerate(self.data.epoch(epoch)):
            step(rows, self.settings.numbers((epoch * steps + number) / steps, own_rate))
            bar.update()
            give_way()
        sums = step.read()
        sums["loss"] = sums.pop(OWN_LOSS)  # not the sum over all members
        means = [
            {name: values[number] / step.count for name, values in sums.items()}
            for number in range(len(self.members))
        ]
        last = self.settings.numbers(epoch + (steps - 1) / steps, own_rate)
        seconds = time.perf_counter() - start
        return [row_of(own, last, epoch, steps, seconds) for own in means]

    def _look_again(self, step: EagerStep) -> None:
        """Let the objective find again how to run copies, on the first member, outside of `vmap`."""
        assert isinstance(self.settings.bound, ELBO)
        step.has_other_ways = self.settings.bound.look_again()
        if step.has_other_ways:
            own = self.stack.members[0].loss
            self.stack.write_back(0)
            with seeded(self.settings.seed, self.data.device), buffers_kept(own.pair), torch.no_grad():
                own(member_of(self.data.first(), 0), 1.0, {})

    def _end_epoch(self, rows: Sequence[dict[str, float]]) -> None:
        """Check that the members are finite, validate them, and change the learning rate."""
        bad = [m.seed for m, row in zip(self.members, rows, strict=True) if not math.isfinite(row["loss"])]
        if bad:
            raise NonFiniteError(
                f"the loss of epoch {int(rows[0]['epoch'])} is not finite for the seeds {bad}: lower the "
                "learning rate, or clip the gradient's norm."
            )
        check_finite(self.parameters.named, int(rows[0]["step"]))
        for number, (member, row) in enumerate(zip(self.members, rows, strict=True)):
            if self.validations:
                self.stack.write_back(number)
                row |= self.validations[number].bounds(int(row["epoch"]))
            member.history.rows.append(row)
            if self.validations:
                self.validations[number].note(member.history, partial(state, member.pair, {}))
        if self.scheduler is not None:
            self.scheduler.step()
