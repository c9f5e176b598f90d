"""Members that differ in seed alone train in one step, and are what single runs are."""

from __future__ import annotations

import inspect
import math
import statistics
from functools import partial
from typing import Any

import fake_gpu
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyrovae import fit
from pyrovae.compute import capture
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.models import PPCA
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair
from pyrovae.programs.rows import Arguments
from pyrovae.training import captured, fit_many
from pyrovae.training.batches import Batch, Call, Part
from pyrovae.training.losses import MinibatchLoss
from pyrovae.training.stacking import Stack, StackedLoss
from pyrovae.training.unit import Unit

SGD = partial(torch.optim.SGD, lr=0.1)
quiet: dict[str, Any] = {"progress": False, "compile": "off", "device": "cpu"}


class Mean(nn.Module):
    """x ~ N(mu, 1) without latents: log densities, gradients and steps have closed forms."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.full((2,), float(start)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pass


class Draws(nn.Module):
    """One weight for each of N data, whose gradient is the datum's draw of z."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(count))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + self.w, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(12, 2) + torch.tensor([1.0, -2.0])


def test_a_step_of_each_member_is_the_exact_one(x):
    members = fit_many(Mean, x, seeds=[1, 5], epochs=1, batch_size=12, optimizer=SGD, **quiet)
    for member in members:
        expected = member.seed + 0.1 * (x.mean(0) - member.seed)
        assert torch.allclose(member.pair.mu, expected, atol=1e-5)
        log_px = -0.5 * (x - member.seed).square().sum(1) - math.log(2 * math.pi)
        assert member.history["elbo"] == [pytest.approx(log_px.mean().item(), rel=1e-5)]


def test_each_gradient_is_clipped_by_its_own_norm(x):
    away = fit_many(Mean, x, seeds=[0, 100], epochs=1, batch_size=12, optimizer=SGD, clip_norm=5.0, **quiet)
    near, far = (member.pair.mu.detach() for member in away)
    assert torch.allclose(near, 0.1 * x.mean(0), atol=1e-5)  # a norm of about 2 is not clipped
    gradient = 100 - x.mean(0)
    assert torch.allclose(far, 100 - 0.1 * 5 * gradient / gradient.norm(), atol=1e-4)


def test_draws_of_members_are_independent():
    count = 500
    members = fit_many(
        lambda seed: Draws(count), torch.zeros(count, 1), seeds=[3, 4, 5], epochs=1, batch_size=count,
        optimizer=partial(torch.optim.SGD, lr=float(count)), **quiet,
    )  # fmt: skip
    z = -torch.stack([member.pair.w.detach() for member in members])
    assert (torch.corrcoef(z) - torch.eye(3)).abs().max() < 4 / count**0.5
    assert (z.mean(1).abs() < 4 / count**0.5).all()
    assert ((z.var(1) - 1).abs() < 4 * (2 / count) ** 0.5).all()


def test_each_member_has_an_order_of_its_own_which_no_other_seed_changes(x):
    def run(seeds: list[int]) -> list[Tensor]:
        how = {"epochs": 1, "batch_size": 5, "optimizer": SGD}
        return [m.pair.mu.detach() for m in fit_many(lambda seed: Mean(), x, seeds=seeds, **how, **quiet)]

    one, two = run([1, 2])
    assert not torch.allclose(one, two)
    assert torch.equal(run([2, 7])[0], two)


def test_initial_parameters_are_those_of_the_seed(make_vae, binary_images):
    def make(seed: int) -> PPCA:
        return PPCA(16, 2)

    x = binary_images.flatten(1)
    still = partial(torch.optim.SGD, lr=0.0)
    for member in fit_many(make, x, seeds=[3, 8], epochs=1, optimizer=still, **quiet):
        torch.manual_seed(member.seed)
        for own, fresh in zip(member.pair.parameters(), PPCA(16, 2).parameters(), strict=True):
            assert torch.equal(own, fresh)


