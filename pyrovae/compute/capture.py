"""Capture the kernels of a function once on CUDA, and launch all of them together from then on.

A small model's step spends most of its time on launching kernels one by one. A CUDA graph launches them as
one. It knows addresses only: it reads its arguments where they lay at the capture, and writes its results
to where they lay. So arguments are copied into tensors that stay (*static inputs*), and a result must be
copied, or used up, before the next replay.

Random numbers: a replay draws from the device's stream as the kernels would. torch passes the stream's seed
and offset to each replay, and moves the offset on afterwards by what the captured kernels use ("CUDA
semantics", section "CUDA Graphs", in torch's manual; torch's tests hold replays against eager draws). So
each replay draws afresh, seeds and saved states work as without a capture, and a state that was read after
N replays continues with the draws of replay N + 1. The capture puts the stream back to where it was.

A kernel that Python launched with a number, or with a value from the CPU, keeps it forever. A copy from the
device to the CPU cannot be captured at all, and a capture that fails can harm the process. So both are
looked for beforehand: `on_device` reads the recorded operations, and the first call before the capture runs
with torch's check for operations that wait for the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pyrovae.compute.memory import is_out_of_memory
from pyrovae.compute.streams import set_streams, streams

Body = Callable[[], list[Tensor]]

aten = torch.ops.aten

_WARM_UPS = 3


class CaptureFailed(Exception):
    """Raised for a function whose kernels cannot be captured; the message says why."""


def captures_on(device: torch.device) -> bool:
    """Return whether functions are captured on this device."""
    return device.type == "cuda"


class Replay:
    """A function without arguments, whose kernels are captured when it is made.

    It reads tensors that stay where they are, and may change them in place. The calls before the capture
    change them too; the random stream is put back.

    Args:
        body: the function. It runs under `torch.no_grad`.
        device: the device of all tensors.

    Raises:
        CaptureFailed: the kernels cannot be captured. The memory that they took is free again.
        RuntimeError: there is not enough memory.
    """

    def __init__(self, body: Body, device: torch.device) -> None:
        before = streams(device, everywhere=False)
        try:
            with torch.no_grad():
                self._launch, self._results = kernels(body, device)
        finally:
            set_streams(before, device)

    def __call__(self) -> list[Tensor]:
        """Launch the kernels. The next call overwrites the results."""
        self._launch()
        return self._results


class CapturedFunction:
    """A function of tensors of fixed shapes, captured. Its results are copies, which the caller may keep.

    Args:
        function: the function. It returns a list of tensors.
        example: arguments of these shapes, on the device.

    Raises:
        CaptureFailed: the kernels cannot be captured.
        RuntimeError: there is not enough memory.
    """

    def __init__(self, function: Callable[..., list[Tensor]], example: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        self._replay = Replay(lambda: function(*self._inputs), example[0].device)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        copy_into(self._inputs, tensors)
        return [result.clone() for result in self._replay()]


def copy_into(static: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy the values of tensors into static ones of the same shapes."""
    if static:
        torch._foreach_copy_(list(static), list(tensors))


def kernels(body: Body, device: torch.device) -> tuple[Callable[[], None], list[Tensor]]:
    """Capture the kernels of a function, and return what launches them, and their results.

    Raises:
        CaptureFailed: they cannot be captured.
        RuntimeError: there is not enough memory.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    found: list[Any] = []
    with torch.cuda.device(device):
        try:
            # Libraries make their handles and workspaces in the first calls.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                with _no_waiting():
                    body()
                for _ in range(_WARM_UPS - 1):
                    body()
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads, of data loaders for example, may use the device meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    found.append(body())
                except Exception as error:  # the end of the capture would raise an error of its own
                    found.append(error.with_traceback(None))
                    raise
        except Exception as error:
            _clean_up(graph)
            reason = found[0] if found and isinstance(found[0], Exception) else error.with_traceback(None)
        else:
            return graph.replay, found[0]
    if is_out_of_memory(reason):
        raise reason
    text = str(reason).strip() or type(reason).__name__
    raise CaptureFailed(f"its kernels cannot be captured ({text.splitlines()[0]})")


def _clean_up(graph: torch.cuda.CUDAGraph) -> None:
    """Free the memory of a failed capture, and let the device's random stream be used again."""
    with suppress(Exception):
        graph.reset()
    torch.cuda.empty_cache()
    try:
        torch.rand(1, device="cuda")
    except RuntimeError:  # some versions of torch leave the stream marked as captured
        stream = torch.cuda.default_generators[torch.cuda.current_device()]
        stream.graphsafe_set_state(torch.Generator("cuda"))  # `Replay` then sets its state


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within the block, an operation that waits for the device raises an error, if torch can tell."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the check is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)


