"""fit(): what it optimises, in which order it presents the data, what it refuses, how it fails."""

import copy
import itertools
import json
import math
import random
from contextlib import suppress
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.classifiers import LinearClassifier
from pyrovae.compute.devices import resolve_device
from pyrovae.data import binarise, load
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian
from pyrovae.models import PCVAE, PPCA, VAE
from pyrovae.networks import MLP
from pyrovae.objectives.elbo import ELBO, SupervisedELBO
from pyrovae.objectives.estimators import IWAE
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.pair import Pair
from pyrovae.schedules import linear_warm_up
from pyrovae.training.fit import fit
from pyrovae.training.loop import TrainingRun

X_SHAPE = (1, 4, 4)
sgd = partial(torch.optim.SGD, lr=0.01)
frozen = partial(torch.optim.SGD, lr=0.0)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def train(module, x, **settings):
    settings = {"epochs": 2, "batch_size": 10, "progress": False, "device": "cpu"} | settings
    return fit(module, x, **settings)


def vae_with(likelihood=None, posterior=None, levels=1):
    decoder = MLP(2, (levels, *X_SHAPE[1:]), hidden=(8,))
    encoder = DiagonalNormal(MLP(X_SHAPE, 6, hidden=(8,)), 2)
    return VAE(StandardNormal(2), (likelihood or Gaussian)(decoder), posterior or encoder)


