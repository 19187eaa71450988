"""Features of synthetic clips whose classes have the same frames in another order."""

import numpy as np

N_FRAMES, WIDTH = 8, 6


def synthetic_clips(n_sources, *, seed=0, view_noise=0.0):
    """Clips float32 (N, T, D) and labels (N,), one per source and class: a way through T poses down, up, or turning."""
    rng, strange = np.random.RandomState(seed), np.random.RandomState(seed + 1)
    poses = 4.0 + np.outer(np.linspace(-1, 1, N_FRAMES), np.ones(WIDTH)) * np.arange(1, WIDTH + 1)
    orders = [np.arange(N_FRAMES)[::-1], np.roll(np.arange(N_FRAMES), N_FRAMES // 2), np.arange(N_FRAMES)]
    clips = np.stack([poses[order] for order in orders] * n_sources)
    clips += rng.normal(scale=0.3, size=clips.shape) + strange.normal(scale=max(view_noise, 1e-9), size=clips.shape)
    return np.float32(clips), np.arange(len(clips)) % 3
