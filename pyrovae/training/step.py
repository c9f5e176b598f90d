"""A training step: from a minibatch to changed parameters.

A step is built once for a run. It gets a minibatch and transforms it. It computes the loss, its terms and
its gradients, and sums them over processes. It clips the gradient, and lets the optimiser change the
parameters. It adds loss and terms to sums that stay on the device.

`EagerStep` runs the programs each time. `CompiledStep` replays one compiled graph of them for all full
minibatches, and holds it against the programs between epochs. `captured.CapturedStep` replays the whole
step on a GPU. Another kind of step overrides `gradients`, or the whole call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import LBFGS

from pyrovae.compute import processes
from pyrovae.compute.compilation import NotTraceable, refuse
from pyrovae.compute.devices import seeded
from pyrovae.compute.streams import set_streams, streams
from pyrovae.errors import NonFiniteError
from pyrovae.programs.memory import remembered
from pyrovae.programs.modes import buffers_kept
from pyrovae.schedules import Constant
from pyrovae.training.batches import Batch, Call, Minibatches, Rows
from pyrovae.training.losses import Weights
from pyrovae.training.preparation import Prepared
from pyrovae.training.recording import Recorded
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.trainable import Trainable

STEPS_BETWEEN = 500
"""The number of steps after which a record is held against the programs, if no code of the user's runs."""

RENEWAL, SPARE = 10, 20
"""The price of a new record, and the most that a step can spend. Each comparison that agrees earns 1.

So a record may be renewed twice in a row, and on average after every ten comparisons.
"""


Layout = tuple[tuple[int, ...], list[str], list[bool]]
"""What the results of a record are: ids of trained parameters, names of terms, and who has a gradient."""


