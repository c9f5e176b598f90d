"""Training with rounded products: what is rounded, what is not, and what the run says of it."""

from functools import partial

import pytest
import torch
from training_helpers import snapshot, vae_with, without_seconds

from pyrovae.compute.precision import products_in
from pyrovae.errors import CheckpointError, InputError
from pyrovae.likelihoods import Bernoulli
from pyrovae.training import History, fit

CPU = torch.device("cpu")


def train(x, epochs=2, **settings):
    torch.manual_seed(0)
    vae = vae_with(Bernoulli)
    settings = {"batch_size": 10, "precision": "bfloat16"} | settings
    history = fit(vae, x, epochs=epochs, progress=False, device="cpu", **settings)
    return snapshot(vae), history


def test_products_of_the_backward_pass_are_rounded_too():
    """A product of factors that bfloat16 holds exactly, whose gradients it does not hold."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 300, generator=generator).requires_grad_()
    x = torch.randn(8, 300, generator=generator)
    outer = torch.randn(8, 5, generator=generator)

    def gradient(precision):
        with products_in(precision, CPU, torch.float32):
            return torch.autograd.grad((torch.nn.functional.linear(x, weight) * outer).sum(), weight)[0]

    exact, rounded = gradient("float32"), gradient("bfloat16")
    torch.testing.assert_close(exact, outer.T @ x)
    # The factors of the backward product are outer and x, each rounded to 8 bits, and so is the result.
    expected = (outer.bfloat16().float().T @ x.bfloat16().float()).bfloat16().float()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=2**-7, atol=0)
    relative = (rounded - exact).abs().max() / exact.abs().max()
    assert 2**-13 < relative < 2**-6


@pytest.mark.parametrize("compile", ["off", "on"])
def test_parameters_keep_32_bits_and_the_history_says_what_rounding_changes(
    binary_images, recorded, compile
):
    state, history = train(binary_images, compile=compile)
    exact, plain = train(binary_images, precision="float32", compile=compile)
    assert {value.dtype for value in state.values()} == {torch.float32}
    difference = max((state[name] - exact[name]).abs().max().item() for name in state)
    assert 0 < difference < 0.01
    assert plain.precision_error is None
    assert "rounding" not in plain.outcome()
    assert 0 < history.precision_error < 0.05
    assert f"nats; rounding moved the loss by {history.precision_error:.2g}" in history.outcome()
    # Rounding is all that differs, so losses are apart by little more than was measured.
    assert history["loss"][0] == pytest.approx(plain["loss"][0], abs=0.05)
    assert history["loss"] != plain["loss"]


@pytest.mark.usefixtures("replayed")
def test_a_captured_step_is_rounded_too(binary_images):
    settings = {"optimizer": partial(torch.optim.Adam, lr=0.01, fused=True), "epochs": 1, "batch_size": 8}
    captured, _ = train(binary_images, compile="on", **settings)
    eager, _ = train(binary_images, compile="off", **settings)
    exact, _ = train(binary_images, compile="on", precision="float32", **settings)
    torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-6)
    assert any((captured[name] - exact[name]).abs().max() > 1e-5 for name in exact)


def test_what_was_measured_is_in_the_checkpoint(binary_images, tmp_path):
    whole, history = train(binary_images)
    train(binary_images, epochs=1, folder=tmp_path)
    resumed, history_ = train(binary_images, folder=tmp_path, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert without_seconds(history) == without_seconds(history_)
    with pytest.raises(
        CheckpointError, match="begun with precision = bfloat16, not float32: resume it with the same"
    ):
        train(binary_images, folder=tmp_path, resume=True, precision="float32")


@pytest.mark.parametrize(
    ("precision", "message"),
    [("tf32", "'tf32' is for CUDA devices, not cpu"), ("half", "unknown precision 'half'")],
)
def test_what_cannot_be_had(binary_images, precision, message):
    with pytest.raises(InputError, match=message):
        train(binary_images, precision=precision)


def test_64_bits_are_not_rounded_in_silence(binary_images):
    with pytest.raises(InputError, match="'bfloat16' rounds 32-bit products, but the data have 64 bits"):
        fit(
            vae_with(Bernoulli).double(),
            binary_images.double(),
            epochs=1,
            precision="bfloat16",
            device="cpu",
        )


def test_a_history_shows_it():
    row = {"epoch": 1, "elbo": -9.0}
    assert History([row], precision_error=0.00123).outcome().endswith("rounding moved the loss by 0.0012")
