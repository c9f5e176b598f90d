"""Threads take turns: what each leaves behind, and what it finds when it comes back."""

import copy
import random
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from torch import nn

from pyrovae import fit
from pyrovae.compute import turns
from pyrovae.compute.devices import seeded
from pyrovae.compute.turns import alone, give_way, kept, reentered
from pyrovae.errors import InputError
from pyrovae.evaluation import active_units, inference_gaps, kl_decomposition, marginal_likelihood
from pyrovae.generation import latent_means, sample_images
from pyrovae.programs import Pair
from pyrovae.programs.modes import evaluating, in_training
from pyrovae.programs.parameters import own_parameters

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.cpu]


def beside(work, first):
    """Run `first` in another thread as soon as this one gives way within `work`; return its result."""

    def locked():
        with alone():
            return first()

    with ThreadPoolExecutor(1) as pool, alone():
        result = pool.submit(locked)
        while not turns._lock.waiting:
            time.sleep(0.001)
        work()
    return result.result(60)


def draws():
    return torch.rand(2).tolist(), random.random(), np.random.rand()


def test_random_streams_are_as_they_were_left():
    with seeded(1):
        expected = [draws(), draws()]
    with seeded(2):
        other = draws()
    found = []

    def work():
        with seeded(1):
            found.append(draws())
            give_way()
            found.append(draws())

    def first():
        with seeded(2):
            return draws()

    outside = torch.get_rng_state()
    assert beside(work, first) == other
    assert found == expected
    assert torch.equal(torch.get_rng_state(), outside)


def test_what_another_thread_does_to_the_callers_streams_stays():
    """The stream of the caller goes on where the other thread has left it."""

    def work():
        with seeded(1):
            give_way()

    def first():
        with alone():
            torch.manual_seed(5)

    beside(work, first)
    found = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(1))


@pytest.mark.parametrize("of_work", [evaluating, in_training])
@pytest.mark.parametrize("of_first", [evaluating, in_training])
@pytest.mark.parametrize("before", [True, False])
def test_modes_of_a_shared_module_are_those_of_each_thread(of_work, of_first, before):
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)).train(before)
    pair = Pair(module.forward, module.forward)
    seen = {}

    def modes():
        return {part.training for part in module.modules()}

    def work():
        with of_work(pair):
            seen["work"] = modes()
            give_way()
            seen["work again"] = modes()

    def first():
        seen["outside"] = modes()
        with of_first(pair):
            seen["first"] = modes()

    beside(work, first)
    mode = {evaluating: {False}, in_training: {True}}
    assert seen == {
        "work": mode[of_work],
        "work again": mode[of_work],
        "outside": {before},
        "first": mode[of_first],
    }
    assert modes() == {before}


def test_modules_of_another_thread_are_not_put_into_evaluation_mode():
    """Modules are found when they are called: by a hook, which sees all threads."""
    mine, theirs = nn.Linear(2, 2), nn.Linear(2, 2)
    seen = []

    def work():
        with evaluating(mine.forward):
            give_way()

    def first():
        with in_training(theirs.forward):
            theirs(torch.zeros(1, 2))
            seen.append(theirs.training)

    beside(work, first)
    assert seen == [True]


def test_parameters_of_pyros_store_are_those_of_each_thread(param_store):
    seen = {}

    def program():
        return pyro.param("a", torch.tensor(0.0))

    def work():
        with own_parameters(program):
            pyro.param("a", torch.tensor(1.0))
            give_way()
            seen["again"] = pyro.param("a").item()

    def first():
        with own_parameters(program):
            seen["first"] = "a" in param_store
            pyro.param("b", torch.tensor(2.0))

    beside(work, first)
    assert seen == {"first": False, "again": 1.0}
    assert {name: value.item() for name, value in param_store.items()} == {"a": 1.0, "b": 2.0}


def test_handlers_validation_and_filters_of_warnings_are_those_of_each_thread():
    seen = {}

    def look():
        return len(_PYRO_STACK), dist.is_validation_enabled(), len(warnings.filters)

    def silent():
        block = warnings.catch_warnings()
        block.__enter__()
        warnings.filterwarnings("ignore", message="nothing like this")
        return block

    class Silent:
        def __enter__(self):
            self.block = silent()

        def __exit__(self, *error):
            self.block.__exit__(*error)

    def work():
        with poutine.trace(), reentered(lambda: pyro.validation_enabled(False)), reentered(Silent):
            seen["work"] = look()
            give_way()
            seen["again"] = look()

    before = look()
    beside(work, lambda: seen.update(first=look()))
    assert seen["first"] == before == look()
    assert seen["work"] == seen["again"] == (1, False, before[2] + 1)


