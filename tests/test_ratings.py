"""Ratings: every kind of file and table, how far raters agree, and every bad file. Nothing in one is run."""

import datetime
import json
import os
import pickle

import numpy as np
import openpyxl
import pandas as pd
import pytest
from layout import make_clips

from helpers import clips
from helpers.clips import TRAITS
from helpers.ratings import reliability

FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]
HEADER = "clip,openness,conscientiousness,extraversion,agreeableness,neuroticism"
THREE, FOUR = "training80_01/-AmMDnVl4s8.003", "training80_01/-AmMDnVl4s8.004"
TEST = "test80_02/_plk5k7PBEg.001"


def read(folder, targets=TRAITS, **options):
    return clips.read_ratings(folder, clips.find_clips(folder), targets, **options)


def write_csv(folder, *lines):
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("protocol", [0, 2, 4, None])
def test_pickles_and_json_of_the_challenge_are_read_by_trait_and_clip_name_and_tell_the_split(folder, protocol):
    make_clips(folder, "flat.mp4")
    rated = {
        "training": {"-AmMDnVl4s8.004.mp4": FIVE, "-AmMDnVl4s8.003.mp4": [0.6, 0.7, None, 0.9, 1]},
        "test": {"_plk5k7PBEg.001.mp4": [0, 0.11, 0.12, 0.13, 0.14], "flat.mp4": FIVE},
    }
    for split, values in rated.items():  # {trait: {clip: value}}, in another order of traits
        data = {trait: {clip: five[i] for clip, five in values.items()} for i, trait in enumerate(TRAITS)}
        data = {"interview": dict.fromkeys(values, 0.99)} | dict(reversed(data.items()))
        if protocol is None:
            (folder / f"annotation_{split}.json").write_text(json.dumps(data))
        else:
            (folder / f"annotation_{split}.pkl").write_bytes(pickle.dumps(data, protocol))
    assert read(folder).kind == ("json" if protocol is None else "pickle")
    table = clips.read_clips(folder)
    assert table.loc[THREE, list(TRAITS)].fillna(-1).tolist() == [0.6, 0.7, -1, 0.9, 1]
    assert table.loc[FOUR, list(TRAITS)].tolist() == FIVE
    assert table.loc[TEST, list(TRAITS)].tolist() == [0, 0.11, 0.12, 0.13, 0.14]
    assert table["split"].to_dict() == {"flat": "test", TEST: "test", THREE: "train", FOUR: "train"}


class Asks:
    """Pickles as a call that makes a file."""

    def __reduce__(self):
        return os.system, ("touch executed",)


