"""What one Keras backend makes of the same clip and the same numbers: `python tests/backend_run.py FOLDER`.

FOLDER holds clips.csv, faces/ of its clips, and model.keras, which TensorFlow wrote. Left there: outputs.npz.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from synthetic_features import synthetic_clips
from toy_tokens import network, tokens

from helpers import extract
from helpers.attention import get_attention_weights
from helpers.classifier import build_classifier
from helpers.clips import load_clips
from helpers.config import ClassificationConfig, DynamicConfig, StaticConfig, TrainingConfig
from helpers.files import ROOT
from helpers.forward import NetworkError, compile_forward
from helpers.saliency import gradient_of
from helpers.store import read_features, write_arrays
from helpers.train import Trainer
from helpers.variants import aligned_mlp


def inputs(n=5):
    """Clips of three face tokens and seven motion tokens, the last of which are masked."""
    x = tokens(n, ts=3)
    x["static_mask"][::2, -1] = x["dynamic_mask"][::2, -2:] = False
    return x


def filled(model):
    """The model with weights that no backend drew."""
    rng = np.random.default_rng(2)
    for variable in model.weights:
        low, high = (0.5, 1.0) if "variance" in variable.name else (-0.3, 0.3)
        variable.assign(rng.uniform(low, high, variable.shape).astype(np.float32))
    return model


def rows(folder):
    clips = load_clips(folder / "clips.csv")
    folders = {"data_dir": str(ROOT / "data_sample"), "out_dir": str(folder), "workers": 1}
    extract.extract_static(clips, StaticConfig(**folders, every_n_frames=32))
    extract.extract_dynamic(clips, DynamicConfig(**folders, input_px=64))
    stages = ("static", "dynamic")
    return {f"{name} rows": read_features(folder / name / f"{clips.index[0]}.npz").features for name in stages}


def scores(folder):
    """Of two models, with the attention behind those of one, and their slopes along both streams of features."""
    x, model = inputs(), keras.saving.load_model(folder / "model.keras")
    pairs = {"static": x["static"], "dynamic": x["dynamic"][:, :3], "mask": x["static_mask"]}
    found = {"scores": model.predict(x, verbose=0), "attention": get_attention_weights(model, x)}
    for name in ("static", "dynamic"):

        def score(tensor, name=name):
            return keras.ops.sum(model(x | {name: tensor}, training=False)[:, 2])

        found[f"gradient of {name}"] = gradient_of(score, x[name])[1]
    return found | {"aligned_mlp": filled(aligned_mlp(11, 13)).predict(pairs, verbose=0)}


def losses():
    """Validation losses of trainings: on ratings that the face tokens hold, and of a classifier of ordered frames."""
    x = inputs(n=64)
    y = 0.5 + 0.1 * x["static"].mean(1)[:, :5]
    parts = [({name: value[part] for name, value in x.items()}, y[part]) for part in (slice(48), slice(48, 64))]
    model = network(width=16)
    scores = Trainer(model, TrainingConfig(epochs=8, batch_size=16)).fit(model, *parts)
    model = build_classifier(6, 3, ClassificationConfig(units=8), seed=0)
    parts = [synthetic_clips(15, seed=seed) for seed in (0, 3)]
    model.adapt(np.concatenate(parts[0][0]))
    parts = [(model.reduce(clips), np.eye(3, dtype="float32")[labels]) for clips, labels in parts]
    training = TrainingConfig(epochs=12, batch_size=16, learning_rate=0.02, weight_decay=0.0)
    classes = Trainer(model, training, keras.losses.CategoricalCrossentropy()).fit(model, *parts)
    found = {name: of["val_loss"].to_numpy() for name, of in {"losses": scores, "class_losses": classes}.items()}
    return found | {"compiled": np.array(model.jit_compile)}


def want_of_memory():
    """What is said of an output that no memory can hold."""
    clip = keras.Input((None, None, 1))
    network = keras.Model(clip, keras.layers.ZeroPadding2D(2**22)(clip))  # more bytes than a processor can address
    try:
        compile_forward(network)(np.ones((1, 3, 3, 1), np.float32))
    except (MemoryError, NetworkError) as error:
        return {"error": np.array([type(error).__name__, str(error)])}
    return {}


def outputs(folder):
    return rows(folder) | scores(folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_arrays(folder / "outputs.npz", **outputs(folder), **losses(), **want_of_memory())