def test_an_error_leaves_the_stack_as_it_was():
    def fail():
        with alone():
            poutine.trace().__enter__()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _PYRO_STACK == []


def test_ctrl_c_while_waiting_for_a_turn_is_raised_when_the_turn_has_come():
    """Before that, what is put back would be another thread's."""
    state, done = [], []

    def first():
        with alone():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
            done.append(list(state))

    def work():
        with kept(lambda: list(state), lambda value: state.__init__(value)):
            state.append("inside")
            give_way()

    with pytest.raises(KeyboardInterrupt):
        beside(work, first)
    assert done == [[]]
    assert state == []


# What the library does


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, pyro.param("scale", torch.ones(2))).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        loc = x * pyro.param("slope", torch.tensor(0.3))
        pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))


def trained(make, x, **settings):
    module = make()
    history = fit(
        module, x, epochs=4, batch_size=4, progress=False, device="cpu", compile="off", **settings
    )
    return [row["loss"] for row in history.rows], [v.clone() for v in module.state_dict().values()]


def same(one, other):
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


def test_runs_in_several_threads_are_those_of_one(make_vae, binary_images):
    # The models are built here, since torch's random stream belongs to all threads.
    made = [make_vae(seed) for seed in range(3)]
    work = [lambda s=s: trained(lambda: copy.deepcopy(made[s]), binary_images, seed=s) for s in range(3)]
    expected = [each() for each in work]
    with ThreadPoolExecutor(3) as pool:
        found = [future.result(120) for future in [pool.submit(each) for each in work]]
    assert all(map(same, expected, found))


def test_programs_with_pyros_parameters_train_in_two_threads(param_store):
    """Both pairs name their parameters alike, and each run begins with what its thread's caller has."""
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))

    def run(seed):
        history = fit(
            Pair(model, guide), x, epochs=3, batch_size=4, seed=seed, progress=False, compile="off"
        )
        return [row["loss"] for row in history.rows]

    expected = []
    for seed in (0, 1):
        expected.append(run(seed))
        pyro.clear_param_store()
    barrier = threading.Barrier(2)

    def together(seed):
        barrier.wait()
        return run(seed)

    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(together, (0, 1))]
    # Whichever run begins when the other has ended goes on with its parameters, as in one thread.
    assert expected[0] in found or expected[1] in found
    assert {*param_store} == {"scale", "slope"}


CALLS = {
    "evidence": lambda pair, x: marginal_likelihood(pair, x, num_samples=40, seed=3).log_px,
    "units": lambda pair, x: active_units(pair, x, num_samples=20).summary(),
    "kl": lambda pair, x: kl_decomposition(pair, x, num_samples=3).summary(),
    "gaps": lambda pair, x: inference_gaps(pair, x, num_samples=20, steps=4, particles=2).log_px,
    "means": latent_means,
    "images": lambda pair, x: sample_images(pair, 3, 1),
}


def test_calls_beside_a_running_fit_answer_as_alone(make_vae, binary_images, monkeypatch):
    monkeypatch.setattr("pyrovae.evaluation.chunking.MOST_DATA", 4)  # several chunks, so several turns
    other = make_vae(1)
    expected = {name: call(other, binary_images) for name, call in CALLS.items()}
    alone_trained = trained(make_vae, binary_images, validation=binary_images[:5])
    made = make_vae()
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(trained, lambda: made, binary_images, validation=binary_images[:5])
        calls = [(name, pool.submit(CALLS[name], other, binary_images)) for name in [*CALLS] * 3]
        assert same(running.result(120), alone_trained)
        for name, call in calls:
            assert str(call.result(120)) == str(expected[name]), name
    assert _PYRO_STACK == []


def test_the_model_that_is_trained_may_be_evaluated_meanwhile(binary_images):
    """In training, dropout is on: a mode that another thread's evaluation left behind would change it."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 2))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.flatten(1).mean(1))

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x.flatten(1)), 1.0).to_event(1))

    def make():
        torch.manual_seed(0)
        return Dropping()

    expected = trained(make, binary_images)
    module = make()
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(trained, lambda: module, binary_images)
        for future in [pool.submit(CALLS["evidence"], module, binary_images) for _ in range(6)]:
            future.result(60)
        assert same(running.result(120), expected)
    assert module.training


def test_a_failing_call_hurts_no_other(make_vae, binary_images):
    vae = make_vae()
    expected = latent_means(vae, binary_images)

    def call(number):
        if number % 2:
            with pytest.raises((InputError, RuntimeError)):
                latent_means(vae, binary_images[:, :, :2])
            return expected
        return latent_means(vae, binary_images)

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(call, range(40)))
    assert _PYRO_STACK == []
