"""What stands below a directory."""

from __future__ import annotations

from pathlib import Path


def contents(root: Path) -> dict[str, bytes]:
    """Give the bytes of every file below a directory, by its path there."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def names(directory: Path) -> list[str]:
    """Give the names in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())
