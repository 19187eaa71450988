"""What is told before and after a run: ratings and what 06 needs of them, what was seen, used and left out."""

import pandas as pd
import pytest

from helpers import inputs, workbook
from helpers.clips import TRAITS, find_clips, scan_clips
from helpers.files import write_json


@pytest.fixture
def data(tmp_path):
    """A folder of nine files that are named as clips, with ratings of eight of them and of another one."""
    folder = tmp_path / "data {x}"
    folder.mkdir()
    for k in range(9):
        (folder / f"c{k}.mp4").touch()
    ratings = pd.DataFrame({trait: [k / 10 for k in range(9)] for trait in TRAITS})
    ratings.set_axis([*(f"c{k}" for k in range(8)), "who"]).to_csv(folder / "ratings.csv", index_label="clip")
    return folder


def text_of(data, limit=0):
    return inputs.ratings_text(
        workbook.plan(data, data / "out", weights="random"), data, find_clips(data), limit
    ).splitlines()


def test_check_tells_what_ratings_were_matched_to_and_what_06_needs(data):
    said = text_of(data)
    assert said[0] == "8 of 9 clips are rated"
    assert any("who" in line for line in said)
    assert not any("WARNING" in line for line in said)
    assert text_of(data, 3)[-1].startswith("WARNING: 06 could not train: validation and test must leave a source")
    (data / "truth.csv").write_text("key,clip_seed\n")  # synthetic clips: the token bank stands in
    assert not any("WARNING" in line for line in text_of(data, 3))


@pytest.mark.parametrize(("content", "said"), [("", "ratings cannot be used: "), (None, "0 of 9 clips are rated")])
def test_ratings_that_cannot_be_used_are_a_line(data, content, said):
    (data / "ratings.csv").unlink()
    if content is not None:
        (data / "ratings.csv").write_text(content)
    assert text_of(data)[0].startswith(said)


def test_the_end_of_a_run_tells_what_was_seen_used_and_left_out_and_lists_it(data, tmp_path):
    (data / "photo.jpg").touch()
    write_json(tmp_path / "out/faces/manifest.json", {"failed": [{"clip": "c1", "reason": "no face found in 6 looks"}]})
    failed = [{"clip": "c2", "reason": "too short (0.1 s)"}, {"clip": "c3", "row": 2, "reason": "empty"}]
    write_json(tmp_path / "out/static/manifest.json", {"failed": [*failed, {"clip": "c1", "reason": "no track"}]})
    said = inputs.account(*scan_clips(data), tmp_path / "out")
    assert "\n" not in said
    assert said.startswith("seen 11 files: 9 clips, 1 of ratings, 1 left out (1 pictures)")
    assert "7 used, 2 cannot be (1 no face found in … looks, 1 too short)" in said
    listed = pd.read_csv(tmp_path / "out" / "left_out.csv", keep_default_na=False)
    assert said.endswith(str(tmp_path / "out" / "left_out.csv"))
    assert ["c1.mp4", "clip", "no face found in 6 looks"] in listed.to_numpy().tolist()
    assert ["photo.jpg", "pictures", ""] in listed.to_numpy().tolist()