def snapshot(module):
    return copy.deepcopy(module.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(history):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    return vars(history) | {"rows": rows}


class SpyELBO(ELBO):
    """Notes each batch that it is given."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def differentiable_loss(self, model, guide, *args, **kwargs):
        if torch.is_grad_enabled():
            self.batches.append(args)
        return super().differentiable_loss(model, guide, *args, **kwargs)


class AtCall:
    """A transform that leaves the data alone, and does something at one of its calls."""

    def __init__(self, number, action):
        self.number, self.action, self.calls = number, action, 0

    def __call__(self, x):
        self.calls += 1
        return x if self.calls != self.number else self.action(x)


class Interruption(Exception):
    pass


def interrupt(*context):
    raise Interruption


def presentations(x, batch_size, validation=None):
    """How often fit presents data before its first step, to check them."""
    transform = AtCall(0, None)
    settings = {"batch_size": batch_size, "transform": transform, "validation": validation}
    with pytest.raises(Interruption):
        # A schedule is called for each of two epochs by the checks, and then by the first step.
        train(PPCA(x.shape[1:], 1), x, beta=AtCall(3, interrupt), **settings)
    return transform.calls


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


# Order and chance


def test_one_seed_gives_one_result_bit_for_bit(make_vae, binary_images):
    results = []
    for seed in (5, 5, 6):
        vae = make_vae()
        train(vae, binary_images, seed=seed)
        torch.rand(7)  # the caller's stream is elsewhere at the next call
        results.append(snapshot(vae))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_the_callers_random_stream_and_parameter_store_stay_in_place(make_vae, binary_images, tmp_path):
    before = torch.get_rng_state()
    train(make_vae(), binary_images, transform=binarise, validation=binary_images, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not pyro.get_param_store().keys()


def test_every_datum_is_presented_once_in_each_epoch_and_the_order_changes(make_vae, binary_images):
    numbered = binary_images.clone()
    codes = torch.arange(24)[:, None].bitwise_and(2 ** torch.arange(5)).ne(0).float()
    numbered.view(24, -1)[:, :5] = codes
    spy = SpyELBO()
    train(make_vae(), numbered, batch_size=10, epochs=3, objective=spy)
    steps = spy.batches[-9:]
    assert [len(batch[0]) for batch in steps] == [10, 10, 4] * 3
    seen = [batch[0].flatten(1)[:, :5] @ (2.0 ** torch.arange(5)) for batch in steps]
    epochs = [torch.cat(seen[n : n + 3]).tolist() for n in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_dynamic_binarisation_draws_afresh_at_each_presentation(make_vae):
    grey = torch.full((6, *X_SHAPE), 0.5)
    spy = SpyELBO()
    train(make_vae(), grey, batch_size=6, epochs=4, transform=binarise, objective=spy)
    drawn = [batch[0] for batch in spy.batches[-4:]]
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in drawn)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


def test_classes_reach_the_program_with_their_data(binary_images):
    pairs = []

    class Labelled(PPCA):
        def model(self, x, y=None):
            pairs.append((x, y))
            super().model(x)

        def guide(self, x, y=None):
            assert y is not None
            super().guide(x)

    x = binary_images.clone()
    y = x.flatten(1).sum(1).long()
    train(Labelled(X_SHAPE, 2), x, y=y, validation=(x[:5], y[:5]))
    assert len(pairs) > 6
    assert any(len(x) == 5 for x, _ in pairs)
    assert all(torch.equal(x.flatten(1).sum(1).long(), y) for x, y in pairs)


def test_submodules_are_in_training_mode_while_training_and_put_back_after(binary_images):
    modes = []

    class Spy(nn.Dropout):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    ppca = PPCA(X_SHAPE, 2)
    ppca.likelihood.network.layers.append(Spy(0.1))
    ppca.eval()
    train(ppca, binary_images, batch_size=12, epochs=1)
    assert modes[-2:] == [True, True]
    assert not any(part.training for part in ppca.modules())


# Validation and early stopping


def test_the_best_epoch_is_that_of_the_bound_that_is_trained(make_vae, binary_images):
    """With a small beta the ELBO itself falls while the weighted bound rises."""
    settings = {"validation": binary_images, "optimizer": partial(torch.optim.Adam, lr=0.05)}
    history = train(make_vae(), binary_images, epochs=40, beta=0.05, **settings)
    elbo, kl = history["validation_elbo"], history["validation_kl"]
    weighted = [bound + 0.95 * one for bound, one in zip(elbo, kl, strict=True)]
    assert history.best_epoch == weighted.index(max(weighted)) + 1 != elbo.index(max(elbo)) + 1


def test_with_importance_weights_epochs_compete_by_the_importance_weighted_bound(make_vae, binary_images):
    """It goes on rising where the ELBO of the same epochs falls."""
    vae = make_vae()
    train(vae, binary_images, epochs=120, batch_size=24, optimizer=partial(torch.optim.Adam, lr=0.08))
    settings = {"validation": binary_images, "objective": IWAE(1000), "epochs": 14}
    history = train(vae, binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    elbo, bound = history["validation_elbo"], history["validation_bound"]
    assert history.best_epoch == bound.index(max(bound)) + 1
    assert elbo[history.best_epoch - 1] < max(elbo) - 0.5


@pytest.mark.parametrize("double", [False, True])
def test_the_importance_weighted_bound_on_validation_data_is_that_of_a_sum_over_draws(
    double, make_vae, binary_images
):
    vae, x = make_vae().double(), binary_images.double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2.5)  # so that the weights vary
    objective = IWAE(7, doubly_reparameterised=double)
    history = train(vae, x[:10], epochs=1, validation=x, objective=objective, optimizer=frozen)
    with torch.no_grad():
        q = vae.posterior(x)
        z = q.sample((400, 7))
        log_w = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
        bounds, elbos = (log_w.logsumexp(1) - math.log(7)).mean(-1), log_w.mean((1, 2))
    assert abs(history["validation_bound"][0] - bounds.mean()) < 4 * bounds.std()
    assert abs(history["validation_elbo"][0] - elbos.mean()) < 4 * elbos.std()
    assert bounds.mean() - elbos.mean() > 8 * bounds.std()  # different numbers


def rates_on_plateau(bounds, rate):
    """What ReduceLROnPlateau(factor=0.5, patience=0, eps=0) makes of these bounds."""
    rates, best = [rate], -math.inf
    for bound in bounds:
        rates.append(rates[-1] * (1.0 if bound > best * (1 - 1e-4 * math.copysign(1, best)) else 0.5))
        best = max(best, bound)
    return rates[:-1]


def test_reduce_on_plateau_follows_the_bound_by_which_epochs_compete(make_vae, binary_images):
    """With a small beta the ELBO itself falls while the weighted bound rises."""
    scheduler = partial(ReduceLROnPlateau, factor=0.5, patience=0, eps=0.0)
    settings = {"epochs": 30, "scheduler": scheduler, "validation": binary_images, "beta": 0.05}
    history = train(make_vae(), binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    elbo, kl = history["validation_elbo"], history["validation_kl"]
    weighted = [bound + 0.95 * one for bound, one in zip(elbo, kl, strict=True)]
    assert history["learning_rate"] == pytest.approx(rates_on_plateau(weighted, 0.05))
    assert history["learning_rate"][-1] > 2 * rates_on_plateau(elbo, 0.05)[-1]


def test_reduce_on_plateau_follows_the_importance_weighted_bound(make_vae, binary_images):
    scheduler = partial(ReduceLROnPlateau, factor=0.5, patience=0, eps=0.0)
    settings = {"epochs": 30, "scheduler": scheduler, "validation": binary_images, "objective": IWAE(50)}
    history = train(make_vae(), binary_images, optimizer=partial(torch.optim.Adam, lr=0.05), **settings)
    assert history["learning_rate"] == pytest.approx(rates_on_plateau(history["validation_bound"], 0.05))


def test_a_weighted_site_is_apart_from_the_validation_elbo_and_counts_among_competing_epochs():
    x = binarise(torch.rand(40, *X_SHAPE, generator=torch.Generator().manual_seed(0)))
    y = torch.arange(40) % 3
    y[30:] = -1  # two parts of the validation data
    torch.manual_seed(0)
    pcvae = PCVAE(
        StandardNormal(2),
        Bernoulli(MLP(2, X_SHAPE, hidden=(8,))),
        DiagonalNormal(MLP(X_SHAPE, 6, hidden=(8,)), 2),
        LinearClassifier(2, 3),
    )
    settings = {"y": y, "validation": (x, y), "optimizer": partial(torch.optim.Adam, lr=0.05), "epochs": 60}
    history = train(pcvae, x, weights={"y": 25.0}, **settings)
    elbo, log_py = history["validation_elbo"], history["validation_y"]
    weighted = [one + 25 * term for one, term in zip(elbo, log_py, strict=True)]
    assert history.best_epoch == weighted.index(max(weighted)) + 1 != elbo.index(max(elbo)) + 1
    # The same programs' ELBO without classes has no factor p(y | z); nor should theirs have.
    best = history.rows[history.best_epoch - 1]
    without = [-ELBO(500).loss(pcvae.model, pcvae.guide, x) / 40 for _ in range(2)]
    assert best["validation_elbo"] == pytest.approx(without[0], abs=40 * abs(without[0] - without[1]))
    with torch.no_grad():
        z = pcvae.posterior(x[:30]).sample((2000,))
        by_hand = pcvae.classifier(z).log_prob(y[:30]).mean(0).sum().item() / 40
    assert best["validation_y"] == pytest.approx(by_hand, abs=0.1)


def test_training_stops_early_and_puts_the_best_epochs_parameters_back(make_vae, binary_images, tmp_path):
    vae = make_vae()
    settings = {"validation": 1 - binary_images, "optimizer": partial(torch.optim.Adam, lr=0.1)}
    history = train(vae, binary_images, epochs=200, patience=4, **settings)
    bounds = history["validation_elbo"]
    assert history.stopped_early
    assert len(bounds) < 200
    assert history.best_epoch == bounds.index(max(bounds)) + 1 == len(bounds) - 4
    alone = make_vae()
    train(alone, binary_images, epochs=history.best_epoch, **settings)
    assert same(vae.state_dict(), alone.state_dict())


def test_without_patience_all_epochs_run_and_the_best_is_still_put_back(make_vae, binary_images):
    settings = {"validation": 1 - binary_images, "optimizer": partial(torch.optim.Adam, lr=0.1)}
    vae, alone = make_vae(), make_vae()
    history = train(vae, binary_images, epochs=25, **settings)
    assert not history.stopped_early
    assert len(history.rows) == 25
    assert history.best_epoch < 25
    train(alone, binary_images, epochs=history.best_epoch, **settings)
    assert same(vae.state_dict(), alone.state_dict())


# Programs of the user's own


def test_a_pair_of_functions_trains_by_pyro_module_and_pyro_param(param_store, binary_images):
    decoder = MLP(2, X_SHAPE, hidden=(8,))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    before = snapshot(decoder)
    history = fit(Pair(model, guide), binary_images, epochs=30, progress=False)
    assert history["elbo"][-1] > history["elbo"][0]
    assert not torch.equal(decoder.state_dict()["layers.0.weight"], before["layers.0.weight"])
    assert not torch.equal(param_store["scale"], torch.ones(2))
    assert (param_store["scale"] > 0).all()


def test_the_functions_parameters_are_saved_and_resumed(param_store, binary_images, tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(16), 1.0).to_event(1))
            logits = pyro.param("slope", torch.ones(16)) * z
            pyro.sample("x", dist.Bernoulli(logits=logits.unflatten(-1, X_SHAPE)).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(16)), 1.0).to_event(1))

    fit(Pair(model, guide), binary_images, epochs=6, progress=False, folder=tmp_path / "whole")
    whole = {name: value.detach().clone() for name, value in param_store.items()}
    param_store.clear()
    fit(Pair(model, guide), binary_images, epochs=2, progress=False, folder=tmp_path / "parts")
    param_store.clear()
    fit(Pair(model, guide), binary_images, epochs=6, progress=False, folder=tmp_path / "parts", resume=True)
    assert same(whole, {name: value.detach() for name, value in param_store.items()})


def test_what_functions_have_learned_before_an_error_is_kept(param_store, binary_images):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = pyro.param("loc", lambda: torch.zeros(X_SHAPE)) + z[:, None, None, None]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("q", torch.tensor(0.1)), 1.0))

    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            Pair(model, guide),
            binary_images,
            epochs=2,
            batch_size=10,
            progress=False,
            transform=AtCall(8, interrupt),
        )
    assert param_store["loc"].abs().min() > 0


def test_functions_over_modules_that_pyro_is_not_shown_are_refused(binary_images, tmp_path):
    decoder = MLP(2, X_SHAPE, hidden=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def fixed_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match=r"no parameter to train.*pyro\.module"):
        fit(Pair(model, fixed_guide), binary_images, folder=tmp_path / "run")
    posterior = DiagonalNormal(MLP(X_SHAPE, 6, hidden=()), 2)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.posterior = posterior

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior(x))

    with pytest.raises(InputError, match=r"2 parameters that are unknown.*\(16, 2\).*pyro\.module"):
        fit(Pair(model, Guide()), binary_images, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What it shows


def test_the_progress_bar_shows_the_two_terms_and_can_be_left_out(make_vae, binary_images, capsys):
    train(make_vae(), binary_images, progress=True)
    shown = capsys.readouterr().err
    assert all(f"{name}=" in shown for name in ("elbo", "reconstruction", "kl"))
    assert "6/6" in shown
    train(make_vae(), binary_images, progress=False)
    assert capsys.readouterr().err == ""


def test_tensorboard_holds_the_historys_scalars(make_vae, binary_images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_vae(), binary_images, folder=tmp_path / "plain")
    assert not list(tmp_path.rglob("events.*"))
    history = train(make_vae(), binary_images, validation=binary_images, tensorboard=tmp_path / "board")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == history.rows[0].keys() - {"epoch", "step"}
    for name in ("elbo", "validation_elbo", "beta"):
        assert [event.step for event in events.Scalars(name)] == [3, 6]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(history[name], rel=1e-6)


# Devices


def test_an_unknown_device_is_refused_before_anything_is_written(make_vae, binary_images, tmp_path):
    for device in ("gpu", "cuda:x"):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used.*'auto' or 'cpu'"):
            train(make_vae(), binary_images, device=device, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device_is_refused():
    with pytest.raises(InputError, match="device 'cuda' cannot be used"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.cuda
@needs_cuda
def test_a_model_trains_resumes_and_is_evaluated_on_cuda(make_vae, binary_images, tmp_path):
    whole, parts = make_vae(), make_vae()
    settings = {"device": "cuda", "transform": binarise, "validation": binary_images}
    history = train(whole, binary_images, epochs=4, folder=tmp_path / "whole", **settings)
    assert next(whole.parameters()).device.type == "cuda"
    assert history["elbo"][-1] > history["elbo"][0]
    train(parts, binary_images, epochs=2, folder=tmp_path / "parts", **settings)
    train(parts, binary_images, epochs=4, folder=tmp_path / "parts", resume=True, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    score = marginal_likelihood(whole, binary_images, num_samples=20, progress=False)
    assert math.isfinite(score.mean)


# Resuming


def ambitious(folder, epochs=6):
    """Settings with everything that has a state of its own."""
    return {
        "epochs": epochs,
        "folder": folder,
        "batch_size": 7,
        "validation": torch.rand(9, *X_SHAPE, generator=torch.Generator().manual_seed(3)).mul(0.2),
        "optimizer": partial(torch.optim.AdamW, lr=0.03),
        "scheduler": partial(StepLR, step_size=2, gamma=0.5),
        "clip_norm": 0.3,
        "beta": linear_warm_up(4),
        "seed": 11,
    }


@pytest.fixture
def grey_images():
    """Bright images; the validation data of `ambitious` are dark, so the bound on them soon falls."""
    return torch.rand(24, *X_SHAPE, generator=torch.Generator().manual_seed(2)).mul(0.4).add(0.6)


@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_run_ends_as_if_it_had_not_been_interrupted(seed, make_vae, grey_images, tmp_path):
    whole = make_vae()
    expected = train(whole, grey_images, transform=binarise, **ambitious(tmp_path / "whole"))
    assert expected.best_epoch < 6  # so that the best state must be kept through the interruptions
    first = 1 + presentations(grey_images, 7, ambitious(None)["validation"])
    chance, folder, history = random.Random(seed), tmp_path / "parts", None
    while history is None:
        stop = AtCall(first + chance.randrange(18), interrupt)
        settings = ambitious(folder) | {"transform": lambda x, stop=stop: binarise(stop(x))}
        # Once there is a checkpoint, nothing may depend on the initial parameters.
        parts = make_vae(seed=chance.randrange(1, 99) if list(folder.glob("epoch-*")) else 0)
        with suppress(Interruption):
            history = train(parts, grey_images, resume=True, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_interruptions_really_happen_in_the_test_above(make_vae, grey_images, tmp_path):
    stop = AtCall(presentations(grey_images, 7) + 6, interrupt)
    with pytest.raises(Interruption):
        train(make_vae(), grey_images, batch_size=7, folder=tmp_path, transform=lambda x: binarise(stop(x)))
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["epoch-00001"]


def test_a_run_can_be_extended_and_then_equals_one_that_was_long_from_the_start(
    make_vae, grey_images, tmp_path
):
    whole, parts = make_vae(), make_vae()
    expected = train(whole, grey_images, transform=binarise, **ambitious(tmp_path / "whole"))
    train(parts, grey_images, transform=binarise, **ambitious(tmp_path / "parts", epochs=3))
    again = make_vae(seed=1)
    settings = ambitious(tmp_path / "parts") | {"resume": True}
    history = train(again, grey_images, transform=binarise, **settings)
    assert same(whole.state_dict(), again.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_resuming_a_finished_run_changes_nothing(make_vae, grey_images, tmp_path):
    vae, again = make_vae(), make_vae(seed=1)
    settings = ambitious(tmp_path) | {"patience": 1, "optimizer": partial(torch.optim.Adam, lr=0.3)}
    settings |= {"epochs": 50, "transform": binarise}
    history = train(vae, grey_images, **settings)
    assert history.stopped_early
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(again, grey_images, resume=True, **settings).rows == history.rows
    assert same(vae.state_dict(), again.state_dict())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_that_stopped_early_goes_on_with_more_patience(make_vae, grey_images, tmp_path):
    settings = ambitious(None) | {"optimizer": partial(torch.optim.Adam, lr=0.3), "epochs": 30}
    settings |= {"transform": binarise}
    whole, parts = make_vae(), make_vae()
    expected = train(whole, grey_images, **settings)
    stopped = train(parts, grey_images, **settings | {"patience": 1, "folder": tmp_path})
    assert stopped.stopped_early
    assert len(stopped.rows) < 30
    again = make_vae(seed=1)
    history = train(again, grey_images, resume=True, **settings | {"folder": tmp_path})
    assert without_seconds(history) == without_seconds(expected)
    assert same(whole.state_dict(), again.state_dict())


def test_fewer_epochs_than_a_run_has_are_refused(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    vae = make_vae(seed=1)
    before = snapshot(vae)
    with pytest.raises(InputError, match="has 2 epochs already, and 1 are asked for"):
        train(vae, binary_images, folder=tmp_path, resume=True, epochs=1)
    assert same(vae.state_dict(), before)


def test_a_finished_run_is_not_compiled_again(make_vae, binary_images, tmp_path, monkeypatch):
    train(make_vae(), binary_images, folder=tmp_path)
    monkeypatch.setattr(TrainingRun, "choose_gradients", interrupt)
    train(make_vae(), binary_images, folder=tmp_path, resume=True)
    with pytest.raises(Interruption):
        train(make_vae(), binary_images, folder=tmp_path, resume=True, epochs=3)


def test_a_folder_with_checkpoints_is_not_written_over(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    files = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"already holds checkpoints.*resume=True"):
        train(make_vae(), binary_images, folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 9}, "batch_size = 10, not 9"),
        ({"seed": 4}, "seed = 0, not 4"),
        ({"clip_norm": 2.0}, "clip_norm = None, not 2.0"),
        ({"optimizer": sgd}, "optimizer = Adam, not SGD"),
        ({"scheduler": partial(StepLR, step_size=2)}, "scheduler = NoneType, not StepLR"),
        ({"validation": torch.ones(3, *X_SHAPE)}, "validation = None, not"),
        ({"objective": IWAE(5)}, r"objective = ELBO\(num_particles=1\), not IWAE\(num_particles=5"),
        ({"objective": ELBO(3)}, r"objective = ELBO\(num_particles=1\), not ELBO\(num_particles=3\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_resuming_with_other_settings_is_refused(change, named, make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    vae = make_vae(seed=1)
    before = snapshot(vae)
    with pytest.raises(CheckpointError, match=named):
        train(vae, binary_images, folder=tmp_path, resume=True, epochs=4, **change)
    assert same(vae.state_dict(), before)


def test_resuming_with_other_data_is_refused(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    other = binary_images.clone()
    other[-1, 0, 3, 3] = 1 - other[-1, 0, 3, 3]
    with pytest.raises(CheckpointError, match=r"data = .*name another folder"):
        train(make_vae(), other, folder=tmp_path, resume=True)


# What goes bad on the way


class Spoiled(nn.Module):
    """A component whose distribution's first mean is bad once `spoiled` is set."""

    def __init__(self, component, value):
        super().__init__()
        self.component, self.value, self.spoiled = component, value, False

    def forward(self, *context):
        normal = self.component(*context)
        if not self.spoiled:
            return normal
        loc = normal.mean.clone()
        loc[..., 0] = self.value
        return dist.Normal(loc, normal.stddev).to_event(normal.event_dim)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    ("part", "role", "site"),
    [("posterior", "guide", "z"), ("prior", "model", "z"), ("likelihood", "model", "x")],
)
def test_a_loss_that_goes_bad_names_step_site_and_statistics(
    part, role, site, value, binary_images, tmp_path
):
    vae = vae_with()
    component = Spoiled(getattr(vae, part), value)
    setattr(vae, part, component)

    def beta(epoch):  # asked before each step
        component.spoiled |= round(3 * epoch) == 4
        return 1.0

    with pytest.raises(NonFiniteError) as caught:
        train(vae, binary_images, beta=beta, folder=tmp_path, epochs=3)
    message = str(caught.value)
    assert (
        f"the loss of step 4 is not finite; the first bad numbers are at the {role}'s site '{site}'"
        in message
    )
    assert "(Normal)" in message
    bad = "NaN" if math.isnan(value) else "infinite"
    assert any(
        f" {bad}" in line and f" 0 {bad}" not in line for line in message.splitlines() if "loc: " in line
    )
    assert "Lower the learning rate, clip the gradient's norm" in message
    resumed = vae_with()
    setattr(resumed, part, Spoiled(getattr(resumed, part), value))
    history = train(resumed, binary_images, folder=tmp_path, resume=True, epochs=1)
    assert history["epoch"] == [1]
    assert all(value.isfinite().all() for value in resumed.state_dict().values())