class Gradients(NamedTuple):
    """The result of one evaluation: this process's share of sums over all processes.

    Attributes:
        loss: the loss per datum.
        terms: its terms per datum, by name.
        of_parameters: its gradients, one for each trained parameter; None for one that was not used.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    of_parameters: list[Tensor | None]


def reads_losses(device: torch.device) -> bool:
    """Return whether a step on this device reads its loss at once.

    Reading a loss from a GPU means waiting for the GPU, so there the loss is read at the end of the epoch.
    """
    return device.type == "cpu"


class EagerStep:
    """A step that runs the programs.

    Args:
        data: the minibatches.
        prepared: the loss.
        parameters: the parameters that are trained, and their optimiser.
        settings: the run's settings. Only `clip_norm`, and whether they give a learning rate, are used.

    Attributes:
        watched: whether each loss is read, so that one that is not finite ends the run at once.
        count: the number of data in the sums.
    """

    def __init__(
        self, data: Minibatches, prepared: Prepared, parameters: Trainable, settings: Settings
    ) -> None:
        self.data, self.loss, self.parameters = data, prepared.loss, parameters
        self.optimizer, self.clip_norm = parameters.optimizer, settings.clip_norm
        self.sets_rate = settings.rate_schedule is not None
        self.device = data.device
        self.watched = reads_losses(self.device)
        self.nothing = prepared.nothing
        # Torch's other optimisers ask for the gradients once in a step.
        once = type(self.optimizer).__module__.startswith("torch.optim") and not isinstance(
            self.optimizer, LBFGS
        )
        self.keeps_all_streams = prepared.draws_elsewhere or not once
        self.has_other_ways = False
        self.begin(0)

    def begin(self, number: int) -> None:
        """Set all sums to zero. `number` is that of the next step, for messages."""
        self.number, self.count = number, 0
        self._sums: dict[str, Tensor] = {}
        self._unchecked = True

    def compare(self, epoch: int) -> None:
        """Hold the step against the programs as they are at the start of an epoch.

        A step that runs the programs has nothing to compare.

        Args:
            epoch: the number of the epoch, from 0.
        """

    def close(self) -> None:
        """Free the memory that the step holds on a GPU. It is not used any more."""

    def saved(self) -> dict[str, Any] | None:
        """Return what a checkpoint must hold so that a resumed run builds the same step."""
        return None

    def read(self) -> dict[str, Any]:
        """Return the sums of the loss and its terms over the data since `begin`, by name, as numbers.

        If members train together, there is a list with the sum of each.
        """
        return {name: total.tolist() for name, total in self._sums.items()}

    def __call__(self, rows: Sequence[Rows] | Batch, numbers: Numbers) -> None:
        """Take a step.

        Args:
            rows: the rows of each part that form the minibatch, or the minibatch itself.
            numbers: beta, the weights of sites, and the learning rate.

        Raises:
            NonFiniteError: the step is watched and its loss is not finite. The message names the site.
        """
        batch = rows if isinstance(rows, Batch) else self.data.batch(rows)
        for group in self.optimizer.param_groups if self.sets_rate else ():
            group["lr"] = numbers.learning_rate
        # torch's type asks for a float as the loss, but a tensor works as well.
        self.optimizer.step(_Closure(self, batch, numbers))  # type: ignore[arg-type]
        self.number += 1
        self._unchecked |= self.number & (self.number - 1) == 0  # at steps 1, 2, 4, 8, ...

    def gradients(self, batch: Batch, beta: float | Tensor, weights: Weights) -> Gradients:
        """Return the loss of a minibatch, its terms and its gradients."""
        if not batch.calls:
            return Gradients(*self.nothing, self.parameters.shared([None] * len(self.parameters.trained)))
        with self.parameters.listening():
            loss, terms = self.loss(batch, beta, weights)
        if self._unchecked:
            self._check(loss, batch)
        zeros = self.nothing[1]
        if processes.count() > 1:  # all processes must have the same terms, to sum them
            terms = {name: terms.get(name, zero) for name, zero in zeros.items()}
        return Gradients(loss.detach(), {**zeros, **terms}, self.parameters.gradients(loss))

    def _check(self, loss: Tensor, batch: Batch) -> None:
        """Look for parameters that nothing has shown to the run."""

        def again() -> Tensor:
            with seeded(0, self.device), buffers_kept(self.loss.pair):
                return self.loss(batch, 1.0, {})[0]

        self._unchecked = False
        self.parameters.check(loss, again)

    def add(self, batch: Batch, gradients: Gradients) -> None:
        """Add the loss and the terms of a minibatch to the sums, on the device."""
        self.count += batch.num_data
        for name, value in {"loss": gradients.loss, **gradients.terms}.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value)
            self._sums[name].add_(value * batch.num_data)

    def apply(self, gradients: Gradients) -> None:
        """Set the parameters' gradients, clipped."""
        for parameter, gradient in zip(self.parameters.trained, gradients.of_parameters, strict=True):
            parameter.grad = gradient
        if self.clip_norm is not None:
            self.parameters.clip(self.clip_norm)

    def explanation(self, batch: Batch) -> NonFiniteError:
        """Return an error that names the site at which the loss of this minibatch is not finite."""
        return self.loss.explanation(f"the loss of step {self.number}", batch)


class _Closure:
    """The function that an optimiser calls for the loss and the gradients of a step.

    An optimiser that calls it more than once (LBFGS) gets the same random draws each time. Only the first
    loss is added to the sums.
    """

    def __init__(self, step: EagerStep, batch: Batch, numbers: Numbers) -> None:
        self.step, self.batch, self.numbers = step, batch, numbers
        self.before = streams(step.device, everywhere=step.keeps_all_streams)
        self.first = True

    def __call__(self) -> Tensor:
        step = self.step
        if not self.first:
            set_streams(self.before, step.device)
        found = step.gradients(self.batch, self.numbers.beta, self.numbers.weights)
        found = processes.summed(found)
        if step.watched and not math.isfinite(found.loss.item()):
            set_streams(self.before, step.device)
            raise step.explanation(self.batch)
        if self.first:
            step.add(self.batch, found)
        self.first = False
        step.apply(found)
        return found.loss


