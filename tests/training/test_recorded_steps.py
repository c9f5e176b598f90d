"""A recorded step is what the program is now: whatever Python changes between two epochs, a compiled run
computes what an eager one does, or goes on eagerly and says so.

The records run operation by operation here, which takes no compiler.
"""

import itertools
import random
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from training_helpers import same, snapshot, vae_with, without_seconds

from pyrovae.compute import compilation
from pyrovae.data import binarise
from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli
from pyrovae.objectives import FreeBits, SupervisedELBO
from pyrovae.schedules import linear_warm_up
from pyrovae.training import fit, recording, steps
from pyrovae.training import step as training_step
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = [pytest.mark.usefixtures("recorded"), pytest.mark.cpu]

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Scaled(torch.nn.Module):
    """A linear Gaussian model in 64-bit. Python decides the scale of x and the weight of z."""

    def __init__(self, factor=lambda: 1.0):
        super().__init__()
        self.factor = factor
        self.loc = torch.nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))
        self.width = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x):
        factor = self.factor()
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=factor):
                z = pyro.sample("z", dist.Normal(self.loc.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * self.loc, 1.0 + factor).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=self.factor()):
            pyro.sample("z", dist.Normal(x.sum(-1) * self.width, 0.5 + self.width**2))


def train(pair, **settings):
    """Train for 5 epochs of 4 steps, of which the last one is shorter."""
    settings = {"epochs": 5, "batch_size": 6, "progress": False, "device": "cpu"} | settings
    return fit(pair, X, **settings)


# What a user's code may change between two epochs


class Attribute:
    def __init__(self, ratio=2.0):
        self.value, self.ratio = 1.0, ratio

    def __call__(self):
        return self.value

    def change(self):
        self.value *= self.ratio


class NumPyScalar(Attribute):
    def change(self):
        self.value = np.float64(self.value) * 2


class NewTensor(Attribute):
    def __init__(self, ratio=2.0):
        self.value, self.ratio = torch.tensor(1.0, dtype=torch.float64), ratio

    def change(self):
        self.value = self.value * self.ratio


class TensorInPlace(NewTensor):
    def change(self):
        self.value.mul_(self.ratio)


class Flag:
    on = False

    def __call__(self):
        return 3.0 if self.on else 1.0

    def change(self):
        self.on = not self.on


class GrowingList:
    def __init__(self):
        self.values = [1.0]

    def __call__(self):
        return sum(self.values)

    def change(self):
        self.values.append(0.5)


class EpochCounter:
    def __init__(self):
        self.epochs = 0

    def __call__(self):
        return 1 / (1 + self.epochs)

    def change(self):
        self.epochs += 1


def closure():
    value = 1.0

    def factor():
        return value

    def change():
        nonlocal value
        value += 0.7

    factor.change = change
    return factor


LEVEL = 1.0


class Global:
    def __init__(self):
        global LEVEL
        LEVEL = 1.0

    def __call__(self):
        return LEVEL

    def change(self):
        global LEVEL
        LEVEL += 0.4


CHANGES = {
    "an attribute": Attribute,
    "an attribute that hardly changes": partial(Attribute, 1 + 1e-8),
    "a NumPy scalar": NumPyScalar,
    "a new tensor": NewTensor,
    "a new tensor that hardly changes": partial(NewTensor, 1 + 1e-8),
    "a tensor changed in place": TensorInPlace,
    "a flag": Flag,
    "a list that grows": GrowingList,
    "a counter of epochs": EpochCounter,
    "a closure's variable": closure,
    "a global": Global,
}


class Scheduler:
    """What may stand where a learning-rate scheduler does: its steps are calls."""

    def __init__(self, action):
        self.action, self.steps = action, 0

    def step(self):
        self.steps += 1
        self.action(self.steps)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        """Do again what the steps before have done, as a user's own code must."""
        for _ in range(state["steps"]):
            self.step()


