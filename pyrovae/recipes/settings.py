"""The options that all recipes share: `Training` and `Data`. Their values are plain words and numbers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from pyrovae.errors import InputError

if TYPE_CHECKING:
    from pyrovae.schedules import Schedule

Settings = TypeVar("Settings", bound="Training | Data")
Class = TypeVar("Class", bound=type)


def _remembers_what_is_given(cls: Class) -> Class:
    """Let a dataclass keep the names of the arguments that its caller gave.

    `Training(epochs=20)` leaves all but the epochs to the recipe, whose defaults may differ from those of
    the dataclass. A comparison with the defaults would not do, since a caller may give a default.
    """
    plain = vars(cls)["__init__"]

    @functools.wraps(plain)
    def init(self: Any, **values: Any) -> None:
        plain(self, **values)
        object.__setattr__(self, "given", frozenset(values))

    type.__setattr__(cls, "__init__", init)
    return cls


@_remembers_what_is_given
@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of a training. Values that are not given are the recipe's defaults, or else those below.

    Args:
        epochs: The number of passes through the data.
        batch_size: The number of data in a minibatch.
        learning_rate: The initial learning rate of Adam.
        decay: The decay of the learning rate. "cosine" lowers it along a cosine, to 0 at the last epoch.
        beta: The weight of the KL term.
        warm_up: The number of epochs over which beta rises from 0 at the start. 0 means no rise.
        cycle: The number of epochs in a cycle of beta. In each cycle beta rises from 0, and is constant
            in the second half. 0 means no cycles.
        clip_norm: The largest norm of the gradient. By default gradients are not clipped.
        validation_fraction: The share of the training data that is held out for validation. The epoch with
            the best validation bound is kept.
        patience: The number of epochs without a better validation bound after which training stops. By
            default training does not stop early.
        seed: The seed of all random draws but the splits: initial parameters, minibatches, latents, and the
            choice of the labels that training uses.
        compile: Whether a training step is compiled into one graph. "auto" compiles long runs only.

    Attributes:
        given: the names of the arguments that the caller gave.

    Example:
        >>> Training(epochs=20).given
        frozenset({'epochs'})
    """

    epochs: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    decay: Literal["none", "cosine"] = "none"
    beta: Annotated[float, Ge(0)] = 1.0
    warm_up: Annotated[float, Ge(0)] = 0.0
    cycle: Annotated[float, Ge(0)] = 0.0
    clip_norm: Annotated[float, Gt(0)] | None = None
    validation_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    patience: Annotated[int, Ge(1)] | None = None
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    compile: Literal["auto", "on", "off"] = "auto"
    given: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)

    def over(self, defaults: Mapping[str, Any]) -> Training:
        """Return a copy with a recipe's defaults for all values that were not given."""
        return _over(self, defaults)

    def changed(self, **changes: Any) -> Training:
        """Return a copy with some values changed."""
        return _changed(self, changes)

    def check(self) -> None:
        """Check that the values are consistent.

        Raises:
            InputError: two values contradict each other. The message names both.
        """
        if self.patience is not None and not self.validation_fraction:
            raise InputError(
                f"patience is {self.patience}, but no data are held out for validation: set "
                "validation_fraction, for example to 0.1."
            )
        if self.warm_up and self.cycle:
            raise InputError(
                f"warm_up is {self.warm_up} and cycle is {self.cycle}, but beta follows only one schedule: "
                "set one of the two."
            )

    def beta_schedule(self) -> Schedule:
        """Return the schedule of beta over the epochs."""
        from pyrovae import schedules

        if self.warm_up:
            return schedules.linear_warm_up(self.warm_up, end=self.beta)
        if self.cycle:
            return schedules.cyclical(self.cycle, end=self.beta)
        return schedules.constant(self.beta)

    def fit_settings(self) -> dict[str, Any]:
        """Return the keyword arguments of `pyrovae.fit` that these settings stand for."""
        import torch

        decay = None
        if self.decay == "cosine":
            decay = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=self.epochs)
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": functools.partial(torch.optim.Adam, lr=self.learning_rate, fused=True),
            "scheduler": decay,
            "beta": self.beta_schedule(),
            "clip_norm": self.clip_norm,
            "patience": self.patience,
            "seed": self.seed,
            "compile": self.compile,
        }


@_remembers_what_is_given
@dataclass(frozen=True, kw_only=True)
class Data:
    """The data set, and the preparation of the data for the model.

    Args:
        data: A data set's name (digits, mnist, fashion-mnist, cifar10), a .npz or .npy file, or a folder of
            images.
        labels: The number of labelled data of each class. All other labels are hidden from training. By
            default all labels are used.
        binarise: The binarisation of grey values. "dynamic" draws each pixel anew in every minibatch,
            "static" draws it once, "none" keeps the grey values. "auto" is "dynamic" for a Bernoulli
            likelihood and "none" for all others.
        shift: The largest random shift of each image of a minibatch, in pixels.
        split_seed: The seed of the splits into training, validation and test data, and of the fixed draw of
            binary pixels. Runs with the same value share these data, whatever their seed.

    Attributes:
        given: the names of the arguments that the caller gave.
    """

    data: str = "digits"
    labels: Annotated[int, Ge(1)] | None = None
    binarise: Literal["auto", "none", "static", "dynamic"] = "auto"
    shift: Annotated[int, Ge(0)] = 0
    split_seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    given: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)

    def over(self, defaults: Mapping[str, Any]) -> Data:
        """Return a copy with a recipe's defaults for all values that were not given."""
        return _over(self, defaults)

    def changed(self, **changes: Any) -> Data:
        """Return a copy with some values changed."""
        return _changed(self, changes)


SHARED: dict[str, type[Training] | type[Data]] = {"Training": Training, "Data": Data}
"""The groups of options that all recipes share, in the order of help."""

MAY_CHANGE = frozenset(
    {"epochs", "patience", "compile", "learning_rate", "decay", "beta", "warm_up", "cycle", "data"}
)
"""The shared options that a resumed run may change. Data may move, since their values are compared."""

LABELS_ONLY = frozenset({"labels"})
"""The shared options that only recipes of models with classes have."""


def shared_names(cls: type, classes: bool = True) -> list[str]:
    """List the options of `Training` or `Data`.

    Args:
        cls: the dataclass.
        classes: whether the recipe's model has classes. If not, options about labels are left out.
    """
    return [f.name for f in fields(cls) if f.init and (classes or f.name not in LABELS_ONLY)]


def plain_values(settings: Training | Data) -> dict[str, Any]:
    """Return settings as plain values by name, for a run folder's configuration."""
    values = asdict(settings)
    del values["given"]
    return values


def _over(settings: Settings, defaults: Mapping[str, Any]) -> Settings:
    known: Collection[str] = shared_names(type(settings))
    mine = {name: value for name, value in defaults.items() if name in known}
    explicit = {name: getattr(settings, name) for name in settings.given}
    filled = type(settings)(**(mine | explicit))
    object.__setattr__(filled, "given", settings.given)
    return filled


def _changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    changed = type(settings)(**(plain_values(settings) | dict(changes)))
    object.__setattr__(changed, "given", settings.given | changes.keys())
    return changed
