"""How far is each optical flow method from a motion that is known exactly, and how fast is it?

Pairs of pictures are made from one texture, a synthetic face or clouds, the second displaced: by shifts, a turn, a
zoom and a smile; without noise and with that of an indoor webcam. Errors are mean end-point errors in pixels, speed is
fields per second of one core. Notebook 02 shows the committed `benchmarks/flow.json`.

    python -m benchmarks.flow [--seeds N] [--json FILE]
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, report
from data_sample.make.drawing import draw_identity
from data_sample.make.scene import build_scene, draw_frame
from data_sample.make.timeline import plan_motion
from helpers.clips import TRAITS
from helpers.flow import METHODS, OpticalFlowComputer

MARGIN_PX = 24  # texture around the picture, so that no motion here brings in what was not drawn
FINE = 2  # texture pixels per picture pixel: sampling it between pixels is then exact to a grey level
BORDER_PX = 16  # not judged: what leaves the picture cannot be found again, and the largest motion is 12 px
NOISE_SD = 3.0  # grey levels, of each picture by itself: an indoor webcam
COLUMNS = {
    "method": "{}",
    "warp": "{}",
    "motion_px": "{:.2f}",
    "clean_px": "{:.3f}",
    "noisy_px": "{:.3f}",
    "fields_per_s": "{:.1f}",
}

Inverse = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Pair:
    """Two grey uint8 pictures (S, S) and the motion from the first to the second: `truth (S, S, 2) float32`, pixels.

    `warp` and `texture` name the kind of motion and what is seen.
    """

    gray0: np.ndarray
    gray1: np.ndarray
    truth: np.ndarray
    warp: str
    texture: str


def _shift(length_px: float) -> Callable[[np.random.Generator, int], Inverse]:
    def make(r: np.random.Generator, side_px: int) -> Inverse:
        angle = r.uniform(0, 2 * np.pi)
        dx, dy = length_px * np.cos(angle), length_px * np.sin(angle)
        return lambda x, y: (np.full_like(x, -dx), np.full_like(y, -dy))

    return make


def _turn(r: np.random.Generator, side_px: int) -> Inverse:
    """3 degrees about the middle, either way."""
    angle, c = np.deg2rad(3.0) * r.choice([-1, 1]), (side_px - 1) / 2
    cos, sin = np.cos(angle) - 1, np.sin(angle)
    return lambda x, y: (cos * (x - c) + sin * (y - c), cos * (y - c) - sin * (x - c))


def _zoom(r: np.random.Generator, side_px: int) -> Inverse:
    """4 % nearer or farther."""
    factor, c = 0.04 * r.choice([-1, 1]), (side_px - 1) / 2
    return lambda x, y: (factor * (x - c), factor * (y - c))


def _smile(r: np.random.Generator, side_px: int) -> Inverse:
    """Both corners of a mouth drawn outwards by 2 px and up by 3 px, over a twelfth of the picture; the rest still."""
    out_px, up_px, sd = 2.0, 3.0, side_px / 12
    c, below, apart = (side_px - 1) / 2 + r.uniform(-4, 4), side_px * 0.64, side_px * 0.16

    def inverse(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left, right = (np.exp(-((x - at) ** 2 + (y - below) ** 2) / (2 * sd**2)) for at in (c - apart, c + apart))
        return out_px * (left - right), up_px * (left + right)

    return inverse


WARPS: dict[str, Callable[[np.random.Generator, int], Inverse]] = {
    "shift 0.5 px": _shift(0.5),
    "shift 3 px": _shift(3.0),
    "shift 12 px": _shift(12.0),
    "turn 3°": _turn,
    "zoom 4 %": _zoom,
    "smile": _smile,
}  # where a pixel (x, y) of the second picture comes from, minus (x, y)


def face_texture(seed: int, side_px: int) -> np.ndarray:
    """A synthetic face with backdrop, grey float32, `FINE` pixels per picture pixel, margin included."""
    side = FINE * (side_px + 2 * MARGIN_PX)
    latents = dict.fromkeys(TRAITS, 0.5)
    scene = build_scene(draw_identity(seed), latents, seed, (side, side))
    frame = draw_frame(scene, plan_motion(latents, seed, 45, 15.0), 0)
    return cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)


def cloud_texture(seed: int, side_px: int) -> np.ndarray:
    """Clouds with detail of all sizes from about 6 px up, as strong as in photographs (1/f); as `face_texture`."""
    r, side = np.random.default_rng([17, seed]), FINE * (side_px + 2 * MARGIN_PX)
    clouds = np.zeros((side, side), np.float32)
    for sigma_px in (2, 4, 8, 16):
        octave = cv2.GaussianBlur(r.normal(size=clouds.shape).astype(np.float32), (0, 0), sigma_px * FINE)
        clouds += octave * (sigma_px / octave.std())
    return cv2.normalize(clouds, None, 16, 240, cv2.NORM_MINMAX)


TEXTURES: dict[str, Callable[[int, int], np.ndarray]] = {"face": face_texture, "clouds": cloud_texture}


def warped_pairs(seed: int, side_px: int = 160) -> Iterator[Pair]:
    """Yield a pair for every texture and warp, without noise; the seed chooses face, clouds and directions."""
    for texture, draw in TEXTURES.items():
        fine = draw(seed, side_px)
        for k, (warp, make) in enumerate(WARPS.items()):
            inverse = make(np.random.default_rng([19, seed, k]), side_px)
            yield Pair(*warp_picture(fine, inverse, side_px), warp, texture)


def warp_picture(fine: np.ndarray, inverse: Inverse, side_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample a texture twice, the second time displaced.

    Args:
        fine: Grey float32 texture, see `face_texture`.
        inverse: Where a pixel (x, y) of the second picture comes from, minus (x, y); smooth, defined everywhere.
        side_px: S.

    Returns:
        Both pictures, uint8 (S, S), and the flow from the first to the second, float32 (S, S, 2), exact to 1e-4 px:
        the f with f(p) = -inverse(p + f(p)), by iteration, which converges where neighbours stay neighbours.
    """
    y, x = np.indices((side_px, side_px), np.float64)
    u, v = np.zeros_like(x), np.zeros_like(y)
    for _ in range(20):
        bx, by = inverse(x + u, y + v)
        u, v = -bx, -by
    bx, by = inverse(x, y)
    return _sampled(fine, x, y), _sampled(fine, x + bx, y + by), np.stack([u, v], axis=-1).astype(np.float32)