def test_a_parameter_that_becomes_infinite_is_traced_to_its_site(make_vae, binary_images, tmp_path):
    vae = make_vae()

    @torch.no_grad()
    def break_decoder(x):
        vae.likelihood.network.layers[-1].bias[0] = math.inf
        return x

    transform = AtCall(presentations(binary_images, 10) + 5, break_decoder)
    with pytest.raises(NonFiniteError, match=r"step 4 .*the model's site 'x' \(Bernoulli\)"):
        train(vae, binary_images, transform=transform, folder=tmp_path)
    resumed = make_vae()
    train(resumed, binary_images, folder=tmp_path, resume=True, epochs=1)
    assert all(value.isfinite().all() for value in resumed.state_dict().values())


def test_a_validation_bound_that_goes_bad_stops_the_run(make_vae, binary_images, tmp_path):
    vae = make_vae()
    network, passes = vae.likelihood.network, []

    def spoil_from_the_second_epoch_on(module, args, output):
        passes.append(not module.training and len(args[0]) == 7)
        return output * math.nan if sum(passes) >= 3 and passes[-1] else output

    network.register_forward_hook(spoil_from_the_second_epoch_on)
    with pytest.raises(NonFiniteError) as caught:
        train(vae, binary_images, validation=binary_images[:7], folder=tmp_path, epochs=5)
    assert "the validation bound of epoch 2 is not finite" in str(caught.value)
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["epoch-00001"]


