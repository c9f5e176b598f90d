"""What the import of evaluation and generation costs: nothing that is not used."""

import subprocess
import sys

import pytest

import pyrovae.evaluation
import pyrovae.generation


@pytest.mark.parametrize("package", ["evaluation", "generation"])
def test_an_import_loads_neither_arviz_nor_matplotlib(package):
    name = getattr(pyrovae, package).__all__[-1]
    code = (
        f"from pyrovae.{package} import {name}; import sys; "
        "print(*{'arviz', 'xarray', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("package", ["evaluation", "generation"])
def test_a_package_alone_loads_no_torch(package):
    code = f"import pyrovae.{package}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("package", [pyrovae.evaluation, pyrovae.generation])
def test_every_public_name_is_there(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) == set(dir(package))


def test_a_function_is_not_hidden_by_a_file_of_its_name():
    for package in (pyrovae.evaluation, pyrovae.generation):
        for name in package.__all__:
            assert not isinstance(getattr(package, name), type(sys))
