"""The synthetic sample of motion classes: puppets whose gestures are the same in every class, in another order.

In: seeds and a folder. Out: clips RGB uint8 (n, H, W, 3), mp4 files `<split>/<class>/<scene>/<source>.<take>.mp4`, and
`truth.csv`. A clip shows three gestures one after the other; the class is their order. The clips of one source hold the
same poses, each the same number of times, so that nothing but order tells their classes apart. The same seeds give the
same frames in every process; the encoder's bytes differ from run to run.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from data_sample.make.drawing import HAIR_TONES, SKIN_TONES, blur, hsv_rgb
from data_sample.make.sample import SEEDS_PER_SAMPLE, source_id, write_mp4
from helpers.files import replacing
from helpers.names import LEAVE_OUT

log = logging.getLogger(__name__)

FPS, SIZE = 12.0, 64  # frames per second; side of the square picture in pixels
GESTURES = ("raise", "bow", "lean")  # both arms up and down; head and shoulders down and up; to one side and back
CLASSES = {
    "bow_lean_raise": ("bow", "lean", "raise"),
    "lean_raise_bow": ("lean", "raise", "bow"),
    "raise_bow_lean": ("raise", "bow", "lean"),
}
SCENES = ("day", "evening")
SPLIT_SOURCES = {"train": 28, "validation": 6, "test": 6}
FIRST_SOURCE = 500_000  # of a sample's seeds: puppets share none with `data_sample.make.sample`
SUBPIXEL = 4  # binary digits of a pixel in cv2's drawing functions
CRF = 28  # of x264: about 6 kB a clip


@dataclass(frozen=True)
class Puppet:
    """What the clips of one source share.

    Attributes:
        colours: RGB in [0, 1] of "skin", "hair", "shirt", "sleeve", "trousers".
        backdrop: float32 (SIZE, SIZE, 3) in [0, 1].
        gestures: Of each gesture how far it has gone in each of its frames, in [0, 1], rest before and after included.
        scene: "day" or "evening".
    """

    colours: dict[str, np.ndarray]
    backdrop: np.ndarray
    gestures: dict[str, np.ndarray]
    scene: str


def build_puppet(source_seed: int) -> Puppet:
    """Invent a puppet, its place, and how it makes its gestures; nothing depends on the class."""
    r = np.random.default_rng([53, source_seed])
    colours = {"skin": SKIN_TONES[r.integers(len(SKIN_TONES))], "hair": HAIR_TONES[r.integers(len(HAIR_TONES))]}
    for part in ("shirt", "sleeve", "trousers"):
        colours[part] = hsv_rgb(r.random(), r.uniform(0.3, 0.9), r.uniform(0.35, 0.95))
    scene = SCENES[int(r.random() < 0.5)]
    return Puppet(colours, _backdrop(r, scene), {name: _course(r) for name in GESTURES}, scene)


def _backdrop(r: np.random.Generator, scene: str) -> np.ndarray:
    """A wall with soft stains, lit from one side."""
    light = {"day": 0.62, "evening": 0.34}[scene]
    wall = hsv_rgb(r.random(), r.uniform(0.05, 0.35), light)
    stains = blur(r.standard_normal((SIZE, SIZE, 3)), 5.0)
    fall = np.linspace(1 - r.uniform(0, 0.25), 1, SIZE, dtype=np.float32)[None, :, None]
    return np.clip((wall + 0.9 * stains) * (fall if r.random() < 0.5 else fall[:, ::-1]), 0, 1).astype(np.float32)


def _course(r: np.random.Generator) -> np.ndarray:
    """How far a gesture has gone, frame by frame: rest, out, a while there, back, rest."""
    rest = r.integers(0, 3, 2)
    n_moving, n_there = r.integers(3, 5), r.integers(1, 4)
    out = (1 - np.cos(np.pi * np.arange(1, n_moving) / n_moving)) / 2
    peak = r.uniform(0.65, 1.0)
    parts = (np.zeros(rest[0] + 1), peak * out, np.full(n_there, peak), peak * out[::-1], np.zeros(rest[1]))
    return np.concatenate(parts)


def clip_poses(puppet: Puppet, category: str) -> np.ndarray:
    """How far each of `GESTURES` has gone in each frame of a clip of a class, float64 (n, 3) in [0, 1]."""
    if category not in CLASSES:
        raise ValueError(f"category must be one of {', '.join(CLASSES)}, got {category!r}. Correct the name.")
    courses = []
    for name in CLASSES[category]:
        course = np.zeros((len(puppet.gestures[name]), len(GESTURES)))
        course[:, GESTURES.index(name)] = puppet.gestures[name]
        courses.append(course)
    return np.concatenate(courses)


def draw_motion_clip(source_seed: int, category: str, clip_seed: int) -> np.ndarray:
    """Draw one clip: RGB uint8 (n, SIZE, SIZE, 3), bit-identical whenever drawn again.

    Args:
        source_seed: Seed of the puppet, its place and its timing.
        category: One of `CLASSES`.
        clip_seed: Seed of what differs between clips of a source: place in the picture, exposure, camera noise.
    """
    puppet, r = build_puppet(source_seed), np.random.default_rng([59, clip_seed])
    place = np.array([r.uniform(-3, 3), r.uniform(-2, 2)]) + SIZE / 2
    gain, frames = r.uniform(0.85, 1.1), []
    for pose in clip_poses(puppet, category):
        picture = draw_pose(puppet, pose, place + r.normal(0, 0.25, 2)) * gain
        noise = blur(r.standard_normal((SIZE, SIZE, 3)), 0.6) * 0.03
        frames.append(np.clip((picture + noise) * 255, 0, 255).astype(np.uint8))
    return np.stack(frames)


def draw_pose(puppet: Puppet, pose: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Draw the puppet before its backdrop, float32 (SIZE, SIZE, 3) in [0, 1]; `place` its middle (x, y) in pixels."""
    raised, bowed, leant = pose
    picture, paint = puppet.backdrop.copy(), puppet.colours
    tilt, lift = np.deg2rad(38 * leant), np.deg2rad(15 + 145 * raised + 20 * bowed)
    up = np.array([np.sin(tilt), -np.cos(tilt)])
    across = np.array([-up[1], up[0]])
    hip = place + np.array([0, 10])
    neck = hip + up * (20 - 10 * bowed)
    head = neck + up * (7 - 5 * bowed)
    for side in (-1, 1):
        _limb(picture, paint["trousers"], hip + across * side * 3.5, place + np.array([side * 6, 34]), 6)
    _limb(picture, paint["shirt"], hip, neck, 14)
    for side in (-1, 1):
        reach = np.sin(lift) * across * side - np.cos(lift) * up
        shoulder = neck + across * side * 7 - up * 2
        elbow = shoulder + reach * 9
        _limb(picture, paint["sleeve"], shoulder, elbow, 5)
        _limb(picture, paint["skin"], elbow, elbow + reach * 8, 4)
    _disc(picture, paint["hair"], head + up * 1.5, 6.5)
    _disc(picture, paint["skin"], head - up * 1.5, 5.5 - 2 * bowed)
    return picture


