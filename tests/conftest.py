"""Fixtures of several test files."""

import os
import tempfile

import matplotlib as mpl

mpl.use("Agg")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="workbook-cache-")  # which decoder this machine should use

import matplotlib.pyplot as plt
import pytest
from chromium import page  # noqa: F401
from layout import make_clips

from helpers import plots


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
