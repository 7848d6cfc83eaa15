"""A page as text, or as what rich prints on a terminal."""

from __future__ import annotations

from rich.console import RenderableType

from wvindex.inspection.layer_page import LayerPage
from wvindex.inspection.layer_text import layer_text
from wvindex.inspection.model_page import ModelPage
from wvindex.inspection.model_text import model_text
from wvindex.inspection.text_parts import WIDTH, to_text


def page_text(page: LayerPage | ModelPage, width: int = WIDTH) -> str:
    """Give a page as plain text."""
    return to_text(laid_out(page), width)


def laid_out(page: LayerPage | ModelPage) -> RenderableType:
    """Give a page as rich prints it."""
    return layer_text(page) if isinstance(page, LayerPage) else model_text(page)
