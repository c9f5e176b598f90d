"""Training and evidence where values are missing: the bound is that of the observed elements."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import Dataset

from pyrovae import data, fit
from pyrovae.distributions import masked
from pyrovae.errors import InputError
from pyrovae.evaluation import impute, marginal_likelihood
from pyrovae.models import PPCA
from pyrovae.objectives import IWAE
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

HAT = pytest.mark.filterwarnings("ignore:k-hat")


@pytest.fixture
def with_gaps(binary_images):
    """Binary images with a third of their pixels missing, and the mask of the others."""
    observed = torch.rand(binary_images.shape, generator=torch.Generator().manual_seed(2)) < 0.67
    return binary_images.where(observed, torch.nan), observed


def masking_program():
    """A program of one's own, which masks by itself: missing values are set to 0 and get no density."""

    def model(x, mask=None, observed=None):
        mask = observed if mask is None else mask
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            fn = dist.Normal(loc + z.unsqueeze(-1), 1.0).mask(mask.bool()).to_event(1)
            pyro.sample("x", fn, obs=x.nan_to_num())

    def guide(x, mask=None, observed=None):
        mask = observed if mask is None else mask
        with pyro.plate("data", len(x)):
            loc = (x.nan_to_num() * mask).sum(-1) / (1 + mask.sum(-1))
            pyro.sample("z", dist.Normal(loc, (1 / (1 + mask.sum(-1))).sqrt()))

    return Pair(model, guide)


# Which data are refused


@HAT
def test_nan_is_refused_with_a_remedy_that_works(make_vae, with_gaps, param_store):
    x, observed = with_gaps
    own = torch.tensor([[1.0, torch.nan], [0.5, 0.2]])
    for pair, values, mask in ((make_vae(), x, observed), (masking_program(), own, ~own.isnan())):
        message = r'24 of 24|1 of 2.*not finite.*given=\{"observed": mask\}.* torch.bool'
        with pytest.raises(InputError, match=message):
            fit(pair, values, epochs=1)
        with pytest.raises(InputError, match=message):
            marginal_likelihood(pair, values, num_samples=10)
        fit(pair, values, given={"observed": mask}, epochs=1)
        evidence = marginal_likelihood(pair, values, given={"observed": mask}, num_samples=10)
        assert evidence.log_px.isfinite().all()


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_a_mask_as_second_argument_is_given_as_it_is(kind, param_store):
    """`model(x, mask)`: the evidence is that of the observed of two correlated Gaussian columns."""
    x = torch.tensor([[1.0, 9.0], [0.5, -0.2]])
    mask = torch.tensor([[1, 0], [1, 1]]).to(kind)
    found = marginal_likelihood(masking_program(), x, mask, num_samples=50).log_px
    both = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1).log_prob(x[1])
    expected = torch.stack([dist.Normal(0.0, math.sqrt(2)).log_prob(x[0, 0]), both])
    torch.testing.assert_close(found, expected.double())


@pytest.mark.parametrize("mask", [lambda m: ~m, lambda m: m.float(), lambda m: m[0]])
def test_nan_where_a_value_was_observed_stays_refused(make_vae, with_gaps, mask):
    x, observed = with_gaps
    with pytest.raises(InputError, match="24 of 24 data hold values that are not finite"):
        fit(make_vae(), x, given={"observed": mask(observed)}, epochs=1)


def test_a_model_that_reads_missing_values_is_refused_in_training_and_evaluation(with_gaps, make_vae):
    x, observed = with_gaps
    vae = make_vae()
    pair = Pair(
        lambda x, observed: vae.model(x.nan_to_num()), lambda x, observed: vae.guide(x.nan_to_num())
    )
    for refused in (fit, marginal_likelihood):
        with pytest.raises(InputError, match="site 'x' depends on values of the data where `observed` is"):
            refused(pair, x.nan_to_num(), given={"observed": observed})


def test_a_guide_may_read_fillers(with_gaps, make_vae):
    x, observed = with_gaps
    vae = make_vae()
    pair = Pair(vae.model, lambda x, y=None, observed=None: vae.guide(x))
    fit(pair, x.nan_to_num(1.0), given={"observed": observed}, epochs=1)


