"""The page of a comparison: one file, and in a real browser what it shows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_browser import CHROMIUM, DESKTOP, PHONE, Visit, playwright

from luss.report.comparison import write_comparison

EVIL = "</script><img src=x onerror=document.title='broken'>"


def cell(name: str, nmi: float | None, losses: list[float], report: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "seed": 0,
        "epochs": 12,
        "state": "failed" if nmi is None else "done",
        "reason": "the loss is nan" if nmi is None else "",
        "values": {"seconds": 90.0} if nmi is None else {"nmi": nmi, "seconds": 100.0, "pretrain_seconds": 60.0},
        "report": report,
        "curves": {
            "images": [100 * (step + 1) for step in range(len(losses))],
            "series": {"loss": losses, "feature_rank": [5.0 + loss for loss in losses], "nt_xent": losses},
        },
    }


def row(label: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [each["values"]["nmi"] for each in cells if "nmi" in each["values"]]
    mean = sum(numbers) / len(numbers)
    return {
        "labels": {"method": label},
        "used_labels": label == EVIL,
        "seeds": len(cells),
        "done": len(numbers),
        "values": {"nmi": {"mean": mean, "deviation": None, "number": len(numbers)}, "seconds": {"mean": 95.0}},
        "texts": {"nmi": f"{mean:.1f}", "seconds": "95"},
        "cells": cells,
    }


def made() -> dict[str, Any]:
    rows = [
        row("swav", [cell("swav-seed0", 40.0, [3.0, 2.0, 1.0], "swav-seed0/report/index.html"), cell("swav-seed1", 42.0, [4.0, 3.0, 2.0])]),
        row(EVIL, [cell("evil-seed0", 30.0, [9.0, 8.0, 7.0]), cell("evil-seed1", None, [9.0])]),
    ]  # fmt: skip
    columns = [
        {"key": "nmi", "title": "NMI", "digits": 1, "what": "mutual information"},
        {"key": "seconds", "title": "all stages s", "digits": 0, "what": "work"},
    ]
    return {
        "name": "learners",
        "made": "2026-01-02 03:04",
        "budget": "the same number of images for all: 12 epochs",
        "notes": ["evil-seed1: failed: the loss is nan", EVIL],
        "axes": [{"key": "method", "title": "method"}],
        "columns": columns,
        "rows": rows,
        "luss": "0",
        "folder": "outputs/learners",
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "compare.html"
    write_comparison(path, made())
    return path


def test_the_page_is_one_file_with_its_data_and_nothing_of_a_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["compare.html"]
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert "https://" not in text
    assert EVIL not in text
    data = text.partition("const comparison = ")[2].partition(";\n</script>")[0]
    assert json.loads(data) == made()


@pytest.fixture(scope="module")
def visit(page: Path) -> Iterator[Visit]:
    if CHROMIUM is None:
        pytest.skip("no Chromium was found: install it, or set CHROMIUM to its program")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Visit(browser, page)
        browser.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_table_the_dots_and_the_runs_are_shown_without_a_complaint(visit: Visit) -> None:
    main = visit.page.locator("main")
    assert visit.complaints == []
    assert len(visit.requests) == 1
    assert visit.page.title() == "learners · luss comparison"
    assert visit.page.locator("#subtitle").inner_text() == "the same number of images for all: 12 epochs"
    assert visit.page.locator("#table tbody tr").nth(0).inner_text().split() == ["swav", "2", "of", "2", "41.0", "95"]
    assert visit.page.locator("#table tbody b").all_inner_texts() == ["41.0"]
    assert f"{EVIL} *" in main.inner_text()
    assert "the loss is nan" in visit.page.locator("#runs").inner_text()
    assert visit.page.locator("#runs a").get_attribute("href") == "swav-seed0/report/index.html"
    # A dot a run that has the figure.
    assert visit.page.locator("#seeds .strip").nth(0).locator(".dot-mark").count() == 3


@pytest.mark.browser
@pytest.mark.slow
def test_losses_have_scales_of_their_own_and_signs_of_collapse_one_for_all(visit: Visit) -> None:
    charts = visit.page.locator("#curves-body > div")
    assert charts.locator("h3").all_inner_texts() == ["loss", "feature rank"]
    ends = [
        (chart.locator(".low").inner_text(), chart.locator(".high").inner_text())
        for chart in charts.locator(".chart").all()
    ]
    assert ends == [("1", "4"), ("7", "9"), ("6", "14"), ("6", "14")]
    # Two seeds and their mean.
    assert charts.nth(0).locator(".chart").nth(0).locator("polyline").count() == 3
    plot = charts.nth(0).locator(".plot").nth(0)
    plot.press("ArrowLeft")
    assert charts.nth(0).locator(".reading").nth(0).inner_text() == "image 200: 2.5"


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_nothing_sticks_out_of_the_screen(visit: Visit, size: dict[str, int]) -> None:
    visit.page.set_viewport_size(size)
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
