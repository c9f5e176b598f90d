"""Several processes under torchrun: what one does alone, shared."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchrun_job
from processes import together as forked
from torchrun_job import KINDS, Draws, evaluated, set_by_callback, trained

from pyrovae.compute import processes
from pyrovae.errors import InputError

TESTS = Path(__file__).parents[1]


def torchrun(*words, check=True, **variables):
    paths = f"{TESTS.parent}:{TESTS}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The results of two processes, their folder, and what they print."""
    folder = tmp_path_factory.mktemp("together")
    trained("plain", epochs=2, folder=folder / "of-one")
    both = forked(torchrun_job.main, folder, "everything", folder)
    assert [each.status for each in both] == [0, 0], both
    results = [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in (0, 1)]
    return results, folder, "".join(each.out for each in both)


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
        assert torch.equal(found["given"], alone["given"])
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
    assert len(list(tmp_path.glob("epoch-*"))) == 1  # of the first epoch
    resumed = trained("plain", transform=Draws(), folder=tmp_path, resume=True)
    assert_same(trained("plain", transform=Draws())["state"], resumed["state"], 1e-5)


def test_command_line(together):
    _, folder, output = together
    assert output.count("trained 2 epochs") == 1
    assert output.count("classification.json") == 1
    assert json.loads((folder / "run" / "config.json").read_text())["processes"] == 2
    assert len(json.loads((folder / "run" / "history.json").read_text())["rows"]) == 2


def test_processes_with_different_data_or_options_are_refused(tmp_path):
    first, second = (done.out for done in forked(torchrun_job.refused, tmp_path))
    assert first == second
    named = {"data": "data", "classes": "classes", "options": "batch_size", "optimiser": "optimizer"}
    named["evaluation"] = "the settings of the evaluation"
    for what, name in named.items():
        assert f"{what}: process 1 has another value of {name}" in first


def test_a_process_that_hangs_is_found_by_the_timeout(tmp_path):
    first, _ = forked(torchrun_job.hang, tmp_path, PYROVAE_TIMEOUT="1")
    assert first.status == 1
    assert "ProcessError: another process has not answered for 1 seconds: it hangs" in first.err


def test_of_processes_that_fail_together_one_tells(tmp_path):
    for seed in (0, 1):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).random((50, 4)))
    words = ["train", "ppca", "--data", f"{tmp_path}/RANK.npy", "--out", f"{tmp_path}/run", "--quiet"]
    first, second = forked(torchrun_job.commanded, tmp_path, *words)
    assert (first.status, second.status, second.err) == (1, 1, "")
    assert re.fullmatch(r"error: process 1 has another value of .*data.*\n", first.err)
    first, second = forked(torchrun_job.commanded, tmp_path, "train", "ppca", "--epochs", "0")
    assert (first.status, second.status, second.err) == (2, 2, "")
    assert first.err.count("error") == 1


def test_a_process_that_fails_alone_tells_so(tmp_path):
    np.save(tmp_path / "0.npy", np.random.default_rng(0).random((50, 4)))
    words = ["train", "ppca", "--data", f"{tmp_path}/RANK.npy", "--out", f"{tmp_path}/run", "--quiet"]
    first, second = forked(torchrun_job.commanded, tmp_path, *words)
    assert (first.status, second.status) == (1, 1)
    assert "1.npy' is neither a data set" in second.err
    assert (first.err + second.err).count("error") <= 2
    assert "Traceback" not in first.err + second.err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"MASTER_PORT": "1"}, "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR are not set"),
    ],
)
def test_incomplete_variables_of_torchrun_are_refused(variables, message, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "left over")
    with processes.joined():  # the variable alone is inherited, and means nothing
        assert processes.count() == 1
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message), processes.joined():
        pass


@pytest.mark.parametrize("timeout", ["soon", "-1", "inf", "nan", "0"])
def test_a_timeout_is_a_number_of_seconds(timeout, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("PYROVAE_TIMEOUT", timeout)
    with pytest.raises(InputError, match=f"PYROVAE_TIMEOUT is '{timeout}'"), processes.joined():
        pass


class Trap:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_processes_send_is_plain_and_a_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = {"a": [1, None, "x", (2.5, True)], "b": torch.ones(2, dtype=torch.int8)}
    assert str(processes._decoded(processes._encoded(sent))) == str(sent)
    with pytest.raises(pickle.UnpicklingError):
        processes._decoded(processes._encoded(Trap()))
    assert not (tmp_path / "ran").exists()


def test_alone():
    with processes.joined():
        assert processes.rank() == 0
        assert processes.count() == 1
        assert processes.summed([1.0]) == [1.0]
        processes.wait()
