"""Features of synthetic clips whose classes have the same frames in another order."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd

from helpers.clip_features import LabelledClips, views_of
from helpers.files import ROOT
from helpers.store import FeatureFile, write_features

CLASSES = ["down", "turn", "up"]
T, D = 8, 6


def synthetic_clips(n_sources, *, noise=0.3, seed=0, view_noise=0.0):
    """Clips float32 (N, T, D) and labels (N,), one per source and class: a way through T poses down, up, or turning."""
    rng, strange = np.random.RandomState(seed), np.random.RandomState(seed + 1)
    poses = 4.0 + np.outer(np.linspace(-1, 1, T), np.ones(D)) * np.arange(1, D + 1)
    orders = [np.arange(T)[::-1], np.roll(np.arange(T), T // 2), np.arange(T)]
    n = n_sources * len(CLASSES)
    clips = np.stack([poses[order] for order in orders] * n_sources) + rng.normal(scale=noise, size=(n, T, D))
    return np.float32(clips + strange.normal(scale=max(view_noise, 1e-9), size=clips.shape)), np.arange(n) % 3


def write_synthetic(cfg, n_sources, **view_noise):
    """Write a stage of such clips, with so much noise in some of their views."""
    views = views_of("train", cfg)
    clips = [synthetic_clips(n_sources, view_noise=view_noise.get(view, 0.0))[0] for view in views]
    labels, folder = synthetic_clips(n_sources)[1], cfg.out / "classification" / "views"
    keys = [f"train/{CLASSES[label]}/{k // 3:03}" for k, label in enumerate(labels)]
    t_s, view = np.tile(np.arange(T) / 10.0, len(views)), np.repeat(views, T)
    for k, key in enumerate(keys):
        rows = FeatureFile(np.concatenate([of[k] for of in clips]), t_s, t_s, t_s, np.ones(len(t_s), bool), view=view)
        write_features(folder / f"{key}.npz", rows)
    source = [key[-3:] for key in keys]
    table = pd.DataFrame({"split": "train", "source": source, "label": labels}, index=pd.Index(keys, name="key"))
    manifest = {"identity": {}, "counts": {"feature_dim": D}, "failed": []}
    return LabelledClips(table, CLASSES, [], folder, manifest)


def kill_after(script, argument, folder, n):
    """Run a script and kill it when so many npz files are there, at the latest after 5 minutes; how many there are."""
    process, until_s = subprocess.Popen([sys.executable, "-c", script, argument], cwd=ROOT), time.monotonic() + 300
    while len(list(folder.rglob("[!.]*.npz"))) < n and time.monotonic() < until_s and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    return len(list(folder.rglob("[!.]*.npz")))
