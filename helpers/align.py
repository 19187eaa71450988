"""Both streams and the ratings of every clip in one set of arrays, joined by key and never by position.

In: the feature files of 03 and 04 (rows per clip), the table of clips with ratings. Out: `Aligned`, padded token
sequences (N, T, D) with masks and times, in `aligned_features_and_labels.npz`; the same as pairs of one face row and
the motion row of its time in `aligned_frames.npz`. On the way rows (n, D) get fewer channels by a `Reduction`: groups
of channels, or principal components, made once and used for every clip; it says on which clips it was fitted.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from helpers.clips import targets_of
from helpers.config import AlignmentConfig
from helpers.files import differences, needs, resolve
from helpers.splits import split_clips
from helpers.store import STREAMS, FeatureFile, read_arrays, read_manifest, valid_rows, write_arrays, write_manifest

log = logging.getLogger(__name__)

CLIPS_FILE, FRAMES_FILE = "aligned_features_and_labels.npz", "aligned_frames.npz"
EQUAL = 1e-6  # share of a channel's size within which two values count as equal: ten roundings of float32
FIRST_SD = 3.0  # standard deviation of the first component: the size at which the fusion model was tried


def varying(rows: np.ndarray) -> np.ndarray:
    """Whether each channel of rows (n, D) varies by more than rounding, bool (D,)."""
    return rows.std(axis=0) > EQUAL * np.abs(rows).max(axis=0, initial=0)


@dataclass(frozen=True)
class ChannelGroups:
    """Mean of groups of adjacent channels, all of n_in // n_out of them or one more: nothing is fitted."""

    n_in: int
    n_out: int

    def __post_init__(self):
        _check_width(self.n_out, self.n_in)

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Reduce rows (n, n_in) to float32 (n, n_out)."""
        edges = np.arange(self.n_out) * self.n_in // self.n_out
        sizes = np.diff(edges, append=self.n_in)
        return np.add.reduceat(_checked(rows, self.n_in), edges, axis=1) / sizes.astype("float32")


@dataclass(frozen=True)
class Pca:
    """Standardise, then project on principal components: one common scale, the first component with sd `FIRST_SD`.

    `mean` float32 (n_in,); `gain` float32 (n_in,), 1 / sd, 0 for a channel that does not vary; `components` float16
    (n_in, n_out), scaled.
    """

    mean: np.ndarray
    gain: np.ndarray
    components: np.ndarray
    n_in = property(lambda self: self.components.shape[0])
    n_out = property(lambda self: self.components.shape[1])

    @classmethod
    def fit(cls, rows: np.ndarray, n_out: int, *, seed: int = 0) -> "Pca":
        """Fit on rows (n, n_in) of training clips; ValueError for equal rows, or fewer rows or channels than n_out."""
        _check_width(n_out, min(rows.shape))
        if not varying(rows).any():
            raise ValueError(f"rows must differ to have components, got {len(rows)} equal ones. Reduce otherwise.")
        mean, sd = (x.astype("float32") for x in (rows.mean(0, dtype="float64"), rows.std(0, dtype="float64")))
        gain = np.where(sd > 1e-7 * sd.max(), 1 / np.maximum(sd, 1e-30), 0).astype("float32")
        pca = PCA(n_out, svd_solver="randomized", iterated_power=2, random_state=seed).fit((rows - mean) * gain)
        components = pca.components_.T * (FIRST_SD / np.sqrt(pca.explained_variance_[0]))
        return cls(mean, gain, components.astype("float16"))

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Reduce rows (n, n_in) to float32 (n, n_out)."""
        return (_checked(rows, self.n_in) - self.mean) * self.gain @ self.components.astype("float32")


METHODS = {"groups": ChannelGroups, "pca": Pca}


def _check_width(n_out: int, most: int) -> None:
    if not 0 < n_out <= most:
        must = f"n_out must be 1 to {most}, the number of channels or of rows, got {n_out}"
        raise ValueError(f"{must}. Lower static_dim or dynamic_dim, take more clips, or reduction='none'.")


