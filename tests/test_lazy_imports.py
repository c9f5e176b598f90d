"""`import pyrovae` imports nothing heavy: each name is loaded when it is used."""

import importlib
import json
import subprocess
import sys

import pytest

import pyrovae

HEAVY = ("torch", "pyro", "numpy", "scipy", "matplotlib", "sklearn", "arviz", "torchvision")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after the code."""
    report = f"import json, sys; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    run = [sys.executable, "-c", f"{code}\n{report}"]
    return set(json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout))


def test_the_package_itself_imports_nothing_heavy():
    assert loaded_by("import pyrovae; pyrovae.__version__; dir(pyrovae)") == set()


def test_training_and_diagrams_of_programs_import_no_figures_and_no_scikit_learn():
    loaded = loaded_by("from pyrovae import fit, plate_diagram, Pair, processes")
    assert "torch" in loaded
    assert loaded.isdisjoint({"matplotlib", "sklearn", "arviz", "torchvision"})


@pytest.mark.parametrize("name", pyrovae.__all__)
def test_every_name_is_there(name):
    assert getattr(pyrovae, name) is not None


def test_scikit_learn_is_loaded_by_the_estimator_alone():
    assert "sklearn" in loaded_by("from pyrovae import SemiSupervisedVAEClassifier")


def test_names_are_what_they_say():
    assert pyrovae.fit is importlib.import_module("pyrovae.training.fit").fit
    assert pyrovae.processes is importlib.import_module("pyrovae.compute.processes")
    assert set(dir(pyrovae)) >= {"fit", "plate_diagram", "Pair", "data", "recipes", "__version__"}
    with pytest.raises(AttributeError, match="Classifier"):
        _ = pyrovae.Classifier


@pytest.mark.parametrize(
    ("former", "now"),
    [("pyrovae.estimators", "pyrovae.objectives"), ("pyrovae.sylvester", "pyrovae.flows")],
)
def test_modules_that_have_moved_name_their_new_place(former, now):
    with pytest.raises(ImportError, match=now):
        importlib.import_module(former)


def test_a_vae_is_trained_without_scikit_learn_and_without_figures():
    code = (
        "import torch; from pyrovae.recipes import About, Training, vae; x = torch.rand(20, 6)\n"
        "training = Training(epochs=1, validation_fraction=0.0)  # splits are scikit-learn's\n"
        "vae(About.of(x), latent_dim=2, width=4).fit(x, training=training)"
    )
    assert loaded_by(code).isdisjoint({"matplotlib", "sklearn", "arviz", "torchvision"})
