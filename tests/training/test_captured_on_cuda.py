"""Captured steps and scores on a GPU: fresh draws, the right distribution, and the same when resumed."""

import math
import sys
import warnings
from functools import partial

import pyro
import pytest
import torch
from training_helpers import needs_cuda, same, snapshot, vae_with, without_seconds

from pyrovae import recipes
from pyrovae.compute import capture
from pyrovae.compute.capture import CapturedFunction, CaptureFailed, Replay
from pyrovae.compute.compilation import difference_of_capture
from pyrovae.data import binarise
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import ConvDecoder, ConvEncoder
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.pair import Pair
from pyrovae.recipes import About, Training
from pyrovae.schedules import cosine_decay, linear_warm_up
from pyrovae.training import captured, fit
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = [pytest.mark.cuda, needs_cuda]

GPU = torch.device("cuda", 0)
GREY = torch.rand(330, 1, 4, 4, generator=torch.Generator().manual_seed(3))
X = GREY.round()
Y = torch.arange(330) % 3


def vae():
    return vae_with(Bernoulli)


def train(make=vae, x=X, **settings):
    """Train for 3 epochs of 7 minibatches, of which the last one is shorter, captured by default."""
    torch.manual_seed(0)
    model = make()
    settings = {"epochs": 3, "batch_size": 50, "device": "cuda", "compile": "on"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing may fall back to an eager run
        history = fit(model, x, progress=False, **settings)
    return {name: value.cpu() for name, value in snapshot(model).items()}, without_seconds(history)


@pytest.fixture
def replays(monkeypatch):
    """Count the replays of whole steps."""
    count = [0]

    class Spy(Replay):
        def __call__(self):
            count[0] += 1
            return super().__call__()

    monkeypatch.setattr(captured, "Replay", Spy)
    return count


def standard_score(values, mean):
    """How many standard errors the mean of values is away from where it should be."""
    values = values.double().flatten()
    error = values.std() / math.sqrt(len(values))
    return abs((values.mean() - mean) / error).item()


# Random numbers


def test_replays_draw_afresh_the_numbers_of_eager_draws():
    def draws():
        half = torch.full((1000,), 0.5, device=GPU)
        return [torch.randn(1000, device=GPU), torch.rand(1000, device=GPU), torch.bernoulli(half)]

    replay = Replay(draws, GPU)
    torch.cuda.manual_seed(5)
    expected = [draws() for _ in range(3)]
    state = torch.cuda.get_rng_state(GPU)
    torch.cuda.manual_seed(5)
    found = [[result.clone() for result in replay()] for _ in range(3)]
    assert torch.equal(torch.cuda.get_rng_state(GPU), state)
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(found[0][0], found[1][0])
    everything = torch.cat([result[0] for result in found])
    assert standard_score(everything, 0.0) < 5
    assert standard_score(everything.square(), 1.0) < 5


def test_a_capture_leaves_the_stream_where_it_was_and_a_saved_state_goes_on():
    torch.cuda.manual_seed(9)
    before = torch.cuda.get_rng_state(GPU)
    replay = Replay(lambda: [torch.randn(8, device=GPU)], GPU)
    assert torch.equal(torch.cuda.get_rng_state(GPU), before)
    replay()
    saved = torch.cuda.get_rng_state(GPU)
    second = replay()[0].clone()
    torch.cuda.manual_seed(1)
    assert not torch.equal(replay()[0], second)
    torch.cuda.set_rng_state(saved, GPU)
    assert torch.equal(replay()[0], second)


def test_a_captured_function_agrees_with_its_operations_draw_by_draw():
    def function(x):
        noise = torch.randn(64, 10, device=GPU)
        return [(x * noise).sum(), noise, torch.nn.functional.dropout(x, 0.5)]

    x = torch.rand(64, 10, device=GPU)
    assert difference_of_capture(CapturedFunction(function, [x]), function, [x]) is None


def test_a_capture_that_fails_spoils_nothing():
    value = torch.ones(3, device=GPU)
    held = torch.cuda.memory_allocated(GPU)

    def waits():
        torch.randn(1000, 1000, device=GPU)
        return [value * value.sum().item()]

    for _ in range(2):
        with pytest.raises(CaptureFailed, match="its kernels cannot be captured"):
            Replay(waits, GPU)
    with pytest.MonkeyPatch.context() as patch:  # torch does not see that it waits
        patch.setattr(capture, "_no_waiting", warnings.catch_warnings)
        with pytest.raises(CaptureFailed, match="its kernels cannot be captured"):
            Replay(waits, GPU)
    assert torch.cuda.memory_allocated(GPU) == held
    assert torch.randn(5, device=GPU).isfinite().all()
    assert Replay(lambda: [value + 1], GPU)()[0].tolist() == [2, 2, 2]


# The right distribution


@pytest.fixture
def ppca(make_ppca):
    return make_ppca(latent_dim=2, dimensions=5, spread=1.3)


def test_captured_scores_estimate_the_evidence_and_the_elbo_of_a_ppca(ppca, draw):
    x = draw(ppca, 200)
    evidence = ppca.log_evidence(x)
    found = marginal_likelihood(ppca.to(GPU), x, num_samples=4000, compile="on", seed=1)
    z = (found.log_px.cpu() - evidence.cpu()) / found.std_error.cpu()
    assert z.abs().max() < 5.5
    assert abs(z.mean() * math.sqrt(len(z))) < 5
    eager = marginal_likelihood(ppca, x, num_samples=4000, compile="off", seed=2)
    apart = (found.elbo - eager.elbo) / math.hypot(found.elbo_std_error, eager.elbo_std_error)
    assert abs(apart) < 5


def test_the_captured_elbo_of_a_ppca_is_the_closed_form(draw, ppca, replays):
    """With the exact posterior as guide, each draw's ELBO is log p(x); a rate of nearly 0 leaves it so."""
    x = draw(ppca, 330)
    ppca.set_guide_to_exact_posterior()
    evidence = ppca.log_evidence(x).mean().item()
    history = fit(
        ppca,
        x,
        epochs=3,
        batch_size=50,
        learning_rate=1e-12,
        progress=False,
        device="cuda",
        compile="on",
    )
    assert replays[0] == 3 * 6 - 1
    assert history["elbo"] == pytest.approx([evidence] * 3, rel=1e-6)


# Steps


SETTINGS = {
    "as it is": {},
    "a transform": {"x": GREY, "transform": binarise},
    "clipping, schedules": {
        "clip_norm": 0.5,
        "beta": linear_warm_up(2),
        "learning_rate": cosine_decay(3, 0.02),
    },
    "unfused": {"optimizer": partial(torch.optim.AdamW, lr=0.01)},
    "a scheduler": {"scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.3)},
    "validation": {"validation": X[:40], "patience": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_captured_step_does_what_an_eager_one_does(name, replays):
    """It draws the same numbers, so that parameters differ by rounding alone."""
    found, history = train(**SETTINGS[name])
    expected, history_ = train(**SETTINGS[name], compile="off")
    assert replays[0] == 3 * 6 - 1  # the first step and the short ones are eager
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for row, other in zip(history["rows"], history_["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"])
def test_optimisers_inside_of_the_capture_are_those_outside(name, replays):
    settings = {"optimizer": partial(getattr(torch.optim, name), lr=0.01), "clip_norm": 1.0}
    found, _ = train(**settings)
    assert replays[0] == 3 * 6 - 1
    torch.testing.assert_close(found, train(**settings, compile="off")[0], rtol=1e-3, atol=1e-4)


def test_other_optimisers_stay_outside(replays):
    settings = {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.9)}
    torch.testing.assert_close(
        train(**settings)[0], train(**settings, compile="off")[0], rtol=1e-3, atol=1e-4
    )
    assert replays[0] == 0


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.Adam, fused=True)])
def test_a_resumed_run_is_the_same_bit_for_bit_and_its_checkpoints_are_read_anywhere(optimizer, tmp_path):
    settings = {"x": GREY, "transform": binarise}
    settings |= {"optimizer": optimizer, "learning_rate": cosine_decay(4, 0.02)}
    state, history = train(epochs=4, folder=tmp_path / "whole", **settings)
    train(epochs=2, folder=tmp_path / "parts", **settings)
    state_, history_ = train(epochs=4, folder=tmp_path / "parts", resume=True, **settings)
    assert same(state, state_)
    assert history == history_
    optimizer_state = load_checkpoint(tmp_path / "parts")["optimizer"]
    assert all(isinstance(group["lr"], float) for group in optimizer_state["param_groups"])
    assert {float(each["step"]) for each in optimizer_state["state"].values()} == {4 * 7.0}
    on_cpu = {"device": "cpu", "compile": "off"}
    _, longer = train(epochs=5, folder=tmp_path / "parts", resume=True, **settings | on_cpu)
    assert len(longer["rows"]) == 5


