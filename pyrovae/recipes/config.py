"""What can be asked of one training run: names and defaults of the command line and of `runs`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pyrovae import schedules
from pyrovae.compute.compilation import MODES
from pyrovae.data import DATASETS
from pyrovae.errors import InputError, check_choice
from pyrovae.objectives import Objective
from pyrovae.recipes.build import CLASSED, COMPONENTS, build_objective
from pyrovae.semi_supervised import Supervision

BINARISATIONS = {
    "auto": "dynamic for a Bernoulli likelihood, else none",
    "none": "the grey values as they are",
    "static": "one draw for each pixel, once",
    "dynamic": "a fresh draw for each pixel at every presentation",
}


@dataclass(frozen=True)
class Config:
    """One training run, as asked for. Names and defaults are the command line's.

    By default a tenth of the training data is held out to choose the best epoch by its bound; not so for
    models with classes, since the best bound is not the best classifier (but for a VAE beneath one).
    """

    model: str
    data: str = "digits"
    likelihood: str = "bernoulli"
    posterior: str = "normal"
    prior: str = "normal"
    network: str = "mlp"
    latent_dim: int = 10
    width: int = 256
    flow_steps: int | None = None
    components: int = COMPONENTS
    binarise: str = "auto"
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    objective: str = "elbo"
    particles: int = 1
    free_bits: float = 0.0
    beta: float = 1.0
    warm_up: float = 0.0
    cycle: float = 0.0
    clip_norm: float | None = None
    validation_fraction: float | None = None
    patience: int | None = None
    labels: int | None = None
    spread: bool = False
    shift: int = 0
    learn_class_prior: bool = False
    alpha: float = Supervision.alpha
    prediction: float = Supervision.prediction
    consistency: float = Supervision.consistency
    aggregate: float = Supervision.aggregate
    constraint_delay: float = Supervision.delay
    constraint_warm_up: float = Supervision.warm_up
    compile: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("binarisation", self.binarise, BINARISATIONS)
        check_choice("way to compile", self.compile, MODES)
        if not 0 <= self.held_out < 1:
            raise InputError(f"validation_fraction is {self.held_out}; it must be at least 0 and below 1.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        for name, length in {"warm_up": self.warm_up, "cycle": self.cycle}.items():
            if not length >= 0:
                raise InputError(f"{name} is {length}; it must be at least 0.")
        if self.patience is not None and not self.held_out:
            raise InputError(
                f"patience is {self.patience}, but no data are held out to measure the bound on: set "
                "validation_fraction, to 0.1 say."
            )
        if self.warm_up and self.cycle:
            raise InputError("warm_up and cycle are both set: beta follows one schedule, choose one.")
        if self.model not in CLASSED and (self.labels is not None or self.spread):
            raise InputError(
                f"labels and spread are for models with classes ({', '.join(CLASSED)}); a {self.model} "
                "learns none. Its latents can be classified afterwards: pyrovae classify RUN --labels 10."
            )
        if (self.objective, self.particles) != ("elbo", 1) and self.model in CLASSED:
            raise InputError(
                f"objective is '{self.objective}' with {self.particles} particles; models with classes "
                f"({', '.join(CLASSED)}) are trained on the ELBO with one, and on their own terms."
            )
        if self.objective in ("iwae", "dreg") and (self.beta != 1 or self.warm_up or self.cycle):
            raise InputError(
                f"the objective '{self.objective}' has no KL term for beta, warm_up or cycle to weigh: "
                "leave them out."
            )
        for name, users in _OPTIONS_OF.items():
            value = getattr(self, name)
            if self.model not in users and value != getattr(Config, name):
                raise InputError(
                    f"{name} is {value}, but a {self.model} has no use for it: it is an option of "
                    f"{', '.join(users)}."
                )
        self.bound()  # which refuses what it cannot be
        self.supervision()  # which refuses weights that cannot be
        if self.shift < 0:
            raise InputError(f"shift is {self.shift}; it must be at least 0.")

    @property
    def held_out(self) -> float:
        """The share of training data that choose the best epoch."""
        if self.validation_fraction is None:
            return 0.0 if self.model in CLASSED else 0.1
        return self.validation_fraction

    @property
    def pixels(self) -> str:
        """How pixels are presented: "dynamic", "static", "none", or "levels" for a categorical."""
        if self.model != "ppca" and self.likelihood == "categorical":
            return "levels"
        if self.binarise != "auto":
            return self.binarise
        return "dynamic" if self.model != "ppca" and self.likelihood == "bernoulli" else "none"

    def beta_schedule(self) -> schedules.Schedule:
        if self.warm_up:
            return schedules.linear_warm_up(self.warm_up, end=self.beta)
        if self.cycle:
            return schedules.cyclical(self.cycle, end=self.beta)
        return schedules.constant(self.beta)

    def bound(self) -> Objective:
        """What is optimised, apart from classes."""
        return build_objective(self.objective, self.particles, self.free_bits)

    def supervision(self) -> Supervision:
        """How much classes weigh."""
        return Supervision(
            self.alpha,
            self.prediction,
            self.consistency,
            self.aggregate,
            self.constraint_delay,
            self.constraint_warm_up,
        )

    def of_m1(self) -> Config:
        """The VAE beneath: M1+M2's first half, or the one whose latents labels spread over."""
        defaults = {name: getattr(Config, name) for name in _OPTIONS_OF}
        return replace(self, model="vae", labels=None, spread=False, **defaults)


# Options that say nothing to other models.
_OPTIONS_OF = {
    "learn_class_prior": CLASSED,
    "alpha": ("m2", "m1m2"),
    "prediction": ("pcvae", "cpcvae"),
    "consistency": ("cpcvae",),
    "aggregate": ("cpcvae",),
    "constraint_delay": ("pcvae", "cpcvae"),
    "constraint_warm_up": ("pcvae", "cpcvae"),
}


def from_anywhere(name: str) -> str:
    """A file's or folder's path in full, so that a run finds it from any working directory."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in DATASETS and name and path.exists() else name
