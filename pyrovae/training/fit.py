"""`fit`, which trains a model/guide pair by stochastic variational inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.turns import reentered
from pyrovae.data.checks import holds_classes
from pyrovae.data.transforms import Transform
from pyrovae.errors import InputError
from pyrovae.locks import one_writer
from pyrovae.objectives.objective import Objective, PyroObjective
from pyrovae.programs.classes import one_hot_size
from pyrovae.programs.devices import device_for, device_of
from pyrovae.programs.given import NOTHING_GIVEN, Given, given_of
from pyrovae.programs.modes import in_training
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.schedules import Schedule
from pyrovae.training.batches import Minibatches, parts_of
from pyrovae.training.callbacks import AnyCallback
from pyrovae.training.history import History, tensorboard_scalars
from pyrovae.training.loop import TrainingRun
from pyrovae.training.settings import Settings, adam
from pyrovae.training.sources import Data, InMemory, Source, parts_of_item, source_of


@takes_pair
def fit(
    pair: ModelAndGuide,
    x: Data,
    y: Tensor | None = None,
    *,
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
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    progress: bool = True,
    compile: str = "auto",
    precision: str = "float32",
    callbacks: Sequence[AnyCallback] = (),
    workers: int = 0,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Train a model/guide pair by stochastic variational inference.

    Within `processes.joined()` all processes that torchrun started train together. Each takes its share of
    every minibatch. Checkpoints do not depend on the number of processes.

    The loss and the history are in nats per datum of the bound on all N data. So a site outside of the
    data's plate, such as the weights of a regression, counts B/N in a minibatch of B data, once for all
    parts and processes, whether the plate says N (`pyro.plate("data", N, subsample_size=len(x))`) or only
    `len(x)`. N is the size of the plate if it subsamples, else the number of training data. Pyro's
    autoguides can be used. An autoguide with latents of single data needs all data in each minibatch.

    Other threads may call functions of this library meanwhile. They get their turns between two steps, and
    change nothing in this run. A callback must not wait for them.

    Args:
        pair: the model `model(x)`, or `model(x, y)` for data with classes, and the guide with the same
            latent sites. Both get what is `given` by keyword. `fit` trains the parameters of the
            `nn.Module`s that have the two as methods, and the parameters that the programs declare by
            `pyro.param` and `pyro.module`. It also trains those of other modules that the programs use, for
            example from a list, a closure or a global. All these modules are in training mode, except for
            a frozen one that is in evaluation mode already.
        x: the data: a tensor, NumPy array or memory map `(N, *x_shape)`, or a map-style
            `torch.utils.data.Dataset` whose items are `x`, or `(x, y)` if every datum has a class. What is
            given beside a datum is a dictionary at the end of its item, `(x, {"c": c})`. A memory
            map and a dataset need not fit in memory. Their values are checked when they are first read, and
            a run is tied to their length and to a digest of 256 of their items.
        y: the classes `(N,)`, -1 where the class is unknown. None means that the programs take no classes.
            With classes, a minibatch has labelled data, given to the programs as `(x, y)`, and unlabelled
            data, given as `(x)`. Programs whose class is a one-hot vector get one-hot rows. Other values
            for each datum, `(N, ...)`, such as floats or a `torch.bool` mask, are given to the programs as
            they are.
        given: further arguments of both programs by name, such as the condition of a conditional VAE:
            `given={"c": c}` calls `model(x, c=c)`, or `model(x, y, c=c)` with classes. A tensor whose first
            size is N has a row for each datum and is cut with the data. All else passes whole, and so does
            `programs.Whole(table)` of any length. None means nothing. `transform` changes x alone.
        epochs: the number of passes through the data. For a resumed run it includes the earlier passes.
        batch_size: the number of data in a minibatch. The last minibatch of an epoch may be smaller.
        optimizer: a function from the parameters to a torch optimiser, Adam by default. Use
            `functools.partial` to fix its settings. Parameters that the programs show later, or that are
            unfrozen on the way, join it with the settings of that time.
        learning_rate: the learning rate of all parameters: a number, or a schedule of the epoch, such as
            `schedules.cosine_decay(epochs, 2e-3, warm_up=1)`. It is set before each step. It cannot stand
            beside a scheduler, or an optimiser with an `lr` of its own. None means the optimiser's rate.
        scheduler: a function from the optimiser to a learning-rate scheduler, which steps after each epoch.
            `ReduceLROnPlateau` steps by the validation bound in its mode "max", and by minus that bound in
            its mode "min". Without validation data it is minus the epoch's loss, or the loss.
            None means a constant learning rate.
        objective: the objective to optimise, of this library or of Pyro. None means `ELBO()`.
        beta: the weight of the latent sites: a number, or a schedule of the epoch (see `schedules`).
        weights: the weights of further sites by name, numbers or schedules. `{"y": 25}` is a PC-VAE's
            lambda.
        labelled_batch_size: the number of labelled data in a minibatch, beside `batch_size` unlabelled
            ones. None means `batch_size` too, or all labelled data if they are fewer. If unlabelled data
            are in the minority, they are then spread over the epoch.
        data_weights: the weights of a labelled and of an unlabelled datum. On average, the
            loss of a minibatch is the mean loss over all data, whatever the sizes of its two parts.
        transform: a function that is applied to each minibatch, such as `data.binarise` for dynamic
            binarisation. It returns as many data as it is given. Checks and compilation call it before the
            first step too. None leaves the data as they are.
        clip_norm: the largest norm of the gradient. A larger gradient is scaled down. None means no limit.
        validation: data, or a tuple of data, their classes if there are any, and a dictionary of what is
            given beside them if there is any, `(x, {"c": c})`. What passes whole may be left out there. The
            bound is measured on them after each epoch, with the same random draws each time. It takes about
            as much memory as training, as up to 8 * `batch_size` of them are scored at once, fewer if
            classes are enumerated. At the end the parameters of the best epoch are put back.
            Epochs compete by the bound that is trained: the importance-weighted one with `IWAE`, otherwise
            the ELBO with the last epoch's beta and weights of observed sites.
        patience: the number of epochs without a rise of the validation bound after which training stops. A
            run that has stopped goes on when it is resumed with more patience. None means that it never
            stops early.
        seed: the seed of minibatches, transforms and latent draws, from the random streams of torch, NumPy
            and Python. The caller's streams are not changed.
        device: the device of the training. "auto" means CUDA if it is available, else the CPU. The modules
            behind the programs and the transform are moved there, and so are the data. Other tensors that
            plain functions use must be there already. So for plain functions "auto" means the device of
            their modules and parameters, or else that of `x`.
        folder: the folder in which a checkpoint is written after each epoch. Only one process may write
            there at a time. None means no checkpoints.
        resume: whether to continue from the folder's newest checkpoint, if it has one. The final parameters
            are those of a run without interruption, bit for bit if both runs compile the same steps. The
            learning rate, the scheduler, beta, weights, and what is frozen may be others than at the run's
            beginning: a warning says so, and the scheduler's rate is the one that it has after as many
            epochs. Epochs, patience, device, `compile` and callbacks may be others too; other settings and
            data are refused.
        tensorboard: a folder for TensorBoard scalars. None means no scalars.
        progress: whether to show a progress bar with the ELBO's two terms.
        compile: "on" records a step once as a graph of tensor operations and compiles it. On CUDA the
            kernels of a whole step, with Adam or one of its relatives, are captured and launched together.
            The numbers are the same up to rounding, and no Python runs in between. "auto" does so for
            runs of at least 5,000 steps, or of more than 500 full minibatches on CUDA, and warns if it is
            not possible. "off" never does. A program that
            reads values, draws from the generators of Python or NumPy, or computes something else at every
            call, cannot be compiled. The graph is compared with the programs on one minibatch: before each
            epoch if there is a callback, a scheduler, a schedule or a transform, otherwise before an epoch
            after every 500 steps. If they differ, the programs are recorded again. If they differ again and
            again, the run goes on without a graph, and a warning says why. What Python decides within an
            epoch, by the clock or by a generator object of its own, cannot be found for certain: use "off"
            for such a program.
        precision: the precision of matrix products and convolutions, forward and backward: "float32",
            "tf32" (on CUDA only) or "bfloat16". Densities, sums and parameters have 32 bits in any case.
            The history says by how much the rounding changes the loss (`precision_error`). Data and model
            with 64 bits are not rounded, and refused with any but "float32".
        callbacks: functions of the state, or objects with a method `on_epoch_end(state)`, that run after
            each epoch's checkpoint, in the first process only. They may look at `state.pair`, `state.row`
            and `state.epoch`, change or freeze the values of parameters, add to the history by
            `state.log(name, value)` and end the run by `state.stop()`.
        workers: the number of processes that read the items of a `Dataset` in advance. 0 means this process
            only. The result does not depend on it.
        identity: plain values by name that tell this run from others, such as a version of the data. They
            are kept in the checkpoints, and a resumed run must have the same.

    Returns:
        The history. The trained parameters are in the pair's modules, and in Pyro's parameter store if the
        programs keep them there by `pyro.param`. As in Pyro, pairs that use one name there share the
        parameter, unless each runs in a `pyro.get_param_store().scope()` of its own.

    Raises:
        InputError: data, settings or programs do not fit together, another process writes into `folder`, or
            the call is under autocast. Nothing has been written then, except where the values of a stream
            are found to be bad in the first epoch, or a parameter appears later that cannot be trained.
        NonFiniteError: a loss, gradient or parameter is not finite. The message names the step and the
            site.
        CheckpointError: the run in `folder` cannot be resumed, or a setting or a module's extra state is
            not a plain value that a checkpoint can hold.

    Warns:
        UserWarning: a resumed run goes on with other settings, or no gradient reaches a parameter of
            `pyro.param`.
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        scheduler=scheduler,
        objective=objective,
        beta=beta,
        weights=weights,
        labelled_batch_size=labelled_batch_size,
        data_weights=data_weights,
        transform=transform,
        clip_norm=clip_norm,
        validation=validation,
        patience=patience,
        seed=seed,
        device=device,
        folder=folder,
        resume=resume,
        tensorboard=tensorboard,
        progress=progress,
        compile=compile,
        precision=precision,
        callbacks=callbacks,
        workers=workers,
        identity=identity,
    )
    data, validation_data = data_of(pair, x, y, given, settings)
    with (
        ready_to_train(pair, seed=settings.seed, device=data.device),
        one_writer(settings.folder) if settings.folder and processes.is_first() else nullcontext(),
    ):
        data = in_form_of_programs(pair, data)
        if validation_data is not None:
            validation_data = in_form_of_programs(pair, validation_data)
        run = TrainingRun(pair, data, validation_data, settings)
        run.start_or_resume()
        scalars = settings.tensorboard if processes.is_first() else None
        with tensorboard_scalars(scalars, run.history.rows) as write_row:
            run.train(write_row)
    processes.wait()  # until the last checkpoint is written
    return run.history


def data_of(
    pair: ModelAndGuide, x: Data, y: Tensor | None, given: Mapping[str, Any] | None, settings: Settings
) -> tuple[Minibatches, Minibatches | None]:
    """Return the minibatches of the training data and of the validation data, on the run's device.

    Args:
        pair: the pair that is trained.
        x: the data, as `fit` takes them.
        y: their classes, as `fit` takes them.
        given: what is given beside the data, as `fit` takes it.
        settings: the settings.
    """
    y = _whole(y)
    source = source_of(x, y, given)
    beside = _given_beside(pair, source, y, given)
    held_out = _validation_source(pair, settings.validation, source, beside)
    place = device_for(settings.device, pair, otherwise=source.device)
    data = minibatches_of(source, y, settings, place, beside)
    return data, None if held_out is None else _all_at_once(*held_out, settings, place)


@contextmanager
def ready_to_train(*pairs: ModelAndGuide, seed: int, device: torch.device) -> Iterator[None]:
    """Train pairs within: in training mode, with gradients, and with streams and parameters of their own.

    Raises:
        InputError: `fit` is called under autocast.
    """
    with ExitStack() as stack:
        stack.enter_context(_with_gradients(device))
        for pair in pairs:
            stack.enter_context(own_parameters(pair))
            stack.enter_context(in_training(pair))
        # Pyro's validation is off, except in the checks, which explain what they find.
        stack.enter_context(reentered(lambda: pyro.validation_enabled(False)))
        stack.enter_context(reentered(_without_warnings))
        stack.enter_context(seeded(seed, device))
        yield


def minibatches_of(
    source: Source,
    y: Tensor | None,
    settings: Settings,
    device: torch.device,
    given: Given = NOTHING_GIVEN,
) -> Minibatches:
    """Return the minibatches of training data.

    Args:
        source: the data.
        y: their classes `(N,)`, -1 for unlabelled data. None means no classes, or that the source has them.
        settings: the run's settings.
        device: the device of the minibatches.
        given: what is given beside the data.
    """
    parts = parts_of(
        len(source), y, settings.batch_size, settings.labelled_batch_size, settings.data_weights
    )
    if source.with_classes:
        parts = [replace(part, labelled=True) for part in parts]
    if isinstance(source, InMemory) and _fits(source, device):  # moved once, not batch by batch
        source, y = InMemory(source.x.to(device)), None if y is None else y.to(device)
        given = given._replace(rows={name: rows.to(device) for name, rows in given.rows.items()})
    return Minibatches(
        source, y, parts, settings.transform, device, settings.seed, settings.workers, given=given
    )


def _fits(source: InMemory, device: torch.device) -> bool:
    return device.type == "cuda" and source.x.nbytes < torch.cuda.mem_get_info(device)[0] / 4


def _given_beside(
    pair: ModelAndGuide,
    source: Source,
    y: Tensor | None,
    given: Mapping[str, Any] | None,
    also: Collection[str] = (),
) -> Given:
    """Check what is given beside the data of a source, in its items or apart from them."""
    with_classes = y is not None or source.with_classes
    found = given_of(pair, given, len(source), with_classes, {*source.names, *also})
    if twice := set(source.names) & {*found.rows, *found.whole}:
        raise InputError(
            f"'{min(twice)}' is given twice, by the dataset's items and by given: leave it out of one."
        )
    return found


Held = tuple[Source, Tensor | None, Given]
"""Validation data, their classes, and what is given beside them."""


def _validation_source(pair: ModelAndGuide, validation: Any, training: Source, given: Given) -> Held | None:
    """Return the validation data, with what passes whole in training unless they have it themselves.

    Raises:
        InputError: they cannot be used, or have other names beside them than the training data.
    """
    if validation is None:
        return None
    x, y, beside = parts_of_item(validation)
    y = _whole(y)
    source = source_of(x, y, beside)
    names = {*training.names, *given.rows, *given.whole}
    if names != (own := {*source.names, *beside, *given.whole}):
        in_training, held_out = (", ".join(sorted(each)) or "nothing" for each in (names, own))
        raise InputError(
            f"{in_training} is given beside the training data, but {held_out} beside the validation data: "
            'give both the same names, validation=(x, {"c": c}) or validation=(x, y, {"c": c}).'
        )
    found = _given_beside(pair, source, y, beside, given.whole)
    from_training = {n: v for n, v in given.whole.items() if n not in {*source.names, *found.rows}}
    found = found._replace(whole=from_training | found.whole)
    return source, y, found


def _whole(y: Tensor | None) -> Tensor | None:
    """Return classes of any whole type as 64-bit integers, in which -1 is a number; all else as it is."""
    return y.long() if isinstance(y, Tensor) and holds_classes(y) else y


def in_form_of_programs(pair: ModelAndGuide, data: Minibatches) -> Minibatches:
    """Return the minibatches with classes as one-hot rows, if the programs take these.

    Raises:
        InputError: the classes are one-hot rows, and the programs take whole numbers.
    """
    if data.y is None:
        return data
    first = replace(data, y=None, transform=None, device=device_of(pair, otherwise=data.source.device))
    bound = data.given.bound_to(pair, first.device)
    one = first.arguments(0, data.parts[0].indices[:1])
    return replace(data, one_hot=one_hot_size(bound, data.y, one))


def _all_at_once(
    source: Source, y: Tensor | None, given: Given, settings: Settings, device: torch.device
) -> Minibatches:
    """Return the minibatches of validation data, which are read in order."""
    parts = parts_of(len(source), y, len(source))
    return Minibatches(source, y, parts, settings.transform, device, settings.seed, given=given)


@contextmanager
def _with_gradients(device: torch.device) -> Iterator[None]:
    """Compute gradients, whatever the caller's context is.

    Raises:
        InputError: `fit` is called under autocast, which would compute densities in half precision.
    """
    if torch.is_autocast_enabled(device.type):
        raise InputError(
            "fit is called under torch.autocast, under which densities are computed in half precision: "
            "call it outside of the block."
        )
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # Pyro's warning would come before our error, which names the site and the cause.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        # Reentrant checkpointing, which the check of gradients refuses.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        yield
