"""Makes `data_sample/`: synthetic clips, and the bank of tokens of many more, by the path of notebooks 02 to 05.

In: seeds. Out: `tokens/`, an aligned folder like that of 05 (features as float16) with its reduction, the planted truth
and a manifest. The reduction is fitted on further clips whose sources are in neither the bank nor the shipped clips.
"""

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from data_sample.make.awkward import write_awkward
from data_sample.make.motion_sample import write_motion_sample
from data_sample.make.sample import sample_plan, sample_ratings, sample_truth, write_clip, write_sample
from helpers.align import (
    Aligned,
    Pca,
    Reduction,
    align_streams,
    gather_rows,
    read_reduction,
    write_aligned,
    write_reduction,
)
from helpers.clips import TRAITS, read_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips
from helpers.files import ROOT, replacing
from helpers.store import STREAMS, read_manifest, write_manifest

log = logging.getLogger(__name__)

BANK_SEED, BANK_CLIPS, BANK_CLIPS_PER_SOURCE = 1, 1000, 5
FIT_SEED, FIT_CLIPS, FIT_CLIPS_PER_SOURCE = 2, 200, 2
WIDTHS = {"static": 64, "dynamic": 32}


def write_shipped(out: str | Path, work: str | Path = ROOT / "results" / "bank") -> None:
    """Draw the shipped clips (rated, awkward, classes of motion) and make the token bank; started again, it goes on."""
    out = Path(out)
    write_sample(out, progress=True)
    write_awkward(out)
    write_motion_sample(out / "motion")
    write_bank(out / "tokens", work)
    write_shipped_tokens(out, work)


def write_shipped_tokens(data: str | Path, work: str | Path) -> Aligned:
    """Make the tokens of the rated clips of a data folder with its bank's reduction, into `tokens/shipped/`.

    A test extracts some of them again and compares: the path from a video to its tokens has then not changed.
    """
    data, work = Path(data).resolve(), Path(work).resolve() / "shipped"
    clips = read_clips(data).dropna()
    _extract(clips, data, work)
    reduction = read_reduction(data / "tokens" / "reduction.npz")
    aligned = align_streams(clips, work / "static", work / "dynamic", reduction)
    write_aligned(data / "tokens" / "shipped", compact(aligned), "float16")
    return aligned


def write_bank(
    out: str | Path, work: str | Path, *, n_clips: int = BANK_CLIPS, n_fit: int = FIT_CLIPS
) -> dict[str, Any]:
    """Make a token bank.

    Args:
        out: Folder of the bank.
        work: Folder for the clips and their features, about 90 MB for the shipped bank; kept for going on.
        n_clips: Clips in the bank.
        n_fit: Further clips of other sources, for the reduction.

    Returns:
        The bank's manifest.
    """
    work = Path(work).resolve()
    bank = sample_plan(n_clips, BANK_SEED, BANK_CLIPS_PER_SOURCE, splits=False)
    fit = sample_plan(n_fit, FIT_SEED, FIT_CLIPS_PER_SOURCE, splits=False)
    plan = pd.concat([fit, bank], ignore_index=True)
    rows = [row for _, row in plan.iterrows()]
    one_core_each = {"mp_context": get_context("spawn"), "initializer": cv2.setNumThreads, "initargs": (1,)}
    with ProcessPoolExecutor(**one_core_each) as pool:
        list(pool.map(partial(write_clip, work / "clips"), rows, chunksize=10))
    _extract(_clip_table(plan), work / "clips", work)
    reduction = _fit_reduction(fit["key"].tolist(), work)
    clips = _clip_table(bank).join(sample_ratings(bank))
    aligned = align_streams(clips, work / "static", work / "dynamic", reduction)
    if absent := n_clips - len(aligned):
        raise RuntimeError(f"{absent} of {n_clips} clips have no tokens; see the manifests in {work}.")
    return _write_folder(Path(out), aligned, reduction, bank)


def compact(aligned: Aligned) -> Aligned:
    """Round the features to 8 significant bits, so that they compress to two thirds; a new encoding moves them more."""

    def rounded(x: np.ndarray) -> np.ndarray:
        bits = x.astype("float16").view("uint16")
        return ((bits + np.uint16(4)) & np.uint16(0xFFF8)).view("float16").astype("float32")

    features = {f"{name}_features": rounded(getattr(aligned, f"{name}_features")) for name in STREAMS}
    return replace(aligned, **features)


def _clip_table(plan: pd.DataFrame) -> pd.DataFrame:
    """A plan as the table of clips that the extractors take."""
    return plan.assign(path=plan["key"] + ".mp4", split="").set_index("key")[["path", "source", "split"]]


def _extract(clips: pd.DataFrame, data: Path, work: Path) -> None:
    """Run 02, 03 and 04 at their defaults."""
    folders = {"data_dir": str(data), "out_dir": str(work)}
    prepare_clips(clips, PreparationConfig(**folders))
    extract_static(clips, StaticConfig(**folders))
    extract_dynamic(clips, DynamicConfig(**folders))


def _fit_reduction(keys: list[str], work: Path) -> Reduction:
    methods = [Pca.fit(gather_rows(keys, work / name), width) for name, width in WIDTHS.items()]
    extractors = {name: read_manifest(work / name, made_by)["identity"] for name, made_by in STREAMS.items()}
    return Reduction(*methods, extractors, tuple(keys))


def _write_folder(out: Path, aligned: Aligned, reduction: Reduction, bank: pd.DataFrame) -> dict[str, Any]:
    (out / "manifest.json").unlink(missing_ok=True)  # it must not vouch for arrays that are being replaced
    write_aligned(out, compact(aligned), "float16")
    write_reduction(out / "reduction.npz", reduction)
    truth = sample_truth(bank)[["key", *TRAITS, "warm_s", "cool_s", "window_s"]]
    with replacing(out / "truth.csv") as part:
        truth.to_csv(part, index=False, float_format="%.4f")
    identity = reduction.extractors | {"reduction": reduction.identity}
    counts = {"clips": len(aligned), "sources": int(bank["source"].nunique()), "fitted_on": len(reduction.fitted_on)}
    manifest = write_manifest(out, "aligned", identity, **counts)
    log.info("%d clips in %s", len(aligned), out)
    return manifest
