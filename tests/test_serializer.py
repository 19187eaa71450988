"""Saved models: versions, cards, equal outputs, refusals, export, and weights of older files."""

import warnings

import h5py
import keras
import numpy as np
import pytest
from toy_tokens import DD, DS, tokens

from helpers.files import read_json
from helpers.model import CompletePersonalityModel, ModelSerializer, export_model, load_model, read_h5_weights

F, HEADS = 8, 2


def network(seed: int = 0) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, F, HEADS)


def test_versions_are_counted_and_give_equal_outputs(tmp_path):
    store, models = ModelSerializer(tmp_path / "m"), [network(seed) for seed in (0, 1)]
    assert [store.save(model, {"seed": seed}) for seed, model in enumerate(models)] == [1, 2]
    for version, seed in ((1, 0), (None, 1)):
        loaded, card = load_model(store.path(version), static_dim=DS), read_json(store.path(version) / "card.json")
        np.testing.assert_allclose(loaded(tokens()), models[seed](tokens()), atol=1e-6)
        assert (card["seed"], card["parameters"]) == (seed, models[seed].count_params())
    with pytest.raises(TypeError):
        store.save(models[0], {"metrics": object()})
    assert store.versions == [1, 2]  # what could not be written is no version
    with pytest.raises(ValueError, match="version"):
        store.path(3)


def test_what_is_no_model_or_one_of_other_features_is_refused(tmp_path):
    network().save(tmp_path / "model.keras")
    (tmp_path / "half.keras").write_bytes(b"half a file")
    for name, built, error, said in (
        ("model.keras", {"static_dim": 512}, ValueError, "512.* 11"),
        ("half.keras", {}, ValueError, "damaged"),
        ("none.keras", {}, FileNotFoundError, "none.keras"),
    ):
        with pytest.raises(error, match=said):
            load_model(tmp_path / name, **built)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads the export with TensorFlow")
def test_an_export_gives_the_same_scores_without_this_package(tmp_path):
    import tensorflow as tf

    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, about its own functions
        path = export_model(model, tmp_path / "exported")
        exported = tf.saved_model.load(str(path))
    inputs = {name: tf.constant(value) for name, value in tokens().items()}
    np.testing.assert_allclose(exported.serve(inputs), model(tokens()), atol=1e-5)


def write_old(path, model) -> None:
    """As Keras 2 saved an ancestor of the network: layers in order, arrays of attention split by heads."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [layer.name for layer in model.layers]
        for layer in model.layers:
            group, names = root.create_group(layer.name), []
            for k, weight in enumerate((*layer.trainable_weights, *layer.non_trainable_weights)):
                array = keras.ops.convert_to_numpy(weight.value)
                if array.shape[-1] == HEADS * F:
                    array = array.reshape(*array.shape[:-1], HEADS, F)
                names.append(f"z{-k}/kernel:0")
                group[names[-1]] = array
            group.attrs["weight_names"] = names


def test_weights_of_an_older_file_are_read_whatever_its_layers_were_called(tmp_path):
    trained = network()
    for k, weight in enumerate(trained.weights):
        weight.assign(np.random.default_rng(k).standard_normal(weight.shape) ** 2)
    write_old(tmp_path / "old.h5", trained)
    trained.save_weights(tmp_path / "new.weights.h5")
    for name in ("old.h5", "new.weights.h5"):
        np.testing.assert_allclose(read_h5_weights(network(1), tmp_path / name)(tokens()), trained(tokens()), atol=1e-5)
    other = CompletePersonalityModel(DS + 4, DD, F, HEADS)
    before = other.get_weights()
    (tmp_path / "text.h5").write_text("no weights")
    for name, said in (("old.h5", r"\(15, 8\).*\(11, 8\)"), ("text.h5", "HDF5")):
        with pytest.raises(ValueError, match=said):
            read_h5_weights(other, tmp_path / name)
    assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights(), strict=True))
