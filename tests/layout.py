"""Data folders of empty clips."""


def make_clips(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"video")
    return folder
