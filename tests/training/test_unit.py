"""The unit of losses and history: nats per datum of the bound on all N data, with a latent of all data."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from training_helpers import frozen, train

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits
from pyrovae.programs import Pair
from pyrovae.training import fit

pytestmark = pytest.mark.cpu

N = 1000
PLATES = ("len(x)", "N", "without a size", "by hand", "fixed by hand")


@pytest.fixture(scope="module")
def x():
    return 2 + torch.randn(N, 1, generator=torch.Generator().manual_seed(0))


def observe(x, loc, plate, batch_size=100):
    """x ~ N(loc, 1) under a plate that says N or not, or with the scale written by hand."""
    size = {"N": N, "without a size": None}.get(plate, len(x))
    scale = {"by hand": N / len(x), "fixed by hand": N / batch_size}.get(plate, 1.0)
    with pyro.plate("data", size, subsample_size=size and len(x)), poutine.scale(scale=scale):
        pyro.sample("x", dist.Normal(loc.expand(x.shape), 1.0).to_event(1), obs=x)


def prior(x):
    return dist.Normal(x.new_zeros(()), 10.0)


def mean_of_all(plate, batch_size=100, draws=None):
    """mu ~ N(0, 10^2), x_n ~ N(mu, 1). With `draws` the guide's noise is one of them after the other.

    The log joint density is quadratic in mu, so the mean over the draws 1 and -1 is the ELBO itself.
    """
    noise = None if draws is None else itertools.cycle(draws)

    def model(x, y=None):
        observe(x, pyro.sample("mu", prior(x)), plate, batch_size)

    def guide(x, y=None):
        loc, scale = pyro.param("loc", torch.tensor(1.9)), pyro.param("scale", torch.tensor(0.1))
        q = dist.Normal(loc, scale)
        if noise is not None:
            mu = loc + next(noise) * scale
            q = dist.Delta(mu, log_density=q.log_prob(mu))
        pyro.sample("mu", q)

    return Pair(model, guide)


def by_hand(x, mu, q):
    """The two terms of the bound on all data, in nats per datum."""
    likelihood = dist.Normal(mu, 1.0).log_prob(x).sum() / N
    kl = (q.log_prob(mu) - dist.Normal(0.0, 10.0).log_prob(mu)) / N
    return likelihood.item(), kl.item()


MU, Q = torch.tensor(1.9 + 0.7 * 0.1), dist.Normal(torch.tensor(1.9), 0.1)


@pytest.mark.parametrize("batch_size", [1000, 300, 10])
@pytest.mark.parametrize("plate", PLATES)
def test_the_history_is_the_bound_on_all_data_however_the_plate_is_written(x, plate, batch_size):
    with pyro.get_param_store().scope():
        history = train(
            mean_of_all(plate, batch_size, draws=[0.7]),
            x,
            epochs=1,
            batch_size=batch_size,
            optimizer=frozen,
            validation=x[:200],
        )
    likelihood, kl = by_hand(x, MU, Q)
    row = history.rows[0]
    found = [row[name] for name in ("reconstruction", "kl", "elbo", "loss", "validation_kl")]
    assert found == pytest.approx([likelihood, kl, likelihood - kl, kl - likelihood, kl], abs=2e-5)
    held_out = dist.Normal(MU, 1.0).log_prob(x[:200]).mean().item()
    assert row["validation_elbo"] == pytest.approx(held_out - kl, abs=2e-5)


@pytest.mark.parametrize(
    ("batch_size", "epochs", "gamma", "tolerance"),
    [(1000, 25, 1.0, 1e-3), (100, 6, 0.5, 0.06), (10, 3, 0.1, 0.1)],
)
@pytest.mark.parametrize("plate", ["len(x)", "N", "by hand"])
def test_the_posterior_of_a_mean_is_that_of_all_data(x, plate, batch_size, epochs, gamma, tolerance):
    """Exact: N(s^2 sum x, s^2) with 1/s^2 = N + 1/100. A minibatch of 10 alone has s = 0.30 for 0.03.

    Neither the step size nor the clipped norm depends on how the plate is written.
    """
    with pyro.get_param_store().scope():
        train(
            mean_of_all(plate, draws=[1.0, -1.0]),
            x,
            epochs=epochs,
            batch_size=batch_size,
            objective=ELBO(num_particles=2),
            optimizer=partial(torch.optim.SGD, lr=0.4),
            scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=gamma),
            clip_norm=1.0,
        )
        loc, scale = pyro.param("loc").item(), pyro.param("scale").item()
    variance = 1 / (N + 1 / 100)
    assert scale == pytest.approx(math.sqrt(variance), rel=1e-3)
    assert loc == pytest.approx((variance * x.sum()).item(), abs=tolerance)


def test_a_point_of_all_data_is_the_mode(x):
    """With a prior N(0, 0.1^2), the mode is sum x / (N + 100); a minibatch of 50 alone has sum x / 2100."""

    def model(x):
        observe(x, pyro.sample("mu", dist.Normal(0.0, 0.1)), "len(x)")

    def guide(x):
        pyro.sample("mu", dist.Delta(pyro.param("loc", torch.tensor(0.0))))

    with pyro.get_param_store().scope():
        train(
            Pair(model, guide),
            x,
            epochs=6,
            batch_size=50,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
        )
        assert pyro.param("loc").item() == pytest.approx(x.sum().item() / (N + 100), abs=0.05)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (5.0, 0.5)])
@pytest.mark.parametrize("plate", ["len(x)", "each", "N"])
def test_a_latent_of_labelled_and_unlabelled_data_counts_once(x, plate, weights):
    """300 labelled data in 20s beside 700 in 70s: the KL is that of one latent for 1,000 data."""

    def model(x, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        size = {"len(x)": len(x), "each": 700 if y is None else 300, "N": N}[plate]
        with pyro.plate("data", size, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(mu.expand(x.shape), 1.0).to_event(1), obs=x)

    labels = torch.cat([torch.zeros(300, dtype=torch.long), torch.full((700,), -1)])
    with pyro.get_param_store().scope():
        history = fit(
            Pair(model, mean_of_all("len(x)", draws=[0.7]).guide),
            x,
            labels,
            epochs=1,
            batch_size=70,
            labelled_batch_size=30,
            data_weights=weights,
            optimizer=frozen,
            progress=False,
        )
    likelihood, kl = by_hand(x, MU, Q)
    log_p = dist.Normal(MU, 1.0).log_prob(x)
    weighted = (weights[0] * log_p[:300].sum() + weights[1] * log_p[300:].sum()).item() / N
    row = history.rows[0]
    found = [row[name] for name in ("reconstruction", "kl", "loss")]
    assert found == pytest.approx([likelihood, kl, kl - weighted], abs=2e-5)


def subsampling(x, draw=0.7):
    """Programs that choose 10 of the data that they are given; z_n ~ N(0, 1), x_n ~ N(z_n, 1)."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=10) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(10, 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.5))
        with pyro.plate("data", len(x), subsample_size=10) as rows:
            loc = x[rows] / 2
            z = loc + draw * scale
            log_q = dist.Normal(loc, scale).log_prob(z).sum(-1)
            pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))

    return Pair(model, guide)


