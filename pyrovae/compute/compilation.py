"""Compile a function of tensors, so that Python runs it once and a compiled graph runs it from then on.

Pyro's handlers run Python code for every site at every step, but the sequence of tensor operations is the
same for each minibatch. `make_fx` records this sequence, forward and backward, while the function runs
once. On the CPU, Inductor fuses and compiles the record. On CUDA, its kernels are captured and launched
together (see `capture`), since there the launches take the time. The graph uses the parameters and data
that the function closes over in place: an optimiser may change them between calls. It draws the same random
numbers from torch's random stream as the function does.

A record contains tensor operations only. It misses a Python branch on a value, the random numbers of Python
and NumPy, or a counter. Four checks refuse functions that depend on these: the function must not read a
tensor's value while it is recorded, it must leave the generators of Python and NumPy as they are, a second
record must equal the first, and the graph must agree with the function on other arguments and draws.

On CUDA two comparisons do the work of the last one. The record, run operation by operation, must agree
with the function: both launch the same kernels, and so draw the same numbers. Then the captured kernels
must agree with the record. They too draw the same numbers with torch as it is, but its manual does not
promise that a capture uses as many of the stream as the kernels do alone. Where the two move the stream
differently, their results are compared on average over many draws. All run under the same setting of TF32.

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

from pyrovae.compute import capture
from pyrovae.compute.capture import CapturedFunction
from pyrovae.compute.compiler_cache import use_private_cache
from pyrovae.compute.interrupts import interrupts_deferred
from pyrovae.compute.memory import is_out_of_memory
from pyrovae.compute.streams import streams
from pyrovae.errors import InputError, check_choice, warn

Function = Callable[..., Any]

aten = torch.ops.aten

# The largest difference between graph and function, relative to a tensor's largest value.
_TOLERANCE = 1e-3

# Runs whose means are compared where draws are not the same, and the largest difference in standard errors.
_RUNS, _LARGEST_Z = 100, 6.0

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
        RuntimeError: a capture has not enough memory.

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
        operations: the graph, run operation by operation.
        run: the compiled graph.
        frozen: those of the live tensors whose values the compiled graph keeps, since they lie elsewhere.

    Attributes:
        live: the tensors that the function closes over, by name.
        operations: the graph, run operation by operation.
    """

    def __init__(
        self,
        code: str,
        live: Mapping[str, Tensor],
        baked: Mapping[str, Tensor],
        operations: Function,
        run: Function,
        frozen: Sequence[Tensor] = (),
    ) -> None:
        self._code, self.live, self._baked = code, live, baked
        self._frozen = [(tensor, tensor.detach().clone()) for tensor in frozen]
        self.operations, self._run = operations, run

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # the graph contains the backward pass
            return list(self._run(*tensors))

    def checked(self, *tensors: Tensor) -> list[Tensor]:
        """Return the results in the form that is compared with the function, which draws as it does."""
        run = self.operations if self.is_captured else self._run
        with torch.no_grad():
            return list(run(*tensors))

    @property
    def is_captured(self) -> bool:
        """Whether the graph's kernels have been captured."""
        return isinstance(self._run, CapturedFunction)

    def release(self) -> None:
        """Free the memory of the captured kernels. From now on the graph runs operation by operation."""
        if self.is_captured:
            self._run = self.operations

    @property
    def digest(self) -> str:
        """A digest of all that the graph took from Python: its operations, and the numbers in them."""
        found = hashlib.sha256(self._code.encode())
        for name, tensor in self._baked.items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def is_current(self) -> bool:
        """Whether the tensors whose values the compiled graph keeps have these values still."""
        return all(torch.equal(tensor, value) for tensor, value in self._frozen)

    def equals(self, graph: Any) -> bool:
        """Return whether another record holds the same operations, on the same tensors."""
        tensors = _tensors_of(graph)
        return (
            self.is_current
            and graph.code == self._code
            and tensors.keys() == self.live.keys() | self._baked.keys()
            and all(tensors[name] is tensor for name, tensor in self.live.items())
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
        inductor: whether Inductor compiles the graph on the CPU; if False, it runs operation by operation.

    Returns:
        A function of the same arguments and results. The results have no gradient.

    Raises:
        NotTraceable: the function does something that a graph cannot contain, or the graph and the function
            return different values.
        RuntimeError: a capture has not enough memory.

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
            with torch.no_grad(), _quietly(), interrupts_deferred():
                known = _compiled(graph, live, baked, example, other, inductor)
        found = _with_seed(known.checked, other)
    except NotTraceable:
        raise
    except Exception as error:  # torch's tracer and compilers raise many types of error
        if is_out_of_memory(error) and capture.captures_on(example[0].device):
            raise  # fewer data at once may fit
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


def _multinomial(
    weights: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> Tensor:
    """Draw categories as torch does, without its check of the weights, which waits for a GPU."""
    if replacement and num_samples > 1:
        return NotImplemented
    races = torch.empty_like(weights).exponential_(1, generator=generator)
    return (weights / races).topk(num_samples, -1).indices


def _normal(mean: Any, std: Any = 1.0, *, generator: Any = None) -> Tensor:
    """Draw from normal distributions as torch does, without its check that scales are not negative."""
    either = mean if isinstance(mean, Tensor) else std
    shape = torch.broadcast_shapes(*(getattr(each, "shape", ()) for each in (mean, std)))
    return either.new_empty(shape).normal_(generator=generator) * std + mean


def decompositions(example: Sequence[Tensor]) -> dict[Any, Function]:
    """Return the operations that a graph replaces by others.

    On a CPU they are addmm, log1p and what contains it, which are replaced by faster ones. Where kernels
    are captured they are draws that check their values, since a capture cannot wait for the answer.
    The numbers drawn are the same.

    Args:
        example: the arguments of the function that is recorded.

    Returns:
        A function for each replaced operation, as `make_fx` takes them.
    """
    if any(capture.captures_on(tensor.device) for tensor in example):
        normals = (aten.normal.Tensor_Tensor, aten.normal.float_Tensor, aten.normal.Tensor_float)
        return {aten.multinomial.default: _multinomial} | dict.fromkeys(normals, _normal)
    contain_log1p = (aten.binary_cross_entropy_with_logits, aten.softplus, aten.log_sigmoid_forward)
    return get_decompositions(contain_log1p) | {aten.log1p.default: _log1p, aten.addmm.default: _addmm}


def _compiled(
    graph: Any,
    live: Mapping[str, Tensor],
    baked: Mapping[str, Tensor],
    example: Sequence[Tensor],
    other: Sequence[Tensor],
    inductor: bool,
) -> Recording:
    """Compile a record. The graph is a module too, but no hook for the programs' modules must find it."""
    code = graph.code  # the compiler may change the graph
    if capture.captures_on(example[0].device):
        device = example[0].device
        operations = capture.on_device(graph, device).forward
        elsewhere = [tensor for tensor in live.values() if tensor.device != device]
        captured = CapturedFunction(operations, example)
        if differs := difference_of_capture(captured, operations, other):
            raise NotTraceable(f"the captured kernels and the recorded operations differ: {differs}")
        return Recording(code, live, baked, operations, captured, elsewhere)
    run = _with_inductor(graph, example) if inductor else graph.forward
    return Recording(code, live, baked, graph.forward, run)


def difference_of_capture(
    captured: Function, operations: Function, arguments: Sequence[Tensor]
) -> str | None:
    """Return how captured kernels differ from the operations that were captured, or None.

    If one call moves the random stream by as much as the other, their draws are the same, and each number
    must agree. Otherwise only means over many calls are compared.
    """
    found, moved = _moving(captured, arguments)
    expected, moved_by_operations = _moving(operations, arguments)
    if moved == moved_by_operations:
        return difference(found, expected)
    with torch.random.fork_rng(devices=_gpus()):
        torch.manual_seed(1)
        means = [_mean_and_error(run, arguments) for run in (captured, operations)]
    (mean, error), (other_mean, other_error) = means
    scale = (error.square() + other_error.square()).sqrt().clamp(min=1e-6 * other_mean.abs().max().item())
    z = (mean - other_mean).abs() / scale.clamp(min=1e-30)
    if (z.nan_to_num(nan=math.inf) > _LARGEST_Z).any():
        return f"the mean of result {int(z.argmax())} by {z.max().item():.3g} standard errors"
    return None


def _moving(function: Function, arguments: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the results of a function from a certain seed, and the state of the random stream after it."""
    device = arguments[0].device
    with torch.random.fork_rng(devices=_gpus()), torch.no_grad():
        torch.manual_seed(1)
        found = list(function(*arguments))
        state = streams(device, everywhere=False)[device.type]
    return found, state.tolist()


def _mean_and_error(function: Function, arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean over calls of each result's sum, and its standard error, on the CPU."""
    with torch.no_grad():
        sums = [
            torch.stack([result.double().sum() for result in function(*arguments)]) for _ in range(_RUNS)
        ]
    values = torch.stack(sums).cpu()
    return values.mean(0), values.std(0) / math.sqrt(_RUNS)


def _with_inductor(graph: Any, example: Sequence[Tensor]) -> Function:
    use_private_cache()
    # Not torch.compile: its guards and lookups at every call take as long as a small layer.
    compiled: Function = torch._inductor.compile(graph, list(example), options={"fallback_random": True})
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
    with torch.random.fork_rng(devices=_gpus()):
        torch.manual_seed(1)
        return list(function(*tensors))


def _gpus() -> Sequence[int]:
    """Return the GPUs whose random streams a seed sets."""
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


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
