"""Ratings: every kind of file and table, how far raters agree, and every bad file. Nothing in one is run."""

import datetime
import json
import os
import pickle
import sys

import numpy as np
import openpyxl
import pandas as pd
import pytest
from layout import make_clips

from helpers import clips
from helpers.clips import TRAITS
from helpers.ratings import reliability

CHALLENGE_ORDER = ("extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness")
FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]
HEADER = "clip,openness,conscientiousness,extraversion,agreeableness,neuroticism"


def challenge(values):
    """{trait: {clip: value}} in the challenge's order of traits; `values` has one number per trait of TRAITS."""
    by_trait = {trait: {clip: five[i] for clip, five in values.items()} for i, trait in enumerate(TRAITS)}
    by_trait["interview"] = dict.fromkeys(values, 0.99)
    return {trait: by_trait[trait] for trait in CHALLENGE_ORDER}


def read(folder, targets=TRAITS, **options):
    return clips.read_ratings(folder, clips.find_clips(folder), targets, **options)


def write_csv(folder, *lines, name="ratings.csv", encoding="utf-8"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_are_read_by_trait_and_clip_name(folder, protocol):
    train = challenge(
        {"-AmMDnVl4s8.004.mp4": [0.1, 0.2, 0.3, 0.4, 0.5], "-AmMDnVl4s8.003.mp4": [0.6, 0.7, 0.8, 0.9, 1]}
    )
    test = challenge({"_plk5k7PBEg.001.mp4": [0, 0.11, 0.12, 0.13, 0.14]})
    (folder / "annotation_training.pkl").write_bytes(pickle.dumps(train, protocol))
    (folder / "annotation_test.pkl").write_bytes(pickle.dumps(test, protocol))
    found = read(folder)
    assert found.kind == "pickle"
    assert found.table.loc["training80_01/-AmMDnVl4s8.003"].tolist() == [0.6, 0.7, 0.8, 0.9, 1]
    assert found.table.loc["training80_01/-AmMDnVl4s8.004"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert found.table.loc["test80_02/_plk5k7PBEg.001"].tolist() == [0, 0.11, 0.12, 0.13, 0.14]


class Asks:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_asks_for_a_function_is_refused_and_runs_nothing(folder, protocol):
    flag = folder / "executed"
    data = challenge({"-AmMDnVl4s8.003.mp4": [0.5] * 5}) | {"extra": Asks(os.system, f"touch '{flag}'")}
    (folder / "annotation_training.pkl").write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(ValueError, match="system"):
        read(folder)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps({"openness": {"a": np.float64(0.5)}}), "scalar"),
        (b"(S'ls'\niposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"\x80\x04\x8c\x07a\nb\x1b[31\x8c\x06system\x93.", r"a\\nb\\x1b"),
        (b"Psomewhere\n.", "persistent"),
        (b"\x80\x02\x82\x07.", "extension"),
        (b"", "dicts"),
        (b"not a pickle", "dicts"),
        (pickle.dumps({"openness": {"a": 0.5}})[:-4], "dicts"),
        (pickle.dumps([1, 2]), "list"),
        (pickle.dumps({"openness": [0.5]}), "trait"),
        (pickle.dumps({"openness": {"a": "high"}}), "high"),
        (pickle.dumps({"openness": {3: 0.5}}), "3"),
        (pickle.dumps({"openness": {"a": 10**400}}), "100000"),
        (pickle.dumps({"warmth": {"a": 0.5}, "interview": {}}), "'openness'"),
    ],
)
def test_a_pickle_of_anything_else_is_one_clear_line(tmp_path, content, word):
    make_clips(tmp_path, "a.mp4")
    (tmp_path / "annotation_training.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=word) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("annotation_training.pkl")


def test_json_of_the_challenge_shape_is_read_and_null_is_unrated(folder):
    data = challenge({"-AmMDnVl4s8.003.mp4": [0.1, None, 0.3, 0.4, 0.5]})
    (folder / "annotation_training.json").write_text(json.dumps(data))
    found = read(folder)
    assert found.kind == "json"
    assert found.table.loc["training80_01/-AmMDnVl4s8.003"].isna().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("text", ["{", '{"openness": 3}', "[" * 100_000])
def test_damaged_json_is_refused(folder, text):
    (folder / "annotation_test.json").write_text(text)
    with pytest.raises(ValueError, match="annotation_test.json"):
        read(folder)


def test_a_csv_names_clips_by_key_or_file_name_and_may_state_source_and_split(folder):
    write_csv(
        folder,
        "clip,source,split," + HEADER.removeprefix("clip,"),
        "training80_01/-AmMDnVl4s8.003,film,val,.1,.2,.3,.4,.5",
        " -AmMDnVl4s8.004.MP4 ,,,1,1,1,1,1",
        "test80_02\\_plk5k7PBEg.001.mp4,film,,0,0,0,0,0",
    )
    table = clips.read_clips(folder)
    assert table.columns.tolist() == ["path", "source", "split", "bytes", *TRAITS]
    assert table.loc["training80_01/-AmMDnVl4s8.003", ["source", "split"]].tolist() == ["film", "validation"]
    assert table.loc["training80_01/-AmMDnVl4s8.003", list(TRAITS)].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert table.loc["training80_01/-AmMDnVl4s8.004", ["source", "split"]].tolist() == ["-AmMDnVl4s8", "train"]
    assert table.loc["test80_02/_plk5k7PBEg.001", ["source", "split", "openness"]].tolist() == ["film", "test", 0]


def test_the_csv_of_the_challenge_is_read_with_its_spelling(folder):
    write_csv(
        folder,
        "VideoName,ValueExtraversion,ValueAgreeableness,ValueConscientiousness,ValueNeurotisicm,ValueOpenness",
        "_plk5k7PBEg.001.mp4,.3,.4,.2,.5,.1",
    )
    assert read(folder).table.loc["test80_02/_plk5k7PBEg.001"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nclip;O;C;E;A;N\na;0,1;0,2;0,3;0,4;0,5\n",
        '"sep=|"\nclip|O|C|E|A|N\na|0.1|0.2|0.3|0.4|0.5\n',
        "SEP=\t\nclip\to\tc\te\ta\tn\na\t.1\t.2\t.3\t.4\t.5\n",
        "CLIP,OPENNESS,CONSCIENTIOUSNESS,EXTRAVERSION,AGREEABLENESS,NEUROTICISM\na,.1,.2,.3,.4,.5\n",
        "clip  O  C   E A N\na    .1 .2  .3 .4 .5\n",
        "# rated in 2020\n# five raters, mean\nclip,E,A,C,N,O\na,.3,.4,.2,.5,.1\n",
        "Study 1: ratings; final version\n\n;clip;O;C;E;A;N;\n1;a;0,1;0,2;0,3;0,4;0,5;\n",
        'clip,O,C,E,A,N\n"a","0,1","0,2","0,3","0,4","0,5"\n',
        "clip,Openness (0-1),Conscientiousness [0-1],Extroversion,Agreeableness (A),Neuroticism(N)\na,.1,.2,.3,.4,.5\n",
        "clip,O,C,E,A,N,remark,remark\na,.1,.2,.3,.4,.5,x,y\n",
        "clip|openness|conscientiousness|extraversion|agreeableness|neuroticism|O\na|.1|.2|.3|.4|.5|9\n",
        "clip,openness,openness (sd),C,E,A,N,O\na,.1,7,.2,.3,.4,.5,.9\n",
        "clip (file);O (0-1);C;E;A;N\na;0,1;0,2;0,3;0,4;0,5\n",
    ],
)
def test_a_text_is_read_whatever_parts_its_cells_and_stands_above_them(tmp_path, text):
    make_clips(tmp_path, "a.mp4")
    for name in ("ratings.csv", "Ratings.TSV", "ratings.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        found = read(tmp_path)
        assert found.kind == name[-3:].lower()
        assert found.table.loc["a"].tolist() == FIVE
        (tmp_path / name).unlink()


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "-", "–", "?", " ", "#N/A", "NaN"])
def test_a_cell_without_a_rating_is_missing(tmp_path, cell):
    make_clips(tmp_path, "a.mp4", "b.mp4")
    write_csv(tmp_path, "clip,warmth", "a,0.5", f"b,{cell}")
    assert read(tmp_path, ["warmth"]).problems.to_numpy().tolist() == [["b", "no number for warmth"]]


