"""A pair that was built by hand and trained with a folder: its parameters and its history, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.programs.pair import ModelAndGuide, name_of_pair
from pyrovae.programs.parameters import named_parameters, own_parameters
from pyrovae.programs.reach import modules_of
from pyrovae.training import History
from pyrovae.training.checkpoints import load_checkpoint
from pyrovae.training.state import load_state


@dataclass(repr=False)
class PairRun:
    """A folder that `fit(pair, folder=...)` wrote; see `Run.open`.

    Attributes:
        folder: the folder.
        pair: the pair, with the parameters of the best epoch, or of the last one without validation.
        history: the history of its training.
        checkpoint: the name of the checkpoint that was read.
        data: the data to score, and their classes or None; None if none were given.
    """

    folder: Path
    pair: ModelAndGuide
    history: History
    checkpoint: str
    data: tuple[Tensor, Tensor | None] | None = None

    def __repr__(self) -> str:
        """Return a line that names the folder and the checkpoint."""
        asked = "" if self.data is None else f"; asked about data of shape {tuple(self.data[0].shape)}"
        return f"run {self.folder}: {name_of_pair(self.pair)}, {self.checkpoint}{asked}"

    @classmethod
    def open(cls, folder: Path, pair: ModelAndGuide, data: Any = None) -> PairRun:
        """Read the newest checkpoint of a folder into a pair; see `Run.open`."""
        if isinstance(data, str):
            raise InputError(
                f"data is {data!r}, but nothing says how a file is prepared for a pair that was built by "
                "hand: give tensors, data=(x, y)."
            )
        saved = load_checkpoint(folder)
        state = saved["best_state"] or saved["state"]
        named: dict[str, Tensor] = {}
        if state["parameters"]:  # of pyro.param or pyro.module, which are known only after the programs ran
            if data is None:
                raise InputError(
                    "the programs of the pair make their parameters when they run: give data to run them "
                    "on, Run.open(folder, pair=mine, data=x)."
                )
            with own_parameters(pair), torch.no_grad(), torch.random.fork_rng():
                named = named_parameters(pair, *(part for part in data if part is not None))
                load_state(pair, named, state)
        else:
            load_state(pair, named, state)
        for module in modules_of(pair):
            module.eval()
        return cls(folder, pair, History(**saved["history"]), saved["file"], data)

    def evidence(self, *, num_samples: int = 5000, **options: Any) -> MarginalLikelihood:
        """Estimate log p(x) of the data, by `pyrovae.evaluation.marginal_likelihood`.

        Args:
            num_samples: K, the number of importance samples for each datum.
            options: its other arguments.

        Raises:
            InputError: the run was opened without data, or for the reasons given there.
        """
        if self.data is None:
            raise InputError("there are no data to score: open the run with data=x.")
        return marginal_likelihood(self.pair, self.data[0], num_samples=num_samples, **options)
