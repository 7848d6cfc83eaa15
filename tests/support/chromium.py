"""Where the browser is that pages are tested in."""

from __future__ import annotations

import os
import shutil
from typing import Final

GIVEN: Final = "WVINDEX_CHROMIUM"
"""Environment variable: Chromium's path."""

REQUIRED: Final = "WVINDEX_REQUIRE_BROWSER"
"""Environment variable: where it is set, there must be one."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Give the path of Chromium: the one that is given, or one on PATH."""
    return os.environ.get(GIVEN) or next(filter(None, map(shutil.which, _NAMES)), None)
