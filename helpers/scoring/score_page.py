"""The page about scored videos: a card for each, with what weakens its scores.

In: scores, the videos that failed, and the model that scored them. Out: one HTML file, see `helpers.page`. Its numbers
are those of `scores.as_records` and of the model folder's `card.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers import page
from helpers.clips import DISPLAY, LETTERS, TRAITS
from helpers.files import read_json
from helpers.plots import NEUTRAL, TRAIT_COLORS
from helpers.score import ClipScore, Scorer, of_model

BINS = 20  # of the training ratings' distribution
CARDS = 50  # videos with a card of their own: the pictures of more make a page too large for a phone
TICKS = 4  # parts of a time axis


def write_page(path: str | Path, scores: Sequence[ClipScore], failed: dict[str, str], scorer: Scorer) -> Path:
    """Write the page of some scores; videos beyond `CARDS` have a row in its table only.

    Args:
        path: The HTML file.
        scores: Of each video that could be scored.
        failed: Reason by name of each that could not.
        scorer: What scored them.
    """
    card = scorer.card
    shapes = {target: training_shares(card["training_quantiles"][target]) for target in card["targets"]}
    return page.write_page(
        path,
        "score_page.html.j2",
        scores=scores,
        of_model=[text for text in of_model(card) if scores],
        notes=[_notes(score, card) for score in scores],
        cards=[_card(score, _notes(score, card), shapes, _worth(card)) for score in scores[:CARDS]],
        letters=_letters(card["targets"]),
        failed=failed,
        card=card,
        model=str(scorer.folder),
        evidence=attention_evidence(scorer.folder),
    )


def training_shares(quantiles: Sequence[float], bins: int = BINS) -> np.ndarray:
    """Share of the training ratings in equal parts of [0, 1], from their quantiles at 0, 1/n, …, 1: (bins,), sum 1."""
    below = np.interp(np.linspace(0, 1, bins + 1), quantiles, np.linspace(0, 1, len(quantiles)))
    below[0], below[-1] = 0, 1
    return np.diff(below)


def attention_evidence(model_dir: Path) -> dict[str, Any] | None:
    """What 07 found out about the attention of this model, where its run is still around it; None otherwise."""
    path = model_dir.resolve().parent / "attention.json"
    return read_json(path) if path.exists() else None


def _letters(targets: Sequence[str]) -> dict[str, str]:
    return {target: dict(zip(TRAITS, LETTERS, strict=True)).get(target, target) for target in targets}


def _worth(card: dict[str, Any]) -> dict[str, float | None]:
    """R² of the model's own test clips by target; {} on cards without it."""
    r2 = card.get("metrics", {}).get("r2", {})
    return {target: r2[letter] for target, letter in _letters(card["targets"]).items() if letter in r2}


def _notes(score: ClipScore, card: dict[str, Any]) -> list[str]:
    """What is to be known about one video; what is true of all stands once on the page."""
    return [text for text in score.warnings if text not in of_model(card)]


def _card(
    score: ClipScore, notes: list[str], shapes: dict[str, np.ndarray], worth: dict[str, float | None]
) -> dict[str, Any]:
    """What the template draws of one video; places are percent of the drawing's width."""
    return {
        "score": score,
        "notes": notes,
        "rows": [
            {
                "target": target,
                "name": DISPLAY.get(target, target),
                "color": TRAIT_COLORS.get(target, NEUTRAL),
                "bars": (shapes[target] / shapes[target].max()).tolist(),
                "r2": worth.get(target),
            }
            for target in score.score
        ],
        "faces": [(t_s, page.data_address(content)) for t_s, content in zip(score.faces_t_s, score.faces, strict=True)],
        "parts": time_parts(score),
        "largest_effect": _largest_effect(score),
        "ticks": [score.duration_s * k / TICKS for k in range(TICKS + 1)],
    }


def _largest_effect(score: ClipScore) -> float:
    return max((abs(value) for values in score.effects.values() for value in values), default=0.0)


def time_parts(score: ClipScore) -> list[dict[str, Any]]:
    """The parts of a clip on its time axis.

    Returns:
        Per part `start_s`, `end_s`; `left`, `width` in percent of the clip; `share` of the attention and `uniform`, the
        share that looking everywhere alike would give; `height`, the share over the largest; `effects` by target, with
        `strength`, its size over the largest of the clip.
    """
    starts, ends = (np.array(side) for side in zip(*score.parts_s, strict=True))
    of_token = (np.searchsorted(starts, np.array(score.motion_t_s) + 1e-9, side="right") - 1).clip(0)
    share = np.bincount(of_token, weights=score.motion_share, minlength=len(starts))
    uniform = np.bincount(of_token, minlength=len(starts)) / len(of_token)
    largest = _largest_effect(score) or 1.0
    return [
        {
            "start_s": starts[k],
            "end_s": ends[k],
            "left": 100 * starts[k] / score.duration_s,
            "width": 100 * (min(ends[k], score.duration_s) - starts[k]) / score.duration_s,
            "share": share[k],
            "uniform": uniform[k],
            "height": share[k] / max(share.max(), uniform.max()),
            "uniform_height": uniform[k] / max(share.max(), uniform.max()),
            "effects": {
                target: {"value": values[k], "strength": abs(values[k]) / largest}
                for target, values in score.effects.items()
            },
        }
        for k in range(len(starts))
    ]
