"""Fixtures of several test files."""

import os
import shutil
import tempfile

import matplotlib as mpl

mpl.use("Agg")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="workbook-cache-")  # which decoder this machine should use

import matplotlib.pyplot as plt
import numpy as np
import pytest
from chromium import page  # noqa: F401
from layout import make_clips

from helpers import plots
from helpers.align import read_aligned
from helpers.clips import TRAITS
from helpers.feature_quality import write_training_tokens
from helpers.files import ROOT, read_json, write_json
from helpers.model import CompletePersonalityModel


@pytest.fixture
def figures():
    """The workbook's style while a test draws; its figures are closed behind it."""
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture
def folder(tmp_path):
    """Three clips in the challenge's layout: two of one source in train, one of another in test."""
    return make_clips(
        tmp_path / "Daten für uns",
        "training80_01/-AmMDnVl4s8.003.mp4",
        "training80_01/-AmMDnVl4s8.004.mp4",
        "test80_02/_plk5k7PBEg.001.mp4",
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A model folder with an untrained network behind the shipped reduction."""
    folder, data = tmp_path_factory.mktemp("model"), ROOT / "data_sample" / "tokens"
    identity = read_json(data / "manifest.json")["identity"]
    CompletePersonalityModel(64, 32).save(folder / "model.keras")
    shutil.copy(data / "reduction.npz", folder)
    card = {
        "targets": list(TRAITS),
        "constant": dict.fromkeys(TRAITS, 0.5),
        "interval_half_width": dict.fromkeys(TRAITS, 0.2),
        "warnings": ["the networks have random weights"],
        "extractors": {name: identity[name] for name in ("static", "dynamic")},
    }
    write_json(folder / "card.json", card)
    bank = read_aligned(data)
    write_training_tokens(folder / "training_tokens.npz", bank.take(np.arange(100)), bank.take(np.arange(100, 160)))
    return folder
