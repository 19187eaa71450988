"""The picture around a head: backdrop, shoulders, scarf, coloured light, camera noise.

In: a person, two latent traits and a seed (`build_scene`). Out: `Scene`, from which `draw_frame` makes RGB uint8
frames (H, W, 3). Two of the five planted cues live here: the colours of the head band (openness) and of the scarf
(conscientiousness), both at constant luma.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from data_sample.make.drawing import LEFT, LUMA, TOP, Head, Identity, at_luma, blur, draw_band, hsv_rgb, smoothstep
from data_sample.make.expression import draw_expression
from data_sample.make.timeline import Timeline

BAND_TEAL, BAND_ORANGE, BAND_LUMA = np.float32([0.10, 0.62, 0.66]), np.float32([0.95, 0.38, 0.12]), 0.46
SCARF_GREEN, SCARF_MAGENTA, SCARF_LUMA = np.float32([0.12, 0.56, 0.16]), np.float32([0.72, 0.18, 0.66]), 0.36
FACE_UNIT = 0.305  # head unit as a share of the picture's shorter side
TEXTURE_SCALE = 1.25  # texture pixels per picture pixel
TINT_STRENGTH = 0.17
NECK_PIVOT_Y = 0.9  # head units; the head rolls around this point
N_NOISE = 6


@dataclass(frozen=True)
class Scene:
    """All that stands still in one clip; x, y (H, W) are each pixel's head units from the head's resting place."""

    head: Head
    behind: np.ndarray  # float32 (H, W, 3), 0 to 255
    x: np.ndarray
    y: np.ndarray
    tint: np.ndarray  # float32 (H, W, 3) of zero luma; added for warm light, subtracted for cool light
    noise: list[np.ndarray]  # float32 (H, W, 3) each
    gain: float
    seed: int


def build_scene(who: Identity, latents: Mapping[str, float], seed: int, size: tuple[int, int]) -> Scene:
    """Set up one clip.

    Args:
        who: The person.
        latents: Trait name to value in [0, 1]; openness and conscientiousness are read.
        seed: Seed of everything that is chance; it does not depend on the latents.
        size: Width and height of the picture in pixels.

    Returns:
        The scene, ready for `draw_frame`.
    """
    width, height = size
    r = np.random.default_rng([13, seed])
    light_x = r.choice([-1, 1]) * r.uniform(0.15, 0.55)
    unit_px = min(size) * FACE_UNIT * r.uniform(0.94, 1.06)
    band = draw_band(_between(BAND_TEAL, BAND_ORANGE, latents["openness"], BAND_LUMA), seed)
    head = Head(who, band, light_x, unit_px * TEXTURE_SCALE, seed)
    centre_x, centre_y = width * (0.5 + r.uniform(-0.06, 0.06)), height * (0.46 + r.uniform(-0.03, 0.03))
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = (columns - np.float32(centre_x)) / np.float32(unit_px), (rows - np.float32(centre_y)) / np.float32(unit_px)
    behind = draw_backdrop(r, columns, rows)
    behind = _put_on(behind, *_neck(who, x, y))
    behind = np.clip(_put_on(behind, *_shirt(r, x, y, light_x)), 0, 1)
    scarf = at_luma(SCARF_MAGENTA, SCARF_LUMA), at_luma(SCARF_GREEN, SCARF_LUMA)
    share = latents["conscientiousness"]
    behind = _put_on(behind, *_scarf(seed, scarf[0] * share + scarf[1] * (1 - share), x, y))
    return Scene(
        head=head,
        behind=(np.clip(behind, 0, 1) * 255).astype(np.float32),
        x=x,
        y=y,
        tint=_tint(x, y, light_x),
        noise=draw_noise(r, size),
        gain=r.uniform(0.92, 1.05),
        seed=seed,
    )


def draw_frame(scene: Scene, motion: Timeline, k: int) -> np.ndarray:
    """Draw frame k of a clip, RGB uint8 (H, W, 3)."""
    head, nod = scene.head, motion.nod[k]
    face = {name: getattr(motion, name)[k] for name in ("lid", "mouth", "smile", "brow", "gaze")}
    texture = draw_expression(head, **face)
    angle = np.deg2rad(motion.roll_deg[k])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = scene.x - np.float32(motion.shift_x[k])
    y = scene.y - np.float32(motion.shift_y[k] + 0.050 * nod + NECK_PIVOT_Y)
    scale = np.float32(head.unit_px)
    column = (cos * x + sin * y - np.float32(LEFT)) * scale - np.float32(0.5)
    row = (cos * y - sin * x + np.float32(NECK_PIVOT_Y - TOP)) * scale - np.float32(0.5)
    depth = cv2.remap(head.depth, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * scale
    column -= np.float32(motion.yaw[k]) * depth
    row -= np.float32(0.17 * nod) * depth
    over = cv2.remap(texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    see_through = 1 - over[..., 3:].astype(np.float32) / 255
    return expose(scene, scene.behind * see_through + over[..., :3], motion.glow[k], k)


def expose(scene: Scene, light: np.ndarray, glow: float, k: int) -> np.ndarray:
    """Add coloured light, exposure and noise to a float32 picture; RGB uint8 (H, W, 3)."""
    if abs(glow) > 1e-3:
        light = light + np.float32(255 * glow) * scene.tint
    which = (k * 5 + scene.seed) % N_NOISE if k % 2 else (k * 7 + 1) % N_NOISE
    return np.clip(light * np.float32(scene.gain) + scene.noise[which], 0, 255).astype(np.uint8)


def draw_backdrop(r: np.random.Generator, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A blurred wall, float32 (H, W, 3) in [0, 1]: two muted colours, clouds, sometimes something upright."""
    height, width = columns.shape
    hue = r.uniform(0, 1)
    one = hsv_rgb(hue, r.uniform(0.04, 0.24), r.uniform(0.35, 0.85))
    other = hsv_rgb(hue + r.uniform(-0.1, 0.1), r.uniform(0.04, 0.24), r.uniform(0.25, 0.7))
    slope = ((columns / width * r.uniform(-1, 1) + rows / height * r.uniform(-1, 1) + 1) / 2)[..., None]
    wall = one * (1 - slope) + other * slope
    clouds = cv2.resize(r.standard_normal((6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    wall *= 1 + 0.10 * clouds[..., None]
    if r.random() < 0.6:
        left, across = r.uniform(0.0, 0.75) * width, r.uniform(0.12, 0.3) * width
        mask = blur((columns > left) & (columns < left + across) & (rows < height * r.uniform(0.4, 0.75)), 3) * 0.5
        wall = _put_on(wall, hsv_rgb(r.random(), 0.2, r.uniform(0.3, 0.9)), mask)
    return blur(wall, 1.5 * min(width, height) / 240)


def draw_noise(r: np.random.Generator, size: tuple[int, int]) -> list[np.ndarray]:
    """A few sheets of camera noise, float32 (H, W, 3) in grey levels."""
    return [blur(r.standard_normal((size[1], size[0], 3)), 0.6) * np.float32(3.2) for _ in range(N_NOISE)]


def _between(start: np.ndarray, end: np.ndarray, share: float, luma: float) -> np.ndarray:
    return at_luma(start * (1 - share) + end * share, luma)


def _put_on(picture: np.ndarray, colour: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return picture * (1 - mask[..., None]) + colour * mask[..., None]


def _neck(who: Identity, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = 0.36
    mask = (1 - smoothstep(np.abs(x) - half - 0.40 * np.clip(y - 1.0, 0, 1) ** 2, -0.02, 0.02)) * (y > 0.3)
    shade = (0.70 - 0.28 * np.exp(-(((y - 0.80) / 0.22) ** 2))) * (1 - 0.30 * (x / half) ** 2)
    return who.skin * shade[..., None], mask


def _shirt(r: np.random.Generator, x: np.ndarray, y: np.ndarray, light_x: float) -> tuple[np.ndarray, np.ndarray]:
    mask = 1 - smoothstep((x / 1.55) ** 2 + ((y - 2.35) / 1.22) ** 2, 0.97, 1.02)
    mask *= smoothstep((x / 0.42) ** 2 + ((y - 1.12) / 0.30) ** 2, 0.92, 1.02)
    shade = 0.62 + 0.35 * np.clip(1 - (x / 1.6) ** 2, 0, 1) + 0.10 * np.sign(light_x) * x
    return hsv_rgb(r.random(), r.uniform(0.1, 0.4), r.uniform(0.25, 0.8)) * shade[..., None], mask


def _scarf(seed: int, rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut and fold a scarf of the given colour: by chance, the same law for everybody, all channels scaled alike."""
    r = np.random.default_rng([29, seed])
    half = (
        r.uniform(0.605, 0.665)
        + r.uniform(-0.02, 0.10) * (y - 1.14)
        + 0.012 * np.sin(y * r.uniform(8, 14) + r.uniform(0, 6))
    )
    top = 0.82 + r.uniform(-0.02, 0.02) - r.uniform(0.10, 0.18) * x**2
    bottom = 1.47 + r.uniform(0.05, 0.12) * np.cos(x * r.uniform(2.6, 3.4)) + r.uniform(-0.05, 0.05) * x
    mask = smoothstep(y, top - 0.02, top + 0.02) * (1 - smoothstep(y, bottom - 0.02, bottom + 0.02))
    mask *= 1 - smoothstep(np.abs(x) - half, -0.03, 0.03)
    across = (
        y
        + r.uniform(-0.22, 0.22) * x
        - r.uniform(0.15, 0.35) * x**2
        + 0.02 * np.sin(x * r.uniform(4, 8) + r.uniform(0, 6))
    )
    folds = np.cos(across * r.uniform(19, 29) + r.uniform(0, 6))
    folds = folds + 0.35 * np.cos(across * r.uniform(40, 55) + x * r.uniform(-5, 5))
    shade = 0.86 + r.uniform(0.10, 0.15) * folds - 0.25 * np.abs(x / half) ** 3
    return rgb * shade[..., None], mask


def _tint(x: np.ndarray, y: np.ndarray, light_x: float) -> np.ndarray:
    """Warm light of zero luma that falls off from the lit side: gray, and so the flow, cannot see it."""
    fall = (0.75 + 0.25 * np.tanh(x * np.sign(light_x))) * np.exp(-((x / 1.4) ** 2 + (y / 1.6) ** 2) / 2)
    warm = np.float32([0.34, -0.10, 0.0])
    warm[2] = -(warm[:2] @ LUMA[:2]) / LUMA[2]
    return (fall[..., None] * (warm / np.abs(warm).max()) * TINT_STRENGTH).astype(np.float32)
