"""Run folders: everything of one training run, and enough to evaluate, sample and resume it.

config.json     what was asked for, with versions, git commit and command, and those of each resumption
checkpoints/    the newest two
history.json    one row for each epoch
metrics.json    the last evaluation's summary (marginal_likelihood.json: datum by datum)
figures/        what was drawn
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from pyrovae import data, schedules
from pyrovae.build import build_model, check_choice
from pyrovae.checkpoints import is_partial, load_checkpoint, remove_partials, write_atomically
from pyrovae.errors import CheckpointError, InputError
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.history import History
from pyrovae.programs import resolve_device
from pyrovae.state import load_state
from pyrovae.training import fit

BINARISATIONS = {
    "auto": "dynamic for a Bernoulli likelihood, else none",
    "none": "the grey values as they are",
    "static": "one draw for each pixel, once",
    "dynamic": "a fresh draw for each pixel at every presentation",
}


@dataclass(frozen=True)
class Config:
    """One training run, as asked for. Names and defaults are the command line's."""

    model: str
    data: str = "digits"
    likelihood: str = "bernoulli"
    network: str = "mlp"
    latent_dim: int = 10
    width: int = 256
    binarise: str = "auto"
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    beta: float = 1.0
    warm_up: float = 0.0
    cycle: float = 0.0
    clip_norm: float | None = None
    validation_fraction: float = 0.1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("binarisation", self.binarise, BINARISATIONS)
        if not 0 <= self.validation_fraction < 1:
            raise InputError(
                f"validation_fraction is {self.validation_fraction}; it must be at least 0 and below 1."
            )
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        if self.warm_up and self.cycle:
            raise InputError("warm_up and cycle are both set: beta follows one schedule, choose one.")

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