class Lazy(Mean):
    """x ~ N(A 1 + b, 1) by a layer that gets its shape when it first runs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.layer(x.new_ones(len(x), 3)) + self.mu
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def test_lazy_layers_get_their_shapes_and_own_values(x):
    members = fit_many(Lazy, x, seeds=[1, 2], epochs=1, batch_size=12, optimizer=SGD, **quiet)
    one, other = (member.pair.layer.weight for member in members)
    assert one.shape == other.shape == (2, 3)
    assert not torch.allclose(one, other)


def test_members_reach_the_evidence_of_the_closed_form():
    x = torch.randn(200, 2) @ torch.randn(2, 5) + 0.3 * torch.randn(200, 5)
    best = PPCA(5, 2)
    best.fit_closed_form(x)
    members = fit_many(
        lambda seed: PPCA(5, 2), x, seeds=range(3), epochs=50, batch_size=50,
        optimizer=partial(torch.optim.Adam, lr=0.05), **quiet,
    )  # fmt: skip
    for member in members:
        short = (best.log_evidence(x) - member.pair.log_evidence(x)).mean().item()
        assert -1e-4 < short < 0.1


def test_members_agree_with_single_runs_in_distribution(make_vae, binary_images):
    how: dict[str, Any] = {"epochs": 4, "batch_size": 4, "optimizer": partial(torch.optim.Adam, lr=0.01)}
    together = fit_many(make_vae, binary_images, seeds=range(8), **how, **quiet)
    apart = [fit(make_vae(seed), binary_images, seed=seed, **how, **quiet) for seed in range(8, 16)]
    losses = [[h["loss"][-1] for h in each] for each in ([m.history for m in together], apart)]
    error = math.hypot(*(statistics.stdev(each) / 8**0.5 for each in losses))
    assert abs(statistics.mean(losses[0]) - statistics.mean(losses[1])) < 3.5 * error
    assert together[0].history.columns == apart[0].columns


def test_m2_sums_out_the_class_of_each_member(make_m2, binary_images):
    x = binary_images.double()
    y = torch.tensor([0, 1, 2, -1]).repeat(len(binary_images))[: len(binary_images)]
    members = fit_many(make_m2, x, y, seeds=[0, 1], epochs=2, batch_size=4, weights={"y": 2.0}, **quiet)
    alone = fit(make_m2(0), x, y, epochs=2, batch_size=4, weights={"y": 2.0}, **quiet)
    assert all(member.history.columns == alone.columns for member in members)
    assert members[0].history["elbo"][-1] == pytest.approx(alone["elbo"][-1], abs=3.0)
    assert members[0].history["elbo"] != members[1].history["elbo"]


class Regression(nn.Module):
    """y ~ N(w x, 1) with the global latent w ~ N(0, 1) and a normal guide."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.randn(())), nn.Parameter(torch.tensor(-2.0))

    def model(self, rows: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(rows)):
            pyro.sample("y", dist.Normal(w * rows[:, 0], 1.0), obs=rows[:, 1])

    def guide(self, rows: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))


def test_a_latent_of_all_data_gets_the_exact_posterior_in_each_member():
    rows = torch.randn(40, 2)
    precision = 1 + rows[:, 0].square().sum()
    mean = (rows[:, 0] * rows[:, 1]).sum() / precision
    members = fit_many(
        lambda seed: Regression(), rows, seeds=range(3), epochs=80, batch_size=20,
        optimizer=torch.optim.Adam, learning_rate=lambda epoch: 0.1 * 0.95**epoch, **quiet,
    )  # fmt: skip
    for member in members:
        assert member.pair.loc.item() == pytest.approx(mean.item(), abs=0.05)
        assert member.pair.log_scale.exp().item() == pytest.approx(precision.item() ** -0.5, rel=0.15)