def _limb(picture: np.ndarray, rgb: np.ndarray, start: np.ndarray, end: np.ndarray, width: float) -> None:
    """A thick line with round ends; positions and width in pixels."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(mask, _fixed(start), _fixed(end), 255, round(width), cv2.LINE_AA, SUBPIXEL)
    _put_on(picture, rgb, mask)


def _disc(picture: np.ndarray, rgb: np.ndarray, centre: np.ndarray, radius: float) -> None:
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.circle(mask, _fixed(centre), round(radius * 2**SUBPIXEL), 255, -1, cv2.LINE_AA, SUBPIXEL)
    _put_on(picture, rgb, mask)


def _put_on(picture: np.ndarray, rgb: np.ndarray, mask: np.ndarray) -> None:
    share = mask[..., None].astype(np.float32) / 255
    picture += share * (rgb - picture)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    return tuple(round(value * 2**SUBPIXEL) for value in point)


def motion_plan(seed: int = 0) -> pd.DataFrame:
    """List the clips of a sample without drawing them: one clip of every class per source, splits by source.

    Args:
        seed: Samples of different seeds share no source and no clip.

    Returns:
        One row per clip: key, source, source_seed, clip_seed, split, category, scene. The number in a name says nothing
        about the class.
    """
    splits = np.repeat(list(SPLIT_SOURCES), list(SPLIT_SOURCES.values()))
    rows = []
    for i, split in enumerate(splits):
        source_seed = seed * SEEDS_PER_SAMPLE + FIRST_SOURCE + i
        source, scene = source_id(i, source_seed), build_puppet(source_seed).scene
        order = np.random.default_rng([61, source_seed]).permutation(list(CLASSES))
        for take, category in enumerate(order):
            key = f"{split}/{category}/{scene}/{source}.{take:03d}"
            clip_seed = seed * SEEDS_PER_SAMPLE + FIRST_SOURCE + len(CLASSES) * i + take
            rows.append((key, source, source_seed, clip_seed, split, str(category), scene))
    columns = ["key", "source", "source_seed", "clip_seed", "split", "category", "scene"]
    return pd.DataFrame(rows, columns=columns)


def write_motion_sample(out: str | Path, seed: int = 0) -> pd.DataFrame:
    """Write the clips, `truth.csv`, and the file that keeps other scans out. What is there stays as it is.

    Args:
        out: The folder of classes, such as `data_sample/motion`.
        seed: See `motion_plan`.

    Returns:
        The plan, as in `truth.csv`.
    """
    out, plan = Path(out), motion_plan(seed)
    for _, row in plan.iterrows():
        path = out / f"{row['key']}.mp4"
        if not path.exists():
            write_mp4(draw_motion_clip(row["source_seed"], row["category"], row["clip_seed"]), path, FPS, crf=CRF)
    with replacing(out / "truth.csv") as part:
        plan.to_csv(part, index=False)
    (out / LEAVE_OUT).touch()
    log.info("%d clips of %d sources in %s", len(plan), plan["source"].nunique(), out)
    return plan
