"""Feature files of invented clips whose classes have the same frames in another order."""

import json

import h5py
import numpy as np

from helpers.large import write_sequences

CLASSES = ("down", "turn", "up")
T, D = 8, 6


def draw_features(n_sources, *, split="train", noise=0.3, seed=0, variant_noise=0.0):
    """Datasets of one clip per source and class: a way through T poses upwards, downwards, or from the middle on."""
    rng, strange = np.random.RandomState(seed), np.random.RandomState(seed + 1)
    poses = 4.0 + np.outer(np.linspace(-1, 1, T), np.ones(D)) * np.arange(1, D + 1)
    orders = {"down": np.arange(T)[::-1], "turn": np.roll(np.arange(T), T // 2), "up": np.arange(T)}
    rows, labels, keys, sources = [], [], [], []
    for source in range(n_sources):
        for label, name in enumerate(CLASSES):
            own = poses[orders[name]] + rng.normal(scale=noise, size=(T, D))
            rows.append(own + strange.normal(scale=variant_noise, size=(T, D)) if variant_noise else own)
            labels.append(label)
            keys.append(f"{split}/{name}/{source:03}")
            sources.append(f"source{source}")
    features = np.array(rows, np.float32)
    return {"features": features, "labels": np.array(labels), "key": keys, "source": sources}


def as_inputs(drawn):
    """Inputs and labels of a classifier."""
    return {"features": drawn["features"], "mask": np.ones(drawn["features"].shape[:2], bool)}, drawn["labels"]


def write_features(path, drawn):
    """Write one feature file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n, t, d = drawn["features"].shape
    texts = {name: np.asarray(drawn[name], h5py.string_dtype()) for name in ("key", "source")}
    mapping = json.dumps({name: label for label, name in enumerate(CLASSES)})
    sequences = ((rows, np.arange(t) / 10.0, np.ones(t, bool)) for rows in drawn["features"])
    datasets = {"labels": drawn["labels"].astype("int64")} | texts
    write_sequences(path, sequences, (np.full(n, t), d), datasets, {"category_mapping": mapping, "multi_scale": False})


def write_drawn(folder, n_sources, *, split="train", **variants):
    """Write the clips of one split and their views: the name of a view and the noise that it adds."""
    write_features(folder / f"{split}_features.h5", draw_features(n_sources, split=split))
    for name, added in variants.items():
        drawn = draw_features(n_sources, split=split, variant_noise=added)
        write_features(folder / f"{split}_features_{name}.h5", drawn)
