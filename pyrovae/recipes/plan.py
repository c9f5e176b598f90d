"""A plan: the pairs that a recipe has built, and the stages that train them.

Importing this file imports no torch, so that help, which reads the recipes, is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pyrovae.errors import InputError
from pyrovae.recipes.about import About
from pyrovae.recipes.settings import Data, Training, shared_names

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pyrovae.objectives import Objective
    from pyrovae.programs import ModelAndGuide
    from pyrovae.recipes.fitting import Fitted
    from pyrovae.schedules import Schedule
    from pyrovae.training import Data as Source

Pixels = Literal["real", "grey", "binary", "levels"]


@dataclass(frozen=True)
class Stage:
    """One training: a pair, and all that its training needs beside the settings that all stages share.

    Args:
        pair: the pair to train.
        name: a word for the stage. It names the folder of a stage before the last one.
        objective: the objective. None means the ELBO.
        weights: the weights of further sites by name, numbers or schedules.
        transform: a function that each minibatch passes through after shifts and binarisation,
            `(B, ...) -> (B, ...)`. None means no function.
        classes: whether the programs are called with classes.
        needs_classes: whether the programs cannot be called without classes. Then the validation data have
            theirs, and no class may be unknown.
        labels: a function from the data `(N, *x_shape)` and the given classes `(N,)`, -1 for unlabelled, to
            the classes that this stage learns, `(N,)`. It is called after the training of all earlier
            stages. None means the given classes.
        supervised: a function from the classes `(N,)` that this stage learns to a dictionary with
            `objective` or `weights`. Use it for weights that depend on the number of labels.
        start: a function that sets initial parameters from the training data `(N, *x_shape)`.
        given: a function from data and their classes `(N,)`, or None, to what is given to the programs
            beside them, by name, such as the condition of a conditional VAE. The pixels are those before
            each minibatch is binarised. None means that nothing is given.
        complete: a function from images `(N, *x_shape)` that the model makes, and what was given with them,
            to the images that figures show, such as those with given pixels in their places. None means the
            images as they are.
        training: settings of `Training` that are fixed for this stage, by name.

    Example:
        >>> Stage(vae, start=vae.likelihood.start_at_marginals)   # doctest: +SKIP
    """

    pair: ModelAndGuide
    _: KW_ONLY
    name: str = "model"
    objective: Objective | None = None
    weights: Mapping[str, float | Schedule] = field(default_factory=dict)
    transform: Callable[[Tensor], Tensor] | None = None
    classes: bool = False
    needs_classes: bool = False
    labels: Callable[[Tensor, Tensor], Tensor] | None = None
    supervised: Callable[[Tensor], Mapping[str, Any]] | None = None
    start: Callable[[Tensor], None] | None = None
    given: Callable[[Source, Tensor | None], Mapping[str, Any]] | None = None
    complete: Callable[[Tensor, Mapping[str, Any]], Tensor] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := self.training.keys() - set(shared_names(Training)):
            raise InputError(
                f"the stage '{self.name}' fixes {min(unknown)!r}, which is not a setting of Training: "
                f"choose from {', '.join(shared_names(Training))}."
            )


@dataclass(frozen=True)
class Plan:
    """The pairs that a recipe has built, and the stages that train them.

    Args:
        stages: the trainings, in order. Later stages may build on the pairs of earlier ones.
        pair: the pair that is evaluated, sampled and drawn. None means the pair of the last stage.
        pixels: the values that the model takes. "real": the data as they are; "grey": numbers from 0 to 1;
            "binary": 0 or 1, drawn from grey values; "levels": whole numbers from 0 to 255, of grey values.
        about: the facts about the data that the pairs were built for. The decorator `recipe` sets it.
        recipe: the name of the recipe. The decorator `recipe` sets it.
        options: the values of the recipe's options, for the run folder. The decorator `recipe` sets it.
        defaults: the recipe's defaults for Training and Data. The decorator `recipe` sets it.
        weights: the names of the options that only weigh the terms of the objective, which a resumed run
            may change. The decorator `recipe` sets it.

    Example:
        >>> import torch
        >>> from pyrovae.recipes import About, Training, vae
        >>> x = torch.rand(50, 6).round()
        >>> fitted = vae(About.of(x), latent_dim=2, width=8).fit(x, training=Training(epochs=2))
        >>> len(fitted.history.rows)
        2
    """

    stages: Sequence[Stage]
    _: KW_ONLY
    pair: ModelAndGuide = None  # type: ignore[assignment]  # __post_init__ puts the last stage's there
    pixels: Pixels = "real"
    about: About | None = None
    recipe: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    weights: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.stages or len({stage.name for stage in self.stages}) < len(self.stages):
            names = [stage.name for stage in self.stages]
            raise InputError(
                f"the stages of a plan are {names}; give at least one, and each stage its own name."
            )
        if self.pair is None:
            object.__setattr__(self, "pair", self.stages[-1].pair)

    def fit(
        self,
        x: Source,
        y: Tensor | None = None,
        *,
        given: Mapping[str, Tensor] | None = None,
        weight: Tensor | None = None,
        training: Training | None = None,
        data: Data | None = None,
        folder: str | Path | None = None,
        device: str = "auto",
        resume: bool = False,
        tensorboard: bool = False,
        tensorboard_images: int | None = None,
        progress: bool = False,
        verdict: bool = True,
    ) -> Fitted:
        """Train the stages one after another.

        Args:
            x: the data, `(N, *x_shape)`, grey values in [0, 1] or vectors; or a memory map or a map-style
                `torch.utils.data.Dataset` of such data, as `fit` takes them. From a map or a
                dataset, a recipe takes at most 10,000 data (2^27 values) for the start of training, such
                as the pixels' frequencies.
            y: their classes `(N,)`, -1 for unlabelled data. If all are known, each class keeps its share
                in the validation data, also for models that do not learn classes.
            training: the settings. Those that are not given take the recipe's defaults.
            data: the preparation of the data, and the number of labels to use. The data set's name in it is
                only recorded in the run folder.
            folder: the run folder to write. None means that nothing is written.
            device: the device. "auto" means CUDA if it is available, else the CPU.
            resume: whether to continue the run in the folder.
            tensorboard: whether to write scalars for TensorBoard into the folder. A resumed run that has
                some goes on with them either way.
            tensorboard_images: write samples and reconstructions too, each time after so many
                epochs. None means no images.
            progress: whether to show progress bars.
            verdict: whether to measure at the end what the training has come to. False leaves
                `Fitted.verdict` empty, which saves its time.

        Returns:
            The plan with the histories of its stages. The pairs are trained in place.

        Raises:
            InputError: data or settings do not fit, or the folder is in use. A new folder is removed then.
            CheckpointError: the folder cannot be resumed with these settings or data.
        """
        from pyrovae.recipes.beside import Beside
        from pyrovae.recipes.fitting import Writing, fit_plan

        for name, value, kind in (("training", training, Training), ("data", data, Data)):
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"{name} is a {type(value).__name__}; expected settings: write "
                    f"{name}={kind.__name__}(...)."
                )

        writing = Writing(
            folder, device, resume, tensorboard, tensorboard_images, progress, verdict=verdict
        )
        beside = Beside(given or {}, weight)
        return fit_plan(self, x, y, training or Training(), data or Data(), writing, beside)

    def __str__(self) -> str:
        from pyrovae.programs.pair import name_of_pair

        lines = [f"plan of the recipe {self.recipe}" if self.recipe else "plan without a recipe"]
        if self.about is not None:
            lines.append(f"data     : each {'x'.join(map(str, self.about.x_shape))}, {self.pixels} values")
        if self.options:
            lines.append("options  : " + ", ".join(f"{name} {v}" for name, v in self.options.items()))
        stages = [f"{stage.name} ({name_of_pair(stage.pair)})" for stage in self.stages]
        return "\n".join([*lines, "stages   : " + ", then ".join(stages)])

    def with_stage(self, number: int, **changes: Any) -> Plan:
        """Return a copy with changes to one stage, such as another name or fixed settings."""
        stages = [*self.stages]
        stages[number] = replace(stages[number], **changes)
        return replace(self, stages=stages)
