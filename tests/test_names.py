"""Names: keys, sources, splits, and which clip a name means."""

from helpers.labels import names


def test_names_are_matched_by_the_end_of_a_key_exact_keys_first():
    splits = {"x": "", "a/x": "", "a/b/y": "train", "id.003": ""}
    assert names.find_keys(["x", "x.mp4", "a/x", "./y.mov", "b/y", "c/y", "id.003", "z"], splits) == [
        "x",
        "x",
        "a/x",
        "a/b/y",
        "a/b/y",
        "",
        "id.003",
        "",
    ]


def test_only_the_suffix_of_a_video_is_taken_off():
    assert [names.clip_key(path) for path in ("a/id.003.mp4", "a/id.003", "b.MOV", "c.mp4.mp4", "d")] == [
        "a/id.003",
        "a/id.003",
        "b",
        "c.mp4",
        "d",
    ]


def test_numbers_in_names_are_ordered_as_numbers_folder_by_folder():
    shuffled = ["p10/1", "p9/2", "p9/02", "p9/10", "-p/1"]
    assert sorted(shuffled, key=names.natural_order) == ["-p/1", "p9/02", "p9/2", "p9/10", "p10/1"]


def test_a_name_is_taken_as_it_is_before_it_is_tidied():
    keys = [" x", "x", "a/y ", "b\\z", "b/z"]
    fitting = names.fitting_keys([" x", "x", " x.mp4", "y ", "a/y ", "b\\z", "./x ", " b\\z"], keys)
    assert fitting == [[" x"], ["x"], [" x"], ["a/y "], ["a/y "], ["b\\z"], ["x"], ["b/z"]]
    assert names.fitting_keys(["b\\z"], ["b/z"]) == [["b/z"]]
