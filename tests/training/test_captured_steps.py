"""A step that is captured as a whole does what an eager one does.

The kernels are recorded operations here, which run on the CPU. They keep what a CUDA graph would keep.
"""

import gc
import importlib
import weakref
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from training_helpers import same, snapshot, without_seconds

from pyrovae.compute import capture
from pyrovae.data import binarise
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.schedules import cosine_decay, linear_warm_up
from pyrovae.training import captured, fit, steps
from pyrovae.training.checkpoints import load_checkpoint
from pyrovae.training.optimizers import as_captured, is_capturable
from pyrovae.training.step import EagerStep

pytestmark = pytest.mark.usefixtures("replayed")

fused = partial(torch.optim.Adam, fused=True)
X = torch.randn(26, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Noisy(torch.nn.Module):
    """z ~ N(w, 1), x ~ N(z, s^2), y ~ Cat(z): with classes and without."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.log_scale.exp()).to_event(1), obs=x)
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=z), obs=y)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + self.loc, 1.0).to_event(1))


def train(x=X, compile="on", **settings):
    """Train for 3 epochs of 3 minibatches, of which the last one is shorter."""
    torch.manual_seed(0)
    model = Noisy()
    settings = {"epochs": 3, "batch_size": 10, "optimizer": partial(fused, lr=0.01)} | settings
    history = fit(model, x, compile=compile, progress=False, device="cpu", **settings)
    return snapshot(model), without_seconds(history)


def assert_alike(one, other, rtol=1e-10):
    torch.testing.assert_close(one[0], other[0], rtol=rtol, atol=rtol)
    rows, other_rows = one[1]["rows"], other[1]["rows"]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, rel=rtol, abs=rtol)


@pytest.fixture
def replays(monkeypatch):
    """How often each captured step is replayed."""
    counts = []

    class Spy(capture.Replay):
        def __init__(self, *args):
            super().__init__(*args)
            counts.append(0)
            self.number = len(counts) - 1

        def __call__(self):
            counts[self.number] += 1
            return super().__call__()

    monkeypatch.setattr(captured, "Replay", Spy)
    return counts


SETTINGS = {
    "clipping, schedules of weights": {
        "clip_norm": 0.5,
        "beta": linear_warm_up(2),
        "weights": {"x": linear_warm_up(2, end=1.5)},
    },
    "a schedule of the rate, validation": {
        "optimizer": fused,
        "learning_rate": cosine_decay(3, 0.05),
        "validation": X[:7] + 1,
        "patience": 1,
    },
    "a scheduler, full minibatches only": {
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.3),
        "batch_size": 13,
        "callbacks": [lambda state: state.log("epochs", state.epoch)],
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_trains_as_an_eager_step_does(name, replays):
    settings = SETTINGS[name]
    found = train(**settings)
    assert_alike(found, train(compile="off", **settings), 1e-6)  # Adam's rate has 32 bits in a capture
    # The first step of the run makes the optimiser's state, and the last one of an epoch is short.
    assert replays == [2 * 3 - 1]


OPTIMIZERS = [
    partial(torch.optim.Adam, fused=True, weight_decay=0.1),
    partial(torch.optim.Adam, amsgrad=True),
    partial(torch.optim.AdamW, foreach=True),
    torch.optim.Adamax,
    partial(torch.optim.Adamax, foreach=True),
    partial(torch.optim.NAdam, decoupled_weight_decay=True),
    partial(torch.optim.NAdam, foreach=True),
    torch.optim.RAdam,
    partial(torch.optim.RAdam, foreach=True),
]


@pytest.fixture
def capturable_on_cpu(monkeypatch):
    """Let torch's optimisers run on the CPU as they would under a capture."""
    for name in ("adam", "adamax", "nadam", "radam"):
        module = importlib.import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_optimisers_step_in_a_capture_as_they_do_elsewhere(make, capturable_on_cpu):
    rates = [0.1, 0.1, 0.02, 0.3, 0.01, 0.2]
    found, expected = ([torch.arange(3.0) + 1, torch.ones(2)] for _ in range(2))
    inside, outside = make(found), make(expected)
    assert is_capturable(inside)

    def step(optimizer, parameters):
        for parameter in parameters:
            parameter.grad = parameter**2 - 1
        optimizer.step()
        return [parameters[0].sum()]

    inside.param_groups[0]["lr"] = rates[0]
    with as_captured(inside):
        step(inside, found)  # makes the state
    static = [torch.tensor(0.0)]
    before = [(tensor, tensor.clone()) for tensor in (*found, *tensors_in(inside))]
    with as_captured(inside, static):
        replay = capture.Replay(partial(step, inside, found), torch.device("cpu"))
    for tensor, value in before:
        tensor.copy_(value)
    for number, rate in enumerate(rates):
        outside.param_groups[0]["lr"] = rate
        step(outside, expected)
        if number:
            static[0].fill_(rate)
            replay()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    settings = inside.param_groups[0]
    assert (settings["lr"], settings["capturable"]) == (rates[0], False), "what others see stays plain"


def tensors_in(optimizer):
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in kept if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS])
def test_others_cannot_be_captured(make):
    assert not is_capturable(make([torch.ones(2)]))