class Mixture(torch.nn.Module):
    """Two classes with means of three columns, each column in a plate, so that elements are no event."""

    def __init__(self, in_guide):
        super().__init__()
        self.in_guide = in_guide
        self.means = torch.nn.Parameter(torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 0.5]]))

    def model(self, x, observed=None):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            y = pyro.sample(
                "y", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"}
            )
            with pyro.plate("columns", 3, dim=-1):
                loc = torch.where(y == 0, self.means[0], self.means[1])
                pyro.sample("x", masked(dist.Normal(loc + 0 * z, 1.0), observed), obs=x)

    def guide(self, x, observed=None):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            if self.in_guide:
                probs = torch.tensor([0.5, 0.5]).expand(len(x), 1, 2)
                pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})


@HAT
@pytest.mark.parametrize("in_guide", [True, False])
def test_classes_are_summed_out_beside_missing_columns(in_guide):
    mixture = Mixture(in_guide)
    x = torch.randn(5, 3)
    observed = torch.rand(5, 3) < 0.5
    each = dist.Normal(mixture.means.unsqueeze(1), 1.0).log_prob(x) * observed
    log_joint = torch.tensor([0.4, 0.6]).log() + each.sum(-1).T
    gaps, given = x.where(observed, torch.nan), {"observed": observed}
    evidence = marginal_likelihood(mixture, gaps, given=given, num_samples=30)
    torch.testing.assert_close(evidence.log_px.float(), log_joint.logsumexp(1).detach())
    bound = (0.5 * (log_joint - math.log(0.5))).sum(1) if in_guide else log_joint.logsumexp(1)
    (gradient,) = torch.autograd.grad(-bound.mean(), mixture.means)
    start = mixture.means.detach().clone()
    history = fit(mixture, gaps, given=given, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert history.rows[0]["loss"] == pytest.approx(-bound.mean().item(), rel=1e-5)
    torch.testing.assert_close(start - 0.1 * gradient, mixture.means.detach())
    result = impute(mixture, gaps, observed, num_samples=30)
    # The means have moved by the step, so the truth is that of the new ones.
    each = dist.Normal(mixture.means.detach().unsqueeze(1), 1.0).log_prob(x) * observed
    weights = (torch.tensor([0.4, 0.6]).log() + each.sum(-1).T).softmax(1)
    imputed = weights @ mixture.means.detach()
    torch.testing.assert_close(result.x[~observed], imputed[~observed])


# What training does


BOUNDS = ("loss", "elbo", "validation_elbo")


def test_what_stands_for_a_missing_value_changes_nothing(make_vae, with_gaps):
    x, observed = with_gaps
    histories, trained = [], []
    for filler in (0.0, torch.nan, 1e9):
        vae = make_vae()
        gaps = x.where(observed, torch.tensor(filler))
        held_out = (gaps[:8], {"observed": observed[:8]})
        histories.append(
            fit(vae, gaps, given={"observed": observed}, validation=held_out, epochs=2, batch_size=5).rows
        )
        trained.append(torch.cat([value.flatten() for value in vae.parameters()]))
    for history, parameters in zip(histories[1:], trained[1:], strict=True):
        for row, first in zip(history, histories[0], strict=True):
            assert [row[name] for name in BOUNDS] == [first[name] for name in BOUNDS]
        assert torch.equal(parameters, trained[0])


def test_a_mask_without_gaps_trains_as_no_mask(make_vae, binary_images):
    losses = []
    for given in (None, {"observed": torch.ones_like(binary_images, dtype=torch.bool)}):
        history = fit(make_vae(), binary_images, given=given, objective=IWAE(3), epochs=2, batch_size=5)
        losses.append([row["loss"] for row in history.rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@HAT
def test_data_outside_of_memory_may_have_gaps(make_vae, with_gaps, tmp_path):
    x, observed = with_gaps

    class Items(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return x[index], {"observed": observed[index]}

    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = [
        fit(make_vae(), source, given=given, epochs=1, batch_size=6).rows[0]["loss"]
        for source, given in (
            (x, {"observed": observed}),
            (mapped, {"observed": observed}),
            (Items(), None),
        )
    ]
    assert rows[1:] == pytest.approx(rows[:1] * 2, rel=1e-5)
    with pytest.raises(InputError, match="not finite"):
        fit(make_vae(), mapped, epochs=1)


def test_ppca_reaches_the_maximum_of_the_observed_likelihood(make_ppca, draw):
    x = draw(make_ppca(1, 4, noise=0.5), 200)
    observed = torch.rand(x.shape) < 0.7
    ppca = PPCA(4, 1).double()
    ppca.posterior.requires_grad_(False)  # the guide is the exact posterior, without parameters
    given = {"observed": observed}
    fit(
        ppca,
        x.where(observed, torch.nan),
        given=given,
        batch_size=50,
        epochs=40,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.08),
        scheduler=lambda optimizer: ExponentialLR(optimizer, 0.9),
    )
    reached = ppca.log_evidence(x, observed).mean().detach()
    best = PPCA(4, 1).double()
    best.load_state_dict(ppca.state_dict())
    generative = [best.weight, best.mean, best.likelihood.log_scale]
    search = torch.optim.LBFGS(generative, max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        value = -best.log_evidence(x, observed).mean()
        value.backward()
        return value

    search.step(loss)
    highest = best.log_evidence(x, observed).mean().detach()
    start = PPCA(4, 1).double().log_evidence(x, observed).mean().detach()
    assert highest - reached < 1e-3 < highest - start
    evidence = marginal_likelihood(ppca, x.where(observed, torch.nan), given=given, num_samples=20)
    torch.testing.assert_close(evidence.log_px, ppca.log_evidence(x, observed).detach())


@HAT
def test_the_evidence_of_a_vae_is_that_of_the_observed_pixels(make_vae, with_gaps):
    x, observed = (part[:6] for part in with_gaps)
    vae = make_vae(latent_dim=1).double()
    result = marginal_likelihood(vae, x.double(), given={"observed": observed}, num_samples=2000)
    points = torch.linspace(-8, 8, 2001).double().unsqueeze(1)
    with torch.no_grad():
        each = vae.likelihood(points).base_dist.log_prob(x.nan_to_num().double().unsqueeze(1))
    log_joint = (each * observed.unsqueeze(1)).flatten(2).sum(2) + dist.Normal(0.0, 1.0).log_prob(
        points[:, 0]
    )
    expected = log_joint.logsumexp(1) + math.log(16 / 2000)
    assert ((result.log_px - expected).abs() < 4 * result.std_error).all()


# Transforms see 0 in the place of missing values


def test_grey_values_with_gaps_are_binarised(make_vae, with_gaps):
    x, observed = with_gaps
    grey = x * 0.5
    histories = [
        fit(
            make_vae(),
            grey.where(observed, torch.tensor(filler)),
            given={"observed": observed},
            transform=data.binarise,
            epochs=1,
        )
        for filler in (torch.nan, 0.9)
    ]
    assert histories[0].rows[0]["loss"] == histories[1].rows[0]["loss"]


def doubled_contrast(x):
    return (2 * x - 0.5).clamp(0, 1)


def noise(x):
    return torch.poisson(5 * x).clamp(max=1)  # its random numbers depend on the data


@pytest.mark.parametrize("transform", [doubled_contrast, noise])
def test_a_transform_of_each_value_is_no_matter(make_vae, with_gaps, transform):
    x, observed = with_gaps
    fit(make_vae(), x, given={"observed": observed}, transform=transform, epochs=1)


def flipped(x):
    return x.flip(-1)


def shifted(x):
    return data.random_shift(x, 1)


@pytest.mark.parametrize("transform", [flipped, shifted])
def test_a_transform_that_moves_values_away_from_their_mask_is_refused(make_vae, with_gaps, transform):
    x, observed = with_gaps
    with pytest.raises(InputError, match=f"the transform {transform.__name__} brings missing values"):
        fit(make_vae(), x, given={"observed": observed}, transform=transform, epochs=1)

    class Both(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return x[index].flip(-1), {"observed": observed[index].flip(-1)}

    fit(make_vae(), Both(), epochs=1)


@pytest.mark.usefixtures("recorded")
def test_compiled_steps_leave_missing_values_out(make_vae, with_gaps):
    x, observed = with_gaps
    losses = [
        fit(make_vae(), x, given={"observed": observed}, epochs=2, batch_size=8, compile=compile).rows[-1]
        for compile in ("off", "on")
    ]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
