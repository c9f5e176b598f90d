"""Settings, data and contexts that users bring along: they work, or are refused with advice that works."""

import functools
import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.checkpoint import checkpoint
from training_helpers import X_SHAPE, Interruption, frozen, interrupt, same, snapshot, train, vae_with

from pyrovae.errors import InputError, NonFiniteError
from pyrovae.evaluation import gradient_variance, marginal_likelihood
from pyrovae.models import PPCA
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, IWAE, SupervisedELBO
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import VampPrior
from pyrovae.programs.pair import Pair
from pyrovae.training.validation import Validation

pytestmark = pytest.mark.cpu


@pytest.fixture
def x():
    return torch.randn(24, 3, generator=torch.Generator().manual_seed(1))


def normal_pair(likelihood, posterior=lambda x: dist.Normal(x / 2, 0.5**0.5)):
    """z ~ N(0, 1) and the given likelihood for each of the data `(B,)`, or `(B, M)` as events."""

    def model(x, *others):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1:]), 1.0).to_event(x.dim() - 1))
            pyro.sample("x", likelihood(z, *others), obs=x)

    def guide(x, *others):
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x + shift).to_event(x.dim() - 1))

    return Pair(model, guide)


# What bounds are divided by


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda x: torch.cat([x, x]), "makes 20 data of 10 data"),
        (lambda x: x[::2], "makes 5 data of 10 data"),
        (lambda x: x[x[:, 0] > 0], r"makes \d+ data of 10 data"),
        (lambda x: x.numpy(), "makes a ndarray of 10 data"),
        (nn.Linear(3, 3), "the transform Linear returns data that require gradients"),
    ],
    ids=["two views", "half", "chosen", "array", "network"],
)
def test_a_transform_that_changes_the_data_otherwise_is_refused(transform, message, x):
    with pytest.raises(InputError, match=message):
        train(PPCA((3,), 1), x, transform=transform)


def test_a_transform_that_drops_validation_data_only_is_refused(x):
    with pytest.raises(InputError, match="makes 7 data of 9 data"):
        train(PPCA((3,), 1), x, transform=lambda x: x[:7] if len(x) == 9 else x, validation=x[:9])


def test_views_made_before_training_work(x):
    train(PPCA((3,), 1), torch.cat([x, x.flip(1)]))
    train(PPCA((3,), 1), x, transform=lambda x: nn.Linear(3, 3)(x).detach())


# Optimisers, schedules and objectives


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
        lambda p: torch.optim.Adam(p),
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9),
        lambda p: pyro.optim.Adam({"lr": 1e-3, "betas": (0.9, 0.99)}),
        lambda p: pyro.optim.ClippedAdam({"lr": 0.01}),
        lambda p: pyro.optim.StepLR(
            {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01}, "step_size": 2}
        ),
        lambda p: pyro.optim.Adam,
    ],
    ids=["sgd", "adam", "rmsprop", "pyro adam", "pyro clipped", "pyro schedule", "pyro function"],
)
def test_an_optimiser_object_is_refused_with_a_line_that_works(make, x):
    ppca = PPCA((3,), 1)
    with pytest.raises(InputError, match=r"write optimizer=functools\.partial\(") as caught:
        train(ppca, x, optimizer=make(ppca.parameters()))
    line = str(caught.value).split("write optimizer=")[1].removesuffix(".")
    advised = eval(line, {"functools": functools, "torch": torch})
    train(ppca, x, optimizer=advised)
    if isinstance(given := make(ppca.parameters()), torch.optim.Optimizer):
        assert advised([torch.zeros(1, requires_grad=True)]).defaults == given.defaults


def test_a_function_that_makes_no_optimiser_and_no_scheduler_is_named(x, tmp_path):
    with pytest.raises(InputError, match="the function optimizer returns a list, not an optimiser"):
        train(PPCA((3,), 1), x, optimizer=list)
    with pytest.raises(InputError, match="the function scheduler returns a NoneType without step"):
        train(PPCA((3,), 1), x, scheduler=lambda optimizer: None)
    with pytest.raises(InputError, match=r"scheduler is a StepLR object.*lr_scheduler\.StepLR"):
        train(PPCA((3,), 1), x, scheduler=StepLR(frozen([torch.zeros(1, requires_grad=True)]), 1))


