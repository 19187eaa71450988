"""Scores: the same tokens as the notebooks make, intervals, warnings, refusals, files and page."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numbered import write_numbered
from scored import made_up

from helpers import score
from helpers.__main__ import main
from helpers.align import read_aligned
from helpers.clips import TRAITS
from helpers.feature_quality import write_training_tokens
from helpers.files import ROOT, read_json, write_json
from helpers.model import CompletePersonalityModel
from helpers.tracks import NoFaceError

DATA = ROOT / "data_sample"
AWKWARD = DATA / "awkward"
CLIP = sorted((DATA / "test80_01").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model folder with an untrained network behind the shipped reduction."""
    folder = tmp_path_factory.mktemp("model")
    identity = read_json(DATA / "tokens" / "manifest.json")["identity"]
    CompletePersonalityModel(64, 32).save(folder / "model.keras")
    shutil.copy(DATA / "tokens" / "reduction.npz", folder)
    card = {
        "targets": list(TRAITS),
        "constant": dict.fromkeys(TRAITS, 0.5),
        "interval_half_width": dict.fromkeys(TRAITS, 0.2),
        "warnings": ["the networks have random weights"],
        "extractors": {name: identity[name] for name in ("static", "dynamic")},
    }
    write_json(folder / "card.json", card)
    bank = read_aligned(DATA / "tokens")
    write_training_tokens(folder / "familiar.npz", bank.take(np.arange(100)), bank.take(np.arange(100, 160)))
    return folder


@pytest.fixture(scope="module")
def scorer(model_dir):
    return score.load_scorer(model_dir)


