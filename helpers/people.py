"""People: which of the faces of a clip is the one that it is about, and what there is to say about that.

In: the detector's rows at every look, the legs that lead from look to look (`helpers.tracking`), and the cuts. Out: a
`MainFace`. There is no face recognition here: a face is the same from one look to the next if a leg leads there, or if
it is at the same place and what is about it looks alike; so a person comes back after a cut where the camera does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.shots import ALIKE
from helpers.tracking import SAME_FACE_IOU, Follower, Place, corners, iou

SAME_SHOT = 0.25  # unlikeness of what is about a face that was lost in between; two people: .35 in the middle
NEARLY = 1.5  # times the area of the next face; below it there is a remark
# How far a still picture's patch is from the one detected, as 1 - correlation: .0007 in the middle and .013 at most, be
# it noisy, compressed, filmed by hand or zoomed into; a man who smiles .004 and .028, a blink at most .02.
STILL_MEDIAN, STILL_MOST = 0.0015, 0.015
STILL_S = 1.5  # that a face must be followed for: for a second a man may keep as quiet as a picture


class MainFace(NamedTuple):
    """The places of the face's detections, why it was chosen, whether it moves, and remarks."""

    places: list[Place]
    reason: str
    moves: bool
    remarks: list[str]


def main_face(follower: Follower) -> MainFace | None:
    """Choose the face that a clip is about, once it is followed; None where there is none.

    Faces that do not move are passed over where another one does. In a clip that is cut it is then the face of most
    looks, else the one with the largest summed area.
    """
    found, cuts = follower.found, follower.shots.cuts().tolist()
    faces = link(follower, cuts)
    if not faces:
        return None
    moving = [face for face in faces if not is_still(face, follower)]
    remarks = [] if moving else ["the face does not move: a still picture?"]
    if 0 < len(moving) < len(faces):
        width = max(found[look][row][2] for face in faces if face not in moving for look, row in face)
        remarks.append(f"a still face of {width:.0f} px is passed over")
    sizes = [sum(found[look][row][2] * found[look][row][3] for look, row in face) for face in moving or faces]
    order = sorted(zip(sizes, moving or faces, strict=True), key=lambda of: -of[0])
    size, face = order[0]
    reason = "the only face" if len(faces) == 1 else "the only face that moves"
    if len(order) > 1:
        times = size / order[1][0]
        reason = f"largest summed area: {times:.1f} times the next of {len(order)} faces"
        if len(cuts):
            _, face = max(order, key=lambda of: (len(of[1]), of[0]))
            reason = f"most time on screen: {len(face)} of {len(found)} looks, of {len(order)} faces"
        elif times < NEARLY:
            remarks.append(f"another face is nearly as large ({times:.1f} times)")
    return MainFace(face, reason, bool(moving), remarks)


def link(follower: Follower, cuts: Sequence[int]) -> list[list[Place]]:
    """The detections of each face: they overlap from look to look, and a leg leads there or they look alike."""
    faces: list[list[Place]] = []
    boxes = [corners(rows) for rows in follower.found]
    shot = np.searchsorted(cuts, follower.looked, side="right")
    arrived = [leg for leg in follower.legs if leg.arrived]
    led = {(leg.start, leg.arrived) for leg in arrived if leg.through or shot[leg.start[0]] == shot[leg.arrived[0]]}
    for look, here in enumerate(boxes):
        last = [boxes[i][j] for i, j in (face[-1] for face in faces)]
        pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(last) for j, b in enumerate(here)), reverse=True)
        free = dict.fromkeys(range(len(here)))
        for overlap, i, j in pairs:
            before, place = faces[i][-1], (look, j)
            if overlap < SAME_FACE_IOU or j not in free or before[0] == look:
                continue
            limit = SAME_SHOT if shot[look] == shot[before[0]] else ALIKE
            if (before, place) in led or follower.unlikeness(before, place) <= limit:
                faces[i].append(place)
                del free[j]
        faces += [[(look, j)] for j in free]
    return [part for face in faces for part in _parted(face, follower, cuts)]


def _parted(face: list[Place], follower: Follower, cuts: Sequence[int]) -> list[list[Place]]:
    """A face, or its parts where it becomes another one: in the middle of a cross-fade it looks like both."""
    through = {cut for leg in follower.legs if leg.start in face for cut in leg.through}
    for cut in sorted(set(cuts) - through):
        away = [follower.looked[look] - cut for look, _ in face]
        before = [k for k, samples in enumerate(away) if samples <= -follower.shots.fps]
        after = [k for k, samples in enumerate(away) if samples >= follower.shots.fps]
        if before and after and follower.unlikeness(face[before[-1]], face[after[0]]) > ALIKE:
            start = int(np.searchsorted(away, 0))
            return [face[:start], *_parted(face[start:], follower, cuts)]
    return [face]


def is_still(face: list[Place], follower: Follower) -> bool:
    """Whether a face hardly changes while it is followed, blinks and breathing included: a picture of one."""
    changes = [1 - value for leg in follower.legs if leg.start in face for value in leg.similarity]
    is_long = len(changes) >= STILL_S * follower.shots.fps
    return is_long and np.median(changes) < STILL_MEDIAN and max(changes) < STILL_MOST
