"""The sample data: synthetic clips with a planted truth, laid out as ChaLearn First Impressions V2 is.

In: seeds and a folder. Out: `Drawing`s (frames RGB uint8 (n, H, W, 3)), mp4 files, `annotation_*.pkl`, `truth.csv`. A
rating is the planted latent value plus noise; latents do not depend on the person. The same seeds give the same
frames in every process; the encoder's bytes differ from run to run.
"""

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from data_sample.make.drawing import draw_identity
from data_sample.make.scene import build_scene, draw_frame
from data_sample.make.timeline import WINDOW_S, plan_motion
from helpers.clips import TRAITS
from helpers.files import replacing

log = logging.getLogger(__name__)

N_FRAMES, FPS, SIZE = 73, 15.0, (320, 240)  # 73 frames give 72 flows, 9 segments of 8
LATENT_MEAN, LATENT_SD, RATING_SD, INTERVIEW_SD = 0.5, 0.22, 0.06, 0.03
SEEDS_PER_SAMPLE = 1_000_000  # sample `seed` uses source and clip seeds seed * 1e6 + 0, 1, 2, …
FOLDERS = {"train": "training", "validation": "validation", "test": "test"}
FOLDER_CLIPS = 80
ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
PICKLE_ORDER = ("extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness")


@dataclass(frozen=True)
class Drawing:
    """One synthetic clip.

    Attributes:
        frames: RGB uint8 (n, H, W, 3).
        latents: Trait to planted value in [0, 1].
        ratings: Trait, and interview, to noisy rating in [0, 1].
        warm_s: Start of the warm-light window in seconds.
        cool_s: Start of the cool-light window in seconds.
        window_s: Length of either window in seconds.
        fps: Frames per second.
    """

    frames: np.ndarray
    latents: dict[str, float]
    ratings: dict[str, float]
    warm_s: float
    cool_s: float
    window_s: float
    fps: float


def draw_latents(clip_seed: int) -> dict[str, float]:
    """Draw the planted value of each trait in [.02, .98], independent of each other and of the person."""
    r = np.random.default_rng([17, clip_seed])
    return {trait: float(np.clip(r.normal(LATENT_MEAN, LATENT_SD), 0.02, 0.98)) for trait in TRAITS}


def rate_clip(latents: Mapping[str, float], clip_seed: int) -> dict[str, float]:
    """Ratings in [0, 1]: each latent plus noise; `interview` is the mean of the five plus noise."""
    r = np.random.default_rng([19, clip_seed])
    ratings = {trait: float(np.clip(latents[trait] + r.normal(0, RATING_SD), 0, 1)) for trait in TRAITS}
    interview = np.mean(list(ratings.values())) + r.normal(0, INTERVIEW_SD)
    return ratings | {"interview": float(np.clip(interview, 0, 1))}


def draw_clip(
    source_seed: int,
    clip_seed: int,
    *,
    latents: Mapping[str, float] | None = None,
    n_frames: int = N_FRAMES,
    fps: float = FPS,
    size: tuple[int, int] = SIZE,
) -> Drawing:
    """Draw one clip of one invented person.

    Args:
        source_seed: Seed of the person.
        clip_seed: Seed of all else: latents, their noise, motion, place, light, clothes.
        latents: Trait to value in [0, 1], for some or all; the others are drawn from `clip_seed`.
        n_frames: Number of frames; together with `fps` at least 3 s.
        fps: Frames per second.
        size: Width and height in pixels, both even.

    Returns:
        Frames and truth; bit-identical whenever drawn again.

    Raises:
        ValueError: Latents of unknown name, or a clip shorter than 3 s.
    """
    if unknown := set(latents or {}) - set(TRAITS):
        raise ValueError(f"latents must name traits among {TRAITS}, got {sorted(unknown)}. Correct the names.")
    latents = draw_latents(clip_seed) | dict(latents or {})
    motion = plan_motion(latents, clip_seed, n_frames, fps)
    scene = build_scene(draw_identity(source_seed), latents, clip_seed, size)
    frames = np.stack([draw_frame(scene, motion, k) for k in range(n_frames)])
    return Drawing(frames, latents, rate_clip(latents, clip_seed), motion.warm_s, motion.cool_s, WINDOW_S, fps)


