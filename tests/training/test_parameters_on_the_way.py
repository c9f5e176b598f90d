"""Latents and parameters that appear later or only sometimes, or are frozen and unfrozen on the way."""

import random
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from training_helpers import same, sgd, snapshot, train

from pyrovae.errors import CheckpointError, InputError
from pyrovae.objectives import ELBO
from pyrovae.programs.pair import Pair

pytestmark = pytest.mark.cpu

adam = partial(torch.optim.Adam, lr=0.05)


@pytest.fixture
def x():
    return torch.randn(12, 2, generator=torch.Generator().manual_seed(1)) + 3.0


class Linear(nn.Module):
    """x ~ N(decoder(z), 1) with z ~ N(0, 1), and a guide with a linear encoder."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.decoder, self.encoder = nn.Linear(1, 2), nn.Linear(2, 1)

    def mean(self, z):
        return self.decoder(z)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def at_epoch(number, action):
    """A callback that does something after an epoch."""
    return lambda state: action() if state.epoch == number else None


# Latents that join


class Joining(Linear):
    """A pair with a second latent, which is sampled while `open` says so."""

    open = False

    def latents(self, mean, x):
        if self.open if not callable(self.open) else self.open():
            pyro.sample("z2", dist.Normal(mean, 0.3).to_event(1))

    def model(self, x):
        super().model(x)
        with pyro.plate("more", len(x)):
            self.latents(torch.zeros(2), x)

    def guide(self, x):
        super().guide(x)
        with pyro.plate("more", len(x)):
            self.latents(x - 2.0, x)


def weighted(program, beta):
    """Pyro's own way: every sample statement that is not observed is scaled."""

    class Scaled(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
                msg["scale"] = msg["scale"] * beta

    return Scaled()(program)


@pytest.mark.parametrize("beta", [0.01, 10.0])
def test_a_latent_that_joins_is_weighted_by_beta(beta, x):
    pair = Joining()
    settings = {"beta": beta, "optimizer": partial(torch.optim.SGD, lr=0.0), "batch_size": 12}
    opening = at_epoch(1, lambda: setattr(pair, "open", True))
    history = train(pair, x, callbacks=[opening], epochs=2, **settings)
    closed, opened = history.rows
    for row in (closed, opened):
        assert row["loss"] == pytest.approx(beta * row["kl"] - row["reconstruction"], rel=1e-5)
    # KL(N(x - 2, 0.3) || N(0, 0.3)) in both dimensions; one draw for each datum is noisy.
    exact = ((x - 2.0) ** 2 / (2 * 0.3**2)).sum(1).mean().item()
    assert opened["kl"] - closed["kl"] == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("beta", [0.01, 10.0])
def test_the_loss_with_a_latent_that_joined_is_pyros(beta, x):
    from pyrovae.training.fit import minibatches_of
    from pyrovae.training.preparation import prepare
    from pyrovae.training.settings import Settings
    from pyrovae.training.sources import source_of

    pair, settings = Joining(), Settings(batch_size=12)
    data = minibatches_of(source_of(x), None, settings, torch.device("cpu"))
    loss = prepare(pair, data, None, settings).loss
    pair.open = True
    torch.manual_seed(5)
    found = loss(data.first(), beta, {})[0]
    torch.manual_seed(5)
    expected = Trace_ELBO().differentiable_loss(weighted(pair.model, beta), weighted(pair.guide, beta), x)
    assert found.item() == pytest.approx(expected.item() / 12, rel=1e-5)


def test_a_latent_that_is_sampled_by_chance_is_weighted_whenever_it_is(x):
    class Chance(Joining):
        def guide(self, x):
            self.open = random.random() < 0.5
            super().guide(x)

    pair = Chance()
    settings = {"beta": 0.1, "optimizer": partial(torch.optim.SGD, lr=0.0), "batch_size": 12}
    rows = train(pair, x, epochs=8, **settings).rows
    assert max(row["kl"] for row in rows) > 5 * min(row["kl"] for row in rows), "both kinds of step occur"
    for row in rows:
        assert row["loss"] == pytest.approx(0.1 * row["kl"] - row["reconstruction"], rel=1e-5)


# Parameters that join


class Branch:
    """A location by `pyro.param` in a branch that opens later. The data's mean is the best location."""

    def __init__(self, opened=False):
        self.open = opened

    def model(self, x):
        loc = pyro.param("loc", torch.zeros(2)) if self.open else torch.zeros(2)
        pyro.param("always", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 0.1).to_event(1))
            pyro.sample("x", dist.Normal(loc + z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("q", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.1).to_event(1))


@pytest.mark.filterwarnings("ignore:no gradient reaches the parameters always")
def test_a_parameter_in_a_branch_that_opens_later_is_trained(x, param_store):
    pair = Branch()
    opening = at_epoch(1, lambda: setattr(pair, "open", True))
    fast = partial(torch.optim.Adam, lr=0.2)
    train(pair, x, epochs=120, optimizer=fast, callbacks=[opening], batch_size=12)
    # The likelihood sees the sum of both; the prior's scale of 0.1 holds q near 0.
    assert torch.allclose(param_store["loc"] + param_store["q"], x.mean(0), atol=0.15)
    assert torch.equal(param_store["always"], torch.zeros(2))


@pytest.mark.filterwarnings("ignore:no gradient reaches the parameters always")
def test_such_a_parameter_is_resumed_with_its_moments(x, param_store, tmp_path):
    def run(pair, folder, **settings):
        opening = at_epoch(1, lambda: setattr(pair, "open", True))
        settings = {"optimizer": adam, "callbacks": [opening], "folder": folder} | settings
        train(pair, x, **settings)
        found = {name: value.detach().clone() for name, value in param_store.items()}
        param_store.clear()
        return found

    whole = run(Branch(), tmp_path / "whole", epochs=6)
    run(Branch(), tmp_path / "parts", epochs=3)
    for pair in (Branch(opened=True), Branch(opened=True)):
        parts = run(pair, tmp_path / "parts", epochs=6, resume=True)
        assert same(whole, parts)
    assert not torch.equal(whole["loc"], torch.zeros(2))


def test_a_parameter_that_no_gradient_reaches_is_named_by_a_warning(x, param_store):
    with pytest.warns(UserWarning, match=r"no gradient reaches the parameters always of pyro\.param"):
        train(Branch(), x)


def test_an_unfrozen_part_is_trained_as_one_that_was_unfrozen_between_two_runs(x, tmp_path):
    def frozen():
        pair = Linear()
        pair.decoder.requires_grad_(False)
        return pair

    whole, parts, still = frozen(), frozen(), frozen()
    unfreeze = at_epoch(1, lambda: whole.decoder.requires_grad_(True))
    train(whole, x, epochs=3, optimizer=adam, callbacks=[unfreeze])
    train(parts, x, epochs=1, optimizer=adam, folder=tmp_path)
    parts.decoder.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"frozen \['decoder.bias', 'decoder.weight'\] -> \[\]"):
        train(parts, x, epochs=3, optimizer=adam, folder=tmp_path, resume=True)
    train(still, x, epochs=3, optimizer=adam)
    assert same(whole.state_dict(), parts.state_dict())
    assert not torch.equal(whole.decoder.weight, still.decoder.weight)


