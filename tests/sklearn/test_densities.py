"""Transformers and detectors are the densities that they say they are."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from densities import ESTIMATORS, SMALL, make
from scipy.sparse import csr_array, csr_matrix
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_runs import pyrovae as run_words

from pyrovae import PPCATransformer, VAETransformer
from pyrovae.errors import InputError
from pyrovae.models import PPCA
from pyrovae.recipes import About, Run, Training, hvae, vae
from pyrovae.sklearn import inputs

pytestmark = pytest.mark.filterwarnings("ignore:k-hat is above")
TRANSFORMERS = ["vae", "hvae", "ppca"]


@pytest.fixture(scope="session")
def wine() -> np.ndarray:
    """Standardised columns of scikit-learn's wine data, (178, 13)."""
    return StandardScaler().fit_transform(load_wine().data)


@pytest.fixture(scope="session")
def gaps(wine) -> np.ndarray:
    """The wine data with a tenth of the values missing."""
    return np.where(np.random.default_rng(0).random(wine.shape) < 0.1, np.nan, wine)


@pytest.fixture(scope="session")
def fitted(wine):
    """Gives each estimator, fitted once to the wine data. Do not change it."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = make(name).fit(wine)
        return kept[name]

    return of


def pca_of(X, latent_dim=2):
    """scikit-learn's PCA with the covariance of maximum likelihood, divided by n."""
    mean = X.mean(0)
    return PCA(latent_dim).fit(mean + (X - mean) * np.sqrt((len(X) - 1) / len(X)))


# The right values


def test_ppca_is_scikit_learns_pca_on_standardised_columns(wine, fitted):
    ppca, pca = fitted("ppca"), pca_of(wine)
    np.testing.assert_allclose(ppca.score_samples(wine), pca.score_samples(wine), rtol=1e-8)
    assert ppca.score(wine) == pytest.approx(pca.score(wine), rel=1e-8)
    # E[z | x] = L^-1 (L - s^2)^(1/2) U^T x, with PCA's axes U, variances L and variance s^2 of the noise.
    shrunk = np.sqrt(pca.explained_variance_ - pca.noise_variance_) / pca.explained_variance_
    np.testing.assert_allclose(ppca.transform(wine), pca.transform(wine) * shrunk, rtol=1e-6, atol=1e-9)
    log_px, std_error = ppca.score_samples(wine, return_std_error=True)
    assert (log_px == ppca.score_samples(wine)).all()
    assert not std_error.any(), "it is exact"


def test_ppca_is_a_density_in_the_units_of_the_data(wine, gaps, fitted):
    """The density of raw columns is that of standardised ones divided by the scales; codes are the same."""
    raw, scales = load_wine().data, load_wine().data.std(0)
    ppca = make("ppca").fit(raw)
    expected = pca_of(wine).score_samples(wine) - np.log(scales).sum()
    np.testing.assert_allclose(ppca.score_samples(raw), expected, rtol=1e-8)
    np.testing.assert_allclose(ppca.transform(raw), fitted("ppca").transform(wine), rtol=1e-6, atol=1e-9)
    missing = np.isnan(gaps)
    (ours, std), (standard, unscaled) = (
        each.impute(np.where(missing, np.nan, X), return_std=True)
        for each, X in ((ppca, raw), (fitted("ppca"), wine))
    )
    np.testing.assert_allclose((ours - raw.mean(0)) / scales, standard, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(std, unscaled * scales, rtol=1e-6)
    plain = make("ppca", standardise=False).fit(raw)
    np.testing.assert_allclose(plain.score_samples(raw), pca_of(raw).score_samples(raw), rtol=1e-6)


def test_ppca_imputes_the_conditional_mean_of_a_normal_distribution(wine, gaps, fitted):
    completed, std = fitted("ppca").impute(gaps, return_std=True)
    covariance = pca_of(wine).get_covariance()
    for row, filled, spread in zip(gaps[:20], completed, std, strict=False):
        m, o = np.isnan(row), ~np.isnan(row)
        weights = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)]).T
        np.testing.assert_allclose(filled[m], weights @ row[o], rtol=1e-6, atol=1e-9)
        variance = covariance[np.ix_(m, m)] - weights @ covariance[np.ix_(o, m)]
        np.testing.assert_allclose(spread[m], np.sqrt(variance.diagonal()), rtol=1e-6)
        assert (filled[o] == row[o]).all()
        assert not spread[o].any()


