"""Scores: the same tokens as the notebooks make, intervals, warnings, refusals, files, figures and page."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from chromium import shows
from layout import make_clips
from numbered import write_numbered

from helpers import score
from helpers.__main__ import main
from helpers.align import read_aligned
from helpers.clips import TRAITS
from helpers.files import ROOT, read_json, write_json
from helpers.plots.attention import plot_looks, plot_score
from helpers.tracks import NoFaceError

DATA = ROOT / "data_sample"
CLIP = sorted((DATA / "test80_01").glob("*.mp4"))[0]
VALUES = dict(zip(TRAITS, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True))
HALF = dict.fromkeys(TRAITS, 0.5)


def made_up(video, remarks=()):
    """A score of a clip of 4 s with three motion tokens."""
    return score.ClipScore(
        video=video,
        score=VALUES,
        low={t: max(v - 0.2, 0) for t, v in VALUES.items()},
        high={t: min(v + 0.2, 1) for t, v in VALUES.items()},
        constant=HALF,
        motion_t_s=[0.5, 1.5, 2.5],
        motion_share=[0.5, 0.3, 0.2],
        face_coverage=0.9,
        warnings=["these scores say nothing about a person"],
        duration_s=4.0,
        parts_s=[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)],
        effects={t: [0.1, -0.2, 0.0] for t in TRAITS},
        out_of_distribution={},
        remarks=remarks,
    )


@pytest.fixture(scope="module")
def scored_folder(model_dir, tmp_path_factory):
    """The folder of `score --out`, of a video with a name to be escaped and one without a face."""
    folder = tmp_path_factory.mktemp("scores")
    shutil.copy(CLIP, named := folder / "one <b>thing.mp4")
    videos = [str(named), str(DATA / "awkward" / "no_face.mp4")]
    assert main(["score", *videos, "--model", str(model_dir), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.mark.slow
def test_notebook_09_scores_a_video_as_the_training_clips_were_looked_at_and_becomes_a_page(model_dir, scored_folder):
    good, bad = read_json(scored_folder / "score.json")
    assert (good["video"], bad["video"], "no face" in bad["failed"]) == ("one <b>thing.mp4", "no_face.mp4", True)
    assert len(pd.read_csv(scored_folder / "score.csv")) == 6
    text = (scored_folder / "score.html").read_text(encoding="utf-8")
    assert all(fact in text for fact in ("one &lt;b&gt;thing.mp4", "“no_face.mp4”", "random weights"))
    assert (len(good["motion_share"]), good["out_of_distribution"]["dynamic"]["unlike"]) == (9, False)

    scorer = score.load_scorer(model_dir)
    _, tokens = score.tokens_of_video(CLIP, scorer)
    shipped, inputs = read_aligned(DATA / "tokens" / "shipped"), {}
    row = shipped.clips.tolist().index(CLIP.relative_to(DATA).as_posix().removesuffix(".mp4"))
    for name, rows in tokens.items():
        expected = getattr(shipped, f"{name}_features")[row]
        np.testing.assert_allclose(rows.features, expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(rows.t_s, getattr(shipped, f"{name}_t_s")[row], atol=1e-5)
        inputs |= {name: rows.features[None], f"{name}_t_s": rows.t_s[None].astype("float32")}
    without = inputs | {"dynamic": inputs["dynamic"].copy()}
    without["dynamic"][0, 2] = scorer.training["dynamic"].mean
    raw, lost = (np.asarray(scorer.model(of))[0] for of in (inputs, without))
    assert np.abs(raw - lost).min() > 0
    np.testing.assert_allclose([good["effects"][trait][2] for trait in TRAITS], raw - lost, atol=1e-5)
    for name, expected in (("score", raw), ("low", raw - 0.2), ("high", raw + 0.2), ("constant", [0.5] * 5)):
        np.testing.assert_allclose([good[name][trait] for trait in TRAITS], np.clip(expected, 0, 1), atol=1e-5)


@pytest.mark.browser
def test_the_page_opens_in_a_browser(page, scored_folder):
    shows(page, scored_folder / "score.html")


@pytest.mark.parametrize(
    ("stream", "part", "name", "value", "message"),
    [
        ("static", "weights", "sha256", "0" * 64, "static network must have the weights"),
        ("dynamic", "weights", "name", "external", "dynamic features were made elsewhere"),
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


def test_what_weakens_a_score_is_a_warning_and_what_is_odd_a_remark_once_in_text_and_table(tmp_path):
    about = {"coverage": 0.5, "n_faces_max": 2, "reason": "the only face that moves", "n_frames": 150, "fps": 15.0}
    about |= {"decoder": "pyav, h264; HDR (PQ): brought to SDR", "remarks": "3 shots; a still face"}
    track = SimpleNamespace(**about)
    found = score.clip_warnings(track, np.array([0.5, 1.2]), {"training_length_s": 5.0}, {}, 1)
    words = ("10 s long", "50%", "moves", "one stretch", "cut to")
    assert all(word in text for word, text in zip(words, found, strict=True))
    tags = {"x264-params": "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"}
    remarks = score.clip_remarks(write_numbered(tmp_path / "hdr.mp4", 5, codec_options=tags), track)
    assert remarks == ["HDR (PQ): brought to SDR", "3 shots", "a still face"]
    made = made_up("hdr.mp4", remarks)
    assert score.as_table([made])["remarks"][0] == "; ".join(remarks)
    assert all(text in score.as_text(made) for text in (*remarks, *made.warnings))


def test_videos_are_named_by_file_or_by_their_path_below_a_folder(tmp_path):
    make_clips(tmp_path, *(f"folder/{name}.mp4" for name in ("b/clip 10", "b/clip 2", "a")), "other/a.mp4", "c.mp4")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / path for path in ("folder", "other/a.mp4", "c.mp4", "empty")]
    named = score.named_videos(paths)
    first, other = ((tmp_path / path).as_posix() for path in ("folder/a.mp4", "other/a.mp4"))
    assert [name for name, _ in named] == [first, "b/clip 2.mp4", "b/clip 10.mp4", other, "c.mp4", "empty"]
    assert named[1][1] == tmp_path / "folder" / "b" / "clip 2.mp4"


def test_the_example_is_a_rated_clip_that_was_held_out(tmp_path):
    make_clips(tmp_path, *(f"{name}.mp4" for name in ("a 10", "a 2", "b", "c")))
    assert score.example(tmp_path, tmp_path).name == "a 2.mp4"  # nothing is known of any
    said = pd.DataFrame({"split": ["validation", "live", "test"], "clip": ["a 2", "b", "c"], "truth": [0.5, None, 0.5]})
    said.to_csv(tmp_path / "predictions.csv")
    assert score.example(tmp_path, tmp_path).name == "c.mp4"


def test_the_command_lists_failures_keeps_what_is_there_and_fails_only_without_a_score(tmp_path, monkeypatch, capsys):
    errors = {"bad.mp4": NoFaceError("bad.mp4: no face found"), "stop.mp4": KeyboardInterrupt()}

    def score_clip(path, scorer, *, name, faces):
        if name in errors:
            raise errors[name]
        return made_up(name)

    monkeypatch.setattr(score, "score_clip", score_clip)
    monkeypatch.setattr(score, "load_scorer", lambda model: None)
    (tmp_path / "empty").mkdir()
    json, csv = tmp_path / "score.json", tmp_path / "score.csv"

    def status_of(*names):
        files = ["--model", str(tmp_path), "--json", str(json), "--csv", str(csv)]
        return main(["score", *(str(tmp_path / name) for name in names), *files])

    assert (status_of("bad.mp4", "empty"), len(read_json(json)), len(pd.read_csv(csv))) == (1, 2, 2)
    assert status_of("good.mp4", "bad.mp4") == 0
    said = capsys.readouterr()
    assert ("error: bad.mp4: no face" in said.err, "openness (O)" in said.out) == (True, True)
    assert status_of("good.mp4", "bad.mp4", "empty", "stop.mp4", "c.mp4") == 1
    good, bad, empty = read_json(json)
    assert bad == {"video": "bad.mp4", "failed": "no face found"}
    assert "no videos" in empty["failed"]
    assert good["score"] == VALUES
    table = pd.read_csv(csv)
    columns = "video target score low high constant face_coverage duration_s warnings remarks failed"
    assert table.columns.tolist() == columns.split()
    assert table["target"].tolist()[:5] == list(TRAITS)
    assert table["high"].tolist()[:5] == pytest.approx([good["high"][trait] for trait in TRAITS], rel=1e-5)
    assert table.iloc[5][["video", "failed"]].tolist() == ["bad.mp4", "no face found"]
    assert table.iloc[5][["target", "score", "warnings"]].isna().all()


def test_figures_draw_the_scores_the_looks_and_the_effects(figures):
    dots = plot_score(made_up("a.mp4")).containers[0].lines[0].get_xdata()
    np.testing.assert_allclose(dots, list(VALUES.values()))
    seen, looked, moved, *_ = plot_looks(made_up("a.mp4"), np.zeros((2, 96, 96, 3), np.uint8)).axes
    assert (len(seen.images), [bar.get_height() for bar in looked.patches]) == (2, [0.5, 0.3, 0.2])
    np.testing.assert_allclose(moved.collections[0].get_array(), [[0.1, -0.2, 0]] * 5)
