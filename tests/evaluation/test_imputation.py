"""Imputed values against conditional Gaussians, quadrature over one latent, and sums over classes."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import AffineTransform, SigmoidTransform, Uniform

from pyrovae.distributions import filled, masked
from pyrovae.errors import InputError
from pyrovae.evaluation import impute
from pyrovae.priors import StandardNormal
from pyrovae.programs import Pair


def patterns(dimensions):
    """Every pattern of missing columns, from none to all, `(2^D, D)`."""
    numbers = torch.arange(2**dimensions).unsqueeze(1)
    return (numbers >> torch.arange(dimensions)) % 2 == 0


def conditional(ppca, x, seen):
    """Mean and covariance of the missing columns given the others, from the joint Gaussian of x."""
    w, mean = ppca.weight.detach(), ppca.mean.detach()
    joint = w @ w.T + ppca.variance.detach() * torch.eye(len(w))
    gain = joint[~seen][:, seen] @ torch.linalg.inv(joint[seen][:, seen])
    covariance = joint[~seen][:, ~seen] - gain @ joint[seen][:, ~seen]
    return mean[~seen] + gain @ (x - mean)[seen], covariance


def off_guide(ppca, shift=0.3, spread=1.3):
    """A guide beside the exact posterior, and wider."""

    def guide(x, y=None, observed=None):
        exact = ppca.exact_posterior(x, observed)
        with pyro.plate("data", len(x)):
            fn = dist.MultivariateNormal(exact.mean + shift, scale_tril=spread * exact.scale_tril)
            pyro.sample("z", fn)

    return guide


# Probabilistic PCA


@pytest.mark.parametrize("guide", ["exact", "off"])
def test_ppcas_conditional_mean_and_deviation_for_every_pattern(make_ppca, draw, guide):
    ppca = make_ppca(2, 4)
    observed = patterns(4)
    x = draw(ppca, 16)
    pair = ppca if guide == "exact" else Pair(ppca.model, off_guide(ppca))
    results = [
        impute(pair, x.where(observed, torch.nan), observed, num_samples=1000, seed=s) for s in range(4)
    ]
    standardised = []
    for result in results:
        assert torch.equal(result.x[observed], x[observed])
        assert not result.std[observed].any()
        for row, seen in enumerate(observed):
            mean, covariance = conditional(ppca, x[row], seen)
            standardised.append((result.x[row, ~seen] - mean) / result.std_error[row, ~seen])
            expected = covariance.diagonal().sqrt()
            torch.testing.assert_close(result.std[row, ~seen], expected, rtol=0.12, atol=0)
    standardised = torch.cat(standardised)  # 4 * 32 values, those of a datum correlated
    assert standardised.abs().max() < 4
    assert 0.6 < standardised.square().mean() < 1.5


def test_draws_have_the_conditional_covariance(make_ppca, draw):
    ppca = make_ppca(2, 4)
    observed = patterns(4)[[2, 7, 15]]
    x = draw(ppca, 3)
    result = impute(
        Pair(ppca.model, off_guide(ppca)), x, observed, num_samples=10_000, num_draws=5000, seed=1
    )
    assert result.draws.shape == (5000, 3, 4)
    for row, seen in enumerate(observed):
        assert (result.draws[:, row, seen] == x[row, seen]).all()
        mean, covariance = conditional(ppca, x[row], seen)
        drawn = result.draws[:, row, ~seen]
        scale = covariance.diagonal().sqrt()
        error = 1 / math.sqrt(5000) + 1 / math.sqrt(result.ess[row])
        assert ((drawn.mean(0) - mean) / scale).abs().max() < 4 * error
        correlation = (torch.cov(drawn.T).reshape(covariance.shape) - covariance) / scale.outer(scale)
        assert correlation.abs().max() < 4 * math.sqrt(2) * error


@pytest.mark.parametrize(("guide", "level"), [("exact", 0.9), ("off", 0.9)])
def test_intervals_cover_what_they_say(make_ppca, draw, guide, level):
    ppca = make_ppca(2, 4)
    x = draw(ppca, 1000)
    observed = patterns(4)[1:][torch.arange(1000) % 15]
    pair = ppca if guide == "exact" else Pair(ppca.model, off_guide(ppca, shift=0.8, spread=1.8))
    result = impute(pair, x, observed, num_samples=300, level=level)
    inside = (result.lower <= x) & (x <= result.upper)
    one = (~observed).float().argmax(1)  # one missing value of each datum, so that they are independent
    covered = inside.gather(1, one.unsqueeze(1)).float().mean().item()
    assert abs(covered - level) < 3 * math.sqrt(level * (1 - level) / 1000)


# One latent, by quadrature


Z = torch.linspace(-8, 8, 4001).double().unsqueeze(1)


def by_quadrature(elements, x, observed, log_prior=None):
    """E[x] and its standard deviation given the observed elements, for elements(z) at all points of Z."""
    prior = dist.Normal(0.0, 1.0).log_prob(Z).squeeze(1) if log_prior is None else log_prior
    found = []
    for value, seen in zip(x, observed, strict=True):
        inside = value.where(seen, torch.ones_like(value))
        log_px = (elements.log_prob(inside) * seen).flatten(1).sum(1)
        weights = (prior + log_px).softmax(0).reshape(-1, *[1] * value.dim())
        mean = (weights * elements.mean).sum(0)
        second = (weights * (elements.variance + elements.mean.square())).sum(0)
        found.append(torch.stack([mean, (second - mean.square()).sqrt()]))
    return torch.stack(found, 1)


def assert_like(result, expected, observed, widths=4.5):
    mean, std = (part[~observed] for part in expected)
    assert ((result.x[~observed] - mean).abs() < widths * result.std_error[~observed] + 1e-9).all()
    torch.testing.assert_close(result.std[~observed], std, rtol=0.1, atol=0.02)


def test_a_vae_of_binary_images(make_vae, binary_images):
    vae = make_vae(latent_dim=1).double()
    for part in vae.likelihood.parameters():
        part.data *= 3
    x = binary_images[:8].double()
    observed = torch.rand(x.shape) < 0.5
    observed[0], observed[1] = True, False
    result = impute(vae, x.where(observed, torch.nan), observed, num_samples=5000, num_draws=20)
    with torch.no_grad():
        elements = vae.likelihood(Z).base_dist
    assert_like(result, by_quadrature(elements, x, observed), observed)
    assert result.x.shape == x.shape
    assert set(result.draws.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(result.x[0], x[0])  # nothing is missing
    assert result.khat[0].isnan()
    assert not result.khat[1:].isnan().any()


class RowsOnly(torch.nn.Module):
    """A network that takes no dimensions before the data's."""

    out_shape = (1, 4, 4)

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, y):
        return self.network(z.view(len(z), 1), y)


