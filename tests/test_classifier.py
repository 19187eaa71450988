import zipfile

import keras
import numpy as np
import pytest
from drawn_features import as_inputs, draw_features

from helpers.classifier import FrameClassifier, Trainee, fit_bag, load_classifier, predict_classes
from helpers.config import ClassificationConfig
from helpers.model import CompletePersonalityModel

CFG = ClassificationConfig(units=8, epochs=25, patience=0, learning_rate=0.01)


@pytest.fixture(scope="module")
def trained():
    """A classifier of ordered poses, and its trainee before the next training."""
    keras.utils.set_random_seed(0)
    trainee = Trainee(6, 3, CFG)
    history = trainee.fit(as_inputs(draw_features(30)), as_inputs(draw_features(10, seed=3)), seed=5)
    return trainee, history


def test_the_classifier_solves_what_only_order_tells_and_the_bag_of_frames_cannot(trained):
    trainee, _ = trained
    inputs, labels = as_inputs(draw_features(50, seed=7))
    p = predict_classes(trainee.model, inputs)
    assert (p.argmax(1) == labels).mean() > 0.9
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)

    train, validation = as_inputs(draw_features(30)), as_inputs(draw_features(10, seed=3))
    assert (fit_bag(train, validation)(inputs).argmax(1) == labels).mean() < 0.5


def test_masked_frames_change_nothing_wherever_they_stand(trained):
    model, (inputs, _) = trained[0].model, as_inputs(draw_features(4, seed=7))
    n, t, d = inputs["features"].shape
    features, mask = np.full((n, t + 3, d), 1e3, "float32"), np.zeros((n, t + 3), bool)
    kept = [1, 2, 3, 5, 6, 7, 8, 10]  # gaps at the beginning and between
    features[:, kept], mask[:, kept] = inputs["features"], True
    wide = predict_classes(model, {"features": features, "mask": mask})
    np.testing.assert_allclose(wide, predict_classes(model, inputs), atol=1e-6)


def test_a_training_depends_on_its_seed_and_not_on_those_before_it(trained):
    trainee, history = trained
    parts = as_inputs(draw_features(30)), as_inputs(draw_features(10, seed=3))
    p = [predict_classes(trainee.model, parts[1][0])]
    other = trainee.fit(*parts, seed=6)
    again = trainee.fit(*parts, seed=5)
    p.append(predict_classes(trainee.model, parts[1][0]))
    assert again.equals(history)
    assert not other.equals(history)
    np.testing.assert_array_equal(*p)


def test_the_epoch_of_the_least_validation_loss_is_kept_and_patience_ends_the_training():
    trainee = Trainee(6, 3, ClassificationConfig(units=8, epochs=60, patience=2, learning_rate=0.05))
    noisy = as_inputs(draw_features(8, noise=4.0, seed=1)), as_inputs(draw_features(8, noise=4.0, seed=2))
    history = trainee.fit(*noisy, seed=0)
    assert len(history) < 60
    assert history["val_loss"].idxmin() == len(history) - 3
    p = predict_classes(trainee.model, noisy[1][0])
    kept = -np.log(p[np.arange(24), noisy[1][1]]).mean()
    assert kept == pytest.approx(history["val_loss"].min(), rel=1e-4)


def test_a_saved_classifier_answers_the_same_and_refuses_features_of_another_width(trained, tmp_path):
    model, (inputs, _) = trained[0].model, as_inputs(draw_features(2, seed=9))
    path = tmp_path / "model.keras"
    model.save(path)
    again = load_classifier(path, feature_dim=6)
    np.testing.assert_array_equal(predict_classes(again, inputs), predict_classes(model, inputs))

    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "broken.keras", "w") as broken:
        broken.writestr("config.json", archive.read("config.json"))  # no weights: loading it would fail
    with pytest.raises(ValueError, match=r"must fit features of 7 channels, it was trained on 6\. Extract with"):
        load_classifier(tmp_path / "broken.keras", feature_dim=7)

    CompletePersonalityModel(6, 6, 8, 1).save(path)
    with pytest.raises(ValueError, match="model.keras must be a model of classes, got another, such as one of traits"):
        load_classifier(path, feature_dim=6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_training_in_mixed_precision_computes_in_it_keeps_float32_weights_and_learns_as_well(
    trained, precision, tmp_path
):
    cfg = ClassificationConfig(units=8, epochs=25, patience=0, learning_rate=0.01, precision=precision)
    trainee = Trainee(6, 3, cfg)
    model, states = trainee.model, {}
    model.lstm.forward_layer.cell.call = noting(model.lstm.forward_layer.cell.call, states)
    history = trainee.fit(as_inputs(draw_features(30)), as_inputs(draw_features(10, seed=3)), seed=5)
    assert states == {"inputs": precision, "state": precision}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert (type(model.optimizer).__name__ == "LossScaleOptimizer") == (precision == "float16")
    inputs, labels = as_inputs(draw_features(50, seed=7))
    p, expected = predict_classes(model, inputs), predict_classes(trained[0].model, inputs)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    accuracy, single = (p.argmax(1) == labels).mean(), (expected.argmax(1) == labels).mean()
    assert accuracy > 0.9
    assert abs(accuracy - single) < 0.05
    assert np.abs(p - expected).max() > 1e-5  # float32 would give the same
    assert np.isfinite(history["loss"]).all()
    model.save(tmp_path / "mixed.keras")
    np.testing.assert_array_equal(predict_classes(load_classifier(tmp_path / "mixed.keras", 6), inputs), p)


def noting(call, states):
    """A cell's `call` that notes the types of what it is given."""

    def noted(inputs, state, **kwargs):
        states.update(inputs=keras.backend.standardize_dtype(inputs.dtype))
        states.update(state=keras.backend.standardize_dtype(state[0].dtype))
        return call(inputs, state, **kwargs)

    return noted


def test_rare_classes_count_as_much_as_frequent_ones():
    drawn = draw_features(30, noise=30.0)  # nothing can be learned but the shares of the classes
    rare = np.flatnonzero((drawn["labels"] == 0) | (np.arange(90) < 15))
    inputs, labels = as_inputs({name: drawn[name][rare] for name in ("features", "labels")})
    trainee = Trainee(6, 3, ClassificationConfig(units=2, epochs=30, patience=0, dropout_rate=0.0, learning_rate=0.02))
    trainee.fit((inputs, labels), (inputs, labels), seed=0)
    assert predict_classes(trainee.model, inputs).mean(0) == pytest.approx([1 / 3] * 3, abs=0.15)  # labels: 30, 5, 5


def test_one_class_is_no_classification():
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        FrameClassifier(6, 1)
