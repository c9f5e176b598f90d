"""A recipe without a likelihood by name takes one that the data allow."""

import json

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_by_words

from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli, Gaussian
from pyrovae.recipes import RECIPES, About, Training, load_recipe, options_of, vae

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