class Counting:
    """A weight that is controlled by counting its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        return min(1.0, 0.1 * self.calls)


_SEVEN = iter([0.1] * 7)


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (Counting(), r"beta is 0\.1 at epoch 0, and [01]\.[0-9]* when it is called again"),
        (iter([0.1, 0.2, 0.3]), "an iterator; expected a number or a function"),
        (iter([0.1, 0.2, 0.3]).__next__, "cannot be called with a time"),
        (lambda epoch, values=_SEVEN: next(values), "cannot be called with a time"),
        (lambda epoch: random.random(), "when it is called again for the same epoch"),
    ],
    ids=["counter", "iterator", "next", "inside", "random"],
)
def test_a_schedule_that_is_no_function_of_the_time_is_refused(beta, message, x):
    with pytest.raises(InputError, match=message):
        train(PPCA((3,), 1), x, beta=beta, epochs=5)
    if not isinstance(beta, type(iter([]))):
        with pytest.raises(InputError, match="the weight of 'x'"):
            train(PPCA((3,), 1), x, weights={"x": Counting()}, epochs=5)


def test_the_remedy_for_a_controlled_weight_works(x):
    class Control:
        beta = 0.25

        def __call__(self, state):
            self.beta *= 2

    control = Control()
    settings = {"callbacks": [control], "optimizer": frozen, "epochs": 3}
    history = train(PPCA((3,), 1), x, beta=lambda epoch: control.beta, **settings)
    assert history["beta"] == [0.25, 0.5, 1.0]
    for row in history.rows:
        assert row["loss"] == pytest.approx(row["beta"] * row["kl"] - row["reconstruction"], rel=1e-5)


@pytest.mark.parametrize("objective", [TraceGraph_ELBO(), RenyiELBO(num_particles=2)])
def test_an_objective_with_baselines_is_refused_with_objectives_that_work(objective, x):
    with pytest.raises(InputError, match=r"has no loss to differentiate: use ELBO\(\).*IWAE\(50\)"):
        train(PPCA((3,), 1), x, objective=objective)
    train(PPCA((3,), 1), x, objective=IWAE(50), epochs=1)


def test_a_column_that_pyros_objective_lacks_is_explained(x):
    history = train(PPCA((3,), 1), x, objective=Trace_ELBO())
    with pytest.raises(KeyError, match=r"no column 'elbo', but epoch.*Pyro's objectives report no terms"):
        history["elbo"]
    assert len(history["loss"]) == 2


# Batch normalisation


class Normalised(nn.Module):
    """A linear pair whose encoder normalises its minibatch."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.decoder = nn.Linear(2, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


@pytest.mark.parametrize(("num_data", "batch_size"), [(21, 10), (7, 2), (9, 8), (5, 4)])
def test_a_single_datum_left_over_is_refused_with_a_size_that_works(num_data, batch_size, x):
    message = rf"last minibatch of an epoch has 1 of {num_data} data.*set batch_size=\d+\."
    with pytest.raises(InputError, match=message) as caught:
        train(Normalised(), x[:num_data], batch_size=batch_size)
    advised = int(str(caught.value).split("set batch_size=")[1].removesuffix("."))
    train(Normalised(), x[:num_data], batch_size=advised)
    train(Normalised(), x[: num_data - 1], batch_size=batch_size)


def test_a_single_labelled_datum_left_over_is_refused_with_the_argument_of_its_part(x):
    class WithClasses(Normalised):
        def model(self, x, y=None):
            super().model(x)

        def guide(self, x, y=None):
            super().guide(x)

    y = torch.tensor([0] * 21 + [-1] * 3)
    with pytest.raises(
        InputError, match=r"last .* has 1 of 21 labelled data.*set labelled_batch_size=11\."
    ):
        train(WithClasses(), x, y=y, batch_size=10, labelled_batch_size=10)
    train(WithClasses(), x, y=y, batch_size=10, labelled_batch_size=11)
    y = torch.tensor([0] * 22 + [-1] * 2)
    message = r"a minibatch has 1 of 2 unlabelled data.*set batch_size=2 and labelled_batch_size=11\."
    with pytest.raises(InputError, match=message):
        train(WithClasses(), x, y=y, batch_size=11)
    train(WithClasses(), x, y=y, batch_size=2, labelled_batch_size=11)


def test_a_size_that_a_program_has_fixed_is_found_before_training(x, param_store):
    def shaped(z):
        return dist.Normal(z.reshape(12, 3), 1.0).to_event(1)

    message = r"last minibatch of an epoch has 10 of 22 data.*\[12, 3\].*any number of data, by len\(x\)"
    with pytest.raises(InputError, match=message):
        train(normal_pair(shaped), x[:22], batch_size=12)


