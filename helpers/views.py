"""Views of a clip: seeded copies to train on (J7) and to test with (J8), and corrupted copies that show robustness.

In: a clip's frames RGB uint8 (k, S, S, 3), all of one decoding, and the name of a view. Out: which of the frames the
view shows, and each of them RGB uint8 (px, px, 3). What is drawn depends on seed, key and the view's name alone, never
on order or on other views. Names: "plain"; "view01", … for training; "tta01", … gentler, for testing; a corruption;
and "noise_tta01", …, a corrupted clip seen as the view of that number sees it.

The strengths below are chosen here: S3 names the kinds but not how strong they were.
"""

import zlib
from dataclasses import dataclass, replace

import cv2
import numpy as np

PLAIN = "plain"
CORRUPTIONS = ("noise", "blur", "dark", "low_rate", "crop")
STEP = 4  # frames are decoded so much more densely than a plain clip shows them, for speed and jitter

NOISE_SD = 25.0  # grey levels
BLUR = 1 / 28  # standard deviation, of the side
DARK = 0.3  # of the light
HELD = 3  # rows of a plain clip in which a low rate shows one frame
CROPPED = 0.7  # of the side

EXPOSURE, MOST_GAIN = 110.0, 4.0  # mean grey level of an exposed clip; at most so much light is added or taken away


@dataclass(frozen=True)
class View:
    """How a clip is seen.

    Attributes:
        speed: How many times as fast.
        start: Where it begins, as a share of what is left over, in [0, 1].
        jitter: Largest displacement of a row in time, in rows.
        flip: Left and right exchanged.
        window: What is seen of the picture: x0, y0, side, as shares of the side.
        gain: Of the light, RGB (3,).
        exposed: The clip's light is first brought to `EXPOSURE`, so that a dark one is seen as others are.
        erased: A rectangle that is grey: x0, y0, x1, y1, as shares; empty where x1 is 0.
        noise_sd: Grey levels.
    """

    speed: float = 1.0
    start: float = 0.0
    jitter: float = 0.0
    flip: bool = False
    window: tuple[float, float, float] = (0.0, 0.0, 1.0)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exposed: bool = False
    erased: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    noise_sd: float = 0.0


def view_names(n_views: int, n_tta: int) -> tuple[list[str], list[str]]:
    """Names of the views for training, and of those for testing, corrupted ones included; the plain one in neither."""
    tta = [f"tta{k:02}" for k in range(1, n_tta + 1)]
    corrupted = [f"{name}{after}" for name in CORRUPTIONS for after in ("", *(f"_{view}" for view in tta))]
    return [f"view{k:02}" for k in range(1, n_views + 1)], tta + corrupted


def split_name(name: str) -> tuple[str, str]:
    """Corruption, or "", and view of a name: "low_rate_tta01" is "low_rate" and "tta01"."""
    for corruption in CORRUPTIONS:
        if name == corruption:
            return corruption, PLAIN
        if name.startswith(f"{corruption}_"):
            return corruption, name.removeprefix(f"{corruption}_")
    return "", name


def generator(seed: int, key: str, name: str, *numbers: int) -> np.random.Generator:
    """The generator of a view of a clip."""
    return np.random.default_rng([seed, *(zlib.crc32(text.encode()) for text in (key, name)), *numbers])


def draw_view(seed: int, key: str, name: str, *, flip: bool) -> View:
    """Draw how a clip is seen in a view.

    Args:
        seed: Of the run.
        key: Of the clip.
        name: "plain", or begins with "view" or "tta".
        flip: Exchange left and right in half of the views; not where a class is a direction.
    """
    if name == PLAIN:
        return View()
    r = generator(seed, key, name)
    is_strong = name.startswith("view")
    side = r.uniform(0.8 if is_strong else 0.9, 1)
    darkest, lightest, tint = (0.5, 1.4, 0.1) if is_strong else (0.9, 1.1, 0.03)
    gain = r.uniform(darkest, lightest) * r.uniform(1 - tint, 1 + tint, 3)
    view = {
        "speed": r.uniform(0.9, 1.15) if is_strong else r.uniform(0.95, 1.05),
        "start": r.random(),
        "jitter": 0.45 if is_strong else 0.25,
        "flip": flip and bool(r.random() < 0.5),
        "window": (*(r.uniform(0, 1 - side, 2)), side),
        "gain": tuple(gain),
        "exposed": not is_strong,
    }
    if is_strong:
        x, y, width, height = *r.uniform(0, 0.85, 2), *r.uniform(0.1, 0.25, 2)
        has_erased, has_noise = r.random(2) < 0.5
        view["erased"] = (x, y, x + width, y + height) if has_erased else (0.0, 0.0, 0.0, 0.0)
        view["noise_sd"] = r.uniform(3, 15) if has_noise else 0.0
    return View(**view)