@pytest.mark.parametrize(("enumerate", "rows"), [(True, False), (True, True), (False, False)])
def test_m2_sums_over_classes(make_m2, binary_images, enumerate, rows):
    m2 = make_m2(latent_dim=1)
    if rows:
        m2.likelihood.network = RowsOnly(m2.likelihood.network)
    x = binary_images[:6].double()
    observed = torch.rand(x.shape) < 0.5
    result = impute(m2, x, observed, num_samples=1500, enumerate=enumerate)
    with torch.no_grad():
        log_prior = m2.class_prior().logits.log_softmax(-1)
        latent = dist.Normal(0.0, 1.0).log_prob(Z).squeeze(1)
        points = Z.repeat(3, 1)
        classes = torch.arange(3).repeat_interleave(len(Z))
        elements = m2.likelihood(points, classes).base_dist
        joint_prior = (log_prior.unsqueeze(1) + latent).flatten()
    assert_like(result, by_quadrature(elements, x, observed, joint_prior), observed)


def make_program(likelihood, dimensions=3, flat=None):
    """A program with one latent, whose guide is the prior.

    With flat=0 its model takes latents `(B, 1)` only, and with another number these B data only.
    """
    prior = StandardNormal(1)
    scale = torch.linspace(0.5, 1.5, dimensions).double()

    def model(x, observed=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior().expand((len(x),)))
            z = z.view(flat or len(x), 1) if flat is not None else z
            pyro.sample("x", masked(likelihood(z * scale).to_event(1), observed), obs=x)

    def guide(x, observed=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0).to_event(1))

    return Pair(model, guide), likelihood(Z * scale)


