"""Both streams and the ratings of every clip in one set of arrays, joined by key and never by position.

In: the feature files of 03 and 04 (rows per clip), a reduction, the table of clips with ratings. Out: `Aligned`, padded
token sequences (N, T, D) with masks and times, in `aligned_features_and_labels.npz`; the same as pairs of one face row
and the motion row of its time in `aligned_frames.npz`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.clips import targets_of
from helpers.files import needs
from helpers.reduction import Reduction, write_reduction
from helpers.store import STREAMS, FeatureFile, read_arrays, valid_rows, write_arrays, write_manifest

log = logging.getLogger(__name__)

CLIPS_FILE, FRAMES_FILE = "aligned_features_and_labels.npz", "aligned_frames.npz"


@dataclass(frozen=True)
class Aligned:
    """Token sequences and ratings of N clips; T differs between the streams.

    Attributes:
        static_features, dynamic_features: float32 (N, T, D), zeros where the mask is False.
        static_mask, dynamic_mask: bool (N, T), True = a token; each clip has one in both streams.
        static_t_s, dynamic_t_s: float32 (N, T), centre of each token in seconds, zero where the mask is False.
        labels: float32 (N, k) in [0, 1], NaN where unrated.
        clips: Keys, str (N,), all different.
        sources: str (N,), what a split may not cut apart.
        splits: str (N,), the official split or "".
        targets: str (k,), names of the labels' columns.
        synthetic: Whether the labels were invented; everything made from them says so.
    """

    static_features: np.ndarray
    dynamic_features: np.ndarray
    static_mask: np.ndarray
    dynamic_mask: np.ndarray
    static_t_s: np.ndarray
    dynamic_t_s: np.ndarray
    labels: np.ndarray
    clips: np.ndarray
    sources: np.ndarray
    splits: np.ndarray
    targets: np.ndarray
    synthetic: bool = False

    def __post_init__(self):
        n = len(self.clips)
        shapes = {"labels": (n, len(self.targets)), "sources": (n,), "splits": (n,)}
        for name in STREAMS:
            shape = getattr(self, f"{name}_features").shape
            shapes |= {f"{name}_features": (n, *shape[1:3], *[1] * (3 - len(shape)))}
            shapes |= {f"{name}_{part}": shape[:2] for part in ("mask", "t_s")}
        for name, shape in shapes.items():
            if (got := getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} must have shape {shape} like clips and features, got {got}. Align them again."
                )
        wrong = {"labels must lie in [0, 1] (rating_low, rating_high in 01)": (self.labels < 0) | (self.labels > 1)}
        for name in STREAMS:
            wrong[f"{name}_features must be finite"] = ~np.isfinite(getattr(self, f"{name}_features"))
            wrong[f"{name}_mask must keep a token of every clip"] = ~getattr(self, f"{name}_mask").any(1)
        wrong["clips must be different keys"] = pd.Index(self.clips).duplicated()
        for rule, values in wrong.items():
            if (bad := values.reshape(n, -1).any(1)).any():
                raise ValueError(
                    f"{rule}, got {bad.sum()} clips otherwise, first {self.clips[bad.argmax()]}. Leave them out."
                )

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def rated(self) -> np.ndarray:
        """Whether at least one target of a clip is rated, bool (N,)."""
        return ~np.isnan(self.labels).all(1)

    def take(self, rows: np.ndarray) -> "Aligned":
        """The clips of these rows (indices or a bool mask), in this order."""
        per_clip = [f.name for f in fields(self) if f.name not in ("targets", "synthetic")]
        return replace(self, **{name: getattr(self, name)[rows] for name in per_clip})

    def inputs(self) -> dict[str, np.ndarray]:
        """What CompletePersonalityModel takes: both streams with times and masks."""
        out = {name: getattr(self, f"{name}_features") for name in STREAMS}
        return out | {f"{name}_{part}": getattr(self, f"{name}_{part}") for name in STREAMS for part in ("t_s", "mask")}

    def pooled(self) -> dict[str, np.ndarray]:
        """Mean over the tokens of each stream: {"static": (N, D), "dynamic": (N, D)} float32."""
        out = {}
        for name in STREAMS:
            weight = getattr(self, f"{name}_mask")[..., None].astype("float32")
            out[name] = (getattr(self, f"{name}_features") * weight).sum(1) / weight.sum(1)
        return out


def stream_table(clips: pd.DataFrame, static_dir: str | Path, dynamic_dir: str | Path) -> pd.DataFrame:
    """Say which streams each clip has: index key, bool columns static, dynamic, rated."""
    folders = {"static": Path(static_dir), "dynamic": Path(dynamic_dir)}
    table = {name: [(folder / f"{key}.npz").exists() for key in clips.index] for name, folder in folders.items()}
    return pd.DataFrame(table | {"rated": clips[targets_of(clips)].notna().any(axis=1)}, index=clips.index)


def align_streams(
    clips: pd.DataFrame,
    static_dir: str | Path,
    dynamic_dir: str | Path,
    reduction: Reduction,
    *,
    targets: Sequence[str] | None = None,
) -> Aligned:
    """Join both streams and the ratings by key. Invalid rows are dropped; clips without both streams are left out.

    Args:
        clips: Index key; columns source, split and one per target (NaN = unrated).
        static_dir, dynamic_dir: Folders of the feature files of 03 and 04.
        reduction: Applied to the rows of both streams.
        targets: Rating columns, in the order of `labels`; default all of the table.

    Raises:
        ValueError: No clip has both streams, or a file holds rows of another width.
    """
    targets = targets_of(clips) if targets is None else list(targets)
    kept: list[str] = []
    rows: dict[str, list[FeatureFile]] = {name: [] for name in STREAMS}
    for key in clips.index:
        found = [valid_rows(Path(folder) / f"{key}.npz") for folder in (static_dir, dynamic_dir)]
        if None in found:
            log.warning("%s is left out: it has no rows in %s", key, list(STREAMS)[found.index(None)])
            continue
        kept.append(key)
        for name, file in zip(STREAMS, found, strict=True):
            rows[name].append(replace(file, features=getattr(reduction, name).transform(file.features)))
    if not kept:
        raise ValueError(
            f"clips must have rows in both streams, got none of {len(clips)} in {static_dir} and {dynamic_dir}. "
            "Run 03_static_extraction and 04_dynamic_extraction, and look at what they list as failed."
        )
    table = clips.loc[kept]
    return Aligned(
        **_padded("static", rows["static"]),
        **_padded("dynamic", rows["dynamic"]),
        labels=table[targets].to_numpy("float32"),
        clips=np.array(kept, dtype=str),
        sources=table["source"].to_numpy(str),
        splits=table["split"].to_numpy(str),
        targets=np.array(targets, dtype=str),
    )


def _padded(name: str, files: list[FeatureFile]) -> dict[str, np.ndarray]:
    """Arrays of one stream of reduced rows: features (N, T, D), mask and times (N, T)."""
    n, longest = len(files), max(len(file.features) for file in files)
    features = np.zeros((n, longest, files[0].features.shape[1]), "float32")
    mask, t_s = np.zeros((n, longest), bool), np.zeros((n, longest), "float32")
    for i, file in enumerate(files):
        k = len(file.features)
        features[i, :k], mask[i, :k], t_s[i, :k] = file.features, True, file.t_s
    return {f"{name}_features": features, f"{name}_mask": mask, f"{name}_t_s": t_s}


def nearest_motion(aligned: Aligned) -> np.ndarray:
    """Index of the motion token nearest in time to each face token, int (N, Ts); the earlier one of two."""
    motion_t_s = np.where(aligned.dynamic_mask, aligned.dynamic_t_s, np.inf)
    pairs = zip(aligned.static_t_s, motion_t_s, strict=True)  # of one clip at a time: all are gigabytes
    return np.stack([np.abs(face_s[:, None] - motion_s).argmin(1) for face_s, motion_s in pairs])


def pair_frames(aligned: Aligned) -> dict[str, np.ndarray]:
    """Pair each face row with the motion row of its time: one token per stream and P pairs.

    Returns:
        `static_features` (P, Ds), `dynamic_features` (P, Dd), `static_t_s`, `dynamic_t_s` (P,), `labels` (P, k),
        `clip` int (P,), the row of `clips` (N,) each pair belongs to, `targets` (k,).
    """
    clip, token = np.nonzero(aligned.static_mask)
    motion = nearest_motion(aligned)[clip, token]
    return {
        "static_features": aligned.static_features[clip, token],
        "dynamic_features": aligned.dynamic_features[clip, motion],
        "static_t_s": aligned.static_t_s[clip, token],
        "dynamic_t_s": aligned.dynamic_t_s[clip, motion],
        "clip": clip.astype("int32"),
        "labels": aligned.labels[clip],
        "clips": aligned.clips,
        "targets": aligned.targets,
    }


def with_synthetic_labels(aligned: Aligned, seed: int) -> Aligned:
    """Replace all labels by random ones in [0, 1], to try things without ratings; the result is stamped `synthetic`."""
    labels = np.random.default_rng(seed).uniform(0, 1, aligned.labels.shape).astype("float32")
    return replace(aligned, labels=labels, synthetic=True)


def write_aligned(folder: str | Path, aligned: Aligned, dtype: str = "float32", *, frames: bool = True) -> None:
    """Write the clip level, and with `frames` the frame level, as compressed npz; features as `dtype`."""
    folder = Path(folder)
    arrays = {f.name: getattr(aligned, f.name) for f in fields(aligned)}
    levels = {CLIPS_FILE: arrays} | ({FRAMES_FILE: pair_frames(aligned)} if frames else {})
    for file, level in levels.items():
        small = {k: v.astype(dtype) for k, v in level.items() if k.endswith("_features")}
        write_arrays(folder / file, **level | small)


def read_aligned(folder: str | Path) -> Aligned:
    """Read the clip level of an aligned folder; a missing or damaged file is an error that names it."""
    path = needs(Path(folder) / CLIPS_FILE, "05_alignment")
    arrays = read_arrays(path)
    expected = {f.name for f in fields(Aligned)}
    if set(arrays) != expected:
        odd = ", ".join(sorted(set(arrays) ^ expected))
        raise ValueError(f"{path} must hold the arrays of 05_alignment, got {odd} too few or too many. Run it again.")
    for name in STREAMS:
        arrays[f"{name}_features"] = arrays[f"{name}_features"].astype("float32")
    return Aligned(**arrays | {"synthetic": bool(arrays["synthetic"])})


def write_run(folder: str | Path, aligned: Aligned, reduction: Reduction) -> dict[str, Any]:
    """Write 05's folder: both levels, the reduction and the manifest, which is returned."""
    folder = Path(folder)
    (folder / "manifest.json").unlink(missing_ok=True)  # it must not vouch for arrays that are being replaced
    write_aligned(folder, aligned)
    write_reduction(folder / "reduction.npz", reduction)
    identity = reduction.extractors | {"reduction": reduction.identity}
    counts = {"clips": len(aligned), "rated": int(aligned.rated.sum())}
    return write_manifest(folder, "aligned", identity, **counts)