@pytest.mark.slow
def test_a_video_is_looked_at_as_the_training_clips_were(scorer):
    _, tokens = score.tokens_of_video(CLIP, scorer)
    shipped = read_aligned(DATA / "tokens" / "shipped")
    row = shipped.clips.tolist().index(CLIP.relative_to(DATA).as_posix().removesuffix(".mp4"))
    for name in ("static", "dynamic"):
        expected = getattr(shipped, f"{name}_features")[row]
        np.testing.assert_allclose(tokens[name].features, expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(tokens[name].t_s, getattr(shipped, f"{name}_t_s")[row], atol=1e-5)


@pytest.mark.slow
def test_a_score_has_an_interval_and_the_constant_and_says_what_it_rests_on(scorer):
    result = score.score_clip(CLIP, scorer)
    for trait in TRAITS:
        assert 0 <= result.low[trait] <= result.score[trait] <= result.high[trait] <= 1
        assert result.high[trait] - result.low[trait] <= 0.4 + 1e-9
        assert result.constant[trait] == 0.5
    assert len(result.motion_share) == len(result.motion_t_s) == 9
    assert sum(result.motion_share) == pytest.approx(1, abs=1e-5)
    assert len(result.faces) == score.N_FACES
    assert not result.familiarity["dynamic"]["unlike"]
    assert "random weights" in score.as_text(result)
    tokens = score.tokens_of_video(CLIP, scorer)[1]
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    without = inputs | {"dynamic": inputs["dynamic"].copy()}
    without["dynamic"][0, 2] = scorer.training["dynamic"].mean
    effect = np.asarray(scorer.model(inputs))[0] - np.asarray(scorer.model(without))[0]
    np.testing.assert_allclose([result.effects[trait][2] for trait in TRAITS], effect, atol=1e-5)
    assert np.abs(effect).min() > 0


@pytest.mark.parametrize(
    ("stream", "part", "name", "value", "message"),
    [
        ("static", "weights", "sha256", "0" * 64, "static network must have the weights"),
        ("dynamic", "weights", "name", "elsewhere", "dynamic features were made elsewhere"),
        ("static", "parameters", "every_n_frames", 3, "static.parameters.every_n_frames: 3 here"),
    ],
)
def test_other_networks_than_the_models_are_refused(model_dir, tmp_path, stream, part, name, value, message):
    shutil.copytree(model_dir, tmp_path / "model")
    card = read_json(tmp_path / "model" / "card.json")
    card["extractors"][stream][part][name] = value
    write_json(tmp_path / "model" / "card.json", card)
    with pytest.raises(ValueError, match=message):
        score.load_scorer(tmp_path / "model")


def test_warnings_of_clip_and_model():
    track = SimpleNamespace(coverage=0.5, n_faces_max=2, reason="the only face that moves", n_frames=150, fps=15.0)
    found = score.clip_warnings(track, np.array([0.5, 1.2]), {"training_length_s": 5.0}, {}, 1)
    assert [any(word in text for text in found) for word in ("10 s long", "50%", "moves", "one stretch", "cut to")]
    assert len(found) == 5


def test_what_is_odd_about_picture_and_faces_is_remarked_once_in_text_json_and_table(tmp_path):
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    path = write_numbered(tmp_path / "hdr.mp4", 5, codec_options={"x264-params": tags})
    track = SimpleNamespace(decoder="pyav, h264; HDR (PQ): brought to SDR", remarks="3 shots; a still face")
    remarks = score.clip_remarks(path, track)
    assert remarks == ["HDR (PQ): brought to SDR", "3 shots", "a still face"]
    made = made_up("hdr.mp4", remarks=remarks)
    assert score.as_table([made])["remarks"][0] == "; ".join(remarks)
    assert all(text in score.as_text(made) for text in remarks)


def test_videos_are_named_by_file_or_by_their_path_below_a_folder(tmp_path):
    for path in ("folder/b/clip 10.mp4", "folder/b/clip 2.mp4", "folder/a.mp4", "other/a.mp4", "c.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "folder", tmp_path / "other" / "a.mp4", tmp_path / "c.mp4", tmp_path / "empty"]
    named = score.named_videos(paths)
    first, other = (path.as_posix() for path in (tmp_path / "folder" / "a.mp4", tmp_path / "other" / "a.mp4"))
    names = [first, "b/clip 2.mp4", "b/clip 10.mp4", other, "c.mp4", "empty"]
    assert [name for name, _ in named] == names
    assert named[1][1] == tmp_path / "folder" / "b" / "clip 2.mp4"


@pytest.fixture
def made_up_scores(monkeypatch):
    """Scores of videos by their names; what is an error is raised."""
    given = {}

    def score_clip(path, scorer, *, name, faces):
        if isinstance(given.get(name), BaseException):
            raise given[name]
        return made_up(name)

    monkeypatch.setattr(score, "score_clip", score_clip)
    return given


def test_one_bad_video_is_listed_and_what_ends_the_list_leaves_what_is_there(tmp_path, made_up_scores):
    made_up_scores |= {"bad.mp4": NoFaceError("bad.mp4: no face found"), "stop.mp4": KeyboardInterrupt()}
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / name for name in ("good.mp4", "bad.mp4", "empty", "stop.mp4")]
    json, csv = tmp_path / "score.json", tmp_path / "score.csv"
    with pytest.raises(KeyboardInterrupt):
        score.score_all(paths, None, json=json, csv=csv)
    good, bad, empty = read_json(json)
    assert bad == {"video": "bad.mp4", "failed": "no face found"}
    assert "no videos" in empty["failed"]
    assert good["score"] == made_up("good.mp4").score
    table = pd.read_csv(csv)
    assert table.columns.tolist() == [
        "video", "target", "score", "low", "high", "constant", "face_coverage", "duration_s", "warnings", "remarks",
        "failed",
    ]  # fmt: skip
    assert table["target"].tolist()[:5] == list(TRAITS)
    assert table["high"].tolist()[:5] == pytest.approx([good["high"][trait] for trait in TRAITS], rel=1e-5)
    assert table.iloc[5][["video", "failed"]].tolist() == ["bad.mp4", "no face found"]
    assert table.iloc[5][["target", "score", "warnings"]].isna().all()


def test_the_example_is_a_rated_clip_that_was_held_out(tmp_path):
    for name in ("a 10", "a 2", "b", "c"):
        (tmp_path / f"{name}.mp4").touch()
    assert score.example(tmp_path, tmp_path).name == "a 2.mp4"  # nothing is known of any
    said = pd.DataFrame({"split": ["validation", "live", "test"], "clip": ["a 2", "b", "c"], "truth": [0.5, None, 0.5]})
    said.to_csv(tmp_path / "predictions.csv")
    assert score.example(tmp_path, tmp_path).name == "c.mp4"


@pytest.mark.parametrize(("usable", "status"), [((True, False), 0), ((False, False), 1)])
def test_the_command_lists_failures_and_fails_only_without_a_score(
    tmp_path, monkeypatch, capsys, made_up_scores, usable, status
):
    monkeypatch.setattr(score, "load_scorer", lambda model: None)
    made_up_scores |= {f"{n}.mp4": NoFaceError("no face") for n, well in enumerate(usable) if not well}
    files = ["--json", str(tmp_path / "s.json"), "--csv", str(tmp_path / "t.csv")]
    assert main(["score", "0.mp4", "1.mp4", "--model", str(tmp_path), *files]) == status
    said = capsys.readouterr()
    assert ("error: 1.mp4: no face" in said.err, "openness (O)" in said.out) == (True, usable[0])
    assert (len(read_json(tmp_path / "s.json")), len(pd.read_csv(tmp_path / "t.csv"))) == (2, 6 if usable[0] else 2)


@pytest.fixture(scope="module")
def scored_folder(model_dir, tmp_path_factory):
    """The folder of `score --out`, of a video with a name to be escaped and one without a face."""
    folder = tmp_path_factory.mktemp("scores")
    shutil.copy(CLIP, named := folder / "one <b>thing.mp4")
    videos = [str(named), str(AWKWARD / "no_face.mp4")]
    assert main(["score", *videos, "--model", str(model_dir), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.mark.slow
def test_notebook_09_scores_into_a_folder_and_becomes_a_page(scored_folder):
    good, bad = read_json(scored_folder / "score.json")
    assert (good["video"], bad["video"], "no face" in bad["failed"]) == ("one <b>thing.mp4", "no_face.mp4", True)
    assert len(pd.read_csv(scored_folder / "score.csv")) == 6
    text = (scored_folder / "score.html").read_text(encoding="utf-8")
    assert all(fact in text for fact in ("one &lt;b&gt;thing.mp4", "“no_face.mp4”", "random weights"))


@pytest.mark.browser
def test_the_page_opens_in_a_browser(page, scored_folder):
    page.shows(scored_folder / "score.html")
