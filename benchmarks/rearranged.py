"""The run that `benchmarks.resume` kills: notebooks 02 to 04 with networks that only rearrange what they are given.

In: the table of clips of `data_sample`, and a folder. Out: in it, the three stages, with as many features per row as
ResNet-50 and I3D give.
"""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers import extract, faces
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.files import ROOT, stderr_into
from helpers.weights import Weights

DATA = ROOT / "data_sample"


def rearranged_crops(x: np.ndarray) -> np.ndarray:
    """A static network: the middle of crops (n, 64, 64, 3) as 2048 features, as many as ResNet-50 has."""
    return x[:, 16:48, 16:48, :2].reshape(len(x), -1)


def rearranged_flow(x: np.ndarray) -> np.ndarray:
    """A motion network that halves time: the middle of flows (n, T, 112, 112, 2) as 1024 channels."""
    return x[:, ::2, 40:72, 48:64].reshape(len(x), -1, 1, 1, 1024)


def extract_all(clips: pd.DataFrame, out: Path) -> None:
    """Run all three stages of some clips of `data_sample`, telling nobody."""
    tqdm.set_lock(threading.RLock())  # its own is a named semaphore, which a killed process leaves behind
    with stderr_into(os.devnull), patch.multiple(extract, **small_networks()):
        folders = {"data_dir": str(DATA), "out_dir": str(out), "workers": 1}
        faces.prepare_clips(clips, PreparationConfig(**folders, backend="pyav"))
        extract.extract_static(clips, StaticConfig(**folders))
        extract.extract_dynamic(clips, DynamicConfig(**folders))


def small_networks() -> dict[str, Any]:
    """What takes the place of the functions of `helpers.extract` that build and compile networks."""
    weights = Weights("rearranged", "none", "", "")
    backbone = SimpleNamespace(input_px=64, feature_dim=2048, prepare=None, weights=weights, model=rearranged_crops)
    return {
        "build_backbone": lambda name, weights_name: backbone,
        "build_motion_network": lambda weights_name, endpoint: (rearranged_flow, weights),
        "compile_forward": lambda network, precision, prepare=None: network,
    }