def test_the_bound_of_a_program_that_subsamples_is_per_datum_that_it_scores():
    """All data are equal, so that each subsample has the bound of all: 120 data, 10 of 60 in each step."""
    x = torch.full((120, 1), 1.5)
    with pyro.get_param_store().scope():
        history = train(subsampling(x), x, batch_size=60, epochs=1, optimizer=frozen, validation=x[:50])
    z, q = torch.tensor(0.75 + 0.35), dist.Normal(torch.tensor(0.75), 0.5)
    likelihood = dist.Normal(z, 1.0).log_prob(torch.tensor(1.5)).item()
    kl = (q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)).item()
    row = history.rows[0]
    found = [
        row[name] for name in ("reconstruction", "kl", "elbo", "loss", "validation_elbo", "validation_kl")
    ]
    assert found == pytest.approx(
        [likelihood, kl, likelihood - kl, kl - likelihood, likelihood - kl, kl], abs=1e-5
    )


def test_an_inner_plate_that_subsamples_counts_for_all_of_its_members(x):
    """Of 8 equal pixels 2 are scored, each with weight 4, beside a plate over 1,000 data that says N."""
    x = x.expand(N, 8)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", N, subsample_size=len(x), dim=-1), pyro.plate("pixels", 8, 2, dim=-2):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x.T[:2])

    with pyro.get_param_store().scope():
        pair = Pair(model, mean_of_all("len(x)", draws=[0.7]).guide)
        row = train(pair, x, batch_size=100, epochs=1, optimizer=frozen).rows[0]
    likelihood, kl = by_hand(x, MU, Q)
    found = [row[name] for name in ("reconstruction", "kl", "loss")]
    assert found == pytest.approx([likelihood, kl, kl - likelihood], abs=1e-4)