def _sampled(fine: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The texture at pixels of the picture, grey uint8; a pixel's middle is the middle of its fine pixels."""
    at = [((c + MARGIN_PX) * FINE + (FINE - 1) / 2).astype(np.float32) for c in (x, y)]
    return np.clip(cv2.remap(fine, *at, cv2.INTER_CUBIC).round(), 0, 255).astype(np.uint8)


def with_noise(pair: Pair, seed: int, sd: float = NOISE_SD) -> Pair:
    """The same pair with Gaussian noise of `sd` grey levels, another on each picture."""
    r = np.random.default_rng([23, seed])
    noisy = [np.clip(g + r.normal(0, sd, g.shape), 0, 255).round().astype(np.uint8) for g in (pair.gray0, pair.gray1)]
    return Pair(*noisy, pair.truth, pair.warp, pair.texture)


def end_point_error(flow: np.ndarray, truth: np.ndarray, border_px: int = BORDER_PX) -> float:
    """Mean distance in pixels between the ends of computed and true vectors, (..., H, W, 2), without the border."""
    if flow.shape != truth.shape or flow.shape[-1] != 2 or min(flow.shape[-3:-1]) <= 2 * border_px:
        raise ValueError(
            f"flow and truth must have one shape (H, W, 2) with sides above {2 * border_px}, got {flow.shape} and "
            f"{truth.shape}. Compare fields of the same pixels."
        )
    inside = slice(border_px, -border_px or None)
    return float(np.linalg.norm((flow - truth)[..., inside, inside, :], axis=-1).mean())


def accuracy_table(
    methods: Sequence[str] = tuple(METHODS), seeds: Sequence[int] = (0,), side_px: int = 160
) -> pd.DataFrame:
    """Measure every method on every warp, in turn on the same pair, on one core: 12 pairs per seed, 10 s in all.

    Nearly all of the time is TV-L1's, which takes up to 5 s for a pair of 224 px that it cannot follow.

    Args:
        methods: Names in `helpers.flow.METHODS`.
        seeds: Each gives a face and a cloud texture, and a direction of each warp.
        side_px: Side of the pictures; errors of turn and zoom, and the time per field, grow with it.

    Returns:
        A row per method and warp, in the order given: `method`, `warp`, `motion_px` (mean length of the true vectors:
        the error of a method that says nothing moves), `clean_px`, `noisy_px` (mean end-point error, noise of
        `NOISE_SD` grey levels), `fields_per_s` (of the method: from the median time of its pairs without noise).
    """
    computers = {method: OpticalFlowComputer(method) for method in methods}
    rows, n_threads = [], cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for seed in seeds:
            for clean in warped_pairs(seed, side_px):
                rows += [_judged(name, computer, clean, seed) for name, computer in computers.items()]
    finally:
        cv2.setNumThreads(n_threads)
    table = pd.DataFrame(rows)
    speed = 1 / table.groupby("method")["seconds"].median()
    table = table.groupby(["method", "warp"], sort=False)[["motion_px", "clean_px", "noisy_px"]].mean().reset_index()
    order = table["method"].map(list(methods).index)
    table["fields_per_s"] = table["method"].map(speed)
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def _judged(method: str, computer: OpticalFlowComputer, clean: Pair, seed: int) -> dict[str, str | float]:
    """Errors of one method on a pair and on the same pair with noise, and its seconds per field."""
    row: dict[str, str | float] = {"method": method, "warp": clean.warp}
    row["motion_px"] = end_point_error(clean.truth, np.zeros_like(clean.truth))
    started = time.perf_counter()
    flow = computer.pair(clean.gray0, clean.gray1)
    row["seconds"] = time.perf_counter() - started
    row["clean_px"] = end_point_error(flow, clean.truth)
    noisy = with_noise(clean, seed)
    row["noisy_px"] = end_point_error(computer.pair(noisy.gray0, noisy.gray1), clean.truth)
    return row


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="textures and directions (default: 1)")
    parser.add_argument("--side", type=int, default=160, metavar="PX", help="of the pictures (default: 160)")
    options = parser.parse_args(argv)
    table = accuracy_table(seeds=range(options.seeds), side_px=options.side)
    report(table.to_dict("records"), COLUMNS, options)


if __name__ == "__main__":
    main()