# The recorded operations


def on_device(graph: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Return a record whose operations can be captured: they run on the device alone, and do not wait.

    Tensors that the record copies from the CPU lie on the device from now on, with the values of now. What
    the record would check by a value, such as whether a matrix could be factorised, is left out.

    Args:
        graph: the record, from `make_fx`.
        device: the device.

    Raises:
        CaptureFailed: an operation draws random numbers on the CPU, copies values to it, or has a result
            whose size depends on values. The message names it.
    """
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    found = fx.GraphModule(graph, nodes)
    nodes = found.graph
    constants: dict[fx.Node, Any] = {}
    for node in list(nodes.nodes):
        if node.target is aten._linalg_check_errors.default:
            nodes.erase_node(node)
        elif node.op == "get_attr":
            tensor = getattr(found, str(node.target))
            if tensor.device != device:
                constants[node] = tensor.clone()
        elif node.op == "call_function":
            _check_size(node)
            if _is_elsewhere(node, device):
                constants[node] = _constant(node, constants, device)
            else:
                _move_inputs(found, node, constants, device)
    nodes.lint()
    found.recompile()
    return found


def _is_elsewhere(node: fx.Node, device: torch.device) -> bool:
    results = [value for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
    return any(result.device != device for result in results)


def _constant(node: fx.Node, constants: Mapping[fx.Node, Any], device: torch.device) -> Any:
    """Compute a value outside of the device that is the same in each run.

    Raises:
        CaptureFailed: it is a random number, or comes from the device.
    """
    name = _name(node)
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise CaptureFailed(
            f"the program draws random numbers outside of {device}, by `{name}`, and a graph would repeat "
            f"one draw forever: draw with device={str(device)!r}"
        )
    if any(each not in constants for each in node.all_input_nodes):
        raise CaptureFailed(f"the program copies values from {device} to the CPU, by `{name}`")
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: constants[each])
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _move_inputs(
    module: fx.GraphModule, node: fx.Node, constants: Mapping[fx.Node, Any], device: torch.device
) -> None:
    """Let an operation copy constants from the device. A number as an operand may stay on the CPU."""
    for each in [each for each in node.all_input_nodes if each in constants]:
        if node.target not in _COPIES and constants[each].dim() == 0:
            continue
        name = f"_on_device_{each.name}"
        module.register_buffer(name, constants[each].to(device))
        with node.graph.inserting_before(node):
            node.replace_input_with(each, node.graph.get_attr(name))


_COPIES = (aten._to_copy.default, aten.copy_.default, aten.copy.default)


def _check_size(node: fx.Node) -> None:
    tags = getattr(node.target, "tags", ())
    if torch.Tag.dynamic_output_shape not in tags and torch.Tag.data_dependent_output not in tags:
        return
    if node.target is aten.index.Tensor and not any(map(_is_mask, pytree.tree_leaves(node.args[1]))):
        return
    raise CaptureFailed(
        f"the program computes something whose size depends on values, by `{_name(node)}`: use torch.where "
        "instead of indexing by a mask"
    )


def _is_mask(index: Any) -> bool:
    value = index.meta.get("val") if isinstance(index, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0]
