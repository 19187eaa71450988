"""Published weights: fetched whole, verified, refused by name; the frozen generator; the command `weights`."""

import hashlib
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from helpers import __main__, weights


def small_model() -> keras.Model:
    inputs = keras.Input((7, 7, 3))
    x = layers.Conv2D(5, 3, name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(11, name="last")(layers.DepthwiseConv2D(3, name="depthwise")(x)))


@pytest.mark.parametrize(
    ("law", "squares"),
    [
        ("glorot", {"first": 6 / (27 + 45), "last": 6 / (5 + 11)}),
        ("he", {"first": 6 / 27, "last": 6 / 5, "depthwise": 6 / 9}),  # depthwise: one channel of input
        ("swish", {"first": 4.4 / 27, "last": 4.4 / 5, "depthwise": 4.4 / 9}),
    ],
)
def test_random_kernels_keep_to_their_law_and_nothing_else_is_filled(law, squares):
    model = small_model()
    assert weights.fill_random(model, 3, law) == weights.fill_random(small_model(), 3, law)
    assert weights.fill_random(small_model(), 4, law) != weights.fill_random(small_model(), 3, law)
    for name, square in squares.items():
        kernel = np.asarray(model.get_layer(name).kernel)
        assert 0.8 * np.sqrt(square) < np.abs(kernel).max() <= np.sqrt(square)
        assert not np.asarray(model.get_layer(name).bias).any()
    assert [np.unique(value).tolist() for value in model.get_layer("norm").get_weights()] == [[1], [0], [0], [1]]


def test_random_weights_that_differ_from_the_recorded_hash_are_refused(monkeypatch):
    sha256 = weights.random_weights(small_model(), "small", "he").sha256
    assert sha256 == weights.fill_random(small_model(), 0, "he")
    monkeypatch.setitem(weights.RANDOM_SHA256, "small", "0123")
    with pytest.raises(RuntimeError, match="0123"):
        weights.random_weights(small_model(), "small", "he")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Published files "one" (a.h5) and "two" (b.index, b.data) whose addresses are files; an empty folder "mine"."""
    for name, parts in {"one": ["a.h5"], "two": ["b.index", "b.data"]}.items():
        for part in parts:
            (tmp_path / part).write_text(f"this is {part}")
        files = tuple(weights.PublishedFile(f"{name}/{part}", (tmp_path / part).as_uri()) for part in parts)
        monkeypatch.setitem(weights.WEIGHTS, name, replace(weights.WEIGHTS["yunet"], files=files))
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "mine"))
    return tmp_path


def test_missing_weights_are_fetched_once_and_whole(source):
    weights.require(["one", "two"])
    assert (source / "mine/two/b.data").read_text() == "this is b.data"
    assert sorted(path.name for path in (source / "mine").rglob("*.*")) == ["a.h5", "b.data", "b.index"]
    assert weights.WEIGHTS["one"].path == source / "mine/one/a.h5"
    assert weights.WEIGHTS["two"].path == source / "mine/two/b"
    (source / "a.h5").unlink()
    weights.require(["one"])
    provenance = weights.published_weights("one")
    assert (provenance.name, provenance.sha256) == ("one", hashlib.sha256(b"this is a.h5").hexdigest())


def test_all_weights_that_cannot_be_had_are_named_in_one_error(source):
    for path in source.glob("?.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="OCEAN_WEIGHTS") as error:
        weights.require(["one", "two"])
    for name in ("one/a.h5", "two/b.index", "two/b.data"):
        assert f"{source / 'mine' / name} from {(source / name.split('/')[1]).as_uri()}" in str(error.value)


TEXT = b"this is a.h5"
HASHES = {
    "md5": hashlib.md5(TEXT).hexdigest(),
    "sha256": hashlib.sha256(TEXT).hexdigest(),
    "blob": hashlib.sha1(b"blob 12\0" + TEXT).hexdigest(),  # git hash-object
}


@pytest.mark.parametrize("law", HASHES)
def test_a_file_with_another_hash_is_neither_kept_nor_accepted(source, monkeypatch, law):
    row = weights.WEIGHTS["one"]
    others, ours = ((replace(row.files[0], file_hash=digest),) for digest in ("0" * len(HASHES[law]), HASHES[law]))
    monkeypatch.setitem(weights.WEIGHTS, "one", replace(row, files=others))
    with pytest.raises(FileNotFoundError, match="is not the file that was published"):
        weights.require(["one"])
    assert not row.path.exists()
    monkeypatch.setitem(weights.WEIGHTS, "one", replace(row, files=ours))
    weights.require(["one"])
    assert weights.published_weights("one").sha256 == HASHES["sha256"]
    row.path.write_text("this is b.h5")  # put there by hand
    with pytest.raises(ValueError, match="published hash"):
        weights.published_weights("one")


def weigh(capsys, *arguments):
    """Exit status, stdout and stderr of `python -m helpers weights`."""
    return __main__.main(["weights", *map(str, arguments)]), *capsys.readouterr()


def test_the_command_lists_everything_and_fetches_and_verifies_in_the_folder_named(capsys, source):
    status, text, _ = weigh(capsys, "list", "--folder", source / "other")
    for name, row in weights.WEIGHTS.items():
        wanted = [name, row.licence, *(part for file in row.files for part in (file.url, f"other/{file.name}"))]
        assert all(part in text for part in wanted)
    status, text, _ = weigh(capsys, "fetch", "one", "--folder", source / "other")
    assert (status, HASHES["sha256"] in text, (source / "other/one/a.h5").is_file()) == (0, True, True)
    assert weigh(capsys, "verify", "one", "--folder", source / "other")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["fetch", "vgg_moon"], "vgg_moon"), (["verify"], "NAME"), (["verify", "yunet"], "yunet_2023mar.onnx")],
)
def test_what_cannot_be_done_is_one_line(capsys, tmp_path, monkeypatch, arguments, word):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    status, _, error = weigh(capsys, *arguments)
    assert (status, error.count("\n"), word in error) == (1, 1, True)
