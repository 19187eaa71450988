"""summary.json, and the page that notebook 10 becomes, on a small results folder."""

import re
import shutil

import numpy as np
import pytest
from chromium import shows
from PIL import Image

from helpers import report, workbook
from helpers.files import read_json, write_json
from helpers.statistics import NONE, as_summary, score_table, verdict

LETTERS = "OCEAN"
MAIN = report.MAIN


def model_row(quality):
    """A model whose predictions lie `quality` of the way from the constant to the truth."""
    truth = np.random.default_rng(0).uniform(0, 1, (40, 5))
    constant = truth.mean(axis=0)
    table = score_table(truth, constant + quality * (truth - constant), constant)
    return as_summary(table) | {"seeds": [{"mean_accuracy": 0.5}]}


def compared(a, b, low, high):
    pair = {"a": a, "b": b, "metric": "r2", "difference": (low + high) / 2, "low": low, "high": high}
    return pair | {"verdict": verdict(pair)}


def write_run(folder):
    """A run's folder with the results of 01, 03, 06 and 07, one failed clip and one figure."""
    quality = {"constant": 0, "concat_mlp": 0.2, "ridge": 0.5, MAIN: 0.9}
    training = {
        "targets": list(LETTERS),
        "models": {name: model_row(of) for name, of in quality.items()},
        "comparisons": [
            compared("ridge", "constant", 0.6, 0.7),
            compared(MAIN, "concat_mlp", 0.6, 0.8),
            compared(MAIN, "constant", 0.8, 0.9),
            compared(MAIN, "ridge", 0.1, 0.3),
        ],
        "split": {"by": "source", "train": 7, "validation": 3, "test": 2, "test_clips_sharing_a_source_with_train": 0},
        "live": model_row(0.8) | {"clips": 3, "constant": model_row(0)},
        "data": "the clips of this run",
    }
    pointing = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    rows = [{"clip": "c", "reason": f"the face is lost at {row / 7:.1f} s", "row": row} for row in range(40)]
    static = {
        "identity": {"weights": {"name": "random", "sha256": "0123456789abcdef"}, "parameters": {"a": 1}},
        "failed": [{"clip": "a/<b>", "reason": "no face found"}, *rows],
        "counts": {"clips": 5, "made": 3, "found": 1, "failed": 1, "rows": 1234},
        "seconds": 8.0,
        "code_version": "0.1+abc",
    }
    write_json(folder / "training" / "training.json", training)
    write_json(folder / "attention.json", pointing | {"occlusion_pointing_interval": [0.925, 0.995]})
    write_json(folder / "analysis.json", {"table": [["clips", 3], ["rated clips", 2]]})
    write_json(folder / "static" / "manifest.json", static)
    (folder / "figures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 2000, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "figures" / "06_intervals.png")
    return folder


@pytest.fixture
def out(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    """Path of the exported report."""
    return workbook.write_report(write_run(tmp_path_factory.mktemp("my run")))


def test_the_summary_has_the_promised_shape_and_sets_results_beside_constant_rival_and_chance(out):
    models = {"bag_of_frames": {"accuracy": 0.5}}
    write_json(out / "classification" / "classification.json", {"models": models})
    report.write_summary(out)
    summary = read_json(out / "summary.json")
    promised = "targets models comparisons groups ceiling attention split live provenance warnings classification"
    assert set(summary) == set(promised.split())
    assert set(summary["models"]["ridge"]["r2"]) == {*LETTERS, "mean"}
    assert {"ccc", "pearson", "mae", "mean_accuracy", "seeds"} <= set(summary["models"]["ridge"])
    assert summary["provenance"]["stages"]["static"]["weights"]["name"] == "random"
    assert summary["classification"] == models
    over_constant, over_rival = report.verdicts(summary)
    assert "better than a constant by 0.850" in over_constant
    assert "better than ridge by 0.200" in over_rival
    (said,) = report.pointing_in_words(summary["attention"] | {"motion_pointing": 0.51})
    assert "In 97% [0.93," in said
    assert "control 35%, most unusual motion 51%, chance 34%" in said
    assert report.pointing_in_words(dict.fromkeys(summary["attention"])) == []


def test_leaks_random_weights_and_inventions_are_warned_of_and_the_table_has_every_target_and_the_ceiling(out):
    training = read_json(out / "training" / "training.json")
    for row in [*training["models"].values(), training["live"]]:
        row["r2"]["interview"] = 0.123
    training["models"]["ridge"]["r2"] |= {"O": None, "mean": None}  # of equal ratings
    training |= {"ceiling": {"r2": dict.fromkeys(LETTERS, 0.64)}, "targets": [*LETTERS, "interview"]}
    training |= {"split": {"warning": "this split leaks"}, "synthetic_labels": True}
    write_json(out / "training" / "training.json", training)
    write_json(out / "analysis.json", {"synthetic": True})
    summary = report.write_summary(out)
    said = ("random weights", "synthetic clips", "invented", "leaks")
    assert all(word in one for word, one in zip(said, summary["warnings"], strict=True))
    table = report.as_table(summary)
    assert table.columns[:7].tolist() == [*LETTERS, "interview", "mean"]
    assert table.index[:4].tolist() == ["constant", "ridge", "concat_mlp", MAIN]
    assert table["interview"].tolist()[:4] == [0.123] * 4
    assert np.isnan(table.loc["ridge", "O"])
    assert table.loc["ridge", ["over_constant_low", "over_constant_high"]].tolist() == [0.6, 0.7]
    assert table.iloc[-1]["O"] == 0.64


def test_the_report_is_one_page_that_fetches_nothing_and_says_what_a_reader_must_know(report_page):
    text = report_page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|<script|<link|url\(|@import""", text)
    assert text.count("data:image/png;base64,") == 1  # the saved figure
    facts = ("random weights", "a/&lt;b&gt;", "1 clips could not be used", "3 clips of this run", "97%", "34%")
    facts += ("08_clip_classification", "no face found", "0123456789abcdef", "Not saved by this run: 07_clip")
    assert [fact for fact in facts if fact not in text] == []
    assert not [no for no in ("07_attention_visualization", str(report_page.parent)) if no in text]


@pytest.mark.browser
def test_the_report_opens_in_a_browser(page, report_page):
    shows(page, report_page)


def test_without_training_the_report_says_what_is_missing_and_without_anything_it_is_refused(out, tmp_path):
    shutil.rmtree(out / "training")
    (out / "attention.json").unlink()
    write_json(out / "analysis.json", {"table": [["clips", 1]], "reliability": {"openness": {"icc": np.nan}}})
    text = workbook.write_report(out).read_text(encoding="utf-8")
    assert "04_dynamic_extraction, 05_alignment, 06_training" in text
    assert NONE in text
    summary = read_json(out / "summary.json")
    assert (summary["models"], summary["comparisons"], summary["split"]) == ({}, [], {})
    (out / "figures" / "06_intervals.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"06_intervals\.png"):
        report.small_picture(out / "figures" / "06_intervals.png")
    with pytest.raises(FileNotFoundError, match="nothing of a run"):
        workbook.write_report(tmp_path / "nowhere")


def test_thousands_of_failures_are_counted_by_reason():
    failed = [{"clip": f"clip{n}", "reason": "no face"} for n in range(5000)]
    failed += [{"clip": f"c{n % 7}", "reason": f"lost at {n / 7:.1f} s", "row": n} for n in range(5000)]
    clips, rows = report.failures({"faces": {"failed": failed[:1]}, "static": {"failed": failed}})
    assert (len(clips), clips.loc["clip0", "notebook"]) == (5000, "02_clip_preparation")
    assert rows.iloc[0][["reason", "rows", "clips"]].tolist() == ["lost at … s", 5000, 7]
