"""Reports in Chromium: right numbers, no complaint, no request, every part in reach of a keyboard."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

import wvindex as wv
from tests.inspection.report.test_page import DOCUMENT, HOSTILE
from tests.support.browser import Visitor, number, running
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE
from tests.support.golden import COMMITTED
from tests.support.report_pages import large_document
from tests.support.safetensors_writer import write_safetensors, write_weights
from wvindex.inspection.report.page import write_page

QUERIES = "model.layers.2.self_attn.q_proj.weight"
STACK = "model.layers.1.mlp.experts.gate_proj.weight"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wv.build(EXAMPLE, tmp_path_factory.mktemp("browser") / "kjv.zarr")


@pytest.fixture(scope="module")
def file(store: Path) -> Path:
    return wv.report(store, store.parent / "kjv.html", spectrum="top")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as started:
        yield started


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Give a visitor whose pages must not have complained, nor asked for anything but their own files."""
    found = Visitor(browser)
    yield found
    found.close()
    assert found.complaints == []
    assert [url for url in found.requests if not re.fullmatch(r"file://[^?#]*\.html(#.*)?", url)] == []


def focused(page: Page, attribute: str) -> str | None:
    """Give an attribute of what has the focus."""
    found: str | None = page.evaluate(f"document.activeElement.getAttribute({attribute!r})")
    return found


def cell(page: Page, layer: int, role: str) -> str:
    """Give what a screen reader says of a cell."""
    found = page.locator(f'[role=gridcell][aria-label^="layer {layer}, {role},"]')
    return found.get_attribute("aria-label") or ""


