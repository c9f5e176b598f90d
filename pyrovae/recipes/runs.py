"""Run folders: everything of one training run, and enough to evaluate, sample and resume it.

config.json     what was asked for, with versions, git commit and command, and those of each resumption
checkpoints/    the newest two
history.json    one row for each epoch
metrics.json    the last evaluation's summary (marginal_likelihood.json: datum by datum)
figures/        what was drawn
m1/             a run folder of its own: the VAE beneath an M1+M2, or over whose latents labels spread
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from pyrovae import data
from pyrovae.compute import processes
from pyrovae.compute.devices import resolve_device
from pyrovae.errors import CheckpointError, InputError
from pyrovae.evaluation import (
    MarginalLikelihood,
    class_posterior,
    class_probabilities,
    error_rate,
    marginal_likelihood,
)
from pyrovae.generation import latent_means, posterior_draws
from pyrovae.models import M1M2
from pyrovae.recipes.build import CLASSED, build_model
from pyrovae.recipes.config import Config, from_anywhere
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.semi_supervised import (
    M1_CLASSIFIERS,
    fit_m1_classifier,
    only_labels_of,
    starting_point,
    training_task,
)
from pyrovae.storage import is_partial, remove_partials, write_atomically
from pyrovae.training import History, fit
from pyrovae.training.checkpoints import load_checkpoint
from pyrovae.training.state import load_state


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
    processes.wait()  # until all have looked: the first one will write there
    config = replace(config, data=from_anywhere(config.data))
    run = Run(folder, config)
    with processes.first_before_others():  # which then find what it has fetched
        images = data.load(config.data, seed=config.seed, download=download)
    run.check_classes(images)
    model = run.new_model(images)
    x_train, y_train, x_validation = run.training_data(images)
    with run.prepared_folder(images.shape):
        if run.stands_on_m1:
            m1 = run.m1 if (folder / "m1" / "config.json").is_file() else Run(folder / "m1", config.of_m1())
            train(m1.config, m1.folder, device=device, resume=True, progress=progress)
        vae = run.m1.model if run.stands_on_m1 else None
        y_train = starting_point(model, x_train, y_train, vae, config.spread, seed=config.seed)
        task = training_task(model, y_train, config.supervision())
        history = fit(
            task,
            x_train,
            y_train,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=partial(torch.optim.Adam, lr=config.learning_rate, fused=True),
            beta=config.beta_schedule(),
            transform=run.presentation(model),
            clip_norm=config.clip_norm,
            validation=x_validation,
            patience=config.patience,
            seed=config.seed,
            device=device,
            folder=folder / "checkpoints",
            resume=resume,
            tensorboard=folder / "tensorboard" if tensorboard else None,
            progress=progress,
            compile=config.compile,
            **({"objective": config.bound()} | task.options()),
        )
    if processes.is_first():
        history.save(folder / "history.json")
    return Run(folder, config)


@dataclass
class Run:
    """A run folder and its configuration."""

    folder: Path
    config: Config

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run folder.

        Raises:
            InputError: it is none, or its configuration cannot be read.
        """
        folder = Path(folder)
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

    @contextmanager
    def prepared_folder(self, x_shape: tuple[int, ...]) -> Iterator[None]:
        """Write the folder's config.json; if what follows is refused, leave all as it was before."""
        if not processes.is_first():
            yield
            return
        created = _first_missing(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partials(self.folder)
        former = path.read_bytes() if (path := self.folder / "config.json").is_file() else None
        self.write_config(x_shape)
        try:
            yield
        except (InputError, CheckpointError):
            if former is not None:
                write_atomically(path, former)
            elif not (self.folder / "m1").exists():  # an M1 that has been trained stays, to be resumed upon
                shutil.rmtree(created) if created is not None else path.unlink()
            raise

    def write_config(self, x_shape: tuple[int, ...]) -> None:
        """Write config.json; of a run that is resumed it keeps what was recorded before."""
        path = self.folder / "config.json"
        begun = json.loads(path.read_text()) if path.is_file() else None
        now = {
            "command": " ".join(["pyrovae", *sys.argv[1:]]),
            "versions": versions(),
            "git_commit": git_commit(),
            "processes": processes.count(),
        }
        content = (begun or now) | {"config": asdict(self.config), "x_shape": x_shape}
        if begun is not None:
            content["resumed"] = [*begun.get("resumed", []), now]
        write_atomically(path, json.dumps(content, indent=1).encode())

    def new_model(self, images: data.Images) -> nn.Module:
        c = self.config
        return build_model(
            c.model,
            images.shape,
            latent_dim=c.latent_dim,
            likelihood=c.likelihood,
            posterior=c.posterior,
            prior=c.prior,
            network=c.network,
            width=c.width,
            flow_steps=c.flow_steps,
            components=c.components,
            num_classes=images.num_classes,
            learn_class_prior=c.learn_class_prior,
            seed=c.seed,
        )

    @property
    def stands_on_m1(self) -> bool:
        """Whether a VAE is trained first."""
        return self.config.model == "m1m2" or self.config.spread

    @property
    def m1(self) -> Run:
        """The run of the VAE that is trained first."""
        return Run.open(self.folder / "m1")

    def check_classes(self, images: data.Images) -> None:
        """Refuse data without classes for a model with them."""
        if self.config.model in CLASSED and images.y_train is None:
            raise InputError(
                f"{self.config.data} has no classes, which a {self.config.model} learns: give y_train and "
                "y_test (or y) in the .npz, or images in one folder for each class."
            )

    @cached_property
    def images(self) -> data.Images:
        return data.load(self.config.data, seed=self.config.seed)

    @cached_property
    def model(self) -> Any:
        """The trained model: of the best epoch where there were validation data, else of the last."""
        model = self.new_model(self.images)
        saved = load_checkpoint(self.folder / "checkpoints")
        best = saved["best_state"] or saved["state"]
        trained = model
        if isinstance(model, M1M2):
            model.vae.load_state_dict(self.m1.model.state_dict())
            trained = model.m2
        load_state(trained, {}, best)  # type: ignore[arg-type]
        return model.eval()

    @property
    def history(self) -> History:
        """Epoch by epoch, as far as the newest checkpoint goes."""
        return History(**load_checkpoint(self.folder / "checkpoints")["history"])

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The last evaluation's summary, unless there was none, or the run has been trained on since."""
        path = self.folder / "metrics.json"
        if not path.is_file():
            return None
        metrics = json.loads(path.read_text())
        return metrics if metrics.get("epochs") == len(self.history.rows) else None

    def training_data(self, images: data.Images) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images and classes to fit, and images to validate on; what varies by presentation is to come.

        Only the classes of the labelled data are there, -1 for all others; None for a model without.
        """
        x, y, held_out = self._split(images)
        if self.config.model not in CLASSED or y is None:
            return x, None, held_out
        return x, self.with_labels_only(y, self.config.labels), held_out

    def _split(self, images: data.Images) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, y, fraction = images.x_train, images.y_train, self.config.held_out
        if self.config.pixels != "dynamic":
            x = self.presented(x)
        if not fraction:
            return x, y, None
        kept, others = data.stratified_split(y, fraction, self.config.seed, n=len(x))
        return x[kept], None if y is None else y[kept], x[others]

    def with_labels_only(self, y: Tensor, per_class: int | None) -> Tensor:
        """The classes `(N,)` of the labelled data, so many of each class, and -1 for all others."""
        if per_class is None:
            return y
        return only_labels_of(data.labels_per_class(y, per_class, self.config.seed), y)

    def presentation(self, model: nn.Module) -> data.Transform | None:
        """What happens to a minibatch each time it is presented: shift, binarise, encode."""
        steps: list[data.Transform] = []
        if self.config.shift:
            steps.append(partial(data.random_shift, pixels=self.config.shift))
        if self.config.pixels == "dynamic":
            steps.append(data.binarise)
        if isinstance(model, M1M2):
            steps.append(model.draw_z1)
        return data.in_turn(*steps)

    def presented(self, x: Tensor) -> Tensor:
        """Images as the model sees them; binarised by one fixed draw, so that scores repeat."""
        if self.config.pixels in ("static", "dynamic"):
            return data.binarise_static(x, self.config.seed)
        return data.to_levels(x) if self.config.pixels == "levels" else x

    def encoded(self, x: Tensor) -> Tensor:
        """Images as they are encoded to be classified: at the mean of what varies by presentation."""
        return x if self.config.pixels == "dynamic" else self.presented(x)

    def shown(self, x: Tensor) -> Tensor:
        """Presented images as grey values in [0, 1], to draw."""
        return data.from_levels(x) if self.config.pixels == "levels" else x

    def evaluate(
        self,
        num_samples: int = 5000,
        limit: int | None = None,
        device: str = "auto",
        progress: bool = True,
        **options: str,
    ) -> MarginalLikelihood:
        """Estimate the test images' log p(x), and write metrics.json and marginal_likelihood.json. Options
        are `marginal_likelihood`'s `precision` and `compile`."""
        x = self.presented(self.images.x_test)[:limit]
        model: Any = self.model.to(resolve_device(device))
        result = marginal_likelihood(
            model,
            x,
            num_samples=num_samples,
            seed=self.config.seed,
            progress=progress,
            **options,  # type: ignore[arg-type]
        )
        metrics = result.summary() | {"epochs": len(self.history.rows)}
        if self.config.model == "ppca":
            exact = model.log_evidence(x.to(next(model.parameters()).device))
            metrics["exact_log_likelihood"] = exact.mean().item()
        if self.config.model in CLASSED and self.images.y_test is not None:
            seen = self.encoded(self.images.x_test[:limit])
            probabilities = class_probabilities(model, seen)
            metrics["test_error"] = error_rate(probabilities, self.images.y_test[:limit])
        if processes.is_first():
            result.to_json(self.folder / "marginal_likelihood.json")
            write_atomically(self.folder / "metrics.json", json.dumps(metrics, indent=1).encode())
        return result

    def classify(
        self,
        labels: int | None = None,
        num_samples: int = 0,
        draws: bool = False,
        device: str = "auto",
    ) -> dict[str, float]:
        """Test error, in %, of each way to classify; writes classification.json.

        They are the model's own classifier, if it has one, and the same model by Bayes' rule if
        `num_samples` is above 0; and M1's classifiers, fitted to latents of the labelled data.

        Args:
            labels: how many of each class M1's classifiers are given; all that the run was by default.
            num_samples: importance samples of z for each datum and class.
            draws: classify draws z ~ q(z | x) rather than the means of q.
            device: where the model runs.

        Raises:
            InputError: the data have no classes, or too few of one.
        """
        images = self.images
        x, y, _ = self._split(images)
        if y is None or images.y_test is None:
            raise InputError(f"{self.config.data} has no classes to compare predictions with.")
        y = self.with_labels_only(y, self.config.labels if labels is None else labels)
        x_test = self.encoded(images.x_test)
        model: Any = self.model.to(resolve_device(device))
        errors: dict[str, float] = {}
        if self.config.model in CLASSED:
            pair: Any = model
            errors["own classifier"] = error_rate(class_probabilities(pair, x_test), images.y_test)
            if num_samples:
                seen, count = self.presented(images.x_test), images.num_classes
                by_bayes = class_posterior(pair, seen, count, num_samples=num_samples)
                errors["Bayes' rule"] = error_rate(by_bayes, images.y_test)
        embed = partial(posterior_draws, seed=self.config.seed) if draws else latent_means
        z, z_test = embed(model, x).numpy(), embed(model, x_test).numpy()
        for name in M1_CLASSIFIERS:
            predicted = fit_m1_classifier(name, z, y.numpy()).predict(z_test)
            errors[name] = 100 * float((predicted != images.y_test.numpy()).mean())
        write_atomically(self.folder / "classification.json", json.dumps(errors, indent=1).encode())
        return errors


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
