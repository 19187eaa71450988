"""Parameters of the notebooks."""

import dataclasses
import pickle
import subprocess
import sys

import pytest

from helpers import config
from helpers.extract import NOT_DECISIVE
from helpers.i3d import STAGES
from helpers.video import BACKENDS, HARDWARE


@pytest.mark.parametrize("kind", config.NOTEBOOKS.values())
def test_defaults_are_legal_and_cannot_be_changed_afterwards(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().out_dir = "elsewhere"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fps": "15"}, r"fps .*got '15' \(str\)"),
        ({"fps": True}, r"fps .*got True \(bool\)"),
        ({"fps": 0}, "fps .*greater than or equal to 1"),
        ({"fps": float("nan")}, "fps "),
        ({"backend": "decord"}, "backend .*'auto', 'pyav', 'opencv', 'cuda', .*got 'decord'"),
        ({"progress": "true"}, "progress .*boolean"),
        ({"progress": 1}, "progress .*boolean"),
        ({"workers": 2.0}, "workers .*integer"),
        ({"workers": True}, "workers .*integer"),
        ({"data_dir": 3}, "data_dir .*string"),
        ({"fpz": 15.0}, "unknown parameter 'fpz'. Legal names: out_dir, data_dir, backend, fps"),
        ({"align_eyes": True}, "align_eyes"),
    ],
)
def test_illegal_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        config.PreparationConfig.checked(values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *[(config.TrainingConfig, {"seeds": seeds}) for seeds in ([0, "1"], [-1], 3, [0.5], [True])],
        *[(config.ScoreConfig, {"video": nothing}) for nothing in ("", [])],
        (config.DynamicConfig, {"segment": 12}),
        (config.DynamicConfig, {"endpoint": ""}),
    ],
)
def test_items_of_lists_and_what_does_not_go_together_are_checked(kind, values):
    with pytest.raises(ValueError, match=next(iter(values)) if "endpoint" not in values else "input_px"):
        kind(**values)


def test_an_int_is_taken_for_a_float_and_a_tuple_for_a_list():
    assert type(config.PreparationConfig(fps=25).fps) is float
    assert config.TrainingConfig(seeds=(3, 4)).seeds == [3, 4]


def notebook_namespace(kind, **changed):
    return {f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)} | changed


def test_a_notebook_gives_its_values_and_nothing_else():
    namespace = notebook_namespace(config.SetupConfig, size=512, In=["", "size = 512"], n_frames=3)
    assert config.SetupConfig.from_notebook(namespace) == config.SetupConfig(size=512)
    with pytest.raises(ValueError, match="out_dir is not defined"):
        config.SetupConfig.from_notebook({})


def test_a_parameter_that_papermill_injected_under_a_wrong_name_is_refused():
    namespace = notebook_namespace(config.SetupConfig, In=["", "# Parameters\nsise = 512\n"], sise=512)
    with pytest.raises(ValueError, match="'sise'"):
        config.SetupConfig.from_notebook(namespace)


def test_what_decides_the_result_leaves_folders_out():
    decisive = {"backend", "fps", "detect_every", "min_coverage", "crop_scale"}
    assert set(config.PreparationConfig().as_dict(without=NOT_DECISIVE)) == decisive


def test_a_parameter_that_folders_were_made_without_is_named_only_where_it_is_not_the_default():
    assert "flow_dir" not in config.DynamicConfig().as_dict()
    assert config.DynamicConfig(flow_dir="trees").as_dict()["flow_dir"] == "trees"


def test_names_are_those_of_the_decoders_and_of_the_network():
    assert (*BACKENDS, *HARDWARE) == config.DECODERS
    assert config.ENDPOINTS == STAGES


def test_a_process_that_unpickles_parameters_imports_no_checker():
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config.StaticConfig()), check=True)
