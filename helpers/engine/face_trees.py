"""Faces from a tree of pictures instead of videos: `<clip>/face_000035.jpg`, as the source project and
`helpers.faces` write them.

In: a folder with a folder of JPEG or PNG files per clip, all pictures square, RGB and of one size, whose names end in a
number. Out: `Piece`s of RGB uint8 (n, size_px, size_px, 3) as of `helpers.crops.face_crops`, every picture in
the order of its number; one that cannot be used is zeros and has its reason. Nothing here imports a network.

A number divided by the tree's rate is the time in seconds; where `helpers.faces` has left exact times, they count.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps

from helpers.clips import clip_key, natural_order
from helpers.crops import PIECE_CROPS, Clock, Piece
from helpers.engine.stored import StoredError, StoredTrack, commonest, spread, stamp_of
from helpers.faces import crop_face
from helpers.store import read_arrays

PICTURE = re.compile(r"(?:.*\D)?(\d+)\D*\.(?:jpe?g|png)", re.I)  # the last number counts: face_frame_0035.jpg
TIMES_SUFFIX = "_times"  # of the folder beside the tree in which `helpers.faces` keeps numbers and seconds
LOOKED_AT_CLIPS, LOOKED_AT_PICTURES = 16, 3  # to find out the side of a tree's pictures
EXIF_ORIENTATION = 0x0112
OTHER_MODES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with transparency",
    "P": "a palette of colours",
    "RGBA": "with transparency (RGBA)",
    "CMYK": "CMYK",
}
UNREADABLE = Exception  # damage makes Pillow raise nearly anything


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class FaceJob:
    """The pictures of one clip, n of them: `paths`, `number (n,)` in their names, ascending, `t_s (n,)` seconds, and
    `fps`, by how much the numbers grow in a second; `side_px` of every picture and `size_px` of the network's input.
    """

    paths: tuple[Path, ...]
    number: np.ndarray
    t_s: np.ndarray
    fps: float
    side_px: int
    size_px: int

    @property
    def track(self) -> StoredTrack:
        """What stands in for the clip's track: a picture stands for the time that one number takes."""
        return StoredTrack(self.fps, len(self.paths))


@dataclass(frozen=True)
class FaceTree:
    """A tree of pictures: `clips` by what the tree calls them, `side_px` of the pictures, and `fps`, by how much the
    numbers in their names grow in a second.
    """

    folder: Path
    clips: dict[str, Path]
    side_px: int
    fps: float

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the pictures themselves."""
        return {"faces": self.folder.name, "side_px": self.side_px, "fps": self.fps}

    def job(self, name: str, size_px: int) -> FaceJob:
        """The pictures of a clip; `StoredError` when they cannot be put in order and time."""
        pictures = pictures_of(self.clips[name])
        number = np.array(list(pictures), np.int64)
        t_s, fps = number / self.fps, self.fps
        if (times := self._times(name)).exists():
            t_s = _exact_times(times, pictures)
            fps = float(np.ptp(number) / np.ptp(t_s)) if len(number) > 1 else fps
        return FaceJob(tuple(pictures.values()), number, t_s, fps, self.side_px, size_px)

    def stamp(self, name: str) -> str:
        """Tells one version of a clip's pictures, and of their exact times, from another."""
        times = self._times(name)
        return stamp_of([*pictures_of(self.clips[name]).values(), *([times] if times.exists() else [])])

    def _times(self, name: str) -> Path:
        return self.folder.with_name(self.folder.name + TIMES_SUFFIX) / f"{name}.npz"


def open_face_tree(folder: str | Path, fps: float) -> FaceTree:
    """Find the clips of a tree and the side of its pictures; a few of them are looked at.

    Args:
        folder: Searched to any depth, through links too; hidden folders and files are left out. A folder that holds
            numbered pictures is a clip.
        fps: By how much the numbers in the names grow in a second: the clips' own rate where they number frames.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no pictures, none that can be read, or such that are not square.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"faces_dir must be a folder of face pictures, {folder} is none. Check the path.")
    clips: dict[str, Path] = {}
    for path in _picture_folders(folder):
        name = clip_key(path.relative_to(folder).as_posix())
        if name in clips:
            raise ValueError(f"{clips[name]} and {path} are the same clip {name!r}. Rename one of the two.")
        clips[name] = path
    if not clips:
        raise ValueError(f"faces_dir must hold pictures like clip/face_0001.jpg, got none below {folder}.")
    clips = dict(sorted(clips.items(), key=lambda item: natural_order(item[0])))
    return FaceTree(folder, clips, _side(list(clips.values())), float(fps))


def _picture_folders(root: Path) -> Iterator[Path]:
    """Every folder that holds numbered pictures; each folder once, however many links lead to it."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        again = (stat.st_dev, stat.st_ino) in seen
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [] if again else sorted(name for name in folders if not name.startswith("."))
        if not again and any(map(_is_numbered, names)):
            yield Path(folder)


def _is_numbered(name: str) -> bool:
    return PICTURE.fullmatch(name) is not None and not name.startswith(".")


