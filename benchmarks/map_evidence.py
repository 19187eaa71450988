"""Is the attention map of a model evidence, where events in time were planted?

A map is evidence when its information lies in the rows of planted events, and that of its control, trained on shuffled
motion, does not. Beside it stands occlusion, and what chance would give.

    python -m helpers compare --out results/compare
    python -m benchmarks.map_evidence --run results/compare [--json FILE]
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, report
from helpers.align import Aligned
from helpers.attention import get_attention_weights, occlusion
from helpers.config import TrainingConfig
from helpers.evidence import column_of, held_out, planted_windows, window_starts
from helpers.experiment import TrainingData, load_run, rated_clips
from helpers.files import ROOT
from helpers.variants import chosen_models, variant_of

TRAIT = "agreeableness"  # planted as an event in time
COLUMNS = {
    **{"model": "{}", "occlusion": "{:.2f}", "occlusion_chance": "{:.2f}"},
    **dict.fromkeys(("map_nats", "map_share", "map_pointing", "map_chance"), "{:.2f}"),
}


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


def event_rows(folder: Path, aligned: Aligned) -> np.ndarray | None:
    """Say which face tokens were taken inside a planted light window, bool (N, Ts); None where nothing was planted."""
    found = window_starts(folder, aligned)
    if found is None:
        return None
    starts_s, window_s = found
    after = aligned.static_t_s[:, :, None] - starts_s[:, None]  # (N, Ts, windows)
    return ((after >= 0) & (after <= window_s[:, None, None])).any(-1) & aligned.static_mask


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


def of_model(name: str, data: TrainingData, cfg: TrainingConfig) -> dict[str, Any]:
    """The row of one model with an attention map over time: means over its seeds, on its test clips."""
    bank, rows = rated_clips(data), []
    inside = planted_windows(data.folder, bank)
    for seed in cfg.seeds:
        test = held_out(name, bank, inside, cfg, seed)
        inputs = test.clips.inputs()
        effects = occlusion(test.model, inputs, test.baseline)[..., column_of(bank, TRAIT)]
        found = map_evidence(get_attention_weights(test.model, inputs), test.clips, event_rows(data.folder, test.clips))
        rows.append({"occlusion": test.points(effects).mean(), "occlusion_chance": test.uniform()} | found)
    return {"model": name} | pd.DataFrame(rows).mean().to_dict()


def measure(options: Namespace) -> list[dict[str, Any]]:
    """A row per model of the run that has an attention map over time."""
    data, cfg = load_run(options.run.resolve(), options.bank.resolve())
    variants = {name: variant_of(name) for name in chosen_models(cfg.models)}
    mapped = [n for n, v in variants.items() if v.network == "cross_attention" and v.inputs in ("tokens", "shuffled")]
    return [of_model(name, data, cfg) for name in mapped]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run on synthetic clips")
    parser.add_argument("--bank", type=Path, default=ROOT / "data_sample" / "tokens", help="its token bank")
    options = parser.parse_args(argv)
    report(measure(options), COLUMNS, options)


if __name__ == "__main__":
    main()