LEVELS = torch.arange(6.0).double()


class Levels(dist.Categorical):
    """Pyro's, with moments."""

    @property
    def mean(self):
        return self.probs @ LEVELS

    @property
    def variance(self):
        return self.probs @ LEVELS.square() - self.mean.square()


FAMILIES = {
    "whole numbers": lambda t: dist.Poisson(t.exp()),
    "levels": lambda t: Levels(logits=t.unsqueeze(-1) * LEVELS / 2),
    "positive": lambda t: dist.Gamma(4.0, (t / 2).exp()),
    "grey": lambda t: dist.Beta(t.exp(), torch.ones_like(t)),
}


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(
    ("family", "flat"),
    [(family, flat) for family in FAMILIES for flat in (None, 0)] + [("whole numbers", 6)],
)
def test_data_of_other_kinds(family, flat):
    pair, elements = make_program(FAMILIES[family], flat=flat)
    x = FAMILIES[family](torch.randn(6, 3).double()).sample().double()
    observed = patterns(3)[:6]  # nothing is missing in the first datum
    result = impute(pair, x.where(observed, torch.nan), observed, num_samples=4000 if flat != 6 else 400)
    assert_like(result, by_quadrature(elements, x, observed), observed)


def logistic(loc):
    base = Uniform(torch.zeros_like(loc), torch.ones_like(loc))
    return dist.TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(loc, 0.3)])


class Logistic:
    """The logistic distribution by its formulas."""

    def __init__(self, loc):
        self.mean, self.variance = loc, torch.full_like(loc, 0.3**2 * math.pi**2 / 3)

    def log_prob(self, x):
        return logistic(self.mean).log_prob(x)


def test_a_likelihood_whose_moments_are_not_known():
    pair, _ = make_program(logistic)
    scale = torch.linspace(0.5, 1.5, 3).double()
    x, observed = torch.randn(6, 3).double(), patterns(3)[1:7]
    result = impute(pair, x, observed, num_samples=20_000)
    assert_like(result, by_quadrature(Logistic(Z * scale), x, observed), observed)


# What must not change, and what is refused


@pytest.fixture
def gaussian(make_ppca, draw):
    ppca = make_ppca(2, 3)
    x = draw(ppca, 7)
    return Pair(ppca.model, off_guide(ppca)), x, patterns(3)[1:]