def test_a_nan_that_one_datum_causes_is_traced_to_its_site(binary_images):
    class Fragile(MLP):
        def forward(self, x):
            return super().forward(x) + 0 * (50 - x.flatten(1).sum(1, keepdim=True)).log()

    def brighten_one(x):
        return x + 100 * torch.arange(len(x)).eq(3)[:, None, None, None]

    vae = vae_with(posterior=DiagonalNormal(Fragile(X_SHAPE, 6, hidden=(4,)), 2))
    transform = AtCall(presentations(binary_images, 10) + 2, brighten_one)
    with pytest.raises(NonFiniteError, match=r"step 1 .*the guide's site 'z'.*\n.*2 NaN, 0 infinite of 20"):
        train(vae, binary_images, transform=transform)


class GradientNaN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_bad_gradient_under_a_finite_loss_is_caught_before_it_is_saved(
    clip_norm, make_vae, binary_images, tmp_path
):
    vae = make_vae()
    network, clean = vae.likelihood.network, True
    network.register_forward_hook(lambda module, args, out: out if clean else GradientNaN.apply(out))

    def beta(epoch):
        nonlocal clean
        clean = round(3 * epoch) != 5  # the last step of the second epoch
        return 1.0

    with pytest.raises(
        NonFiniteError, match=r"after step 6 the parameters .*likelihood\.network.* not finite"
    ):
        train(vae, binary_images, beta=beta, folder=tmp_path, clip_norm=clip_norm, epochs=3)
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["epoch-00001"]
    resumed = make_vae()
    train(resumed, binary_images, folder=tmp_path, resume=True, clip_norm=clip_norm, epochs=1)
    assert all(value.isfinite().all() for value in resumed.state_dict().values())


