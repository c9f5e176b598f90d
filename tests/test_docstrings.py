"""The examples in docstrings run as they stand, and every public component has one."""

import doctest
import importlib
from pathlib import Path

import pytest
from torch import nn

import pyrovae

ROOT = Path(pyrovae.__file__).parent
WITH_EXAMPLES = [
    ".".join(("pyrovae", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]
COMPONENTS = ["networks", "flows", "priors", "posteriors", "likelihoods", "models"]


@pytest.mark.verdict
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for examples that write files
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_public_component_has_an_example(name):
    package = importlib.import_module(f"pyrovae.{name}")
    members = {member: getattr(package, member) for member in package.__all__}
    for member, kind in members.items():
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            assert ">>> " in (kind.__doc__ or ""), member