def test_beta_weighs_the_divergence_of_a_latent_of_all_data(x):
    with pyro.get_param_store().scope():
        pair = mean_of_all("N", draws=[0.7])
        row = train(pair, x, batch_size=100, epochs=1, optimizer=frozen, beta=3.0).rows[0]
    likelihood, kl = by_hand(x, MU, Q)
    assert [row["kl"], row["loss"]] == pytest.approx([kl, 3 * kl - likelihood], abs=2e-5)


def test_a_scale_that_all_sites_share_stays_in_the_loss(x):
    def scaled(program):
        return poutine.scale(program, scale=0.25)

    with pyro.get_param_store().scope():
        pair = mean_of_all("len(x)", draws=[0.7])
        row = train(
            Pair(scaled(pair.model), scaled(pair.guide)), x, batch_size=100, epochs=1, optimizer=frozen
        ).rows[0]
    likelihood, kl = by_hand(x, MU, Q)
    assert [row["elbo"], row["loss"]] == pytest.approx([likelihood - kl, (kl - likelihood) / 4], abs=2e-5)


def mixture(size):
    """y_n ~ Cat(1/2, 1/2), enumerated, x_n ~ N(y_n + mu, 1), with one mu ~ N(0, 10^2)."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        subsample = None if size is None else torch.arange(len(x))
        with pyro.plate("data", size or len(x), subsample=subsample):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample("x", dist.Normal((y + mu).unsqueeze(-1), 1.0).to_event(1), obs=x)

    return model


def classifying(in_guide, draw):
    def guide(x):
        loc, scale = pyro.param("loc", torch.tensor(1.9)), pyro.param("scale", torch.tensor(0.1))
        mu = loc + draw * scale
        pyro.sample("mu", dist.Delta(mu, log_density=dist.Normal(loc, scale).log_prob(mu)))
        weight = pyro.param("weight", torch.tensor(0.7))
        if in_guide:
            with pyro.plate("data", len(x)):
                q = dist.Bernoulli(logits=weight * (x[:, 0] - 2.4)).probs
                probs = torch.stack([1 - q, q], -1)
                pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})

    return guide


def test_a_latent_of_all_data_beside_classes_that_are_summed_out(x):
    """The classes' part is the sum over both by hand, the shared latent's KL counts once."""
    with pyro.get_param_store().scope():
        pair = Pair(mixture(None), classifying(True, 0.7))
        row = train(pair, x, batch_size=50, epochs=1, optimizer=frozen).rows[0]
    q1 = torch.sigmoid(0.7 * (x[:, 0] - 2.4))
    q = torch.stack([1 - q1, q1])
    log_p = torch.stack([dist.Normal(MU + y, 1.0).log_prob(x[:, 0]) for y in (0.0, 1.0)])
    likelihood = (q * log_p).sum().item() / N
    kl = (q * (q.log() - math.log(0.5))).sum().item() / N + by_hand(x, MU, Q)[1]
    found = [row[name] for name in ("reconstruction", "kl", "loss")]
    assert found == pytest.approx([likelihood, kl, kl - likelihood], abs=2e-5)


def test_a_latent_of_all_data_beside_classes_of_the_model_alone(x):
    def guide(x):
        mean_of_all("len(x)", draws=[0.7]).guide(x)

    with pyro.get_param_store().scope():
        row = train(Pair(mixture(None), guide), x, batch_size=50, epochs=1, optimizer=frozen).rows[0]
    log_p = torch.stack([dist.Normal(MU + y, 1.0).log_prob(x[:, 0]) for y in (0.0, 1.0)])
    likelihood = (log_p.logsumexp(0) - math.log(2)).sum().item() / N
    kl = by_hand(x, MU, Q)[1]
    found = [row[name] for name in ("reconstruction", "kl", "loss")]
    assert found == pytest.approx([likelihood, kl, kl - likelihood], abs=2e-5)


@pytest.mark.parametrize(("nats", "floored"), [(0.01, False), (50.0, True)])
def test_a_floor_under_the_divergence_of_a_latent_of_all_data(x, nats, floored):
    """The floor is under the latent's divergence, not under its part for each datum."""
    q, prior = dist.Normal(torch.tensor(1.9), 0.1), dist.Normal(0.0, 10.0)
    kl = torch.distributions.kl_divergence(q, prior).item() / N
    with pyro.get_param_store().scope():
        pair = mean_of_all("N")
        row = train(pair, x, batch_size=100, epochs=1, optimizer=frozen, objective=FreeBits(nats)).rows[0]
    assert row["kl"] == pytest.approx(kl, abs=2e-5)
    assert row["loss"] + row["reconstruction"] == pytest.approx(nats / N if floored else kl, abs=2e-5)


