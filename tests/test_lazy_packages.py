"""Packages of components load their names when they are used, so that help costs no import of torch."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import pyrovae.{name} as package
assert package.__all__
assert not [module for module in ("torch", "pyro", "zuko") if module in sys.modules]
"""


@pytest.mark.parametrize(
    "name", ["networks", "distributions", "flows", "priors", "posteriors", "likelihoods", "models"]
)
def test_a_package_of_components_is_imported_without_torch(name):
    subprocess.run([sys.executable, "-c", SCRIPT.format(name=name)], check=True)
