"""Awkward clips: synthetic files that every stage must survive, or refuse with a reason.

In: a folder. Out: `awkward/*.mp4` in it, each small. What each is for stands at its maker; none has a rating.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from data_sample.make.sample import FPS, SEEDS_PER_SAMPLE, SIZE, draw_clip, write_mp4
from data_sample.make.scene import draw_backdrop, draw_noise
from helpers.files import replacing

FILM_RATE = Fraction(24000, 1001)


def write_awkward(out: str | Path, seed: int = 0) -> list[Path]:
    """Write all awkward clips into `out`/awkward; a file that is there stays as it is.

    Args:
        out: The data folder.
        seed: Draws other people and places; none of them is in a sample.

    Returns:
        The files, one per kind.
    """
    folder = Path(out) / "awkward"
    makers = (
        write_no_face,
        write_face_leaving,
        write_two_faces,
        write_very_short,
        write_odd_frame_rate,
        write_variable_frame_rate,
        write_portrait_rotated,
        write_broken,
    )
    paths = []
    for number, make in enumerate(makers):
        path = folder / f"{make.__name__.removeprefix('write_')}.mp4"
        if not path.exists():
            make(path, (seed + 1) * SEEDS_PER_SAMPLE - 10 * (number + 1))
        paths.append(path)
    return paths


def write_no_face(path: Path, seed: int) -> None:
    """A camera that pans over an empty wall: no detector may find anyone."""
    n_frames, pan_px = 45, 180
    width, height = SIZE
    r = np.random.default_rng([43, seed])
    columns, rows = np.meshgrid(np.arange(width + pan_px, dtype=np.float32), np.arange(height, dtype=np.float32))
    wall, noise = draw_backdrop(r, columns, rows) * 255, draw_noise(r, SIZE)
    left = np.linspace(0, pan_px, n_frames).round().astype(int)
    frames = [np.clip(wall[:, x : x + width] + noise[k % len(noise)], 0, 255) for k, x in enumerate(left)]
    write_mp4(np.stack(frames).astype(np.uint8), path)


def write_face_leaving(path: Path, seed: int) -> None:
    """A camera that pans away half-way: the face is there at first and then gone."""
    width, height = SIZE
    drawing = draw_clip(seed, seed, size=(3 * width, height))
    n_frames = len(drawing.frames)
    gone = np.clip((np.arange(n_frames) / n_frames - 0.4) / 0.2, 0, 1)
    left = (width * (1 + gone)).round().astype(int)
    write_mp4(np.stack([f[:, x : x + width] for f, x in zip(drawing.frames, left, strict=True)]), path)


def write_two_faces(path: Path, seed: int) -> None:
    """Two people side by side as in a video call, the left one larger."""
    width, height = SIZE
    share = width * 3 // 5
    left, right = (
        draw_clip(seed, seed, size=(share, height)),
        draw_clip(seed + 1, seed + 1, size=(width - share, height)),
    )
    write_mp4(np.concatenate([left.frames, right.frames], axis=2), path)


def write_very_short(path: Path, seed: int) -> None:
    """Seven frames: fewer than one segment."""
    write_mp4(draw_clip(seed, seed).frames[:7], path)


def write_odd_frame_rate(path: Path, seed: int) -> None:
    """23.976 frames per second, as films have."""
    write_mp4(draw_clip(seed, seed, fps=float(FILM_RATE)).frames, path, FILM_RATE)


def write_variable_frame_rate(path: Path, seed: int) -> None:
    """Frames left out at random, as phones do in the dark: the times between frames differ, the motion does not."""
    frames = draw_clip(seed, seed).frames
    kept = np.sort(np.random.default_rng([47, seed]).permutation(np.arange(1, len(frames) - 1))[:42])
    kept = np.r_[0, kept, len(frames) - 1]
    write_mp4(frames[kept], path, t_s=kept / FPS)


def write_portrait_rotated(path: Path, seed: int) -> None:
    """Held upright, stored lying, with a note in the file to turn the picture by 90 degrees, as phones do."""
    frames = draw_clip(seed, seed, size=SIZE[::-1]).frames
    write_mp4(np.ascontiguousarray(np.rot90(frames, axes=(1, 2))), path)
    turned = turn_clockwise(path.read_bytes(), width=SIZE[1])
    with replacing(path) as part:
        part.write_bytes(turned)


def write_broken(path: Path, seed: int) -> None:
    """The first half of a good file: its index, which comes last, is missing, so that it cannot be opened."""
    write_mp4(draw_clip(seed, seed).frames[:15], path)
    whole = path.read_bytes()
    with replacing(path) as part:
        part.write_bytes(whole[: len(whole) // 2])


def turn_clockwise(mp4: bytes, width: int) -> bytes:
    """Write a quarter turn into the display matrix of the first track of an mp4.

    The matrix lies 40 bytes behind the word `tkhd`: nine big-endian numbers, 16.16 but for the last column
    (ISO/IEC 14496-12, 8.3.2). `width` is the picture's as displayed.
    """
    start = mp4.index(b"tkhd") + 4
    if mp4[start] != 0:
        raise ValueError(f"mp4 must have a tkhd box of version 0, got {mp4[start]}. Write the file with write_mp4.")
    one = 1 << 16
    matrix = np.array([0, one, 0, -one, 0, 0, width * one, 0, 1 << 30], ">i4").tobytes()
    return mp4[: start + 40] + matrix + mp4[start + 40 + len(matrix) :]
