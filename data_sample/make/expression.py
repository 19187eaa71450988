"""The moving parts of a synthetic face: eyes with lids and gaze, brows, mouth.

In: a `drawing.Head` and one value per part. Out: a copy of the head's texture, RGBA uint8 (H, W, 4), with the parts
painted on it.
"""

import cv2
import numpy as np

from data_sample.make.drawing import Head

SCLERA, PUPIL, GLINT = (222.0, 216.0, 212.0), (15.0, 12.0, 12.0), (250.0, 250.0, 250.0)


def draw_expression(head: Head, *, lid: float, mouth: float, smile: float, brow: float, gaze: float) -> np.ndarray:
    """Paint one expression.

    Args:
        head: The head to paint on; it stays as it is.
        lid: 0 open to 1 closed.
        mouth: 0 closed to 1 open.
        smile: 0 to 1.
        brow: -.4 lowered to 1 raised.
        gaze: -1 left to 1 right.

    Returns:
        The texture with the face's moving parts, uint8 RGBA (H, W, 4).
    """
    image = head.texture.copy()
    for side in (-1, 1):
        _draw_eye(image, head, side, lid, gaze)
        _draw_brow(image, head, side, brow)
    _draw_mouth(image, head, mouth, smile)
    return image


def _rgba(rgb: np.ndarray) -> tuple[float, ...]:
    return (*(float(v) * 255 for v in np.clip(rgb, 0, 1)), 255.0)


def _fill(image: np.ndarray, head: Head, x: np.ndarray, top: np.ndarray, bottom: np.ndarray, rgb: np.ndarray) -> None:
    """Fill between two curves over the same x (head units)."""
    outline = head.points(np.r_[x, x[::-1]], np.r_[top, bottom[::-1]])
    cv2.fillPoly(image, [outline], _rgba(rgb), cv2.LINE_AA, 4)


def _line(image: np.ndarray, head: Head, x: np.ndarray, y: np.ndarray, rgb: np.ndarray, thickness: float) -> None:
    pixels = max(1, round(thickness * head.unit_px))
    cv2.polylines(image, [head.points(x, y)], False, _rgba(rgb), pixels, cv2.LINE_AA, 4)


def _draw_eye(image: np.ndarray, head: Head, side: int, lid: float, gaze: float) -> None:
    who = head.who
    middle, level, height = side * who.eye_x, who.eye_y, who.eye_height
    along = np.linspace(0, 1, 15)
    x, arch = middle - who.eye_width + 2 * who.eye_width * along, np.sin(np.pi * along)
    upper = level - height * 1.15 * arch * (1 - lid) + height * 0.55 * lid * arch
    lower = level + height * 0.62 * arch
    if lid > 0.05:
        _fill(image, head, x, level - height * 1.2 * arch, lower, who.skin * np.float32([0.74, 0.66, 0.64]))
    if lid < 0.9:
        _draw_eyeball(image, head, middle, gaze, head.points(np.r_[x, x[::-1]], np.r_[upper, lower[::-1]]))
    _line(image, head, x, upper, np.minimum(who.skin * 0.22, 0.25), 0.022)
    _line(image, head, x, lower, who.skin * np.float32([0.62, 0.52, 0.50]), 0.010)
    crease = level - height * 1.15 * arch - 0.045 - 0.01 * arch
    _line(image, head, x, crease, who.skin * np.float32([0.70, 0.60, 0.58]), 0.010)


def _draw_eyeball(image: np.ndarray, head: Head, middle: float, gaze: float, aperture: np.ndarray) -> None:
    """Paint sclera, iris, pupil and glint where the lids leave them open; `aperture` as `Head.points`."""
    who = head.who
    width, height = who.eye_width, who.eye_height
    left, top = head.points(middle - width * 1.1, who.eye_y - height * 1.5) // 16
    right, bottom = head.points(middle + width * 1.1, who.eye_y + height * 1.2) // 16
    patch = image[top:bottom, left:right]
    corner = np.array([left, top], np.int32) * 16
    ball = np.empty_like(patch)
    ball[:] = (*SCLERA, 255)
    x, y = (int(v) for v in head.points(middle + gaze * 0.03, who.eye_y - 0.005) - corner)
    radius = height * 0.92 * head.unit_px * 16
    for share, rgb in ((1, who.iris * 150), (0.8, who.iris * 255), (0.45, PUPIL)):
        cv2.circle(ball, (x, y), int(radius * share), (*map(float, rgb), 255.0), -1, cv2.LINE_AA, 4)
    off = int(radius * 0.35)
    cv2.circle(ball, (x - off, y - off), int(max(0.8 * 16, radius * 0.2)), (*GLINT, 255.0), -1, cv2.LINE_AA, 4)
    shaded = max(1, int((bottom - top) * 0.42))
    ball[:shaded] = (ball[:shaded] * np.float32([0.72, 0.72, 0.74, 1])).astype(np.uint8)
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [aperture - corner], 255, cv2.LINE_AA, 4)
    share = mask[..., None].astype(np.float32) / 255
    patch[:] = (patch * (1 - share) + ball * share).astype(np.uint8)


def _draw_brow(image: np.ndarray, head: Head, side: int, brow: float) -> None:
    who = head.who
    along = np.linspace(-1, 1, 11)
    x = side * who.eye_x + along * who.eye_width * 1.22
    y = who.eye_y - who.brow_y - 0.05 * brow - 0.035 * (1 - along**2) + side * along * who.brow_tilt
    half = who.brow_thickness * (1 - 0.55 * np.clip(side * along, 0, 1) ** 1.5)
    _fill(image, head, x, y - half, y + half * 0.9, np.minimum(who.hair * 0.75, 0.55))


def _draw_mouth(image: np.ndarray, head: Head, mouth: float, smile: float) -> None:
    who = head.who
    along = np.linspace(-1, 1, 15)
    arch = 1 - along**2
    x = along * who.mouth_width * (1 + 0.14 * smile - 0.10 * mouth)
    middle = who.mouth_y - smile * 0.075 * along**2 + smile * 0.02
    gap = mouth * 0.115 * arch
    upper, lower = middle - gap * 0.30, middle + gap * 0.85
    top = upper - who.lip * arch * 0.85 + who.lip * 0.22 * np.exp(-((along / 0.16) ** 2))
    lips = who.skin * np.float32([0.86, 0.56, 0.54]) + who.lip_redness * np.float32([0.08, -0.12, -0.06])
    lips = np.clip(lips, 0, 1)
    _fill(image, head, x, top, upper, lips * 0.86)
    _fill(image, head, x, lower, lower + who.lip * 1.25 * arch, lips)
    is_open = gap.max() > 0.008
    if is_open:
        _fill(image, head, x, upper, lower, np.array([0.16, 0.06, 0.06]))
        _fill(image, head, x * 0.8, upper + 0.004, np.minimum(upper + 0.032, lower), np.array([0.86, 0.84, 0.80]))
    _line(image, head, x, upper if is_open else (upper + lower) / 2, lips * 0.42, 0.012)