@pytest.mark.parametrize("clip", ["001", "1e5", "NA", "nan", "-0.5", "x y"])
def test_clip_names_that_look_like_numbers_stay_names(tmp_path, clip):
    make_clips(tmp_path, f"{clip}.mp4")
    write_csv(tmp_path, "clip,openness", f"{clip},0.5")
    assert read(tmp_path, targets=["openness"]).table["openness"].to_dict() == {clip: 0.5}


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (["clip,openness", "a,high"], "ratings.csv line 2: openness .* 'high'"),
        (["clip,openness", 'a,"1,234.5"'], "1,234.5"),
        (["clip,openness", "a,0,5"], "line 2"),
        (["clip,openness", "a,.5", "Total,50.5"], "Total"),
        (["clip,openness", "a,1.3"], "openness of a .* 1.3.*rating_low and rating_high"),
        (["clip,openness", "absent,7"], "absent"),
        (["clip,openness,split", "a,.5,fold1"], "fold1"),
        (["clip,openness", ",.5"], "line 2 must name a clip"),
        (["clip,openness", "", "a,.5,.6"], "line 3"),
        (["clip,warmth", "a,.5"], "'openness'"),
        (["name,openness", "a,.5"], "'clip'"),
        (["clip,openness,ValueOpenness", "a,.5,.5"], "'openness'"),
        (["clip,openness (m),openness (sd)", "a,.5,.6"], "'openness'"),
        (["clip,openness", "a,.5", "a.mp4,.6"], "a must be rated once, got openness 0.5 and 0.6"),
        (["clip,openness", "a,.5", "a,"], "a must be rated once, got openness 0.5 and nan"),
        (["clip,openness,source", "a,.5,x", "a,.5,y"], "a must be rated once, got source x and y"),
        (["clip,rater,group,openness", "a,ann,x,0.2", "a,ann,x,0.4"], "once, got openness 0.2 and 0.4.* rater"),
        (["clip,rater,group,openness", "a,ann,x,0.2", "a,bob,y,0.4"], "once, got group x and y"),
        (["clip,rater,group,openness", "a,ann,x,0.2", "a,,x,0.4"], "line 3 .*rater"),
        (["clip,openness", "x,0.2", "y,0.4"], "2 names"),
        ([""], "'clip'"),
        (["clip,openness", 'a,"' + "x" * 140_000], "CSV"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path, lines, word):
    make_clips(tmp_path, "a.mp4")
    write_csv(tmp_path, *lines)
    with pytest.raises(ValueError, match=word) as caught:
        read(tmp_path, ["openness"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_csv_that_is_not_utf8_is_an_error_that_says_so(tmp_path, encoding):
    make_clips(tmp_path, "ä.mp4")
    write_csv(tmp_path, "clip,openness", "ä,0.5", encoding=encoding)
    with pytest.raises(ValueError, match="UTF-8"):
        read(tmp_path, ["openness"])


def test_a_file_name_that_fits_two_clips_is_refused_and_a_key_is_not(tmp_path):
    make_clips(tmp_path, "a/x.mp4", "b/x.mp4")
    write_csv(tmp_path, "clip,openness", "x.mp4,0.5")
    with pytest.raises(ValueError, match="a/x and b/x"):
        read(tmp_path, targets=["openness"])
    write_csv(tmp_path, "clip,openness", "b/x,0.5")
    assert read(tmp_path, targets=["openness"]).table.index.tolist() == ["b/x"]


def test_a_pickle_rates_the_clip_of_its_own_split(tmp_path):
    make_clips(tmp_path, "training80_01/x.mp4", "test80_01/x.mp4", "validation80_01/y.mp4")
    for split, value in (("training", 0.25), ("test", 0.75)):
        data = {"openness": {"x.mp4": value, "y.mp4": 0.5}}
        (tmp_path / f"annotation_{split}.pkl").write_bytes(pickle.dumps(data))
    found = read(tmp_path, targets=["openness"])
    assert found.table["openness"].to_dict() == {"test80_01/x": 0.75, "training80_01/x": 0.25}
    assert found.problems["problem"].value_counts().to_dict() == {"rating without clip": 2, "clip without rating": 1}


def test_pickles_tell_the_split_of_clips_in_one_flat_folder(tmp_path):
    make_clips(tmp_path, "x.mp4", "y.mp4")
    (tmp_path / "annotation_validation.pkl").write_bytes(pickle.dumps({"openness": {"y.mp4": 0.5}}))
    assert clips.read_clips(tmp_path, targets=["openness"])["split"].to_dict() == {"x": "", "y": "validation"}


def test_two_kinds_of_ratings_are_refused_naming_both(folder):
    write_csv(folder, HEADER)
    (folder / "annotation_training.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="ratings.csv.* and .*annotation_training.pkl"):
        read(folder)


def test_ratings_are_found_in_a_child_folder_but_those_beside_the_clips_come_first(folder):
    (folder / "annotations").mkdir()
    write_csv(folder / "annotations", HEADER, "-AmMDnVl4s8.003,.1,.1,.1,.1,.1")
    assert read(folder).table["openness"].tolist() == [0.1]
    write_csv(folder, HEADER, "-AmMDnVl4s8.003,.2,.2,.2,.2,.2")
    assert read(folder).table["openness"].tolist() == [0.2]


def test_what_does_not_fit_is_listed_and_nothing_is_lost(folder):
    write_csv(
        folder,
        HEADER,
        "-AmMDnVl4s8.003,.1,nan,.3,,.5",
        "-AmMDnVl4s8.003.mp4,.1,nan,.3,,.5",
        "elsewhere.mp4,.1,.2,.3,.4,.5",
        "_plk5k7PBEg.001,,,,,",
    )
    found = read(folder)
    assert found.problems.to_numpy().tolist() == [
        ["elsewhere.mp4", "rating without clip"],
        ["training80_01/-AmMDnVl4s8.004", "clip without rating"],
        ["training80_01/-AmMDnVl4s8.003", "rated twice, alike"],
        ["training80_01/-AmMDnVl4s8.003", "no number for conscientiousness, agreeableness"],
        ["test80_02/_plk5k7PBEg.001", f"no number for {', '.join(TRAITS)}"],
    ]
    table = clips.add_ratings(clips.find_clips(folder), found)
    assert table["openness"].notna().to_dict() == {
        "test80_02/_plk5k7PBEg.001": False,
        "training80_01/-AmMDnVl4s8.003": True,
        "training80_01/-AmMDnVl4s8.004": False,
    }


def test_another_scale_is_mapped_to_zero_and_one(folder):
    write_csv(folder, HEADER, "_plk5k7PBEg.001,1,7,4,2.5,5.5")
    values = read(folder, rating_range=(1, 7)).table.iloc[0]
    assert values.tolist() == [0, 1, 0.5, 0.25, 0.75]


def test_a_limit_does_not_turn_ratings_into_ratings_without_clip(folder):
    write_csv(folder, HEADER, "-AmMDnVl4s8.003,.1,.2,.3,.4,.5")
    table = clips.read_clips(folder, limit=2)
    assert table.index.tolist() == ["test80_02/_plk5k7PBEg.001", "training80_01/-AmMDnVl4s8.003"]
    with pytest.raises(ValueError, match="limit must be 0"):
        clips.read_clips(folder, limit=-2)


def test_several_raters_are_averaged_and_their_agreement_is_told(tmp_path):
    make_clips(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    lines = ["a,ann,0.2,0.5", "a,bob,0.4,", "b,ann,0.5,0.5", "b,bob,0.7,0.1", "c,ann,0.9,0.3", "c,bob,0.7,0.3"]
    write_csv(tmp_path, "clip,rater,warmth,calm", *lines)
    found = read(tmp_path, targets=["warmth", "calm"])
    assert found.table["warmth"].tolist() == pytest.approx([0.3, 0.6, 0.8])
    assert found.table["calm"].tolist() == pytest.approx([0.5, 0.3, 0.3])  # of those who rated it
    assert found.problems.empty
    assert found.reliability.loc["warmth", "per_clip"] == 2
    assert 0.5 < found.reliability.loc["warmth", "max_r2"] < 1
    assert read_one_rater(tmp_path).reliability is None


def read_one_rater(folder):
    write_csv(folder, "clip,warmth", "a,0.2", "b,0.5", "c,0.9")
    return read(folder, targets=["warmth"])


def test_a_group_comes_into_the_table_of_clips_and_back_from_its_file(tmp_path):
    make_clips(tmp_path, "a.mp4", "b.mp4")
    write_csv(tmp_path, "clip,group,warmth", "a,women,0.2", "b,,0.4")
    table = clips.read_clips(tmp_path, targets=["warmth"])
    assert table["group"].tolist() == ["women", ""]
    assert clips.targets_of(table) == ["warmth"]
    clips.write_clips(table, tmp_path / "clips.csv")
    assert clips.load_clips(tmp_path / "clips.csv")["group"].tolist() == ["women", ""]


def write_excel(path, *sheets):
    """Sheets as (title, rows)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_a_sheet_of_excel_is_read_by_its_columns(tmp_path, caplog):
    make_clips(tmp_path, "1.mp4", "002.mp4", "b.mp4", "c.mp4")
    rows = [
        ["Ratings of 2020"],
        [],
        ["clip", "O", "C", "E", "A", "N", "when"],
        [1.0, *FIVE, datetime.date(2020, 1, 2)],
        [2, *map(str, FIVE)],
        [],
        ["C:\\study\\B.MP4", "0,1", "0,2", "0,3", "0,4", "0,5"],
        ["c", "#DIV/0!", None, "=1/2", 0.4, 0.5],  # a formula that Excel has not computed: no value is stored
    ]
    write_excel(tmp_path / "ratings.xlsx", ("about", [["How they were made"]]), ("data", rows), ("empty", []))
    found = read(tmp_path)
    assert found.kind == "excel"
    assert found.table.drop("c").to_numpy().tolist() == [FIVE] * 3
    assert found.matched[["key", "rule"]].to_numpy().tolist() == [
        ["1", "key"], ["002", "same number"], ["b", "path, other case"], ["c", "key"]
    ]  # fmt: skip
    assert found.problems.to_numpy().tolist() == [["c", "no number for openness, conscientiousness, extraversion"]]
    assert "ratings.xlsx: the sheet 'data' is read, and not 'about'" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no workbook", b"PK\x03\x04damaged", [["name"], ["a"]], [], None])
def test_a_workbook_that_is_damaged_or_without_ratings_is_refused(tmp_path, monkeypatch, content):
    make_clips(tmp_path, "a.mp4", "ratings.xlsx")
    if isinstance(content, bytes):
        (tmp_path / "ratings.xlsx").write_bytes(content)
    elif content is None:
        monkeypatch.setitem(sys.modules, "openpyxl", None)
    else:
        write_excel(tmp_path / "ratings.xlsx", ("x", content))
    with pytest.raises(ValueError, match="ratings.xlsx .*" + ("pip install openpyxl" if content is None else "")):
        read(tmp_path)


SHROUT_AND_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]  # table 2


def agreement(table) -> pd.Series:
    rows = [(f"c{i}", f"r{j}", value) for i, row in enumerate(table) for j, value in enumerate(row)]
    return reliability(pd.DataFrame(rows, columns=["key", "rater", "warmth"]), ["warmth"]).loc["warmth"]


def test_raters_give_the_published_icc():
    found = agreement(SHROUT_AND_FLEISS)
    assert (found["single"], found["mean"]) == (pytest.approx(0.17, abs=0.005), pytest.approx(0.44, abs=0.005))
    assert found["mean"] == pytest.approx(4 * found["single"] / (1 + 3 * found["single"]))  # Spearman and Brown
    assert found["max_pearson"] == pytest.approx(found["mean"] ** 0.5)
    assert (found["clips"], found["raters"], found["per_clip"], found["kind"]) == (6, 4, 4, "ICC(1,k)")


def test_a_perfect_model_reaches_the_ceiling_and_no_more():
    random = np.random.default_rng(0)
    truth = random.normal(0.5, 0.15, 4000)
    ratings = truth[:, None] + 0.2 * random.standard_normal((4000, 3))
    ratings[::2, 2] = np.nan  # half of the clips have two raters
    found = agreement(ratings)
    assert found["per_clip"] == 2.5
    assert found["max_pearson"] == pytest.approx(np.corrcoef(truth, np.nanmean(ratings, 1))[0, 1], abs=0.01)


def test_one_rater_per_clip_tells_nothing_and_chance_agreement_is_zero():
    alone = agreement(np.random.default_rng(0).random((9, 1)))
    assert alone["clips"] == 0
    assert np.isnan(alone["mean"])
    assert np.isnan(agreement([[1, 1], [1, 1]])["mean"])  # nothing varies
    assert agreement([[1, 5], [5, 1], [2, 4], [4, 2]])["mean"] == 0
