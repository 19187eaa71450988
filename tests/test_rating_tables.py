"""Tables of ratings as people keep them: any separator, titles, initials, Excel; what is told and not guessed."""

import datetime
import sys

import openpyxl
import pytest
from layout import make_clips

from helpers import clips
from helpers.clips import TRAITS

FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]


def read(folder, targets=TRAITS, **options):
    return clips.read_ratings(folder, clips.find_clips(folder), targets, **options)


def write_excel(path, *sheets):
    """Sheets as (title, rows)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


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
    ],
)
@pytest.mark.parametrize("name", ["ratings.csv", "Ratings.TSV", "ratings.txt"])
def test_a_text_is_read_whatever_parts_its_cells_and_stands_above_them(tmp_path, name, text):
    make_clips(tmp_path, "a.mp4")
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read(tmp_path)
    assert found.kind == name[-3:].lower()
    assert found.table.loc["a"].tolist() == FIVE


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "-", "–", "?", " ", "#N/A", "NaN"])
def test_a_cell_without_a_rating_is_missing(tmp_path, cell):
    make_clips(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "ratings.csv").write_text(f"clip,warmth\na,0.5\nb,{cell}\n", encoding="utf-8")
    assert read(tmp_path, ["warmth"]).problems.to_numpy().tolist() == [["b", "no number for warmth"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,warmth\na,50%\n", "line 2: warmth must be a number, got '50%'"),
        ('clip,warmth\na,"1,234.5"\n', "line 2: warmth must be a number, got '1,234.5'"),
        ("clip,warmth\na,1_0\n", "must be a number, got '1_0'"),
        ("clip,warmth\na,0,5\n", "line 2 must have at most 2 fields, got 3"),
        ("clip,warmth\na,.5\nTotal,50.5\n", "warmth of Total must be between 0 and 1"),
        ("clip,warmth (m),warmth (sd)\na,.5,.6\n", "must have one column 'warmth', got two"),
        ("clip,Clip,warmth\na,b,.5\n", "must have one column 'clip', got two"),
        ("clip,W\na,.5\n", "must have a column 'warmth', got clip, W"),
    ],
)
def test_what_would_have_to_be_guessed_is_one_clear_line(tmp_path, text, message):
    make_clips(tmp_path, "a.mp4")
    (tmp_path / "ratings.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, ["warmth"])
    assert "\n" not in str(caught.value)


def test_initials_are_traits_only_where_all_five_are_there(tmp_path):
    make_clips(tmp_path, "a.mp4")
    (tmp_path / "ratings.csv").write_text("clip,O,C,E,A\na,.1,.2,.3,.4\n")
    with pytest.raises(ValueError, match="must have a column 'openness', got clip, O, C, E, A"):
        read(tmp_path)


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


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (datetime.date(2020, 1, 2), "ratings.xlsx row 2: warmth must be a number, got '2020-01-02"),
        (True, "row 2: warmth must be a number, got 'True'"),
        (3, "warmth of a must be between 0 and 1, got 3"),
    ],
)
def test_a_cell_of_excel_that_is_no_rating_is_one_clear_line(tmp_path, cell, message):
    make_clips(tmp_path, "a.mp4")
    write_excel(tmp_path / "ratings.xlsx", ("data", [["clip", "warmth"], ["a", cell]]))
    with pytest.raises(ValueError, match=message):
        read(tmp_path, ["warmth"])


@pytest.mark.parametrize("content", [b"", b"no workbook", b"PK\x03\x04damaged"])
def test_a_damaged_workbook_is_one_clear_line(tmp_path, content):
    make_clips(tmp_path, "a.mp4")
    (tmp_path / "ratings.xlsx").write_bytes(content)
    with pytest.raises(ValueError, match=r"ratings.xlsx is not a workbook of Excel \(.*\)\. Save it anew, or as CSV"):
        read(tmp_path)


def test_a_workbook_without_ratings_says_what_it_holds(tmp_path):
    make_clips(tmp_path, "a.mp4")
    write_excel(tmp_path / "ratings.xlsx", ("x", [["name", "warmth"], ["a", 0.5]]))
    with pytest.raises(ValueError, match="ratings.xlsx must have a column 'clip', got name, warmth"):
        read(tmp_path)
    write_excel(tmp_path / "ratings.xlsx", ("x", []))
    with pytest.raises(ValueError, match="must begin with a line of column names, got none"):
        read(tmp_path)


def test_without_openpyxl_the_command_is_told(tmp_path, monkeypatch):
    make_clips(tmp_path, "a.mp4", "ratings.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match="not installed. Run pip install openpyxl, or save it as ratings.csv"):
        read(tmp_path)


def test_one_line_per_rater_is_averaged_from_any_table(tmp_path):
    make_clips(tmp_path, "a.mp4", "b.mp4")
    rows = [["Rater", "clip", "warmth"], ["ann", "a", 1], ["bob", "a.mp4", 3], ["ann", "b", 5], ["bob", "B", 7]]
    write_excel(tmp_path / "ratings.xlsx", ("data", rows))
    found = read(tmp_path, ["warmth"], rating_range=(1, 7))
    assert found.table["warmth"].tolist() == pytest.approx([1 / 6, 5 / 6])
    assert found.reliability.loc["warmth", "raters"] == 2
