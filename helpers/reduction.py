"""Fewer channels per row: groups of channels, or principal components, made once and used for every clip.

In: rows (n, D) of a stream. Out: rows (n, d) in the same order. What was fitted says on which clips.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from helpers.clips import targets_of
from helpers.config import AlignmentConfig
from helpers.files import differences, resolve
from helpers.splits import split_clips
from helpers.store import STREAMS, read_arrays, read_manifest, valid_rows, write_arrays

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

    def arrays(self) -> dict[str, np.ndarray]:
        return {"method": np.array("groups"), "n_in": np.array(self.n_in), "n_out": np.array(self.n_out)}


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

    def arrays(self) -> dict[str, np.ndarray]:
        return {"method": np.array("pca"), "mean": self.mean, "gain": self.gain, "components": self.components}


def _check_width(n_out: int, most: int) -> None:
    if not 0 < n_out <= most:
        raise ValueError(
            f"n_out must be 1 to {most}, the number of channels or of rows, got {n_out}. Lower static_dim or "
            "dynamic_dim, take more clips, or reduction='none'."
        )


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

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What a manifest says of it: per stream method, widths and sha256 of its numbers."""
        said = {}
        for name in STREAMS:
            method, digest = getattr(self, name), hashlib.sha256()
            for key, array in sorted(method.arrays().items()):
                digest.update(key.encode() + str(array.dtype).encode() + array.tobytes())
            widths = {"n_in": method.n_in, "n_out": method.n_out}
            said[name] = {"method": str(method.arrays()["method"]), **widths, "sha256": digest.hexdigest()}
        return said


def write_reduction(path: str | Path, reduction: Reduction) -> None:
    """Write a reduction as npz, atomically."""
    arrays = {f"{name}_{key}": value for name in STREAMS for key, value in getattr(reduction, name).arrays().items()}
    extractors = json.dumps(reduction.extractors, sort_keys=True)
    write_arrays(path, **arrays, extractors=extractors, fitted_on=np.array(reduction.fitted_on, dtype=str))


def read_reduction(path: str | Path) -> Reduction:
    """Read a reduction; a damaged file is a ValueError that names it."""
    arrays, methods = read_arrays(path), []
    try:
        for name in STREAMS:
            of = {key.removeprefix(f"{name}_"): value for key, value in arrays.items()}
            groups = str(of["method"]) == "groups"
            methods.append(
                ChannelGroups(int(of["n_in"]), int(of["n_out"]))
                if groups
                else Pca(of["mean"], of["gain"], of["components"])
            )
        return Reduction(*methods, json.loads(str(arrays["extractors"])), tuple(arrays["fitted_on"].tolist()))
    except KeyError as error:
        raise ValueError(f"{path} is not a reduction: {error} is missing. Run 05_alignment again.") from None


def choose_reduction(cfg: AlignmentConfig, clips: pd.DataFrame) -> tuple[Reduction, str]:
    """Make or take the reduction that `cfg.reduction` names, for the rows in `cfg.out`, and say which it is and why.

    "auto" is the token bank's reduction where the bank was made like these rows, else groups. `clips`: index key;
    columns source, split and ratings; components are fitted on training clips only.
    """
    extractors = {name: read_manifest(cfg.out / name, made_by)["identity"] for name, made_by in STREAMS.items()}
    widths = {"static": cfg.static_dim, "dynamic": cfg.dynamic_dim}
    if cfg.reduction == "pca":
        train = _training_clips(cfg, clips)
        methods = [Pca.fit(gather_rows(train, cfg.out / name), widths[name], seed=cfg.seed) for name in STREAMS]
        return Reduction(*methods, extractors, tuple(train)), f"principal components of {len(train)} training clips"
    bank, why = _bank_reduction(cfg, extractors) if cfg.reduction == "auto" else (None, "")
    if bank:
        return bank, "components of the token bank, which was made with the same parameters and weights"
    methods = []
    for name in STREAMS:
        n_in = next(_rows(clips.index, cfg.out / name)).shape[1]
        narrow = {"none": n_in, "auto": min(n_in, widths[name])}
        methods.append(ChannelGroups(n_in, narrow.get(cfg.reduction, widths[name])))
    whole = all(method.n_in == method.n_out for method in methods)
    return Reduction(*methods, extractors), f"{'all channels' if whole else 'means of neighbouring channels'}{why}"


def _bank_reduction(cfg: AlignmentConfig, extractors: dict[str, Any]) -> tuple[Reduction | None, str]:
    """The token bank's reduction if the bank was made like these rows; otherwise why not."""
    path = resolve(cfg.bank_dir) / "reduction.npz"
    if not path.exists():
        return None, f" ({cfg.bank_dir} holds no token bank)"
    bank = read_reduction(path)
    if not (found := differences(extractors, bank.extractors)):
        return bank, ""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return None, f" (the token bank was made differently: {'; '.join(found[:3])}{more})"


def gather_rows(clips: Iterable[str], folder: str | Path) -> np.ndarray:
    """All valid rows of some clips, float32 (n, D), to fit a reduction on."""
    return np.concatenate(list(_rows(clips, Path(folder))))


def _rows(clips: Iterable[str], folder: Path) -> Iterator[np.ndarray]:
    """The valid rows of each clip that has any; ValueError when none has."""
    some = False
    for key in clips:
        if rows := valid_rows(folder / f"{key}.npz"):
            some = True
            yield rows.features
    if not some:
        raise ValueError(f"{folder} must hold rows of the clips, got none. Run its notebook first.")


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
    decisive = (*STREAMS, "reduction")
    ours, theirs = ({k: m["identity"].get(k, {}) for k in decisive} for m in (run_manifest, bank_manifest))
    return differences(ours, theirs)