def by(hook, factor, epochs):
    """The setting that changes the factor after these epochs."""

    def change(epoch):
        if epoch in epochs:
            factor.change()

    if hook == "callback":
        return {"callbacks": [lambda state: change(state.epoch)]}
    return {"scheduler": lambda optimizer: Scheduler(change)}


def run(kind, hook, changed, compile, **settings):
    factor = CHANGES[kind]()
    pair = Scaled(factor)
    history = train(pair, compile=compile, **by(hook, factor, changed), **settings)
    return history["loss"], pair.state_dict()


def assert_close(one, other, rtol=1e-11):
    torch.testing.assert_close(one, other, rtol=rtol, atol=0.0)


def count_compilations(monkeypatch):
    """Note the graphs that are compiled. The record of an unchanged program is not compiled again."""
    made = []
    record = compilation.compile_function

    def spy(function, example, other, known=None):
        graph = record(function, example, other, known)
        made.extend([graph] if graph is not known else [])
        return graph

    monkeypatch.setattr(compilation, "compile_function", spy)
    return made


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_once_is_recorded_afresh(kind, monkeypatch):
    hook = ("callback", "scheduler")[list(CHANGES).index(kind) % 2]
    made = count_compilations(monkeypatch)
    compiled = run(kind, hook, {2}, "on")
    # The graph holds the tensor itself.
    assert len(made) == (1 if kind == "a tensor changed in place" else 2)
    eager = run(kind, hook, {2}, "off")
    assert_close(compiled, eager)
    unchanged = run(kind, hook, {}, "off")
    assert eager[0][:2] == unchanged[0][:2]
    assert abs(eager[0][2] / unchanged[0][2] - 1) > 1e-10


@pytest.mark.parametrize("kind", ["an attribute that hardly changes", "a new tensor"])
def test_what_changes_after_each_epoch_is_run_eagerly_from_the_third_change_on(kind):
    with pytest.warns(
        UserWarning, match="training from epoch 4 on runs without being compiled: .*again and again"
    ) as caught:
        compiled = run(kind, "callback", range(10), "on")
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the call of fit"
    assert_close(compiled, run(kind, "callback", range(10), "off"))


def test_a_record_may_be_renewed_after_each_ten_comparisons(monkeypatch):
    made = count_compilations(monkeypatch)
    flips = partial(run, "a flag", "callback", {1, 2, 13, 24}, epochs=25)
    compiled = flips("on")
    assert len(made) == 5
    assert_close(compiled, flips("off"))


def test_an_attribute_that_the_program_does_not_use_costs_no_new_record(monkeypatch):
    made = count_compilations(monkeypatch)
    pair = Scaled()
    pair.seen = 0

    def note(state):
        pair.seen += 1

    train(pair, compile="on", callbacks=[note])
    assert pair.seen == 5
    assert len(made) == 1


def test_an_objective_that_changes_is_recorded_afresh(monkeypatch):
    made = count_compilations(monkeypatch)

    def losses(compile):
        objective = FreeBits(0.5)

        def change(state):
            objective.nats = 0.5 if state.epoch < 3 else 2.0

        return train(Scaled(), compile=compile, objective=objective, callbacks=[change])["loss"]

    assert_close(losses("on"), losses("off"))
    assert len(made) == 2


def test_a_long_run_of_auto_follows_the_program_too(monkeypatch):
    monkeypatch.setattr(steps, "LONG_RUN", 20)
    made = count_compilations(monkeypatch)
    assert_close(
        run("an attribute", "scheduler", {1}, "auto"), run("an attribute", "scheduler", {1}, "off")
    )
    assert len(made) == 2


# When the two are compared


def spied_comparisons(monkeypatch, **settings):
    """The epochs before which the record was compared."""
    epochs, at = [], {}
    compare, is_stale = training_step.CompiledStep.compare, recording.Recorded.is_stale

    def note(step, epoch):
        at["epoch"] = epoch
        compare(step, epoch)

    def spy(recorded):
        epochs.append(at["epoch"])
        return is_stale(recorded)

    monkeypatch.setattr(training_step.CompiledStep, "compare", note)
    monkeypatch.setattr(recording.Recorded, "is_stale", spy)
    train(Scaled(), compile="on", **settings)
    return epochs


