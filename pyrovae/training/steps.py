"""The choice of a run's kind of step."""

from __future__ import annotations

from typing import Any

from pyrovae.compute import capture, processes
from pyrovae.training.batches import Minibatches
from pyrovae.training.captured import CapturedStep
from pyrovae.training.optimizers import is_capturable
from pyrovae.training.preparation import Prepared
from pyrovae.training.settings import Settings
from pyrovae.training.step import CompiledStep, EagerStep
from pyrovae.training.trainable import Trainable

LONG_RUN = 5_000
"""The number of steps of a run from which compilation is worthwhile. It takes about ten seconds."""

LONG_CAPTURED_RUN = 500
"""The number of full minibatches of a run above which a capture is worthwhile. It takes about a second."""


def build_step(
    data: Minibatches,
    prepared: Prepared,
    parameters: Trainable,
    settings: Settings,
    saved: dict[str, Any] | None = None,
) -> EagerStep:
    """Return the step that the settings ask for: compiled by "on", and in long runs by "auto".

    On a GPU it is captured: as a whole, or, with several processes or an optimiser that cannot be captured,
    up to the gradients.

    Args:
        data: the minibatches.
        prepared: the loss.
        parameters: the parameters that are trained, and their optimiser.
        settings: the run's settings.
        saved: what the step's `saved` returned in the run that is resumed; None for a new run.
    """
    captures = capture.captures_on(data.device)
    # The choice depends on settings and checkpoint alone, so that a resumed run makes the same one.
    if captures:
        long = settings.epochs * data.full_steps > LONG_CAPTURED_RUN
    else:
        # Inductor's support of other devices, such as MPS, is new.
        long = settings.epochs * data.steps >= LONG_RUN and data.device.type == "cpu"
    if settings.compile == "off" or (settings.compile == "auto" and not long):
        return EagerStep(data, prepared, parameters, settings)
    whole = captures and processes.count() == 1 and is_capturable(parameters.optimizer)
    kind = CapturedStep if whole else CompiledStep
    return kind(data, prepared, parameters, settings, saved)
