"""Products in fewer bits, and what that does to an estimate."""

import pytest
import torch

from pyrovae.compute.precision import in_64_bits, products_in
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood

CPU = torch.device("cpu")


def test_products_are_rounded_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 300, generator=generator), torch.randn(5, 300, generator=generator)
    exact = a.double() @ b.double().T
    with products_in("bfloat16", CPU, torch.float32):
        product = torch.nn.functional.linear(a, b)
        total = (a * a).sum()
        wide = torch.nn.functional.linear(a.double(), b.double())
    assert product.dtype == torch.float32
    relative = (product - exact).abs().max() / exact.abs().max()
    assert 2**-12 < relative < 2**-6
    assert torch.equal(total, (a * a).sum())
    assert torch.equal(wide, torch.nn.functional.linear(a.double(), b.double()))
    assert torch.equal(torch.nn.functional.linear(a, b), a @ b.T)


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.usefixtures("recorded")
def test_an_estimate_says_what_rounding_changes(make_vae, binary_images, compile):
    vae = make_vae()
    options = {"num_samples": 200, "seed": 1, "compile": compile}
    exact = marginal_likelihood(vae, binary_images, **options)
    rounded = marginal_likelihood(vae, binary_images, precision="bfloat16", **options)
    change = (rounded.log_px - exact.log_px).abs().mean().item()
    assert 0 < change < 0.05
    assert rounded.precision_error == pytest.approx(change, rel=1e-6)
    assert "rounding moves it by" in str(rounded)
    assert rounded.summary()["precision_error"] == rounded.precision_error
    assert exact.precision_error is None
    assert "rounding" not in str(exact)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("tf32", "'tf32' is for CUDA devices, not cpu"),
        ("float8", "float32, tf32, bfloat16"),
        (torch.bfloat16, "unknown precision 'torch.bfloat16'.* Did you mean 'bfloat16'"),
    ],
)
def test_what_cannot_be_had(make_vae, binary_images, precision, message):
    vae = make_vae()
    with pytest.raises(InputError, match=message):
        marginal_likelihood(vae, binary_images, precision=precision)


def test_what_has_64_bits_is_not_rounded_in_silence(make_vae, binary_images):
    vae = make_vae().double()
    with pytest.raises(InputError, match="'bfloat16' rounds 32-bit products, but the data have 64 bits"):
        marginal_likelihood(vae, binary_images.double(), precision="bfloat16")


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32(make_vae, binary_images):
    vae = make_vae().cuda()
    result = marginal_likelihood(vae, binary_images, num_samples=200, precision="tf32")
    assert result.precision_error < 0.05


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has the older ones alone"
)
def test_the_newer_settings_of_torch_may_be_used_beside():
    """The older ones cannot even be read then."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with products_in("float32", CPU, torch.float32):
            assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
    assert torch.backends.cuda.matmul.allow_tf32 is False


class OnApplesDevice:
    """A tensor on a device without 64-bit numbers."""

    device = torch.device("mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return torch.ones(2)


def test_numbers_leave_a_device_that_lacks_64_bits():
    assert in_64_bits(OnApplesDevice()).dtype == torch.float64
    assert in_64_bits(torch.ones(2)).dtype == torch.float64
