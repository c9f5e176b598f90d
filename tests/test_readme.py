"""The Python and shell blocks of the README and of the pages in docs/ run as they stand, but for a tenth of
the epochs, and with all runs of a sweep in this process."""

import json
import math
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from small_runs import pyrovae

pytestmark = pytest.mark.verdict

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "experiments/results/README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def shorter(text: str) -> str:
    return re.sub(r"(\bepochs[= ])(\d+)", lambda found: f"{found[1]}{math.ceil(int(found[2]) / 10)}", text)


def files_in(text: str) -> dict[str, str]:
    """The blocks whose first line is a file's name in a comment."""
    found = {}
    for block in (*blocks(text, "python"), *blocks(text, "toml")):
        if name := re.match(r"# (\w+\.(?:py|toml))\n", block):
            found[name[1]] = block
    return found


def run_python(text: str, page: str) -> None:
    names: dict[str, object] = {"__name__": page}
    files = files_in(text).values()
    for block in blocks(text, "python"):
        if block not in files:
            exec(compile(shorter(block), page, "exec"), names)


def run_commands(text: str) -> int:
    run = [words for words in commands(shorter(text)) if words[0] == "pyrovae"]
    for words in run:
        pyrovae(*words[1:])
    return len(run)


@pytest.fixture
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # A sweep trains as many runs at a time as there are cores: one, and so in this process.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    return tmp_path


@pytest.mark.usefixtures("param_store")
@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_python_blocks_run_one_after_the_other(in_temporary_folder: Path) -> None:
    assert len(blocks(README, "python")) >= 5
    run_python(README, "README.md")
    assert (in_temporary_folder / "vae.png").stat().st_size > 0
    assert (in_temporary_folder / "ppca.json").stat().st_size > 0


@pytest.mark.usefixtures("param_store", "in_temporary_folder")
@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.stem)
def test_python_blocks_of_a_page_run_one_after_the_other(page: Path) -> None:
    run_python(page.read_text(), page.name)


def test_first_python_block_defines_and_trains_a_model_in_15_lines() -> None:
    code = [line for line in blocks(README, "python")[0].splitlines() if line and "import" not in line]
    assert len(code) <= 15


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_command_line_blocks_run(in_temporary_folder: Path) -> None:
    assert run_commands(README) >= 8
    assert (in_temporary_folder / "runs/first/figures/overview.png").stat().st_size > 0


@pytest.mark.usefixtures("in_temporary_folder")
@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_commands_with_files_of_ones_own_run() -> None:
    text = (ROOT / "docs/command-line.md").read_text()
    for name, content in files_in(text).items():
        Path(name).write_text(content)
    assert run_commands(text) >= 8
    assert Path("runs/mine/figures/samples.png").stat().st_size > 0
    assert Path("mine.svg").stat().st_size > 0


def test_make_targets_exist() -> None:
    made = [words for words in commands(README) if words[0] == "make"]
    assert [words[1] for words in made] == ["demo", "test"]
    for words in made:
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "experiments/results/README.md", *DOCS], ids=lambda path: path.stem
)
def test_links_and_pictures_exist(page: Path) -> None:
    links = re.findall(r"\[[^]]*\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert links or page in DOCS
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


def test_results_are_quoted_as_the_experiment_wrote_them() -> None:
    rows = json.loads((ROOT / "experiments/results/mnist_vae.json").read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        minus = f"−{-row['value']:.2f}"
        assert f"| {row['epochs']} epochs, {row['training_minutes']:.1f} minutes | **{minus}**" in RESULTS


def test_test_errors_are_quoted_as_the_experiment_wrote_them() -> None:
    rows = json.loads((ROOT / "experiments/results/semi_supervised.json").read_text())["rows"]
    quoted = [row for row in rows if (row["dataset"], row["protocol"]) == ("mnist", "100 labels")]
    for row in quoted:
        if row["model"] in ("M2", "M1+M2", "PC-VAE", "CPC-VAE"):
            assert len(row["seeds"]) == 5
            figure = f"{row['value']:.2f} ± {row['std']:.2f}"
            assert re.search(rf"^\| {re.escape(row['model'])}\b.* \| {figure} \|", RESULTS, re.MULTILINE)


@pytest.mark.parametrize("experiment", ["priors", "iwae"])
def test_long_runs_are_quoted_as_the_experiment_wrote_them(experiment: str) -> None:
    rows = json.loads((ROOT / f"experiments/results/{experiment}.json").read_text())["rows"]
    long = [row for row in rows if row["num_samples"] == 5000]
    assert long
    for row in long:
        assert f"−{-row['value']:.2f}" in RESULTS, row["model"]


def test_figures_in_the_readme_are_in_the_results() -> None:
    summary = README.split("## Results")[1].split("## Development")[0]
    figures = re.findall(r"\| (−?\d+\.\d+(?: ± \d+\.\d+)?)(?: %)? \|", summary)
    assert len(figures) >= 4
    for figure in figures:
        assert figure in RESULTS, figure