def test_where_values_are_missing_the_density_is_that_of_the_others(wine, gaps, fitted):
    covariance = pca_of(wine).get_covariance()
    known = [~np.isnan(row) for row in gaps[:20]]
    expected = [
        multivariate_normal(np.zeros(o.sum()), covariance[np.ix_(o, o)]).logpdf(row[o])
        for row, o in zip(gaps, known, strict=False)
    ]
    np.testing.assert_allclose(fitted("ppca").score_samples(gaps[:20]), expected, rtol=1e-6)
    assert np.isfinite(fitted("vae").score_samples(gaps)).all()


def test_a_sampled_density_agrees_with_the_evidence_within_its_error(wine, fitted):
    """A VAE's estimates with other seeds differ by their standard errors."""
    one, other = (clone(fitted("vae")).set_params(num_samples=200, random_state=0) for _ in range(2))
    one.fit(wine)
    other.fit(wine)
    other._seed = 17  # of the draws, not of the training
    (a, error_a), (b, error_b) = (each.score_samples(wine, return_std_error=True) for each in (one, other))
    z = (a - b) / np.hypot(error_a, error_b)
    assert 0.7 < z.std() < 1.4
    assert abs(z.mean()) < 5 / np.sqrt(len(z))
    assert one.score(wine) == pytest.approx(a.mean(), rel=1e-12)


def test_samples_have_the_moments_of_the_model(wine, fitted):
    n = 20_000
    drawn, covariance = fitted("ppca").sample(n), pca_of(wine).get_covariance()
    spread = np.sqrt((np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2) / n)
    assert (abs(np.cov(drawn.T) - covariance) < 5 * spread).all()
    assert (abs(drawn.mean(0)) < 5 * np.sqrt(covariance.diagonal() / n)).all()
    model = fitted("vae").model_
    with torch.no_grad():  # E[x] = E[E[x | z]], Var[x] = E[Var[x | z]] + Var[E[x | z]]
        px = model.likelihood(torch.randn(n, 2, generator=torch.Generator().manual_seed(1)))
        mean, variance = px.mean.mean(0).numpy(), (px.variance.mean(0) + px.mean.var(0)).numpy()
    drawn = fitted("vae").sample(n)
    assert (abs(drawn.mean(0) - mean) < 5 * np.sqrt(2 * variance / n)).all()
    assert (abs(drawn.var(0) / variance - 1) < 10 * np.sqrt(2 / n)).all()
    means = fitted("vae").sample(n, mean=True)
    assert means.var(0).mean() < 0.8 * variance.mean(), "means vary less than data"


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_data_of_codes_of_data_are_the_reconstruction(name, wine, fitted):
    estimator = fitted(name)
    z = estimator.transform(wine)
    assert z.shape == (178, 4 if name == "hvae" else 2)
    np.testing.assert_array_equal(estimator.inverse_transform(z), estimator.reconstruct(wine))
    if name == "ppca":
        assert abs(estimator.reconstruct(wine) - wine).mean() < abs(wine).mean()
    with pytest.raises(InputError, match=rf"X has 5 latents.*expected {z.shape[1]}"):
        estimator.inverse_transform(np.zeros((3, 5)))


# The recipe's model


