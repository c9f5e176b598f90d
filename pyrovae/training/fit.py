"""fit(): minibatches -> steps of stochastic variational inference -> history and checkpoints."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.compute import processes
from pyrovae.compute.compilation import MODES
from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_data
from pyrovae.data.transforms import Transform
from pyrovae.errors import InputError, check_choice, check_counts
from pyrovae.objectives.elbo import ELBO, Objective
from pyrovae.objectives.estimators import IWAE
from pyrovae.programs.devices import device_for
from pyrovae.programs.modes import in_training
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.schedules import Constant, Schedule, as_schedule
from pyrovae.training.batches import Minibatches, parts_of
from pyrovae.training.history import COLUMNS, History, tensorboard_scalars
from pyrovae.training.loop import TrainingRun


def adam(parameters: Sequence[Tensor]) -> Optimizer:
    """Adam with a learning rate of 1e-3, the field's usual start; one kernel for all of its arithmetic."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


@takes_pair
def fit(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    optimizer: Callable[[Sequence[Tensor]], Optimizer] = adam,
    scheduler: Callable[[Optimizer], Any] | None = None,
    objective: Objective | None = None,
    beta: float | Schedule = 1.0,
    weights: Mapping[str, float | Schedule] | None = None,
    labelled_batch_size: int | None = None,
    data_weights: tuple[float, float] = (1.0, 1.0),
    transform: Transform | None = None,
    clip_norm: float | None = None,
    validation: Tensor | tuple[Tensor, Tensor] | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    progress: bool = True,
    compile: str = "auto",
) -> History:
    """Train a model/guide pair by stochastic variational inference.

    Within `processes.joined()` all processes that torchrun started train together; each takes its share
    of every minibatch, and checkpoints do not depend on how many they are.

    Args:
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given).
        guide: a Pyro program with the model's latent sites. Parameters are those of the `nn.Module`s
            whose methods the two are, and those shown by `pyro.param` and `pyro.module`.
        x: the data, `(N, *x_shape)`.
        y: the data's classes, `(N,)`, for models that use them; -1 where the class is not known. Each
            minibatch then has labelled data, given to the programs as `(x, y)`, and unlabelled, `(x)`.
        epochs: passes through the data, in all (also when resuming).
        batch_size: data in a minibatch; the last of an epoch may be smaller.
        optimizer: makes the optimiser from the parameters; `functools.partial` fixes its settings.
        scheduler: makes a learning-rate scheduler, stepped after each epoch, from the optimiser.
        objective: what is minimised; `Trace_ELBO` by default.
        beta: the weight of the latent sites, a number or a schedule of the epoch (`schedules`).
        weights: of further sites by name, numbers or schedules: `{"y": 25}` is a PC-VAE's lambda.
        labelled_batch_size: labelled data in a minibatch beside `batch_size` unlabelled ones; as many,
            or all there are, by default. Fewer unlabelled data than labelled are then spread over the
            epoch.
        data_weights: how much a labelled and an unlabelled datum count. The loss of a minibatch, per
            datum, is that of the whole data on average, whatever the sizes of its two parts.
        transform: applied to each minibatch when it is presented, `data.binarise` for dynamic
            binarisation. It is called before the first step too, by checks and for compilation.
        clip_norm: the gradient's largest norm; steps beyond it are scaled down.
        validation: data, or data and their classes, on which the bound is measured after each epoch,
            with the same random draws each time; at the end the best epoch's parameters are put back. The
            best is that of the bound that is trained: the importance-weighted one with `IWAE`, else the
            ELBO with the last epoch's beta and weights of observed sites.
        patience: stop when the validation bound has not risen for so many epochs. A run that has stopped
            goes on when it is resumed with more patience.
        seed: of minibatches, transform and latent draws. The caller's random stream stays in place.
        device: "auto" takes CUDA where there is one, else the CPU; or any of torch's devices. Modules
            behind the programs are moved there; what plain functions use must be there already, and
            for them "auto" is where `x` is.
        folder: where a checkpoint is written after each epoch.
        resume: go on from the folder's newest checkpoint, if it has one, to the same final parameters as
            if there had been no interruption: bit for bit, if `compile` comes to the same.
        tensorboard: a folder for TensorBoard scalars.
        progress: show a progress bar with the ELBO's two terms.
        compile: "on" records a step once, as one graph of tensor operations, and compiles it: the same
            numbers up to rounding, without Python in between. "auto" does so where a run is long enough
            (5,000 steps) to repay the seconds that it takes, and says so if it is not possible; "off"
            never. A program that reads values, or that computes something else at every call, is refused.

    Returns:
        The history; the trained parameters are in the pair's modules, and in Pyro's parameter store
        what the programs keep there by `pyro.param`.

    Raises:
        InputError: data, settings or programs that do not fit together; before anything is written.
        NonFiniteError: a loss, gradient or parameter is not finite; names the step and the site.
        CheckpointError: `folder` cannot be resumed from.
    """
    check_data(x, y, unlabelled=True)
    held_out = (validation,) if isinstance(validation, Tensor) else validation or ()
    if len(held_out) > 2:
        raise InputError(f"validation has {len(held_out)} parts; give data, or data and their classes.")
    if held_out:
        check_data(*held_out, unlabelled=True)
    check_counts(epochs=epochs, batch_size=batch_size)
    optional = {"labelled_batch_size": labelled_batch_size, "patience": patience}
    check_counts(**{name: count for name, count in optional.items() if count is not None})
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm is {clip_norm}; it must be above 0.")
    check_choice("way to compile", compile, MODES)
    objective = ELBO() if objective is None else objective
    if inspect.isclass(objective) or not hasattr(objective, "differentiable_loss"):
        raise InputError(f"objective is {objective!r}; expected an object such as ELBO() or IWAE(50).")
    beta = as_schedule(beta)
    of_sites = {site: as_schedule(weight) for site, weight in (weights or {}).items()}
    _check_weights(beta, of_sites, epochs, objective)
    if patience is not None and not held_out:
        raise InputError("patience needs validation data to measure the bound on: pass validation=...")
    device = device_for(device, pair, otherwise=x.device)
    parts = parts_of(len(x), y, batch_size, labelled_batch_size, data_weights)
    if device.type == "cuda" and x.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        x, y = x.to(device), None if y is None else y.to(device)  # once, and not batch by batch
    run = TrainingRun(
        pair=pair,
        data=Minibatches(x, y, parts, transform, device),
        validation=_validation_data(held_out, transform, device),
        epochs=epochs,
        objective=objective,
        beta=beta,
        weights=of_sites,
        clip_norm=clip_norm,
        patience=patience,
        seed=seed,
        device=device,
        folder=None if folder is None else Path(folder),
        progress=progress and processes.is_first(),
        compile=compile,
    )
    with own_parameters(), _training(pair), seeded(seed, device):
        run.prepare(optimizer, scheduler)
        run.start_or_resume(resume)
        scalars = tensorboard if processes.is_first() else None
        with tensorboard_scalars(scalars) as write_scalars, pyro.validation_enabled(False):
            run.train(write_scalars)
    processes.wait()  # until the last checkpoint is written
    return run.history