def test_else_the_capture_ends_at_the_gradients(replays, monkeypatch):
    optimizer = partial(torch.optim.LBFGS, lr=0.1, max_iter=3)
    calls = []
    call = capture.CapturedFunction.__call__

    def spy(self, *tensors):
        calls.append(tensors)
        return call(self, *tensors)

    monkeypatch.setattr(capture.CapturedFunction, "__call__", spy)
    assert_alike(train(optimizer=optimizer), train(compile="off", optimizer=optimizer))
    assert len(calls) >= 6
    assert not replays


def test_transforms_and_two_parts_of_data_are_inside(replays):
    y = torch.arange(26) % 3
    y[14:] = -1
    settings = {
        "y": y,
        "batch_size": 5,
        "epochs": 2,
        "transform": binarise,
        "weights": {"y": linear_warm_up(2, end=3.0)},
    }
    x = X.sigmoid()
    assert_alike(train(x, **settings), train(x, compile="off", **settings), 1e-6)
    assert replays == [3]


class Stronger:
    """A transform that the epochs change."""

    strength = 1.0

    def __call__(self, x):
        return x * self.strength + torch.randn_like(x) * 0.1


def reads_a_value(x):
    return x * 2 if x.sum().item() > 1e9 else x


def test_a_transform_that_cannot_be_recorded_is_applied_before(replays):
    settings = {"transform": reads_a_value, "epochs": 2}
    assert_alike(train(**settings), train(compile="off", **settings), 1e-6)
    assert replays == [3]


def test_a_transform_that_changes_is_recorded_afresh(replays):
    def run(compile):
        transform = Stronger()

        def change(state):
            transform.strength = 1 + 1e-8 if state.epoch < 2 else 0.5

        return train(transform=transform, callbacks=[change], compile=compile)

    assert_alike(run("on"), run("off"), 1e-6)
    assert replays == [1, 2, 2]


def test_data_outside_of_the_memory_are_copied_in(replays, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = train(stored)
    assert_alike(found, train(stored, compile="off"), 1e-6)
    assert replays == [5]


def test_what_the_kernels_know_is_looked_at_before_each_epoch(replays):
    """A scheduler changes betas, and a callback puts a parameter's values elsewhere."""

    def elsewhere(state):
        noisy = state.pair.model.__self__
        if state.epoch == 2:
            noisy.loc.data = noisy.loc.data + 0.5

    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=10)
    for settings, expected in (
        ({"callbacks": [elsewhere]}, [3, 2]),
        ({"scheduler": one_cycle}, [1, 2, 2]),
    ):
        replays.clear()
        assert_alike(train(**settings), train(compile="off", **settings), 1e-6)
        assert replays == expected


