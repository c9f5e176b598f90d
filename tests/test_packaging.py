"""pyproject.toml, requirements.lock and environment.yml say the same."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
CONDA_NAMES = {"torch": "pytorch"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def locked() -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in LOCK.splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line)
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def conda() -> dict[str, str]:
    lines = (ROOT / "environment.yml").read_text().split("dependencies:")[1].splitlines()
    entries = [re.fullmatch(r"  - ([\w-]+)([<>=][\d.,<>=]+)?", line) for line in lines]
    return {entry[1]: entry[2] or "" for entry in entries if entry}


def test_lock_pins_every_dependency_within_its_bounds() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    wanted = requirements(PROJECT["dependencies"] + extras)
    assert wanted.pop("pyrovae").extras == {"images"}, "dev has all that the tests need"
    for name, requirement in wanted.items():
        assert name in locked(), f"{name} is not in requirements.lock: run make lock"
        for pin in locked()[name]:
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert requirement.specifier.contains(specifier.version), str(pin)


def test_lock_names_no_registry() -> None:
    assert "://" not in LOCK
    assert "index-url" not in LOCK


def test_conda_environment_has_the_dependencies_with_the_same_bounds() -> None:
    everything = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["images"]
    wanted = {
        CONDA_NAMES.get(name, name): str(requirement.specifier)
        for name, requirement in requirements(everything).items()
    }
    assert conda() == wanted | {"python": PROJECT["requires-python"], "pip": ""}


def test_what_the_package_imports_is_declared() -> None:
    distributions = {"pyro": "pyro-ppl", "sklearn": "scikit-learn", "PIL": "pillow"}
    declared = requirements(PROJECT["dependencies"]).keys()
    imported = set()
    for path in (ROOT / "pyrovae").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    standard = __import__("sys").stdlib_module_names
    assert "torchvision" not in imported, "an extra is imported by name, where its absence is told"
    optional = {"pandas"}  # its absence is told where it is imported
    third_party = imported - standard - {"pyrovae", "arviz_stats"} - optional
    assert {canonicalize_name(distributions.get(name, name)) for name in third_party} <= set(declared)


def test_the_wheel_holds_stubs_and_the_mark_that_the_package_is_typed(tmp_path: Path) -> None:
    ours = ("pyrovae", "pyproject.toml", "README.md", "LICENSE")
    for name in ours:  # building writes beside the sources
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    code = f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path / 'dist')!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("pyrovae-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pyrovae").rglob("*")
        if path.suffix in (".py", ".pyi") or path.name == "py.typed"
    }
    assert "pyrovae/py.typed" in sources
    assert {name for name in held if name.startswith("pyrovae/")} == sources