def places_of(view: View, n_frames: int, n_rows: int, r: np.random.Generator) -> np.ndarray:
    """Which frames a view shows, ascending, int (n,) with n at most `n_rows`; a faster view has fewer.

    Args:
        view: How the clip is seen.
        n_frames: Frames there are: `STEP` (n_rows - 1) + 1 evenly spread ones, or all of a shorter clip.
        n_rows: Rows of a plain clip.
        r: Draws the jitter.
    """
    n_rows = min(n_rows, n_frames)
    step = (n_frames - 1) / max(n_rows - 1, 1)
    left_over = (n_frames - 1) * max(0.0, 1 - view.speed)
    at = view.start * left_over + np.arange(n_rows) * step * view.speed
    at = at[at <= n_frames - 1 + 1e-9]
    at = at + r.uniform(-1, 1, len(at)) * view.jitter * step
    return np.clip(at.round().astype(int), 0, n_frames - 1)


def held(corruption: str, places: np.ndarray, n_frames: int, n_rows: int) -> np.ndarray:
    """The frames that are really shown at `places`: at a low rate one stands still for `HELD` rows."""
    if corruption != "low_rate":
        return places
    hold = max(1, round(HELD * (n_frames - 1) / max(min(n_rows, n_frames) - 1, 1)))
    return places // hold * hold


def corrupt(frame: np.ndarray, corruption: str, seed: int, key: str, place: int) -> np.ndarray:
    """A corrupted frame, RGB uint8 (S, S, 3); the same in all views of the clip. `place`: its number in the clip."""
    side = frame.shape[0]
    if corruption == "noise":
        noise = generator(seed, key, corruption, place).standard_normal(frame.shape, np.float32)
        return np.clip(frame + NOISE_SD * noise, 0, 255).astype(np.uint8)
    if corruption == "blur":
        return cv2.GaussianBlur(frame, (0, 0), BLUR * side)
    if corruption == "dark":
        return (frame * np.float32(DARK)).astype(np.uint8)
    if corruption == "crop":
        kept = round(CROPPED * side)
        x, y = generator(seed, key, corruption).integers(0, side - kept + 1, 2)
        return cv2.resize(frame[y : y + kept, x : x + kept], (side, side), interpolation=cv2.INTER_LINEAR)
    return frame


def exposed(view: View, frame: np.ndarray) -> View:
    """The view with its gain as the light of a clip asks for, told by one frame of it; others are left as they are."""
    if not view.exposed:
        return view
    gain = np.clip(EXPOSURE / max(float(frame.mean()), 1.0), 1 / MOST_GAIN, MOST_GAIN)
    return replace(view, gain=tuple(gain * np.array(view.gain)))


def show(frame: np.ndarray, view: View, px: int, r: np.random.Generator) -> np.ndarray:
    """A frame as a view shows it, RGB uint8 (px, px, 3); `r` draws its noise."""
    side = frame.shape[0]
    x, y, kept = (round(share * side) for share in view.window)
    seen = frame[y : y + kept, x : x + kept]
    x0, y0, x1, y1 = (round(share * seen.shape[0]) for share in view.erased)
    if x1:
        seen = seen.copy()
        seen[y0:y1, x0:x1] = 128
    if seen.shape[:2] != (px, px):
        smaller = seen.shape[0] > px
        seen = cv2.resize(seen, (px, px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if view.flip:
        seen = seen[:, ::-1]
    if view.gain != (1.0, 1.0, 1.0) or view.noise_sd:
        light = seen * np.float32(view.gain)
        if view.noise_sd:
            light += np.float32(view.noise_sd) * r.standard_normal(light.shape, np.float32)
        seen = np.clip(light, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(seen)
