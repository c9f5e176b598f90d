"""What may be captured, what is said of the rest, and that captured functions compute and draw the same.

Devices are fake, or kernels are recorded operations on the CPU.
"""

import math
import re
from functools import partial

import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.compute import capture
from pyrovae.compute.capture import CapturedFunction, CaptureFailed, on_device
from pyrovae.compute.compilation import (
    NotTraceable,
    Recording,
    compile_function,
    decompositions,
    difference_of_capture,
)
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood

CPU = torch.device("cpu")


def recorded_on_gpu(function):
    """Record a function of a fake tensor on a GPU, and make the record fit for a capture."""
    return on_device(make_fx(function)(torch.zeros(3, 3, device=DEVICE)), DEVICE)


def draws(x):
    return [x * torch.rand(3)[0]]


def draws_and_moves(x):
    return [x + torch.randn(3).to(DEVICE)]


def leaves(x):
    return [x * x.cpu().sum()]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (draws, r"draws random numbers outside of cuda:0, by `rand`.* draw with device='cuda:0'"),
        (draws_and_moves, r"draws random numbers outside of cuda:0, by `randn`"),
        (leaves, "copies values from cuda:0 to the CPU, by `_to_copy`"),
    ],
)
def test_what_a_capture_would_freeze_or_cannot_hold_is_named(function, message):
    with fake_gpu(), pytest.raises(CaptureFailed, match=message):
        recorded_on_gpu(function)


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda x: [x[x > 0].sum()], "index"), (lambda x: [x.nonzero().sum()], "nonzero")],
)
def test_sizes_that_depend_on_values_are_named(function, name):
    graph = make_fx(function)(torch.ones(3))
    with pytest.raises(CaptureFailed, match=f"size depends on values, by `{name}`: use torch.where"):
        on_device(graph, CPU)
    assert on_device(make_fx(lambda x: [x[torch.tensor([1, 0])]])(torch.ones(3)), CPU)


def test_a_tensor_elsewhere_is_looked_at_since_a_capture_keeps_its_values():
    """A temperature on the CPU, for example, by which a program on a GPU divides."""
    temperature = torch.tensor(2.0)
    live, double = {"temperature": temperature}, lambda x: [2 * x]
    recording = Recording("", live, {}, double, double, frozen=[temperature])
    assert recording.is_current
    temperature.mul_(2)
    assert not recording.is_current
    with fake_gpu():
        kept = torch.zeros((), device="cpu")
        assert recorded_on_gpu(lambda x: [x / kept])(torch.ones(3, 3, device=DEVICE))[0].device == DEVICE


def test_constants_are_copied_once():
    with fake_gpu():
        table = torch.arange(3)
        graph = recorded_on_gpu(lambda x: [x[:, (table + 1).to(DEVICE) % 3]])
        copies = [node for node in graph.graph.nodes if node.target is torch.ops.aten._to_copy.default]
        assert [each.op for node in copies for each in node.all_input_nodes] == ["get_attr"]
        assert DEVICE in {buffer.device for buffer in graph.buffers()}
        assert graph(torch.zeros(3, 3, device=DEVICE))[0].device == DEVICE


def test_the_check_of_a_factorisation_is_left_out():
    matrix = torch.eye(2) * 4
    graph = make_fx(lambda x: [torch.linalg.cholesky(x)])(matrix)
    assert "check_errors" in graph.code
    found = on_device(graph, CPU)
    assert "_linalg_check_errors" not in found.code
    assert torch.equal(found(matrix)[0], matrix / 2)
    assert "check_errors" in graph.code, "the record itself stays"


def test_results_of_a_captured_function_outlive_the_next_call(replayed):
    weight = torch.ones(2)
    double = compile_function(lambda x: [2 * x + weight], [torch.ones(2)], [torch.zeros(2)])
    assert double.is_captured
    first = double(torch.tensor([1.0, 2.0]))[0]
    second = double(torch.tensor([3.0, 4.0]))[0]
    assert (first.tolist(), second.tolist()) == ([3, 5], [7, 9])
    weight.zero_()
    assert double(torch.ones(2))[0].tolist() == [2, 2]
    double.release()
    assert not double.is_captured
    assert double(torch.ones(2))[0].tolist() == [2, 2]


