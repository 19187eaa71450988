"""Is a damaged file named with a reason, or does it pass for a good one, crash or hang?

Variants of good clips, drawn in several codecs and containers: cut off, with boxes or elements removed, of zero length,
something else under a video's name, or with bits flipped in the pictures' data. Each is read fully in a process of its
own, with a time limit. A flipped bit counts as found if a player shows other pictures because of it and we name the
file. Good clips are read as well: none may be refused.

    python -m benchmarks.damaged [VIDEO ...] [--json FILE]
"""

import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import clips
from benchmarks.alternation import options_of, report
from benchmarks.readers import judge
from benchmarks.variants import FLIPS, KINDS, STRUCTURE, Source, Variant, make_variants, media_ranges
from helpers.files import ROOT
from helpers.workers import ClipPool, WorkerError, cores

SAMPLE = (
    "training80_01/4eke_igcKkn.000.mp4",
    "awkward/variable_frame_rate.mp4",
    "awkward/portrait_rotated.mp4",
)
DRAWN_FRAMES, DRAWN_SIZE, DRAWN_FPS = 100, (320, 240), 25.0
COLUMNS = {
    "kind": "{}",
    "variants": "{}",
    "named": "{}",
    "unchanged": "{}",
    "silent": "{}",
    "crashed": "{}",
    "hung": "{}",
}


