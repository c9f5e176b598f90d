"""The state of a run as names and tensors, which a checkpoint saves and restores."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.compute.streams import as_plain, from_plain, set_streams, streams
from pyrovae.errors import CheckpointError
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reach import modules_of, named_modules, prefix_of
from pyrovae.training.trainable import Trainable

_Kind = tuple[str, str]  # shape and type


@dataclass(frozen=True)
class TrainedState:
    """Everything that a step changes: parameters, buffers, the optimiser and the random streams.

    Attributes:
        pair: the pair that is trained.
        parameters: its parameters and their optimiser.
        device: the device of the run.
    """

    pair: ModelAndGuide
    parameters: Trainable
    device: torch.device

    def of_pair(self) -> dict[str, Any]:
        """Return the pair's own part: parameters and buffers."""
        own = state(self.pair, self.parameters.named)
        return own | {"parameters": {**self.parameters.waiting, **own["parameters"]}}

    def saved(self) -> dict[str, Any]:
        """Return the state. Its tensors are no copies, so further training changes them."""
        return {
            "state": self.of_pair(),
            "optimizer": self.parameters.optimizer_state(),
            "rng": as_plain(streams(self.device)),
            "trained": {"frozen": self.parameters.frozen(), "later": list(self.parameters.later)},
        }

    def put_back(self, saved: dict[str, Any]) -> None:
        """Restore an earlier state of this run."""
        self.put_back_pair(saved["state"])
        self.parameters.load_optimizer_state(saved["optimizer"])
        set_streams(from_plain(saved["rng"]), self.device)

    def put_back_pair(self, saved: dict[str, Any]) -> None:
        """Restore an earlier state of the pair. Parameters that it had not then are left as they are."""
        _put(self.pair, self.parameters.named, saved)

    def resume(self, saved: dict[str, Any], with_settings: bool) -> None:
        """Restore the state of a checkpoint.

        Args:
            saved: the checkpoint.
            with_settings: whether to restore the optimiser's settings, such as the learning rate.

        Raises:
            CheckpointError: the state is another model's. Nothing is changed then.
        """
        parameters, later = self.parameters, saved["trained"]["later"]
        load_state(self.pair, parameters.named, saved["state"], later=later)
        of_pyro = saved["state"]["parameters"]
        parameters.waiting.update({n: of_pyro[n] for n in later if n in of_pyro.keys() - parameters.named})
        parameters.later = list(later)
        parameters.load_optimizer_state(saved["optimizer"], with_settings)
        set_streams(from_plain(saved["rng"]), self.device)


def state(pair: ModelAndGuide, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """Return everything that training changes in a pair: parameters and buffers, by name.

    Buffers that a module leaves out of its `state_dict` are part of it.
    """
    modules = {name: module.state_dict() for name, module in named_modules(pair).items()}
    inside = {id(p) for module in modules_of(pair) for p in module.parameters()}
    others = {name: p.detach() for name, p in parameters.items() if id(p) not in inside}
    buffers = {name: _left_out(module, modules[name]) for name, module in named_modules(pair).items()}
    return {"modules": modules, "parameters": others, "buffers": buffers}


def digest_of_pair(pair: ModelAndGuide) -> str:
    """Return a digest of the parameters and buffers of a pair's modules."""
    digest = hashlib.sha256()
    for module in named_modules(pair).values():
        for name, value in sorted(module.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(
                    value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                )
    return digest.hexdigest()[:16]


def load_state(
    pair: ModelAndGuide, parameters: dict[str, Tensor], saved: dict[str, Any], later: Collection[str] = ()
) -> None:
    """Restore a saved state of a pair.

    Args:
        pair: the pair.
        parameters: all of its parameters, by name.
        saved: the state.
        later: the names of parameters that the pair need not have yet. They are left out then.

    Raises:
        CheckpointError: the state belongs to another model. The message names the differences. Nothing is
            changed then.
    """
    now = _flatten(state(pair, parameters))
    found = {n: v for n, v in _flatten(saved).items() if n in now or n not in later}
    _check_same_tensors({n: v for n, v in now.items() if n in found or n not in later}, found)
    _put(pair, parameters, saved)


@torch.no_grad()
def _put(pair: ModelAndGuide, parameters: dict[str, Tensor], saved: dict[str, Any]) -> None:
    """Restore what both the pair and the saved state have."""
    for name, module in named_modules(pair).items():
        module.load_state_dict(saved["modules"].get(name, {}), strict=False)
        for buffer, value in saved.get("buffers", {}).get(name, {}).items():
            _put_buffer(module, buffer, value)
    for name in saved["parameters"].keys() & parameters.keys():
        parameters[name].copy_(saved["parameters"][name])


def _left_out(module: nn.Module, saved: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in module.named_buffers() if name not in saved}


def _put_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    now = owner._buffers.get(last)
    if now is not None and now.shape == value.shape:
        now.copy_(value)
    elif last in owner._buffers:  # filled, or of another size, since the module was built
        owner._buffers[last] = value.clone() if now is None else value.to(now, copy=True)


def _flatten(saved: dict[str, Any]) -> dict[str, _Kind]:
    modules = saved["modules"]
    named = dict(saved["parameters"])
    for module, tensors in modules.items():
        named |= {prefix_of(module, modules) + name: value for name, value in tensors.items()}
    # What a module's get_extra_state returns is the module's own affair.
    return {
        name: ("extra state", "") if name.endswith("_extra_state") else _kind(value)
        for name, value in named.items()
    }


def _kind(value: Tensor) -> _Kind:
    return str(tuple(value.shape)), str(value.dtype).removeprefix("torch.")


def _check_same_tensors(expected: dict[str, _Kind], found: dict[str, _Kind]) -> None:
    differences = [
        f"{name}: {_shown(found.get(name), expected.get(name))} in the checkpoint, "
        f"{_shown(expected.get(name), found.get(name))} here"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
        raise CheckpointError(f"the checkpoint is another model's ({shown}): use the model that wrote it.")


def _shown(kind: _Kind | None, other: _Kind | None) -> str:
    """Return a tensor's shape in words, with its type if only this tells it from the other."""
    if kind is None:
        return "absent"
    return " ".join(kind) if other and kind[0] == other[0] else kind[0]