def _validation_data(
    held_out: tuple[Tensor, ...], transform: Transform | None, device: torch.device
) -> Minibatches | None:
    if not held_out:
        return None
    x, y = held_out if len(held_out) == 2 else (held_out[0], None)
    return Minibatches(x, y, parts_of(len(x), y, len(x)), transform, device)


@contextmanager
def _training(pair: ModelAndGuide) -> Iterator[None]:
    """Training mode within, the former mode of each module after."""
    with in_training(pair), warnings.catch_warnings():
        # Pyro's warning would come before the error that says at which site, and why.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        yield


def _check_weights(
    beta: Schedule, weights: Mapping[str, Schedule], epochs: int, objective: Objective
) -> None:
    if taken := {*COLUMNS, "bound"} & set(weights):  # bound: of `validation_bound`
        raise InputError(
            f"the site '{min(taken)}' has a weight, but the history, where it would be shown by its name, "
            "has another column of that name: rename the site."
        )
    for name, schedule in {"beta": beta, **{f"the weight of '{s}'": w for s, w in weights.items()}}.items():
        for epoch in range(1 if isinstance(schedule, Constant) else epochs):
            value = schedule(epoch)
            if not 0 <= value < math.inf:
                raise InputError(
                    f"{name} is {value} at epoch {epoch}; a weight is a finite number of at least 0."
                )
            if isinstance(objective, IWAE) and value != 1:
                raise InputError(
                    f"{name} is {value} at epoch {epoch}, but IWAE's importance weights are ratios of "
                    "densities, into which weights of sites cannot enter: leave them at 1 (no beta, no "
                    "warm-up, no weights), or use the ELBO."
                )