def test_statistics_move_in_steps_only(x):
    pair = Normalised()
    # The schedule is asked twice for each epoch in advance, and then by the first step.
    calls = iter([1.0] * 4)
    with pytest.raises(Interruption):
        train(pair, x, beta=lambda epoch: next(calls, None) or interrupt())
    assert pair.encoder[1].num_batches_tracked == 0
    train(pair, x, epochs=2, batch_size=12)
    assert pair.encoder[1].num_batches_tracked == 4


# Data


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.uint16])
def test_classes_of_any_whole_type_are_those_of_64_bits(kind, make_m2, classes):
    images = torch.rand(len(classes), *X_SHAPE, generator=torch.Generator().manual_seed(1)).round().double()
    one, other = make_m2(), make_m2()
    settings = {"objective": SupervisedELBO(1.0)}
    history = train(
        one, images, y=classes.to(kind), validation=(images[:6], classes[:6].to(kind)), **settings
    )
    expected = train(other, images, y=classes, validation=(images[:6], classes[:6]), **settings)
    assert history["loss"] == expected["loss"]
    assert history["validation_elbo"] == expected["validation_elbo"]
    found = marginal_likelihood(one, images[:4], classes[:4].to(kind), num_samples=10)
    again = marginal_likelihood(one, images[:4], classes[:4], num_samples=10)
    assert torch.equal(found.log_px, again.log_px)


def test_labels_of_8_bits_with_255_are_no_unlabelled_data(make_m2, binary_images):
    with pytest.raises(InputError, match="the classes y go up to 255, and site 'y' has 3"):
        train(make_m2(), binary_images.double(), y=torch.full((24,), 255, dtype=torch.uint8))


def test_a_mask_reaches_the_program_as_it_is_and_the_bound_is_that_of_the_values_seen(x, param_store):
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.6

    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).mask(seen).to_event(1), obs=x)

    def guide(x, seen):  # the exact posterior, so that the bound is the evidence
        shift = pyro.param("shift", torch.zeros(()))
        loc, scale = torch.where(seen, x / 2, 0.0), torch.where(seen, 0.5**0.5, 1.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + shift, scale).to_event(1))

    pair = Pair(model, guide)
    history = train(pair, x, y=mask, optimizer=frozen, validation=(x, mask))
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)[mask].sum().item() / 24  # each value seen is N(0, 2)
    assert history["elbo"] == pytest.approx([exact] * 2, rel=1e-4)
    assert history["validation_elbo"] == pytest.approx([exact] * 2, rel=1e-4)


def test_a_mask_of_rows_is_no_list_of_classes(x, param_store):
    known = torch.arange(24) % 2 == 0

    def likelihood(z, known):
        return dist.Normal(z, 1.0).mask(known[:, None]).to_event(1)

    seen = []

    def noted(z, known):
        seen.append(known.dtype)
        return likelihood(z, known)

    train(normal_pair(noted), x, y=known)
    assert set(seen) == {torch.bool}


def test_data_that_require_gradients_are_refused_with_the_remedy(x):
    before = nn.Linear(3, 3)
    for given in (before(x), x.clone().requires_grad_()):
        with pytest.raises(InputError, match=r"the data require gradients.*x\.detach\(\)"):
            train(PPCA((3,), 1), given)
        with pytest.raises(InputError, match=r"the data require gradients"):
            train(PPCA((3,), 1), x, validation=given)
        train(PPCA((3,), 1), given.detach())


def test_complex_data_are_refused_with_a_remedy_that_keeps_both_parts(x):
    waves = torch.complex(x, x.flip(0))
    with pytest.raises(InputError, match=r"type torch\.complex64.*torch\.view_as_real\(x\)"):
        train(PPCA((3,), 1), waves)
    train(PPCA((3, 2), 1), torch.view_as_real(waves))


# Complex and 16-bit parameters


class Waves(nn.Module):
    """A decoder |w z|^2 with one complex weight, or with its two parts as real parameters."""

    def __init__(self, parts):
        super().__init__()
        value = torch.tensor([0.3 + 0.4j, -0.2 + 0.1j, 0.5 - 0.3j])
        if parts:
            self.real, self.imag = nn.Parameter(value.real.clone()), nn.Parameter(value.imag.clone())
        else:
            self.weight = nn.Parameter(value)

    def model(self, x):
        weight = self.weight if hasattr(self, "weight") else torch.complex(self.real, self.imag)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = (weight * (1 + z)).abs().square()
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1] / 3, 0.5).to_event(1))