@pytest.mark.parametrize("doubly_reparameterised", [False, True])
def test_an_importance_weighted_bound_of_all_data_at_once(x, doubly_reparameterised):
    """With the exact posterior as guide, each weight is p(x_1, ..., x_N)."""
    x = x[:20].double()
    precision = 0.01 + len(x)
    joint = dist.MultivariateNormal(
        x.new_zeros(len(x)), torch.eye(len(x)) + 100 * torch.ones(len(x), len(x))
    )
    objective = IWAE(5, doubly_reparameterised)
    with pyro.get_param_store().scope():
        pyro.param("loc", x.sum() / precision)
        pyro.param("scale", torch.tensor(precision**-0.5, dtype=x.dtype))
        pair, options = mean_of_all("len(x)"), {"optimizer": frozen, "objective": objective}
        row = train(pair, x, batch_size=len(x), epochs=1, **options).rows[0]
    assert row["loss"] == pytest.approx(-joint.log_prob(x[:, 0]).item() / len(x), abs=1e-4)


# Refusals


@pytest.mark.parametrize("doubly_reparameterised", [False, True])
def test_an_importance_weighted_bound_takes_no_minibatch_where_a_latent_is_of_all_data(
    x, doubly_reparameterised
):
    objective = IWAE(5, doubly_reparameterised)
    with (
        pyro.get_param_store().scope(),
        pytest.raises(InputError, match=r"'mu' is drawn outside.*use ELBO\(\)"),
    ):
        train(mean_of_all("len(x)"), x, batch_size=100, objective=objective)


