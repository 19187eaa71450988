"""Parameters of the notebooks."""

import dataclasses
import inspect
import pickle
import subprocess
import sys

import pytest

from helpers import config
from helpers.extract import NOT_DECISIVE
from helpers.i3d import STAGES
from helpers.video import BACKENDS, HARDWARE


def test_defaults_are_legal():
    for name, kind in config.NOTEBOOKS.items():
        assert isinstance(kind(), config.Parameters), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fps": "15"}, r"fps must be float, at least 1\.0, at most 240\.0, got '15' \(str\)"),
        ({"fps": True}, r"fps must be float, .*got True \(bool\)"),
        ({"fps": 0}, r"fps must be float, at least 1\.0.*got 0"),
        ({"fps": float("nan")}, "fps must be float"),
        ({"backend": "decord"}, r"backend must be str, one of \['auto', 'pyav', 'opencv', 'cuda', .*got 'decord'"),
        ({"progress": "true"}, r"progress must be bool, got 'true' \(str\)"),
        ({"progress": 1}, r"progress must be bool, got 1 \(int\)"),
        ({"workers": 2.0}, r"workers must be int, at least 0, at most 256, got 2\.0 \(float\)"),
        ({"workers": True}, r"workers must be int, .*got True \(bool\)"),
        ({"data_dir": 3}, r"data_dir must be str, got 3 \(int\)"),
        ({"fpz": 15.0}, "unknown parameter 'fpz'. Legal names: out_dir, data_dir, backend, fps"),
    ],
)
def test_illegal_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        config.PreparationConfig.checked(values)


@pytest.mark.parametrize("seeds", [[0, "1"], [-1], 3, [0.5], [True]])
def test_each_item_of_a_list_is_checked(seeds):
    with pytest.raises(ValueError, match="seeds must be"):
        config.TrainingConfig(seeds=seeds)


def test_an_int_is_taken_for_a_float_and_stored_as_one():
    assert type(config.PreparationConfig(fps=25).fps) is float


def test_parameters_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.SetupConfig().size = 3


def notebook_namespace(kind, **changed):
    return {f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)} | changed


def test_from_notebook_takes_the_cells_values():
    namespace = notebook_namespace(config.SetupConfig, size=512, In=["", "size = 512"])
    assert config.SetupConfig.from_notebook(namespace).size == 512


def test_a_parameter_that_papermill_injected_under_a_wrong_name_is_refused():
    namespace = notebook_namespace(config.SetupConfig, In=["", "# Parameters\nsise = 512\n"], sise=512)
    with pytest.raises(ValueError, match="unknown parameter 'sise'. Legal names: out_dir, require_gpu, size"):
        config.SetupConfig.from_notebook(namespace)


def test_other_variables_of_a_notebook_do_not_matter():
    namespace = notebook_namespace(config.SetupConfig, In=["", "n_frames = 3"], n_frames=3)
    assert config.SetupConfig.from_notebook(namespace) == config.SetupConfig()


def test_a_missing_parameters_cell_is_said():
    with pytest.raises(ValueError, match="out_dir is not defined. Run the parameters cell first"):
        config.SetupConfig.from_notebook({})


def test_what_decides_the_result_leaves_folders_out():
    decisive = {"backend", "fps", "detect_every", "min_coverage", "crop_scale"}
    assert set(config.PreparationConfig().as_dict(without=NOT_DECISIVE)) == decisive


def test_a_parameter_that_folders_were_made_without_is_named_only_where_it_is_not_the_default():
    assert "flow_dir" not in config.DynamicConfig().as_dict()
    assert config.DynamicConfig(flow_dir="trees").as_dict()["flow_dir"] == "trees"


def test_motion_of_the_camera_is_not_removed():
    assert config.DynamicConfig(remove_camera=False) == config.DynamicConfig()
    with pytest.raises(ValueError, match="remove_camera must be bool, always False, got True"):
        config.DynamicConfig(remove_camera=True)


@pytest.mark.parametrize("nothing", ["", []])
def test_a_score_of_no_videos_is_refused(nothing):
    with pytest.raises(
        ValueError, match="video must be str, of length at least 1 or list of str, of length at least 1"
    ):
        config.ScoreConfig(video=nothing)


def test_a_tuple_is_taken_for_a_list_and_stored_as_one():
    assert config.TrainingConfig(seeds=(3, 4)).seeds == [3, 4]


def test_decoders_are_those_of_the_decoders():
    assert (*BACKENDS, *HARDWARE) == config.DECODERS


def test_every_notebook_has_its_parameters_class():
    named = {kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, config.Parameters)}
    assert named - {config.Parameters} == set(config.NOTEBOOKS.values())


def test_endpoints_are_the_stages_of_the_network():
    assert config.ENDPOINTS == STAGES


def test_a_process_that_unpickles_parameters_imports_no_checker():
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config.StaticConfig()), check=True)
