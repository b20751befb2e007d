"""An .h5 of links, of numbers that are elsewhere or nowhere, and of other types: all named."""

import resource

import h5py
import numpy as np
import pytest

from vrd_d2.data.datasets.visual_genome_h5_files import read_h5

ARRAYS = {
    "labels": np.ones((2, 1), np.int64),
    "boxes_1024": np.full((2, 4), 9, np.int32),
    "relationships": np.array([[0, 1]]),
    "predicates": np.ones((1, 1), np.int64),
    "img_to_first_box": np.array([0]),
    "img_to_last_box": np.array([1]),
    "img_to_first_rel": np.array([0]),
    "img_to_last_rel": np.array([0]),
    "split": np.array([0]),
}


def write(path, key=None, make=None):
    """A sound file; `make` puts something else in place of one array."""
    with h5py.File(path, "w") as file:
        for name, values in ARRAYS.items():
            if name != key:
                file[name] = values
        if make is not None:
            make(file, key)
    return str(path)


def soft_loop(file, key):
    file[key] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink(f"/{key}")


def soft_link_to_itself(file, key):
    file[key] = h5py.SoftLink(f"/{key}")


def soft_link_to_nothing(file, key):
    file[key] = h5py.SoftLink("/nothing")


def other_file(file, key):
    with h5py.File(file.filename + ".other", "w") as other:
        other["secret"] = ARRAYS[key]
    file[key] = h5py.ExternalLink(file.filename + ".other", "/secret")


def no_other_file(file, key):
    file[key] = h5py.ExternalLink("/nothing/at/all.h5", "/secret")


def virtual(file, key):
    with h5py.File(file.filename + ".other", "w") as other:
        other["secret"] = ARRAYS[key]
    layout = h5py.VirtualLayout(ARRAYS[key].shape, ARRAYS[key].dtype)
    layout[...] = h5py.VirtualSource(file.filename + ".other", "secret", ARRAYS[key].shape)
    file.create_virtual_dataset(key, layout)


def raw_numbers_of_another_file(file, key):
    values = np.ascontiguousarray(ARRAYS[key])
    raw = file.filename + ".raw"
    values.tofile(raw)
    file.create_dataset(key, values.shape, values.dtype, external=[(raw, 0, values.nbytes)])


def declared_only(file, key):
    file.create_dataset(key, (10**10, ARRAYS[key].shape[-1]), np.int64, chunks=(1000, 1))


def compressed_zeros(file, key):
    shape = (30_000_000, ARRAYS[key].shape[-1])
    file.create_dataset(key, shape, np.int64, chunks=(10**6, 1), compression="gzip")
    file[key][: 10**6, :1] = 1


def group(file, key):
    file.create_group(key)


def no_space(file, key):
    file[key] = h5py.Empty("i8")


def scalar(file, key):
    file[key] = 3


def three_dimensions(file, key):
    file[key] = np.ones((2, 1, 1), np.int64)


def text(file, key):
    file[key] = np.array([b"1", b"2"]).reshape(-1, 1)


def variable_text(file, key):
    file.create_dataset(key, (2, 1), h5py.string_dtype())


def record(file, key):
    file[key] = np.zeros((2, 1), [("a", "i4"), ("b", "f4")])


def references(file, key):
    file.create_dataset(key, (2, 1), h5py.ref_dtype)


def truth(file, key):
    file[key] = np.ones((2, 1), bool)


def complex_numbers(file, key):
    file[key] = np.ones((2, 1), complex)


def fractions(file, key):
    file[key] = np.full(ARRAYS[key].shape, 1.5)


def not_finite(file, key):
    file[key] = np.full(ARRAYS[key].shape, np.nan)


def type_that_is_named(file, key):
    file[key] = np.dtype("i4")


KINDS = [
    soft_loop, soft_link_to_itself, soft_link_to_nothing, other_file, no_other_file, virtual,
    raw_numbers_of_another_file, declared_only, compressed_zeros, group, no_space, scalar,
    three_dimensions, text, variable_text, record, references, truth, complex_numbers, fractions,
    not_finite, type_that_is_named,
]  # fmt: skip


CASES = [
    (make, key)
    for make in KINDS
    for key in ("labels", "boxes_1024")
    if (make, key) != (fractions, "boxes_1024")  # boxes may be real numbers
]


@pytest.mark.parametrize(("make", "key"), CASES, ids=[f"{m.__name__}-{k}" for m, k in CASES])
def test_it_is_named_at_once(tmp_path, make, key):
    path = write(tmp_path / "odd.h5", key, make)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"odd\.h5.*{key}") as error:
        read_h5(path)
    assert "\n" not in str(error.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kilobytes: nothing was read


def test_whole_real_numbers_are_ids(tmp_path):
    path = write(tmp_path / "a.h5", "labels", lambda f, key: f.create_dataset(key, data=[1.0, 2.0]))
    assert read_h5(path).labels.tolist() == [1, 2]
    path = write(tmp_path / "b.h5", "labels", fractions)
    with pytest.raises(ValueError, match=r"labels.*whole"):
        read_h5(path)
    compressed = {"compression": "gzip", "chunks": (1, 1)}
    path = write(
        tmp_path / "c.h5", "labels",
        lambda f, key: f.create_dataset(key, data=ARRAYS[key], **compressed),
    )  # fmt: skip
    assert read_h5(path).labels.tolist() == [1, 1]


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_a_file_that_is_cut_or_spoiled_is_named(tmp_path, kept):
    big = np.random.default_rng(0).integers(1, 99, (2, 5000))
    path = tmp_path / "odd.h5"
    write(path, "other", lambda f, key: f.create_dataset(key, data=big, compression="gzip"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"odd\.h5"):
        read_h5(str(path))
    rng = np.random.default_rng(int(kept * 100))
    for _ in range(25):
        spoiled = bytearray(content)
        for at in rng.integers(0, 4000, 6):
            spoiled[at] = rng.integers(256)
        path.write_bytes(spoiled)
        try:
            read_h5(str(path))
        except ValueError as error:
            assert "odd.h5" in str(error)
