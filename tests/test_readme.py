"""The README's Python and shell blocks run as they stand."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from processes import finish

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("param_store")
@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_python_blocks_run_one_after_the_other(in_temporary_folder: Path) -> None:
    assert len(blocks("python")) >= 5
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (in_temporary_folder / "vae.png").stat().st_size > 0
    assert (in_temporary_folder / "ppca.json").stat().st_size > 0


def test_first_python_block_defines_and_trains_a_model_in_15_lines() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line and "import" not in line]
    assert len(code) <= 15


def test_command_line_blocks_run(in_temporary_folder: Path) -> None:
    run = [words for words in commands() if words[0] == "pyrovae"]
    assert len(run) >= 8
    for words in run:
        result = finish(words[1:], in_temporary_folder / "log")
        assert result.status == 0, f"{' '.join(words)}\n{result.err}"
    assert (in_temporary_folder / "runs/first/figures/overview.png").stat().st_size > 0


def test_make_targets_exist() -> None:
    made = [words for words in commands() if words[0] == "make"]
    assert [words[1] for words in made] == ["demo", "test"]
    for words in made:
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


def test_results_are_quoted_as_the_experiment_wrote_them() -> None:
    rows = json.loads((ROOT / "experiments/results/mnist_vae.json").read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        minus = f"−{-row['value']:.2f}"
        assert f"| {row['epochs']} epochs, {row['training_minutes']:.1f} minutes | **{minus}**" in README


def test_test_errors_are_quoted_as_the_experiment_wrote_them() -> None:
    rows = json.loads((ROOT / "experiments/results/semi_supervised.json").read_text())["rows"]
    quoted = [row for row in rows if (row["dataset"], row["protocol"]) == ("mnist", "100 labels")]
    for row in quoted:
        if row["model"] in ("M2", "M1+M2", "PC-VAE", "CPC-VAE"):
            assert len(row["seeds"]) == 5
            figure = f"{row['value']:.2f} ± {row['std']:.2f}"
            assert re.search(rf"^\| {re.escape(row['model'])}\b.* \| {figure} \|", README, re.MULTILINE)


@pytest.mark.parametrize("experiment", ["priors", "iwae"])
def test_long_runs_are_quoted_as_the_experiment_wrote_them(experiment: str) -> None:
    rows = json.loads((ROOT / f"experiments/results/{experiment}.json").read_text())["rows"]
    long = [row for row in rows if row["num_samples"] == 5000]
    assert long
    for row in long:
        assert f"−{-row['value']:.2f}" in README, row["model"]
