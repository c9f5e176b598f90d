"""Compile a function of tensors, so that Python runs it once and a compiled graph runs it from then on.

Pyro's handlers run Python code for every site at every step, but the sequence of tensor operations is the
same for each minibatch. `make_fx` records this sequence, forward and backward, while the function runs
once, and Inductor fuses and compiles the record. The graph uses the parameters and data that the function
closes over in place: an optimiser may change them between calls. It draws the same random numbers from
torch's random stream as the function does.

A record contains tensor operations only. It misses a Python branch on a value, the random numbers of Python
and NumPy, or a counter. Four checks refuse functions that depend on these: the function must not read a
tensor's value while it is recorded, it must leave the generators of Python and NumPy as they are, a second
record must equal the first, and the graph must agree with the function on other arguments and draws.

What the function computes may change later, with an attribute of a module for example. So a caller that
keeps a record for long compares its results with the function's by `difference`, and asks for a new record
where they differ.
"""

from __future__ import annotations

import hashlib
import logging
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.compute.compiler_cache import use_private_cache
from pyrovae.compute.interrupts import interrupts_deferred
from pyrovae.compute.streams import streams
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
        refuse(mode, activity, str(error))
        return None


def refuse(mode: str, activity: str, reason: str) -> None:
    """Say that a function runs without being compiled, and why.

    Args:
        mode: "on" or "auto".
        activity: a name for the work of the function.
        reason: why it cannot be compiled.

    Raises:
        InputError: the mode is "on".

    Warns:
        UserWarning: the mode is "auto".
    """
    if mode == "on":
        raise InputError(f"{activity} cannot be compiled: {reason}. Use compile='off'.")
    warn(f"{activity} runs without being compiled: {reason}.")


class Recording:
    """A function that has been recorded as a graph and compiled. Its results have no gradient.

    Args:
        code: the graph's code.
        live: the tensors that the function closes over, by their names in the graph. They may change in
            place between two calls.
        baked: the tensors that the function makes from Python's values, by name. The graph keeps them.
        run: the compiled graph.
    """

    def __init__(
        self, code: str, live: Mapping[str, Tensor], baked: Mapping[str, Tensor], run: Function
    ) -> None:
        self._code, self._live, self._baked, self._run = code, live, baked, run

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # the graph contains the backward pass
            return list(self._run(*tensors))

    @property
    def digest(self) -> str:
        """A digest of all that the graph took from Python: its operations, and the numbers in them."""
        found = hashlib.sha256(self._code.encode())
        for name, tensor in self._baked.items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def equals(self, graph: Any) -> bool:
        """Return whether another record holds the same operations, on the same tensors."""
        tensors = _tensors_of(graph)
        return (
            graph.code == self._code
            and tensors.keys() == self._live.keys() | self._baked.keys()
            and all(tensors[name] is tensor for name, tensor in self._live.items())
            and all(torch.equal(tensors[name], tensor) for name, tensor in self._baked.items())
        )


def compile_function(
    function: Function,
    example: Sequence[Tensor],
    other: Sequence[Tensor],
    known: Recording | None = None,
    inductor: bool = True,
) -> Recording:
    """Record a function as a graph for arguments of fixed shapes, and compile the graph.

    Args:
        function: a function whose arguments are tensors, and that returns a list of tensors. It may call
            autograd.
        example: the arguments that the function is recorded with.
        other: other arguments of the same shapes, on which the graph is compared with the function.
        known: an earlier result for this function. It is returned, if it is what the function is now.
        inductor: whether to compile the graph; if False, it runs operation by operation.

    Returns:
        A function of the same arguments and results. The results have no gradient.

    Raises:
        NotTraceable: the function does something that a graph cannot contain, or the graph and the function
            return different values.

    Example:
        >>> double = compile_function(
        ...     lambda x: [2 * x], [torch.ones(2)], [torch.zeros(2)], inductor=False
        ... )
        >>> double(torch.tensor([1.0, 3.0]))
        [tensor([2., 6.])]
    """

    def detached(*tensors: Tensor) -> list[Tensor]:
        return [value.detach() for value in without_python_draws(function)(*tensors)]

    try:
        graph = _recorded(detached, example)
        if known is None or not known.equals(graph):
            live, baked = _sorted(graph, _recorded(detached, other))
            code = graph.code  # the compiler may change the graph
            with torch.no_grad(), _quietly(), interrupts_deferred():
                # The graph is a module too, but no hook for the programs' modules must find it.
                run = _compiled(graph, example) if inductor else graph.forward
                known = Recording(code, live, baked, run)
        found = _with_seed(known, other)
    except NotTraceable:
        raise
    except Exception as error:  # torch's tracer and compilers raise many types of error
        raise NotTraceable(_first_line(error)) from error
    if differs := difference(found, _with_seed(detached, other)):
        raise NotTraceable(f"the compiled graph and the function differ: {differs}")
    return known


def without_python_draws(function: Function) -> Function:
    """Return the function, which then refuses to draw from the generators of Python and NumPy.

    A record would freeze such a draw, and a comparison can miss a rare one. So it is enough that the
    generator moves.

    Raises:
        NotTraceable: Python's `random` or NumPy's global generator moved while the function ran.
    """

    def run(*args: Any) -> Any:
        before = _python_streams()
        found = function(*args)
        for name, state in _python_streams().items():
            if state != before[name]:
                raise NotTraceable(
                    f"the program draws from {name}, and a graph would repeat one draw forever"
                )
        return found

    return run


