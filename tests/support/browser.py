"""A browser without a window, and pages in it that may neither complain nor ask a network for anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from tests.support.chromium import GIVEN, chromium


@contextmanager
def running() -> Iterator[Browser]:
    """Start Chromium."""
    path = chromium()
    if path is None:
        raise FileNotFoundError(f"no chromium on PATH; set {GIVEN}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Opens pages, and collects what they complain of and what they ask for.

    Attributes
    ----------
    complaints : list of str
        Messages on the console, errors and dialogs.
    requests : list of str
        Addresses of everything that was asked for.
    """

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._browser = browser
        self._contexts: list[Any] = []

    def open(
        self, file: Path, fragment: str = "", *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Page:
        """Open a file, and wait until its script has drawn it."""
        scheme: Any = "dark" if dark else "light"
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            context.close()


def number(text: str) -> float:
    """Read a number as a page writes it."""
    return float(text.replace("−", "-").replace("∞", "inf").replace(",", ""))
