"""The options that all recipes share: `Training` and `Data`. Their values are plain words and numbers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from pyrovae.errors import InputError

if TYPE_CHECKING:
    from pyrovae.schedules import Schedule

_RATE_RISES, _BETA_RISES = (0.05, 10), (0.25, 1000)
"""How long the learning rate and beta rise by default: a share of the epochs, and the fewest steps."""

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


@dataclass(frozen=True)
class Time:
    """The course of a training, from which the schedules' lengths follow.

    Attributes:
        steps: the number of steps in an epoch.
        ends: the epochs at which schedules of the learning rate end. A run that was resumed beyond its last
            epoch has several. Beta follows the first one alone.
        has_beta: whether beta may differ from 1. It may not for IWAE, nor where the model alone enumerates
            a class: there the logarithm of a sum has one weight.
    """

    steps: int
    ends: Sequence[int]
    has_beta: bool = True


@_remembers_what_is_given
@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of a training. Values that are not given are the recipe's defaults, or else those below.

    Args:
        epochs: The number of passes through the data.
        batch_size: The number of data in a minibatch. By default 100; of fewer than 2,000 data a twentieth,
            and at least 16.
        learning_rate: The learning rate of Adam, at its highest.
        rate_warm_up: The number of epochs over which the learning rate rises from 0 at the start, at most
            half of all. 0 means no rise. By default a twentieth of the epochs, and at least 10 steps.
        decay: The decay of the learning rate. "cosine" lowers it along a cosine, to 0 at the last epoch.
        beta: The weight of the KL term.
        warm_up: The number of epochs over which beta rises from 0 at the start. 0 means no rise. By default
            a quarter of the epochs, and at least 1,000 steps, but at most half of the epochs. With cycles,
            or if the objective has no beta (iwae, dreg), there is no rise by default.
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
        precision: The precision of matrix products in training. "tf32" (on CUDA) and "bfloat16" round
            them. Densities and parameters keep 32 bits.

    Attributes:
        given: the names of the arguments that the caller gave.

    Example:
        >>> Training(epochs=20).given
        frozenset({'epochs'})
    """

    epochs: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(1)] | None = None
    learning_rate: Annotated[float, Gt(0)] = 5e-3
    rate_warm_up: Annotated[float, Ge(0)] | None = None
    decay: Literal["none", "cosine"] = "cosine"
    beta: Annotated[float, Ge(0)] = 1.0
    warm_up: Annotated[float, Ge(0)] | None = None
    cycle: Annotated[float, Ge(0)] = 0.0
    clip_norm: Annotated[float, Gt(0)] | None = None
    validation_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    patience: Annotated[int, Ge(1)] | None = None
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    compile: Literal["auto", "on", "off"] = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
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

    def sized(self, num_data: int) -> Training:
        """Return a copy with the size of a minibatch for this number of data, unless it was given."""
        if self.batch_size is not None:
            return self
        return self.changed(batch_size=min(100, max(16, num_data // 20)))

    def beta_schedule(self, time: Time) -> Schedule:
        """Return the schedule of beta over the epochs."""
        from pyrovae import schedules

        if self.cycle:
            return schedules.cyclical(self.cycle, end=self.beta)
        rise = self.warm_up
        if rise is None:
            rise = _length(_BETA_RISES, time.ends[0], time.steps) if time.has_beta else 0.0
        return schedules.linear_warm_up(rise, end=self.beta) if rise else schedules.constant(self.beta)

    def rate_schedule(self, time: Time) -> Schedule:
        """Return the schedule of the learning rate over the epochs."""
        from pyrovae import schedules

        lengths = [end - begin for begin, end in pairwise([0, *time.ends])]
        rises = [self._rate_rises(length, time.steps) for length in lengths]
        if self.decay == "cosine":
            decays = (
                schedules.cosine_decay(length, self.learning_rate, warm_up=rise)
                for length, rise in zip(lengths, rises, strict=True)
            )
            return schedules.chained([*zip(lengths, decays, strict=True)])
        if rises[0]:
            return schedules.linear_warm_up(rises[0], end=self.learning_rate)
        return schedules.constant(self.learning_rate)

    def _rate_rises(self, epochs: int, steps: int) -> float:
        if self.rate_warm_up is None:
            return _length(_RATE_RISES, epochs, steps)
        return min(self.rate_warm_up, epochs / 2)

    def fit_settings(self, time: Time) -> dict[str, Any]:
        """Return the keyword arguments of `pyrovae.fit` that settings stand for that are `sized`."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.rate_schedule(time),
            "beta": self.beta_schedule(time),
            "clip_norm": self.clip_norm,
            "patience": self.patience,
            "seed": self.seed,
            "compile": self.compile,
            "precision": self.precision,
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
    {
        *("epochs", "patience", "compile", "data"),
        *("learning_rate", "rate_warm_up", "decay", "beta", "warm_up", "cycle"),
    }
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


def _length(rises: tuple[float, int], epochs: int, steps: int) -> float:
    """Return the length of a rise in epochs. Where data are few, steps count, up to half of the epochs."""
    share, fewest = rises
    return min(max(share * epochs, fewest / steps), epochs / 2)


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