def test_each_member_keeps_its_own_best_epoch(x):
    members = fit_many(
        Mean, x, seeds=[1, 3], epochs=3, batch_size=12, validation=x,
        optimizer=partial(torch.optim.SGD, lr=2.5), **quiet,
    )  # fmt: skip
    for member in members:  # each step multiplies the distance from the mean by -1.5
        assert member.history.best_epoch == 1
        assert torch.allclose(member.pair.mu, x.mean(0) - 1.5 * (member.seed - x.mean(0)), atol=1e-4)
        log_px = -0.5 * (x - member.pair.mu).square().sum(1) - math.log(2 * math.pi)
        assert member.history["validation_elbo"][0] == pytest.approx(log_px.mean().item(), rel=1e-5)


def both_ways(make: Any, x: Tensor, compile: str) -> None:
    """Hold runs with a graph against runs of the programs."""
    how: dict[str, Any] = {
        "seeds": [1, 2],
        "epochs": 3,
        "batch_size": 6,
        "clip_norm": 1.0,
        "progress": False,
    }
    eager, graph = (fit_many(make, x, compile=mode, device="cpu", **how) for mode in ("off", compile))
    for one, other in zip(eager, graph, strict=True):
        assert one.history["loss"] == pytest.approx(other.history["loss"], rel=1e-5)
        for a, b in zip(one.pair.parameters(), other.pair.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.usefixtures("recorded")
def test_a_recorded_step_is_the_same_step(make_vae, binary_images):
    both_ways(make_vae, binary_images, "on")


@pytest.mark.usefixtures("replayed")
def test_a_captured_step_is_the_same_step(make_vae, binary_images, monkeypatch):
    replays = []

    class Spy(capture.Replay):
        def __call__(self) -> list[Tensor]:
            replays.append(self)
            return super().__call__()

    monkeypatch.setattr(captured, "Replay", Spy)
    both_ways(make_vae, binary_images, "on")
    full = len(binary_images) // 6
    assert len(replays) == 3 * full - 1  # all full minibatches of 3 epochs but the first


def test_a_transform_is_applied_to_each_member_by_itself(x):
    seen: list[Tensor] = []

    def shuffled(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch + batch.mean(0)  # depends on the whole minibatch

    how = {"epochs": 1, "batch_size": 12, "optimizer": SGD}
    members = fit_many(Mean, x, seeds=[1, 5], transform=shuffled, **how, **quiet)
    for member in members:
        assert torch.allclose(member.pair.mu, member.seed + 0.1 * (2 * x.mean(0) - member.seed), atol=1e-5)
    assert {batch.shape for batch in seen} == {x.shape}


def test_an_error_names_the_seed_of_the_member_that_diverges(x):
    with pytest.raises(NonFiniteError, match="member with seed 18"):
        fit_many(
            lambda seed: Mean(10.0**seed), x, seeds=[1, 18], epochs=60, batch_size=12,
            optimizer=partial(torch.optim.SGD, lr=2.5), **quiet,
        )  # fmt: skip


def test_all_that_a_step_makes_is_on_the_device_of_its_data(make_vae, binary_images):
    part = Part(torch.arange(24), False, 6, 1.0, 1.0)
    unit = Unit(24, frozenset({"data"}), (), False, 1.0, None, False)
    losses = [MinibatchLoss(make_vae(seed), ELBO(), [part], unit, ()) for seed in (1, 2)]
    losses[0](Batch([Call(0, Arguments((binary_images[:6],)), 6)], 6), 1.0, {})  # finds the layout
    stack = Stack(losses)
    own = losses[0]
    loss = StackedLoss(own.pair, own.objective, own.parts, unit, (), stack=stack, seeds=(1, 2))
    with fake_gpu.fake_gpu():
        stack.tensors = {n: torch.empty(v.shape, device=fake_gpu.DEVICE) for n, v in stack.tensors.items()}
        data = Arguments((fake_gpu.data(2, 6, 1, 4, 4),))
        total, terms = loss(Batch([Call(0, data, 6)], 6), 1.0, {})
    assert total.device == fake_gpu.DEVICE
    assert {term.device for term in terms.values()} == {fake_gpu.DEVICE}
    assert {term.shape for term in terms.values()} == {(2,)}


# One after another


class Attribute(Mean):
    """Members that differ in a plain number, which the first member's programs do not have."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.shift = float(seed)

    def model(self, x: Tensor) -> None:
        super().model(x - self.shift)


class Norm(Mean):
    """x ~ N(mu, 1) after batch normalisation, whose running means every step moves."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.norm = nn.BatchNorm1d(2)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.norm(x.detach()) + self.mu, 1.0).to_event(1), obs=x)


class Positive(PyroModule):
    """x ~ N(0, scale) with a scale in Pyro's store."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(2), self.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "how", "reason"),
    [
        (Attribute, {}, "other numbers than each alone"),
        (Positive, {}, "PyroParam"),
        (Mean, {"optimizer": partial(torch.optim.LBFGS, lr=0.1)}, "LBFGS does not treat"),
        (Mean, {"optimizer": lambda p: torch.optim.SGD([{"params": p}, {"params": []}], lr=0.1)}, "groups"),
        (Mean, {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "own loss"),
    ],
)
def test_members_that_cannot_run_together_run_one_after_another(x, make, how, reason):
    how = {"epochs": 2, "batch_size": 12, "optimizer": SGD} | how
    with pytest.warns(UserWarning, match=f"one after another: .*{reason}"):
        members = fit_many(make, x, seeds=[1, 2], **how, **quiet)
    for member in members:
        torch.manual_seed(member.seed)
        alone = make(member.seed)
        history = fit(alone, x, seed=member.seed, **how, **quiet)
        assert member.history["loss"] == history["loss"]
        for a, b in zip(member.pair.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b)


def test_batch_statistics_are_those_of_each_member(x):
    how: dict[str, Any] = {"epochs": 2, "batch_size": 12, "optimizer": SGD}
    for member in fit_many(Norm, x, seeds=[1, 2], **how, **quiet):
        alone = Norm(member.seed)
        fit(alone, x, seed=member.seed, **how, **quiet)
        assert torch.allclose(member.pair.norm.running_mean, alone.norm.running_mean, atol=1e-5)
        assert member.pair.norm.num_batches_tracked == 2
        assert torch.allclose(member.pair.mu, alone.mu, atol=1e-5)


# What is refused

SHARED = Mean()


def test_what_cannot_be_members_is_refused_in_words(x, param_store):
    def with_param(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    cases: list[tuple[Any, list[int], str]] = [
        (Mean, [1, 1], "all different"),
        (Mean, [], "at least one"),
        (Mean(), [1], "a new pair for each seed"),
        (lambda: Mean(), [1], "lambda seed"),
        (lambda seed: seed, [1], "returns a int"),
        (lambda seed: SHARED, [1, 2], "share the parameter 0.mu"),
        (lambda seed: PPCA(2, seed), [1, 2], r"\(2, 1\).* in the first member and .*\(2, 2\)"),
        (lambda seed: Pair(with_param, lambda x: None), [1, 2], "'loc' is in Pyro's parameter store"),
    ]
    for make, seeds, message in cases:
        with pytest.raises(InputError, match=message):
            fit_many(make, x, seeds=seeds, epochs=1, **quiet)


def test_the_settings_are_those_of_fit():
    here, there = (inspect.signature(function).parameters for function in (fit_many, fit))
    own = {"make", "seeds"}
    lacking = {
        "pair",
        "patience",
        "seed",
        "folder",
        "resume",
        "tensorboard",
        "precision",
        "callbacks",
        "workers",
        "identity",
    }
    assert here.keys() - own == there.keys() - lacking
    assert all(here[name].default == there[name].default for name in here.keys() - own)
