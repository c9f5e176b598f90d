"""The loop behind `fit`: steps, epochs, validation, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from pyrovae.compute import processes
from pyrovae.compute.compilation import compile_if_asked
from pyrovae.compute.devices import seeded
from pyrovae.compute.interrupts import interrupts_deferred
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.objectives.elbo import Objective, description, reweight
from pyrovae.programs.checks import check_pair, check_site_names
from pyrovae.programs.gradient_checks import check_gradients
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of, named_parameters, replaced_parameters
from pyrovae.programs.running import latent_sites, observed_sites, run_pair
from pyrovae.schedules import Constant, Schedule
from pyrovae.training.batches import Batch, Call, Minibatches
from pyrovae.training.checkpoints import has_checkpoint, load_checkpoint, save_checkpoint
from pyrovae.training.history import History, add_terms, shown_terms
from pyrovae.training.non_finite import check_finite, explain_non_finite
from pyrovae.training.state import fingerprint, load_state, rng_state, set_rng_state, state
from pyrovae.training.validation import competing_bound, held_out_bounds

LONG_RUN = 5_000  # steps, from which on compilation, some ten seconds, repays itself


@dataclass
class TrainingRun:
    """The state of one training run, and its loop."""

    pair: ModelAndGuide
    data: Minibatches
    validation: Minibatches | None
    epochs: int
    objective: Objective
    beta: Schedule
    weights: dict[str, Schedule]
    clip_norm: float | None
    patience: int | None
    seed: int
    device: torch.device
    folder: Path | None
    progress: bool
    compile: str
    history: History = field(default_factory=History)
    best_state: dict[str, Any] | None = None

    # Before the first step

    def prepare(
        self,
        optimizer: Callable[[Sequence[Tensor]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None,
    ) -> None:
        """Move the pair to the device, find its parameters, and check everything that can be."""
        for module in modules_of(self.pair):
            module.to(self.device)
        batch = self.data.first()
        self.latents: list[list[str]] = []  # of each part's call
        sites: set[str] = set()
        self.parameters: dict[str, Tensor] = {}
        for _, args, _ in batch:
            check_pair(self.pair, *args)
            traces = run_pair(self.pair, *args)
            self.latents.append(latent_sites(traces[1]))
            self.parameters |= named_parameters(self.pair, *args)
            sites |= {*observed_sites(traces[0]), *self.latents[-1]}
        check_site_names(self.weights, sites)
        replaced = replaced_parameters(self.pair)
        with buffers_kept(self.pair):
            self.trainable = check_gradients(
                lambda: self.loss(batch, beta=1.0, weights={}), self.parameters, replaced
            )
        self.check_all_data()
        # To look at a GPU's loss is to wait for it: a step there leaves it to the end of the epoch.
        self.watched = self.device.type == "cpu"
        self.optimizer = optimizer(self.trainable)
        self.scheduler = scheduler(self.optimizer) if scheduler else None

    def check_all_data(self) -> None:
        """Pass every datum through the checks of its shape and support, at little cost."""
        for data in (self.data, self.validation):
            for args in data.in_order() if data else ():
                check_pair(self.pair, *args)

    def start_or_resume(self, resume: bool) -> None:
        """Seed the run, or put everything back as it was after the last finished epoch."""
        torch.manual_seed(self.seed)
        buffers = [b for module in modules_of(self.pair) for b in module.buffers()]
        processes.set_as_in_first([*self.parameters.values(), *buffers])
        found = self.checkpoint(resume) if processes.is_first() else None
        if saved := processes.from_first(found):
            self.load(saved)

    def checkpoint(self, resume: bool) -> dict[str, Any] | None:
        """The newest one, if there is one."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not has_checkpoint(self.folder):
            return None
        if not resume:
            raise InputError(
                f"{self.folder} already holds checkpoints: pass resume=True to go on from them, "
                "or name another folder."
            )
        return load_checkpoint(self.folder)

    # The loop

    def train(self, write_scalars: Callable[[dict[str, float]], None]) -> None:
        steps = self.data.steps
        first = len(self.history.rows)
        if first < self.epochs and not self.history.stopped_early:
            self.choose_gradients()
        with (
            interrupts_deferred() as stop_if_asked,
            tqdm(
                total=self.epochs * steps, initial=first * steps, unit="step", disable=not self.progress
            ) as bar,
        ):
            for epoch in range(first, self.epochs):
                if self.history.stopped_early:
                    break
                row = self.train_epoch(epoch, steps, bar, stop_if_asked)
                self.end_epoch(row)
                write_scalars(row)
        if self.best_state is not None:
            load_state(self.pair, self.parameters, self.best_state)

    def train_epoch(
        self, epoch: int, steps: int, bar: tqdm, stop_if_asked: Callable[[], None]
    ) -> dict[str, float]:
        """A pass through the data. One whose steps were not watched, and that has come to a bad number, is
        repeated with an eye on each, to say where that came from."""
        before = None if self.watched else copy.deepcopy(self.changing())
        row = self.pass_through_data(epoch, steps, bar, stop_if_asked)
        if before is not None and not math.isfinite(row["loss"]):
            self.put_back(before)
            self.watched, bar.n = True, epoch * steps
            self.pass_through_data(epoch, steps, bar, stop_if_asked)
            raise NonFiniteError(f"the loss of epoch {epoch + 1} was not finite, but is when repeated.")
        return row

    def pass_through_data(
        self, epoch: int, steps: int, bar: tqdm, stop_if_asked: Callable[[], None]
    ) -> dict[str, float]:
        start = time.perf_counter()
        totals: dict[str, Any] = {}
        presented = 0
        set_rng_state(processes.from_first(rng_state(self.device)), self.device)
        order = self.data.shuffled()
        processes.draw_apart()
        for number, indices in enumerate(order):
            values = self.step(epoch * steps + number, (epoch * steps + number) / steps, indices)
            count = sum(map(len, indices))
            presented += count
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value * count
            bar.update()
            stop_if_asked()
            if number % 10 == 0 and self.watched:
                bar.set_postfix(shown_terms(values), refresh=False)
        row = {name: float(total) / presented for name, total in totals.items()}
        if not self.watched:
            bar.set_postfix(shown_terms(row))
        if "reconstruction" in row:
            row["elbo"] = row["reconstruction"] - row["kl"]
        last = epoch + (steps - 1) / steps
        weights = {f"weight of {site}": weight(last) for site, weight in self.weights.items()}
        return (row | weights) | {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "beta": self.beta(last),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - start,
        }

    def step(self, step: int, epoch: float, indices: Sequence[Tensor]) -> dict[str, Any]:
        """One step of the optimiser; returns the loss and its terms, per datum."""
        beta, weights = self.beta(epoch), {site: weight(epoch) for site, weight in self.weights.items()}
        batch = self.data.presented(indices)
        before = rng_state(self.device)
        values: dict[str, Any] = {}

        def closure() -> Tensor:
            if values:  # An optimiser that evaluates a step more than once (LBFGS) sees the same draws.
                set_rng_state(before, self.device)
            loss, terms, gradients = processes.summed(self.gradients(batch, beta, weights))
            if self.watched and not math.isfinite(loss.item()):
                set_rng_state(before, self.device)
                calls = [call.args for call in batch]
                raise explain_non_finite(f"the loss of step {step}", self.pair, *calls)
            if not values:
                values.update({"loss": loss, **terms})
            for parameter, gradient in zip(self.trainable, gradients, strict=True):
                parameter.grad = gradient
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.trainable, self.clip_norm)
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]  # a tensor will do
        return values

    def eager_gradients(
        self, batch: Batch, beta: float | Tensor, weights: Mapping[str, float | Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """The loss of a minibatch, its terms and its gradients: this process's share of their sums."""
        terms: dict[str, Any] = {}
        loss = self.loss(batch, beta, weights, terms)
        return loss.detach(), terms, list(torch.autograd.grad(loss, self.trainable))

    def choose_gradients(self) -> None:
        """Compute what `eager_gradients` does by one compiled graph for all full minibatches, or leave it
        to Python."""
        with seeded(self.seed, self.device):
            full = self.data.first()
        constants = {site: s.value for site, s in self.weights.items() if isinstance(s, Constant)}
        varying = [site for site in self.weights if site not in constants]
        terms: list[str] = []  # what the graph computes beside the loss and its gradients

        def of_tensors(*tensors: Tensor) -> list[Tensor]:
            values = iter(tensors)
            batch = [Call(part, tuple(islice(values, len(args))), total) for part, args, total in full]
            weights = constants | dict(zip(varying, values, strict=False))
            beta = self.beta.value if isinstance(self.beta, Constant) else tensors[-1]
            loss, named, gradients = self.eager_gradients(batch, beta, weights)
            terms[:] = named
            return [loss, *named.values(), *gradients]

        def arguments(batch: Batch, beta: float, weights: Mapping[str, float]) -> list[Tensor]:
            numbers = [weights[site] for site in varying]
            numbers += [] if isinstance(self.beta, Constant) else [beta]
            data = [values for call in batch for values in call.args]
            # Filled where they are needed, not copied there, for which a GPU would have to be waited for.
            return data + [torch.full((), n, dtype=torch.float64, device=self.device) for n in numbers]

        def example(first: int, weight: float) -> list[Tensor]:
            rows = [part.indices.roll(-first)[: part.batch_size] for part in self.data.parts]
            return arguments(self.data.presented(rows), weight, dict.fromkeys(self.weights, weight))

        # By what was asked for, not by what is left or by the clock: a resumed run takes the same path.
        long = self.epochs * self.data.steps >= LONG_RUN
        with seeded(self.seed, self.device), buffers_kept(self.pair):
            graph = compile_if_asked(
                self.compile, long, "training", of_tensors, lambda: (example(0, 1.0), example(1, 0.5))
            )

        def gradients(batch: Batch, beta: float, weights: Mapping[str, float]) -> Any:
            short = [call.total for call in batch] != [call.total for call in full]  # an epoch's last one
            if graph is None or short:
                return self.eager_gradients(batch, beta, weights)
            loss, *values = graph(*arguments(batch, beta, weights))
            return loss, dict(zip(terms, values, strict=False)), values[len(terms) :]

        self.gradients = gradients

    def loss(
        self,
        batch: Batch,
        beta: float | Tensor,
        weights: Mapping[str, float | Tensor],
        terms: dict[str, Any] | None = None,
    ) -> Tensor:
        """The loss per datum; notes its terms, unweighted, in `terms`."""
        mean: Any = 0.0
        for (part, args, total), latents in zip(batch, self.latents, strict=True):
            on_sites = dict.fromkeys(latents, beta) | dict(weights)
            model, guide = reweight(self.pair.model, on_sites), reweight(self.pair.guide, on_sites)
            loss = self.objective.differentiable_loss(model, guide, *args)
            mean = mean + part.weight * loss / total
            if terms is not None:
                add_terms(terms, self.objective, self.weights, total, part.share)
        return mean

    def end_epoch(self, row: dict[str, float]) -> None:
        """Validate, move the learning rate, and save; nothing of it if the parameters went bad."""
        check_finite(self.parameters, int(row["step"]))
        if self.validation:
            row |= held_out_bounds(
                self.pair,
                self.objective,
                self.validation,
                apart=self.weights,
                batch_size=self.data.parts[-1].batch_size,
                seed=self.seed,
                epoch=int(row["epoch"]),
            )
        row = processes.from_first(row)  # which the others' rounding must not part them from
        self.history.rows.append(row)
        if self.validation:
            self.note_best(row)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-self.competing(row) if self.validation else row["loss"])
        elif self.scheduler is not None:
            self.scheduler.step()
        if self.folder is not None and processes.is_first():
            save_checkpoint(self.folder, len(self.history.rows), self.saved())

    def competing(self, row: dict[str, float]) -> float:
        """Epochs compete by the bound with the weights that the last one ends with, not with theirs."""
        end = math.nextafter(self.epochs, 0.0)  # not yet a next cycle's beginning
        return competing_bound(row, self.beta(end), {site: w(end) for site, w in self.weights.items()})

    def note_best(self, row: dict[str, float]) -> None:
        best = self.history.best_epoch
        if best is None or self.competing(row) > self.competing(self.history.rows[best - 1]):
            self.history.best_epoch = int(row["epoch"])
            self.best_state = copy.deepcopy(state(self.pair, self.parameters))
        self.history.stopped_early = self.history.exceeds(self.patience)

    # Checkpoints

    def changing(self) -> dict[str, Any]:
        """What a step changes."""
        return {
            "state": state(self.pair, self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.device),
        }

    def put_back(self, saved: dict[str, Any]) -> None:
        load_state(self.pair, self.parameters, saved["state"])
        self.optimizer.load_state_dict(saved["optimizer"])
        set_rng_state(saved["rng"], self.device)

    def saved(self) -> dict[str, Any]:
        return self.changing() | {
            "best_state": self.best_state,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "history": vars(self.history),
            "settings": self.settings,
        }

    def load(self, saved: dict[str, Any]) -> None:
        for name, now in self.settings.items():
            if (begun := saved["settings"].get(name, now)) != now:  # older runs did not note the objective
                raise CheckpointError(
                    f"the run in {self.folder} was begun with {name} = {begun}, "
                    f"not {now}: resume it with what it was begun with, or name another folder."
                )
        if (done := len(saved["history"]["rows"])) > self.epochs:
            raise InputError(
                f"the run in {self.folder} has {done} epochs already, and {self.epochs} are asked for "
                "in all: ask for more, or name another folder."
            )
        self.put_back(saved)
        self.best_state = saved["best_state"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.history = History(**saved["history"])
        self.history.stopped_early = self.history.exceeds(self.patience)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must not change when a run is resumed; digests of all data, so they are made once."""
        data = self.data
        held_out = (self.validation.x, self.validation.y) if self.validation else ()
        return {
            "batch_size": data.parts[-1].batch_size,
            "labelled_batch_size": data.parts[0].batch_size,
            "data_weights": [part.weight for part in data.parts],
            "seed": self.seed,
            "clip_norm": self.clip_norm,
            "data": fingerprint(data.x),
            "classes": None if data.y is None else fingerprint(data.y),
            "validation": [fingerprint(values) for values in held_out if values is not None] or None,
            "objective": description(self.objective),
            "scheduler": type(self.scheduler).__name__,
            "optimizer": type(self.optimizer).__name__,
        }