@pytest.mark.parametrize(
    "setting",
    [
        {"callbacks": [lambda state: None]},
        {"beta": lambda epoch: 1.0},
        {"weights": {"x": linear_warm_up(2)}},
        {"scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=3)},
        {"transform": lambda x: x},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_it_is_compared_before_each_epoch_where_a_users_code_runs(setting, monkeypatch):
    assert spied_comparisons(monkeypatch, **setting) == [1, 2, 3, 4]


def test_else_at_an_epochs_start_after_so_many_steps(monkeypatch):
    monkeypatch.setattr(training_step, "STEPS_BETWEEN", 10)
    # 4 steps are an epoch: 10 have been taken before epoch 3, 20 before epoch 5, 30 before epoch 8.
    assert spied_comparisons(monkeypatch, epochs=10, weights={"x": 2.0}, beta=0.5) == [3, 5, 8]


def test_a_change_without_any_hook_is_found_then(monkeypatch):
    monkeypatch.setattr(training_step, "STEPS_BETWEEN", 8)
    made = count_compilations(monkeypatch)

    class Sgd(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == 8:
                factor.change()
            return loss

    losses = []
    for compile in ("on", "off"):
        factor = Attribute()
        sgd = partial(Sgd, lr=0.01)
        losses.append(train(Scaled(factor), compile=compile, optimizer=sgd)["loss"])
    assert_close(*losses)
    assert len(made) == 2


# Resumed runs


@pytest.mark.parametrize(
    ("changed", "interruptions"),
    [({2}, (2,)), ({1, 2, 3, 4, 5}, (1, 3))],
    ids=["once", "always"],
)
def test_a_resumed_run_takes_the_same_path(changed, interruptions, tmp_path):
    def quietly(folder, **others):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="training .*runs without being compiled")
            factor = Attribute()
            pair = Scaled(factor)
            settings = by("scheduler", factor, changed) | others
            history = train(pair, compile="on", folder=tmp_path / folder, **settings)
        return pair.state_dict(), without_seconds(history), load_checkpoint(tmp_path / folder)["step"]

    state, history, step = quietly("whole")
    assert bool(step["reason"]) == (len(changed) > 2)
    for epochs in interruptions:
        quietly(f"after {epochs}", epochs=epochs)
        state_, history_, step_ = quietly(f"after {epochs}", resume=True)
        assert same(state, state_)
        assert (history, step) == (history_, step_)


def test_a_run_that_gave_its_record_up_stays_eager_when_it_is_resumed(tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="training from epoch 4 on"):
        run("an attribute", "callback", range(10), "on", folder=tmp_path)
    made = count_compilations(monkeypatch)
    with pytest.warns(UserWarning, match="training runs without being compiled: .*again and again"):
        run("an attribute", "callback", (), "on", folder=tmp_path, resume=True, epochs=7)
    assert not made


def test_a_checkpoint_without_a_steps_state_is_resumed(tmp_path):
    train(Scaled(), epochs=2, folder=tmp_path)
    assert load_checkpoint(tmp_path)["step"] is None
    train(Scaled(), epochs=3, folder=tmp_path, resume=True, compile="on")
    assert load_checkpoint(tmp_path)["step"]["reason"] is None


# What the comparison leaves alone


class Normalised(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.out_shape = network, network.out_shape
        self.normalisation = torch.nn.BatchNorm1d(*network.out_shape)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        return torch.nn.functional.dropout(self.normalisation(self.network(x)), 0.3, self.training)


def uncompared(monkeypatch):
    monkeypatch.setattr(training_step.CompiledStep, "compare", lambda step, epoch: None)


def test_a_vaes_numbers_and_draws_are_those_of_a_run_without_comparisons(binary_images, monkeypatch):
    made = count_compilations(monkeypatch)

    def trained():
        torch.manual_seed(0)
        vae = vae_with(Bernoulli)
        vae.posterior.network = Normalised(vae.posterior.network)
        history = fit(
            vae,
            binary_images,
            epochs=4,
            batch_size=10,
            progress=False,
            device="cpu",
            compile="on",
            beta=linear_warm_up(3),
            transform=binarise,
            optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        )
        calls = vae.posterior.network.calls.item()
        return snapshot(vae), without_seconds(history)["rows"], calls, torch.rand(3)

    streams = random.getstate(), np.random.get_state()[1].tolist()
    state, rows, calls, drawn = trained()
    assert len(made) == 1
    assert streams == (random.getstate(), np.random.get_state()[1].tolist())
    uncompared(monkeypatch)
    state_, rows_, calls_, drawn_ = trained()
    assert same(state, state_)
    assert (rows, calls) == (rows_, calls_)
    assert torch.equal(drawn, drawn_)


def test_an_m2s_too(make_m2, binary_images, classes, monkeypatch):
    made = count_compilations(monkeypatch)
    y = classes.clone()
    y[12:] = -1

    def trained():
        m2 = make_m2()
        history = fit(
            m2,
            binary_images.double(),
            y,
            epochs=4,
            batch_size=6,
            progress=False,
            device="cpu",
            compile="on",
            objective=SupervisedELBO(0.1),
            weights={"y": linear_warm_up(2, end=3.0)},
        )
        return snapshot(m2), without_seconds(history)["rows"]

    state, rows = trained()
    assert len(made) == 1
    uncompared(monkeypatch)
    state_, rows_ = trained()
    assert same(state, state_)
    assert rows == rows_


def test_a_program_that_changes_its_parameters_does_so_once_a_step():
    class Counted(Scaled):
        def __init__(self):
            super().__init__()
            self.steps = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

        def guide(self, x):
            self.steps += 1
            super().guide(x)

    def steps(compile):
        pair = Counted()
        train(pair, compile=compile, callbacks=[lambda state: None])
        return pair.steps.item()

    assert steps("on") == steps("off")


def test_what_a_program_stores_of_each_minibatch_is_no_counter(monkeypatch):
    made = count_compilations(monkeypatch)

    class Stores(Scaled):
        def guide(self, x):
            self.seen, self.hidden = len(x), x.sum(-1) * self.width
            super().guide(x)

    def losses(compile):
        return train(Stores(), compile=compile, callbacks=[lambda state: None])["loss"]

    assert_close(losses("on"), losses("off"))
    assert len(made) == 1


# What is not recorded at all


class Skips:
    """A layer that is skipped at random, with a draw of this kind."""

    def __init__(self, draw, probability=0.1):
        self.draw, self.probability = draw, probability

    def __call__(self):
        return 0.5 if self.draw() < self.probability else 1.0


DRAWS = {
    "random.random": (lambda: random.random(), r"Python's `random`"),
    "random.choice": (lambda: random.choice([0.5, 0.7]), r"Python's `random`"),
    "np.random.rand": (lambda: np.random.rand(), r"`numpy\.random`"),
    "np.random.choice": (lambda: np.random.choice([0.5, 0.7]), r"`numpy\.random`"),
}


@contextmanager
def seeded_python(seed):
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_is_skipped_at_random_is_refused_under_each_seed(seed):
    with (
        seeded_python(seed),
        pytest.raises(InputError, match=r"draws from Python's `random`.*compile='off'"),
    ):
        train(Scaled(Skips(random.random)), compile="on", epochs=1)


@pytest.mark.parametrize("name", DRAWS)
def test_a_program_that_draws_by_python_or_numpy_runs_eagerly(name, monkeypatch):
    draw, reason = DRAWS[name]
    monkeypatch.setattr(steps, "LONG_RUN", 8)

    def trained(compile):
        with seeded_python(1):
            losses = train(Scaled(Skips(draw)), compile=compile, epochs=2)["loss"]
            return losses, random.random(), np.random.rand()

    with pytest.warns(UserWarning, match=f"runs without being compiled: .*draws from {reason}"):
        compiled = trained("auto")
    assert compiled == trained("off")


def test_draws_that_begin_later_end_the_record():
    def losses(compile):
        factor = Attribute()

        def begin(state):
            if state.epoch == 2:
                pair.factor = Skips(random.random)

        with seeded_python(0):
            pair = Scaled(factor)
            return train(pair, compile=compile, callbacks=[begin])["loss"]

    with pytest.warns(UserWarning, match="training from epoch 3 on .*draws from Python's `random`"):
        compiled = losses("on")
    assert_close(compiled, losses("off"))


CALLS = 0


class CountsCalls:
    """A program that does something else after many calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return 1.0 if self.calls < 50 else 2.0


class CountsInItsClass:
    calls = 0

    def __call__(self):
        type(self).calls += 1
        return 1.0 if self.calls < 50 else 2.0


def counts_in_a_global():
    global CALLS
    CALLS += 1
    return 1.0 if CALLS < 50 else 2.0


def counts_in_a_closure():
    calls = 0

    def factor():
        nonlocal calls
        calls += 1
        return 1.0 if calls < 50 else 2.0

    return factor


def counts_in_an_iterator():
    numbers = itertools.count()
    return lambda: 1.0 if next(numbers) < 50 else 2.0


@pytest.mark.parametrize(
    ("factor", "named"),
    [
        (CountsCalls(), r"`model\.factor\.calls`"),
        (CountsInItsClass(), "`calls`"),
        (counts_in_a_global, "`CALLS`"),
        (counts_in_a_closure(), "`calls`"),
        (counts_in_an_iterator(), "`numbers`"),
        (Skips(random.Random(0).random, 1e-9), r"`model\.factor\.draw`"),
        (Skips(np.random.default_rng(0).random, 1e-9), r"`model\.factor\.draw`"),
    ],
    ids=["attribute", "class", "global", "closure", "iterator", "random.Random", "numpy Generator"],
)
def test_a_program_that_counts_its_runs_is_refused(factor, named):
    with pytest.raises(
        InputError, match=f"cannot be compiled: the program changes {named} each time it runs"
    ):
        train(Scaled(factor), compile="on", epochs=1)


def test_a_generator_of_torchs_is_refused():
    generator = torch.Generator().manual_seed(0)
    factor = partial(torch.rand, (), generator=generator, dtype=torch.float64)
    with pytest.raises(InputError, match=r"the program changes `model\.factor\.generator` each time"):
        train(Scaled(factor), compile="on", epochs=1)


def test_two_runs_that_differ_end_the_record():
    """A decision that no look at the program finds, in this case that of a running generator function."""
    begun = []

    def decisions():
        while not begun:
            yield 1.0
        yield from itertools.count(2.0)

    draws = decisions()
    pair = Scaled(lambda: next(draws))
    with pytest.warns(UserWarning, match="epoch 2 on .*two runs of the program on the same minibatch"):
        train(pair, compile="on", callbacks=[begun.append])


def test_a_part_that_torch_compiled_is_refused_clearly():
    pair = Scaled()
    pair.part = torch.compile(torch.nn.Identity(), backend="eager")
    pair.factor = lambda: pair.part(torch.ones((), dtype=torch.float64))
    with pytest.raises(InputError, match=r"training cannot be compiled: .*dynamo.*compile='off'"):
        train(pair, compile="on", epochs=1)


@pytest.mark.parametrize(
    ("found", "expected", "text"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, 2.0], [1.0, 2.01], "result 0 by 0.01"),
        ([float("nan"), 1.0], [float("nan"), 1.0], None),
        ([float("inf"), 1.0], [float("inf"), 1.0], None),
        ([float("inf"), 1.0], [float("inf"), 2.0], "result 0 by 1"),
        ([float("nan"), 1.0], [2.0, 1.0], "result 0 by nan"),
        ([1.0], [1.0, 2.0], "shapes"),
        ([], [], None),
    ],
)
def test_results_that_agree_and_differ(found, expected, text):
    said = compilation.difference([torch.tensor(found)], [torch.tensor(expected)])
    assert said is None if text is None else text in said


# What joins or leaves the training on the way


class Joins(Scaled):
    """A second latent, a frozen offset and a late parameter, each after a flag is set."""

    def __init__(self):
        super().__init__()
        self.latent, self.late = False, False
        self.offset = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64), requires_grad=False)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc.new_zeros(()), 1.0))
            if self.latent:
                pyro.sample("z2", dist.Normal(self.loc.new_zeros(()), 1.0))
            mean = z.unsqueeze(-1) * self.loc + self.offset
            if self.late:
                mean = mean + pyro.param("late", lambda: torch.ones(2, dtype=torch.float64))
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) * self.width, 0.5 + self.width**2))
            if self.latent:
                pyro.sample("z2", dist.Normal(x.sum(-1) * self.width, 0.7))


JOINING = {
    "a latent": lambda pair: setattr(pair, "latent", True),
    "a frozen parameter": lambda pair: pair.offset.requires_grad_(True),
    "a late parameter": lambda pair: setattr(pair, "late", True),
    "a parameter that is frozen": lambda pair: pair.loc.requires_grad_(False),
    "a parameter in another's place": lambda pair: setattr(
        pair, "loc", torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    ),
}


@pytest.mark.parametrize("kind", JOINING)
def test_what_joins_or_leaves_is_recorded_afresh(kind, monkeypatch, param_store):
    made = count_compilations(monkeypatch)

    def trained(compile):
        param_store.clear()
        pair = Joins()
        change = [lambda state: JOINING[kind](pair) if state.epoch == 2 else None]
        history = train(pair, compile=compile, callbacks=change, beta=0.5)
        return history["loss"], {
            **pair.state_dict(),
            **{name: p.detach() for name, p in param_store.items()},
        }

    assert_close(trained("on"), trained("off"))
    assert len(made) == 2


def test_a_parameter_that_has_joined_is_recorded_when_the_run_is_resumed(tmp_path, param_store):
    def trained(folder, **settings):
        param_store.clear()
        pair = Joins()
        joining = Scheduler(lambda step: setattr(pair, "late", step >= 2))
        adam = partial(torch.optim.Adam, lr=0.01)
        settings = {"scheduler": lambda optimizer: joining, "optimizer": adam} | settings
        history = train(pair, compile="on", folder=tmp_path / folder, **settings)
        return history["loss"], {
            **pair.state_dict(),
            **{name: p.detach() for name, p in param_store.items()},
        }

    losses, state = trained("whole")
    trained("parts", epochs=3)
    losses_, state_ = trained("parts", resume=True)
    assert losses == losses_
    assert same(state, state_)


def test_a_parameter_of_short_minibatches_alone_costs_no_new_record(monkeypatch, param_store, tmp_path):
    made = count_compilations(monkeypatch)

    class ForFew(Scaled):
        def guide(self, x):
            shift = pyro.param("shift", lambda: torch.ones((), dtype=torch.float64)) if len(x) < 6 else 0.0
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.sum(-1) * self.width + shift, 0.5))

    def trained(**settings):
        param_store.clear()
        pair = ForFew()
        losses = train(pair, optimizer=partial(torch.optim.SGD, lr=0.01), **settings)["loss"]
        return losses, {**pair.state_dict(), "shift": param_store["shift"].detach()}

    compiled = trained(compile="on")
    assert len(made) == 1
    assert_close(compiled, trained(compile="off"))
    trained(compile="on", epochs=2, folder=tmp_path)
    losses, state = trained(compile="on", folder=tmp_path, resume=True)
    assert losses == compiled[0]
    assert same(state, compiled[1])
