"""Scores of stored faces and flow: the right clip in the right row, and what is left out or refused."""

import json
import shutil

import numpy as np
import pytest
import test_extract
from test_extract_trees import SIDE, flow_of
from trees import write_faces
from trees import write_pairs as write_flow

from helpers import __main__
from helpers.align import align_streams
from helpers.config import DynamicConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.files import read_json, write_json
from helpers.model import CompletePersonalityModel
from helpers.reduction import ChannelGroups, Reduction, read_reduction, write_reduction
from helpers.serializer import load_model
from helpers.tree_scores import clips_of_trees, predict_trees

networks = test_extract.networks  # small ones in place of the real ones
TARGETS = ["openness", "neuroticism"]


@pytest.fixture
def trees(tmp_path):
    """Clips 10 and 9 in both trees with 20 faces and 25 flows each, one more in either."""
    for name, first in (("clip10", 0), ("clip9", 40), ("face_only", 0)):
        write_faces(tmp_path / "faces" / name, range(first, first + 100, 5))
    for name, scale in (("clip10", 1), ("clip9", 2), ("flow_only", 1)):
        write_flow(tmp_path / "flow" / name, scale * flow_of(25))
    return tmp_path


@pytest.fixture
def model_dir(trees):
    """A model of features as 03 and 04 make them of these trees."""
    folders = {"out_dir": str(trees / "run"), "workers": 1}
    static = StaticConfig(**folders, faces_dir=str(trees / "faces"))
    dynamic = DynamicConfig(**folders, flow_dir=str(trees / "flow"), input_px=SIDE)
    clips, _ = clips_of_trees(static, dynamic)
    extractors = {
        "static": extract_static(clips, static)["identity"],
        "dynamic": extract_dynamic(clips, dynamic)["identity"],
    }
    folder = trees / "model"
    write_reduction(folder / "reduction.npz", Reduction(ChannelGroups(3, 3), ChannelGroups(2, 2), extractors))
    write_json(folder / "card.json", {"targets": TARGETS, "extractors": extractors})
    CompletePersonalityModel(3, 2, 8, 1, n_targets=2).save(folder / "model.keras")
    return folder


def test_every_row_is_the_score_of_the_clip_in_its_line(trees, model_dir, capsys):
    output = trees / "out" / "scores.npy"
    given = ["--model", str(model_dir), "--face_dir", str(trees / "faces"), "--flow_dir", str(trees / "flow")]
    assert __main__.main(["predict", *given, "--output", str(output)]) == 0
    assert "2 rows of 2 scores" in capsys.readouterr().out
    ids = (output.parent / "scores_ids.txt").read_text().splitlines()
    assert ids == ["clip9", "clip10"]  # natural order
    clips, _ = clips_of_trees(StaticConfig(faces_dir=given[3]), DynamicConfig(flow_dir=given[5]))
    folders = [trees / "run" / name for name in ("static", "dynamic")]
    aligned = align_streams(clips, *folders, read_reduction(model_dir / "reduction.npz"), targets=())
    expected = load_model(model_dir).predict(aligned.take(np.argsort(aligned.clips)[::-1]).inputs(), verbose=0)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-5)
    assert np.load(output).dtype == np.float32
    assert not np.allclose(*np.load(output))
    about = read_json(output.with_suffix(".json"))
    assert about["targets"] == TARGETS
    assert about["left_out"]["face_only"] == "it has no flow in flow"
    assert about["left_out"]["flow_only"].startswith("its flow fits no faces")
    assert about["trained_on_other_input"] == []


def test_another_view_is_said_and_a_clip_without_rows_is_left_out_with_its_reason(trees, model_dir):
    card = json.loads((model_dir / "card.json").read_text())
    card["extractors"]["static"]["preparation"] = card["extractors"]["static"].pop("stored")
    write_json(model_dir / "card.json", card)
    for file in (trees / "flow" / "clip9").iterdir():
        file.write_bytes(b"")
    table = predict_trees(model_dir, trees / "faces", trees / "flow", trees / "s.npy", flow_fps=5.0)
    assert table.index.tolist() == ["clip10"]
    about = read_json(trees / "s.json")
    assert about["left_out"]["clip9"].startswith("dynamic: ")
    cut, rate = about["trained_on_other_input"]
    assert cut.startswith("static: cut from videos there")
    assert rate == "dynamic: fps: 5.0 here, 6.0 there"


def test_other_networks_other_names_and_half_of_the_arguments_are_refused(trees, model_dir, capsys):
    faces, flow, other = trees / "faces", trees / "flow", trees / "other" / "flow"
    shutil.copytree(flow, other)
    for name in ("clip10", "clip9"):
        (other / name).rename(other / f"other_{name}_")
    with pytest.raises(ValueError, match="same names, got 3 and 3 and none in both"):
        predict_trees(model_dir, faces, other, trees / "s.npy")
    with pytest.raises(ValueError, match="got the file"):
        predict_trees(model_dir / "model.keras", faces, flow, trees / "s.npy")
    card = json.loads((model_dir / "card.json").read_text())
    card["extractors"]["static"]["weights"]["sha256"] = "1" * 64
    write_json(model_dir / "card.json", card)
    with pytest.raises(ValueError, match="sha256"):
        predict_trees(model_dir, faces, flow, trees / "s.npy")
    assert __main__.main(["predict", "--model", "m", "--face_dir", "f", "--output", "s.npy"]) == 1
    assert "got --face_dir" in capsys.readouterr().err
