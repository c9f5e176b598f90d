"""Mistakes in the use of recipes and of `fit` get an error that says what to write."""

import pyro
import pytest
import torch

from pyrovae import fit, recipes
from pyrovae.errors import InputError
from pyrovae.recipes import About, Plan, Training, load_recipe, recipe

X = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)).round()


def small(**options):
    return recipes.vae(About.of(X), latent_dim=2, width=8, **options)


@pytest.mark.parametrize("call", [lambda: recipes.vae(X), lambda: recipes.vae(latent_dim=2)])
def test_a_recipe_without_the_facts_about_the_data(call):
    with pytest.raises(InputError, match=r"vae\(About\.of\(x\)"):
        call()


def test_the_decorator_without_parentheses():
    with pytest.raises(InputError, match=r"@recipe\(\)"):

        @recipe
        def build(about) -> Plan: ...


def test_settings_that_are_a_dictionary():
    with pytest.raises(InputError, match=r"training is a dict.*Training\("):
        small().fit(X, training={"epochs": 2})


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam([torch.zeros(1)]), pyro.optim.Adam({"lr": 1e-3})], ids=["torch", "pyro"]
)
def test_an_optimiser_object(optimizer):
    with pytest.raises(InputError, match=r"optimizer is an? .*partial\(torch\.optim\.Adam"):
        fit(small().pair, X, epochs=1, optimizer=optimizer, progress=False)


def test_resuming_without_a_folder():
    with pytest.raises(InputError, match=r"resume is True.*folder="):
        fit(small().pair, X, epochs=1, resume=True, progress=False)


def test_a_class_in_the_place_of_a_recipe(tmp_path):
    (tmp_path / "own.py").write_text("class Mine:\n    def __init__(self, network, latent_dim): ...\n")
    with pytest.raises(InputError, match=r"own\.py:Mine is a class.*--posterior"):
        load_recipe(f"{tmp_path}/own.py:Mine")


def test_a_component_of_another_kind(tmp_path):
    (tmp_path / "own.py").write_text("class Mine:\n    def __init__(self, latent_dim): ...\n")
    with pytest.raises(InputError, match=r"cannot be called as a posterior.*too many positional"):
        small(posterior=f"{tmp_path}/own.py:Mine")


def test_a_syntax_error_in_ones_file_is_located(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(InputError, match=r"at broken\.py:2: SyntaxError"):
        load_recipe(f"{tmp_path}/broken.py:build")


def test_settings_in_their_place():
    fitted = small().fit(X, training=Training(epochs=1))
    assert len(fitted.history.rows) == 1