def _checked(rows: np.ndarray, n_in: int) -> np.ndarray:
    if rows.ndim != 2 or rows.shape[1] != n_in:
        must = f"rows must have shape (n, {n_in}) for this reduction, got {rows.shape}"
        raise ValueError(f"{must}. Take the reduction that was made with these features.")
    return rows.astype("float32")


@dataclass(frozen=True)
class Reduction:
    """The methods of both streams; `extractors`, {"static": identity, "dynamic": identity} of the stages that it was
    made for; and `fitted_on`, keys of clips: none of them may be a validation or test clip.
    """

    static: ChannelGroups | Pca
    dynamic: ChannelGroups | Pca
    extractors: dict[str, Any]
    fitted_on: tuple[str, ...] = ()

    def check(self, extractors: dict[str, Any]) -> None:
        """Raise ValueError with the differences when rows come from other extractors than this was made for."""
        if found := differences(extractors, self.extractors):
            raise ValueError(
                f"the reduction was made for other features: {'; '.join(found)}. Make features with the same "
                "parameters and weights, or align with another reduction."
            )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The method of a stream: its name and its numbers."""
        method = getattr(self, name)
        (kind,) = (kind for kind, of in METHODS.items() if isinstance(method, of))
        return {"method": np.array(kind)} | {key: np.asarray(value) for key, value in vars(method).items()}

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What a manifest says of it: per stream method, widths and sha256 of its numbers."""
        said = {}
        for name in STREAMS:
            arrays, digest = self.arrays(name), hashlib.sha256()
            for key, array in sorted(arrays.items()):
                digest.update(key.encode() + str(array.dtype).encode() + array.tobytes())
            widths = {width: getattr(getattr(self, name), width) for width in ("n_in", "n_out")}
            said[name] = {"method": str(arrays["method"]), **widths, "sha256": digest.hexdigest()}
        return said


def write_reduction(path: str | Path, reduction: Reduction) -> None:
    """Write a reduction as npz, atomically."""
    arrays = {f"{name}_{key}": value for name in STREAMS for key, value in reduction.arrays(name).items()}
    extractors = json.dumps(reduction.extractors, sort_keys=True)
    write_arrays(path, **arrays, extractors=extractors, fitted_on=np.array(reduction.fitted_on, dtype=str))