def test_a_complex_parameter_trains_by_default_as_its_two_parts_do(x, tmp_path):
    sgd = partial(torch.optim.SGD, lr=0.01)
    whole, parts = Waves(False), Waves(True)
    for pair in (whole, parts):
        train(pair, x, optimizer=sgd, clip_norm=0.5, epochs=5)
    assert torch.allclose(whole.weight, torch.complex(parts.real, parts.imag), atol=1e-6)
    before = whole.weight.detach().clone()
    train(whole, x, folder=tmp_path)
    assert (whole.weight.imag != before.imag).all()


def test_the_variance_of_a_complex_gradient_is_that_of_its_two_parts(x):
    whole, parts = (gradient_variance(ELBO(), Waves(p), x, repeats=20) for p in (False, True))
    assert whole.total_variance == pytest.approx(parts.total_variance, rel=1e-4)
    assert whole.signal_to_noise == pytest.approx(parts.signal_to_noise, rel=1e-4)
    mean = torch.complex(parts.mean["real"], parts.mean["imag"])
    assert torch.allclose(whole.mean["weight"], mean, rtol=1e-4)


def test_pseudo_inputs_through_a_16_bit_encoder_are_learned_in_32_bits(binary_images):
    class Half(nn.Module):
        """An encoder in 16 bits within a 32-bit pair."""

        def __init__(self):
            super().__init__()
            self.network = MLP(X_SHAPE, 6, hidden=(8,)).to(torch.bfloat16)
            self.out_shape = (6,)

        def forward(self, x):
            return self.network(x.to(torch.bfloat16)).float()

    posterior = DiagonalNormal(Half(), 2)
    vae = vae_with(posterior=posterior)
    vae.prior = VampPrior(posterior, X_SHAPE, pseudo_inputs=4)
    assert vae.prior.free.dtype == torch.float32
    before = vae.prior.free.detach().clone()
    train(vae, binary_images, epochs=20)
    assert (vae.prior.free != before).all(), "every number moves"


# Supports


def uniform_around(z):
    return dist.Uniform(z - 1, z + 1).to_event(1)


def test_a_support_that_depends_on_a_latent_is_not_held_against_one_draw(param_store):
    x = torch.linspace(-1, 1, 6)[:, None]
    # With a guide that reaches beyond (x - 1, x + 1), single draws leave data outside of the support. The
    # evidence is half the normal probability of that interval.
    wide = normal_pair(uniform_around, lambda x: dist.Normal(x, 1.0))
    found = marginal_likelihood(wide, x, num_samples=4000)
    normal = torch.distributions.Normal(0.0, 1.0)
    exact = ((normal.cdf(x + 1) - normal.cdf(x - 1)) / 2).log().squeeze(1)
    assert torch.allclose(found.log_px.float(), exact, atol=0.1)
    # The ELBO of such a guide is minus infinity, and training says at which site.
    with pytest.raises(NonFiniteError, match=r"the model's site 'x' \(Uniform\)"):
        train(wide, x, epochs=20)


def test_a_guide_within_such_a_support_trains(param_store):
    x = torch.linspace(-1, 1, 6)[:, None]
    pair = normal_pair(uniform_around, lambda x: dist.Uniform(x - 0.99, x + 0.99))
    history = train(pair, x, optimizer=frozen, epochs=1)
    # KL(Uniform(x - a, x + a) || N(0, 1)) and log(1/2), by hand, with a tolerance for few draws.
    a = 0.99
    kl = -np.log(2 * a) + 0.5 * np.log(2 * np.pi) + ((x**2).mean().item() + a**2 / 3) / 2
    assert history["kl"][0] == pytest.approx(kl, abs=0.6)
    assert history["reconstruction"][0] == pytest.approx(-np.log(2), rel=1e-5)


def test_a_support_that_is_fixed_is_still_held_against_the_data(x, param_store):
    pair = normal_pair(lambda z: dist.Uniform(torch.zeros(3), 1.0).to_event(1))
    with pytest.raises(InputError, match="lie outside the support of the Uniform"):
        train(pair, x)
    given_away = normal_pair(lambda z: dist.Bernoulli(logits=z, validate_args=False).to_event(1))
    grey = x.sigmoid()
    history = train(given_away, grey, optimizer=frozen, batch_size=24)
    assert np.isfinite(history["elbo"]).all()