def write_mp4(
    frames: np.ndarray, path: str | Path, fps: float | Fraction = FPS, *, crf: int = 26, t_s: np.ndarray | None = None
) -> None:
    """Encode frames as H.264, atomically.

    One encoder thread and RGB to I420 by OpenCV leave little to chance, yet the bytes are not the same every time.

    Args:
        frames: RGB uint8 (n, H, W, 3), H and W even.
        path: File to write.
        fps: Frames per second.
        crf: Quality of x264, lower is better and larger.
        t_s: Time of each frame in seconds, increasing, for a variable frame rate; default k / fps.

    Raises:
        ValueError: Height or width is odd, which 4:2:0 cannot hold.
    """
    if frames.ndim != 4 or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames must be (n, H, W, 3) with even H and W, got {frames.shape}. Crop or pad them.")
    rate = Fraction(fps).limit_denominator(1001)
    with replacing(path) as part, av.open(part, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        stream.codec_context.thread_count = 1
        if t_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
            picture.pts = k if t_s is None else round(1000 * t_s[k])
            picture.time_base = 1 / rate if t_s is None else Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def sample_plan(n_clips: int = 36, seed: int = 0, clips_per_source: int = 3, *, splits: bool = True) -> pd.DataFrame:
    """List the clips of a sample without drawing them.

    Args:
        n_clips: Number of clips, 1 to a million.
        seed: Samples of different seeds share no person and no clip.
        clips_per_source: Clips of each person.
        splits: Two thirds train, a sixth validation, a sixth test, dealt out clip by clip as ChaLearn's official split
            was, so that most test clips share a person with train. Otherwise all are train.

    Returns:
        One row per clip: key, source, source_seed, clip_seed, split.
    """
    if not 1 <= n_clips <= SEEDS_PER_SAMPLE:
        raise ValueError(f"n_clips must be 1 to {SEEDS_PER_SAMPLE}, got {n_clips}. Use another seed for further clips.")
    if clips_per_source < 1:
        raise ValueError(f"clips_per_source must be at least 1, got {clips_per_source}. Give each person a clip.")
    numbers = np.arange(n_clips)
    first = seed * SEEDS_PER_SAMPLE
    ids = [source_id(i, first + i) for i in range(-(-n_clips // clips_per_source))]
    split = _deal(n_clips, seed) if splits else np.full(n_clips, "train", dtype=object)
    plan = pd.DataFrame({"split": split, "source": [ids[i] for i in numbers // clips_per_source]})
    folder = plan.groupby("split").cumcount() // FOLDER_CLIPS + 1
    names = zip(plan["split"], folder, plan["source"], numbers % clips_per_source, strict=True)
    plan["key"] = [f"{FOLDERS[split]}80_{k:02d}/{source}.{take:03d}" for split, k, source, take in names]
    plan["source_seed"] = first + numbers // clips_per_source
    plan["clip_seed"] = first + numbers
    return plan[["key", "source", "source_seed", "clip_seed", "split"]]


def source_id(number: int, source_seed: int) -> str:
    """Eleven characters of YouTube's alphabet; the first two sources begin with - and _, as some real ones do."""
    letters = np.random.default_rng([31, source_seed]).integers(len(ID_ALPHABET), size=11)
    name = "".join(ID_ALPHABET[i] for i in letters)
    return "-_"[number] + name[1:] if number < 2 else name


def _deal(n_clips: int, seed: int) -> np.ndarray:
    held_out = round(n_clips / 6)
    names = ["validation"] * held_out + ["test"] * held_out + ["train"] * (n_clips - 2 * held_out)
    return np.random.default_rng([41, seed]).permutation(np.array(names, dtype=object))


def write_clip(out: str | Path, row: pd.Series) -> Path:
    """Draw and encode the clip of one row of `sample_plan`; a clip that is there stays as it is."""
    path = Path(out) / f"{row['key']}.mp4"
    if not path.exists():
        write_mp4(draw_clip(row["source_seed"], row["clip_seed"]).frames, path)
    return path


def sample_truth(plan: pd.DataFrame) -> pd.DataFrame:
    """The planted truth of a plan, without drawing: its columns, five latents, warm_s, cool_s, window_s, fps."""
    rows = []
    for clip_seed in plan["clip_seed"]:
        latents = draw_latents(clip_seed)
        motion = plan_motion(latents, clip_seed, N_FRAMES, FPS)
        rows.append(latents | {"warm_s": motion.warm_s, "cool_s": motion.cool_s, "window_s": WINDOW_S, "fps": FPS})
    return pd.concat([plan, pd.DataFrame(rows, index=plan.index)], axis=1)


def sample_ratings(plan: pd.DataFrame) -> pd.DataFrame:
    """Ratings in [0, 1] of a plan: one row per key, columns the five traits and interview."""
    rows = [rate_clip(draw_latents(clip_seed), clip_seed) for clip_seed in plan["clip_seed"]]
    return pd.DataFrame(rows, index=pd.Index(plan["key"], name="key"))


def write_sample(
    out: str | Path,
    n_clips: int = 36,
    seed: int = 0,
    *,
    clips_per_source: int = 3,
    splits: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Write a data folder: clips, `annotation_*.pkl`, `truth.csv`. Started again, it goes on where it stopped.

    Args:
        out: The data folder.
        n_clips: Number of clips; one takes about half a second and 37 kB.
        seed: See `sample_plan`, as for `clips_per_source` and `splits`.
        clips_per_source: Clips of each person.
        splits: Deal the clips out over training, validation and test.
        progress: Show a progress bar.

    Returns:
        The truth table, as in `truth.csv`.
    """
    out = Path(out)
    plan = sample_plan(n_clips, seed, clips_per_source, splits=splits)
    for _, row in tqdm(plan.iterrows(), total=len(plan), unit="clip", disable=not progress):
        write_clip(out, row)
    ratings = sample_ratings(plan)
    for split, keys in plan.groupby("split")["key"]:
        with replacing(out / f"annotation_{FOLDERS[split]}.pkl") as part:
            part.write_bytes(pickle_ratings(ratings.loc[keys]))
    truth = sample_truth(plan)
    with replacing(out / "truth.csv") as part:
        truth.to_csv(part, index=False, float_format="%.6f")
    log.info("%d clips of %d sources in %s", len(plan), plan["source"].nunique(), out)
    return truth


def pickle_ratings(ratings: pd.DataFrame) -> bytes:
    """Ratings as Python 2 pickled them: trait to clip file to float, byte strings, keys in ChaLearn's order.

    Python 3 writes other opcodes, so these few are written by hand. Read with `encoding="latin1"`.
    """

    def text(value: str) -> bytes:
        raw = value.encode("latin1")
        return b"U" + bytes([len(raw)]) + raw  # SHORT_BINSTRING

    def dictionary(items: list[tuple[str, bytes]]) -> bytes:
        return b"}(" + b"".join(text(key) + value for key, value in items) + b"u"  # EMPTY_DICT MARK … SETITEMS

    files = [f"{key.rsplit('/', 1)[-1]}.mp4" for key in ratings.index]
    columns = []
    for name in PICKLE_ORDER:
        values = [b"G" + struct.pack(">d", value) for value in ratings[name]]  # BINFLOAT
        columns.append((name, dictionary(list(zip(files, values, strict=True)))))
    return b"\x80\x02" + dictionary(columns) + b"."  # PROTO 2 … STOP
