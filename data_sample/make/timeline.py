"""How a synthetic head moves, and when the light turns warm and cool.

In: latent traits, a seed, a number of frames and their rate. Out: `Timeline`, one float per frame and curve (n,), and
the two event starts in seconds. Three of the five planted cues live here: tempo of the sway (extraversion), amplitude
of a fast tremor (neuroticism), and the share of the nodding that falls into the warm light (agreeableness).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_sample.make.drawing import blur, smoothstep

WINDOW_S = 0.85
MARGIN_S = 0.35  # least time between a window and the other, or the clip's ends
MIN_DURATION_S = 3.0


@dataclass(frozen=True)
class Timeline:
    """Curves of one clip, float64 (n,) each; starts of the two light windows in seconds."""

    shift_x: np.ndarray  # head units
    shift_y: np.ndarray  # head units
    roll_deg: np.ndarray
    yaw: np.ndarray  # parallax per unit of depth
    nod: np.ndarray  # -1 to 1
    lid: np.ndarray  # the rest: arguments of expression.draw_expression
    mouth: np.ndarray
    smile: np.ndarray
    brow: np.ndarray
    gaze: np.ndarray
    glow: np.ndarray  # 1 warm, -1 cool, 0 neither
    warm_s: float
    cool_s: float


def plan_motion(latents: Mapping[str, float], seed: int, n_frames: int, fps: float) -> Timeline:
    """Turn latent traits into motion and light.

    Args:
        latents: Trait name to value in [0, 1]; extraversion, agreeableness and neuroticism are read.
        seed: Seed of everything that is chance; it does not depend on the latents.
        n_frames: Number of frames.
        fps: Frames per second.

    Returns:
        The curves at times 0, 1/fps, 2/fps, …

    Raises:
        ValueError: The clip is shorter than 3 s, so that two separate windows may not fit.
    """
    if n_frames / fps < MIN_DURATION_S:
        raise ValueError(
            f"n_frames / fps must be at least {MIN_DURATION_S:g} s, got {n_frames} / {fps:g} = {n_frames / fps:.2f}. "
            "Draw a longer clip and cut it."
        )
    r = np.random.default_rng([11, seed])
    t_s = np.arange(n_frames) / fps
    sway = _sway(r, t_s, 0.22 + 0.95 * latents["extraversion"], 0.1 + 2.9 * latents["neuroticism"])
    face = _talk(r, n_frames, fps) | {"lid": _blinks(r, n_frames, fps)}
    warm_s, cool_s = _place_windows(r, n_frames / fps)
    share = latents["agreeableness"]
    nod = share * _nod(t_s, warm_s) + (1 - share) * _nod(t_s, cool_s)
    glow = _window(t_s, warm_s) - _window(t_s, cool_s)
    return Timeline(**sway, **face, nod=nod, glow=glow, warm_s=warm_s, cool_s=cool_s)


def _sway(r: np.random.Generator, t_s: np.ndarray, tempo_hz: float, tremor_deg: float) -> dict[str, np.ndarray]:
    """Slow sway of a given tempo, its amplitude the same for everybody, and a fast roll tremor of a given amplitude."""
    phase, size = r.uniform(0, 2 * np.pi, 4), r.uniform(0.92, 1.08)

    def wave(k: int, multiple: float) -> np.ndarray:
        return np.sin(2 * np.pi * tempo_hz * multiple * t_s + phase[k])

    wobble = 0.25 * np.sin(2 * np.pi * 0.7 * t_s + phase[1])
    tremor = tremor_deg * np.sin(2 * np.pi * (4.3 * t_s + wobble) + phase[2])
    return {
        "shift_x": size * 0.115 * wave(0, 1.0),
        "shift_y": 0.012 * wave(3, 0.7),
        "roll_deg": size * 3.4 * wave(1, 0.83) + tremor,
        "yaw": size * 0.15 * wave(2, 1.0),
    }


def _talk(r: np.random.Generator, n: int, fps: float) -> dict[str, np.ndarray]:
    """Mouth, smile, brows and gaze: nuisances, the same law for everybody."""
    loudness = np.clip(blur(r.uniform(-0.3, 1.3, (1, n)), fps * 0.22)[0] * 1.6 - 0.3, 0, 1)
    pace_hz = r.uniform(3.4, 4.2) * (1 + 0.25 * r.standard_normal(n))
    return {
        "mouth": loudness * (0.5 + 0.5 * np.sin(2 * np.pi * np.cumsum(pace_hz) / fps)) * 0.95,
        "smile": np.clip(0.35 + 1.26 * blur(r.standard_normal((1, n)), fps * 0.6)[0], 0, 1),
        "brow": np.clip(1.6 * blur(r.standard_normal((1, n)), fps * 0.4)[0], -0.4, 1),
        "gaze": np.clip(np.repeat(r.normal(0, 0.6, n // 8 + 1), 8)[:n], -1, 1),
    }


def _blinks(r: np.random.Generator, n: int, fps: float) -> np.ndarray:
    lid, shape = np.zeros(n), np.array([0.55, 1, 0.95, 0.45])
    pause_s = 1 / r.uniform(0.25, 0.6)
    t_s = r.uniform(0, pause_s)
    while (start := int(t_s * fps)) < n:
        stop = min(n, start + len(shape))
        lid[start:stop] = np.maximum(lid[start:stop], shape[: stop - start])
        t_s += pause_s * r.uniform(0.8, 1.2)
    return lid


def _place_windows(r: np.random.Generator, duration_s: float) -> tuple[float, float]:
    """Starts of the warm and the cool window, in either order, never touching."""
    while True:
        warm_s, cool_s = r.uniform(MARGIN_S, duration_s - MARGIN_S - WINDOW_S, 2)
        if abs(warm_s - cool_s) > WINDOW_S + MARGIN_S:
            return float(warm_s), float(cool_s)


def _window(t_s: np.ndarray, start_s: float) -> np.ndarray:
    stop_s = start_s + WINDOW_S
    return smoothstep(t_s, start_s - 0.10, start_s + 0.10) * (1 - smoothstep(t_s, stop_s - 0.10, stop_s + 0.10))


def _nod(t_s: np.ndarray, start_s: float) -> np.ndarray:
    """Nodding at 3.1 Hz that swells and fades within one window."""
    share = (t_s - start_s) / WINDOW_S
    swell = np.where((share > 0) & (share < 1), np.sin(np.pi * np.clip(share, 0, 1)) ** 0.6, 0)
    return np.sin(2 * np.pi * 3.1 * (t_s - start_s)) * swell
