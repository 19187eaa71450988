"""One table of models from one call: trained, scored, compared with each other, written.

In: an aligned folder with ratings (a token bank, or `aligned/` of a run) and the parameters of the training. Out:
`training/training.json`, `predictions.csv` and `models.csv`, one row per model with paired intervals.

What the attention maps of several models are worth, measured on clips with planted events.

In: trained models of a table and the bank they were trained on, which must have been drawn. Out: per model how much
information its map carries, whether that lies where something was planted, and the same for occlusion. A map is
evidence when it does and the map of its control, trained on shuffled motion, does not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.attention import get_attention_weights
from helpers.config import TrainingConfig
from helpers.evidence import event_rows, occlusion_pointing, planted_windows
from helpers.files import replacing
from helpers.report import verdicts
from helpers.training.architecture import compare_architectures, own_architectures
from helpers.training.experiment import run_table
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import (
    ABLATIONS,
    SHUFFLED_MODEL,
    TOKEN_MODEL,
    VARIANTS,
    chosen_models,
    model_inputs,
    variant_of,
)

ONE_TOKEN_MODEL = "one_token_cross_attention"
EVENT_TRAIT = "agreeableness"  # planted in drawn clips as an event in time


def compare_models_of(folder: str | Path, cfg: TrainingConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the models that `cfg.models` names on the clips of a folder, and write the table below `cfg.out`.

    Returns:
        The table as `table_of` makes it, with the columns of `architecture.compare_architectures` and, for drawn clips,
        of `map_evidence.evidence_table`; and what `training.json` holds.
    """
    folder = Path(folder).resolve()
    data = TrainingData(folder, None, f"the clips of {folder.name}")
    found = run_table(data, cfg)
    networks = own_architectures(rated_clips(data), cfg, list(found["models"]))
    table = table_of(found).join(compare_architectures(networks)).join(evidence_table(data, cfg, EVENT_TRAIT))
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
    if "occlusion" in table:
        for column in ("occlusion", "map_nats", "map_share", "map_pointing"):
            shown[column] = ["" if pd.isna(value) else f"{value:.2f}" for value in table[column]]
    return shown.rename_axis("test R²").to_string()


def sizes_as_text(table: pd.DataFrame) -> str:
    """How the networks of the table differ in size, for a terminal."""
    sizes = table[["parameters", "trainable", "layers"]].dropna().astype(int)
    return sizes.assign(Mflop=(table["flops"] / 1e6).map("{:.2f}".format)).to_string()


def row_information(attention: np.ndarray, static_mask: np.ndarray, dynamic_mask: np.ndarray) -> np.ndarray:
    """Information of each face token's row over looking everywhere alike: KL(row || uniform) in nats.

    Args:
        attention: (B, heads, Ts, Td).
        static_mask, dynamic_mask: bool (B, Ts), (B, Td).

    Returns:
        Mean over heads, (B, Ts); 0 where the mask is False. At most the logarithm of the number of motion tokens.
    """
    n_tokens = dynamic_mask.sum(1)[:, None, None]
    nats = (attention * np.log(np.maximum(attention, 1e-12))).sum(-1) + np.log(n_tokens)  # (B, heads, Ts)
    return np.clip(nats, 0, None).mean(1) * static_mask


def map_evidence(attention: np.ndarray, clips: Aligned, events: np.ndarray) -> dict[str, float]:
    """Measure whether a map's information lies in the rows of planted events.

    Args:
        attention: Of these clips, (N, heads, Ts, Td).
        clips: N clips.
        events: See `event_rows`, (N, Ts).

    Returns:
        `map_nats` (mean information per row), `map_share` (mean over clips of the share of it in event rows),
        `map_pointing` (share of clips whose most informative row is one), `map_chance` (mean share of event rows).
    """
    nats = row_information(attention, clips.static_mask, clips.dynamic_mask)
    total = nats.sum(1)
    share = np.divide((nats * events).sum(1), total, out=np.zeros_like(total), where=total > 0)
    return {
        "map_nats": float(total.sum() / clips.static_mask.sum()),
        "map_share": float(share.mean()),
        "map_pointing": float(events[np.arange(len(nats)), nats.argmax(1)].mean()),
        "map_chance": float((events.sum(1) / clips.static_mask.sum(1)).mean()),
    }


def evidence_table(data: TrainingData, cfg: TrainingConfig, trait: str) -> pd.DataFrame:
    """Measure every trained model that has an attention map over time, on its test clips.

    Args:
        data: What the models were trained on.
        cfg: As the training; `cfg.out` holds the trained models.
        trait: The target whose cue is an event in time.

    Returns:
        Index model; `occlusion`, `occlusion_chance` (see `planted.pointing`) and those of `map_evidence`, means over
        seeds. Empty when the clips were not drawn, or nobody rated the trait.
    """
    bank = rated_clips(data)
    inside, events = planted_windows(data.folder, bank), event_rows(data.folder, bank)
    if inside is None or trait not in bank.targets:
        return pd.DataFrame()
    rows = {}
    for name in chosen_models(cfg.models):
        variant = variant_of(name)
        if variant.network != "cross_attention" or variant.inputs not in ("tokens", "shuffled"):
            continue
        seeds = []
        for seed in cfg.seeds:
            occlusion, chance = occlusion_pointing(name, bank, inside, cfg, seed, trait)
            test = split_of(bank, cfg, seed) == "test"
            inputs = {key: values[test] for key, values in model_inputs(name, bank, seed).items()}
            attention = get_attention_weights(load_trained(cfg, name, seed), inputs)
            of_map = map_evidence(attention, bank.take(test), events[test])
            seeds.append({"occlusion": occlusion, "occlusion_chance": chance} | of_map)
        rows[name] = pd.DataFrame(seeds).mean()
    return pd.DataFrame(rows).T.rename_axis("model")
