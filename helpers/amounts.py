"""Amounts as they are said: hours, bytes, and how much room a disk has.

In: numbers and folders. Out: text, and bytes.
"""

import shutil
from pathlib import Path

from helpers.files import resolve


def free_bytes(out: str | Path) -> int:
    """Free bytes on the disk that a folder is on, or will be."""
    out = resolve(out)
    return shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free


def duration(hours: float) -> str:
    """Hours as they are said: "0.4 h (25 min)"; minutes under six hours, seconds under two minutes."""
    seconds = 3600 * hours
    if seconds < 120:
        return f"{hours:.1f} h ({seconds:.0f} s)"
    return f"{hours:.1f} h ({seconds / 60:.0f} min)" if hours < 6 else f"{hours:,.0f} h"


def size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.{0 if unit == 'B' else 1}f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
