"""The compiled step: what the eager one computes, and a clear word where it cannot be had.

Most tests run the recorded graph operation by operation, which takes no compiler; some compile it.
"""

import copy
import math
import random
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torchrun_job
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import recipes
from pyrovae.compute import compilation
from pyrovae.compute.compilation import NotTraceable, compile_function, decompositions
from pyrovae.data import binarise
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.evaluation import importance, marginal_likelihood
from pyrovae.objectives import SupervisedELBO
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.programs.pair import Pair
from pyrovae.recipes import About, make_objective
from pyrovae.schedules import linear_warm_up
from pyrovae.semi_supervised import constraint_schedule, per_label
from pyrovae.training import fit, steps

pytestmark = pytest.mark.cpu


def settings(**others):
    return {"epochs": 6, "batch_size": 5, "progress": False, "device": "cpu"} | others


def trained(module, x, compile="off", dtype=torch.float64, **others):
    """A copy of the module, trained; its parameters and the history. In 64-bit, where rounding stays small
    whatever optimisers make of it."""
    module, x = copy.deepcopy(module).to(dtype), x.to(dtype)
    if "validation" in others:
        others["validation"] = others["validation"].to(dtype)
    history = fit(module, x, compile=compile, **settings(**others))
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    return module.state_dict(), rows


def assert_close(one, other, rtol=1e-8):
    for (state, rows), (state_, rows_) in [(one, other)]:
        for name in state:
            torch.testing.assert_close(state[name], state_[name], rtol=rtol, atol=rtol / 100)
        assert len(rows) == len(rows_)
        for row, row_ in zip(rows, rows_, strict=True):
            assert row == pytest.approx(row_, rel=rtol)


@pytest.fixture
def builders(make_vae, make_m2, make_m1m2, make_cpcvae):
    return {"vae": make_vae, "m2": make_m2, "m1m2": make_m1m2, "cpcvae": make_cpcvae}


# 24 images in minibatches of 5: 30 steps, of which one in five is an epoch's short one.


@pytest.mark.parametrize("transform", [None, binarise], ids=["as they are", "binarised"])
def test_a_compiled_vae_trains_as_the_eager_one(make_vae, binary_images, recorded, transform):
    train = partial(trained, make_vae(), binary_images, transform=transform)
    assert_close(train(compile="on"), train(compile="off"))


@pytest.mark.parametrize("name", ["m2", "m1m2", "cpcvae"])
@pytest.mark.parametrize("unlabelled", [0, 15])
def test_models_with_classes_train_as_the_eager_ones(name, unlabelled, builders, binary_images, recorded):
    module, x, y = builders[name](), binary_images.double(), torch.arange(24) % 3
    y[24 - unlabelled :] = -1
    if name == "cpcvae":
        weights = {"y": per_label(25.0, y), "y_again": per_label(25.0, y)}
        weights |= {"consistency": 25.0, "aggregate": 25.0} if unlabelled else {}
        schedules = {site: constraint_schedule(w, delay=1, warm_up=3) for site, w in weights.items()}
        supervised = {"weights": schedules}
    else:
        supervised = {"objective": SupervisedELBO(per_label(0.1, y))}

    def train(compile):
        model = copy.deepcopy(module)
        pair = Pair(model.constrained_model, model.guide) if name == "cpcvae" else model
        history = fit(pair, x, y, compile=compile, **settings(), **supervised)
        return model.state_dict(), [row | {"seconds": 0.0} for row in history.rows]

    assert_close(train("on"), train("off"))


def test_schedules_clipping_and_validation_go_on_in_a_compiled_run(make_vae, binary_images, recorded):
    train = partial(
        trained,
        make_vae(),
        binary_images,
        beta=linear_warm_up(7.0),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=3),
        clip_norm=0.5,
        epochs=12,
        validation=binary_images[:6],
    )
    compiled, eager = train(compile="on"), train(compile="off")
    assert_close(compiled, eager)
    assert compiled[1][0]["beta"] < compiled[1][5]["beta"] < compiled[1][10]["beta"] == 1