@pytest.mark.parametrize(("recipe", "name"), [(vae, "vae"), (hvae, "hvae")])
def test_the_parameters_are_those_of_the_recipe(recipe, name, wine):
    estimator = make(name, random_state=3).fit(wine)
    plan = recipe(About((13,), seed=3), latent_dim=2, width=8, likelihood="gaussian")
    x = torch.from_numpy(wine).float()
    plan.fit(x, training=Training(epochs=1, seed=3), device="cpu")
    assert_same_parameters(plan.pair, estimator.model_)


def test_the_parameters_are_those_of_the_command_line(wine, tmp_path):
    np.save(tmp_path / "wine.npy", wine.astype(np.float32))
    options = "--seed 3 --likelihood gaussian --latent-dim 2 --width 8 --epochs 1 --device cpu --quiet"
    out = tmp_path / "run"
    run_words("train", "vae", "--data", tmp_path / "wine.npy", "--out", out, *options.split())
    run = Run.open(out)
    estimator = make("vae", random_state=3, likelihood="gaussian").fit(run.images.x_train.numpy())
    assert_same_parameters(run.pair, estimator.model_)


def test_ppca_is_the_librarys(wine, fitted):
    ppca = PPCA((13,), 2).double()
    ppca.fit_closed_form(torch.from_numpy(wine))
    x = torch.from_numpy(wine)
    np.testing.assert_allclose(fitted("ppca").score_samples(wine), ppca.log_evidence(x).detach(), rtol=1e-8)


def assert_same_parameters(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].cpu().equal(theirs[name]) for name in ours)


# Missing values


def test_a_vae_learns_from_data_with_gaps():
    """Half of the values of x2 = 2 x1 are missing; what stands there has no part in the training."""
    rng = np.random.default_rng(0)
    x1 = rng.normal(size=(300, 1))
    X = np.hstack([x1, 2 * x1, -x1]) / [[1, 2, 1]] + 0.05 * rng.normal(size=(300, 3))
    gaps = X.copy()
    gaps[::2, 1] = np.nan
    options = {"latent_dim": 1, "width": 16, "epochs": 60, "batch_size": 50, "learning_rate": 0.01}
    estimator = VAETransformer(**options, num_samples=50, random_state=0, device="cpu").fit(gaps)
    error = estimator.impute(gaps)[::2, 1] - X[::2, 1]
    assert np.sqrt(np.mean(error**2)) < 0.4, "the spread of the column is 1"
    np.testing.assert_array_equal(estimator.impute(X), X)
    masked = np.ma.masked_array(np.nan_to_num(gaps, nan=7), np.isnan(gaps))
    np.testing.assert_array_equal(estimator.transform(masked), estimator.transform(gaps))


def test_missing_values_that_cannot_be_are_refused(wine, gaps):
    with pytest.raises(InputError, match="the closed form of PPCA needs all values: fit it to complete"):
        make("ppca").fit(gaps)
    empty = wine.copy()
    empty[:, 4] = np.nan
    with pytest.raises(InputError, match="feature 4 has no value in any of the 178 data"):
        make("vae").fit(empty)
    with pytest.raises(InputError, match="sparse and has NaN"):
        make("vae").fit(csr_array(gaps))
    with pytest.raises(ValueError, match="infinity"):
        make("vae").fit(np.where(np.isnan(gaps), np.inf, gaps))


# Weights


@pytest.mark.parametrize("name", ESTIMATORS)
def test_data_of_weight_0_are_as_if_they_were_not_there(name, wine):
    weight = np.where(np.arange(178) % 3 == 0, 0.0, 2.0)
    weighted, fewer = make(name).fit(wine, sample_weight=weight), make(name).fit(wine[weight > 0])
    np.testing.assert_allclose(weighted.score_samples(wine), fewer.score_samples(wine), rtol=1e-4)
    with pytest.raises(InputError, match="sample_weight is zero for all data"):
        make(name).fit(wine, sample_weight=np.zeros(178))