REFUSED = {
    "annotation_training.pkl": [
        *((pickle.dumps({"openness": {"a": 0.5}, "extra": Asks()}, protocol), "system") for protocol in (0, 2, 5)),
        (b"(S'touch executed'\niposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x07a\nb\x1b[31\x8c\x06system\x93.", r"a\\nb\\x1b"),
        (pickle.dumps({"openness": {"a": np.float64(0.5)}}), "scalar"),
        (b"Psomewhere\n.", "persistent"),
        (b"\x80\x02\x82\x07.", "extension"),
        (b"not a pickle", "dicts"),
        (pickle.dumps({"openness": {"a": 0.5}})[:-4], "dicts"),
        (pickle.dumps([1, 2]), "list"),
        (pickle.dumps({"openness": {"a": "high"}}), "high"),
        (pickle.dumps({"openness": {"a": 10**400}}), "between"),
        (pickle.dumps({"warmth": {"a": 0.5}, "interview": {}}), "'openness'"),
    ],
    "annotation_test.json": [(b"{", "JSON"), (b'{"openness": 3}', "JSON"), (b"[" * 100_000, "JSON")],
    "ratings.xlsx": [(b"", "xlsx"), (b"PK\x03\x04damaged", "xlsx")],
    "ratings.csv": [
        ("clip,openness\nä,.5".encode("latin-1"), "UTF-8"),
        ("clip,openness\nä,.5".encode("utf-16"), "UTF-8"),
        (b'clip,openness\na,"1,234.5"', "ratings.csv line 2 .*openness"),
        (b'clip,openness\na,"1,234"\nb,4', "line 2 .*openness"),  # thousands, where commas part cells
        (b'clip,openness\na,"0,5"\nb,2 000', "line 3"),
        (b"clip,openness\n\na,0,5", "line 3"),
        (b"clip,openness\na,.5\nTotal,50.5", "Total"),
        (b"clip,openness\na,1.3", "openness of a .* 1.3.*rating_low and rating_high"),
        (b"clip,openness,split\na,.5,fold1", "fold1"),
        (b'clip,openness,note\n,.5,"a\nb"', "line 2 must name a clip.* got , .5, a b"),
        (b"clip,O,C,E,A\na,.1,.2,.3,.4", "'openness'"),  # initials are traits where all five are there
        (b"name,openness\na,.5", "'clip'"),
        (b"clip,openness (m),openness (sd)\na,.5,.6", "'openness'"),
        (b"clip,openness\na,.5\na.mp4,", "a must be rated once, got openness 0.5 and nan"),
        (b"clip,openness,source\na,.5,x\na,.5,y", "a must be rated once, got source x and y"),
        (b"clip,rater,openness\na,ann,0.2\na,ann,0.4", "once, got openness 0.2 and 0.4.* rater"),
        (b"clip,rater,openness\na,ann,0.2\na,,0.4", "line 3 .*rater"),
        (b"clip,openness\nv,0.2\nw,0.4", "2 names"),
        (b"clip,openness\nx.mp4,0.5", "p/x and q/x"),
        (b"", "'clip'"),
        (b'clip,openness\na,"' + b"x" * 140_000, "CSV"),
    ],
}