def test_a_compiled_run_stops_early(make_vae, binary_images, recorded):
    train = partial(
        trained,
        make_vae(),
        binary_images,
        validation=binary_images[:6],
        patience=2,
        optimizer=partial(torch.optim.SGD, lr=0.05),
        epochs=60,
    )
    compiled, eager = train(compile="on"), train(compile="off")
    assert len(eager[1]) < 60
    assert_close(compiled, eager)


def test_an_optimiser_that_evaluates_a_step_more_than_once(make_vae, binary_images, recorded):
    train = partial(
        trained, make_vae(), binary_images, optimizer=partial(torch.optim.LBFGS, lr=0.05), epochs=2
    )
    assert_close(train(compile="on"), train(compile="off"))


def test_a_compiled_run_resumes_to_the_bit(make_vae, binary_images, recorded, tmp_path):
    train = partial(trained, make_vae(), binary_images, transform=binarise, compile="on")
    whole, _ = train(epochs=4)
    train(epochs=2, folder=tmp_path)
    resumed, _ = train(epochs=4, folder=tmp_path, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_loss_that_goes_bad_in_a_compiled_run_is_traced_to_its_site(make_vae, binary_images, recorded):
    with pytest.raises(NonFiniteError, match=r"the loss of step .* at the guide's site 'z'"):
        trained(
            make_vae(),
            binary_images,
            compile="on",
            optimizer=partial(torch.optim.SGD, lr=1e6),
            epochs=50,
        )


def test_parameters_of_plain_functions_train_compiled(binary_images, recorded):
    def model(x):
        logits = pyro.param("logits", lambda: torch.zeros(16))
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=logits * scale.unsqueeze(-1)).to_event(1), obs=x)

    def guide(x):
        width = pyro.param("width", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("scale", dist.LogNormal(x.mean(-1), width))

    def train(compile):
        store = pyro.get_param_store()
        with store.scope():
            history = fit(Pair(model, guide), binary_images.flatten(1), compile=compile, **settings())
            return {name: value.detach().clone() for name, value in store.items()}, [
                row | {"seconds": 0.0} for row in history.rows
            ]

    compiled, eager = train("on"), train("off")
    assert set(eager[0]) == {"logits", "width"}
    assert_close(compiled, eager, rtol=1e-4)


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "normal"])
def test_every_posterior_trains_compiled(posterior, binary_images, recorded):
    steps = dict.fromkeys(POSTERIORS[posterior].options, 2)
    vae = recipes.vae(About((1, 4, 4)), latent_dim=4, width=6, posterior=posterior, **steps).pair
    train = partial(trained, vae, binary_images, epochs=2)
    assert_close(train(compile="on"), train(compile="off"))


@pytest.mark.parametrize("prior", [name for name in PRIORS if name != "normal"])
def test_every_prior_trains_compiled(prior, binary_images, recorded):
    components = dict.fromkeys(PRIORS[prior].options, 5)
    vae = recipes.vae(About((1, 4, 4)), latent_dim=4, width=6, prior=prior, **components).pair
    train = partial(trained, vae, binary_images, epochs=2)
    assert_close(train(compile="on"), train(compile="off"))


@pytest.mark.parametrize("objective", ["iwae", "dreg", "free-bits", "score-function"])
def test_every_objective_trains_compiled(objective, binary_images, recorded):
    bound = make_objective(objective, {"free_bits": 0.5} if objective == "free-bits" else {"particles": 3})
    vae = recipes.hvae(About((1, 4, 4)), latent_dim=2, width=6).pair
    train = partial(trained, vae, binary_images, epochs=2, objective=bound)
    assert_close(train(compile="on"), train(compile="off"))


