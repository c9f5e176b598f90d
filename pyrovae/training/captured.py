"""A training step that is captured as a whole on a GPU: minibatch, gradients, clipping, optimiser and sums.

The recorded graph of the programs is the core of a function without arguments, which is captured once and
replayed for each full minibatch (see `compute.capture`). Between two replays Python writes the minibatch's
indices, the weights and the learning rates into tensors that stay where they are. Where the data lie on the
device, they are gathered and transformed inside; else the minibatch is copied in.

The optimiser, its settings and the scheduler stay as they are for everyone else. Only inside of the capture
the learning rates are tensors, and the counters of steps on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrovae.compute.capture import Replay, copy_into
from pyrovae.compute.compilation import Recording, refuse
from pyrovae.compute.memory import is_out_of_memory
from pyrovae.errors import cause
from pyrovae.programs.memory import remembered
from pyrovae.training.batches import Batch, Rows
from pyrovae.training.losses import Weights
from pyrovae.training.optimizers import as_captured
from pyrovae.training.recording import Recorded
from pyrovae.training.settings import Numbers
from pyrovae.training.step import CompiledStep, EagerStep, Gradients, tensors_of


class CapturedStep(CompiledStep):
    """A step that replays all of its kernels for full minibatches, and runs the programs for others.

    The first step of a run runs the programs too, since in it the optimiser makes its state.

    Args:
        data: the minibatches.
        prepared: the loss.
        parameters: the parameters that are trained, and their optimiser, which can be captured.
        settings: the run's settings.
        saved: what `saved` returned when the run was interrupted; None for a new run.

    Attributes:
        gathers: whether a replay takes the minibatch from the data by its indices, and transforms it.
        whole: the captured step; None before it is captured, and if the programs run each time.

    Raises:
        InputError: `compile` is "on", and the programs cannot be recorded or captured. The message says
            why.

    Warns:
        UserWarning: they cannot, and `compile` is "auto", or this is found later. The programs then run
            each time.
    """

    gathers = False
    whole: Replay | None = None

    def begin(self, number: int) -> None:
        """Set all sums to zero, where they lie."""
        sums = self._sums if self.whole is not None else {}
        super().begin(number)
        self._sums = sums
        for total in sums.values():
            total.zero_()

    def compare(self, epoch: int) -> None:
        """Hold the record against the programs, as `CompiledStep` does.

        The step is captured afresh if there is a new record, or what the kernels know has changed: the
        places of tensors, and the optimiser's settings.
        """
        super().compare(epoch)
        if self.whole is not None and (self.recorded is None or self._known() != self._known_then):
            self.whole = None
            self.begin(self.number)

    def close(self) -> None:
        """Free the memory of captured kernels."""
        self.whole = None
        super().close()

    def gradients(self, batch: Batch, beta: float | Tensor, weights: Weights) -> Gradients:
        """Return the loss of a minibatch that is not full, its terms and its gradients."""
        return EagerStep.gradients(self, batch, beta, weights)

    def __call__(self, rows: Sequence[Rows] | Batch, numbers: Numbers) -> None:
        """Take a step: see `EagerStep`."""
        if not self._is_replayed(rows) or not (self.whole or self._capture()):
            with as_captured(self.optimizer):
                super().__call__(rows, numbers)
            return
        assert self.whole is not None
        if self.gathers and not isinstance(rows, Batch):
            values = [of_part.indices for of_part in rows]
        else:
            values = tensors_of(rows if isinstance(rows, Batch) else self.data.batch(rows))
        copy_into(self._inputs[: len(values)], values)
        varying = self._varying_numbers(numbers.beta, numbers.weights)
        for tensor, number in zip(self._inputs[len(values) :], varying, strict=True):
            tensor.fill_(number)
        self._set_rates(numbers)
        self.whole()
        self.count += self.full.num_data
        self.number += 1

    def _is_replayed(self, rows: Sequence[Rows] | Batch) -> bool:
        if self.recorded is None or self.watched or self.layout[0] != self.parameters.layout():
            return False
        if isinstance(rows, Batch):
            return not self.gathers and rows.layout == self.full.layout
        # Members that train together have rows of indices each.
        return [(n, of_part.indices.shape[-1]) for n, of_part in enumerate(rows)] == self.full.layout

    # The record

    def _record(self) -> Recorded | None:
        self.gathers = self.data.lie_on_device
        recorded = super()._record()
        if recorded is None and self.gathers and self.data.transform is not None:
            self.gathers, self.reason = False, None  # perhaps the transform cannot be recorded
            recorded = super()._record()
        return recorded

    def _example(self, offset: int) -> list[Tensor]:
        if not self.gathers:
            return super()._example(offset)
        return [rows.indices.to(self.data.source.device) for rows in self.data.first_rows(offset)]

    def _batch_of(self, values: Iterator[Tensor]) -> Batch:
        if not self.gathers:
            return super()._batch_of(values)
        return self.data.batch([Rows(next(values)) for _ in self.data.parts])

    def _look(self) -> Callable[[], dict[str, Any]]:
        look = super()._look()
        if not self.gathers:
            return look
        return lambda: look() | remembered(transform=self.data.transform)

    # The capture

    def _capture(self) -> bool:
        """Capture the step if the optimiser has its state, and return whether it is captured.

        Raises:
            RuntimeError: there is not enough memory.

        Warns:
            UserWarning: the step cannot be captured. From now on the programs run each time.
        """
        assert self.recorded is not None
        trained = zip(self.parameters.trained, self.layout[2], strict=True)
        if not all(self.optimizer.state.get(value) for value, used in trained if used):
            return False
        self.recorded.release()
        self._inputs = [tensor.clone() for tensor in self.recorded.example]
        device = self._inputs[0].device
        self._rates = [torch.zeros((), device=device) for _ in self.optimizer.param_groups]
        self._values: list[float | None] = [None] * len(self._rates)
        try:
            with self._undisturbed(), torch.no_grad():
                found = self._graph.operations(*self._inputs)
            for name, value in zip(("loss", *self.layout[1]), found, strict=False):
                self._sums.setdefault(name, torch.zeros_like(value))
            with self._undisturbed(), self._state_kept(), as_captured(self.optimizer, self._rates):
                self.whole = Replay(self._body, device)
        except Exception as error:  # torch raises many types of error
            if is_out_of_memory(error):
                raise
            self.recorded, self.reason = None, cause(error)
            refuse("auto", "training", self.reason)
            return False
        self._known_then = self._known()
        return True

    @property
    def _graph(self) -> Recording:
        assert self.recorded is not None
        assert self.recorded.graph is not None
        return self.recorded.graph

    def _body(self) -> list[Tensor]:
        """Take a step with the tensors that stay where they are."""
        _, names, used = self.layout
        loss, *values = self._graph.operations(*self._inputs)
        terms, found = values[: len(names)], iter(values[len(names) :])
        for name, value in zip(("loss", *names), (loss, *terms), strict=True):
            self._sums[name].add_(value * self.full.num_data)
        of_parameters = [next(found) if each else None for each in used]
        self.apply(Gradients(loss, {}, of_parameters))
        self.optimizer.step()
        return [loss]

    def _set_rates(self, numbers: Numbers) -> None:
        """Write the learning rates to where the captured optimiser reads them."""
        for number, group in enumerate(self.optimizer.param_groups):
            if self.sets_rate:
                group["lr"] = numbers.learning_rate
            if self._values[number] != group["lr"]:
                self._values[number] = group["lr"]
                self._rates[number].fill_(group["lr"])

    def _state(self) -> list[Tensor]:
        """Return the tensors that a step changes beside parameters and buffers."""
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in (*kept, *self._sums.values()) if isinstance(value, Tensor)]

    @contextmanager
    def _state_kept(self) -> Iterator[None]:
        before = [(value, value.clone()) for value in self._state()]
        try:
            yield
        finally:
            for value, then in before:
                value.copy_(then)

    def _known(self) -> tuple[Any, ...]:
        """Return what the captured kernels know of the world: a record, addresses and numbers."""
        tensors = [*self._graph.live.values(), *self._state()]
        settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        return self._graph, self.layout, [tensor.data_ptr() for tensor in tensors], str(settings)
