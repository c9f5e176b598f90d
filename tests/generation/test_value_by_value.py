"""Data whose values depend on other values of the data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import (
    LatentsBySteps,
    LibrarySize,
    T,
    TeacherForcing,
    TeacherForcingBySteps,
    nothing_changes,
)
from torch import nn

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.programs import Pair

N = 4000


def moments_of_teacher_forcing():
    """Return the covariance of x: x = A (z 1 + e) with A the inverse of I minus half the shift."""
    shift = torch.diag(torch.ones(T - 1), -1)
    a = torch.linalg.inv(torch.eye(T) - shift / 2)
    return a @ (torch.ones(T, T) + torch.eye(T)) @ a.T


def check_moments(x, covariance):
    variance = covariance.diagonal()
    assert (x.mean(0).abs() < 4 * (variance / N).sqrt()).all()
    # The variance of an entry of the empirical covariance of normal variables (Isserlis).
    error = ((variance[:, None] * variance + covariance.square()) / N).sqrt()
    assert ((x.T.cov() - covariance).abs() < 4 * error).all()


@pytest.mark.parametrize("model", [TeacherForcing(), TeacherForcingBySteps()], ids=["one", "steps"])
def test_teacher_forcing_draws_each_value_from_the_earlier_ones(model):
    with nothing_changes(model):
        images = generation.sample_images(model, N)
    if isinstance(images, dict):
        assert list(images) == [f"x{t}" for t in range(T)]
        images = torch.stack(list(images.values()), -1)
    check_moments(images, moments_of_teacher_forcing())


def test_latents_may_depend_on_earlier_values_too():
    images = torch.stack(list(generation.sample_images(LatentsBySteps(), N).values()), -1)
    variances = [torch.tensor(2.0)]
    for _ in range(T - 1):
        variances.append(2 + variances[-1] / 4)
    covariance = torch.stack([variances[min(s, t)] / 2 ** abs(s - t) for s in range(T) for t in range(T)])
    check_moments(images, covariance.view(T, T))


def test_a_decoded_sequence_is_a_draw_given_its_code_and_the_same_each_time():
    z = torch.full((N, 1), 3.0)
    images = generation.decode(TeacherForcing(), z)
    assert torch.equal(images, generation.decode(TeacherForcing(), z))
    shift = torch.diag(torch.ones(T - 1), -1)
    a = torch.linalg.inv(torch.eye(T) - shift / 2)
    mean, covariance = a @ torch.full((T,), 3.0), a @ a.T
    check_moments(images - mean, covariance)


def test_data_that_are_given_are_what_the_likelihood_reads():
    x = torch.randn(3, T)
    before = torch.cat([torch.zeros(3, 1), x[:, :-1]], 1)
    expected = x.mean(1, keepdim=True) + before / 2
    torch.testing.assert_close(generation.reconstruct(TeacherForcing(), x), expected)
    by_steps = generation.reconstruct(TeacherForcingBySteps(), x)
    torch.testing.assert_close(torch.stack(list(by_steps.values()), -1), expected)
    counts = torch.tensor([[10.0, 20.0, 30.0], [1.0, 2.0, 7.0]])
    torch.testing.assert_close(generation.reconstruct(LibrarySize(), counts), counts)
    line = generation.interpolate(LibrarySize(), counts[:1], counts[1:], 4)[0]
    torch.testing.assert_close(line.sum(-1), torch.tensor([60.0, 60.0, 10.0, 10.0]))  # of the nearer end
    moved = generation.traverse(LibrarySize(), counts[0], levels=(0.1, 0.9))
    torch.testing.assert_close(moved.sum(-1), torch.full((3, 2), 60.0))


def test_a_library_size_must_be_given_where_there_are_no_data():
    remedy = r"distribution of 'x' depends on values .* such as its sum, .*given={\"library\""
    for call in (
        lambda: generation.sample_images(LibrarySize(), 4),
        lambda: generation.decode(LibrarySize(), torch.zeros(2, 3)),
        lambda: generation.prior_quantiles(LibrarySize(), [0.5]),
    ):
        with pytest.raises(InputError, match=remedy):
            call()
    library = torch.tensor([9.0, 30.0])
    decoded = generation.decode(LibrarySize(), torch.zeros(2, 3), given={"library": library})
    torch.testing.assert_close(decoded, torch.tensor([[3.0] * 3, [10.0] * 3]))


def pair_of(likelihood, x_shape, observe=lambda x: x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", likelihood(z, x).to_event(len(x_shape)), obs=observe(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    return Pair(model, guide, x_shape=x_shape)


def test_the_order_need_not_be_that_of_the_places():
    """Each channel reads the earlier rows of all channels; and a chain that runs backwards."""

    def rows(z, x):
        above = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2).sum(1, keepdim=True)
        return dist.Normal(2 * above + 1, 1e-3).expand([len(z), 2, 3, 1])

    images = generation.sample_images(pair_of(rows, (2, 3, 1)), 5)
    expected = torch.tensor([1.0, 5.0, 21.0]).view(3, 1).expand(5, 2, 3, 1)  # 1 + 2 (1 + 1), ...
    torch.testing.assert_close(images, expected, atol=0.1, rtol=0)

    def backwards(z, x):
        return dist.Normal(torch.cat([x[:, 1:] + 1, torch.zeros_like(x[:, :1])], 1), 1e-3)

    drawn = generation.sample_images(pair_of(backwards, (4,)), 5)
    torch.testing.assert_close(drawn, torch.tensor([3.0, 2, 1, 0]).expand(5, 4), atol=0.1, rtol=0)


def test_binary_sequences_and_classes_are_drawn_in_their_form():
    def flips(z, x):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return dist.Bernoulli(0.9 - 0.8 * before)

    x = generation.sample_images(pair_of(flips, (2,)), N)
    shares = torch.tensor([0.9, 0.9 * 0.1 + 0.1 * 0.9])
    assert ((x.mean(0) - shares).abs() < 4 * (shares * (1 - shares) / N).sqrt()).all()

    def words(z, x):  # one-hot words, each the successor of the one before
        first = torch.eye(3)[:1].expand(len(x), 1, 3)
        logits = 50 * torch.cat([first, x[:, :-1].roll(1, -1)], 1)
        return dist.OneHotCategorical(logits=logits).to_event(1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", words(z, x), obs=x)

    pair = Pair(model, pair_of(flips, (2,)).guide, x_shape=(4, 3))
    assert generation.sample_images(pair, 2).argmax(-1).tolist() == [[0, 1, 2, 0]] * 2


def test_values_that_are_transformed_before_they_are_observed_are_refused():
    def doubled(z, x):
        return dist.Normal(torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1), 1.0)

    with pytest.raises(InputError, match="'x' observes values that are computed from the data"):
        generation.sample_images(pair_of(doubled, (3,), lambda x: 2 * x), 2)
    with pytest.raises(InputError, match=r"'x' observes values of shape \(16, 5\), and its distribution"):
        generation.sample_images(pair_of(lambda z, x: dist.Normal(x.sum() + torch.zeros(3), 1.0), (5,)), 2)


def test_random_numbers_outside_of_sites_are_no_dependence():
    def noisy(z, x):
        return dist.Normal(z + torch.randn(len(x), 2), 1e-3)

    images = generation.sample_images(pair_of(noisy, (2,)), N)
    assert ((images.var(0) - 2).abs() < 4 * 2 * (2 / N) ** 0.5).all()


class WordCounts(nn.Module):
    """x ~ Multinomial(n, softmax(z)), where n is the length of the longest document, unless it is given."""

    x_shape = (3,)

    def model(self, x, length=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            total = int(x.sum(-1).max()) if length is None else length
            pyro.sample("x", dist.Multinomial(total, logits=z), obs=x)

    def guide(self, x, length=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((1 + x).log(), 0.1).to_event(1))


def test_a_total_count_that_is_read_off_the_data():
    """E[x | z] = n softmax(z), where softmax(log(1 + x)) = (1 + x) / (3 + the sum of x)."""
    x = torch.tensor([[3.0, 0.0, 1.0], [0.0, 7.0, 0.0]])
    share = (1 + x) / (3 + x.sum(-1, keepdim=True))
    torch.testing.assert_close(generation.reconstruct(WordCounts(), x), 7 * share)
    for call in (
        lambda: generation.sample_images(WordCounts(), 3),
        lambda: generation.decode(WordCounts(), torch.zeros(2, 3)),
    ):
        with pytest.raises(InputError, match=r"the distribution of 'x' depends on values .* an argument"):
            call()
    images = generation.decode(WordCounts(), torch.zeros(2, 3), given={"length": 6})  # the remedy
    torch.testing.assert_close(images, torch.full((2, 3), 2.0))
    torch.testing.assert_close(
        generation.sample_images(WordCounts(), 4, given={"length": 6}).sum(-1), torch.full((4,), 6.0)
    )
