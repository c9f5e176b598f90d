"""What fit optimises, and by which optimiser."""

import json
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from training_helpers import same, sgd, snapshot, train, without_seconds

from pyrovae.data import binarise, load
from pyrovae.programs import Pair
from pyrovae.schedules import linear_warm_up

pytestmark = pytest.mark.cpu

# What it optimises


def test_the_elbo_rises_on_real_digits(make_vae):
    digits = load("digits").x_train[:400]
    vae = make_vae(x_shape=(1, 8, 8))
    history = train(
        vae, digits, epochs=15, transform=binarise, optimizer=partial(torch.optim.Adam, lr=0.01)
    )
    assert history["elbo"][-1] > history["elbo"][0] + 5


def test_history_has_one_row_of_plain_numbers_for_each_epoch(make_vae, binary_images, tmp_path):
    history = train(make_vae(), binary_images, validation=binary_images[:6], epochs=3)
    columns = {"epoch", "step", "elbo", "reconstruction", "kl", "loss", "beta", "learning_rate", "seconds"}
    assert all(row.keys() == columns | {"validation_elbo", "validation_kl"} for row in history.rows)
    assert history["epoch"] == [1, 2, 3]
    assert history["step"] == [3, 6, 9]
    assert all(type(value) in (int, float) for row in history.rows for value in row.values())
    history.save(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text())["rows"] == history.rows


def test_a_history_says_which_columns_it_has(make_vae, binary_images):
    history = train(make_vae(), binary_images, epochs=1)
    assert "elbo" in history
    assert "validation_elbo" not in history
    assert [*history] == history.columns


def test_the_elbo_is_reconstruction_less_kl_and_the_loss_weighs_the_kl(make_vae, binary_images):
    (row,) = train(make_vae(), binary_images, beta=3.0, epochs=1).rows
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"])
    assert row["loss"] == pytest.approx(-row["reconstruction"] + 3 * row["kl"], rel=1e-5)


def test_the_loss_is_per_datum_so_the_step_does_not_grow_with_the_batch(make_vae, binary_images):
    moved = []
    for copies in (1, 50):
        vae = make_vae()
        with torch.no_grad():
            vae.posterior.scale.bias.fill_(-30)  # hardly any noise, so that copies of a datum agree
        before = snapshot(vae)
        train(vae, binary_images[:1].repeat(copies, 1, 1, 1), epochs=1, batch_size=64, optimizer=sgd)
        moved.append(
            snapshot(vae)["likelihood.network.layers.0.bias"] - before["likelihood.network.layers.0.bias"]
        )
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-2, atol=1e-6)
    assert moved[0].abs().max() > 1e-5


def test_beta_reaches_the_objective_as_a_schedule_of_fractional_epochs(make_vae, binary_images):
    seen = []

    class Spy(Trace_ELBO):
        def differentiable_loss(self, model, guide, *args, **kwargs):
            if torch.is_grad_enabled():
                model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
                seen.append((model_trace.nodes["z"]["scale"], guide_trace.nodes["z"]["scale"]))
                assert model_trace.nodes["x"]["scale"] == 1
            return super().differentiable_loss(model, guide, *args, **kwargs)

    schedule = linear_warm_up(2, end=4.0)
    history = train(
        make_vae(), binary_images, batch_size=8, epochs=3, beta=schedule, objective=Spy(), optimizer=sgd
    )
    expected = [schedule(step / 3) for step in range(9)]
    assert expected[0] == 0
    assert expected[-1] == 4
    assert [pair[0] for pair in seen[-9:]] == pytest.approx(expected)
    assert [pair[1] for pair in seen[-9:]] == pytest.approx(expected)
    assert history["beta"] == pytest.approx([schedule(2 / 3), schedule(5 / 3), 4])


def test_beta_is_ignored_in_validation(make_vae, binary_images):
    frozen = partial(torch.optim.SGD, lr=0.0)
    bounds = [
        train(make_vae(), binary_images, validation=binary_images, beta=beta, optimizer=frozen)
        for beta in (1.0, 50.0)
    ]
    assert bounds[0]["validation_elbo"] == bounds[1]["validation_elbo"]
    assert bounds[0]["loss"] != bounds[1]["loss"]


