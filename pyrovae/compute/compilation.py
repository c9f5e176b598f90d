"""Compile a function of tensors, so that Python runs it once and a compiled graph runs it from then on.

Pyro's handlers run Python code for every site at every step, but the sequence of tensor operations is the
same for each minibatch. `make_fx` records this sequence, forward and backward, while the function runs
once, and Inductor fuses and compiles the record. The graph uses the parameters and data that the function
closes over in place: an optimiser may change them between calls. It draws the same random numbers from
torch's random stream as the function does.

A record contains tensor operations only. It misses a Python branch on a value, NumPy's random numbers or a
counter. Three checks refuse functions that depend on these: the function must not read a tensor's value
while it is recorded, a second record must equal the first, and the graph must agree with the function on
other arguments and draws.
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

# The largest difference between graph and function, relative to a tensor's largest value.
_TOLERANCE = 1e-3

MODES = ("auto", "on", "off")


class NotTraceable(Exception):
    """Raised for a function that cannot be recorded as a graph; the message says why."""


def compile_if_asked(
    mode: str,
    worthwhile: bool,
    activity: str,
    function: Function,
    examples: Callable[[], tuple[Sequence[Tensor], Sequence[Tensor]]],
) -> Function | None:
    """Compile a function if the mode asks for it.

    Args:
        mode: "on"; "off"; or "auto", which compiles if that is worthwhile.
        worthwhile: whether the function will run long enough to repay the time of the compilation.
        activity: a name for the work of the function, for messages: "the evaluation".
        function: the function, as in `compile_function`.
        examples: a function that makes the two lists of arguments `example` and `other` of
            `compile_function`. It is called only if the function is compiled.

    Returns:
        The compiled function; None if the function is not to be compiled.

    Raises:
        InputError: the mode is unknown; or it is "on", and the function cannot be compiled.

    Warns:
        UserWarning: the mode is "auto" and compilation is worthwhile, but not possible. The message says
            why.
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
    """Record a function as a graph for arguments of fixed shapes, and compile the graph.

    Args:
        function: a function whose arguments are tensors, and that returns a list of tensors. It may call
            autograd.
        example: the arguments that the function is recorded with.
        other: other arguments of the same shapes, on which the graph is compared with the function.
        inductor: whether to compile the graph; if False, it runs operation by operation.

    Returns:
        A function of the same arguments and results. The results have no gradient.

    Raises:
        NotTraceable: the function does something that a graph cannot contain, or the graph and the function
            return different values.

    Example:
        >>> double = compile_function(lambda x: [2 * x], [torch.ones(2)], [torch.zeros(2)], inductor=False)
        >>> double(torch.tensor([1.0, 3.0]))
        [tensor([2., 6.])]
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
    except Exception as error:  # torch's tracer and compilers raise many types of error
        raise NotTraceable(_first_line(error)) from error
    _compare(found, _with_seed(detached, other))

    def replay(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # the graph contains the backward pass
            return list(graph(*tensors))

    return replay


def _recorded(function: Function, arguments: Sequence[Tensor]) -> Any:
    """Record the tensor operations of a function as a graph."""

    def without_reads(*tensors: Tensor) -> Any:
        with _NoReads():
            return function(*tensors)

    return make_fx(without_reads, decompositions(arguments))(*arguments)


class _NoReads(TorchDispatchMode):
    """Refuses to let Python read a tensor's value, and says where it tried.

    torch's tracer notices reads of computed tensors only. The value of a parameter would become a constant
    of the graph.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is aten._local_scalar_dense.default:
            raise NotTraceable(f"the program reads the value of a tensor {_reading_line()}")
        return function(*args, **(kwargs or {}))


def _reading_line() -> str:
    """Describe the innermost running line outside of torch, Pyro and this module."""
    libraries = (Path(__file__), Path(torch.__file__).parent, Path(pyro.__file__).parent)
    frame = next(
        frame
        for frame in reversed(traceback.extract_stack())
        if not any(Path(frame.filename).is_relative_to(library) for library in libraries)
    )
    return f"at {Path(frame.filename).name}:{frame.lineno} (`{frame.line}`)"


def _check_same(graph: Any, again: Any) -> None:
    """Refuse a function whose two records differ."""
    changed = None if graph.code == again.code else "its operations, or numbers in them, change"
    for name, constant in graph.named_buffers():
        other = getattr(again, name, constant)
        if constant is not other and not torch.equal(constant, other):
            changed = "a tensor that it makes changes"
    if changed:
        raise NotTraceable(
            f"{changed} from call to call: the program depends on something that is not a tensor, such as "
            "a counter or NumPy's random numbers"
        )


def _log1p(x: Tensor) -> Tensor:
    """Compute log(1 + x) to full precision from log, which is several times faster than log1p on a CPU.

    A factor corrects the rounding of 1 + x (Kahan). The log density of a Bernoulli likelihood has one such
    term for every pixel.
    """
    y = 1 + x
    return torch.where((y == 1) | (y == torch.inf), x, y.log() * (x / (y - 1)))


def decompositions(example: Sequence[Tensor]) -> dict[Any, Function]:
    """Return the operations that a graph replaces by simpler ones: on a CPU, log1p and what contains it.

    Args:
        example: the arguments of the function that is recorded; on a GPU nothing is replaced.

    Returns:
        A function for each replaced operation, as `make_fx` takes them.
    """
    if any(tensor.is_cuda for tensor in example):
        return {}
    contain_log1p = (aten.binary_cross_entropy_with_logits, aten.softplus, aten.log_sigmoid_forward)
    return get_decompositions(contain_log1p) | {aten.log1p.default: _log1p}


def _compiled(graph: Any, example: Sequence[Tensor]) -> Function:
    cuda = any(tensor.is_cuda for tensor in example)
    # On a GPU, Inductor captures the kernels as a CUDA graph, which needs a single launch.
    options = {"fallback_random": True, "triton.cudagraphs": cuda}
    # Not torch.compile: its guards and lookups at every call take as long as a small layer.
    compiled: Function = torch._inductor.compile(graph, list(example), options=options)
    return compiled


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress Inductor's warnings and log messages."""
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
    # Both have rounding errors where the result is 0, like the gradient of a bias before a normalisation.
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
