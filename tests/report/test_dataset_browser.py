"""The page of a data set's statistics in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from test_report_browser import CHROMIUM, PHONE, playwright

from luss.data.imagenet_s import find_layout, write_mask
from luss.report.dataset import build_dataset_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: install it, or set CHROMIUM to its program"),
]
NAMES = ("<script>alert(1)<", "ant", "bee")


def test_the_page_shows_the_numbers_on_a_phone_without_an_error_and_names_as_text(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in NAMES:
        (data / "train" / name).mkdir(parents=True)
        (data / "train" / name / "0.jpg").write_bytes(b"x")
    mask = np.zeros((20, 20), int)
    mask[:10], mask[10:12] = 1, 2
    write_mask(data / "train-segmentation" / "ant" / "0.png", mask)
    page_file = build_dataset_report(find_layout(data), tmp_path / "out").page
    errors: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=PHONE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append("a name was run as a script"))
        page.goto(page_file.as_uri())
        text, width = page.inner_text("body"), page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert errors == []
    assert width == PHONE["width"]
    for shown in ("3 categories", "Masks of train", "2.00 categories an image", "60.0 % objects", f"{NAMES[0]}, ant"):
        assert shown in text
