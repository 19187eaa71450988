"""Draws clips with a planted truth: `python data_sample/make --out DIR [--clips N] [--motion | --shipped]`."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Draw rated clips, clips of three motion classes, or all that is shipped."""
    parser = argparse.ArgumentParser(prog="python data_sample/make", description="Draw clips with a planted truth.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--clips", type=int, default=36, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--motion", action="store_true", help="120 clips of three motion classes instead, for 08")
    parser.add_argument("--shipped", action="store_true", help="all of data_sample/: clips, awkward clips, token bank")
    arguments = parser.parse_args(argv)
    if arguments.shipped:
        from data_sample.make.bank import write_shipped  # late: it imports TensorFlow

        write_shipped(arguments.out)
    elif arguments.motion:
        from data_sample.make.motion_sample import write_motion_sample

        write_motion_sample(arguments.out, arguments.seed)
    else:
        from data_sample.make.sample import write_sample

        write_sample(arguments.out, arguments.clips, arguments.seed, progress=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository: modules here have their full names
    main()
