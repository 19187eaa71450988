"""Where a model's errors lie: calibration, correlations between traits, clip length, sources.

In: predictions of one model on held-out clips, columns clip, source, trait, truth, prediction (`predictions.csv` of
one model, one or more seeds). Out: tables for `plots.errors`. Rows without a rating are left out.
"""

import numpy as np
import pandas as pd

from helpers.align import Aligned


def calibration(predictions: pd.DataFrame, n_bins: int = 5) -> pd.DataFrame:
    """Mean prediction and mean truth in parts of equal size by prediction; the two are equal for a calibrated model.

    Returns:
        Columns trait, bin (0 is the lowest), prediction, truth (means), clips; and `slope`, of truth on prediction over
        all clips of the trait: 1 when calibrated, below 1 when predictions are spread too far.
    """
    rated = predictions.dropna(subset=["truth"])
    parts = []
    for trait, rows in rated.groupby("trait", sort=False):
        rank = rows["prediction"].rank(method="first")
        bins = pd.qcut(rank, min(n_bins, len(rows)), labels=False).rename("bin")
        means = rows.groupby(bins)[["prediction", "truth"]].mean()
        spread = rows["prediction"].var(ddof=0)
        slope = np.cov(rows["prediction"], rows["truth"], ddof=0)[0, 1] / spread if spread > 0 else np.nan
        parts.append(means.assign(clips=bins.value_counts(), trait=trait, slope=slope).reset_index())
    return pd.concat(parts, ignore_index=True)[["trait", "bin", "prediction", "truth", "clips", "slope"]]


def trait_correlations(predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pearson correlations between traits over clips, of the truth and of the predictions, (k, k) each.

    A model that predicts one general impression correlates traits more than their ratings do.
    """
    order = predictions["trait"].drop_duplicates()
    rated = predictions.dropna(subset=["truth"]).drop_duplicates(["clip", "trait"])
    wide = rated.pivot(index="clip", columns="trait", values=["truth", "prediction"])
    return wide["truth"][order].corr(), wide["prediction"][order].corr()


def clip_lengths(aligned: Aligned) -> pd.Series:
    """Time of each clip's last token in seconds, index clip."""
    last = [
        np.where(getattr(aligned, f"{s}_mask"), getattr(aligned, f"{s}_t_s"), 0).max(1) for s in ("static", "dynamic")
    ]
    return pd.Series(np.maximum(*last), index=pd.Index(aligned.clips, name="clip"), name="length_s")


def errors_by_length(predictions: pd.DataFrame, lengths_s: pd.Series, n_bins: int = 4) -> pd.DataFrame:
    """Mean absolute and mean signed error by clip length, in parts of about equal size; equal lengths stay together.

    Returns:
        Columns length_s (the median of the part), mae, bias, clips; one row where all clips are equally long.
    """
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(length_s=rows["clip"].map(lengths_s), error=rows["prediction"] - rows["truth"])
    edges = np.unique(np.quantile(rows["length_s"], np.linspace(0, 1, n_bins + 1)))
    part = np.clip(np.searchsorted(edges, rows["length_s"], side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = rows.groupby(part)
    return pd.DataFrame(
        {
            "length_s": groups["length_s"].median(),
            "mae": groups["error"].agg(lambda e: e.abs().mean()),
            "bias": groups["error"].mean(),
            "clips": groups["clip"].nunique(),
        }
    ).reset_index(drop=True)


def errors_by_source(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute and mean signed error of each source, worst first: index source, columns mae, bias, clips."""
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(error=rows["prediction"] - rows["truth"])
    groups = rows.groupby("source")
    table = pd.DataFrame(
        {
            "mae": groups["error"].agg(lambda e: e.abs().mean()),
            "bias": groups["error"].mean(),
            "clips": groups["clip"].nunique(),
        }
    )
    return table.sort_values("mae", ascending=False)
