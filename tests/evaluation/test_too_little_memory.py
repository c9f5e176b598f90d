"""An evaluation that runs out of memory halves its chunk and goes on."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation import (
    active_units,
    class_probabilities,
    importance,
    inference_gaps,
    kl_decomposition,
    marginal_likelihood,
)
from pyrovae.evaluation import classification as classifying
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.generation import latent_means, posterior_draws, reconstruct

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


# Other evaluations


class Limited:
    """A pair whose programs take at most so many rows of data at a time, as with little memory."""

    def __init__(self, pair, most=8):
        self.pair, self.most, self.refused = pair, most, 0

    def _checked(self, x):
        if len(x) > self.most:
            self.refused += 1
            raise MemoryError
        return x

    def model(self, x):
        return self.pair.model(self._checked(x))

    def guide(self, x):
        return self.pair.guide(self._checked(x))


@pytest.fixture
def limited(make_ppca):
    return Limited(make_ppca())


EXACT = {
    "active units": lambda pair, x: active_units(pair, x, num_samples=2).variances["z"],
    "latent means": lambda pair, x: latent_means(pair, x),
    "reconstructions": lambda pair, x: reconstruct(pair, x),
}


@pytest.mark.parametrize("measure", EXACT.values(), ids=EXACT)
def test_figures_without_draws_are_those_of_a_machine_with_more_memory(measure, limited, draw):
    x = draw(limited.pair, 23)
    torch.testing.assert_close(measure(limited, x), measure(limited.pair, x))
    assert limited.refused


def test_the_kl_is_the_closed_form_with_little_memory(limited, draw):
    """For z ~ N(m, V) and the prior N(0, 1): (tr V + m'm - d - log det V) / 2, averaged over the data."""
    ppca, limited.most = limited.pair, 120  # 100 are needed to see which latents are separate
    x = draw(ppca, 300)
    found = kl_decomposition(limited, x, num_samples=4)
    q = ppca.posterior(x)
    prior = torch.distributions.MultivariateNormal(torch.zeros_like(q.mean), torch.eye(2).to(x))
    exact = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(q.mean, q.covariance_matrix), prior
    )
    assert abs(found.average_kl - exact.mean().item()) < 4 * found.std_error["average_kl"]
    parts = found.mutual_information + found.marginal_kl
    assert parts == pytest.approx(found.average_kl), "all draws are scored under all data"
    assert limited.refused


def test_gaps_with_little_memory_are_against_the_exact_evidence(limited, draw):
    x = draw(limited.pair, 12)
    found = inference_gaps(limited, x, num_samples=400, steps=100, particles=5)
    error = (found.log_px - limited.pair.log_evidence(x)).abs()
    assert bool((error < 4 * found.std_error["log_px"] + 1e-6).all())
    assert limited.refused


def test_draws_of_the_guide_are_made_with_little_memory(limited, draw):
    x = draw(limited.pair, 2000)
    z, q = posterior_draws(limited, x), limited.pair.posterior(x)
    scaled = torch.linalg.solve_triangular(q.scale_tril, (z - q.mean)[..., None], upper=False)
    assert scaled.mean().item() == pytest.approx(0, abs=4 / 4000**0.5)
    assert scaled.var().item() == pytest.approx(1, abs=4 * (2 / 4000) ** 0.5)


def test_a_chunk_is_not_halved_below_what_must_stay_together():
    seen = []
    with pytest.raises(MemoryError):
        in_chunks(memory_for(6, MemoryError(), seen), 20, 20, 20)
    assert seen == [20]
    in_chunks(memory_for(6, MemoryError(), seen), 20, 20, 5)
    assert seen[1:] == [20, 10, 5, 5, 5, 5]