@pytest.mark.parametrize("frozen_first", [False, True])
def test_what_is_frozen_and_unfrozen_on_the_way_stays_so_when_a_run_is_resumed(frozen_first, x, tmp_path):
    def made():
        pair = Linear()
        pair.decoder.requires_grad_(not frozen_first)
        return pair

    def run(pair, epochs, folder):
        switches = [
            at_epoch(1, lambda: pair.decoder.requires_grad_(frozen_first)),
            at_epoch(4, lambda: pair.decoder.requires_grad_(not frozen_first)),
        ]
        train(pair, x, epochs=epochs, optimizer=adam, callbacks=switches, folder=folder, resume=True)
        return snapshot(pair)

    whole = run(made(), 6, tmp_path / "whole")
    for epochs in (2, 3, 5, 6):
        parts = run(made(), epochs, tmp_path / "parts")
        if epochs == 2:
            after_two = parts
        elif epochs == 3 and not frozen_first:
            assert torch.equal(parts["decoder.weight"], after_two["decoder.weight"]), "it stands still"
    assert same(whole, parts)


def test_freezing_between_two_runs_keeps_the_moments_of_the_others(x, tmp_path):
    whole, parts = Linear(), Linear()
    freeze = at_epoch(2, lambda: whole.decoder.requires_grad_(False))
    train(whole, x, epochs=4, optimizer=adam, callbacks=[freeze])
    train(parts, x, epochs=2, optimizer=adam, folder=tmp_path)
    parts.decoder.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"frozen \[\] -> \['decoder.bias', 'decoder.weight'\]"):
        train(parts, x, epochs=4, optimizer=adam, folder=tmp_path, resume=True)
    assert same(whole.state_dict(), parts.state_dict())


