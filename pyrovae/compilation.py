"""A function of tensors, run once by Python and from then on as one compiled graph.

Pyro's handlers run Python for every site at every step. What they compute for a minibatch is the same
sequence of tensor operations each time: `make_fx` records it while the function runs once, forward and
backward, and Inductor fuses and compiles the record. Parameters and data that the function closes over
stay what they are, tensors in memory that an optimiser may change between calls. The graph draws from
torch's own random stream, number for number as the function does.

A record is blind to whatever is not a tensor: a Python branch on a value, NumPy's random numbers, a
counter. So the graph is held against the function before it is used, on other arguments and draws.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.errors import InputError, check_choice
from pyrovae.interrupts import interrupts_deferred

Function = Callable[..., Any]

aten = torch.ops.aten

_TOLERANCE = 1e-3  # by which graph and function may differ, relative to a tensor's largest value


MODES = ("auto", "on", "off")


class NotTraceable(Exception):
    """The function cannot be recorded as a graph; says why."""


def compile_if_asked(
    mode: str,
    worthwhile: bool,
    activity: str,
    function: Function,
    examples: Callable[[], tuple[Sequence[Tensor], Sequence[Tensor]]],
) -> Function | None:
    """The function compiled, or None if it is to be run as it is.

    Args:
        mode: "on"; "auto", which compiles where that is worthwhile; or "off".
        worthwhile: whether there is enough to do to repay the compilation.
        activity: what the function is for, in messages.
        function: as `compile_function`'s.
        examples: makes two sets of arguments.

    Raises:
        InputError: another mode, or a function that is to be compiled and cannot be.

    Warns:
        UserWarning: compilation would be worthwhile, but is not possible; says why in one line.
    """
    check_choice("way to compile", mode, MODES)
    if mode == "off" or (mode == "auto" and not worthwhile):
        return None
    try:
        return compile_function(function, *examples())
    except NotTraceable as error:
        if mode == "on":
            raise InputError(f"{activity} cannot be compiled: {error}. Use compile='off'.") from error
        warnings.warn(f"{activity} runs without being compiled: {error}.", stacklevel=2)
        return None


def compile_function(
    function: Function, example: Sequence[Tensor], other: Sequence[Tensor], inductor: bool = True
) -> Function:
    """The function as one graph, for arguments of the example's shapes.

    Args:
        function: from tensors, as so many arguments, to a list of tensors. It may call autograd.
        example: arguments to record it with.
        other: arguments like them, on which graph and function are compared.
        inductor: compile the record; otherwise it is run operation by operation.

    Returns:
        A function of the same arguments and results, which carry no gradient.

    Raises:
        NotTraceable: the function does something that a graph cannot hold, or the graph computes
            something else than the function.
    """

    def detached(*tensors: Tensor) -> list[Tensor]:
        return [value.detach() for value in function(*tensors)]

    try:
        graph: Function = make_fx(detached, _decompositions(example))(*example)
        with torch.no_grad(), _quietly(), interrupts_deferred():
            if inductor:
                graph = _compiled(graph, example)
            found = _with_seed(graph, other)
    except Exception as error:  # torch's tracer and compilers raise whatever they do
        raise NotTraceable(_first_line(error)) from error
    _compare(found, _with_seed(detached, other))

    def replay(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # the gradients are in the graph
            return list(graph(*tensors))

    return replay


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) to the last digits by way of log, which takes a CPU a fraction of log1p's time; what 1 + x
    rounds away is put back by a factor (Kahan). A Bernoulli's log density has one for every pixel."""
    y = 1 + x
    return torch.where((y == 1) | (y == torch.inf), x, y.log() * (x / (y - 1)))


def _decompositions(example: Sequence[Tensor]) -> dict[Any, Function]:
    """What is recorded as simpler operations: on a CPU, all that is made of log1p."""
    if any(tensor.is_cuda for tensor in example):
        return {}
    made_of_it = (aten.binary_cross_entropy_with_logits, aten.softplus, aten.log_sigmoid_forward)
    return get_decompositions(made_of_it) | {aten.log1p.default: _log1p}


def _compiled(graph: Any, example: Sequence[Tensor]) -> Function:
    cuda = any(tensor.is_cuda for tensor in example)
    # On a GPU the compiled kernels are captured as a CUDA graph, and launched as one.
    options = {"fallback_random": True, "triton.cudagraphs": cuda}
    # Not torch.compile, whose guards and lookups at every call take as long as small layers.
    compiled: Function = torch._inductor.compile(graph, list(example), options=options)
    return compiled


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what Inductor has to say about itself and its surroundings."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _with_seed(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return list(function(*tensors))


def _compare(found: list[Tensor], expected: list[Tensor]) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        difference = (a - b).abs().max().item() if b.numel() else 0.0
        if not difference <= _TOLERANCE * max(1e-6, b.abs().max().item() if b.numel() else 0.0):
            raise NotTraceable(
                f"result {number} of the graph differs from the function's by {difference:.3g}: the "
                "function depends on something that is no tensor, such as a counter or NumPy's draws"
            )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
