import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from drawn_features import write_drawn

from helpers.classification import models_folder, plan_jobs, train_all
from helpers.clip_features import features_folder, read_variants
from helpers.config import ClassificationConfig
from helpers.files import ROOT
from helpers.store import read_arrays

SMALL = {"scales": [1.0], "folds": 3, "n_models": 1, "units": 4, "epochs": 4, "workers": 1}
SCRIPT = """
import sys
from helpers.classification import train_all
from helpers.clip_features import features_folder, read_variants
from helpers.config import ClassificationConfig

cfg = ClassificationConfig.checked(eval(sys.argv[1]))
train_all(read_variants(cfg), cfg)
"""


def drawn_run(folder):
    cfg = ClassificationConfig(out_dir=str(folder), **SMALL)
    write_drawn(features_folder(cfg), 6, view01=0.3, noise=1.0)
    return cfg, read_variants(cfg)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    cfg, clips = drawn_run(tmp_path_factory.mktemp("whole"))
    return cfg, clips, train_all(clips, cfg)


def results(cfg):
    return {path.name: read_arrays(path) for path in sorted(models_folder(cfg).glob("[!.]*.npz"))}


def test_every_training_leaves_the_probabilities_of_its_test_clips_in_every_variant(whole):
    cfg, clips, jobs = whole
    assert len(jobs) == 9  # bag, bilstm, bilstm_augmented in 3 folds each
    for name, arrays in results(cfg).items():
        assert {"p_plain", "p_noise", "test", "stamp"} <= set(arrays), name
        assert arrays["p_noise"].shape == (6, 3)
        assert (models_folder(cfg) / name).with_suffix(".keras").exists() != name.startswith("bag")
    assert plan_jobs(clips, cfg) == jobs


def test_a_run_that_is_killed_and_started_again_gives_the_same(whole, tmp_path):
    cfg, clips = drawn_run(tmp_path)
    values = repr(SMALL | {"out_dir": str(tmp_path)})
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, values], cwd=ROOT)
    deadline = time.monotonic() + 300
    while len(results(cfg)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL) if os.name != "nt" else process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in models_folder(cfg).glob("[!.]*.npz")}
    assert 2 <= len(before) < 9
    train_all(clips, cfg)
    kept = {name for name, time_ns in before.items() if (models_folder(cfg) / name).stat().st_mtime_ns == time_ns}
    assert kept == set(before)
    expected = results(whole[0])
    for name, arrays in results(cfg).items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, expected[name][key], err_msg=f"{name}, {key}")


def test_what_is_done_is_not_done_again_unless_the_features_changed(whole, monkeypatch):
    cfg, clips, jobs = whole

    def refuse(*_, **__):
        raise AssertionError("a training was started")

    monkeypatch.setattr("helpers.classification.ClipPool", refuse)
    assert train_all(clips, cfg) == jobs
    with pytest.raises(AssertionError, match="started"):
        train_all(clips, ClassificationConfig(out_dir=cfg.out_dir, **SMALL | {"epochs": 5}))