@pytest.mark.parametrize(("name", "content", "word"), [(name, *row) for name in REFUSED for row in REFUSED[name]])
def test_what_cannot_be_read_as_ratings_is_one_clear_line_and_runs_nothing(tmp_path, monkeypatch, name, content, word):
    monkeypatch.chdir(make_clips(tmp_path, "a.mp4", "p/x.mp4", "q/x.mp4"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=word) as caught:
        read(tmp_path, ["openness"])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "rated once" in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_csv_names_clips_by_key_or_file_name_and_may_state_source_split_and_group(folder):
    write_csv(
        folder,
        "clip,source,split,group," + HEADER.removeprefix("clip,"),
        f"{THREE},film,val,women,.1,.2,.3,.4,.5",
        " -AmMDnVl4s8.004.MP4 ,,,,1,1,1,1,1",
        "test80_02\\_plk5k7PBEg.001.mp4,film,,,0,0,0,0,0",
    )
    table = clips.read_clips(folder)
    assert clips.targets_of(table) == list(TRAITS)
    assert table.loc[THREE, ["source", "split", "group", *TRAITS]].tolist() == ["film", "validation", "women", *FIVE]
    assert table.loc[FOUR, ["source", "split", "group", "openness"]].tolist() == ["-AmMDnVl4s8", "train", "", 1]
    assert table.loc[TEST, ["source", "split", "openness"]].tolist() == ["film", "test", 0]
    assert clips.read_clips(folder, limit=2).index.tolist() == [TEST, THREE]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nclip;O;C;E;A;N\na;0,1;0,2;0,3;0,4;0,5\n",
        '"sep=|"\nclip|O|C|E|A|N\na|0.1|0.2|0.3|0.4|0.5\n',
        "SEP=\t\nclip\to\tc\te\ta\tn\na\t.1\t.2\t.3\t.4\t.5\n",
        "VideoName,ValueExtraversion,ValueAgreeableness,ValueConscientiousness,ValueNeurotisicm,ValueOpenness\n"
        "a.mp4,.3,.4,.2,.5,.1\n",
        "clip  O  C   E A N\na    .1 .2  .3 .4 .5\n",
        "# rated in 2020\n# five raters, mean\nclip,E,A,C,N,O\na,.3,.4,.2,.5,.1\n",
        "Study 1: ratings; final version\n\n;clip;O;C;E;A;N;\n1;a;0,1;0,2;0,3;0,4;0,5;\n",
        'clip,O,C,E,A,N\n"a","0,1","0,2","0,3","0,4","0,5"\n',
        "CLIP,OPENNESS (0-1),Conscientiousness [0-1],Extroversion,Agreeableness (A),Neuroticism(N)\na,.1,.2,.3,.4,.5\n",
        "clip,O,C,E,A,N,remark,remark\na,.1,.2,.3,.4,.5,x,y\n",
        "clip,openness,openness (sd),C,E,A,N,O\na,.1,7,.2,.3,.4,.5,.9\n",
        "clip (file);O (0-1);C;E;A;N\na;0,100;0,2;0,3;0,4;0,5\n",
    ],
)
def test_a_text_is_read_whatever_parts_its_cells_and_stands_above_them(tmp_path, text):
    make_clips(tmp_path, "a.mp4")
    for name in ("ratings.csv", "Ratings.TSV", "ratings.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        found = read(tmp_path)
        assert (found.kind, found.table.loc["a"].tolist()) == (name[-3:].lower(), FIVE)
        (tmp_path / name).unlink()


def test_clip_names_that_look_like_numbers_stay_names_and_cells_without_a_rating_are_missing(tmp_path):
    rated = {"001": "0", "1e5": "0.1", "NA": "0.2", "nan": "0.3", "-0.5": "0.4", "x y": "0.5"}
    empty = {f"m{i}": cell for i, cell in enumerate(["", "NA", "n/a", "-", "–", "?", " ", "#N/A", "NaN"])}
    make_clips(tmp_path, *(f"{name}.mp4" for name in rated | empty))
    write_csv(tmp_path, "clip,warmth", *(f"{name},{cell}" for name, cell in (rated | empty).items()))
    found = read(tmp_path, ["warmth"])
    assert found.table["warmth"].dropna().to_dict() == {name: float(cell) for name, cell in rated.items()}
    assert found.problems.to_numpy().tolist() == [[name, "no number for warmth"] for name in empty]


def test_ratings_are_found_in_a_child_folder_but_those_beside_the_clips_come_first(folder):
    (folder / "annotations").mkdir()
    write_csv(folder / "annotations", HEADER, "-AmMDnVl4s8.003,.1,.1,.1,.1,.1")
    assert read(folder).table["openness"].tolist() == [0.1]
    write_csv(folder, HEADER, "-AmMDnVl4s8.003,1,7,4,2.5,5.5")
    assert read(folder, rating_range=(1, 7)).table.iloc[0].tolist() == [0, 1, 0.5, 0.25, 0.75]
    for other, data in (("annotations.csv", b""), ("annotation_training.pkl", pickle.dumps({}))):
        (folder / other).write_bytes(data)
        with pytest.raises(ValueError, match=f"{other}.*ratings.csv|ratings.csv.*{other}"):  # nor two, nor two kinds
            read(folder)
        (folder / other).unlink()


def test_what_does_not_fit_is_listed_and_nothing_is_lost(folder):
    names = ["C:\\study\\training80_01\\-AmMDnVl4s8.003.MP4", "-ammdnvl4s8.003", "/x/ben.mp4"]
    write_csv(folder, HEADER, *(f"{name},.1,nan,.3,,.5" for name in names), "_plk5k7PBEg.001,,,,,")
    found = read(folder)
    assert found.problems.to_numpy().tolist() == [
        ["/x/ben.mp4", "rating without clip"],
        [FOUR, "clip without rating"],
        [THREE, "rated twice, alike"],
        [THREE, "no number for conscientiousness, agreeableness"],
        [TEST, f"no number for {', '.join(TRAITS)}"],
    ]
    matched, lost = clips.as_lines(found.matched)
    assert "3 names matched (1 by path, 1 by other case, 1 by file name)" in matched
    assert "1 names fit no clip: /x/ben.mp4" in lost
    assert clips.as_lines(found.matched[:0]) == []
    table = clips.add_ratings(clips.find_clips(folder), found)
    assert table["openness"].notna().to_dict() == {TEST: False, THREE: True, FOUR: False}


def test_a_sheet_of_excel_is_read_by_its_columns(tmp_path, caplog):
    make_clips(tmp_path, "1.mp4", "2.mp4", "b.mp4", "c.mp4")
    book = openpyxl.Workbook()
    book.active.append(["How they were made"])
    for row in (
        ["Ratings of 2020"],
        ["clip", "O", "C", "E", "A", "N", "when"],
        [1.0, *FIVE, datetime.date(2020, 1, 2)],
        [2, *map(str, FIVE)],
        [],
        ["C:\\study\\B.MP4", "0,1", "0,2", "0,3", "0,4", "0,5"],
        ["c", "#DIV/0!", None, "=1/2", 0.4, 0.5],  # a formula that Excel has not computed: no value is stored
    ):
        (book["data"] if "data" in book.sheetnames else book.create_sheet("data")).append(row)
    book.save(tmp_path / "ratings.xlsx")
    found = read(tmp_path)
    assert found.table.drop("c").to_numpy().tolist() == [FIVE] * 3
    assert found.matched[["key", "rule"]].to_numpy().tolist() == [
        ["1", "key"], ["2", "key"], ["b", "path, other case"], ["c", "key"]
    ]  # fmt: skip
    assert found.problems.to_numpy().tolist() == [["c", "no number for openness, conscientiousness, extraversion"]]
    assert "the sheet 'data' is read, and not 'Sheet'" in caplog.text


def test_several_raters_are_averaged_and_their_agreement_is_told(tmp_path):
    make_clips(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    lines = ["a,ann,0.2,0.5", "a,bob,0.4,", "b,ann,0.5,0.5", "b,bob,0.7,0.1", "c,ann,0.9,0.3", "c,bob,0.7,0.3"]
    write_csv(tmp_path, "clip,rater,warmth,calm", *lines)
    found = read(tmp_path, targets=["warmth", "calm"])
    assert found.table["warmth"].tolist() == pytest.approx([0.3, 0.6, 0.8])
    assert found.table["calm"].tolist() == pytest.approx([0.5, 0.3, 0.3])  # of those who rated it
    assert found.reliability.loc["warmth", "per_clip"] == 2
    assert 0.5 < found.reliability.loc["warmth", "max_r2"] < 1


def agreement(table) -> pd.Series:
    rows = [(f"c{i}", f"r{j}", value) for i, row in enumerate(table) for j, value in enumerate(row)]
    return reliability(pd.DataFrame(rows, columns=["key", "rater", "warmth"]), ["warmth"]).loc["warmth"]


def test_raters_give_the_published_icc_chance_gives_zero_and_one_rater_per_clip_tells_nothing():
    shrout_and_fleiss = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]  # table 2
    found = agreement(shrout_and_fleiss)
    assert (found["single"], found["mean"]) == (pytest.approx(0.17, abs=0.005), pytest.approx(0.44, abs=0.005))
    assert found["max_pearson"] == pytest.approx(found["mean"] ** 0.5)
    assert (found["clips"], found["raters"], found["per_clip"], found["kind"]) == (6, 4, 4, "ICC(1,k)")
    assert agreement([[1, 5], [5, 1], [2, 4], [4, 2]])["mean"] == 0
    assert np.isnan(agreement([[1, 1], [1, 1]])["mean"])  # nothing varies
    alone = agreement(np.random.default_rng(0).random((9, 1)))
    assert (alone["clips"], np.isnan(alone["mean"])) == (0, True)


def test_a_perfect_model_reaches_the_ceiling_and_no_more():
    random = np.random.default_rng(0)
    truth = random.normal(0.5, 0.15, 4000)
    ratings = truth[:, None] + 0.2 * random.standard_normal((4000, 3))
    ratings[::2, 2] = np.nan  # half of the clips have two raters
    found = agreement(ratings)
    assert found["max_pearson"] == pytest.approx(np.corrcoef(truth, np.nanmean(ratings, 1))[0, 1], abs=0.01)
