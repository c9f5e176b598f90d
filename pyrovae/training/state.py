"""The state of a run as names and tensors, which a checkpoint saves and restores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.errors import CheckpointError
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of


@dataclass(frozen=True)
class TrainedState:
    """Everything that a step changes: parameters, buffers, the optimiser and the random stream.

    Attributes:
        pair: the pair that is trained.
        parameters: all of its parameters, by name.
        optimizer: the optimiser.
        device: the device of the run.
    """

    pair: ModelAndGuide
    parameters: dict[str, Tensor]
    optimizer: Optimizer
    device: torch.device

    def of_pair(self) -> dict[str, Any]:
        """Return the pair's own part: parameters and buffers."""
        return state(self.pair, self.parameters)

    def saved(self) -> dict[str, Any]:
        """Return the state. Its tensors are no copies, so further training changes them."""
        return {
            "state": self.of_pair(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.device),
        }

    def put_back(self, saved: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            CheckpointError: the state belongs to another model.
        """
        load_state(self.pair, self.parameters, saved["state"])
        self.optimizer.load_state_dict(saved["optimizer"])
        set_rng_state(saved["rng"], self.device)


def state(pair: ModelAndGuide, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """Return everything that training changes in a pair: parameters and buffers, by name."""
    modules = {str(n): m.state_dict() for n, m in enumerate(modules_of(pair))}
    inside = {id(p) for module in modules_of(pair) for p in module.parameters()}
    others = {name: p.detach() for name, p in parameters.items() if id(p) not in inside}
    return {"modules": modules, "parameters": others}


@torch.no_grad()
def load_state(pair: ModelAndGuide, parameters: dict[str, Tensor], saved: dict[str, Any]) -> None:
    """Restore a saved state of a pair.

    Raises:
        CheckpointError: the state belongs to another model. The message names the differences. Nothing is
            changed then.
    """
    now = state(pair, parameters)
    _check_same_tensors(_flatten(now), _flatten(saved))
    for number, module in enumerate(modules_of(pair)):
        module.load_state_dict(saved["modules"][str(number)])
    for name, value in saved["parameters"].items():
        parameters[name].copy_(value)


def _flatten(saved: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    modules = saved["modules"]
    named = dict(saved["parameters"])
    for number, tensors in modules.items():
        prefix = f"{number}." if len(modules) > 1 else ""
        named |= {prefix + name: value for name, value in tensors.items()}
    return {name: tuple(value.shape) for name, value in named.items()}


def _check_same_tensors(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    differences = [
        f"{name}: {found.get(name, 'absent')} in the checkpoint, {expected.get(name, 'absent')} here"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
        raise CheckpointError(f"the checkpoint is another model's ({shown}): use the model that wrote it.")


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the CPU's random stream and, for a GPU, also that of the GPU's."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore a saved state of the random streams."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