def train(
    config: Config,
    folder: Path,
    *,
    device: str = "auto",
    download: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> Run:
    """Train as `config` says, into `folder`.

    Raises:
        InputError: the folder is in use, or something in the configuration does not fit; nothing is
            left behind then, and a run that was to be resumed stays as it was.
        CheckpointError: the run cannot be resumed with this configuration, or its data have changed.
        OSError: the folder cannot be written.
    """
    resolve_device(device)
    if not resume and _in_use(folder):
        raise InputError(f"{folder} is in use: name another folder, or go on with it by 'resume'.")
    config = replace(config, data=_from_anywhere(config.data))
    run = Run(folder, config)
    images = data.load(config.data, seed=config.seed, download=download)
    model = run.new_model(images.shape)
    x_train, x_validation = run.training_data(images)
    model.likelihood.start_at_marginals(x_train)  # type: ignore[operator, union-attr]
    created = _first_missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    path = folder / "config.json"
    former = path.read_bytes() if path.is_file() else None
    run.write_config(images.shape)
    try:
        history = fit(
            model.model,  # type: ignore[arg-type]
            model.guide,  # type: ignore[arg-type]
            x_train,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
            beta=config.beta_schedule(),
            transform=data.binarise if config.pixels == "dynamic" else None,
            clip_norm=config.clip_norm,
            validation=x_validation,
            patience=config.patience,
            seed=config.seed,
            device=device,
            folder=folder / "checkpoints",
            resume=resume,
            tensorboard=folder / "tensorboard" if tensorboard else None,
            progress=progress,
        )
    except (InputError, CheckpointError):
        if former is not None:
            write_atomically(path, former)
        elif created is not None:
            shutil.rmtree(created)
        else:
            path.unlink()
        raise
    history.save(folder / "history.json")
    return Run(folder, config)


@dataclass
class Run:
    """A run folder and its configuration."""

    folder: Path
    config: Config

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises:
            InputError: it is none, or its configuration cannot be read.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"{folder} is no run folder: there is no config.json. Train one first.")
        try:
            values = json.loads(path.read_text())["config"]
            unknown = values.keys() - {field.name for field in fields(Config)}
            if unknown:
                raise InputError(f"{path} has unknown options: {', '.join(sorted(unknown))}.")
            for name, value in values.items():
                _check_type(f"{path}: {name}", value, get_type_hints(Config)[name])
            return cls(folder, Config(**values))
        except (
            json.JSONDecodeError,
            KeyError,
            TypeError,
            AttributeError,
            UnicodeDecodeError,
        ) as error:
            raise InputError(f"{path} cannot be read as a run's configuration: {error!r}") from error

    def write_config(self, x_shape: tuple[int, ...]) -> None:
        """Write config.json; of a run that is resumed it keeps what was recorded before."""
        path = self.folder / "config.json"
        begun = json.loads(path.read_text()) if path.is_file() else None
        now = {
            "command": " ".join(["pyrovae", *sys.argv[1:]]),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        content = (begun or now) | {"config": asdict(self.config), "x_shape": x_shape}
        if begun is not None:
            content["resumed"] = [*begun.get("resumed", []), now]
        write_atomically(path, json.dumps(content, indent=1).encode())

    def new_model(self, x_shape: tuple[int, ...]) -> nn.Module:
        c = self.config
        return build_model(
            c.model,
            x_shape,
            latent_dim=c.latent_dim,
            likelihood=c.likelihood,
            network=c.network,
            width=c.width,
            seed=c.seed,
        )

    @cached_property
    def images(self) -> data.Images:
        return data.load(self.config.data, seed=self.config.seed)

    @cached_property
    def model(self) -> nn.Module:
        """The trained model: of the best epoch where there were validation data, else of the last."""
        model = self.new_model(self.images.shape)
        saved = load_checkpoint(self.folder / "checkpoints")
        best = saved["best_state"] or saved["state"]
        load_state(model.model, model.guide, {}, best)  # type: ignore[arg-type]
        return model.eval()

    @property
    def history(self) -> History:
        """Epoch by epoch, as far as the newest checkpoint goes."""
        return History(**load_checkpoint(self.folder / "checkpoints")["history"])

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The last evaluation's summary, if there has been one."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def training_data(self, images: data.Images) -> tuple[Tensor, Tensor | None]:
        """The training images to fit and to validate on; only dynamic binarisation is left to do."""
        x, fraction = images.x_train, self.config.validation_fraction
        if self.config.pixels != "dynamic":
            x = self.presented(x)
        if not fraction:
            return x, None
        kept, held_out = data.stratified_split(images.y_train, fraction, self.config.seed, n=len(x))
        return x[kept], x[held_out]

    def presented(self, x: Tensor) -> Tensor:
        """Images as the model sees them; binarised by one fixed draw, so that scores repeat."""
        if self.config.pixels in ("static", "dynamic"):
            return data.binarise_static(x, self.config.seed)
        return data.to_levels(x) if self.config.pixels == "levels" else x

    def shown(self, x: Tensor) -> Tensor:
        """Presented images as grey values in [0, 1], to draw."""
        return data.from_levels(x) if self.config.pixels == "levels" else x

    def evaluate(
        self,
        num_samples: int = 5000,
        limit: int | None = None,
        device: str = "auto",
        progress: bool = True,
    ) -> MarginalLikelihood:
        """Estimate the test images' log p(x), and write metrics.json and marginal_likelihood.json."""
        x = self.presented(self.images.x_test)[:limit]
        model = self.model.to(resolve_device(device))
        result = marginal_likelihood(
            model.model,  # type: ignore[arg-type]
            model.guide,  # type: ignore[arg-type]
            x,
            num_samples=num_samples,
            seed=self.config.seed,
            progress=progress,
        )
        result.to_json(self.folder / "marginal_likelihood.json")
        metrics = result.summary()
        if self.config.model == "ppca":
            exact = model.log_evidence(x.to(next(model.parameters()).device))  # type: ignore[operator]
            metrics["exact_log_likelihood"] = exact.mean().item()
        text = json.dumps(metrics, indent=1)
        write_atomically(self.folder / "metrics.json", text.encode())
        return result


def _from_anywhere(name: str) -> str:
    """A file's or folder's path in full, so that a run finds it from any working directory."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in data.DATASETS and name and path.exists() else name


def _check_type(name: str, value: Any, kind: Any) -> None:
    whole = type(value) is int and isinstance(0.0, kind)  # JSON writes 1.0 as 1, if a person does
    if not isinstance(value, kind) and not whole:
        raise InputError(f"{name} is {value!r}; it must be of type {getattr(kind, '__name__', kind)}.")


def _in_use(folder: Path) -> bool:
    if not folder.exists():
        return False
    return not folder.is_dir() or not all(is_partial(path) for path in folder.iterdir())


def _first_missing(folder: Path) -> Path | None:
    """The topmost of the folders that making `folder` would make."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    return missing[-1] if missing else None


def versions() -> dict[str, str]:
    """Of Python, this package and what its numbers depend on."""
    packages = ("pyrovae", "torch", "pyro-ppl", "numpy", "arviz", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def git_commit() -> str | None:
    """The commit of the checkout that the package runs from, marked where it has been changed."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
