"""Several processes under torchrun: what one does alone, shared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchrun_job import KINDS, Draws, evaluated, set_by_callback, trained

from pyrovae.compute import processes

TESTS = Path(__file__).parents[1]


def torchrun(*words, check=True):
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The results of two processes, their folder, and what they print."""
    folder = tmp_path_factory.mktemp("together")
    trained("plain", epochs=2, folder=folder / "of-one")
    output = torchrun(TESTS / "torchrun_job.py", "everything", folder).stdout
    results = [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in (0, 1)]
    return results, folder, output


def assert_same(state, other, tolerance):
    for name, value in state.items():
        assert (value - other[name]).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_parameters_of_one(together, kind):
    alone = trained(kind)
    for result in together[0]:
        assert_same(alone["state"], result[kind]["state"], 1e-5)
        for row, expected in zip(result[kind]["rows"], alone["rows"], strict=True):
            assert row.keys() == expected.keys()
            for name in row.keys() - {"seconds"}:
                assert row[name] == pytest.approx(expected[name], rel=1e-5), name


def test_processes_end_with_the_same_parameters(together):
    for kind in KINDS:
        assert_same(together[0][0][kind]["state"], together[0][1][kind]["state"], 0)


def test_a_callback_runs_in_the_first_process_and_stops_all(together):
    first, second = (result["called back"] for result in together[0])
    assert (first["seen"], second["seen"]) == ([1, 2, 3], [])
    assert first["rows"] == second["rows"]
    assert [row["rank"] for row in second["rows"]] == [0, 0, 0]
    assert_same(first["state"], second["state"], 0)


def test_what_a_callback_sets_is_set_in_all_processes(together):
    results = [result["set by a callback"] for result in together[0]]
    alone = set_by_callback("value")
    for result in results:
        assert_same(alone["state"], result["value"]["state"], 1e-5)
        assert "a callback has added, removed or replaced 'added." in result["module"]
    assert_same(results[0]["value"]["state"], results[1]["value"]["state"], 0)


def test_a_shared_evaluation_is_the_same_number_for_number(together):
    alone = evaluated()
    for result in together[0]:
        found = result["evaluated"]
        assert torch.equal(found["log_px"], alone["log_px"])
        assert torch.equal(found["khat"], alone["khat"])
        assert torch.equal(found["bounds"][1000], alone["bounds"][1000])
        assert torch.equal(found["classes"], alone["classes"])


def test_checkpoints_do_not_depend_on_the_number_of_processes(together):
    results, folder, _ = together
    alone = trained("plain")
    assert_same(alone["state"], trained("plain", folder=folder / "of-two", resume=True)["state"], 1e-5)
    for result in results:
        assert_same(alone["state"], result["resumed"]["state"], 1e-5)
        assert len(result["resumed"]["rows"]) == 5


def test_each_process_draws_for_itself(together):
    first, second = (result["drawn"]["draws"] for result in together[0])
    assert not set(first) & set(second)


def test_a_resumed_run_ends_as_if_there_had_been_no_interruption(together):
    results = together[0][0]
    assert_same(results["drawn"]["state"], results["drawn, resumed"]["state"], 0)


def test_a_process_that_dies_ends_the_run_which_can_be_resumed(tmp_path):
    died = torchrun(TESTS / "torchrun_job.py", "dying", tmp_path, check=False)
    assert died.returncode != 0
    assert "exitcode  : 9" in died.stderr
    assert len(list(tmp_path.iterdir())) == 1  # of the first epoch
    resumed = trained("plain", transform=Draws(), folder=tmp_path, resume=True)
    assert_same(trained("plain", transform=Draws())["state"], resumed["state"], 1e-5)


def test_command_line(together):
    _, folder, output = together
    assert output.count("trained 2 epochs") == 1
    assert output.count("classification.json") == 1
    assert json.loads((folder / "run" / "config.json").read_text())["processes"] == 2
    assert len(json.loads((folder / "run" / "history.json").read_text())["rows"]) == 2


def test_alone():
    with processes.joined():
        assert processes.rank() == 0
        assert processes.count() == 1
        assert processes.summed([1.0]) == [1.0]
        processes.wait()
