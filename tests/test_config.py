"""Parameters of the notebooks."""

import dataclasses
import pickle
import subprocess
import sys

import pytest

from helpers import config
from helpers.i3d import STAGES
from helpers.pipeline import NOT_DECISIVE


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        *[(config.PreparationConfig, {"fps": fps}, "fps") for fps in ("15", True, 0, float("nan"))],
        (config.PreparationConfig, {"progress": 1}, "progress"),
        (config.PreparationConfig, {"backend": "decord"}, "'auto', 'pyav', 'opencv', 'cuda', .*'decord'"),
        (config.PreparationConfig, {"data_dir": 3}, "data_dir"),
        (config.PreparationConfig, {"fpz": 15.0}, "'fpz'.*out_dir, data_dir, backend, fps"),
        (config.PreparationConfig, {"align_eyes": True}, "align_eyes"),
        *[(config.TrainingConfig, {"seeds": seeds}, "seeds") for seeds in ([0, "1"], [-1], 3, [True])],
        (config.ScoreConfig, {"video": []}, "video"),
        (config.DynamicConfig, {"segment": 12}, "segment"),
        (config.DynamicConfig, {"endpoint": ""}, "input_px"),
    ],
)
def test_illegal_values_are_refused_by_name(kind, values, named):
    with pytest.raises(ValueError, match=named):
        kind.checked(values)


def test_a_notebook_gives_its_values_and_a_wrong_name_that_papermill_injected_is_refused():
    namespace = {f.name: getattr(config.SetupConfig(), f.name) for f in dataclasses.fields(config.SetupConfig)}
    given = namespace | {"size": 512, "In": ["", "size = 512"], "n_frames": 3}
    assert config.SetupConfig.from_notebook(given) == config.SetupConfig(size=512)
    with pytest.raises(ValueError, match="out_dir"):
        config.SetupConfig.from_notebook({})
    with pytest.raises(ValueError, match="'sise'"):
        config.SetupConfig.from_notebook(namespace | {"In": ["", "# Parameters\nsise = 512\n"], "sise": 512})


def test_with_pretrained_weights_what_is_not_given_is_what_they_need():
    given = {"weights": "pretrained", "stride": 16}
    namespace = {name: getattr(config.DynamicConfig(), name) for name in config.DynamicConfig.__dataclass_fields__}
    made = [config.DynamicConfig(**given), config.DynamicConfig.from_notebook(namespace | given)]
    for cfg in made:
        assert (cfg.endpoint, cfg.input_px, cfg.flow, cfg.stride) == ("", 224, "dis_medium", 16)
    kept = config.DynamicConfig(**given, endpoint="Mixed_3c", input_px=112)
    assert dataclasses.replace(kept, batch_size=1).input_px == 112
    cell = "# Parameters\nweights = 'pretrained'\nendpoint = 'Mixed_3c'\n"  # a default that papermill has injected
    injected = namespace | {"weights": "pretrained", "In": [cell]}
    assert config.DynamicConfig.from_notebook(injected).endpoint == "Mixed_3c"


def test_what_decides_the_result_leaves_folders_and_speed_out():
    decisive = "backend fps detect_every min_coverage crop_scale detector min_face align_eyes max_gap_s"
    assert set(config.PreparationConfig().as_dict(without=NOT_DECISIVE)) == set(decisive.split())


def test_names_are_those_of_the_network_and_near_types_are_taken():
    assert config.ENDPOINTS == STAGES
    assert type(config.PreparationConfig(fps=25).fps) is float
    assert config.TrainingConfig(seeds=(3, 4)).seeds == [3, 4]


def test_a_process_that_unpickles_parameters_imports_no_checker():
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config.StaticConfig()), check=True)