@pytest.mark.parametrize("name", ["vae", "m2", "m1m2", "cpcvae", "flow and vampprior"])
def test_a_compiled_evaluation_gives_the_same_estimates(name, builders, binary_images, recorded):
    if name in builders:
        module = builders[name]().double()
    else:
        options = {"posterior": "iaf", "flow_steps": 2, "prior": "vamp", "components": 3}
        module = recipes.vae(About((1, 4, 4)), latent_dim=3, width=6, **options).pair.double()
    x = binary_images.double()

    def estimate(compile):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # k-hat
            return marginal_likelihood(module, x, num_samples=300, seed=3, compile=compile)

    compiled, eager = estimate("on"), estimate("off")
    torch.testing.assert_close(compiled.log_px, eager.log_px, rtol=1e-9, atol=0)
    torch.testing.assert_close(compiled.bounds[100], eager.bounds[100], rtol=1e-9, atol=0)
    torch.testing.assert_close(compiled.datum_elbo, eager.datum_elbo, rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_a_compiled_evaluation_tells_drawn_classes_apart(make_m2, binary_images, recorded):
    m2 = make_m2()
    with torch.no_grad():
        m2.classifier.network.output_bias[0] = 20.0
    estimate = partial(
        marginal_likelihood, m2, binary_images[:3].double(), num_samples=100, enumerate=False
    )
    with pytest.warns(UserWarning, match="for 3 of 3 data all draws of the discrete latents are the same"):
        compiled, eager = estimate(compile="on"), estimate(compile="off")
    assert compiled.repeated.all()
    torch.testing.assert_close(compiled.log_px, eager.log_px, rtol=1e-9, atol=0)


def test_an_evaluation_that_cannot_be_compiled_says_so(make_vae, binary_images, recorded, monkeypatch):
    module = Peculiar(make_vae(), looks_at_a_value)
    arguments = partial(marginal_likelihood, module, binary_images, num_samples=100)
    with pytest.raises(InputError, match=r"the evaluation cannot be compiled: .*compile='off'"):
        arguments(compile="on")
    monkeypatch.setattr(importance, "LONG_EVALUATION", 1)
    with warnings.catch_warnings(record=True) as caught:  # of k-hat too
        warnings.simplefilter("always")
        arguments()
    assert str(caught[0].message).startswith("the evaluation runs without being compiled: ")
    for unknown in ("yes", True, None):
        with pytest.raises(InputError, match=f"unknown way to compile '{unknown}'"):
            arguments(compile=unknown)


def test_few_draws_are_scored_by_a_graph_where_asked(make_vae, binary_images, recorded, monkeypatch):
    made = []

    def spy(*args, compiler=compilation.compile_function):
        made.append(args)
        return compiler(*args)

    monkeypatch.setattr(compilation, "compile_function", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat
        marginal_likelihood(make_vae(), binary_images[:3], num_samples=7, compile="on")
    assert len(made) == 1


def test_inductor_computes_the_same(make_vae, binary_images):
    train = partial(trained, make_vae(), binary_images, dtype=torch.float32, transform=binarise)
    assert_close(train(compile="on"), train(compile="off"), rtol=1e-4)


class Peculiar(torch.nn.Module):
    """A VAE's programs with something in them that a graph cannot hold."""

    def __init__(self, vae, peculiarity):
        super().__init__()
        self.vae, self.peculiarity = vae, peculiarity

    def model(self, x):
        with pyro.poutine.scale(scale=1.0 + self.peculiarity(x)):
            self.vae.model(x)

    def guide(self, x):
        self.vae.guide(x)


def looks_at_a_value(x):
    return 1.0 if x.sum().item() > 0 else 2.0


def draws_by_numpy(x):
    return float(np.random.default_rng().random())


class Counts:
    def __init__(self, step=0.1):
        self.step, self.calls = step, 0

    def __call__(self, x):
        self.calls += 1
        return self.step * self.calls


@pytest.mark.parametrize(
    ("peculiarity", "reason"),
    [
        (looks_at_a_value, r"reads the value of a tensor at test_compilation\.py:\d+ \(`return 1\.0 if x"),
        (draws_by_numpy, "depends on something that is not a tensor"),
        (Counts(), r"changes `model\.peculiarity\.calls` each time it runs"),
        (Counts(1e-9), r"changes `model\.peculiarity\.calls` each time it runs"),
    ],
    ids=["a branch on a value", "numpy's draws", "a counter", "a slow counter"],
)
def test_what_cannot_be_compiled_is_said_in_one_line(
    make_vae, binary_images, recorded, monkeypatch, peculiarity, reason
):
    module = Peculiar(make_vae(), peculiarity)
    with pytest.raises(InputError, match=rf"cannot be compiled: .*{reason}.*compile='off'"):
        trained(module, binary_images, compile="on", epochs=1)
    monkeypatch.setattr(steps, "LONG_RUN", 5)
    with pytest.warns(UserWarning, match=f"without being compiled: .*{reason}") as caught:
        trained(module, binary_images, compile="auto", epochs=1)
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__, "the warning points at the call of fit"


def test_a_parameter_that_is_read_does_not_become_a_constant(make_vae, binary_images, recorded):
    class Reads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae, self.factor = make_vae(), torch.nn.Parameter(torch.tensor(0.9))

        def model(self, x):
            with pyro.poutine.scale(scale=self.factor.item()):
                self.vae.model(x)
            pyro.factor("used", self.factor - self.factor)

        def guide(self, x):
            self.vae.guide(x)

    with pytest.raises(InputError, match=r"reads the value of a tensor at .*`with pyro.poutine.scale"):
        trained(Reads(), binary_images, compile="on", epochs=1)


class Normalised(torch.nn.Module):
    """Features with batch normalisation, behind a bias whose gradient is zero but for rounding."""

    def __init__(self, network):
        super().__init__()
        self.network, self.out_shape = network, network.out_shape
        self.normalisation = torch.nn.BatchNorm1d(*network.out_shape)

    def forward(self, x):
        return self.normalisation(self.network(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compilation_leaves_running_statistics_alone(make_vae, binary_images, recorded, tmp_path, dtype):
    vae = make_vae()
    vae.posterior.network = Normalised(vae.posterior.network)
    # Adam would divide the rounding of that bias's gradient by its own size.
    sgd = partial(torch.optim.SGD, lr=0.01)
    train = partial(trained, vae, binary_images, dtype=dtype, epochs=2, optimizer=sgd)
    assert_close(train(compile="on"), train(compile="off"), rtol=1e-8 if dtype == torch.float64 else 1e-3)
    whole, _ = train(compile="on")
    train(compile="on", epochs=1, folder=tmp_path)
    resumed, _ = train(compile="on", folder=tmp_path, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_auto_compiles_long_runs_only(make_vae, binary_images, monkeypatch):
    calls = []

    def spy(*args):
        calls.append(args)
        return compile_function(*args, inductor=False)

    monkeypatch.setattr(compilation, "compile_function", spy)
    monkeypatch.setattr(steps, "LONG_RUN", 15)
    for epochs, compile, expected in [(2, "auto", 0), (3, "auto", 1), (3, "off", 1), (1, "on", 2)]:
        trained(make_vae(), binary_images, epochs=epochs, compile=compile)
        assert len(calls) == expected


def test_a_way_of_compiling_that_there_is_not(make_vae, binary_images):
    for unknown in ("yes", True, None):
        message = f"unknown way to compile '{unknown}'; choose from auto, on, off"
        with pytest.raises(InputError, match=message):
            trained(make_vae(), binary_images, compile=unknown)


def test_a_graph_sees_parameters_as_they_are_and_draws_as_the_function_does():
    weight = torch.randn(3, requires_grad=True)

    def function(values, scale):
        loss = (weight * values).sum() * scale + torch.randn(())
        return [loss, *torch.autograd.grad(loss, [weight])]

    def arguments(scale):
        return torch.randn(3), torch.tensor(scale)

    compiled = compile_function(function, arguments(1.0), arguments(2.0), inductor=False)
    for scale in (0.5, math.pi):
        args = arguments(scale)
        torch.manual_seed(0)
        loss, gradient = function(*args)
        torch.manual_seed(0)
        found = compiled(*args)
        torch.testing.assert_close(found, [loss.detach(), gradient])
        assert not found[0].requires_grad
        with torch.no_grad():
            weight.add_(1.0)  # as an optimiser does, between calls


def test_a_graph_that_computes_something_else_is_not_used():
    numbers = iter(range(100))
    with pytest.raises(NotTraceable, match="depends on something that is not a tensor"):
        compile_function(lambda x: [x * next(numbers)], [torch.ones(2)], [torch.ones(2)], inductor=False)


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda: random.random(), r"draws from Python's `random`"),
        (lambda: np.random.rand(), r"draws from `numpy\.random`"),
        (
            partial(torch.rand, (), generator=torch.Generator()),
            r"draws from a torch\.Generator of its own at ",
        ),
    ],
    ids=["Python's", "NumPy's", "an own one of torch's"],
)
def test_draws_that_a_graph_cannot_make_are_refused_even_if_their_values_do_not_matter(draw, reason):
    def function(x):
        return [x + 0.0 * (draw() > 2.0)]

    with pytest.raises(NotTraceable, match=reason):
        compile_function(function, [torch.ones(2)], [torch.zeros(2)], inductor=False)


@pytest.mark.parametrize("scale", [2.0, torch.tensor(2.0)], ids=["a number", "a tensor"])
def test_a_known_record_is_used_again_while_the_function_is_the_same(scale):
    made = {"scale": scale}
    compile_again = partial(
        compile_function, lambda x: [x * made["scale"]], [torch.ones(2)], [torch.zeros(2)], inductor=False
    )
    first = compile_again()
    assert compile_again(first) is first
    made["scale"] = scale * 1.5
    second = compile_again(first)
    assert second is not first
    assert second(torch.ones(2))[0].tolist() == [3.0, 3.0]
    assert (second.digest == first.digest) == isinstance(scale, torch.Tensor), "live tensors are not in it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_near_1_are_right_to_the_last_digits(dtype):
    """Of log1p, and of what is made of it: a graph has none, but its numbers."""
    small = torch.logspace(-44, 0, 500, dtype=dtype)
    large = torch.logspace(0, 38, 100, dtype=dtype)
    special = torch.tensor([0.0, -0.0, -0.5, -1.0, math.inf, -2.0, math.nan], dtype=dtype)
    x = torch.cat([small, -small[:-1], large, special])
    logits = torch.linspace(-90, 90, len(x), dtype=dtype)
    target = torch.rand_like(x).round()

    def function(x, logits):
        return [
            x.log1p(),
            torch.nn.functional.softplus(logits),
            torch.nn.functional.logsigmoid(logits),
            dist.Bernoulli(logits=logits, validate_args=False).log_prob(target),
        ]

    expected = function(x, logits)
    graph = make_fx(function, decompositions([x]))(x, logits)
    assert "log1p" not in graph.code
    for found, exact in zip(graph(x, logits), expected, strict=True):
        finfo = torch.finfo(dtype)
        torch.testing.assert_close(found, exact, rtol=4 * finfo.eps, atol=finfo.tiny, equal_nan=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_step_agrees_with_the_eager_one_on_cuda():
    x, _ = torchrun_job.data()
    trained = []
    for mode in ("off", "on"):
        pair = torchrun_job.pair(torchrun_job.FixedNoise)
        settings = {"epochs": 20, "batch_size": 20, "progress": False, "device": "cuda"}
        history = fit(pair, x, compile=mode, **settings)
        trained.append((pair.state_dict(), history["loss"]))
    (eager, losses), (captured, captured_losses) = trained
    assert captured_losses == pytest.approx(losses, rel=1e-4)
    for name, value in eager.items():
        assert torch.allclose(value, captured[name], rtol=1e-4, atol=1e-5), name


def test_a_bias_is_added_apart_from_the_product():
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)

    def products(x):
        half = torch.addmm(bias, x, weight.t(), beta=0.5)
        return [
            torch.nn.functional.linear(x, weight, bias),
            half,
            torch.addmm(bias, x, weight.t(), alpha=2.0),
        ]

    graph = make_fx(products, decompositions([x]))(x)
    names = [node.target for node in graph.graph.nodes]
    assert names.count(torch.ops.aten.mm.default) == 2
    assert names.count(torch.ops.aten.addmm.default) == 1  # the one with a factor before the product
    product = x.double() @ weight.double().t()
    expected = [product + bias, product + 0.5 * bias, 2 * product + bias]
    for found, right in zip(graph(x), expected, strict=True):
        assert torch.allclose(found.double(), right, atol=1e-5)
