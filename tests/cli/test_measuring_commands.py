"""Commands that measure and sample: the same again for the same run and seed."""

import json
import re

import pytest
from small_runs import PNG, files, pyrovae, train_by_words

from pyrovae.errors import InputError


def test_sample_and_overview_draw_a_trained_run(run):
    assert pyrovae("sample", run, "--count", 12) == f"written: {run}/figures/samples.png\n"
    pyrovae("evaluate", run, "--num-samples", 1, "--limit", 20, "--quiet")
    assert json.loads((run / "metrics.json").read_text())["mean_std_error"] is None
    pyrovae("overview", run)
    for name in ("samples", "overview"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(PNG)


def test_sampling_again_with_the_same_seed_draws_the_same(run):
    pyrovae("sample", run, "--count", 4, "--seed", 1)
    first = (run / "figures" / "samples.png").read_bytes()
    pyrovae("sample", run, "--count", 4, "--seed", 2)
    assert (run / "figures" / "samples.png").read_bytes() != first
    pyrovae("sample", run, "--count", 4, "--seed", 1)
    assert (run / "figures" / "samples.png").read_bytes() == first


def test_evaluating_twice_prints_and_writes_the_same_also_after_a_move(run):
    words = ["--num-samples", 20, "--limit", 20, "--quiet"]
    first = pyrovae("evaluate", run, *words), files(run)
    assert (pyrovae("evaluate", run, *words), files(run)) == first
    moved = run.rename(run.parent / "moved")
    assert pyrovae("evaluate", moved, *words).replace("moved", "run") == first[0]
    assert files(moved) == first[1]


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_evaluating_ppca_prints_its_exact_evidence(tmp_path):
    train_by_words(tmp_path / "run", "ppca")
    assert re.search(r"exact +=", pyrovae("evaluate", tmp_path / "run", "--num-samples", 50, "--quiet"))


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_diagnose_prints_where_the_bound_is_lost_and_what_latents_carry(run):
    printed = pyrovae("diagnose", run, "--limit", "10", "--num-samples", "100", "--steps", "20", "--quiet")
    for line in ("units carry information", "mutual information", "dimension-wise KL", "amortisation"):
        assert line in printed
    gaps = json.loads((run / "inference_gaps.json").read_text())
    assert len(gaps["data"]["elbo"]) == 10
    assert json.loads((run / "active_units.json").read_text())["summary"]["num_data"] == 10
    assert (run / "kl_decomposition.json").exists()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (
            ["vae", "--posterior", "planar", "--flow-steps", "2"],
            "no kl decomposition for this guide: .*Planar",
        ),
        (["hvae"], "no inference gaps for this guide: .*'z1'"),
    ],
)
def test_diagnose_says_what_a_guide_cannot_be_asked(options, missing, tmp_path):
    train_by_words(tmp_path / "run", *options, "--compile", "off")
    printed = pyrovae(
        "diagnose", tmp_path / "run", "--limit", "5", "--num-samples", "20", "--steps", "5", "--quiet"
    )
    assert re.search(missing, printed)
    assert printed.count("written: ") == 2


def test_a_bayesian_network_is_measured_by_its_predictions(tmp_path):
    """Its latents are those of all data: no datum has an evidence, nor codes for M1's classifiers."""
    run = tmp_path / "run"
    train_by_words(run, "bnn", "--validation-fraction", "0.1")
    rates = r"own classifier +[\d.]+ % test error +[\d.]+ % balanced accuracy"
    assert re.fullmatch(rf"{rates}\nwritten: {run}/classification.json\n", pyrovae("classify", run))
    with pytest.raises(InputError, match=r"latents of bnn belong to all data.*pyrovae classify"):
        pyrovae("evaluate", run, "--quiet")
    assert "w ~ Normal" in pyrovae("plates", "bnn")