def luminance(rgb: str) -> float:
    """Give CIE L* of ``rgb(r g b)`` or ``rgb(r, g, b)``, 0 to 100."""
    channels = np.array(re.findall(r"\d+", rgb)[:3], float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    y = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * math.cbrt(y) - 16 if y > 216 / 24389 else y * 24389 / 27


def test_a_cell_has_numpys_value(store: Path, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    with wv.open(store) as db:
        w = np.asarray(db[QUERIES], np.float64)
    expected = {
        "kurtosis": np.mean((w - w.mean()) ** 4) / w.var() ** 2 - 3,
        "std": w.std(),
        "min": w.min(),
        "p99_9": np.quantile(w, 0.999, method="inverted_cdf"),
        "outliers": np.sum(np.abs(w) > 6 * w.std()),
    }
    for statistic, value in expected.items():
        page.select_option("#statistic", statistic)
        said = cell(page, 2, "self_attn.q_proj")
        text = said.rpartition(" ")[2]
        assert number(text) == pytest.approx(float(value), rel=1e-3)
        assert page.locator(f'[aria-label="{said}"]').inner_text() == text


def test_every_statistic_can_be_chosen(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('#statistic option')].map(({ value }) => {
            statistic.value = value;
            statistic.dispatchEvent(new Event('change'));
            return ['log', 'within', 'log', 'within'].map((box) => {
                document.getElementById(box).click();
                const cells = [...document.querySelectorAll('.cell:not(.absent)')];
                return cells.map((one) => [one.textContent, getComputedStyle(one).backgroundColor]);
            });
        })"""
    )
    assert len(drawn) > 30
    for cells in chain.from_iterable(drawn):
        assert len(cells) == 43
        blank = {text for text, ground in cells if ground == "rgba(0, 0, 0, 0)"}
        assert blank <= {"–"}
        assert not any(re.search("NaN|undefined|null", text) for text, _ in cells)


def test_cells_without_a_tensor_are_blank_and_say_so(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    blank = page.locator('[aria-label="layer 0, mlp.gate: no such tensor"]')
    assert blank.inner_text() == ""
    assert blank.evaluate("node => getComputedStyle(node).backgroundColor") == "rgba(0, 0, 0, 0)"
    blank.click()
    assert page.locator("#panel").is_hidden()


@pytest.mark.parametrize("dark", [False, True])
def test_equal_steps_of_a_scale_look_equal_without_hue(dark: bool, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, dark=dark)
    page.select_option("#statistic", "std")
    stops = page.eval_on_selector(".legend-bar", "bar => getComputedStyle(bar).backgroundImage")
    steps = np.diff([luminance(rgb) for rgb in re.findall(r"rgb\([^)]*\)", stops)])
    if page.locator("#log").is_checked():
        page.locator("#log").click()
    direction = 1 if dark else -1
    assert np.all(direction * steps > 0)
    assert direction * steps.sum() > 55
    assert np.ptp(steps) < 0.9 * abs(steps.mean())


@pytest.mark.parametrize("dark", [False, True])
def test_signed_numbers_diverge_from_zero_alike(dark: bool, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, dark=dark)
    page.select_option("#statistic", "mean")
    stops = page.eval_on_selector(".legend-bar", "bar => getComputedStyle(bar).backgroundImage")
    found = np.array([luminance(rgb) for rgb in re.findall(r"rgb\([^)]*\)", stops)])
    np.testing.assert_allclose(found, found[::-1], atol=6)
    assert np.argmin(found) == 16 if dark else np.argmax(found) == 16
    assert page.locator(".legend-ticks span").nth(2).inner_text() == "0"


def test_the_map_is_walked_and_opened_by_keys(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    for _ in range(12):
        page.keyboard.press("Tab")
        if focused(page, "role") == "gridcell":
            break
    assert (focused(page, "aria-label") or "").startswith("layer 0, input_layernorm, ")
    for key in ("ArrowDown", "End", "ArrowLeft"):
        page.keyboard.press(key)
    at = focused(page, "aria-label") or ""
    assert at.startswith("layer 1, self_attn.q_proj, ")
    outline = page.evaluate("getComputedStyle(document.activeElement).boxShadow")
    assert outline != "none"
    page.keyboard.press("Enter")
    assert page.locator("#panel-title").inner_text() == "model.layers.1.self_attn.q_proj.weight"
    assert focused(page, "id") == "panel-title"
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()
    assert focused(page, "aria-label") == at
    page.keyboard.press("Control+End")
    assert (focused(page, "aria-label") or "").startswith("layer 2, mlp.shared_experts.down_proj, ")
    page.keyboard.press("/")
    assert focused(page, "id") == "search"


def test_everything_that_can_be_operated_has_a_name(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, f"#{STACK}")
    tree = page.locator("body").aria_snapshot()
    for role in (
        "grid",
        "rowheader",
        "columnheader",
        "gridcell",
        "combobox",
        "searchbox",
        "checkbox",
        "button",
    ):
        names = re.findall(rf"^\s*- '?{role}\b(.*)$", tree, re.MULTILINE)
        assert names, role
        assert all(re.match(r' "[^"]+"', name) for name in names), role


def test_a_panel_shows_statistics_histogram_channels_spectrum_and_heads(
    store: Path, file: Path, visitor: Visitor
) -> None:
    page = visitor.open(file, f"#{QUERIES}")
    (row,) = wv.stats(store, QUERIES, spectrum="top")
    for name in ("mean", "kurtosis", "l2", "p25", "stable_rank", "spectral_norm"):
        shown = page.locator(f"#panel [data-statistic={name}] td").inner_text()
        assert number(shown) == pytest.approx(row[name], rel=1e-3)
    titles = page.locator("#panel .block h3").all_inner_texts()
    assert titles == ["Histogram", "Outlier channels", "Singular values", "Heads"]
    assert page.locator("#panel svg rect.bar").count() == 48
    heads = wv.stats(store, layers=2, by="head")
    label = page.locator("#panel [role=gridcell]").nth(4).get_attribute("aria-label") or ""
    assert label.startswith("head 4, QK norm: ")
    assert number(label.rpartition(" ")[2]) == pytest.approx(heads["qk_norm"][4], rel=1e-3)


def test_experts_are_a_grid_by_any_measure(store: Path, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, f"#{STACK}")
    experts = wv.stats(store, STACK, by="expert")
    page.select_option('select[aria-label="Measure of experts"]', "cosine")
    labels = [one.get_attribute("aria-label") or "" for one in page.locator("#panel [role=gridcell]").all()]
    found = [number(label.rpartition(" ")[2]) for label in labels]
    assert found == pytest.approx(experts["cosine"], rel=1e-3)
    page.locator("#panel [role=gridcell]").nth(2).hover()
    assert f"nearest {experts['nearest'][2]}" in page.locator("#panel .readout").inner_text()


def test_a_link_opens_a_tensor_by_any_of_its_names_and_back_closes_it(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, "#blk.2.attn_q.weight")
    assert page.locator("#panel-title").inner_text() == QUERIES
    page.get_by_role("button", name="Close").click()
    assert page.locator("#panel").is_hidden()
    page.locator('[role=gridcell][aria-label^="layer 2, self_attn.k_proj,"]').click()
    assert page.url.endswith("#model.layers.2.self_attn.k_proj.weight")
    page.get_by_role("button", name="Same role, layer before").click()
    assert page.locator("#panel-title").inner_text() == "model.layers.1.self_attn.k_proj.weight"
    page.go_back()
    page.go_back()
    assert page.locator("#panel").is_hidden()


def test_a_search_takes_every_word(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    page.fill("#search", "q8_0 EXPERTS layers.1")
    keys = page.locator(".tensors tbody a").all_inner_texts()
    names = [
        f"{kind}.{name}_proj" for kind in ("experts", "shared_experts") for name in ("down", "gate", "up")
    ]
    assert keys == [f"model.layers.1.mlp.{name}.weight" for name in names]
    assert page.locator(".count").inner_text() == "6 of 43 tensors"
    page.fill("#search", "attn_q.weight")  # as GGUF calls it
    assert len(page.locator(".tensors tbody a").all()) == 3


def test_the_table_is_sorted_by_any_column(store: Path, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file)
    table = wv.stats(store)
    header = page.locator(".tensors thead th", has_text="Standard deviation")
    for descending, direction in ((True, "descending"), (False, "ascending")):
        header.get_by_role("button").click()
        keys = page.locator(".tensors tbody a").all_inner_texts()
        assert keys == table.sorted("std", descending=descending)["key"]
        assert header.get_attribute("aria-sort") == direction
    page.locator(".tensors tbody tr").first.click()
    assert page.locator("#panel-title").inner_text() == table.sorted("std", descending=False)["key"][0]


def test_dark_follows_the_system_until_it_is_chosen(file: Path, visitor: Visitor) -> None:
    def background(page: Page) -> float:
        return luminance(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    page = visitor.open(file, dark=True)
    assert background(page) < 15
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]")
    assert background(page) > 90
    page.get_by_role("button", name="Dark theme").click()
    assert background(page) < 15
    page.emulate_media(color_scheme="dark")
    page.emulate_media(color_scheme="light")
    assert background(page) < 15


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_read_on_its_ground(dark: bool, file: Path, visitor: Visitor) -> None:
    """WCAG 2's contrast of at least 4.5, of texts and of the numbers in cells."""
    page = visitor.open(file, f"#{QUERIES}", dark=dark)
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('.about, .facts dt, td, .cell:not(:empty), .row-label')].map(
            (node) => {
                let ground = node;
                const behind = () => getComputedStyle(ground).backgroundColor;
                while (behind() === 'rgba(0, 0, 0, 0)' && ground.parentElement) ground = ground.parentElement;
                return [getComputedStyle(node).color, behind()];
            })"""
    )
    for ink, ground in {tuple(pair) for pair in pairs}:
        light, dim = sorted((luminance(one) for one in (ink, ground)), reverse=True)
        lit = [((one + 16) / 116) ** 3 if one > 8 else one * 27 / 24389 for one in (light, dim)]
        assert (lit[0] + 0.05) / (lit[1] + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize("fragment", ["", f"#{STACK}"])
def test_a_phone_shows_it_without_scrolling_sideways(fragment: str, file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, fragment, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if fragment:
        box = page.locator("#panel").bounding_box()
        assert box is not None
        assert (box["x"], box["width"]) == (0, 360)
        assert page.evaluate("document.getElementById('panel').scrollWidth") <= 360


def test_print_leaves_out_what_only_a_screen_can_use(file: Path, visitor: Visitor) -> None:
    page = visitor.open(file, dark=True)
    page.emulate_media(media="print")
    page.wait_for_selector("html[data-theme=light]")
    assert page.locator("#search").is_hidden()
    assert page.locator("#theme").is_hidden()
    assert page.locator(".cell").first.is_visible()
    ground = page.locator(".row-label").first.evaluate("one => getComputedStyle(one).backgroundColor")
    assert luminance(ground) > 95
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_hostile_names_are_text(tmp_path: Path, visitor: Visitor) -> None:
    values = checkpoint("llama").tensors["model.norm.weight"]
    names = [
        HOSTILE[0],
        "model.layers.1.<img src=x onerror=alert(2)>.weight",
        'a"onmouseover="alert(3)',
        "\u2028",
    ]
    source = write_safetensors(checkpoint("llama"), tmp_path / "<b onclick=alert(4)>model")
    write_weights({**checkpoint("llama").tensors, **dict.fromkeys(names, values)}, source)
    page = visitor.open(wv.report(source, tmp_path / "hostile.html"))
    assert page.locator("h1").inner_text() == source.name
    for name in names[:3]:
        page.locator(".tensors a", has_text=name).click()
        assert page.locator("#panel-title").inner_text() == name
    assert page.locator("img, b[onclick], [onerror], [onmouseover]").count() == 0


def test_a_name_with_half_a_surrogate_pair_opens(tmp_path: Path, visitor: Visitor) -> None:
    page = visitor.open(write_page(DOCUMENT, tmp_path / "a.html"))
    page.locator(".tensors tbody a").nth(2).click()
    assert page.locator("#panel-title").inner_text().startswith("line")


def test_the_policy_stops_what_a_script_would_load(browser: Browser, file: Path) -> None:
    visitor = Visitor(browser)
    page = visitor.open(file)
    failures: list[str | None] = []
    page.on("requestfailed", lambda request: failures.append(request.failure))
    stopped = page.evaluate(
        """() => new Promise((resolve) => {
            const found = [];
            document.addEventListener('securitypolicyviolation', (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 3) resolve(found.sort());
            });
            fetch('http://127.0.0.1:9/').catch(() => {});
            new Image().src = 'http://127.0.0.1:9/a.png';
            const button = document.createElement('button');
            button.setAttribute('onclick', 'document.title = "run"');
            button.click();
        })"""
    )
    visitor.close()
    assert stopped == ["connect-src", "img-src", "script-src-attr"]
    assert set(failures) <= {"csp"}


def test_a_large_model_opens_with_all_its_layers_and_experts(tmp_path: Path, visitor: Visitor) -> None:
    page = visitor.open(
        write_page(large_document(), tmp_path / "large.html"), "#model.layers.60.mlp.experts.up_proj.weight"
    )
    rows = page.locator(".heat:not(.outside) [role=row]")
    assert rows.count() == 1 + 14
    assert rows.nth(1).locator("[role=gridcell]").count() == 61
    assert page.locator("#panel [role=gridcell]").count() == 256
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.get_by_role("button", name=re.compile("Show the other")).click()
    assert page.locator(".tensors tbody tr").count() == 2 + 61 * 14


def test_a_model_without_numbers_still_has_its_table(tmp_path: Path, visitor: Visitor) -> None:
    empty = replace(DOCUMENT, entries=tuple(replace(one, values={}) for one in DOCUMENT.entries))
    page = visitor.open(write_page(empty, tmp_path / "a.html"))
    assert page.locator(".tensors tbody tr").count() == 3


def test_one_tensor_is_counted_as_one(tmp_path: Path, visitor: Visitor) -> None:
    page = visitor.open(write_page(replace(DOCUMENT, entries=DOCUMENT.entries[:1]), tmp_path / "one.html"))
    assert page.locator(".count").inner_text() == "1 tensor"


def test_a_comparison_is_the_same_page_by_damage(tmp_path: Path, visitor: Visitor) -> None:
    found = wv.diff(COMMITTED / "llama-tiny-Q4_K_M.gguf", COMMITTED / "llama-tiny-Q2_K.gguf")
    page = visitor.open(wv.report(found, tmp_path / "diff.html"))
    assert page.locator(".tensors tbody a").all_inner_texts() == found.tensors["key"]
    row = found.tensors.to_dicts()[0]
    for name in ("rel_l2", "sqnr_db", "cosine", "max_abs"):
        page.select_option("#statistic", name)
        shown = cell(page, row["layer"], row["role"]).rpartition(" ")[2]
        assert number(shown) == pytest.approx(row[name], rel=1e-3)
    page.locator(".tensors tbody a").first.click()
    assert page.locator("#panel .block h3").all_inner_texts() == ["Worst rows"]
    assert page.locator("#listings h3").all_inner_texts() == ["Roles"]