def test_moments_go_by_name_and_not_by_position(x, tmp_path):
    class Reversed(Linear):
        def __init__(self):
            super().__init__()
            self.decoder = self._modules.pop("decoder")  # now behind the encoder

    whole, parts, again = Linear(), Linear(), Reversed()
    assert [*dict(again.named_parameters())] != [*dict(whole.named_parameters())]
    train(whole, x, epochs=4, optimizer=adam)
    train(parts, x, epochs=2, optimizer=adam, folder=tmp_path)
    train(again, x, epochs=4, optimizer=adam, folder=tmp_path, resume=True)
    assert same(whole.state_dict(), again.state_dict())


def test_another_layer_of_the_same_shape_is_named(x, tmp_path):
    class Renamed(Linear):
        def __init__(self):
            super().__init__()
            self.other = self._modules.pop("decoder")

        def mean(self, z):
            return self.other(z)

    train(Linear(), x, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"decoder.bias: \(2,\) in the checkpoint, absent here"):
        train(Renamed(), x, folder=tmp_path, resume=True, epochs=3)


class Growing(Linear):
    def mean(self, z):
        return self.decoder(z) + (self.extra(z) if hasattr(self, "extra") else 0.0)

    def grow(self):
        self.extra = nn.Linear(1, 2)


@pytest.mark.parametrize("make", [adam, sgd, torch.optim.Adagrad, torch.optim.RMSprop])
def test_a_layer_that_a_callback_adds_is_trained(make, x):
    pair, settings = Growing(), {}

    def grow():
        pair.grow()
        settings["before"] = snapshot(pair.extra)

    train(pair, x, epochs=3, optimizer=make, callbacks=[at_epoch(1, grow)])
    assert not same(snapshot(pair.extra), settings["before"])


def test_a_layer_that_is_replaced_is_trained_with_the_schedules_rate(x):
    """With plain gradient descent the new layer must move by the rate of that epoch, times its gradient."""
    pair = Linear()

    def replace():
        pair.decoder = nn.Linear(1, 2)
        nn.init.zeros_(pair.decoder.weight)
        nn.init.zeros_(pair.decoder.bias)
        pair.requires_grad_(False)
        pair.decoder.bias.requires_grad_(True)

    schedule = partial(LambdaLR, lr_lambda=lambda epoch: 1.0 if epoch == 0 else 0.5)
    train(
        pair,
        x,
        epochs=2,
        batch_size=12,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        scheduler=schedule,
        callbacks=[at_epoch(1, replace)],
    )
    # The gradient of -log N(x; b, 1) per datum is b - mean(x), and b was 0.
    assert torch.allclose(pair.decoder.bias, 0.05 * x.mean(0), rtol=1e-5)


def test_an_optimiser_that_cannot_take_a_late_parameter_names_it(x):
    def two_groups(parameters):
        weights = [p for p in parameters if p.dim() > 1]
        return torch.optim.Adam([{"params": weights}, {"params": [p for p in parameters if p.dim() < 2]}])

    def by_number(parameters):
        return torch.optim.Adam([{"params": [p]} for p in parameters])

    pair = Growing()
    train(pair, x, epochs=3, optimizer=two_groups, callbacks=[at_epoch(1, pair.grow)])
    for make in (by_number, torch.optim.LBFGS):
        pair = Growing()
        with pytest.raises(InputError, match=r"the parameters extra.weight, extra.bias join"):
            train(pair, x, epochs=3, optimizer=make, callbacks=[at_epoch(1, pair.grow)])