@pytest.mark.parametrize("name", ["ppca", "ppca outliers"])
def test_whole_weights_repeat_data(name, wine):
    weight = np.arange(178) % 4
    weighted = make(name).fit(wine, sample_weight=weight)
    repeated = make(name).fit(np.repeat(wine, weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(wine), repeated.score_samples(wine), rtol=1e-8)
    if name == "ppca outliers":
        assert weighted.offset_ == pytest.approx(repeated.offset_, rel=1e-9)


def test_a_vae_learns_the_data_of_large_weight(wine):
    """Two clouds: with nearly all of the weight on one, samples come from there."""
    X = np.concatenate([wine[:80, :3] - 4, wine[80:160, :3] + 4])
    weight = np.repeat([1e-3, 1.0], 80)
    options = {"epochs": 40, "batch_size": 40, "learning_rate": 0.02, "validation_fraction": 0.0}
    estimator = make("vae", **options).fit(X, sample_weight=weight)
    assert estimator.sample(500).mean() > 2.5


# Sparse data


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, csr_array) for name in ESTIMATORS), ("vae", csr_matrix), ("ppca", csr_matrix)],
)
def test_sparse_data_give_the_same_and_are_never_dense_as_a_whole(name, kind, monkeypatch):
    X = np.random.default_rng(0).random((300, 8))
    X[X < 0.6] = 0
    expected = make(name).fit(X)
    scores = expected.score_samples(X)
    monkeypatch.setattr(inputs, "MOST_VALUES", 8 * 300)
    sparse, dense = kind(X), kind.toarray
    made = []
    monkeypatch.setattr(kind, "toarray", lambda self, *args: made.append(self.shape[0]) or dense(self))
    found = make(name).fit(sparse)
    np.testing.assert_allclose(found.score_samples(sparse), scores, rtol=1e-8)
    monkeypatch.setattr(inputs, "MOST_VALUES", 8 * 100)
    make(name).fit(sparse).score_samples(sparse)
    assert made
    assert max(made[len(made) // 2 :]) <= 100
    if hasattr(found, "transform"):
        np.testing.assert_allclose(found.transform(sparse), expected.transform(X), rtol=1e-6, atol=1e-9)


# Data frames, pipelines, grids, pickles, images


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_data_frames_go_in_and_come_out(name, wine, gaps):
    columns = [f"c{number}" for number in range(13)]
    frame = pd.DataFrame(gaps, columns=columns, index=np.arange(178) + 7)
    estimator = make(name).fit(pd.DataFrame(wine, columns=columns)).set_output(transform="pandas")
    codes = estimator.transform(frame)
    prefix = type(estimator).__name__.lower()
    assert codes.columns.tolist() == [f"{prefix}{k}" for k in range(codes.shape[1])]
    assert codes.columns.tolist() == estimator.get_feature_names_out().tolist()
    completed = estimator.impute(frame)
    assert completed.columns.tolist() == columns
    assert completed.index.tolist() == frame.index.tolist()
    assert not completed.isna().any(axis=None)
    assert estimator.inverse_transform(codes.to_numpy()).shape == (178, 13)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(frame[columns[::-1]])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_pickled_and_cloned(name, wine, fitted):
    estimator = fitted(name)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.score_samples(wine), estimator.score_samples(wine))
    np.testing.assert_array_equal(again.sample(3), estimator.sample(3))
    np.testing.assert_array_equal(estimator.sample(3, random_state=5), again.sample(3, random_state=5))
    assert not np.array_equal(estimator.sample(3), estimator.sample(3, random_state=5))
    fresh = clone(estimator)
    assert fresh.get_params() == estimator.get_params()
    assert not hasattr(fresh, "model_")


def test_latents_are_features_in_a_pipeline_and_options_lie_on_a_grid(wine):
    y = load_wine().target
    pipeline = make_pipeline(StandardScaler(), PPCATransformer(2), LogisticRegression())
    grid = {"ppcatransformer__latent_dim": np.array([1, 3])}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(wine, y)
    assert search.best_params_ == {"ppcatransformer__latent_dim": 3}
    assert search.best_score_ > 0.9
    by_density = GridSearchCV(make("vae"), {"epochs": np.array([1, 30])}, cv=2, error_score="raise").fit(
        wine
    )
    assert by_density.best_params_ == {"epochs": 30}, "the score is log p(x)"


@pytest.mark.parametrize("name", ["vae", "ppca"])
def test_images_are_flat_or_not(name, images):
    X = images[0] + (np.random.default_rng(0).normal(size=images[0].shape) if name == "ppca" else 0)
    flat, shaped = make(name).fit(X), make(name).fit(X.reshape(-1, 1, 8, 8))
    assert flat.sample(3).shape == flat.reconstruct(X[:3]).shape == (3, 64)
    assert shaped.sample(3).shape == shaped.reconstruct(X[:3]).shape == (3, 1, 8, 8)
    assert shaped.n_features_in_ == 64
    gaps = X.reshape(-1, 1, 8, 8).copy()
    gaps[:, :, 2:4] = np.nan
    completed = shaped.impute(gaps)
    assert completed.shape == gaps.shape
    np.testing.assert_array_equal(completed[:, :, 4:], gaps[:, :, 4:])
    if name == "vae":
        assert completed.min() >= 0
        assert completed.max() <= 1


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "categorical"])
def test_values_beyond_the_unit_interval_are_clipped_or_refused(likelihood, images):
    X, _ = images
    estimator = make("vae", likelihood=likelihood).fit(X)
    with pytest.warns(UserWarning, match="values of X lie outside of .* clipped"):
        near = estimator.transform(np.where(X == 0, -0.05, X))
    np.testing.assert_array_equal(near, estimator.transform(X))
    for method in ("transform", "score_samples"):
        with pytest.raises(InputError, match=r"values of X go from 0 to 16, .* scale them"):
            getattr(estimator, method)(16 * X)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"model": "m2"}, "unknown model 'm2'.*vae, hvae"),
        ("vae", {"latent_dim": 0}, "latent_dim is 0.*at least 1"),
        ("vae", {"num_samples": 0}, "num_samples is 0"),
        ("vae", {"likelihood": "bernoulli"}, r"\[0, 1\]"),
        ("ppca", {"latent_dim": 13}, "latent_dim is 13, but n_samples = 178 and n_features = 13"),
        ("ppca", {"latent_dim": 1.5}, "latent_dim is 1.5.*whole number"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name, options, message, wine):
    estimator = make(name).set_params(**options)
    with pytest.raises(InputError, match=message):
        estimator.fit(wine).score(wine)


# A fit that does not end, and threads


@pytest.mark.parametrize(
    ("name", "where"),
    [("vae outliers", "recipes.plan.Plan.fit"), ("ppca", "models.ppca.PPCA.fit_closed_form")],
)
def test_a_second_fit_that_does_not_end_leaves_the_first_result_whole(name, where, wine, monkeypatch):
    estimator = make(name).fit(wine)
    before, attributes = estimator.score_samples(wine), set(vars(estimator))

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pyrovae.{where}", fail)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(16 * wine[:, :5])
    np.testing.assert_array_equal(estimator.score_samples(wine), before)
    assert set(vars(estimator)) == attributes


def test_threads_get_the_answers_of_one(wine, fitted, threads):
    expected = [fitted(name).score_samples(wine).tolist() for name in ("vae", "ppca")]
    running = threads.submit(make("vae", epochs=3).fit, wine)
    for found in threads.map(lambda name: fitted(name).score_samples(wine).tolist(), ("vae", "ppca") * 4):
        assert found in expected
    assert running.result().score(wine) == make("vae", epochs=3).fit(wine).score(wine)


def test_the_callers_random_states_are_left_alone(wine):
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    VAETransformer(**SMALL).fit(wine).score(wine)
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])
