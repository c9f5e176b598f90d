"""The parameters of a run by name, also those that appear, or are frozen or unfrozen, on the way.

A program may show a parameter for the first time in a later step (`pyro.param` in a branch), and a callback
may freeze a module, unfreeze it or add a layer. The optimiser gets such parameters when they are first
used, with the settings that the others have by then. A parameter without a gradient in a step is left as it
is in that step, as with torch's optimisers and Pyro's SVI.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from pyrovae.compute import processes
from pyrovae.errors import InputError
from pyrovae.programs.gradient_checks import check_no_strays, leaves
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import module_parameters, optional_parameters, shown_parameter
from pyrovae.programs.reach import unused_name

MakeOptimizer = Callable[[Sequence[Tensor]], Optimizer]


class Trainable:
    """The parameters of a pair and their optimiser.

    Args:
        pair: the pair that is trained.
        named: all parameters that are known before the first step, by name.
        trained: those of them that are trained from the first step.
        make: the function that makes the optimiser.

    Attributes:
        named: all parameters by name.
        trained: the parameters that the optimiser has, in the order in which they joined.
        optimizer: the optimiser.
        later: the names of the parameters that the programs showed after the first step.
        waiting: values from a checkpoint for parameters of `pyro.param` that have not appeared yet.
        moments: the optimiser's state from a checkpoint for parameters that it does not have yet.
    """

    def __init__(
        self, pair: ModelAndGuide, named: dict[str, Tensor], trained: list[Tensor], make: MakeOptimizer
    ) -> None:
        self.pair, self.named, self.make = pair, named, make
        self.trained = list(trained)
        self.optimizer = make(self.trained)
        # A library model whose program was replaced keeps parameters that nothing uses.
        self.unused = {id(p) for p in named.values() if p.requires_grad} - set(map(id, trained))
        self.later: list[str] = []
        self.waiting: dict[str, Tensor] = {}
        self.moments: dict[str, Any] = {}
        self._listener = _Listener(self.waiting, self.names)
        self._index()

    def names(self) -> dict[int, str]:
        """Return the name of each parameter by its id."""
        return {id(value): name for name, value in self.named.items()}

    def frozen(self) -> list[str]:
        """Return the names of the parameters that require no gradient now."""
        return sorted(name for name, value in self.named.items() if not value.requires_grad)

    def layout(self) -> tuple[int, ...]:
        """Return what a recorded step depends on: the ids of the parameters that are trained now."""
        return tuple(id(value) for value in self.trained if value.requires_grad)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Run programs within. Parameters that they show for the first time join the optimiser."""
        with self._listener:
            yield
        found = {name: self.named[name] for name in self._idle if self.named[name].requires_grad}
        for name, value in self._listener.new.items():
            found[unused_name(name, self.named)] = value
        self._listener.new.clear()
        if found:
            self._meet(found)

    def refresh(self) -> None:
        """Look through the modules, between epochs, for what was added, replaced, frozen or unfrozen."""
        current = module_parameters(self.pair)
        # Callbacks run in the first process only.
        frozen = processes.from_first([name for name, value in current.items() if not value.requires_grad])
        for name, value in current.items() if processes.count() > 1 else ():
            value.requires_grad_(name not in frozen)
        found = {}
        optional = optional_parameters(self.pair)
        for name, value in current.items():
            old = self.named.get(name)
            if old is not None and old is not value:
                self._replace(name, old, value)
            elif old is None and id(value) in optional:  # of a module that may be in reach by chance
                self.named[name] = value
                self.unused.add(id(value))
            elif old is None or (value.requires_grad and name in self._idle):
                found[name] = value
        self._meet(found, between_epochs=True)

    @contextmanager
    def gradients_released(self) -> Iterator[None]:
        """After the block, leave no gradients on the parameters, which would hold as much memory again."""
        try:
            yield
        finally:
            for value in self.trained:
                value.grad = None

    # The optimiser's state, by the names of parameters

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state with the names of parameters for their positions.

        It includes the state of parameters that the optimiser does not have in this process.
        """
        saved = self.optimizer.state_dict()
        names = self._names_in_optimizer()
        of_parameters = {names[position]: value for position, value in saved["state"].items()}
        groups = [
            {**group, "params": [names[position] for position in group["params"]]}
            for group in saved["param_groups"]
        ]
        return {**saved, "state": {**self.moments, **of_parameters}, "param_groups": groups}

    def load_optimizer_state(self, saved: Mapping[str, Any], with_settings: bool = True) -> None:
        """Restore a state of the optimiser, whatever the order of its parameters was.

        The state of a parameter that the optimiser does not have is kept until the parameter joins.

        Args:
            saved: a result of `optimizer_state`.
            with_settings: whether to restore the settings of groups too, such as the learning rate.
        """
        now = self.optimizer.state_dict()
        names = self._names_in_optimizer()
        then = {name for group in saved["param_groups"] for name in group["params"]}
        held = {  # some optimisers make their state at once, also for a parameter that is new
            position: saved["state"].get(name, None if name in then else now["state"].get(position))
            for position, name in enumerate(names)
        }
        groups = now["param_groups"]
        if with_settings:
            groups = [
                {**old, "params": group["params"]}
                for group, old in zip(groups, saved["param_groups"], strict=True)
            ]
        self.optimizer.load_state_dict(
            {
                **(saved if with_settings else now),
                "state": {position: value for position, value in held.items() if value is not None},
                "param_groups": groups,
            }
        )
        self.moments = {name: value for name, value in saved["state"].items() if name not in names}

    def _names_in_optimizer(self) -> list[str]:
        names = self.names()
        ids = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        return [names.get(key, f"parameter {position}") for position, key in enumerate(ids)]

    # Steps

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Return the loss's gradient for each trained parameter; None for one that it does not depend on.

        With several processes it is 0 instead, since another process may have a gradient.
        """
        active = [value for value in self.trained if value.requires_grad]
        found: dict[int, Tensor | None] = {}
        if active and loss.requires_grad:
            gradients = torch.autograd.grad(loss, active, allow_unused=True)
            found = {id(p): _laid_out_as(p, g) for p, g in zip(active, gradients, strict=True)}
        return self.shared([found.get(id(value)) for value in self.trained])

    def shared(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients as they are summed over processes: with 0 for None if there are several."""
        if processes.count() == 1:
            return list(gradients)
        return [
            torch.zeros_like(p) if g is None and p.requires_grad else g
            for p, g in zip(self.trained, gradients, strict=True)
        ]

    def clip(self, norm: float) -> None:
        """Scale the gradients down, so that they have at most this norm together."""
        nn.utils.clip_grad_norm_(self.trained, norm)

    def check(self, loss: Tensor, again: Callable[[], Tensor]) -> None:
        """Refuse a loss that depends on parameters that nothing has shown to `fit`.

        Args:
            loss: the loss of a step.
            again: a function that computes it once more.

        Raises:
            InputError: the loss depends on such a parameter.
        """
        reached = {id(leaf): leaf for leaf in leaves(loss)}
        names = self.names()
        if used := self.unused & reached.keys():
            self._join({names[key]: reached[key] for key in used})
        if reached.keys() - names.keys():
            check_no_strays(loss, again, self.named.values())

    # Parameters that join

    def _index(self) -> None:
        trained = {id(value) for value in self.trained} | self.unused
        self._idle = [name for name, value in self.named.items() if id(value) not in trained]

    def _meet(self, found: Mapping[str, Tensor], between_epochs: bool = False) -> None:
        """Note parameters that were unknown or frozen, and let those that require a gradient join."""
        new = [name for name in found if name not in self.named]
        if new and not between_epochs and processes.count() > 1:
            raise InputError(
                f"the parameters {', '.join(new)} appear after the first step. Processes that train "
                "together must have the same parameters: let the programs show them in every run."
            )
        self.later += new
        self.named.update({name: found[name] for name in new})
        self._join({name: value for name, value in found.items() if value.requires_grad})
        self._index()

    def _join(self, found: Mapping[str, Tensor]) -> None:
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        joining = {name: value for name, value in found.items() if id(value) not in held}
        if joining:
            self._into_groups(joining)
        known = {id(value) for value in self.trained}
        self.trained += [value for value in found.values() if id(value) not in known]
        self.unused -= {id(value) for value in found.values()}
        for name in self.moments.keys() & found.keys():
            self.optimizer.state[found[name]] = self.moments.pop(name)
        self._index()

    def _into_groups(self, joining: Mapping[str, Tensor]) -> None:
        """Add parameters to the optimiser's groups, as the function that makes it divides them."""
        groups = self.optimizer.param_groups
        fresh = self.make(list(joining.values()))
        ids = {id(value) for value in joining.values()}
        if isinstance(self.optimizer, LBFGS) or len(fresh.param_groups) != len(groups):
            raise InputError(
                f"the parameters {', '.join(joining)} join the training after its first step, but "
                f"{type(self.optimizer).__name__} with {len(groups)} groups of parameters cannot take "
                "them: use an optimiser with one group, functools.partial(torch.optim.Adam, lr=1e-3) for "
                "example, or train them from the beginning."
            )
        for group, more in zip(groups, fresh.param_groups, strict=True):
            group["params"] += [value for value in more["params"] if id(value) in ids]
            if group.get("fused") and not more.get("fused"):  # complex parameters
                group["fused"] = False
        for value in joining.values():
            if value in fresh.state:
                self.optimizer.state[value] = fresh.state[value]

    def _replace(self, name: str, old: Tensor, new: Tensor) -> None:
        """Let a tensor take the place of another in the optimiser, without the other's moments."""
        self.named[name] = new
        self.trained = [value for value in self.trained if value is not old]
        self.optimizer.state.pop(old, None)
        for group in self.optimizer.param_groups:
            group["params"] = [value for value in group["params"] if value is not old]
        self._index()
        if new.requires_grad:
            self._join({name: new})


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Return a gradient in the parameter's layout in memory, as `backward` does it.

    torch's fused Adam takes it for granted, and gives wrong numbers otherwise.
    """
    if gradient is None or gradient.layout != torch.strided or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class _Listener(Messenger):
    """Notes the parameters that a program shows for the first time, and sets those from a checkpoint.

    Args:
        waiting: the values from a checkpoint, by name.
        known: a function that returns the ids of the known parameters.

    Attributes:
        new: the parameters of `pyro.param` that were not known when they were shown, by name.
    """

    def __init__(self, waiting: dict[str, Tensor], known: Callable[[], Collection[int]]) -> None:
        super().__init__()
        self.waiting, self.known = waiting, known
        self.new: dict[str, Tensor] = {}
        self._seen: set[str] = set()

    def _pyro_post_param(self, msg: Any) -> None:
        if msg["name"] not in self._seen:
            self._seen.add(msg["name"])
            if (value := shown_parameter(msg, self.known())) is not None:
                self.new[msg["name"]] = value

    @torch.no_grad()
    def _pyro_param(self, msg: Any) -> None:
        if (saved := self.waiting.pop(msg["name"], None)) is not None:
            msg["fn"](*msg["args"], **msg["kwargs"])  # creates it
            if (value := shown_parameter(msg, ())) is not None:
                value.copy_(saved)
