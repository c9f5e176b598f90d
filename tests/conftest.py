"""Every test starts from the same seed, on one thread, with Pyro's validation on and nothing in Pyro's
parameter store, and leaves nothing there."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pytest
import torch
from elsewhere import another_device
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.compute import capture, compilation, devices
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import CPCVAE, M1M2, M2, PPCA, VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Classes, StandardNormal
from pyrovae.recipes import fitting
from pyrovae.recipes.verdict import Verdict
from pyrovae.training import step as training_step

# A shell that starts the tests in the background lets them ignore Ctrl-C, and their processes with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--elsewhere",
        action="store_true",
        help="run what runs on a GPU, where there is one, on another pretended device; see elsewhere.py",
    )


@pytest.fixture(autouse=True)
def device_of_the_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test runs on the GPU if there is one, unless it is marked by `cpu`. One for `cuda` needs a GPU."""
    about_gpus = request.node.get_closest_marker("cuda") is not None
    if about_gpus and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.node.get_closest_marker("cpu") and not about_gpus:
        monkeypatch.setattr(devices, "automatic", lambda: torch.device("cpu"))
        yield
    elif request.config.getoption("--elsewhere"):
        fitting = importlib.import_module("pyrovae.training.fit")
        with another_device() as device:
            monkeypatch.setattr(devices, "automatic", lambda: device)
            monkeypatch.setattr(fitting, "_fits", lambda source, place: place == device)
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    left = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    torch.set_num_threads(threads)
    assert left == [], "the test left parameters in Pyro's store"


@pytest.fixture(autouse=True)
def empty_verdicts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict takes as long as a small training, so only tests with the mark `verdict` measure it."""
    if request.node.get_closest_marker("verdict") is None:
        monkeypatch.setattr(fitting, "verdict_of", lambda *_, **__: Verdict())


@pytest.fixture
def param_store() -> Iterator[pyro.params.param_store.ParamStoreDict]:
    """For tests of what belongs in Pyro's parameter store; cleared when the test is over."""
    yield pyro.get_param_store()
    pyro.clear_param_store()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled functions are recorded graphs, run without Inductor, which takes long.

    One mode for the sizes of all recorded tensors halves the time: torch makes one for each by default.
    """
    compile_function = compilation.compile_function

    def record(*args: Any) -> Any:
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
            return compile_function(*args, inductor=False)

    monkeypatch.setattr(compilation, "compile_function", record)


@pytest.fixture
def replayed(recorded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions are captured as on a GPU. The kernels are operations on the CPU.

    What a capture would freeze is frozen: numbers of Python, and the addresses of tensors.
    """

    def operations(body: Callable[[], list[Tensor]], device: torch.device) -> Any:
        nothing = torch.zeros(())
        graph = make_fx(lambda _: body())(nothing).forward  # no hook for modules must find it
        results = graph(nothing)

        @torch.no_grad()
        def launch() -> None:
            for result, value in zip(results, graph(nothing), strict=True):
                result.copy_(value)

        return launch, results

    monkeypatch.setattr(capture, "captures_on", lambda device: True)
    monkeypatch.setattr(capture, "kernels", operations)
    monkeypatch.setattr(training_step, "reads_losses", lambda device: False)


@pytest.fixture
def make_vae() -> Callable[..., VAE]:
    """A small VAE for binary images of 4 x 4 pixels; the same parameters for the same seed."""

    def make(seed: int = 0, x_shape: tuple[int, ...] = (1, 4, 4), latent_dim: int = 2) -> VAE:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return VAE(
                prior=StandardNormal(latent_dim),
                likelihood=Bernoulli(MLP(latent_dim, x_shape, hidden=(8,))),
                posterior=DiagonalNormal(MLP(x_shape, 6, hidden=(8,)), latent_dim),
            )

    return make


@pytest.fixture
def binary_images() -> Tensor:
    """24 images for `make_vae`'s VAE."""
    return torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1)).round()


@pytest.fixture
def make_m2() -> Callable[..., M2]:
    """A small M2 in 64-bit for binary images of 4 x 4 pixels, its class prior not uniform."""

    def make(seed: int = 0, latent_dim: int = 2, classes: int = 3) -> M2:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            x_shape = (1, 4, 4)
            features = MLP(x_shape, 6, hidden=(8,))
            m2 = M2(
                class_prior=Classes(classes, learned=True),
                prior=StandardNormal(latent_dim),
                likelihood=Bernoulli(WithClass(MLP(latent_dim + classes, x_shape, hidden=(8,)), classes)),
                classifier=Classifier(MLP(x_shape, classes, hidden=(8,))),
                posterior=DiagonalNormal(WithClass(MLP(6 + classes, 7), classes, features), latent_dim),
            ).double()
            with torch.no_grad():
                m2.class_prior.logits.normal_()
            return m2

    return make


@pytest.fixture
def make_cpcvae() -> Callable[..., CPCVAE]:
    """A small (C)PC-VAE in 64-bit for binary images of 4 x 4 pixels and three classes."""

    def make(seed: int = 0) -> CPCVAE:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return CPCVAE(
                prior=StandardNormal(2),
                likelihood=Bernoulli(MLP(2, (1, 4, 4), hidden=(8,))),
                posterior=DiagonalNormal(MLP((1, 4, 4), 6, hidden=(8,)), 2),
                classifier=LinearClassifier(2, 3),
                class_prior=Classes(3),
            ).double()

    return make


@pytest.fixture
def make_m1m2(make_vae: Callable[..., VAE]) -> Callable[..., M1M2]:
    """A small M1+M2 in 64-bit for binary images of 4 x 4 pixels and three classes."""

    def make(seed: int = 0) -> M1M2:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            m2 = M2(
                class_prior=Classes(3),
                prior=StandardNormal(1),
                likelihood=DiagonalNormal(WithClass(MLP(1 + 3, 5, hidden=(6,)), 3), 2),
                classifier=Classifier(MLP(2, 3, hidden=(6,))),
                posterior=DiagonalNormal(WithClass(MLP(2 + 3, 5, hidden=(6,)), 3), 1),
            )
        return M1M2(make_vae(seed), m2).double()

    return make


@pytest.fixture
def classes() -> Tensor:
    """Classes for `binary_images`, three of them."""
    return torch.arange(24) % 3


@pytest.fixture
def make_ppca() -> Callable[..., PPCA]:
    """Probabilistic PCA in 64-bit, with random parameters and a guide that is somewhat off: shifted,
    and with `spread` times the exact posterior's covariance (which keeps the weights bounded)."""

    def make(latent_dim: int = 2, dimensions: int = 5, spread: float = 1.2, noise: float = 0.7) -> PPCA:
        ppca = PPCA(dimensions, latent_dim).double()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(latent_dim)
            ppca.weight.normal_()
            ppca.mean.normal_()
            ppca.likelihood.log_scale.fill_(noise).log_()
            ppca.set_guide_to_exact_posterior()
            covariance = ppca.posterior.scale_tril @ ppca.posterior.scale_tril.T
            ppca.posterior.set_to(
                ppca.posterior.loc.weight.clone(),
                ppca.posterior.loc.bias + 0.1 * covariance.diagonal().sqrt() * (spread != 1.0),
                spread * covariance,
            )
        return ppca

    return make


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Data drawn from a PPCA model."""

    def sample(ppca: PPCA, num_data: int, seed: int = 0) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            return ppca.likelihood(ppca.prior().sample((num_data,))).sample()

    return sample
