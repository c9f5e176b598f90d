"""A training step: from a minibatch to changed parameters.

A step is built once for a run. It gets a minibatch and transforms it. It computes the loss, its terms and
its gradients, and sums them over processes. It clips the gradient, and lets the optimiser change the
parameters. It adds loss and terms to sums that stay on the device.

`EagerStep` runs the programs each time. `CompiledStep` replays one compiled graph of them for all full
minibatches. Another kind of step overrides `gradients`, or the whole call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from pyrovae.compute import processes
from pyrovae.compute.compilation import compile_if_asked
from pyrovae.compute.devices import seeded
from pyrovae.compute.streams import set_streams, streams
from pyrovae.errors import NonFiniteError
from pyrovae.programs.modes import buffers_kept
from pyrovae.schedules import Constant
from pyrovae.training.batches import Batch, Call, Minibatches, Rows
from pyrovae.training.losses import Weights
from pyrovae.training.non_finite import explain_non_finite
from pyrovae.training.preparation import Prepared
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.trainable import Trainable

LONG_RUN = 5_000
"""The number of steps of a run from which compilation is worthwhile. It takes about ten seconds."""


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
        settings: the run's settings. Only `clip_norm` is used.

    Attributes:
        watched: whether each loss is read, so that one that is not finite ends the run at once.
        count: the number of data in the sums.
    """

    def __init__(
        self, data: Minibatches, prepared: Prepared, parameters: Trainable, settings: Settings
    ) -> None:
        self.data, self.loss, self.parameters = data, prepared.loss, parameters
        self.optimizer, self.clip_norm = parameters.optimizer, settings.clip_norm
        self.device = data.device
        self.watched = reads_losses(self.device)
        self.nothing = prepared.nothing
        # Torch's other optimisers ask for the gradients once in a step.
        once = type(self.optimizer).__module__.startswith("torch.optim") and not isinstance(
            self.optimizer, LBFGS
        )
        self.keeps_all_streams = prepared.draws_elsewhere or not once
        self.begin(0)

    def begin(self, number: int) -> None:
        """Set all sums to zero. `number` is that of the next step, for messages."""
        self.number, self.count = number, 0
        self._sums: dict[str, Tensor] = {}
        self._unchecked = True

    def read(self) -> dict[str, float]:
        """Return the sums of the loss and its terms over the data since `begin`, by name."""
        return {name: float(total) for name, total in self._sums.items()}

    def __call__(self, rows: Sequence[Rows] | Batch, numbers: Numbers) -> None:
        """Take a step.

        Args:
            rows: the rows of each part that form the minibatch, or the minibatch itself.
            numbers: beta and the weights of sites. The learning rate is the optimiser's own.

        Raises:
            NonFiniteError: the step is watched and its loss is not finite. The message names the site.
        """
        batch = rows if isinstance(rows, Batch) else self.data.batch(rows)
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
            nn.utils.clip_grad_norm_(self.parameters.trained, self.clip_norm)

    def explanation(self, batch: Batch) -> NonFiniteError:
        """Return an error that names the site at which the loss of this minibatch is not finite."""
        calls = [call.args for call in batch.calls]
        return explain_non_finite(f"the loss of step {self.number}", self.loss.pair, *calls)


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

    Raises:
        InputError: `compile` is "on", and the programs cannot be recorded as a graph. The message says why.

    Warns:
        UserWarning: `compile` is "auto", and the programs cannot be recorded. They then run each time.
    """

    def __init__(
        self, data: Minibatches, prepared: Prepared, parameters: Trainable, settings: Settings
    ) -> None:
        super().__init__(data, prepared, parameters, settings)
        beta, weights = settings.beta_schedule, settings.weight_schedules
        self.constant_beta = beta.value if isinstance(beta, Constant) else None
        self.constants = {site: w.value for site, w in weights.items() if isinstance(w, Constant)}
        self.varying = [site for site in weights if site not in self.constants]
        self._unchecked = False  # until the first step
        self.recorded_for: tuple[int, ...] = ()
        with seeded(settings.seed, self.device):
            self.full = self.data.first(shared=True)
        with seeded(settings.seed, self.device), buffers_kept(self.loss.pair):
            self.graph = compile_if_asked(
                settings.compile,
                True,
                "training",
                self._of_tensors,
                lambda: (self._example(0, 1.0), self._example(1, 0.5)),
            )

    def gradients(self, batch: Batch, beta: float | Tensor, weights: Weights) -> Gradients:
        """Return the loss, its terms and its gradients. The graph computes them for full minibatches."""
        changed = self.parameters.layout() != self.recorded_for
        if self.graph is None or changed or batch.layout != self.full.layout or not batch.calls:
            return super().gradients(batch, beta, weights)
        loss, *values = self.graph(*self._arguments(batch, beta, weights))
        terms = dict(zip(self.recorded_terms, values, strict=False))
        found = iter(values[len(terms) :])
        gradients = [next(found) if used else None for used in self.recorded_gradients]
        return Gradients(loss, terms, self.parameters.shared(gradients))

    def _of_tensors(self, *tensors: Tensor) -> list[Tensor]:
        """Compute the gradients as a function from tensors to tensors, which can be recorded as a graph."""
        values = iter(tensors)
        calls = [Call(n, tuple(next(values) for _ in args), total) for n, args, total in self.full.calls]
        weights: dict[str, Any] = self.constants | {site: next(values) for site in self.varying}
        beta = next(values) if self.constant_beta is None else self.constant_beta
        loss, terms, gradients = super().gradients(Batch(calls, self.full.num_data), beta, weights)
        self.recorded_for, self.recorded_terms = self.parameters.layout(), list(terms)
        self.recorded_gradients = [gradient is not None for gradient in gradients]
        return [loss, *terms.values(), *(gradient for gradient in gradients if gradient is not None)]

    def _arguments(self, batch: Batch, beta: Any, weights: Mapping[str, Any]) -> list[Tensor]:
        numbers = [weights[site] for site in self.varying]
        numbers += [beta] if self.constant_beta is None else []
        data = [values for call in batch.calls for values in call.args]
        # torch.full fills the numbers in on the device. A copy from the CPU would wait for a GPU.
        return data + [torch.full((), n, dtype=torch.float64, device=self.device) for n in numbers]

    def _example(self, offset: int, weight: float) -> list[Tensor]:
        batch = self.data.first(offset, shared=True)
        return self._arguments(batch, weight, dict.fromkeys(self.varying, weight))


def build_step(
    data: Minibatches, prepared: Prepared, parameters: Trainable, settings: Settings
) -> EagerStep:
    """Return the step that the settings ask for: compiled by "on", and in long runs by "auto"."""
    # The choice depends on the settings alone, so that a resumed run makes the same one.
    long = settings.epochs * data.steps >= LONG_RUN
    compiled = settings.compile == "on" or (settings.compile == "auto" and long)
    return (CompiledStep if compiled else EagerStep)(data, prepared, parameters, settings)
