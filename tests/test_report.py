"""summary.json and report.html from what the notebooks leave."""

import json
import re

import numpy as np
import pytest

from helpers import report
from helpers.comparison import verdict
from helpers.files import write_json
from helpers.metrics import as_summary, score_table

LETTERS = "OCEAN"


def model_row(quality):
    """A model whose predictions lie `quality` of the way from the constant to the truth."""
    truth = np.random.default_rng(0).uniform(0, 1, (40, 5))
    constant = truth.mean(axis=0)
    table = score_table(truth, constant + quality * (truth - constant), constant)
    return as_summary(table) | {"seeds": [{"mean_accuracy": 0.5}]}


def comparison(a, b, low, high):
    """A comparison as `helpers.comparison` leaves it."""
    found = {"a": a, "b": b, "metric": "r2", "difference": (low + high) / 2, "low": low, "high": high}
    return found | {"verdict": verdict(found)}


def compared(ridge=(0.6, 0.7), token=(0.8, 0.9)):
    main = "token_cross_attention"
    pairs = [("ridge", "constant", *ridge), (main, "constant", *token), (main, "ridge", 0.1, 0.3)]
    return [comparison(*pair) for pair in pairs]


@pytest.fixture
def out(tmp_path):
    """A run's folder with the results of 01, 06 and 07 and one failed clip."""
    models = {"constant": model_row(0), "ridge": model_row(0.5), "token_cross_attention": model_row(0.9)}
    split = {"by": "source", "train": 7, "validation": 3, "test": 2, "test_clips_sharing_a_source_with_train": 0}
    training = {
        "targets": list(LETTERS),
        "models": models,
        "comparisons": compared(),
        "groups": {},
        "ceiling": None,
        "split": split,
        "live": model_row(0.8) | {"clips": 3},
        "data": "the clips of this run",
        "synthetic_labels": False,
    }
    write_json(tmp_path / "training" / "training.json", training)
    pointing = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    write_json(tmp_path / "attention.json", pointing)
    write_json(tmp_path / "analysis.json", {"table": [["clips", 3], ["rated clips", 2]]})
    identity = {"weights": {"name": "random"}, "parameters": {}}
    failed = [{"clip": "a/<b>", "reason": "no face found"}, {"clip": "c", "reason": "not finite", "row": 2}]
    write_json(tmp_path / "static" / "manifest.json", {"identity": identity, "failed": failed})
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "06_models.png").write_bytes(b"not really a picture")
    return tmp_path


def test_the_summary_has_the_promised_shape(out):
    report.write_summary(out)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {
        "targets",
        "models",
        "comparisons",
        "groups",
        "ceiling",
        "attention",
        "split",
        "live",
        "provenance",
    }
    assert set(summary["models"]["ridge"]["r2"]) == {*LETTERS, "mean"}
    assert {"ccc", "pearson", "mae", "mean_accuracy", "seeds"} <= set(summary["models"]["ridge"])
    assert summary["provenance"]["stages"]["static"]["weights"]["name"] == "random"


def test_the_report_is_one_page_that_fetches_nothing(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|notebooks/)""", page)
    assert "<script" not in page
    assert "data:image/png;base64," in page


def test_the_report_says_what_a_reader_must_know(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "random weights" in page
    assert "a/&lt;b&gt;" in page
    assert "no face found" in page
    assert "not finite" not in page  # one masked row does not make a clip unusable
    assert "97%" in page
    assert "34%" in page
    assert page.index("<td>constant</td>") < page.index("<td>ridge</td>") < page.index("<td>token cross attention</td>")
    assert "on the 3 rated clips of this run" in page


def test_a_model_that_is_no_better_than_the_constant_is_called_so(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    write_json(out / "training" / "training.json", training | {"comparisons": compared(ridge=(-0.1, 0.02))})
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is better than a constant by 0.850 R² [+0.800, +0.900]."
    assert said[1] == "No better than a constant: ridge."
    assert said[2] == "token cross attention is better than ridge by 0.200 R² [+0.100, +0.300]."
    write_json(out / "training" / "training.json", training | {"comparisons": compared(token=(-0.2, 0.1))})
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is no better than a constant: -0.050 R² [-0.200, +0.100]."
    assert "No better than a constant" not in said[1]


def test_a_leaking_split_is_flagged_on_the_page(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    training["split"]["warning"] = "this split leaks: 2 of 2 test clips"
    write_json(out / "training" / "training.json", training)
    assert "this split leaks: 2 of 2 test clips" in report.write_report(out).read_text(encoding="utf-8")


def test_groups_and_the_ceiling_of_the_ratings_stand_on_the_page(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    nothing = {"value": 0.01, "low": -0.02, "high": 0.03}
    errors = dict.fromkeys(("mae", "bias", "mae_over_others", "bias_over_others"), nothing)
    groups = {"old": errors | {"bias_over_others": {"value": -0.1, "low": -0.15, "high": -0.05}}}
    ceiling = {"r2": dict.fromkeys(LETTERS, 0.64), "pearson": dict.fromkeys(LETTERS, 0.8)}
    write_json(out / "training" / "training.json", training | {"groups": groups, "ceiling": ceiling})
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "old: mean signed error differs from that of the others by -0.100 [-0.150, -0.050]." in page
    assert page.count("<td>0.64</td>") == 5


def test_the_table_has_a_column_for_each_target_whatever_its_name(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    training["targets"].append("interview")
    for row in [*training["models"].values(), training["live"]]:
        row["r2"]["interview"] = 0.123
    write_json(out / "training" / "training.json", training)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "<th>interview</th>" in page
    heads = [page.index(f"<th>{letter}</th>") for letter in LETTERS]
    assert heads == sorted(heads)
    assert page.count("<td>0.12</td>") == 4


def test_without_planted_events_the_occlusion_paragraph_is_left_out(out):
    nothing = dict.fromkeys(("occlusion_pointing", "occlusion_chance", "occlusion_pointing_shuffled"))
    write_json(out / "attention.json", nothing)
    assert "What the model looked at" not in report.write_report(out).read_text(encoding="utf-8")


def test_a_missing_notebook_is_named(out):
    (out / "attention.json").unlink()
    with pytest.raises(FileNotFoundError, match="Run 07_attention_visualization first"):
        report.write_report(out)


def test_a_run_that_is_trained_on_its_own_clips_has_no_line_for_further_ones(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    write_json(out / "training" / "training.json", training | {"live": {}})
    assert "clips of this run</td>" not in report.write_report(out).read_text(encoding="utf-8")


def test_invented_ratings_are_stamped_on_the_report(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    assert "<b>invented</b>" not in report.write_report(out).read_text(encoding="utf-8")
    write_json(out / "training" / "training.json", training | {"synthetic_labels": True})
    assert "ratings of this run were <b>invented</b>" in report.write_report(out).read_text(encoding="utf-8")