def _python_streams() -> dict[str, Any]:
    states = streams()
    numpy = states["numpy"]  # the generator's name, its key as an array, and numbers
    return {"Python's `random`": states["python"], "`numpy.random`": (numpy[1].tobytes(), *numpy[2:])}


def _recorded(function: Function, arguments: Sequence[Tensor]) -> Any:
    """Record the tensor operations of a function as a graph."""

    def without_reads(*tensors: Tensor) -> Any:
        with _NoReads():
            return function(*tensors)

    return make_fx(without_reads, decompositions(arguments))(*arguments)


class _NoReads(TorchDispatchMode):
    """Refuses what a graph cannot hold, and says where the program tried it.

    Python must not read a tensor's value. torch's tracer notices reads of computed tensors only. The value
    of a parameter would become a constant of the graph. Nor may the program draw from a generator of its
    own, whose state no checkpoint holds and no seed sets.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is aten._local_scalar_dense.default:
            raise NotTraceable(f"the program reads the value of a tensor {_reading_line()}")
        if (kwargs or {}).get("generator") is not None:
            raise NotTraceable(f"the program draws from a torch.Generator of its own {_reading_line()}")
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


def _tensors_of(graph: Any) -> dict[str, Tensor]:
    return dict(graph.named_parameters()) | dict(graph.named_buffers())


def _sorted(graph: Any, again: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors in a record that the function closes over, and those that it makes anew each time.

    Raises:
        NotTraceable: the function's two records differ.
    """
    tensors, others = _tensors_of(graph), _tensors_of(again)
    live = {name: tensor for name, tensor in tensors.items() if others.get(name) is tensor}
    baked = {name: tensor for name, tensor in tensors.items() if name not in live}
    changed = None if graph.code == again.code else "its operations, or numbers in them, change"
    if not changed and not all(torch.equal(others[name], tensor) for name, tensor in baked.items()):
        changed = "a tensor that it makes changes"
    if changed:
        raise NotTraceable(
            f"{changed} from call to call: the program depends on something that is not a tensor, such as "
            "a counter or a random number of Python's"
        )
    return live, baked


def _log1p(x: Tensor) -> Tensor:
    """Compute log(1 + x) to full precision from log, which is several times faster than log1p on a CPU.

    A factor corrects the rounding of 1 + x (Kahan). The log density of a Bernoulli likelihood has one such
    term for every pixel.
    """
    y = 1 + x
    return torch.where((y == 1) | (y == torch.inf), x, y.log() * (x / (y - 1)))


def _addmm(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Compute beta * added + alpha * a @ b with the sum apart from the product.

    The sum then becomes part of the next kernel, such as that of a ReLU. MKL's product would copy a bias to
    all rows first, and read the copy.
    """
    if a.dtype == torch.bfloat16 or alpha != 1:  # the sum would be rounded twice
        return NotImplemented
    # Not `product + added`, which Inductor turns back into addmm.
    return torch.mm(a, b) - (-added if beta == 1 else -beta * added)


def decompositions(example: Sequence[Tensor]) -> dict[Any, Function]:
    """Return the operations that a graph replaces by simpler ones: on a CPU, addmm, log1p and what has it.

    Args:
        example: the arguments of the function that is recorded; on a GPU nothing is replaced.

    Returns:
        A function for each replaced operation, as `make_fx` takes them.
    """
    if any(tensor.is_cuda for tensor in example):
        return {}
    contain_log1p = (aten.binary_cross_entropy_with_logits, aten.softplus, aten.log_sigmoid_forward)
    return get_decompositions(contain_log1p) | {aten.log1p.default: _log1p, aten.addmm.default: _addmm}


def _compiled(graph: Any, example: Sequence[Tensor]) -> Function:
    cuda = any(tensor.is_cuda for tensor in example)
    # On a GPU, Inductor captures the kernels as a CUDA graph, which needs a single launch.
    options = {"fallback_random": True, "triton.cudagraphs": cuda}
    use_private_cache()
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


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """Return how two lists of results differ by more than rounding, or None.

    Numbers that are not finite agree with equal ones.
    """
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return "the numbers of results, or their shapes, are not the same"
    sizes = [_largest(tensor) for tensor in expected]
    # Both have rounding errors where the result is 0, like the gradient of a bias before a normalisation.
    least = _TOLERANCE * max(sizes, default=0.0)
    for number, (a, b, size) in enumerate(zip(found, expected, sizes, strict=True)):
        same = (a == b) | (a.isnan() & b.isnan())
        off = (a - b).abs().masked_fill(same, 0.0)
        if (off.nan_to_num(nan=math.inf) > _TOLERANCE * max(size, least)).any():
            return f"result {number} by {off.max().item():.3g}"
    return None


def _largest(tensor: Tensor) -> float:
    """Return the largest absolute value that is finite, or 0."""
    sizes = tensor.abs().nan_to_num(nan=0.0, posinf=0.0)
    return sizes.max().item() if tensor.numel() else 0.0


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