def without_plate(x, kind):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        if kind == "observed":
            pyro.sample("x", dist.Normal(mu.expand(x.shape), 1.0).to_event(2), obs=x)
        if kind == "factor":
            pyro.factor("x", -(x - mu).square().sum() / 2)
        if kind == "sum of latents":
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(mu.expand(x.shape), 1.0).to_event(1), obs=x)
            pyro.factor("sum", -z.sum())
        if kind == "guide":
            observe(x, mu, "len(x)")

    def guide(x):
        loc = pyro.param("loc", torch.tensor(1.9))
        pyro.sample("mu", dist.Normal(x.mean() + loc if kind == "guide" else loc, 0.1))
        if kind == "sum of latents":
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    return Pair(model, guide)


@pytest.mark.parametrize(
    ("kind", "site"), [("observed", "x"), ("factor", "x"), ("sum of latents", "sum"), ("guide", "mu")]
)
def test_sites_of_the_data_outside_of_their_plate_need_all_data(x, kind, site):
    with (
        pyro.get_param_store().scope(),
        pytest.raises(InputError, match=f"'{site}' from the data.*batch_size=len"),
    ):
        train(without_plate(x, kind), x, batch_size=100)
    with pyro.get_param_store().scope():
        history = train(without_plate(x, kind), x, batch_size=N, epochs=1)
    assert math.isfinite(history["loss"][0])


def test_given_values_that_are_no_data_may_stand_outside_of_the_plate(x):
    """An earlier measurement 2.0 of mu, with error 0.5, counts once for all data."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.sample("earlier", dist.Normal(mu, 0.5), obs=torch.tensor(2.0))
        observe(x, mu, "len(x)")

    with pyro.get_param_store().scope():
        pair = Pair(model, mean_of_all("len(x)", draws=[0.7]).guide)
        row = train(pair, x, batch_size=100, epochs=1, optimizer=frozen).rows[0]
    likelihood, kl = by_hand(x, MU, Q)
    earlier = dist.Normal(MU, 0.5).log_prob(torch.tensor(2.0)).item() / N
    assert [row["elbo"], row["loss"]] == pytest.approx(
        [likelihood + earlier - kl, kl - likelihood - earlier], abs=2e-5
    )


def test_a_scale_that_may_or_may_not_stand_for_all_data_is_refused(x):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)), poutine.scale(scale=3.0):
            pyro.sample("x", dist.Normal(mu.expand(x.shape), 1.0).to_event(1), obs=x)

    def with_remedy(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", N, subsample_size=len(x)), poutine.scale(scale=3.0):
            pyro.sample("x", dist.Normal(mu.expand(x.shape), 1.0).to_event(1), obs=x)

    guide = mean_of_all("len(x)", draws=[0.7]).guide
    with (
        pyro.get_param_store().scope(),
        pytest.raises(InputError, match=r"scale of site 'x' is 3.*N/B is 10.*subsample_size"),
    ):
        train(Pair(model, guide), x, batch_size=100)
    likelihood, kl = by_hand(x, MU, Q)
    with pyro.get_param_store().scope():
        row = train(Pair(with_remedy, guide), x, batch_size=100, epochs=1, optimizer=frozen).rows[0]
    assert [row["elbo"], row["loss"]] == pytest.approx([likelihood - kl, kl - 3 * likelihood], abs=5e-5)


def test_pyros_own_objectives_give_the_same_loss(x):
    """Pyro's loss under a plate that says N, with the rows given, is N times that of `len(x)` per datum."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", N, subsample=torch.arange(100)):
            pyro.sample("x", dist.Normal(mu.expand(100, 1), 1.0).to_event(1), obs=x[:100])

    for make in (Trace_ELBO, TraceMeanField_ELBO):
        with pyro.get_param_store().scope():
            pair = mean_of_all("len(x)", draws=[0.7])
            history = train(
                pair, x[:100].repeat(10, 1), batch_size=100, epochs=1, optimizer=frozen, objective=make()
            )
            expected = make().loss(model, pair.guide, x) / N
        assert history["loss"][0] == pytest.approx(expected, abs=2e-5)
