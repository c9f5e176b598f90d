"""An evaluation that runs out of memory halves its chunk and goes on."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities, importance, marginal_likelihood
from pyrovae.evaluation import classification as classifying
from pyrovae.evaluation.chunking import in_chunks

ERRORS = {
    "Python": MemoryError(),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"),
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
}


def memory_for(most, error, seen):
    def call(rows):
        seen.append(rows.stop - rows.start)
        if seen[-1] > most:
            raise error
        return range(100)[rows]

    return call


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_chunks_are_halved_until_they_fit_and_cover_all(error):
    seen = []
    results, size = in_chunks(memory_for(6, error, seen), 20, 18)
    assert [number for part in results for number in part] == [*range(20)]
    assert seen == [18, 9, 4, 4, 4, 4, 4]
    assert size == 4


def test_what_does_not_fit_alone_or_is_another_error_is_raised():
    with pytest.raises(MemoryError):
        in_chunks(memory_for(0, MemoryError(), []), 20, 8)
    seen = []
    with pytest.raises(RuntimeError, match="shapes"):
        in_chunks(memory_for(6, RuntimeError("shapes do not match"), seen), 20, 8)
    assert seen == [8]


def test_the_evidence_is_right_with_the_draws_that_fit(make_ppca, draw, monkeypatch):
    ppca, real, seen = make_ppca(), importance._scored, []
    x = draw(ppca, 6)

    def scored(pair, layout, further, particles, *args):
        seen.append(particles)
        if particles > 50:
            raise MemoryError
        return real(pair, layout, further, particles, *args)

    monkeypatch.setattr(importance, "_scored", scored)
    found = marginal_likelihood(ppca, x, num_samples=400, compile="off")
    assert seen[:4] == [2000 // 6, 166, 83, 41], "halves of what fits the cache"
    assert sum(number for number in seen if number <= 50) == 400
    error = (found.log_px - ppca.log_evidence(x)).abs()
    assert bool((error < 4 * found.std_error).all())


def test_classes_are_those_of_a_machine_with_more_memory(make_m2, binary_images, monkeypatch):
    m2, real = make_m2(), classifying._probabilities
    expected = class_probabilities(m2, binary_images.double())

    def probabilities(pair, site, device, data, rows):
        if rows.stop - rows.start > 5:
            raise MemoryError
        return real(pair, site, device, data, rows)

    monkeypatch.setattr(classifying, "_probabilities", probabilities)
    torch.testing.assert_close(class_probabilities(m2, binary_images.double()), expected)


def test_memory_that_does_not_suffice_for_one_draw_is_told_with_what_to_lower(make_ppca, draw, monkeypatch):
    def scored(*args):
        raise MemoryError

    monkeypatch.setattr(importance, "_scored", scored)
    ppca = make_ppca()
    with pytest.raises((InputError, MemoryError)) as caught:
        marginal_likelihood(ppca, draw(ppca, 6), num_samples=40, compile="off")
    assert isinstance(caught.value, InputError), "and not MemoryError"