def test_the_validation_bound_uses_the_same_draws_each_epoch(make_vae, binary_images):
    history = train(
        make_vae(),
        binary_images,
        validation=binary_images.mul(0.8).add(0.1),
        transform=binarise,
        epochs=3,
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    assert len(set(history["validation_elbo"])) == 1
    assert len(set(history["elbo"])) == 3


def test_another_objective_of_pyro_trains_as_well(make_vae, binary_images):
    history = train(make_vae(), binary_images, epochs=20, objective=TraceMeanField_ELBO())
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("objective", [TraceEnum_ELBO(max_plate_nesting=1), TraceEnum_ELBO()])
def test_pyros_enumeration_trains_a_mixture_at_its_exact_evidence(objective):
    centres, shares = nn.Parameter(torch.tensor([-1.0, 2.0])), torch.tensor([0.3, 0.7])

    def model(x):
        pyro.module("mixture", nn.ParameterList([centres]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(shares), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(centres[k], 1.0), obs=x)

    x = torch.randn(6)
    densities = torch.distributions.Normal(centres.detach(), 1.0).log_prob(x[:, None])
    evidence = (shares.log() + densities).logsumexp(1).mean().item()
    still = partial(torch.optim.SGD, lr=0.0)
    found = train(
        Pair(model, lambda x: None), x, objective=objective, epochs=1, batch_size=6, optimizer=still
    )
    assert found["loss"] == pytest.approx([-evidence])


def test_pyros_enumeration_of_nothing_has_the_loss_of_the_elbo(make_vae, binary_images):
    objectives = (TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO())
    one, other = (train(make_vae(), binary_images, objective=each, optimizer=sgd) for each in objectives)
    assert one["loss"] == pytest.approx(other["loss"])


# Optimisers, schedulers, clipping


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd,
        torch.optim.AdamW,
        partial(torch.optim.RMSprop, lr=1e-3),
        partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    ],
    ids=["sgd", "adamw", "rmsprop", "lbfgs"],
)
def test_any_torch_optimiser_trains_every_parameter(optimizer, make_vae, binary_images):
    vae = make_vae()
    before = snapshot(vae)
    train(vae, binary_images, optimizer=optimizer)
    assert not [name for name, value in vae.state_dict().items() if torch.equal(value, before[name])]


def test_an_optimiser_that_evaluates_a_step_several_times_sees_the_same_draws(make_vae, binary_images):
    losses = []

    class Twice(torch.optim.SGD):
        def step(self, closure):
            losses.append((float(closure()), float(closure())))
            return super().step()

    once, twice = make_vae(), make_vae()
    history = train(once, binary_images, optimizer=sgd)
    again = train(twice, binary_images, optimizer=partial(Twice, lr=0.01))
    assert losses
    assert all(first == second for first, second in losses)
    assert same(once.state_dict(), twice.state_dict())
    assert without_seconds(again) == without_seconds(history)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (partial(StepLR, step_size=2, gamma=0.1), [1.0, 1.0, 0.1, 0.1]),
        (partial(CosineAnnealingLR, T_max=4), [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    ],
    ids=["step", "cosine"],
)
def test_a_scheduler_moves_the_learning_rate_after_each_epoch(scheduler, expected, make_vae, binary_images):
    history = train(make_vae(), binary_images, epochs=4, optimizer=sgd, scheduler=scheduler)
    assert history["learning_rate"] == pytest.approx([0.01 * factor for factor in expected])


def test_reduce_on_plateau_follows_the_validation_bound(make_vae, binary_images):
    plateau = partial(ReduceLROnPlateau, factor=0.5, patience=0)
    settings = {"epochs": 4, "scheduler": plateau, "validation": binary_images}
    still = train(make_vae(), binary_images, optimizer=partial(torch.optim.SGD, lr=1e-30), **settings)
    assert still["learning_rate"] == pytest.approx([1e-30, 1e-30, 5e-31, 2.5e-31])
    rising = train(make_vae(), binary_images, optimizer=sgd, **settings)
    assert rising["validation_elbo"] == sorted(rising["validation_elbo"])
    assert rising["learning_rate"] == [0.01] * 4


def test_clip_norm_bounds_the_gradient_that_is_applied(make_vae, binary_images):
    vae = make_vae()
    before = nn.utils.parameters_to_vector(vae.parameters()).detach().clone()
    train(
        vae,
        binary_images,
        epochs=1,
        batch_size=24,
        clip_norm=0.25,
        optimizer=partial(torch.optim.SGD, lr=1.0),
    )
    moved = nn.utils.parameters_to_vector(vae.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)


def test_clip_norm_is_the_norm_over_all_groups_of_the_optimiser(make_vae, binary_images):
    def grouped(parameters):
        half = len(parameters) // 2
        return torch.optim.SGD([{"params": parameters[:half]}, {"params": parameters[half:]}], lr=1.0)

    vae = make_vae()
    before = nn.utils.parameters_to_vector(vae.parameters()).detach().clone()
    train(vae, binary_images, epochs=1, batch_size=24, clip_norm=0.25, optimizer=grouped)
    moved = nn.utils.parameters_to_vector(vae.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)
