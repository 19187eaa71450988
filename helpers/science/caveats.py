"""What has to be said with the scores of a video, so that nobody takes them for more than they are.

In: its `FaceTrack`, the model's output and card, how unlike the video is to the training clips. Out: sentences.
"""

from typing import Any

import numpy as np

from helpers.faces import FaceTrack
from helpers.reduction import STREAMS

LOW_COVERAGE = 0.7  # below it a score comes with a warning
MUCH_LONGER = 1.5  # than the longest training clip: said too
SHOWN_AS = {"static": "face", "dynamic": "motion"}


def caveats(
    track: FaceTrack, raw: np.ndarray, card: dict[str, Any], familiarity: dict[str, dict[str, Any]], n_motion: int
) -> list[str]:
    """List what weakens the scores of one video, the heaviest first.

    Args:
        track: Its face.
        raw: The model's output before it is cut to [0, 1], (k,).
        card: See `helpers.training.results.keep_model`; cards that were made earlier lack some entries.
        familiarity: By stream, see `helpers.science.familiar.Known.describe`; {} where nothing is known.
        n_motion: Number of motion tokens.
    """
    found = of_model(card)
    found += [_unlike(SHOWN_AS[name], of) for name, of in familiarity.items() if of["unlike"]]
    if not familiarity:
        found.append("how unlike the video is to the training clips is not known: the model folder is an older one")
    longest_s = card.get("training_length_s", np.inf)
    if track.n_frames / track.fps > MUCH_LONGER * longest_s:
        found.append(
            f"the video is {track.n_frames / track.fps:.0f} s long, the training clips at most {longest_s:.0f} s: the "
            "model has never attended over so long a time; cut the video into such pieces"
        )
    if track.coverage < LOW_COVERAGE:
        found.append(f"the face was found in only {track.coverage:.0%} of the looked-at frames")
    if track.n_faces_max > 1:
        found.append(f"up to {track.n_faces_max} faces in one frame: the largest one that stays was scored")
    if n_motion == 1:
        found.append("the video is so short that it has one stretch of motion: attention has nothing to choose from")
    if np.any((raw < 0) | (raw > 1)):
        found.append("a score was cut to [0, 1]")
    return found


def of_model(card: dict[str, Any]) -> list[str]:
    """What weakens every score of a model."""
    found = []
    if "random" in [card["extractors"][name]["weights"]["name"] for name in STREAMS]:
        found.append("the networks have random weights: these scores say nothing about a person")
    if card.get("drawn"):
        found.append("the model was trained on drawn clips: what it learned is about drawings, not about people")
    if card.get("synthetic_labels"):
        found.append("the ratings of the training clips were invented: no score of this model means anything")
    if card.get("split", {}).get("warning"):
        found.append(f"the model's own scores are too high: {card['split']['warning']}")
    return found


def _unlike(what: str, of: dict[str, Any]) -> str:
    return (
        f"the {what} is unlike the training clips: {of['distance']:.1f} times as far from their mean as they are, "
        f"the farthest of {of['held_out_clips']} held-out clips {of['farthest_held_out']:.1f} times; "
        "the interval does not hold for such a clip"
    )
