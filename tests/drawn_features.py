"""Feature sets of invented clips whose classes have the same frames in another order."""

import numpy as np

from helpers.large import FeatureSet, write_feature_set

CLASSES = ("down", "turn", "up")
T, D = 8, 6


def draw_features(n_sources, *, split="train", noise=0.3, seed=0, variant_noise=0.0):
    """One clip per source and class: a way through T poses upwards, downwards, or from the middle on."""
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
    n = len(rows)
    return FeatureSet(
        features=np.array(rows, np.float32),
        labels=np.array(labels, np.int64),
        num_frames=np.full(n, T, np.int32),
        t_s=np.tile(np.arange(T) / 10.0, (n, 1)),
        valid=np.ones((n, T), bool),
        keys=np.array(keys),
        sources=np.array(sources),
        categories={name: label for label, name in enumerate(CLASSES)},
    )


def write_drawn(folder, n_sources, **variants):
    """Write the clips of one split and their variants: the name of a variant and the noise that it adds."""
    write_feature_set(folder / "train_features.h5", draw_features(n_sources))
    for name, added in variants.items():
        write_feature_set(folder / f"train_features_{name}.h5", draw_features(n_sources, variant_noise=added))
