"""One table of models from one call: trained, scored, compared with each other, written.

In: an aligned folder with ratings (a token bank, or `aligned/` of a run) and the parameters of the training. Out:
`training/training.json`, `predictions.csv` and `models.csv`, one row per model with paired intervals.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from helpers.config import TrainingConfig
from helpers.files import replacing
from helpers.report import verdicts
from helpers.training.architecture import compare_architectures, own_architectures
from helpers.training.experiment import run_table
from helpers.training.train import TrainingData, rated_clips
from helpers.training.variants import ABLATIONS, SHUFFLED_MODEL, TOKEN_MODEL, VARIANTS, variant_of

ONE_TOKEN_MODEL = "one_token_cross_attention"


def compare_models_of(folder: str | Path, cfg: TrainingConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the models that `cfg.models` names on the clips of a folder, and write the table below `cfg.out`.

    Returns:
        The table as `table_of` makes it, with the columns of `architecture.compare_architectures`; and what
        `training.json` holds.
    """
    folder = Path(folder).resolve()
    data = TrainingData(folder, None, f"the clips of {folder.name}")
    found = run_table(data, cfg)
    networks = own_architectures(rated_clips(data), cfg, list(found["models"]))
    table = table_of(found).join(compare_architectures(networks))
    with replacing(cfg.out / "models.csv") as part:
        table.to_csv(part, float_format="%.6g")
    return table, found


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Lay out `training.json` as one row per model.

    Returns:
        Index `model`; R² per target and their `mean`; `1-MAE`, `CCC`, `skill`; `over_constant`, `over_constant_low`,
        `over_constant_high`: mean R² minus the constant's, with the ends of its interval; `under_token`,
        `under_token_low`, `under_token_high`: the token model's mean R² minus the row's; `what`.
    """
    rows = {}
    for name in (name for name in VARIANTS | ABLATIONS if name in found["models"]):  # a JSON file has them by alphabet
        row = found["models"][name]
        rows[name] = row["r2"] | {
            "1-MAE": row["mean_accuracy"],
            "CCC": row["ccc"]["mean"],
            "skill": row["skill"]["mean"],
        }
    for comparison in found["comparisons"]:
        ends = {"": comparison["difference"], "_low": comparison["low"], "_high": comparison["high"]}
        if comparison["b"] == "constant":
            rows[comparison["a"]] |= {f"over_constant{end}": value for end, value in ends.items()}
        elif comparison["a"] == TOKEN_MODEL:
            rows[comparison["b"]] |= {f"under_token{end}": value for end, value in ends.items()}
    ends = [f"{side}{end}" for side in ("over_constant", "under_token") for end in ("", "_low", "_high")]
    table = pd.DataFrame.from_dict(rows, "index", dtype=float).rename_axis("model")
    table = table.reindex(columns=[*found["targets"], "mean", "1-MAE", "CCC", "skill", *ends])
    return table.assign(what=[variant_of(name).says for name in table.index])


def telling(found: dict[str, Any]) -> list[str]:
    """The few sentences of `training.json` that matter: what `report.verdicts` says, and what time and order are worth.

    The token model against the constant, against one token per stream, against its shuffled control, against its
    strongest rival; what is no better than a constant; groups that it serves otherwise.
    """
    pairs = {each["b"]: each["verdict"] for each in found["comparisons"] if each["a"] == TOKEN_MODEL}
    over_constant, *more = verdicts(found)
    controls = [pairs[name] for name in (ONE_TOKEN_MODEL, SHUFFLED_MODEL) if name in pairs]
    return list(dict.fromkeys([over_constant, *controls, *more]))  # a control may be the strongest rival


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: R² per target, 1-MAE, and both differences with their intervals."""
    targets = list(table.columns[: list(table.columns).index("1-MAE")])
    shown = table[[*targets, "1-MAE"]].map(lambda value: f"{value:.2f}")
    shown["1-MAE"] = table["1-MAE"].map("{:.3f}".format)
    for column, title in (("over_constant", "over the constant"), ("under_token", "token model over it")):
        ends = table[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False)
        shown[title] = ["" if pd.isna(d) else f"{d:+.2f} [{low:+.2f}, {high:+.2f}]" for d, low, high in ends]
    return shown.rename_axis("test R²").to_string()


def sizes_as_text(table: pd.DataFrame) -> str:
    """How the networks of the table differ in size, for a terminal."""
    sizes = table[["parameters", "trainable", "layers"]].dropna().astype(int)
    return sizes.assign(Mflop=(table["flops"] / 1e6).map("{:.2f}".format)).to_string()
