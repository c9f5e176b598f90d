"""A function of tensors, run once by Python and from then on as one compiled graph.

Pyro's handlers run Python for every site at every step. What they compute for a minibatch is the same
sequence of tensor operations each time: `make_fx` records it while the function runs once, forward and
backward, and Inductor fuses and compiles the record. Parameters and data that the function closes over
stay what they are, tensors in memory that an optimiser may change between calls. The graph draws from
torch's own random stream, number for number as the function does.

A record is blind to whatever is not a tensor: a Python branch on a value, NumPy's random numbers, a
counter. So the function must not read a tensor's value while it is recorded, a second record must be the
same as the first, and the graph is held against the function on other arguments and draws.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.compute.interrupts import interrupts_deferred
from pyrovae.errors import InputError, check_choice, warn

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
        warn(f"{activity} runs without being compiled: {error}.")
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
        graph: Function = _recorded(detached, example)
        _check_same(graph, _recorded(detached, other))
        with torch.no_grad(), _quietly(), interrupts_deferred():
            if inductor:
                graph = _compiled(graph, example)
            found = _with_seed(graph, other)
    except NotTraceable:
        raise
    except Exception as error:  # torch's tracer and compilers raise whatever they do
        raise NotTraceable(_first_line(error)) from error
    _compare(found, _with_seed(detached, other))

    def replay(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # the gradients are in the graph
            return list(graph(*tensors))

    return replay


def _recorded(function: Function, arguments: Sequence[Tensor]) -> Any:
    """The function's tensor operations as a graph."""

    def without_reads(*tensors: Tensor) -> Any:
        with _NoReads():
            return function(*tensors)

    return make_fx(without_reads, _decompositions(arguments))(*arguments)


class _NoReads(TorchDispatchMode):
    """Refuses that Python reads a tensor's value, and says where. torch's tracer notices it for what is
    computed only: a parameter's value would become a constant of the graph."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is aten._local_scalar_dense.default:
            raise NotTraceable(f"the program reads the value of a tensor {_reading_line()}")
        return function(*args, **(kwargs or {}))


def _reading_line() -> str:
    """The line that is running: the innermost one that is not torch's, Pyro's or of this module."""
    libraries = (Path(__file__), Path(torch.__file__).parent, Path(pyro.__file__).parent)
    frame = next(
        frame
        for frame in reversed(traceback.extract_stack())
        if not any(Path(frame.filename).is_relative_to(library) for library in libraries)
    )
    return f"at {Path(frame.filename).name}:{frame.lineno} (`{frame.line}`)"


def _check_same(graph: Any, again: Any) -> None:
    """Refuse a function that computes one thing now and another then."""
    changed = None if graph.code == again.code else "its operations, or numbers in them, change"
    for name, constant in graph.named_buffers():
        other = getattr(again, name, constant)
        if constant is not other and not torch.equal(constant, other):
            changed = "a tensor that it makes changes"
    if changed:
        raise NotTraceable(
            f"{changed} from call to call: the program depends on something that is no tensor, such as a "
            "counter or NumPy's draws"
        )


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
    sizes = [b.abs().max().item() if b.numel() else 0.0 for b in expected]
    # What should be 0, such as the gradient of a bias before a normalisation, is rounding in both.
    least = _TOLERANCE * max(sizes, default=0.0)
    for number, (a, b, size) in enumerate(zip(found, expected, sizes, strict=True)):
        difference = (a - b).abs().max().item() if b.numel() else 0.0
        if not difference <= _TOLERANCE * max(size, least):
            raise NotTraceable(
                f"result {number} of the compiled graph differs from the function's by {difference:.3g}"
            )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