def test_a_module_that_a_function_does_not_show_is_trained_when_it_is_used_later(x):
    """If the search finds it, such as in a closure, it is trained; else it is refused."""
    pair, later = Linear(), nn.Linear(1, 2)
    before = later.weight.detach().clone()
    state = {"open": False}

    def model(x, get_later):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = pair.decoder(z) + (get_later(0)(z) if state["open"] else 0.0)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    opening = at_epoch(1, lambda: state.update(open=True))
    found = Pair(lambda x: model(x, lambda number: later), pair.guide)
    train(found, x, epochs=1)
    assert torch.equal(later.weight, before)
    train(found, x, epochs=3, callbacks=[opening])
    assert not torch.equal(later.weight, before)
    state["open"], get = False, {0: later}.get  # the search does not look behind a built-in method
    with pytest.raises(InputError, match=r"2 parameters that fit does not know .*pyro\.module"):
        train(Pair(lambda x: model(x, get), pair.guide), x, epochs=3, callbacks=[opening])


# Parameters that only some steps use


class Dropping(Linear):
    """A residual branch that is skipped at random in training (stochastic depth)."""

    def __init__(self, skip=0.3, by=lambda: torch.rand(()).item()):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.branch = nn.Linear(1, 2)
        self.skip, self.by = skip, by

    def mean(self, z):
        mean = self.decoder(z)
        return mean + self.branch(z) if not self.training or self.by() > self.skip else mean


@pytest.mark.parametrize("seed", range(4))
def test_a_branch_dropped_at_random_trains_as_in_a_loop_by_hand(seed, x):
    pair, by_hand = Dropping(), Dropping()
    train(pair, x, epochs=15, batch_size=12, optimizer=adam, seed=seed)
    optimizer = adam(list(by_hand.parameters()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(15):
            batch = x[torch.randperm(12)]
            loss = ELBO().evaluate(by_hand, batch).loss / 12
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(pair.state_dict()[name], value, atol=1e-5)


def test_a_branch_that_is_rarely_used_is_trained_when_it_is(x):
    pair = Dropping(skip=0.6, by=random.random)
    before = snapshot(pair.branch)
    train(pair, x, epochs=30, batch_size=12, optimizer=adam)
    assert not same(before, snapshot(pair.branch))


def test_a_modality_that_few_minibatches_have_is_trained(x):
    class Missing(Linear):
        def __init__(self):
            super().__init__()
            self.second = nn.Linear(1, 1)

        def model(self, x):
            z_mean = x[:, 0]
            super().model(x)
            seen = z_mean > 10
            if seen.any():
                with pyro.plate("seen", int(seen.sum())):
                    mean = self.second(x[seen, :1])
                    pyro.sample("second", dist.Normal(mean, 1.0).to_event(1), obs=x[seen, 1:])

    x = torch.cat([x, x[:1] + 20.0])
    pair = Missing()
    before = snapshot(pair.second)
    history = train(pair, x, epochs=5, batch_size=3, optimizer=adam)
    assert not same(before, snapshot(pair.second))
    assert len(history["elbo"]) == 5


def test_a_branch_that_is_never_used_is_still_named(x):
    with pytest.raises(InputError, match=r"no gradient reaches branch\.weight, branch\.bias"):
        train(Dropping(skip=2.0), x)


def test_unused_parameters_do_not_move_by_weight_decay_or_momentum(x):
    """As in torch and Pyro, a parameter without a gradient in a step is left as it is."""

    class Once(Dropping):
        def __init__(self):
            super().__init__()
            self.by = lambda: 1.0 if self.used else 0.0
            self.used = True

    pair = Once()
    kept = {}

    def close():
        pair.used = False
        kept["branch"] = snapshot(pair.branch)

    decaying = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.5)
    train(pair, x, epochs=4, optimizer=decaying, callbacks=[at_epoch(2, close)])
    assert same(kept["branch"], snapshot(pair.branch))