def test_the_values_of_missing_elements_do_not_matter(gaussian):
    pair, x, observed = gaussian
    first, *others = (
        impute(pair, x.where(observed, torch.tensor(missing).double()), observed, num_draws=2)
        for missing in (0.0, torch.nan, 1e9)
    )
    for other in others:
        for name in ("x", "std_error", "std", "lower", "upper", "draws", "khat", "ess"):
            torch.testing.assert_close(
                getattr(other, name), getattr(first, name), rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_modes_and_buffers_stay_as_they_are(make_vae, binary_images):
    vae = make_vae()
    vae.posterior.network = torch.nn.Sequential(vae.posterior.network, norm := torch.nn.BatchNorm1d(6))
    norm.eval()
    impute(vae, binary_images, binary_images < 0.5, num_samples=50)
    assert vae.training
    assert not norm.training
    assert not norm.running_mean.any()


def test_the_callers_random_stream_is_unmoved_and_a_seed_gives_the_same_again(gaussian):
    before = torch.get_rng_state()
    one, same, another = (impute(*gaussian, num_draws=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.draws, same.draws)
    assert not torch.equal(one.draws, another.draws)


def test_data_without_missing_values_come_back_as_they_are(gaussian):
    pair, x, _ = gaussian
    result = impute(pair, x, torch.ones_like(x, dtype=torch.bool), num_draws=2)
    assert torch.equal(result.x, x)
    assert torch.equal(result.draws, x.expand(2, *x.shape))
    assert not result.std_error.any()
    assert result.khat.isnan().all()
    assert "imputed  : 0 of 21 values" in str(result)


def test_more_than_one_chunk_of_data_and_of_draws(make_ppca, draw, monkeypatch):
    ppca = make_ppca(2, 3)
    x = draw(ppca, 20)
    observed = patterns(3)[1:][torch.arange(20) % 7]
    monkeypatch.setattr("pyrovae.evaluation.importance._VALUES", 3 * 3 * 2000 * 6)
    monkeypatch.setattr("pyrovae.evaluation.chunking._CPU_ROWS", 3000)
    result = impute(Pair(ppca.model, off_guide(ppca)), x, observed, num_samples=2000)
    for row, seen in enumerate(observed):
        mean, _ = conditional(ppca, x[row], seen)
        assert ((result.x[row, ~seen] - mean).abs() < 4.5 * result.std_error[row, ~seen]).all()


def test_a_narrow_guide_is_warned_about(make_ppca, draw):
    ppca = make_ppca(2, 3)
    x, observed = draw(ppca, 20), patterns(3)[1:][torch.arange(20) % 7]
    with pytest.warns(UserWarning, match="poor proposal, so the imputed values"):
        result = impute(Pair(ppca.model, off_guide(ppca, shift=1.0, spread=0.4)), x, observed)
    assert result.is_poor_proposal
    assert "poor proposal" in str(result)


def test_one_draw_has_no_error(gaussian):
    result = impute(*gaussian, num_samples=1)
    assert result.std_error[~result.observed].isnan().all()
    assert result.x.isfinite().all()


def test_draws_of_a_class_that_are_all_the_same_have_no_error():
    def model(x, observed=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])))
            fn = dist.Normal(4.0 * y.unsqueeze(-1).expand(*y.shape, 2), 1.0).to_event(1)
            pyro.sample("x", masked(fn, observed), obs=x)

    def guide(x, observed=None, enumerate=None):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.tensor([1.0, 1e-9])), infer={"enumerate": enumerate})

    x, observed = torch.tensor([[0.0, torch.nan]]), torch.tensor([[True, False]])
    with pytest.warns(UserWarning, match="do not enter the imputed values"):
        result = impute(Pair(model, guide), x, observed)
    assert result.std_error[0, 1].isnan()
    result = impute(Pair(model, lambda x, observed=None: guide(x, observed, "parallel")), x, observed)
    second = torch.sigmoid(torch.tensor(-8.0))  # p(y = 1 | x_1), the ratio of the two densities at 0
    torch.testing.assert_close(result.x[0, 1], 4 * second)
    torch.testing.assert_close(result.std[0, 1], (1 + 16 * second * (1 - second)).sqrt())


def gaussian_program(observe):
    """A program of one latent that observes x in the way of `observe(z, x, observed)`."""

    def model(x, observed=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            observe(z.unsqueeze(-1), x, observed)

    def guide(x, observed=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(filled(x, observed).sum(-1) / 4, 0.8))

    return Pair(model, guide)


def reads_sizes(z, x, observed):
    rate = filled(x, observed).sum(-1, keepdim=True) * z.exp().expand(*z.shape[:-1], 2)
    pyro.sample("x", masked(dist.Normal(rate, 1.0).to_event(1), observed), obs=x)


def two_sites(z, x, observed):
    pyro.sample("a", masked(dist.Normal(z, 1.0).to_event(1), observed[:, :1]), obs=x[:, :1])
    pyro.sample("b", masked(dist.Normal(z, 2.0).to_event(1), observed[:, 1:]), obs=x[:, 1:])


def heavy(z, x, observed):
    pyro.sample("x", masked(dist.Cauchy(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), observed), obs=x)


def ignores_the_mask(z, x, observed):
    pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)


