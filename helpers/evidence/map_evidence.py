"""What the attention maps of several models are worth, measured on clips with planted events.

In: trained models of a table and the bank they were trained on, which must have been drawn. Out: per model how much
information its map carries, whether that lies where something was planted, and the same for occlusion. A map is
evidence when it does and the map of its control, trained on shuffled motion, does not.
"""

import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.attention import get_attention_weights
from helpers.config import TrainingConfig
from helpers.evidence.planted import event_rows, planted_windows
from helpers.evidence.trial import occlusion_pointing
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import chosen_models, model_inputs, variant_of


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