class CompiledStep(EagerStep):
    """A step that replays one compiled graph for all full minibatches, and runs the programs for others.

    Args:
        data: the minibatches.
        prepared: the loss.
        parameters: the parameters that are trained, and their optimiser.
        settings: the run's settings.
        saved: what `saved` returned when the run was interrupted; None for a new run.

    Attributes:
        recorded: the graph; None if the programs run each time.

    Raises:
        InputError: `compile` is "on", and the programs cannot be recorded as a graph. The message says why.

    Warns:
        UserWarning: `compile` is "auto", and the programs cannot be recorded, or they could not be in the
            run that is resumed. They then run each time.
    """

    def __init__(
        self,
        data: Minibatches,
        prepared: Prepared,
        parameters: Trainable,
        settings: Settings,
        saved: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data, prepared, parameters, settings)
        self.seed = settings.seed
        beta, weights = settings.beta_schedule, settings.weight_schedules
        self.constant_beta = beta.value if isinstance(beta, Constant) else None
        self.constants = {site: w.value for site, w in weights.items() if isinstance(w, Constant)}
        self.varying = [site for site in weights if site not in self.constants]
        self.users_code_runs = bool(
            settings.callbacks
            or settings.scheduler is not None
            or settings.transform is not None
            or self.constant_beta is None
            or self.varying
            or not isinstance(settings.rate_schedule, Constant | None)
        )
        saved = saved or {"reason": None, "spare": SPARE, "digest": None}
        self.spare, self.reason, self.digest = saved["spare"], saved["reason"], saved["digest"]
        self._unchecked = False  # until the first step
        self.layout: Layout = ((), [], [])
        self.recorded = None if self.reason else self._record()
        self.just_recorded = True
        if self.reason:
            # A run that began with a record goes on, where a new one would be refused.
            refuse("auto" if saved["reason"] or self.digest else settings.compile, "training", self.reason)

    def gradients(self, batch: Batch, beta: float | Tensor, weights: Weights) -> Gradients:
        """Return the loss, its terms and its gradients. The graph computes them for full minibatches."""
        if self.recorded is None or batch.layout != self.full.layout or not batch.calls:
            return super().gradients(batch, beta, weights)
        trained, names, used = self.layout
        if trained != self.parameters.layout():
            return super().gradients(batch, beta, weights)
        loss, *values = self.recorded(*tensors_of(batch), *self._tensors_of(beta, weights))
        terms = dict(zip(names, values, strict=False))
        found = iter(values[len(terms) :])
        return Gradients(loss, terms, self.parameters.shared([next(found) if u else None for u in used]))

    def compare(self, epoch: int) -> None:
        """Hold the graph against the programs at the start of an epoch, if code of the user's may have run.

        If no such code runs, this happens at the first epoch's start after every 500 steps, after other
        parameters are trained, or when the objective has looked again for the ways to run copies. If the
        two differ, the programs are recorded afresh. The graph is given up if that does not help, or is
        needed again and again. Nothing that training changes moves.

        Warns:
            UserWarning: from now on the programs run each time. The message says why.
        """
        new, self.just_recorded = self.just_recorded, False
        due = self._is_due(epoch) or self.layout[0] != self.parameters.layout()
        if self.recorded is None or not (due or (new and self._is_another())):
            return
        renewed, reason = False, None
        try:
            # A resumed run has recorded the programs just now, where the other run compared.
            renewed = self._is_another() if new else self._renewed(self.recorded)
        except NotTraceable as error:
            reason = str(error)
        if renewed and self.spare < RENEWAL:
            reason = "the programs have changed again and again since they were recorded"
        renewed, self.reason = _agreed(renewed, reason)
        self.spare = self.spare - RENEWAL if renewed else min(SPARE, self.spare + 1)
        if self.reason:
            self.recorded = None
            refuse("auto", f"training from epoch {epoch + 1} on", self.reason)

    def close(self) -> None:
        """Free the memory of captured kernels."""
        if self.recorded is not None:
            self.recorded.release()

    def saved(self) -> dict[str, Any]:
        """Return the reason why the programs are not recorded, and a digest of the record if they are."""
        digest = self.recorded.digest if self.recorded else None
        return {"reason": self.reason, "spare": self.spare, "digest": digest}

    def _is_due(self, epoch: int) -> bool:
        steps = self.data.steps
        looked_again, self.has_other_ways = self.has_other_ways, False
        between = epoch * steps // STEPS_BETWEEN > (epoch - 1) * steps // STEPS_BETWEEN
        return self.users_code_runs or looked_again or between

    def _is_another(self) -> bool:
        """Whether the record differs from that of the run that is resumed."""
        assert self.recorded is not None
        return self.digest not in (None, self.recorded.digest)

    def _renewed(self, recorded: Recorded) -> bool:
        """Record the programs afresh if they may have changed, and return whether they have."""
        if not recorded.is_stale() and self._layout == self.layout:
            return False
        renewed = recorded.renew()
        self.layout = self._layout
        return renewed

    def _record(self) -> Recorded | None:
        """Record the programs, in all processes or in none. The reason why not is noted."""
        with seeded(self.seed, self.device):
            self.full = self.data.first(shared=True)
            one, other = self._example(0), self._example(1)
        recorded, reason = None, None
        try:
            recorded = Recorded(
                self._of_tensors,
                one + self._tensors_of(1.0, dict.fromkeys(self.varying, 1.0)),
                other + self._tensors_of(0.5, dict.fromkeys(self.varying, 0.5)),
                self._look(),
                self._undisturbed,
            )
            self.layout = self._layout
        except NotTraceable as error:
            reason = str(error)
        _, self.reason = _agreed(False, reason)
        return None if self.reason else recorded

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Run the programs with the same random numbers each time, and then put everything back."""
        before = [(value, value.detach().clone()) for value in self.parameters.named.values()]
        try:
            with seeded(self.seed, self.device), buffers_kept(self.loss.pair):
                yield
        finally:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)

    def _of_tensors(self, *tensors: Tensor) -> list[Tensor]:
        """Compute the gradients as a function from tensors to tensors, which can be recorded as a graph."""
        values = iter(tensors)
        batch = self._batch_of(values)
        weights: dict[str, Any] = self.constants | {site: next(values) for site in self.varying}
        beta = next(values) if self.constant_beta is None else self.constant_beta
        loss, terms, gradients = super().gradients(batch, beta, weights)
        found = [gradient for gradient in gradients if gradient is not None]
        used = [gradient is not None for gradient in gradients]
        self._layout = (self.parameters.layout(), list(terms), used)
        return [loss, *terms.values(), *found]

    def _example(self, offset: int) -> list[Tensor]:
        """Return the first arguments of the record for a full minibatch: the data."""
        return tensors_of(self.data.first(offset, shared=True))

    def _batch_of(self, values: Iterator[Tensor]) -> Batch:
        """Return the minibatch that the first arguments of the record stand for."""
        calls = [
            Call(number, like.with_tensors([next(values) for _ in like.tensors]), total)
            for number, like, total in self.full.calls
        ]
        return Batch(calls, self.full.num_data)

    def _look(self) -> Callable[[], dict[str, Any]]:
        """Return the function that looks for what the record depends on in Python."""
        pair = self.loss.pair
        return partial(remembered, model=pair.model, guide=pair.guide, objective=self.loss.objective)

    def _varying_numbers(self, beta: Any, weights: Mapping[str, Any]) -> list[Any]:
        """Return the numbers that are arguments of the record, since they vary from step to step."""
        numbers = [weights[site] for site in self.varying]
        return numbers + ([beta] if self.constant_beta is None else [])

    def _tensors_of(self, beta: Any, weights: Mapping[str, Any]) -> list[Tensor]:
        # torch.full fills the numbers in on the device. A copy from the CPU would wait for a GPU.
        kind = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS lacks
        numbers = self._varying_numbers(beta, weights)
        return [torch.full((), number, dtype=kind, device=self.device) for number in numbers]


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the data of a minibatch, and what is given beside them."""
    return [values for call in batch.calls for values in call.arguments.tensors]


def _agreed(renewed: bool, reason: str | None) -> tuple[bool, str | None]:
    """Return whether any process has renewed its record, and a reason of any process to give it up."""
    found = processes.gathered([(renewed, reason)], processes.count())
    return any(each for each, _ in found), next((each for _, each in found if each), None)