def pyros_mask(z, x, observed):
    fn = dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).mask(observed).to_event(1)
    pyro.sample("x", fn, obs=x)


SEEN = torch.tensor([[True, False], [True, False]])


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (reads_sizes, "Normal of site 'x' depends on x"),
        (two_sites, r"observes 'a' of shape \(2, 1\), 'b' of shape \(2, 1\), and .* 0 of these sites"),
        (heavy, "site 'x' has a Cauchy without a finite mean"),
        (ignores_the_mask, "site 'x' depends on values of the data where `observed` is false"),
    ],
)
def test_models_whose_missing_values_are_not_known_are_refused(observe, message):
    with pytest.raises(InputError, match=message):
        impute(gaussian_program(observe), torch.ones(2, 2), SEEN)


def test_the_elements_of_a_correlated_likelihood_are_refused():
    def correlated(z, x, observed):
        fn = dist.MultivariateNormal(z.expand(*z.shape[:-1], 2), torch.eye(2))
        pyro.sample("x", fn, obs=x.where(observed, z))

    with pytest.raises(
        InputError, match="'x' has a MultivariateNormal, whose elements are not independent"
    ):
        impute(gaussian_program(correlated), torch.ones(2, 2), SEEN)


def test_pyros_own_mask_serves_where_the_filler_has_a_density():
    x = torch.tensor([[0.5, 7.0], [-1.0, 7.0]])
    result = impute(gaussian_program(pyros_mask), x, SEEN, num_samples=4000)
    # z given x_1 has mean x_1 / 2 and variance 1/2.
    assert ((result.x[:, 1] - x[:, 0] / 2).abs() < 4 * result.std_error[:, 1]).all()
    torch.testing.assert_close(result.std[:, 1], torch.full((2,), 1.5**0.5), rtol=0.05, atol=0)
    with pytest.raises(InputError, match=r"NaN has no density, .*use masked\(distribution, observed\)"):
        impute(gaussian_program(pyros_mask), x.where(SEEN, torch.nan), SEEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observed": SEEN.float()}, "observed is of type torch.float32"),
        ({"observed": SEEN[0]}, r"observed has shape \(2,\); expected that of the data, \(2, 2\)"),
        ({"level": 1.0}, "level is 1.0; expected a probability between 0 and 1"),
        ({"num_draws": -1}, "num_draws is -1"),
        ({"num_samples": 0}, "num_samples"),
        ({"given": {"observed": SEEN}}, "'observed', an argument of impute itself"),
        ({"given": [1]}, "given is a list; expected a mapping"),
        ({"x": [[1.0, 2.0]]}, "the data are a list, not a tensor"),
        ({"x": torch.full((2, 2), torch.nan)}, "not finite .* where `observed` is true"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    arguments = {"x": torch.ones(2, 2), "observed": SEEN} | changes
    with pytest.raises(InputError, match=message):
        impute(gaussian_program(pyros_mask), arguments.pop("x"), arguments.pop("observed"), **arguments)


def test_several_enumerated_sites_are_drawn_instead():
    def model(x, observed=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            loc = (2 * a + b).unsqueeze(-1)
            fn = dist.Normal(loc.expand(*loc.shape[:-1], 2), 1.0).to_event(1)
            pyro.sample("x", masked(fn, observed), obs=x)

    def guide(x, observed=None):
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})

    x, pair = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), Pair(model, guide)
    with pytest.raises(InputError, match=r"'a', 'b' are enumerated .* enumerate=False"):
        impute(pair, x, SEEN)
    result = impute(pair, x, SEEN, num_samples=5000, enumerate=False)
    loc = torch.arange(4.0)
    weights = (-0.5 * (x[:, :1] - loc).square()).softmax(1)  # of the four values of 2 a + b
    assert ((result.x[:, 1] - weights @ loc).abs() < 4 * result.std_error[:, 1]).all()
