"""The gold check of I3D: the published sample clip must give the published logits.

In: a filled network, and the sample `v_CricketShot_g04_c01_{flow,rgb}.npy`, (1, 79, 224, 224, 2 or 3) in [-1, 1].
Out: norm of the logits, top-1 class, its logit and probability, beside what google-deepmind/kinetics-i3d printed. A
port that pads or normalises otherwise is off by 6 % and more, so the tolerance of 0.1 % tells it from rounding.
"""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from helpers import i3d
from helpers.checkpoints.published import SAMPLES, WEIGHTS
from helpers.checkpoints.records import git_blob_id
from helpers.files import weights_folder

CRICKET = 227  # "playing cricket", counted from 0 in data/label_map.txt
TOLERANCE = 1e-3  # of the norm and the logit, relative; of the probability, absolute


@dataclass(frozen=True)
class Gold:
    """Logits of a clip: their norm, the top-1 class (from 0), its logit and its probability in [0, 1]."""

    norm: float
    top: int
    logit: float
    probability: float

    def __str__(self) -> str:
        top = f"class {self.top}{' (playing cricket)' * (self.top == CRICKET)}"
        return f"norm {self.norm:.6f}, top-1 {top}, probability {self.probability:.6f}, logit {self.logit:.6f}"


# out/imagenet_{flow,rgb}.txt of 0667e88, and out/no_imagenet_{flow,rgb}.txt of its first commit, 6da69a3: later commits
# overwrote the latter with the former. Nothing is published for the weights of Kinetics-600.
PUBLISHED = {
    "i3d_flow_kinetics": Gold(63.252754, CRICKET, 15.957031, 0.94775660),
    "i3d_rgb_kinetics": Gold(87.108871, CRICKET, 25.856646, 0.9999968),
    "i3d_flow_kinetics_scratch": Gold(85.503799, CRICKET, 15.4269, 0.697696),
    "i3d_rgb_kinetics_scratch": Gold(87.217987, CRICKET, 19.4886, 0.996896),
}


def published_gold(name: str) -> Gold | None:
    """Return the published logits of a row of `WEIGHTS`; a Keras port with a classifier has those of its original."""
    return PUBLISHED.get(name.removesuffix("_h5"))


def sample_path(name: str) -> Path:
    """Where the sample for a row of I3D's lies."""
    stream = i3d.STREAMS[WEIGHTS[name].channels].lower()
    return weights_folder() / SAMPLES[f"i3d_{stream}_sample"].path


def read_sample(name: str) -> np.ndarray:
    """Read the sample for a row of I3D's, float32 (1, T, 224, 224, channels); ValueError if it is another file."""
    path, channels = sample_path(name), WEIGHTS[name].channels
    blob = SAMPLES[f"i3d_{i3d.STREAMS[channels].lower()}_sample"].files[0].git_blob
    if blob is not None and git_blob_id(path) != blob:
        raise ValueError(f"{path} must be the published sample, git blob {blob}, got another file. Fetch it again.")
    clip = np.load(path, allow_pickle=False)
    if clip.ndim != 5 or clip.shape[0] != 1 or clip.shape[2:] != (224, 224, channels):
        raise ValueError(f"{path} must have shape (1, T, 224, 224, {channels}), got {clip.shape}. Fetch it again.")
    return clip.astype(np.float32)


def measure(model: keras.Model, clip: np.ndarray) -> Gold:
    """Return what a whole network says of one clip, float32 (1, T, 224, 224, channels) in [-1, 1]."""
    logits = i3d.logits(model, clip)[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    top = int(logits.argmax())
    return Gold(float(np.linalg.norm(logits)), top, float(logits[top]), float(exponentials[top] / exponentials.sum()))


def agrees(found: Gold, published: Gold) -> bool:
    """Whether two are the same within `TOLERANCE`."""
    return (
        found.top == published.top
        and abs(found.norm / published.norm - 1) <= TOLERANCE
        and abs(found.logit / published.logit - 1) <= TOLERANCE
        and abs(found.probability - published.probability) <= TOLERANCE
    )
