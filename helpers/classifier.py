"""The classifier of clips: a masked BiLSTM over frame features, and the bag of frames that it has to beat.

In: features float32 (B, T, D) with a mask (B, T), labels int (B,). Out: probabilities float32 (B, n_classes). Frame
features come from a frozen backbone; nothing here looks at pixels, and nothing trains the backbone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from helpers.config import ClassificationConfig
from helpers.model import PACKAGE
from helpers.serializer import saved_config
from helpers.train import computing_in

DEVIATION_FLOOR = 0.1  # of the mean deviation: a channel that hardly moves must not be blown up by damaged frames
BAG_PENALTIES = 10.0 ** np.arange(-4, 1)  # C of the bag's logistic regression
GRADIENT_NORM = 1.0
ADAPT_FRAMES = 20_000  # that principal components are fitted to: 330 MB of 2048 channels
PREDICT_CLIPS = 256  # that are predicted at a time

Labelled = tuple[dict[str, np.ndarray], np.ndarray]  # inputs of a model, labels int (n,)


@keras.saving.register_keras_serializable(package=PACKAGE)
class FrameReduction(layers.Layer):
    """Standardise frames and take their first principal components: z = (x - mean) kernel; 0 where masked.

    Mean and kernel are weights that `adapt` sets and that no training changes. Thousands of channels of a frozen
    network are too many for some hundred clips; what the frames differ in most is in a few components. All are divided
    by the deviation of the first, so that they keep their proportions.

    Args:
        components: Width k of z.
    """

    def __init__(self, components: int, **kwargs):
        super().__init__(**kwargs)
        self.components = components

    def build(self, shape):
        self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="mean")
        shape = (shape[-1], self.components)
        self.kernel = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="kernel")
        self.built = True

    def adapt(self, features: np.ndarray, mask: np.ndarray) -> None:
        """Fit mean and kernel to the frames (N, T, D) that the mask (N, T) keeps, at most `ADAPT_FRAMES` of them."""
        frames = features[mask]
        frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), ADAPT_FRAMES)).astype(int)].astype("float64")
        mean, deviation = frames.mean(axis=0), frames.std(axis=0)
        deviation = np.maximum(deviation, DEVIATION_FLOOR * deviation.mean() + 1e-12)
        found = min(self.components, *frames.shape)
        pca = PCA(found, svd_solver="randomized", random_state=0).fit((frames - mean) / deviation)
        kernel = np.zeros(self.kernel.shape)
        kernel[:, :found] = pca.components_.T / deviation[:, None] / np.sqrt(pca.explained_variance_[0] + 1e-12)
        self.mean.assign(mean)
        self.kernel.assign(kernel)

    def call(self, x, mask):
        z = ops.matmul(x - ops.cast(self.mean, x.dtype), ops.cast(self.kernel, x.dtype))
        return z * ops.cast(ops.expand_dims(mask, -1), x.dtype)

    def get_config(self) -> dict:
        return super().get_config() | {"components": self.components}


@keras.saving.register_keras_serializable(package=PACKAGE)
class FrameClassifier(keras.Model):
    """Tell the class of a clip from the sequence of its frames' features.

    x = principal components of the features, projected to `units`; h = [forward; backward] last states of an LSTM of
    `units` each way over the frames that the mask keeps; p = softmax(W dropout(h) + b). Kept frames are moved to the
    front first, in order: gaps in the mask are no frames at all, and the fused LSTM of GPUs takes no other mask.

    `model({"features": (B, T, D), "mask": bool (B, T)})` gives (B, n_classes). A clip needs one frame that is kept.

    Args:
        feature_dim: Width D of a frame's features.
        n_classes: Classes, at least 2.
        units: Width of the projection and of the LSTM in each direction.
        dropout_rate: Share of projected channels and of h that is dropped in training, in [0, 1).
        components: Principal components that are kept, at most D.
    """

    def __init__(
        self,
        feature_dim: int,
        n_classes: int,
        units: int = 64,
        dropout_rate: float = 0.3,
        components: int = 32,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # features keep float32 until they are reduced
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}. Add folders of further classes.")
        self.feature_dim, self.n_classes, self.units, self.dropout_rate = feature_dim, n_classes, units, dropout_rate
        self.components, inner = components, {"dtype": self.dtype_policy}
        self.reduction = FrameReduction(min(components, feature_dim), dtype="float32", name="reduction")
        self.project = layers.Dense(units, name="project", **inner)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **inner)
        self.lstm = layers.Bidirectional(layers.LSTM(units, **inner), name="lstm", **inner)
        self.probabilities = layers.Dense(n_classes, activation="softmax", dtype="float32", name="probabilities")
        self.reduction.build((None, None, feature_dim))
        self.project.build((None, None, self.reduction.components))
        self.lstm.build((None, None, units))
        self.probabilities.build((None, 2 * units))
        self.built = True

    def call(self, inputs: Mapping[str, Any], training=None):
        x, mask = _to_front(inputs["features"], ops.cast(inputs["mask"], "bool"))
        x = self.dropout(self.project(self.reduction(x, mask)), training=training)  # (B, T, units)
        h = self.lstm(x, mask=mask, training=training)  # (B, 2 units)
        return self.probabilities(self.dropout(h, training=training))

    def get_config(self) -> dict:
        own = ("feature_dim", "n_classes", "units", "dropout_rate", "components")
        return super().get_config() | {name: getattr(self, name) for name in own}


def _to_front(x, mask):
    """Move what the mask keeps to the front of each row, in order: (B, T, D) and (B, T)."""
    n_frames = ops.shape(mask)[1]
    place = ops.arange(n_frames) + n_frames * ops.cast(ops.logical_not(mask), "int32")  # (B, T), all different
    order = ops.argsort(place, axis=1)
    return ops.take_along_axis(x, order[..., None], axis=1), ops.take_along_axis(mask, order, axis=1)


def build_classifier(feature_dim: int, n_classes: int, cfg: ClassificationConfig, seed: int) -> FrameClassifier:
    """Build the classifier as it is before its training with this seed: the same weights at every call.

    It computes in `cfg.precision`, but for the principal components and the softmax, which are float32 as the weights.
    """
    keras.utils.set_random_seed(seed)
    with computing_in(cfg.precision):
        return FrameClassifier(feature_dim, n_classes, cfg.units, cfg.dropout_rate, cfg.components)


class Trainee:
    """A compiled classifier that is trained again and again from its start: compiling takes longer than a training.

    What a training gives depends on its seed and data alone, not on those before it. In float16 the loss is scaled
    against underflow (Keras does so for this policy).

    Args:
        feature_dim: Width D of a frame's features.
        n_classes: Classes.
        cfg: Parameters of the training.
    """

    def __init__(self, feature_dim: int, n_classes: int, cfg: ClassificationConfig):
        self.cfg, self.model = cfg, build_classifier(feature_dim, n_classes, cfg, seed=0)
        self.model.compile(
            keras.optimizers.Adam(cfg.learning_rate, clipnorm=GRADIENT_NORM),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=cfg.label_smoothing),
            jit_compile=keras.backend.backend() == "jax",  # elsewhere XLA takes longer than these trainings
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._optimizer_start = [ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables]

    def fit(self, train: Labelled, validation: Labelled, seed: int) -> pd.DataFrame:
        """Fit by Adam on smoothed labels from the start that `seed` draws; keep the epoch of least validation loss.

        Classes count alike, however many clips they have ("balanced" of scikit-learn). An epoch is every clip once in
        a drawn order, but for those that do not fill a batch.

        Args:
            train, validation: Inputs (see `FrameClassifier`) and labels int (n,).
            seed: Of weights, dropout and order.

        Returns:
            One row per epoch: epoch, loss (smoothed), val_loss (log loss), val_accuracy.
        """
        self._restart(seed)
        (inputs, labels), model = train, self.model
        model.reduction.adapt(inputs["features"], inputs["mask"])
        one_hot = np.eye(model.n_classes, dtype="float32")[labels]
        weights = compute_sample_weight("balanced", labels).astype("float32")
        stop = keras.callbacks.EarlyStopping(
            "val_loss", mode="min", patience=self.cfg.patience or self.cfg.epochs, restore_best_weights=True
        )
        stop.set_model(model)
        stop.on_train_begin()
        random, rows = np.random.RandomState(seed), []
        for epoch in range(self.cfg.epochs):
            model.reset_metrics()
            for batch in _batches(len(labels), self.cfg.clips_per_batch, random):
                part = {name: array[batch] for name, array in inputs.items()}
                loss = model.train_on_batch(part, one_hot[batch], sample_weight=weights[batch])
            rows.append({"epoch": epoch, "loss": float(np.mean(loss))} | _validation(model, *validation))
            stop.on_epoch_end(epoch, rows[-1])
            if model.stop_training:
                break
        stop.on_train_end()
        return pd.DataFrame(rows)

    def _restart(self, seed: int) -> None:
        """Set every variable to what a new model has: weights, dropout seeds, the state of the optimizer."""
        model = self.model
        start = build_classifier(model.feature_dim, model.n_classes, self.cfg, seed)
        for variable, value in zip(model.variables, start.variables, strict=True):
            variable.assign(value)
        for variable, value in zip(model.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(value)
        model.stop_training = False


def _batches(n: int, size: int, random: np.random.RandomState) -> np.ndarray:
    """Rows of each batch of an epoch, (n_batches, size); all batches have the size of the first."""
    size = min(size, n)
    return random.permutation(n)[: n // size * size].reshape(-1, size)


def _validation(model: FrameClassifier, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """`val_loss` (log loss) and `val_accuracy` on labelled clips."""
    p = predict_classes(model, inputs).astype("float64")
    loss = log_loss(labels, p / p.sum(axis=1, keepdims=True), labels=range(model.n_classes))
    return {"val_loss": float(loss), "val_accuracy": float((p.argmax(axis=1) == labels).mean())}


def predict_classes(model: FrameClassifier, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities float32 (N, n_classes), rows summing to 1."""
    parts = np.array_split(np.arange(len(inputs["mask"])), -(-len(inputs["mask"]) // PREDICT_CLIPS))
    p = [model.predict_on_batch({name: array[rows] for name, array in inputs.items()}) for rows in parts]
    return np.concatenate(p)


def load_classifier(path: str | Path, feature_dim: int) -> FrameClassifier:
    """Load a saved classifier for features of this width.

    Raises:
        ValueError: It is no such model, or was trained on features of another width; it is not loaded then.
    """
    trained = saved_config(path).get("feature_dim")
    if trained is None:
        raise ValueError(
            f"{path} must be a model of classes, got another, such as one of traits. "
            "Name the folder classification/model of a run, or a .keras file in it."
        )
    if trained != feature_dim:
        raise ValueError(
            f"{path} must fit features of {feature_dim} channels, it was trained on {trained}. "
            "Extract with the backbone that it was trained on, or name another checkpoint."
        )
    return keras.saving.load_model(path)


def frame_means(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the frames that the mask keeps, float64 (N, D): a clip as a bag of frames, its order forgotten."""
    weight = mask[..., None].astype("float64")
    return (features * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)


def fit_bag(train: Labelled, validation: Labelled) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Fit a logistic regression on frame means, its penalty chosen on validation clips; returns what predicts."""
    (x, labels), (x_validation, labels_validation) = ((frame_means(**i), labels) for i, labels in (train, validation))
    bags = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000)).fit(x, labels)
        for c in BAG_PENALTIES
    ]
    best = min(bags, key=lambda b: log_loss(labels_validation, b.predict_proba(x_validation), labels=b.classes_))
    return lambda inputs: best.predict_proba(frame_means(**inputs))