def noisy(x, scale=1.0, calls=1):
    for _ in range(calls):
        noise = torch.randn(4)
    return [x.sum() + scale * noise.mean(), noise]


@pytest.mark.parametrize(
    ("captured", "message"),
    [
        (noisy, None),
        (partial(noisy, scale=1.01), "result 0 by 0.0"),
        (partial(noisy, calls=2), None),  # other draws, as if a capture used more of the stream
        (partial(noisy, scale=30.0, calls=2), None),  # the mean is the same
        (
            lambda x: [value + 1 for value in noisy(x, calls=2)],
            "result . by .* standard errors",
        ),
        (lambda x: [value * math.nan for value in noisy(x, calls=2)], "the mean of result"),
    ],
)
def test_draws_are_compared_one_by_one_where_they_are_the_same_and_else_on_average(captured, message):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    differs = difference_of_capture(captured, noisy, [torch.ones(3)])
    assert torch.equal(torch.get_rng_state(), before)
    assert (differs is None) == (message is None)
    assert re.search(message or "None", str(differs))


def test_a_capture_that_computes_something_else_is_not_used(replayed, monkeypatch):
    kernels = capture.kernels

    def wrong(body, device):
        launch, results = kernels(body, device)

        def launched():
            launch()
            results[0].add_(0.1)

        return launched, results

    monkeypatch.setattr(capture, "kernels", wrong)
    with pytest.raises(NotTraceable, match=r"the captured kernels and .* differ: result 0"):
        compile_function(lambda x: [x + 1], [torch.ones(2)], [torch.zeros(2)])


@pytest.mark.filterwarnings("ignore:k-hat")
def test_a_captured_evaluation_is_the_uncaptured_one(make_vae, binary_images, replayed):
    estimate = partial(marginal_likelihood, make_vae().double(), binary_images.double(), num_samples=300)
    found, expected = estimate(compile="on"), estimate(compile="off")
    torch.testing.assert_close(found.log_px, expected.log_px, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.datum_elbo, expected.datum_elbo, rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore:k-hat")
def test_chunks_are_halved_until_their_capture_fits(make_vae, binary_images, replayed, monkeypatch):
    """And the evaluation goes on without a capture where it fails for another reason."""
    vae, kernels, tried = make_vae().double(), capture.kernels, []
    estimate = partial(marginal_likelihood, vae, binary_images.double(), num_samples=64, seed=3)
    expected = estimate(compile="off")

    def within(body, device):
        tried.append(len(body()[0]))
        if tried[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return kernels(body, device)

    monkeypatch.setattr(capture, "kernels", within)
    found = estimate(compile="on")
    assert tried == [64, 32, 16]
    assert (found.mean - expected.mean) == pytest.approx(0, abs=0.5)

    def broken(body, device):
        raise CaptureFailed("its kernels cannot be captured (operation not permitted)")

    monkeypatch.setattr(capture, "kernels", broken)
    with pytest.raises(InputError, match=r"the evaluation cannot be compiled: its kernels .*compile='off'"):
        estimate(compile="on")


def test_a_captured_function_keeps_arguments_of_its_own(replayed):
    x = torch.ones(2)
    function = CapturedFunction(lambda x: [x * 2], [x])
    function(torch.zeros(2))
    assert x.tolist() == [1, 1]


def test_draws_that_read_their_arguments_are_replaced_by_the_same_draws(replayed):
    weights, mean, scale = torch.rand(6, 5), torch.rand(4, 1), torch.rand(5)

    def function(weights, mean, scale):
        return [
            torch.multinomial(weights, 1, replacement=True).double(),
            torch.multinomial(weights, 3).double(),
            torch.normal(mean, scale),
            torch.normal(0.3, scale),
            torch.normal(mean),
        ]

    arguments = (weights, mean, scale)
    graph = compile_function(function, arguments, [each.flip(0) for each in arguments])
    torch.manual_seed(3)
    expected = function(*arguments)
    torch.manual_seed(3)
    found = graph(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    code = make_fx(function, decompositions(arguments))(*arguments).code
    assert "aten.multinomial" not in code
    assert "aten.normal." not in code
