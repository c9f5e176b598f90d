"""Data from NumPy arrays, memory maps and datasets: the same parameters, bit for bit, as from a tensor."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from training_helpers import AtCall, Interruption, SpyELBO, interrupt, same, train, without_seconds

from pyrovae.data import binarise
from pyrovae.errors import CheckpointError, InputError
from pyrovae.objectives import SupervisedELBO
from pyrovae.training import few

pytestmark = pytest.mark.cpu


class Items(Dataset):
    """A map-style dataset of the rows of tensors, which counts what is read."""

    def __init__(self, *parts, change=None):
        self.parts, self.change, self.read = parts, change, 0

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, index):
        self.read += 1
        item = tuple(part[index] for part in self.parts)
        item = item if self.change is None else (self.change(item[0]), *item[1:])
        return item if len(item) > 1 else item[0]


def noisy(x):
    """An augmentation that draws from every random stream."""
    noise = torch.rand_like(x) - 0.5 + 0.2 * (np.random.rand() + random.random() - 1)
    return (0.5 + 0.8 * (x - 0.5) + 0.5 * noise).clamp(0, 1)


def mapped(x, folder):
    path = folder / "x.npy"
    np.save(path, x.numpy())
    return np.load(path, mmap_mode="r")


FORMS = {
    "array": lambda x, folder: x.numpy(),
    "read-only array": lambda x, folder: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "memory map": mapped,
    "dataset": lambda x, folder: Items(x),
    "dataset of arrays": lambda x, folder: Items(x.numpy()),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
@pytest.mark.parametrize("labelled", [24, 9, 0])
def test_every_form_of_data_gives_the_parameters_of_the_tensor(
    form, labelled, make_m2, make_vae, binary_images, classes, tmp_path
):
    y = torch.where(torch.arange(24) < labelled, classes, -1) if labelled else None
    make = make_vae if y is None else lambda: make_m2().float()
    settings = {"transform": binarise, "epochs": 3, "validation": binary_images[:7]}
    settings |= {} if y is None else {"objective": SupervisedELBO(2.0)}
    plain, other = make(), make()
    expected = train(plain, binary_images, y=y, **settings)
    settings["validation"] = form(binary_images[:7], tmp_path)
    history = train(other, form(binary_images, tmp_path), y=y, **settings)
    assert same(plain.state_dict(), other.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_a_dataset_of_data_with_classes(make_m2, binary_images, classes):
    plain, other = make_m2().float(), make_m2().float()
    held_out = binary_images[:7], classes[:7]
    train(plain, binary_images, y=classes, objective=SupervisedELBO(2.0), validation=held_out)
    data = Items(binary_images, classes)
    train(other, data, objective=SupervisedELBO(2.0), validation=Items(*held_out))
    assert same(plain.state_dict(), other.state_dict())


@pytest.mark.parametrize("unlabelled", [0, 15])
def test_workers_change_nothing(unlabelled, make_m2, make_vae, binary_images, classes):
    y = torch.where(torch.arange(24) < 24 - unlabelled, classes, -1)
    states, seen = [], []
    for workers in (0, 2):
        m2, spy = make_m2().float(), SpyELBO()
        dataset = Items(binary_images, change=noisy)
        train(m2, dataset, y=y, workers=workers, transform=binarise, objective=SupervisedELBO(2.0))
        states.append(m2.state_dict())
        train(make_vae(), dataset, workers=workers, transform=torch.round, objective=spy)
        seen.append(spy.batches[-6:])
    assert same(*states)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one[0], other[0])


def test_random_items_are_drawn_afresh_in_each_epoch_and_leave_the_callers_streams(make_vae):
    x = torch.full((6, 1, 4, 4), 0.5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    spy = SpyELBO()
    train(make_vae(), Items(x, change=noisy), batch_size=6, epochs=3, objective=spy, transform=torch.round)
    drawn = [batch[0] for batch in spy.batches[-3:]]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", ["memory map", "dataset"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(form, workers, make_vae, binary_images, tmp_path):
    def data():
        return Items(binary_images, change=noisy) if form == "dataset" else mapped(binary_images, tmp_path)

    settings = {"epochs": 4, "workers": workers, "validation": binary_images[:5]}
    whole, parts, again = make_vae(), make_vae(), make_vae(seed=1)
    expected = train(whole, data(), transform=binarise, **settings)
    settings |= {"folder": tmp_path / "run", "resume": True}

    def binarising_until(stop):
        return lambda x: binarise(stop(x))

    with pytest.raises(Interruption):
        train(parts, data(), transform=binarising_until(AtCall(16, interrupt)), **settings)
    assert len(list((tmp_path / "run").iterdir())) > 0
    history = train(again, data(), transform=binarising_until(AtCall(0, None)), **settings)
    assert same(whole.state_dict(), again.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_a_run_is_tied_to_the_length_and_to_some_items(make_vae, tmp_path):
    x = torch.rand(600, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    settings = {"folder": tmp_path, "batch_size": 300, "epochs": 1}
    dataset = Items(x)
    train(make_vae(), dataset, **settings)
    assert dataset.read < 600 + 300 + 256 + 300, "not every item is read for the digest"
    changed = x.clone()
    changed[-1] = 1 - changed[-1]
    for other in (changed, x[:-1]):
        with pytest.raises(CheckpointError, match=r"data = .*name another folder"):
            train(make_vae(), Items(other), resume=True, **settings)
    train(make_vae(), Items(x), resume=True, **settings | {"epochs": 2})


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 4, 4)


class WithoutLength(Dataset):
    def __getitem__(self, index):
        return torch.zeros(1, 4, 4)


def odd_shapes(count):
    class Odd(Items):
        def __getitem__(self, index):
            return torch.zeros(1, 4, 4 + index % 2)

    return Odd(torch.zeros(count))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "Stream.*map-style Dataset"),
        (WithoutLength(), "no length"),
        (Items(torch.zeros(0, 1, 4, 4)), "length 0"),
        (Items(["image"] * 4), "item 0.*str"),
        (Items(*[torch.zeros(4, 2)] * 3), "3 parts"),
        (odd_shapes(4), "different shapes"),
        (Items(torch.zeros(4, 1, 4, 3)), r"expects data of shape \(\*, 1, 4, 4\)"),
        (Items(torch.zeros(4, 1, 4, 4, dtype=torch.uint8)), "uint8"),
    ],
    ids=["iterable", "no length", "empty", "strings", "three parts", "shapes", "height", "bytes"],
)
def test_datasets_that_cannot_be_used_are_refused(data, message, make_vae, tmp_path):
    with pytest.raises(InputError, match=message):
        train(make_vae(), data, folder=tmp_path / "run", transform=lambda x: x)


def test_values_are_checked_in_the_first_pass(make_vae, binary_images, tmp_path):
    for bad, message in ((torch.nan, "not finite"), (0.5, "outside the support of the Bernoulli")):
        x = binary_images.repeat(10, 1, 1, 1)
        x[-1, 0, 0, 0] = bad
        for data in (Items(x), mapped(x, tmp_path)):
            with pytest.raises(InputError, match=message):
                train(make_vae(), data)
        with pytest.raises(InputError, match=message):
            train(make_vae(), binary_images, validation=Items(x))


def test_the_check_of_the_first_pass_takes_no_draws(make_vae, binary_images):
    """Also where the guide draws in 64-bit, or the model in a plate of its own: the stream is put back."""
    plain, streamed = make_vae(), make_vae()
    train(plain, binary_images, transform=binarise, epochs=1)
    train(streamed, Items(binary_images), transform=binarise, epochs=1)
    assert same(plain.state_dict(), streamed.state_dict())


def test_unlabelled_items_are_refused_with_the_remedy(make_m2, binary_images, classes):
    y = torch.where(torch.arange(24) < 9, classes, -1)
    with pytest.raises(InputError, match=r"-1.*y=\.\.\."):
        train(make_m2().float(), Items(binary_images, y), objective=SupervisedELBO(2.0))
    with pytest.raises(InputError, match="classes are given twice"):
        train(make_m2().float(), Items(binary_images, y), y=y)
    with pytest.raises(InputError, match="24 data and 23 classes"):
        train(make_m2().float(), Items(binary_images), y=y[1:])


def test_what_needs_all_of_the_data_takes_a_few(tmp_path):
    x = torch.arange(30.0)[:, None]
    for form in FORMS.values():
        assert few(form(x, tmp_path), 4).squeeze(1).tolist() == [0, 10, 19, 29]
        assert torch.equal(few(form(x, tmp_path)), x)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_data_of_any_floating_type_are_saved_and_resumed(kind, make_vae, binary_images, tmp_path):
    def trained(epochs, **options):
        module = make_vae().to(kind)
        train(module, binary_images.to(kind), epochs=epochs, **options)
        return module.state_dict()

    trained(1, folder=tmp_path)
    assert same(trained(2, folder=tmp_path, resume=True), trained(2))


def test_masked_arrays_are_refused(make_vae, binary_images):
    x = np.ma.masked_array(binary_images.numpy(), mask=binary_images.numpy() > 0.5)
    with pytest.raises(InputError, match=r"is a masked array, \d+ of whose 384 values"):
        train(make_vae(), x)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("batch_size", 2**63), ("epochs", 10**30), ("workers", 2**63), ("patience", 2**64)],
        *[
            ("seed", 1.5),
            ("seed", 2**64),
            ("clip_norm", float("inf")),
            ("data_weights", (1.0, float("inf"))),
        ],
    ],
)
def test_numbers_that_no_run_can_use_are_refused_by_name(setting, value, make_vae, binary_images, tmp_path):
    with pytest.raises(InputError, match=setting):
        train(
            make_vae(),
            binary_images,
            folder=tmp_path / "run",
            **{"validation": binary_images, setting: value},
        )
    assert not (tmp_path / "run").exists()


def test_numpys_numbers_are_numbers(make_vae, binary_images):
    train(make_vae(), binary_images, batch_size=np.int32(7), seed=np.int64(3), epochs=np.uint8(1))


@pytest.mark.parametrize("kind", ["S2", "U3", "O", "M8[s]", "f16"])
def test_arrays_that_torch_cannot_hold_are_refused(kind, make_vae):
    with pytest.raises(InputError, match=r"the array of data has type .*astype"):
        train(make_vae(), np.zeros((6, 1, 4, 4)).astype(kind))


def test_arrays_of_any_order_of_bytes_and_strides_are_read(make_vae, binary_images):
    x = binary_images.numpy()
    for array in (x.astype(">f4"), x[::-1][::-1], np.asfortranarray(x)):
        vae, expected = make_vae(), make_vae()
        train(vae, array)
        train(expected, binary_images)
        assert same(vae.state_dict(), expected.state_dict())
