"""Labels are hidden by index, and counted."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.semi_supervised import data_per_label, only_labels_of


def test_only_the_labels_of_the_chosen_stay():
    y = torch.tensor([4, 5, 6, 7])
    assert only_labels_of(torch.tensor([1, 3]), y).tolist() == [-1, 5, -1, 7]
    assert y.tolist() == [4, 5, 6, 7]
    with pytest.raises(InputError, match=r"from 1 to 4.* 4 *classes"):
        only_labels_of(torch.tensor([1, 4]), y)


def test_indices_count_from_the_end_too():
    y = torch.tensor([4, 5, 6, 7])
    assert only_labels_of(torch.tensor([-1]), y).tolist() == [-1, -1, -1, 7]
    assert only_labels_of(torch.tensor([], dtype=torch.long), y).tolist() == [-1, -1, -1, -1]


def test_data_are_counted_for_each_label():
    assert data_per_label(torch.tensor([0, -1, -1, 1, -1])) == 2.5
    assert data_per_label(torch.arange(4)) == 1


def test_without_a_label_there_is_nothing_to_count():
    with pytest.raises(InputError, match="all 5 classes are -1"):
        data_per_label(torch.full((5,), -1))
