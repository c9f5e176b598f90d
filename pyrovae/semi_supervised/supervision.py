"""Which programs, objective and weights train a model with classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE, VAE
from pyrovae.objectives import Objective, SupervisedELBO
from pyrovae.priors import VampPrior
from pyrovae.programs.pair import Program
from pyrovae.schedules import Schedule, linear_warm_up
from pyrovae.semi_supervised.spreading import spread_labels


@dataclass(frozen=True)
class Supervision:
    """How much classes weigh beside the bound, all as means: the loss of the data is

        mean over all of (-ELBO) - weight * mean over the labelled of log p

    so that a weight means the same for any number of data, labels or batch size.

    Attributes:
        alpha: of log q(y | x) in M2 and M1+M2 (Kingma et al. 2014 have 0.1). If all data are labelled,
            as where labels spread, nothing else trains q(y | x), and under Adam alpha's size has no effect.
        prediction: lambda, of log p(y | z) in PC-VAE and CPC-VAE, and of its repetition log p(y | zbar).
        consistency: of the agreement of p(y | z) and p(y | zbar) in CPC-VAE, a mean over the unlabelled;
            the constraint's labelled half is the repetition above, at lambda.
        aggregate: of the frequencies of predicted classes in CPC-VAE, as well.
        delay: epochs before the constraints of PC-VAE and CPC-VAE count.
        warm_up: epochs over which they rise from then on.

    Raises:
        InputError: one of them is negative.
    """

    alpha: float = 0.1
    prediction: float = 25.0
    consistency: float = 25.0
    aggregate: float = 25.0
    delay: float = 0.0
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise InputError(f"{name} is {value}; it must be at least 0.")

    def schedule(self, weight: float) -> Schedule:
        """A constraint's weight over the epochs."""
        if not self.warm_up:
            return lambda epoch: weight if epoch >= self.delay else 0.0
        return linear_warm_up(self.warm_up, end=weight, delay=self.delay)


@dataclass(frozen=True)
class Task:
    """What `fit` trains, and by which objective."""

    model: Program
    guide: Program
    objective: Objective | None = None
    weights: dict[str, Schedule] | None = None

    def options(self) -> dict[str, Any]:
        """As arguments of `fit`."""
        objective = {} if self.objective is None else {"objective": self.objective}
        return objective | {"weights": self.weights}


def training_task(
    model: nn.Module, y: Tensor | None, supervision: Supervision, jointly: bool = False
) -> Task:
    """The programs and the objective that train a model on data with classes.

    Args:
        model: one of this package's.
        y: classes `(N,)`, -1 where there is none; None for models without.
        supervision: how much they weigh.
        jointly: of M1+M2 train both layers, on images. Otherwise it is the upper one, on draws of z1.

    Raises:
        InputError: there is no label to learn from.
    """
    if not isinstance(model, M2 | M1M2 | PCVAE):
        return Task(model.model, model.guide)  # type: ignore[arg-type]
    if y is None or not (labelled := (y != UNLABELLED).sum().item()):
        raise InputError(f"{type(model).__name__} learns classes: give the class of some data at least.")
    per_label = len(y) / labelled
    if isinstance(model, M2 | M1M2):
        trained = model.m2 if isinstance(model, M1M2) and not jointly else model
        return Task(trained.model, trained.guide, SupervisedELBO(supervision.alpha * per_label))
    weights = {"y": supervision.schedule(supervision.prediction * per_label)}
    if not isinstance(model, CPCVAE):
        return Task(model.model, model.guide, weights=weights)
    weights["y_again"] = weights["y"]
    if labelled < len(y):
        weights["consistency"] = supervision.schedule(supervision.consistency)
        weights["aggregate"] = supervision.schedule(supervision.aggregate)
    return Task(model.constrained_model, model.guide, weights=weights)


def starting_point(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    vae: VAE | None = None,
    spread: bool = False,
    neighbours: int = 10,
    seed: int = 0,
) -> Tensor | None:
    """Put a new model where its training starts, and say which classes it learns.

    M1+M2 takes over the VAE's parameters; any other model's pixels start at their frequencies, and a
    VampPrior's pseudo-inputs at data.

    Args:
        model: one of this package's.
        x: the data it is trained on, `(N, *x_shape)`.
        y: their classes `(N,)`, -1 where there is none; None for models without.
        vae: a VAE trained on these data, for M1+M2 and for labels to spread over.
        spread: whether they do.
        neighbours: of each datum in the graph along which they do.
        seed: of the choice of data for pseudo-inputs.

    Returns:
        `y`, or what became of it.
    """
    if isinstance(model, M1M2):
        assert vae is not None
        model.vae.load_state_dict(vae.state_dict())
    else:
        model.likelihood.start_at_marginals(x)  # type: ignore[operator, union-attr]
        if isinstance(prior := getattr(model, "prior", None), VampPrior):
            with seeded(seed):
                prior.start_at(x)
    if y is None or not spread:
        return y
    assert vae is not None
    return spread_labels(latent_means(vae, x), y, neighbours)