def test_what_is_frozen_on_the_way(replays):
    def freeze(state):
        state.pair.model.__self__.log_scale.requires_grad_(state.epoch != 1)

    settings = {"callbacks": [freeze], "epochs": 3}
    assert_alike(train(**settings), train(compile="off", **settings), 1e-6)
    assert len(replays) == 3


def test_the_random_stream_is_where_it_was():
    x = torch.rand(3, dtype=torch.float64)

    def body():
        return [x + torch.randn(3, dtype=torch.float64)]

    torch.manual_seed(3)
    expected = [body()[0] for _ in range(2)]
    torch.manual_seed(3)
    replay = capture.Replay(body, torch.device("cpu"))
    found = [replay()[0].clone() for _ in range(2)]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1]), "each replay draws afresh"


def test_a_resumed_run_is_the_same_bit_for_bit_from_plain_checkpoints(tmp_path, capturable_on_cpu):
    make = partial(torch.optim.Adam, lr=torch.tensor(0.01), capturable=True)
    settings = {"transform": Stronger(), "optimizer": make, "validation": X[:5]}
    state, history = train(folder=tmp_path / "whole", **settings)
    train(folder=tmp_path / "parts", **settings | {"epochs": 1})
    saved = load_checkpoint(tmp_path / "parts")["optimizer"]
    assert isinstance(saved["param_groups"][0]["lr"], float)
    assert {float(each["step"]) for each in saved["state"].values()} == {3.0}
    state_, history_ = train(folder=tmp_path / "parts", resume=True, **settings)
    assert same(state, state_)
    assert history == history_
    eager, _ = train(folder=tmp_path / "parts", resume=True, compile="off", **settings | {"epochs": 4})
    whole, _ = train(compile="off", **settings | {"epochs": 4})
    torch.testing.assert_close(eager, whole, rtol=1e-5, atol=1e-8)


def test_what_is_not_finite_is_found():
    def spoil(state):
        state.pair.model.__self__.log_scale.data.fill_(-600.0)

    with pytest.raises(NonFiniteError, match=r"loss of step 3.*site 'x'"):
        train(callbacks=[spoil])


def broken(body, device):
    raise capture.CaptureFailed("its kernels cannot be captured (operation not permitted)")


def test_a_capture_that_fails_is_said_in_one_line(monkeypatch):
    eager = train(compile="off")
    with monkeypatch.context() as at_once:
        at_once.setattr(capture, "kernels", broken)
        message = r"training cannot be compiled: its kernels .*not permitted\)\. Use compile='off'"
        with pytest.raises(InputError, match=message):
            train()
    kernels, calls = capture.kernels, []

    def later(body, device):
        calls.append(body)
        if len(calls) == 1:  # the gradients alone
            return kernels(body, device)
        body()
        return broken(body, device)

    monkeypatch.setattr(capture, "kernels", later)
    with pytest.warns(UserWarning, match="^training runs without being compiled: its kernels") as caught:
        found = train()
    assert len(caught) == 1
    assert_alike(found, eager, 1e-6)


def test_a_captured_step_is_freed_when_the_run_ends(monkeypatch):
    """Its memory on a GPU is, then, without waiting for Python's garbage collection."""
    made = []

    class Noted(capture.Replay):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr(capture, "Replay", Noted)
    monkeypatch.setattr(captured, "Replay", Noted)
    gc.disable()
    try:
        train(epochs=1)
        assert len(made) == 2
        assert [each() for each in made] == [None, None]
    finally:
        gc.enable()


def test_auto_captures_more_than_500_full_minibatches(monkeypatch):
    monkeypatch.setattr(steps, "LONG_CAPTURED_RUN", 5)
    kinds = []

    def spy(*args):
        kinds.append("captured")
        return EagerStep(*args[:-1])

    monkeypatch.setattr(steps, "CapturedStep", spy)
    for settings, number in (({"epochs": 2}, 0), ({"epochs": 3}, 1), ({"epochs": 3, "batch_size": 26}, 1)):
        train(compile="auto", **settings)  # two of an epoch's three are full, or its only one
        assert len(kinds) == number
