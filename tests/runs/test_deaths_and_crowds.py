"""A run that dies at any file operation, and a folder that several processes write and read at once.

CI tries a tenth of the operations and 3 rounds. For all of them set PYROVAE_CRASH_EVERY=1 and
PYROVAE_ROUNDS=50.
"""

import os
import random
import re

import pytest
import torch
from crashes import read_in_rounds, train_ppca, train_until, vectors_beside, write_in_rounds
from processes import context

from pyrovae.recipes import Run
from pyrovae.training.checkpoints import checkpoints_in, load_checkpoint

EVERY = int(os.environ.get("PYROVAE_CRASH_EVERY", "10"))
ROUNDS = int(os.environ.get("PYROVAE_ROUNDS", "3"))


def parameters(folder):
    return load_checkpoint(folder / "checkpoints")["state"]["modules"]["0"]


def check_whole(folder, expected, epochs):
    """Check that a folder holds one run, whole, and nothing else."""
    assert all(torch.equal(value, expected[name]) for name, value in parameters(folder).items())
    run = Run.open(folder)
    assert [row["epoch"] for row in run.history.rows] == [*range(1, epochs + 1)]
    files = checkpoints_in(folder / "checkpoints")
    assert [file.epoch for file in files] == [epochs, epochs - 1]
    assert {file.run for file in files} == {run.config.run}
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    of_run = {"config.json", "history.json", "verdict.json", f"history-{run.config.run}.jsonl"}
    assert names == {file.path.name for file in files} | of_run


def test_a_run_that_dies_at_any_file_operation_is_resumed_to_the_same_end(tmp_path):
    counted = context.Value("i")
    whole = tmp_path / "whole" / "run"
    whole.parent.mkdir()
    process = context.Process(target=train_until, args=(whole, 0, counted))
    process.start()
    process.join()
    assert (process.exitcode, counted.value > 25) == (0, True)
    expected = parameters(whole)
    for number in range(random.Random(EVERY).randrange(EVERY) + 1, counted.value + 1, EVERY):
        folder = tmp_path / str(number) / "run"
        folder.parent.mkdir()
        process = context.Process(target=train_until, args=(folder, number, counted))
        process.start()
        process.join()
        assert process.exitcode == 9, f"it did not die at operation {number}"
        train_ppca(folder)
        check_whole(folder, expected, 3)


REFUSALS = r"is being written by process \d+ on \S+: wait|is in use: name another folder"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The parameters of a run that nothing disturbs."""
    return parameters(train_ppca(tmp_path_factory.mktemp("runs") / "alone").folder)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_two_writers_and_three_readers_leave_one_run(number, alone, tmp_path):
    folder, begin, until, log = tmp_path / "run", context.Event(), context.Event(), context.Queue()
    vectors_beside(folder)
    writers = [context.Process(target=write_in_rounds, args=(folder, begin, log)) for _ in range(2)]
    readers = [context.Process(target=read_in_rounds, args=(folder, begin, log, until)) for _ in range(3)]
    for process in [*writers, *readers]:
        process.start()
    begin.set()
    said = [log.get() for _ in range(len(writers))]
    while sum(who == "writer" for who, *_ in said) < len(writers):
        said.append(log.get())
    until.set()
    for process in [*writers, *readers]:
        process.join(30)
        assert process.exitcode == 0
    while not log.empty():
        said.append(log.get())
    ends = [(error, text) for who, error, text in said if who == "writer"]
    assert ("", "") in ends
    for error, text in ends:
        assert (error, text) == ("", "") or (error == "InputError" and re.search(REFUSALS, text)), text
    errors = [(error, text) for who, error, text in said if who == "reader" and error]
    assert errors == []
    check_whole(folder, alone, 3)
