"""Packages of components load their names when they are used, so that help costs no import of torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

# Of pyrovae itself only its place is needed here: what `import pyrovae` loads is tested elsewhere.
SCRIPT = """
import importlib, sys, types
pyrovae = sys.modules["pyrovae"] = types.ModuleType("pyrovae")
pyrovae.__path__ = [{root!r}]
package = importlib.import_module("pyrovae.{name}")
assert package.__all__
assert not [module for module in ("torch", "pyro", "zuko") if module in sys.modules]
"""


@pytest.mark.parametrize(
    "name", ["networks", "distributions", "flows", "priors", "posteriors", "likelihoods", "models"]
)
def test_a_package_of_components_is_imported_without_torch(name):
    script = SCRIPT.format(root=str(Path(pyrovae.__file__).parent), name=name)
    subprocess.run([sys.executable, "-c", script], check=True)