def test_documents_of_several_lengths_are_scored_by_their_own_counts(param_store):
    """With validate_args=False a multinomial takes any row of counts: log n! - sum log x! + sum x log p."""
    counts = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 1.0]])
    logits = torch.tensor([0.1, -0.3, 0.5])

    def likelihood(z):
        return dist.Multinomial(logits=logits + 0 * z, validate_args=False)

    pair = normal_pair(likelihood, lambda x: dist.Normal(0 * x, 1.0))
    history = train(pair, counts, optimizer=frozen)
    exact = (counts.sum(1) + 1).lgamma() - (counts + 1).lgamma().sum(1)
    exact = exact + (counts * logits.log_softmax(0)).sum(1)
    assert history["elbo"][0] == pytest.approx(exact.mean().item(), rel=1e-5)


# Gradients


@pytest.mark.parametrize("hidden", [False, True], ids=["behind an input", "first layer"])
def test_reentrant_checkpointing_is_refused_with_the_remedy(hidden, x):
    class Saving(Normalised):
        reentrant = True

        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(3, 2)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = self.saved(self.decoder, z) if not hidden else self.decoder(z)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(self, x):
            mean = self.saved(self.encoder, x) if hidden else self.encoder(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(mean, 0.5).to_event(1))

        def saved(self, network, x):
            return checkpoint(network, x, use_reentrant=self.reentrant)

    pair = Saving()
    with pytest.raises(InputError, match=r"write checkpoint\(\.\.\., use_reentrant=False\)"):
        train(pair, x)
    pair.reentrant = False
    before = snapshot(pair)
    train(pair, x)
    assert all(not value.equal(before[name]) for name, value in pair.state_dict().items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_without_gradients_make_no_difference(context, make_vae, binary_images):
    one, other = make_vae(), make_vae()
    train(one, binary_images, validation=binary_images[:5])
    with context():
        data = binary_images.clone()
        train(other, data, validation=data[:5])
    assert same(one.state_dict(), other.state_dict())


def test_parameters_made_in_inference_mode_are_named(make_vae, binary_images):
    with torch.inference_mode():
        vae = make_vae()
    with pytest.raises(InputError, match=r"likelihood.*were made under torch\.inference_mode"):
        train(vae, binary_images)


def test_autocast_is_refused(make_vae, binary_images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(InputError, match=r"under torch\.autocast.*outside of the block"):
            train(make_vae(), binary_images)
        with torch.autocast("cpu", enabled=False):
            train(make_vae(), binary_images)


def test_a_callback_may_train_another_pair(make_vae, binary_images):
    other = make_vae()
    inner = []
    train(make_vae(), binary_images, callbacks=[lambda state: inner.append(train(other, binary_images))])
    assert len(inner) == 2


# The memory of validation


@pytest.mark.parametrize(
    ("classes", "batch_size", "most"),
    [(160, 32, 32), (10, 32, 32), (10, 128, 128), (3, 2, 5), (1, 20, 160)],
)
def test_validation_scores_about_as_many_rows_at_once_as_training(
    classes, batch_size, most, monkeypatch, param_store
):
    sizes = []
    evaluate, bounds = ELBO.evaluate, Validation.bounds

    def noted(self, pair, *args, **kwargs):
        sizes.append(len(args[0]))
        return evaluate(self, pair, *args, **kwargs)

    def noting(self, epoch):
        with monkeypatch.context() as patch:
            patch.setattr(ELBO, "evaluate", noted)
            return bounds(self, epoch)

    def program(role):
        def run(x):
            with pyro.plate("data", len(x)):
                logits = torch.zeros(classes)
                infer = {"enumerate": "parallel"} if role == "guide" else {}
                if classes > 1:
                    pyro.sample("y", dist.Categorical(logits=logits), infer=infer)
                loc = pyro.param("loc", torch.zeros(())) if role == "guide" else 0.0
                z = pyro.sample("z", dist.Normal(loc, 1.0))
                if role == "model":
                    pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x[..., :1])

        return run

    class Both(nn.Module):
        model = staticmethod(program("model"))
        guide = staticmethod(program("guide"))

    monkeypatch.setattr(Validation, "bounds", noting)
    data = torch.randn(400, 2)
    train(Both(), data[:batch_size], batch_size=batch_size, validation=data, epochs=1)
    assert max(sizes) == most
    assert sum(sizes) == 400
