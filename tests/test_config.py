"""Parameters of the notebooks."""

import dataclasses
import pickle
import subprocess
import sys

import pytest

from helpers import config
from helpers.i3d import STAGES
from helpers.pipeline import NOT_DECISIVE

OF_00 = config.SetupConfig.from_notebook
OF_02, OF_04, OF_06 = config.PreparationConfig.checked, config.DynamicConfig.checked, config.TrainingConfig.checked


def notebook(kind, cell="", **changed):
    """What a notebook gives: its values, and what papermill injected."""
    return dataclasses.asdict(kind()) | {"In": ["", cell], "n_frames": 3} | changed


@pytest.mark.parametrize(
    ("checked", "values", "named"),
    [
        *[(OF_02, {"fps": fps}, "fps") for fps in ("15", True, 0, float("nan"))],
        (OF_02, {"progress": 1}, "progress"),
        (OF_02, {"backend": "decord"}, "'auto', 'pyav', 'opencv', 'cuda', .*'decord'"),
        (OF_02, {"data_dir": 3}, "data_dir"),
        (OF_02, {"fpz": 15.0}, "'fpz'.*out_dir, data_dir, backend, fps"),
        (OF_02, {"align_eyes": True}, "align_eyes"),
        *[(OF_06, {"seeds": seeds}, "seeds") for seeds in ([0, "1"], [-1], 3, [True])],
        (config.ScoreConfig.checked, {"video": []}, "video"),
        (OF_04, {"segment": 12}, "segment"),
        (OF_04, {"endpoint": ""}, "input_px"),
        (OF_00, {}, "out_dir"),
        (OF_00, notebook(config.SetupConfig, "# Parameters\nsise = 512\n", sise=512), "'sise'"),
    ],
)
def test_illegal_values_and_names_are_refused_by_name(checked, values, named):
    with pytest.raises(ValueError, match=named):
        checked(values)


def test_with_pretrained_weights_what_is_not_given_is_what_they_need():
    given, kind = {"weights": "pretrained", "stride": 16}, config.DynamicConfig
    for cfg in (kind(**given), kind.from_notebook(notebook(kind, **given))):
        assert (cfg.endpoint, cfg.input_px, cfg.flow, cfg.stride) == ("", 224, "dis_medium", 16)
    kept = kind(**given, endpoint="Mixed_3c", input_px=112)
    assert dataclasses.replace(kept, batch_size=1).input_px == 112
    cell = "# Parameters\nweights = 'pretrained'\nendpoint = 'Mixed_3c'\n"  # a default that papermill has injected
    assert kind.from_notebook(notebook(kind, cell, weights="pretrained")).endpoint == "Mixed_3c"


def test_what_decides_the_result_leaves_folders_and_speed_out():
    decisive = "backend fps detect_every min_coverage crop_scale detector min_face align_eyes max_gap_s"
    assert set(config.PreparationConfig().as_dict(without=NOT_DECISIVE)) == set(decisive.split())


def test_names_are_those_of_the_network_near_types_are_taken_and_unpickling_imports_no_checker():
    assert config.ENDPOINTS == STAGES
    assert type(config.PreparationConfig(fps=25).fps) is float
    assert config.TrainingConfig(seeds=(3, 4)).seeds == [3, 4]
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config.StaticConfig()), check=True)