def test_data_outside_of_the_device_are_copied_in(replays, monkeypatch):
    inside, _ = train()
    monkeypatch.setattr(sys.modules["pyrovae.training.fit"], "_fits", lambda source, device: False)
    outside, _ = train()
    torch.testing.assert_close(inside, outside, rtol=1e-3, atol=1e-4)
    assert replays[0] == 2 * (3 * 6 - 1)


def test_auto_captures_and_a_program_that_cannot_be_captured_is_named(monkeypatch, replays):
    monkeypatch.setattr("pyrovae.training.steps.LONG_CAPTURED_RUN", 17)
    train(compile="auto")
    assert replays[0] == 3 * 6 - 1
    plain = vae()

    def model(x):
        noise = torch.randn(()).exp().to(x.device)  # from the CPU
        with pyro.poutine.scale(scale=1 + 0 * noise):
            return plain.model(x)

    settings = {"epochs": 1, "progress": False, "device": "cuda", "compile": "on"}
    with pytest.raises(InputError, match=r"training cannot be compiled: .*draws random numbers outside of"):
        fit(Pair(model, plain.guide), X, **settings)


@pytest.mark.parametrize(
    "recipe", ["vae", "hvae", "ppca", "cvae", "autoencoder", "m2", "m1m2", "pcvae", "cpcvae", "bnn"]
)
def test_each_recipe_trains_captured_as_it_does_eagerly(recipe):
    x, y = X[:300], Y[:300]

    def losses(compile):
        build = recipes.load_recipe(recipe)
        known = {"latent_dim": 2, "width": 8, "vae_epochs": 3, "spread": False}
        options = {name: value for name, value in known.items() if name in recipes.options_of(build)}
        training = Training(epochs=3, batch_size=50, compile=compile)
        result = build(About.of(x, y), **options).fit(x, y, training=training, device="cuda")
        return {name: history["loss"] for name, history in result.histories.items()}

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without being compiled")
        found = losses("on")
    for name, expected in losses("off").items():  # of the same draws
        assert found[name] == pytest.approx(expected, rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_captured_step_computes_in_the_asked_precision(precision, replays):
    found, history = train(precision=precision)
    eager, _ = train(precision=precision, compile="off")
    exact, _ = train()
    torch.testing.assert_close(found, eager, rtol=1e-2, atol=2e-3)
    assert history["precision_error"] < 0.05
    assert any(not torch.equal(found[name], exact[name]) for name in exact)


def test_convolutions_are_resumed_bit_for_bit_with_deterministic_algorithms(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def make():
        shape = (1, 8, 8)
        encoder = DiagonalNormal(ConvEncoder(shape, 4, channels=4), 2)
        return VAE(StandardNormal(2), Bernoulli(ConvDecoder(2, shape, channels=4)), encoder)

    x = torch.rand(330, 1, 8, 8, generator=torch.Generator().manual_seed(3)).round()
    torch.use_deterministic_algorithms(True)
    try:
        state, _ = train(make, x, epochs=4, folder=tmp_path / "whole")
        train(make, x, epochs=2, folder=tmp_path / "parts")
        state_, _ = train(make, x, epochs=4, folder=tmp_path / "parts", resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(state, state_)