def _side(folders: list[Path]) -> int:
    """Side in pixels of most of the pictures that are looked at."""
    looked_at = [p for f in spread(folders, LOOKED_AT_CLIPS) for p in spread(_numbered(f), LOOKED_AT_PICTURES)]
    size = commonest(size for size in map(_size, looked_at) if size)
    if size is None:
        raise ValueError(f"faces_dir must hold pictures, not one of {len(looked_at)} looked at can be read.")
    if size[0] != size[1]:
        raise ValueError(f"the pictures of faces_dir must be square, got {size[0]}x{size[1]} px. Crop them to squares.")
    return size[0]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE:
        return None


def _numbered(folder: Path) -> list[Path]:
    """The numbered pictures in a folder in natural order; other files are passed over."""
    return [folder / name for name in sorted(filter(_is_numbered, os.listdir(folder)), key=natural_order)]


def pictures_of(folder: Path) -> dict[int, Path]:
    """The pictures of a clip by the last number in their names, ascending.

    Raises:
        StoredError: There are none any more, or two have the same number.
    """
    found: dict[int, Path] = {}
    for path in _numbered(folder) if folder.is_dir() else []:
        number = int(PICTURE.fullmatch(path.name)[1])
        if number > np.iinfo(np.int64).max:
            raise StoredError(f"the number in {path.name} is too large")
        if number in found:
            raise StoredError(f"{found[number].name} and {path.name} have the same number {number}")
        found[number] = path
    if not found:
        raise StoredError("its folder holds no numbered pictures")
    return dict(sorted(found.items()))


def _exact_times(path: Path, pictures: dict[int, Path]) -> np.ndarray:
    """Seconds (n,) of the pictures from the file that `helpers.faces` has written about the clip."""
    try:
        arrays = read_arrays(path, ("frame", "t_s"))
    except ValueError:
        raise StoredError(f"the file of its exact times, {path.name}, is damaged. Export the clip again") from None
    t_s = dict(zip(arrays["frame"].tolist(), arrays["t_s"].tolist(), strict=True))
    if strange := [picture.name for number, picture in pictures.items() if number not in t_s]:
        raise StoredError(f"the exported times say nothing of {strange[0]}. Export the clip again, or remove it")
    return np.array([t_s[number] for number in pictures], np.float64)


def read_face(path: Path, side_px: int) -> np.ndarray:
    """Read one picture as it is to be seen (its EXIF orientation is applied).

    Args:
        path: JPEG or PNG, by content.
        side_px: Side that it must have.

    Returns:
        RGB uint8 (side_px, side_px, 3).

    Raises:
        PictureError: Empty, unreadable, cut short, not RGB, more than 8 bits per channel, or of another size. Nothing
            is converted: among colour pictures a grey one is another input.
    """
    try:
        with Image.open(path) as image:
            _require_like_all(image, side_px)
            if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                return np.asarray(ImageOps.exif_transpose(image))
            return np.asarray(image)
    except PictureError as error:
        raise PictureError(f"{path.name}: {error}") from None
    except FileNotFoundError:
        raise PictureError(f"{path.name}: there is no such file any more") from None
    except PIL.UnidentifiedImageError:
        what = "not a picture" if path.stat().st_size else "empty (0 bytes)"
        raise PictureError(f"{path.name}: {what}") from None
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or error  # the text of the others names no folder
        raise PictureError(f"{path.name}: unreadable ({why})") from None


def _require_like_all(image: Image.Image, side_px: int) -> None:
    """Refuse by the header what is not 8-bit RGB of the tree's size."""
    if ";16" in str(image.tile) or image.mode.startswith("I"):  # Pillow opens 16-bit RGB as RGB, and cuts it to 8 bits
        raise PictureError("16 bits per channel, not 8")
    if image.mode != "RGB":
        raise PictureError(f"{OTHER_MODES.get(image.mode, image.mode)}, not RGB")
    if image.size != (side_px, side_px):
        raise PictureError(f"{image.width}x{image.height} px, not {side_px}x{side_px} px like the others")


def stored_crops(job: FaceJob) -> Iterator[Piece]:
    """Every picture of a clip, scaled like a face crop: RGB uint8 (n, size_px, size_px, 3), zeros where it is bad."""
    whole = np.array([0, 0, job.side_px, job.side_px])
    clock = Clock()
    for first in range(0, len(job.paths), PIECE_CROPS):
        part = slice(first, first + PIECE_CROPS)
        paths = job.paths[part]
        crops = np.zeros((len(paths), job.size_px, job.size_px, 3), np.uint8)
        unusable = {}
        with clock("reading"):
            for place, path in enumerate(paths):
                try:
                    face = read_face(path, job.side_px)
                    crops[place] = face if job.size_px == job.side_px else crop_face(face, whole, job.size_px)
                except PictureError as error:
                    unusable[place] = str(error)
        reader = f"Pillow {PIL.__version__}"
        yield Piece(crops, job.t_s[part], job.number[part], reader, unusable=unusable, spent_s=clock.read())
