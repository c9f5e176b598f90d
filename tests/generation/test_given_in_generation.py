"""What is given reaches both programs, row by row."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import Conditional, nothing_changes

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.programs import Whole

X = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]])
C = torch.tensor([[0.0, 0.0], [10.0, 20.0], [-5.0, 7.0]])


def test_draws_have_the_moments_of_their_conditions():
    c = C.repeat(2000, 1)
    with nothing_changes(Conditional()):
        images = generation.sample_images(Conditional(), 6000, given={"c": c})
    assert torch.equal(images, generation.sample_images(Conditional(), 6000, given={"c": c}))
    z = images - c  # E[x | z, c] = z + c for z ~ N(0, I)
    assert (z.mean(0).abs() < 4 / 6000**0.5).all()
    assert ((z.var(0) - 1).abs() < 4 * (2 / 6000) ** 0.5).all()
    assert (
        torch.equal(generation.draw_latents(Conditional(), 6000, given={"c": c})["z"], z + c - c)
        or (generation.draw_latents(Conditional(), 6000, given={"c": c})["z"] - z).abs().max() < 1e-5
    )


def test_data_and_their_conditions_go_together():
    given = {"c": C}
    means = (X - C) / 2
    torch.testing.assert_close(generation.latent_means(Conditional(), X, given=given), means)
    torch.testing.assert_close(generation.latent_codes(Conditional(), X, given=given)["z"], means)
    torch.testing.assert_close(generation.reconstruct(Conditional(), X, given=given), means + C)
    torch.testing.assert_close(generation.decode(Conditional(), X, given=given), X + C)
    torch.testing.assert_close(generation.images_of(Conditional(), {"z": X}, given=given), X + C)
    rows = torch.arange(3).repeat(700)  # more than pass through a program at a time
    many = generation.reconstruct(Conditional(), X[rows], given={"c": C[rows]})
    torch.testing.assert_close(many, (means + C)[rows])
    draws = generation.posterior_draws(Conditional(), X[rows], given={"c": C[rows]})
    error = (0.5 / 700) ** 0.5
    assert ((draws.unflatten(0, (700, 3)).mean(0) - means).abs() < 4 * error).all()


def test_lines_traversals_and_planes_keep_the_condition():
    lines = generation.interpolate(Conditional(), X[:2], X[1:], 3, given={"c": C[:2]})
    middle = ((X[:2] - C[:2]) / 2 + (X[1:] - C[:2]) / 2) / 2 + C[:2]
    torch.testing.assert_close(lines[:, 1], middle)
    corners, c = torch.cat([X, X[:1]]), torch.cat([C, C[:1]])
    square = generation.interpolate_grid(Conditional(), corners, 2, given={"c": c})
    torch.testing.assert_close(square.flatten(0, 1), (corners + c) / 2)
    given = {"c": C[1:2]}
    moved = generation.traverse(Conditional(), X[1], levels=(0.5,), given=given)
    quantile = generation.prior_quantiles(Conditional(), (0.5,), given=given)[0]
    expected = ((X[1] - C[1]) / 2).repeat(2, 1)
    expected[0, 0], expected[1, 1] = quantile
    torch.testing.assert_close(moved[:, 0], expected + C[1])
    plane = generation.manifold(Conditional(), 3, given=given)
    middle = generation.prior_quantiles(Conditional(), (0.5,), given=given)[0]
    torch.testing.assert_close(plane[1, 1], middle + C[1])
    density = generation.prior_density(Conditional(), torch.tensor([0.0]), given=given)
    torch.testing.assert_close(density, torch.full((1, 2), (2 * torch.pi) ** -0.5))


def test_what_passes_whole_reaches_every_row():
    c = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(generation.reconstruct(Conditional(), X, given={"c": c}), (X + c) / 2)
    torch.testing.assert_close(generation.decode(Conditional(), X, given={"c": c}), X + c)


def test_a_condition_that_is_missing_is_named():
    for call in (
        lambda: generation.sample_images(Conditional(), 3),
        lambda: generation.reconstruct(Conditional(), X),
    ):
        with pytest.raises(InputError, match="needs its argument 'c', which has no default: give it by"):
            call()
    with pytest.raises(InputError, match="'label'"):
        generation.sample_images(Conditional(), 3, given={"c": C, "label": C})


def test_a_wrong_number_of_rows_is_named():
    for call in (
        lambda: generation.sample_images(Conditional(), 5, given={"c": C}),
        lambda: generation.latent_means(Conditional(), X[:2], given={"c": C}),
    ):
        with pytest.raises(
            InputError, match=r"given\['c'\] has shape \(3, 2\), and there are [52] data or"
        ):
            call()


class PlateOfConditions(Conditional):
    """Its plate has a member for each condition, so its model runs on a single placeholder as well."""

    x_shape = (2,)

    def model(self, x, c):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + c, 0.5).to_event(1), obs=x)

    def guide(self, x, c):
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(x - c, 1.0).to_event(1))


def test_a_wrong_number_of_rows_is_named_whatever_the_plate_is_made_of():
    pair = PlateOfConditions()
    assert generation.sample_images(pair, 3, given={"c": C}).shape == (3, 2)
    for call in (
        lambda: generation.sample_images(pair, 5, given={"c": C}),
        lambda: generation.latent_means(pair, X[:2], given={"c": C}),
        lambda: generation.reconstruct(pair, torch.cat([X, X]), given={"c": C[:2]}),
    ):
        with pytest.raises(InputError, match=r"given\['c'\] has shape \([32], 2\), and there are [526] "):
            call()


def test_the_ends_of_a_line_may_have_conditions_of_their_own():
    starts, ends = {"c": C[:2]}, {"c": C[1:]}
    lines = generation.interpolate(Conditional(), X[:2], X[1:], 3, given=starts, given_end=ends)
    torch.testing.assert_close(lines[:, 0], generation.reconstruct(Conditional(), X[:2], given=starts))
    torch.testing.assert_close(lines[:, 2], generation.reconstruct(Conditional(), X[1:], given=ends))
    middle = ((X[:2] - C[:2]) + (X[1:] - C[1:])) / 4  # of the latents; the condition is the nearer end's
    torch.testing.assert_close(lines[:, 1], middle + C[:2])
    with pytest.raises(InputError, match=r"given has c, but given_end has nothing: give both the same"):
        generation.interpolate(Conditional(), X[:2], X[1:], given=starts, given_end={})
    with pytest.raises(InputError, match=r"given\['c'\] has shape \(2, 2\), but given_end\['c'\] is of"):
        generation.interpolate(Conditional(), X[:2], X[1:], given=starts, given_end={"c": C})


def test_a_table_of_as_many_rows_as_there_are_draws_passes_whole():
    c = torch.tensor([1.0, 2.0])

    class Table(Conditional):
        def model(self, x, c):
            super().model(x, c[:, 1])

        def guide(self, x, c):
            super().guide(x, c[:, 1])

    given = {"c": Whole(torch.stack([9 * c, c], 1))}  # 2 rows; its second column is the condition
    torch.testing.assert_close(generation.decode(Table(), X[:2], given=given), X[:2] + c)
    torch.testing.assert_close(generation.reconstruct(Table(), X[:2], given=given), (X[:2] + c) / 2)
    torch.testing.assert_close(
        generation.interpolate(Table(), X[:2], X[1:], 2, given=given)[:, 1], (X[1:] + c) / 2
    )