# Steps that nobody watches, as on a GPU


@pytest.fixture
def unwatched(monkeypatch):
    """Training leaves losses alone until the end of an epoch, as on a GPU."""
    prepare = TrainingRun.prepare

    def prepare_unwatched(run, *args):
        prepare(run, *args)
        run.watched = False

    monkeypatch.setattr(TrainingRun, "prepare", prepare_unwatched)


class Reads(TorchDispatchMode):
    """Counts how often Python reads a tensor's value, for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def reads_of_an_epoch(pair, x, y, **settings):
    """The more there are in an epoch of more steps, with the same data; for one of each."""
    counts = []
    for batch_size in (12, 2):
        with Reads() as reads:
            train(copy.deepcopy(pair), x, y=y, epochs=1, batch_size=batch_size, **settings)
        counts.append(reads.count)
    return counts[1] - counts[0]


@pytest.mark.parametrize("name", ["vae", "m2"])
def test_unwatched_steps_read_no_value(
    name, make_vae, make_m2, binary_images, classes, unwatched, monkeypatch
):
    settings = {"beta": linear_warm_up(2.0), "clip_norm": 1.0, "transform": binarise, "y": None}
    settings["optimizer"] = partial(torch.optim.Adam, lr=1e-3, fused=True)
    pair, x = make_vae(), binary_images
    if name == "m2":
        pair, x, y = make_m2(), binary_images.double(), torch.where(classes == 0, -1, classes)
        settings |= {"y": y, "objective": SupervisedELBO(1.0)}
    assert reads_of_an_epoch(pair, x, **settings) == 0
    monkeypatch.undo()
    assert reads_of_an_epoch(pair, x, **settings) > 0, "a watched step reads its loss"


def test_unwatched_steps_train_as_watched_ones(make_vae, binary_images, unwatched, monkeypatch):
    def run():
        vae = make_vae()
        return train(vae, binary_images, transform=binarise, validation=binary_images[:6]), vae

    history, vae = run()
    monkeypatch.undo()
    watched_history, watched = run()
    assert same(vae.state_dict(), watched.state_dict())
    assert without_seconds(history) == without_seconds(watched_history)


def test_a_bad_step_that_nobody_watched_is_found_by_repeating_the_epoch(
    make_vae, binary_images, tmp_path, unwatched, monkeypatch
):
    settings = {"optimizer": partial(torch.optim.SGD, lr=1e6), "epochs": 50}

    def failure(folder):
        vae = make_vae()
        with pytest.raises(
            NonFiniteError, match=r"the loss of step \d+ .* at the guide's site 'z'"
        ) as caught:
            train(vae, binary_images, folder=folder, **settings)
        return str(caught.value), vae.state_dict(), [path.name for path in folder.iterdir()]

    unseen = failure(tmp_path / "unwatched")
    monkeypatch.undo()
    seen = failure(tmp_path / "watched")
    assert unseen[0] == seen[0]
    assert same(unseen[1], seen[1]), "the parameters are those before the bad step"
    assert unseen[2] == seen[2]


def test_a_bad_number_that_does_not_come_back_is_not_passed_over(make_vae, binary_images, unwatched):
    vae = make_vae()
    spoilt = AtCall(presentations(binary_images, 10) + 2, lambda x: x * math.nan)
    with pytest.raises(NonFiniteError, match="the loss of epoch 1 was not finite, but is when repeated"):
        train(vae, binary_images, transform=spoilt)


# What is refused before training


def refused(module, x, message, folder, **settings):
    with pytest.raises(InputError, match=message):
        train(module, x, folder=folder / "run", **settings)
    assert not list(folder.iterdir())


def test_a_parameter_that_is_never_used_is_named(make_vae, binary_images, tmp_path):
    vae = make_vae()
    vae.spare = nn.Linear(2, 3)
    refused(vae, binary_images, r"no gradient reaches spare\.weight, spare\.bias", tmp_path)
    vae.spare.requires_grad_(False)
    before = snapshot(vae.spare)
    train(vae, binary_images)
    assert same(vae.spare.state_dict(), before)


def test_a_frozen_part_is_left_as_it_is(make_vae, binary_images):
    vae = make_vae()
    vae.posterior.requires_grad_(False)
    before = snapshot(vae)
    train(vae, binary_images)
    changed = {
        name.split(".")[0] for name, value in vae.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"likelihood"}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5, 1, 4, 3), r"\(\*, 1, 4, 4\).*\(5, 1, 4, 3\)"),
        (torch.zeros(5, 16), r"\(\*, 1, 4, 4\).*\(5, 16\)"),
        (
            torch.full((5, *X_SHAPE), 0.5),
            "Bernoulli likelihood at site 'x'.*transform=pyrovae.data.binarise",
        ),
        (torch.tensor(math.nan).expand(5, *X_SHAPE), "5 of 5 data hold values that are not finite"),
        (torch.zeros(0, *X_SHAPE), r"shape \(0, 1, 4, 4\); expected at least one datum"),
        (torch.zeros(5, *X_SHAPE, dtype=torch.int64), r"type torch\.int64; expected floating point"),
        ([[0.0]], r"a list, not a tensor"),
    ],
    ids=["height", "vectors", "grey", "nan", "empty", "integers", "list"],
)
def test_data_that_do_not_fit_are_refused_and_nothing_is_written(x, message, make_vae, tmp_path):
    refused(make_vae(), x, message, tmp_path)


def test_one_grey_pixel_in_the_last_of_many_data_is_found(make_vae, tmp_path):
    x = torch.zeros(2100, *X_SHAPE)
    x[-1, 0, 0, 0] = 0.5
    refused(make_vae(), x, "1 of 100 data lie outside the support of the Bernoulli", tmp_path)


def test_validation_data_are_checked_as_well(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "Bernoulli", tmp_path, validation=binary_images / 2)
    refused(make_vae(), binary_images, "not finite", tmp_path, validation=binary_images / 0)
    refused(
        make_vae(), binary_images, "expects data of shape", tmp_path, validation=torch.zeros(3, 1, 5, 5)
    )


@pytest.mark.parametrize("level", [256.0, -1.0, 3.5])
def test_levels_that_a_categorical_does_not_have_are_refused(level, tmp_path):
    x = torch.zeros(5, *X_SHAPE)
    x[2, 0, 1, 1] = level
    vae = vae_with(Categorical, levels=256)
    refused(vae, x, "Categorical likelihood at site 'x'.*pyrovae.data.to_levels", tmp_path)


def test_pixels_above_1_are_refused_under_a_continuous_bernoulli(tmp_path):
    refused(vae_with(ContinuousBernoulli), torch.full((5, *X_SHAPE), 2.0), "scale them", tmp_path)


def test_classes_of_another_number_are_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "24 data and 3 classes", tmp_path, y=torch.zeros(3))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
def test_settings_that_are_no_counts_are_refused(name, value, make_vae, binary_images, tmp_path):
    settings = {"validation": binary_images, name: value}
    message = f"{name} is {value!r}; it must be a whole number of at least 1"
    refused(make_vae(), binary_images, message, tmp_path, **settings)


def test_a_norm_that_is_not_above_0_is_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "clip_norm is 0; it must be above 0", tmp_path, clip_norm=0)


@pytest.mark.parametrize("objective", [IWAE, "iwae", 5])
def test_what_is_no_objective_is_refused(objective, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "expected an object such as ELBO", tmp_path, objective=objective)


def test_validation_data_of_three_parts_are_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "has 3 parts", tmp_path, validation=(binary_images,) * 3)


@pytest.mark.parametrize("compile", ["on", "off"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": linear_warm_up(1)}, "beta is 0.0 at epoch 0, but IWAE"),
        ({"beta": lambda epoch: 1.0 if epoch < 1.5 else 0.5, "epochs": 3}, "beta is 0.5 at epoch 2, but"),
        ({"weights": {"x": 2.0}}, "the weight of 'x' is 2.0 at epoch 0, but"),
    ],
)
def test_weights_beside_importance_weights_are_refused(
    settings, message, compile, make_vae, binary_images, tmp_path
):
    settings |= {"objective": IWAE(5), "compile": compile}
    refused(make_vae(), binary_images, message, tmp_path, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_a_schedule_that_goes_bad_is_named_before_training(value, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, f"beta is {value} at", tmp_path, beta=lambda e: value if e else 1.0)


@pytest.mark.parametrize("name", ["loss", "kl", "reconstruction", "elbo", "epoch", "bound"])
def test_a_weighted_site_that_is_named_as_a_column_of_the_history_is_refused(
    name, make_vae, binary_images, tmp_path
):
    message = f"the site '{name}' has a weight, but the history"
    refused(make_vae(), binary_images, message, tmp_path, weights={name: 2.0})


def test_patience_without_validation_data_is_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "patience needs validation data", tmp_path, patience=2)


@pytest.mark.parametrize("beta", [-1, math.nan, math.inf, "1"])
def test_a_beta_that_is_no_weight_is_refused(beta, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, f"a weight of {beta!r} is not possible", tmp_path, beta=beta)
