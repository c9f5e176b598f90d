"""A recipe without a likelihood by name takes one that the data allow."""

import json
import warnings

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_by_words

from pyrovae import VAETransformer
from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli, Gaussian
from pyrovae.recipes import RECIPES, About, Run, Training, load_recipe, options_of, vae

WITH_LIKELIHOOD = [name for name in RECIPES if "likelihood" in options_of(load_recipe(name))]
IN, OUT = torch.rand(30, 3), torch.rand(30, 3) * 2


@pytest.mark.parametrize("name", WITH_LIKELIHOOD)
@pytest.mark.parametrize(("x", "expected"), [(IN, "bernoulli"), (OUT, "gaussian"), (-IN, "gaussian")])
def test_vectors_outside_of_the_unit_interval_are_gaussian(name, x, expected):
    about = About.of(x, torch.arange(30) % 2)
    assert load_recipe(name)(about, width=4).options["likelihood"] == expected


def test_its_own_options_belong_to_the_chosen_one():
    assert vae(About.of(OUT), width=4, standardise=False).pair.likelihood.standardisation is None
    with pytest.raises(InputError, match="standardise needs likelihood"):
        vae(About.of(IN), width=4, standardise=False)


def test_a_likelihood_by_name_stays_and_images_are_to_be_scaled():
    assert isinstance(vae(About.of(IN), likelihood="gaussian", width=4).pair.likelihood, Gaussian)
    images = torch.rand(20, 1, 4, 4) * 255
    plan = vae(About.of(images), width=4)
    assert isinstance(plan.pair.likelihood, Bernoulli)
    with pytest.raises(InputError, match="or scale the data"):
        plan.fit(images, training=Training(epochs=1))


def test_a_dataset_of_items_is_looked_at():
    items = torch.utils.data.TensorDataset(OUT)
    assert not About.of(items).in_unit_interval
    assert About.of(torch.utils.data.TensorDataset(IN)).in_unit_interval


def test_a_file_alone_is_enough_and_the_run_knows_what_was_chosen(tmp_path):
    np.savez(tmp_path / "table.npz", x=OUT.numpy())
    folder = tmp_path / "run"
    assert "likelihood is Gaussian" in train_by_words(folder, "vae", "--data", tmp_path / "table.npz")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content["config"]["options"]["likelihood"] == "gaussian"
    del content["config"]["about"]["in_unit_interval"]  # as in a run of an older version
    path.write_text(json.dumps(content))
    pyrovae("resume", folder, "--epochs", 2, "--quiet")
    assert "log p(x)" in pyrovae("evaluate", folder, "--num-samples", 10)


ORDINAL = np.random.default_rng(0).integers(0, 3, (60, 5))


@pytest.mark.parametrize(
    ("x", "likelihood", "told"),
    [
        (ORDINAL, "gaussian", "values: some lie outside of [0, 1]; the likelihood is Gaussian"),
        (ORDINAL // 2, "bernoulli", None),
        (ORDINAL / 2, "bernoulli", "values: each is drawn to be 0 or 1, anew in each minibatch"),
        (
            (100 * ORDINAL).astype(np.uint8),
            "bernoulli",
            "values: they are grey levels and were divided by 255; each is drawn to be 0 or 1",
        ),
        (ORDINAL.astype(float), "gaussian", "values: some lie outside of [0, 1]"),
    ],
    ids=["integers", "binary", "fractions", "bytes", "floats"],
)
def test_what_was_done_with_the_values_is_said(x, likelihood, told, tmp_path):
    np.savez(tmp_path / "table.npz", x=x)
    said = train_by_words(tmp_path / "run", "vae", "--data", tmp_path / "table.npz")
    assert f"\n{told}" in said if told else "values:" not in said
    run = Run.open(tmp_path / "run")
    assert run.plan.options["likelihood"] == likelihood
    if x.dtype == np.int64:
        assert run.images.x_train.mean() == pytest.approx(x.mean(), rel=0.1), "in their own units"


def test_named_data_need_no_word(tmp_path):
    assert "values:" not in train_by_words(tmp_path / "run")


@pytest.mark.parametrize("low_high", [(0.0, 1 + 4e-16), (-3e-7, 1.0), (0.0, 1.0000005)])
def test_rounding_does_not_change_the_likelihood(low_high):
    x = torch.rand(40, 3, dtype=torch.float64)
    x[0, :2] = torch.tensor(low_high)
    plan = vae(About.of(x.float()), width=4)
    assert plan.options["likelihood"] == "bernoulli"
    fitted = plan.fit(x.float(), training=Training(epochs=1))
    estimator = VAETransformer(epochs=1, width=4, random_state=0).fit(x.numpy())
    assert isinstance(estimator.model_.likelihood, Bernoulli)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.transform(x.numpy())
        new = fitted.presentation.within_range(x.float(), "x")
    assert (new >= 0).all()
    assert (new <= 1).all()