def judged(pool: ClipPool, tasks: Iterable[tuple[Any, tuple[Path, str, int]]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Judge files in the workers: key, and what `judge` found; `played` is None where playing it crashed or hung."""
    for key, pieces in pool.run(tasks):
        try:
            found = next(pieces)
        except WorkerError as error:
            verdict = "hung" if "gave nothing" in str(error) else "crashed"
            found = {"verdict": verdict, "reason": str(error), "pictures": []}
        try:
            played = next(pieces, {"pictures": None})["pictures"]
        except WorkerError:
            played = None
        yield key, found | {"played": played}


def conclude(variant: Variant, found: dict[str, Any], good: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What became of a variant.

    Args:
        variant: The damaged file.
        found: What `judged` says of it.
        good: The same of every good clip.

    Returns:
        `result`: "named", "silent", "crashed" (also an error that is not one line about the file), "hung" or
        "unchanged"; `changed`: whether a player, or we, show other pictures than those of the good clip; None unknown.
    """
    result = "crashed" if found["verdict"] == "untold" else found["verdict"]
    source = variant.source.name if variant.source else ""
    changed = None
    if variant.kind in FLIPS and found["played"] is not None:
        ours = result == "silent" and found["pictures"] != good[source]["pictures"]
        changed = ours or found["played"] != good[source]["played"]
        if result == "silent" and not ours:
            result = "unchanged"
    facts = {"number": variant.number, "kind": variant.kind, "source": source, "how": variant.how}
    return facts | {"result": result, "changed": changed, "reason": found["reason"]}


def judge_variants(
    pool: ClipPool,
    variants: Iterator[Variant],
    good: dict[str, dict[str, Any]],
    folder: Path,
    options: Namespace,
) -> list[dict[str, Any]]:
    """Write, read and conclude each variant; its file is removed unless it is to be kept."""
    cases = []

    def tasks() -> Iterator[tuple[Variant, tuple[Path, str, int]]]:
        for variant in variants:
            path = folder / variant.file_name
            path.write_bytes(variant.data)
            yield variant, (path, options.backend, 1 + variant.number % 2)  # one thread, two threads

    for variant, found in judged(pool, tasks()):
        cases.append(conclude(variant, found, good))
        if not options.keep:
            (folder / variant.file_name).unlink()
    return cases


def summarise(cases: pd.DataFrame) -> dict[str, Any]:
    """The figures of the JSON. `bitflips_found` is the share of flips that change pictures and were named."""
    structure = cases["kind"].isin(list(STRUCTURE))
    flips = cases[~structure]
    changed = flips[flips["changed"] == True]  # noqa: E712 - None is neither
    return {
        "variants": len(cases),
        "crashed": int((cases["result"] == "crashed").sum()),
        "hung": int((cases["result"] == "hung").sum()),
        "structural_missed": int((structure & (cases["result"] != "named")).sum()),
        "bitflips": len(flips),
        "bitflips_changed": len(changed),
        "bitflips_found": float((changed["result"] == "named").mean()) if len(changed) else None,
        "bitflips_named": float((flips["result"] == "named").mean()) if len(flips) else None,
    }


def by_kind(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per kind: how many variants came to which result."""
    counts = pd.crosstab(cases["kind"], cases["result"]).reindex(
        index=[kind for kind in KINDS if kind in set(cases["kind"])], columns=list(COLUMNS)[2:], fill_value=0
    )
    counts.insert(0, "variants", counts.sum(axis=1))
    return counts.reset_index().to_dict("records")


def by_source(cases: pd.DataFrame) -> pd.DataFrame:
    """Of the flips that change pictures, how many are found, per good clip."""
    changed = cases[cases["changed"] == True]  # noqa: E712
    named = (changed["result"] == "named").groupby(changed["source"])
    return pd.DataFrame({"changed": named.size(), "found": named.sum()}).reset_index()


def say(summary: dict[str, Any], cases: pd.DataFrame, refused: dict[str, str]) -> None:
    """Print what the table by kind does not say."""
    print("\nflips that change pictures, by good clip")
    print(by_source(cases).to_string(index=False))
    for name, reason in refused.items():
        print(f"GOOD CLIP REFUSED: {name}: {reason}")
    found = summary["bitflips_found"]
    print(
        f"\n{summary['variants']} variants: {summary['crashed']} crashed, {summary['hung']} hung, "
        f"{summary['structural_missed']} structural ones missed; of {summary['bitflips_changed']} flips that change "
        f"pictures {'none' if found is None else format(found, '.0%')} named"
    )
    missed = cases[cases["result"].isin(["crashed", "hung", "silent"])]
    order = missed["result"].map({"crashed": 0, "hung": 0, "silent": 2}) - missed["kind"].isin(list(STRUCTURE))
    if len(missed):
        print("the first of these, by number; with the same --seed and --keep FOLDER the files are left there:")
    for _, case in missed.loc[order.sort_values(kind="stable").index].head(10).iterrows():
        print(f"{case['result']}: {case['number']}, {case['how']}{'; ' if case['reason'] else ''}{case['reason']}")


def main(argv: list[str] | None = None) -> None:
    """Damage, read and print."""
    parser = options_of(__doc__)
    parser.add_argument("video", nargs="*", type=Path, help="further good clips, beside the sample's and drawn ones")
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="pyav", help="of `read_frames` (default: pyav)")
    parser.add_argument("--encodings", nargs="+", choices=tuple(clips.TO_DAMAGE), default=list(clips.TO_DAMAGE))
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that a reading may take (default: 30)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave good and damaged files here")
    options = parser.parse_args(argv)
    options.video = list(map(str, options.video))
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    with (
        nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as name,
        ClipPool(judge, workers=min(2, cores()), patience_s=options.limit) as pool,
    ):
        folder = Path(name)
        pictures = clips.draw_pictures(DRAWN_FRAMES, DRAWN_SIZE, DRAWN_FPS)
        encodings = {name: clips.TO_DAMAGE[name] for name in options.encodings}
        paths = clips.write_encodings(pictures, encodings, folder, DRAWN_FPS)
        paths |= {name: ROOT / "data_sample" / name for name in SAMPLE} | {name: Path(name) for name in options.video}
        good = dict(judged(pool, ((name, (path, options.backend, 1)) for name, path in paths.items())))
        refused = {name: found["reason"] for name, found in good.items() if found["verdict"] != "silent"}
        sources = [Source(name, path, path.read_bytes(), media_ranges(path)) for name, path in paths.items()]
        sources = [source for source in sources if source.name not in refused]
        variants = make_variants(sources, options.variants, options.seed)
        cases = judge_variants(pool, variants, good, folder, options)
    table = pd.DataFrame(cases)
    summary = summarise(table)
    more = {
        "good": len(paths),
        "good_refused": refused,
        "cases": cases,
        "by_source": by_source(table).to_dict("records"),
    }
    report(by_kind(table), COLUMNS, options, **summary, **more)
    say(summary, table, refused)


if __name__ == "__main__":
    main()
