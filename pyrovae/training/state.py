"""The state of a pair, as plain names and tensors: what a checkpoint holds and puts back."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import CheckpointError
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of


def state(pair: ModelAndGuide, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """Everything that training changes in a pair: parameters and buffers, by name."""
    modules = {str(n): m.state_dict() for n, m in enumerate(modules_of(pair))}
    inside = {id(p) for module in modules_of(pair) for p in module.parameters()}
    others = {name: p.detach() for name, p in parameters.items() if id(p) not in inside}
    return {"modules": modules, "parameters": others}


@torch.no_grad()
def load_state(pair: ModelAndGuide, parameters: dict[str, Tensor], saved: dict[str, Any]) -> None:
    """Put a pair back into a saved state.

    Raises:
        CheckpointError: the state is another model's; names what differs. Nothing is changed then.
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
        raise CheckpointError(f"the checkpoint is another model's ({shown}).")


def fingerprint(x: Tensor) -> str:
    digest = hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{tuple(x.shape)} {digest}"


def rng_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
