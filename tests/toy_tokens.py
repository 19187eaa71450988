"""Tokens of clips without a video: noise under the model's names, of sizes that are distinct primes."""

import keras
import numpy as np

from helpers.align import Aligned
from helpers.clips import TRAITS
from helpers.model import CompletePersonalityModel

TS, TD, DS, DD, HEADS = 5, 7, 11, 13, 2


def network(seed=0, n_targets=5, width=8):
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, width, HEADS, n_targets=n_targets)


def tokens(n=3, ts=TS, td=TD):
    rng = np.random.default_rng(0)
    return {
        "static": rng.normal(size=(n, ts, DS)).astype("float32"),
        "dynamic": rng.normal(size=(n, td, DD)).astype("float32"),
        "static_t_s": np.tile(np.arange(ts, dtype="float32"), (n, 1)),
        "dynamic_t_s": np.tile(np.arange(td, dtype="float32") + 0.5, (n, 1)),
        "static_mask": np.ones((n, ts), bool),
        "dynamic_mask": np.ones((n, td), bool),
    }


def aligned(n, per_source=1):
    parts = {f"{k}_features" if k in ("static", "dynamic") else k: v for k, v in tokens(n).items()}
    clips, sources = (np.array([f"{name}{k // m}" for k in range(n)]) for name, m in (("clip", 1), ("s", per_source)))
    labels = np.random.default_rng(1).uniform(0.2, 0.8, (n, 5)).astype("float32")
    return Aligned(**parts, labels=labels, clips=clips, sources=sources, splits=clips, targets=np.array(TRAITS))