def read_reduction(path: str | Path) -> Reduction:
    """Read a reduction; a damaged file is a ValueError that names it."""
    arrays, methods = read_arrays(path), []
    try:
        for name in STREAMS:
            of = {key.removeprefix(f"{name}_"): value for key, value in arrays.items() if key.startswith(name)}
            kind = METHODS[str(of.pop("method"))]
            methods.append(kind(**{key: value if value.ndim else value.item() for key, value in of.items()}))
        return Reduction(*methods, json.loads(str(arrays["extractors"])), tuple(arrays["fitted_on"].tolist()))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a reduction ({error}). Run 05_alignment again.") from None


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

    `clips`: index key; columns source, split and one per target (NaN = unrated); `targets`, default all, become the
    `labels` in this order. `static_dir`, `dynamic_dir`: folders of the feature files of 03 and 04. ValueError where no
    clip has both streams, or a file holds rows of another width.
    """
    targets = targets_of(clips) if targets is None else list(targets)
    found = {key: _rows_of(key, {"static": static_dir, "dynamic": dynamic_dir}, reduction) for key in clips.index}
    rows = {key: of_clip for key, of_clip in found.items() if of_clip}
    if not rows:
        raise ValueError(
            f"clips must have rows in both streams, got none of {len(clips)} in {static_dir} and {dynamic_dir}. "
            "Run 03_static_extraction and 04_dynamic_extraction, and look at what they list as failed."
        )
    table = clips.loc[list(rows)]
    return Aligned(
        **_padded("static", [of_clip["static"] for of_clip in rows.values()]),
        **_padded("dynamic", [of_clip["dynamic"] for of_clip in rows.values()]),
        labels=table[targets].to_numpy("float32"),
        clips=np.array(list(rows), dtype=str),
        sources=table["source"].to_numpy(str),
        splits=table["split"].to_numpy(str),
        targets=np.array(targets, dtype=str),
    )


def _rows_of(key: str, folders: dict[str, str | Path], reduction: Reduction) -> dict[str, FeatureFile]:
    """The reduced rows of a clip by stream; empty, with a line in the log, where one has none."""
    rows = {}
    for name, folder in folders.items():
        if not (file := valid_rows(Path(folder) / f"{key}.npz")):
            log.warning("%s is left out: it has no rows in %s", key, name)
            return {}
        rows[name] = replace(file, features=getattr(reduction, name).transform(file.features))
    return rows


def _padded(name: str, files: list[FeatureFile]) -> dict[str, np.ndarray]:
    """Arrays of one stream of reduced rows: features (N, T, D), mask and times (N, T)."""
    lengths = np.array([len(file.valid) for file in files])
    mask = np.arange(lengths.max()) < lengths[:, None]
    features, t_s = np.zeros((*mask.shape, files[0].features.shape[1]), "float32"), np.zeros(mask.shape, "float32")
    for i, file in enumerate(files):
        features[i, mask[i]], t_s[i, mask[i]] = file.features, file.t_s
    return {f"{name}_features": features, f"{name}_mask": mask, f"{name}_t_s": t_s}


def nearest_motion(aligned: Aligned) -> np.ndarray:
    """Index of the motion token nearest in time to each face token, int (N, Ts); the earlier one of two."""
    nearest = np.zeros(aligned.static_mask.shape, int)
    for i, mask in enumerate(aligned.dynamic_mask):
        places = np.flatnonzero(mask)
        motion_s = aligned.dynamic_t_s[i, places].astype(float)
        nearest[i] = places[np.searchsorted((motion_s[1:] + motion_s[:-1]) / 2, aligned.static_t_s[i])]
    return nearest


def pair_frames(aligned: Aligned) -> dict[str, np.ndarray]:
    """Pair each face row with the motion row of its time: one token per stream and P pairs.

    Returns `static_features` (P, Ds), `dynamic_features` (P, Dd), `static_t_s`, `dynamic_t_s` (P,), `labels` (P, k),
    `clip` int (P,), the row of `clips` (N,) each pair belongs to, `targets` (k,).
    """
    clip, token = np.nonzero(aligned.static_mask)
    motion = nearest_motion(aligned)[clip, token]
    pairs = {"clip": clip.astype("int32"), "labels": aligned.labels[clip]}
    for part in ("features", "t_s"):
        pairs[f"static_{part}"] = getattr(aligned, f"static_{part}")[clip, token]
        pairs[f"dynamic_{part}"] = getattr(aligned, f"dynamic_{part}")[clip, motion]
    return pairs | {"clips": aligned.clips, "targets": aligned.targets}


def with_synthetic_labels(aligned: Aligned, seed: int) -> Aligned:
    """Replace all labels by random ones in [0, 1], to try things without ratings; the result is marked `synthetic`."""
    labels = np.random.default_rng(seed).uniform(0, 1, aligned.labels.shape).astype("float32")
    return replace(aligned, labels=labels, synthetic=True)


def write_aligned(folder: str | Path, aligned: Aligned, dtype: str = "float32") -> None:
    """Write the clip level as compressed npz; features as `dtype`."""
    features = {f"{name}_features": getattr(aligned, f"{name}_features").astype(dtype) for name in STREAMS}
    write_arrays(Path(folder) / CLIPS_FILE, **vars(aligned) | features)


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
    write_arrays(folder / FRAMES_FILE, **pair_frames(aligned))
    write_reduction(folder / "reduction.npz", reduction)
    identity = reduction.extractors | {"reduction": reduction.identity}
    counts = {"clips": len(aligned), "rated": int(aligned.rated.sum())}
    return write_manifest(folder, "aligned", identity, **counts)


def choose_reduction(cfg: AlignmentConfig, clips: pd.DataFrame) -> tuple[Reduction, str]:
    """Make or take the reduction that `cfg.reduction` names, for the rows in `cfg.out`, and say which it is and why.

    "auto" is the token bank's reduction where the bank was made like these rows, else groups. `clips`: index key;
    columns source, split and ratings; components are fitted on training clips only.
    """
    manifests = {name: read_manifest(cfg.out / name, made_by) for name, made_by in STREAMS.items()}
    extractors = {name: manifest["identity"] for name, manifest in manifests.items()}
    widths, methods = {"static": cfg.static_dim, "dynamic": cfg.dynamic_dim}, []
    if cfg.reduction == "pca":
        train = _training_clips(cfg, clips)
        methods = [Pca.fit(gather_rows(train, cfg.out / name), widths[name], seed=cfg.seed) for name in STREAMS]
        return Reduction(*methods, extractors, tuple(train)), f"principal components of {len(train)} training clips"
    bank, why = _reduction_of_bank(cfg, extractors) if cfg.reduction == "auto" else (None, "")
    if bank:
        return bank, why
    for name in STREAMS:
        if not (n_in := manifests[name]["counts"].get("feature_dim")):
            raise ValueError(f"{cfg.out / name} must hold rows of the clips, got none. Look at what failed there.")
        narrow = {"none": n_in, "auto": min(n_in, widths[name])}
        methods.append(ChannelGroups(n_in, narrow.get(cfg.reduction, widths[name])))
    whole = all(method.n_in == method.n_out for method in methods)
    return Reduction(*methods, extractors), f"{'all channels' if whole else 'means of neighbouring channels'}{why}"


def _reduction_of_bank(cfg: AlignmentConfig, extractors: dict[str, Any]) -> tuple[Reduction | None, str]:
    """The token bank's reduction, where it was made like these rows; what it is, or why it cannot be had."""
    path = resolve(cfg.bank_dir) / "reduction.npz"
    if not path.exists():
        return None, f" ({cfg.bank_dir} holds no token bank)"
    bank = read_reduction(path)
    if found := differences(extractors, bank.extractors):
        return None, f" (the token bank was made differently: {'; '.join(found[:3])}{', …' * (len(found) > 3)})"
    return bank, "components of the token bank, which was made with the same parameters and weights"


def gather_rows(clips: Iterable[str], folder: str | Path) -> np.ndarray:
    """All valid rows of some clips, float32 (n, D), to fit a reduction on."""
    found = [rows.features for key in clips if (rows := valid_rows(Path(folder) / f"{key}.npz"))]
    if not found:
        raise ValueError(f"{folder} must hold rows of the clips, got none. Run its notebook first.")
    return np.concatenate(found)


def _training_clips(cfg: AlignmentConfig, clips: pd.DataFrame) -> list[str]:
    """Keys of the training clips of `cfg.split`, among those that 06 will split: rated, with rows in both streams."""
    whole = [all(valid_rows(cfg.out / name / f"{key}.npz") for name in STREAMS) for key in clips.index]
    usable = clips[np.array(whole) & clips[targets_of(clips)].notna().any(axis=1)]
    shares = cfg.validation_share, cfg.test_share
    split = split_clips(usable.index, usable["source"], usable["split"], cfg.split, cfg.seed, *shares)
    return usable.index[split == "train"].tolist()


def bank_differences(bank_manifest: dict[str, Any], run_manifest: dict[str, Any]) -> list[str]:
    """Say in what the manifests of two aligned folders differ (`static.weights.source: 'pretrained' here, 'random'
    there`, here being the run); an empty list means they may be used together.
    """
    both = (run_manifest, bank_manifest)
    return differences(*({k: m["identity"].get(k, {}) for k in (*STREAMS, "reduction")} for m in both))
