"""The page in a real browser. Set CHROMIUM to its program where it is not on the path."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_run import SIZE, THRESHOLD, make_run, stage_row, without

from luss.errors import LussError
from luss.files import write_json
from luss.labels.layers import Layer, edit, read_edits
from luss.labels.store import LabelStore
from luss.report.build import build_report
from luss.report.source import ReportSource

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need playwright: pip install 'luss[dev]'"
)
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: install it, or set CHROMIUM to its program"),
]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# Numbers of the pixels of a canvas that are painted.
PAINTED = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return Array.from(data.filter((_, place) => place % 4 === 3), (alpha, place) => (alpha ? place : -1)).filter((place) => place >= 0);
}"""


@pytest.fixture(scope="module", autouse=True)
def plots_written() -> Iterator[None]:
    """Plots take seconds, and the page shows them as it shows contact sheets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luss.report.build.write_plots", lambda data, folder: [])
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ReportSource:
    source = make_run(tmp_path_factory.mktemp("made"), num_clusters=30, images_per_cluster=8)
    Image.new("RGB", (40, 30)).save(source.of("pseudo_labels") / "clusters.png")
    return source


@pytest.fixture(scope="module")
def report(source: ReportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(source, tmp_path_factory.mktemp("report") / "report").page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser of its own memory; keeps what it complains of and asks for."""

    def __init__(self, browser: Any, page: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce"} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open(page)

    def open(self, page: Path) -> None:
        """Opens a page of a report."""
        self.page.goto(page.as_uri())

    def card(self, cluster: int) -> Any:
        """A cluster's card, brought onto the page."""
        if not self.page.locator(f"#cluster-{cluster}").count():
            self.page.locator("#find").fill(str(cluster))
        card = self.page.locator(f"#cluster-{cluster}")
        card.scroll_into_view_if_needed()
        return card

    def canvas(self, cluster: int) -> Any:
        """The mask over the first picture of a cluster."""
        return self.card(cluster).locator("canvas").first

    def set_threshold(self, value: float) -> None:
        """Moves the slider, and waits until masks are drawn."""
        self.page.locator("#threshold").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
        )
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def names_json(self, folder: Path) -> Path:
        """Downloads names.json."""
        with self.page.expect_download() as download:
            self.page.locator("#download").click()
        assert download.value.suggested_filename == "names.json"
        download.value.save_as(folder / "names.json")
        return folder / "names.json"


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    visit = Visit(browser, report)
    yield visit
    visit.context.close()


def test_the_page_opens_without_complaints_and_without_a_network(visit: Visit) -> None:
    visit.card(1).locator("img").first.wait_for()
    visit.page.mouse.wheel(0, 30_000)
    visit.page.locator("#figures img").first.wait_for()
    assert visit.complaints == []
    assert {request.split(":")[0] for request in visit.requests} <= {"file", "data"}
    assert visit.page.title() == "hand · luss report"
    assert visit.page.locator("h1").inner_text() == "hand"


def test_all_that_was_measured_can_be_read(visit: Visit) -> None:
    text = visit.page.locator("main").inner_text()
    for words in ("79.2", "pretrain.epochs", "fully unsupervised", "feature rank", "bee", "Most frequent mistakes"):
        assert words in text or words in visit.page.locator("#subtitle").inner_text(), words
    assert "50 %" in visit.page.locator("#categories tr", has_text="bee").first.inner_text()


def test_a_threshold_that_was_searched_with_masks_is_told_above_and_below_the_numbers(
    browser: Any, tmp_path: Path
) -> None:
    source = make_run(tmp_path / "made")
    facts = {"threshold": THRESHOLD, "source": "validation", "used_labels": True}
    write_json(source.of("pseudo_labels") / "threshold.json", facts)
    visit = Visit(browser, build_report(source, tmp_path / "report").page)
    assert "threshold chosen with ground truth" in visit.page.locator("#subtitle").inner_text()
    assert "not fully unsupervised" in visit.page.locator("#metrics").inner_text()
    assert "fully unsupervised" not in visit.page.locator("#subtitle").inner_text()
    visit.context.close()


def test_masks_are_those_of_the_label_store_at_every_threshold(visit: Visit, source: ReportSource) -> None:
    store = LabelStore.open(source.of("pseudo_labels") / "labels")
    canvas = visit.canvas(1)
    canvas.wait_for()
    name = visit.card(1).locator("img").first.get_attribute("alt").split(",")[0]
    for threshold in (THRESHOLD, 0.0, 0.25, 0.7, 1.0):
        visit.set_threshold(threshold)
        expected = store.label_map(store.index_of(name), (SIZE[1], SIZE[0]), threshold=threshold)
        assert canvas.evaluate(PAINTED) == np.flatnonzero(expected.ravel()).tolist()


def test_the_slider_says_what_it_keeps_and_can_be_reset(visit: Visit) -> None:
    visit.set_threshold(0.0)
    assert "100 % of all positions" in visit.page.locator("#threshold-note").inner_text()
    visit.set_threshold(0.8)
    assert "--threshold 0.8" in visit.page.locator("#threshold-note").inner_text()
    visit.page.locator("#threshold-reset").click()
    assert visit.page.locator("#threshold-value").inner_text() == "0.500"


def test_pictures_can_be_shown_without_masks_and_with_attention(visit: Visit) -> None:
    canvas = visit.canvas(1)
    canvas.wait_for()
    visit.page.locator("#view").select_option("none")
    assert canvas.evaluate(PAINTED) == []
    visit.page.locator("#view").select_option("attention")
    assert len(canvas.evaluate(PAINTED)) > 0.5 * SIZE[0] * SIZE[1]


def test_names_merges_and_drops_are_downloaded_as_luss_labels_reads_them(visit: Visit, tmp_path: Path) -> None:
    card = visit.card(3)
    card.locator(".name").fill("dog ")
    card.locator("input[type=number]").fill("17")
    card.get_by_role("button", name="Merge cluster 3", exact=True).click()
    visit.card(5).locator(".drop").check()
    path = visit.names_json(tmp_path)
    assert json.loads(path.read_text()) == {"names": {"3": "dog"}, "merge": [[3, 17]], "drop": [5]}
    layer, notes = edit(Layer(), read_edits(path), num_clusters=30, stored_threshold=THRESHOLD)
    assert (dict(layer.merged), layer.dropped, dict(layer.names), notes) == ({17: 3}, (5,), {3: "dog"}, [])


def test_a_cluster_is_merged_or_dropped_but_not_both_and_groups_share_a_name(visit: Visit, tmp_path: Path) -> None:
    for cluster, other in ((9, 4), (4, 12), (20, 21)):
        visit.card(cluster).locator("input[type=number]").fill(str(other))
        visit.card(cluster).get_by_role("button", name=f"Merge cluster {cluster}", exact=True).click()
    visit.card(12).locator(".name").fill("cat")
    assert visit.card(9).locator("h3").inner_text() == "Cluster 9 cat"
    visit.card(4).locator(".drop").check()
    visit.card(20).get_by_role("button", name="Take out").click()
    found = json.loads(visit.names_json(tmp_path).read_text())
    assert found == {"names": {"9": "cat"}, "merge": [[9, 12]], "drop": [4]}


def test_a_similar_cluster_is_merged_and_taken_out_with_one_button(visit: Visit, tmp_path: Path) -> None:
    button = visit.card(2).locator(".pill button").first
    other = int(button.get_attribute("data-merge"))
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert json.loads(visit.names_json(tmp_path).read_text())["merge"] == [sorted([2, other])]
    button.click()
    assert json.loads(visit.names_json(tmp_path).read_text())["merge"] == []


def test_a_number_that_is_no_other_cluster_is_refused(visit: Visit, tmp_path: Path) -> None:
    card = visit.card(2)
    for wrong in ("2", "31", ""):
        card.locator("input[type=number]").fill(wrong)
        card.get_by_role("button", name="Merge cluster 2", exact=True).click()
    assert json.loads(visit.names_json(tmp_path).read_text())["merge"] == []


def test_marks_survive_a_reload_but_belong_to_their_run(visit: Visit, source: ReportSource, tmp_path: Path) -> None:
    visit.card(3).locator(".name").fill("dog")
    visit.page.reload()
    assert visit.card(3).locator(".name").input_value() == "dog"
    assert "1 named" in visit.page.locator("#marks-count").inner_text()
    again = {**source.stages, "cluster": replace(stage_row("cluster"), identity="another clustering")}
    visit.open(build_report(replace(source, stages=again), tmp_path / "other", max_clusters=2).page)
    assert "0 named" in visit.page.locator("#marks-count").inner_text()


def test_a_names_file_can_be_loaded_and_a_wrong_one_changes_nothing(visit: Visit, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    right.write_text(json.dumps({"names": {"7": "emu"}, "merge": [[1, 2]], "drop": [3]}))
    wrong.write_text(json.dumps({"names": {"99": "gnu"}}))
    visit.page.locator("#load").set_input_files(right)
    visit.page.get_by_text("1 named, 1 merged, 1 dropped").wait_for()
    told: list[str] = []
    visit.page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
    with visit.page.expect_event("dialog"):
        visit.page.locator("#load").set_input_files(wrong)
    visit.page.wait_for_function("() => document.getElementById('load').value === ''")
    assert "there is no cluster 99" in told[0]
    assert json.loads(visit.names_json(tmp_path).read_text())["names"] == {"7": "emu"}


def test_a_names_file_may_be_the_names_alone(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text('{"7": "emu", "8": "fox"}')
    visit.page.locator("#load").set_input_files(tmp_path / "plain.json")
    visit.page.get_by_text("2 named, 0 merged, 0 dropped").wait_for()
    assert json.loads(visit.names_json(tmp_path).read_text())["names"] == {"7": "emu", "8": "fox"}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('["dog"]', "not an object"),
        ("null", "not an object"),
        ('{"7": "emu", "drop": [3]}', "unknown part 7"),
        ('{"names": ["dog"]}', "names is an object"),
        ('{"merge": [1, 2]}', "merge a list of lists"),
    ],
)
def test_what_luss_labels_would_refuse_leaves_the_marks_alone(
    visit: Visit, tmp_path: Path, content: str, fault: str
) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(LussError):
        read_edits(tmp_path / "wrong.json")
    visit.card(3).locator(".name").fill("dog")
    told: list[str] = []
    visit.page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
    visit.page.locator("#load").set_input_files(tmp_path / "wrong.json")
    visit.page.wait_for_function("() => document.getElementById('load').value === ''")
    assert json.loads(visit.names_json(tmp_path).read_text())["names"] == {"3": "dog"}
    assert fault in told[0]


def test_every_image_has_alternative_text(visit: Visit) -> None:
    visit.card(1).locator("img").first.wait_for()
    texts = visit.page.evaluate("() => [...document.images].map((image) => image.alt)")
    assert len(texts) >= 8
    assert all(len(text) > 5 for text in texts)
    assert visit.page.locator("svg:not([aria-hidden]):not([aria-label])").count() == 0


def test_everything_can_be_done_with_the_keyboard_alone(visit: Visit, tmp_path: Path) -> None:
    keys = visit.page.keyboard

    def tab_to(element: str) -> None:
        for _ in range(80):
            keys.press("Tab")
            if visit.page.evaluate("(wanted) => document.activeElement.matches(wanted)", element):
                break
        else:
            pytest.fail(f"{element} cannot be reached")
        style = "() => getComputedStyle(document.activeElement).outlineStyle"
        assert visit.page.evaluate(style) != "none", f"{element} shows no focus"

    keys.press("Tab")
    assert visit.page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    keys.press("Enter")
    tab_to("#find")
    keys.type("6")
    tab_to("#threshold")
    keys.press("ArrowRight")
    assert visit.page.locator("#threshold-value").inner_text() == "0.505"
    tab_to("#cluster-6 .name")
    keys.type("fox")
    tab_to("#cluster-6 .drop")
    tab_to("#cluster-6 input[type=number]")
    keys.type("8")
    keys.press("Enter")
    assert visit.page.locator("#said").inner_text() == "Cluster 6 merged with 8"
    keys.press("Shift+Tab")
    keys.press("Space")
    assert visit.page.locator("#said").inner_text() == "Cluster 6 will be dropped"
    keys.press("Space")
    visit.page.locator("#download").focus()
    with visit.page.expect_download() as download:
        keys.press("Enter")
    assert json.loads(Path(download.value.path()).read_text()) == {"names": {"8": "fox"}, "merge": [], "drop": []}


def test_look_closer_opens_and_closes_by_keyboard_and_gives_the_focus_back(visit: Visit) -> None:
    card = visit.card(4)
    card.locator("img").first.wait_for()
    card.get_by_role("button", name="Look closer").press("Enter")
    dialog = visit.page.get_by_role("dialog")
    assert dialog.locator("img").count() == 8
    assert "cosine" in dialog.inner_text()
    visit.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert visit.page.evaluate("() => document.activeElement.textContent") == "Look closer"


def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, viewport=PHONE)
    visit.card(1).locator("img").first.wait_for()
    for section in ("overview", "clusters", "categories", "training", "figures", "skipped"):
        visit.page.locator(f"#{section}").scroll_into_view_if_needed()
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    wide = """() => [...document.querySelectorAll('main *')].filter((element) =>
      !element.closest('.scroll') && !element.closest('.hidden') && element.getBoundingClientRect().right > innerWidth + 1
    ).map((element) => element.outerHTML.slice(0, 80))"""
    assert visit.page.evaluate(wide) == []
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(browser: Any, report: Path, scheme: str) -> None:
    visit = Visit(browser, report, color_scheme=scheme)
    colours = visit.page.evaluate("""() => {
      const style = (selector) => getComputedStyle(document.querySelector(selector));
      return [style("body").backgroundColor, style("body").color, style(".soft").color, style("main a").color];
    }""")
    paper, *inks = [luminance(colour) for colour in colours]
    assert (paper < 0.1) == (scheme == "dark")
    for ink in inks:
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5
    visit.context.close()


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_clusters_are_paged_found_and_sorted(visit: Visit) -> None:
    page = visit.page
    assert page.locator(".card").count() == 12
    assert page.locator("#found").inner_text() == "30 clusters, page 1 of 3"
    page.get_by_role("button", name="Next page of clusters").first.click()
    assert page.locator("#found").inner_text() == "30 clusters, page 2 of 3"
    page.locator("#find").fill("29")
    assert [card.get_attribute("id") for card in page.locator(".card").all()] == ["cluster-29"]
    page.locator("#find").fill("ant")
    assert page.locator(".card").count() > 1
    page.locator("#find").fill("")
    page.locator("#order").select_option("number")
    assert page.locator(".card h3").first.inner_text() == "Cluster 1"
    page.locator(".card .pill a").first.click()
    assert page.evaluate("() => document.activeElement.tagName") == "H3"


def test_only_pictures_near_the_screen_are_loaded(visit: Visit) -> None:
    visit.card(1).locator("img").first.wait_for()
    loaded = [request for request in visit.requests if "/clusters/" in request]
    assert 0 < len(loaded) <= 12


def test_a_half_run_says_what_is_missing(browser: Any, source: ReportSource, tmp_path: Path) -> None:
    half = without(source, "pseudo_labels", "finetune", "predict", "evaluate")
    visit = Visit(browser, build_report(half, tmp_path / "half", max_clusters=3).page)
    text = visit.page.locator("main").inner_text()
    assert "pseudo_labels (missing)" in text
    assert "Nothing was measured" in text
    assert "no label maps of these clusters yet" in text
    assert not visit.page.locator("#threshold").is_visible()
    assert visit.complaints == []
    early = without(source, "extract_features", "cluster", "pseudo_labels", "finetune", "predict", "evaluate")
    visit.open(build_report(early, tmp_path / "early").page)
    assert "There are no clusters yet" in visit.page.locator("main").inner_text()
    assert visit.complaints == []
    visit.context.close()


def test_names_from_outside_are_text_and_never_html(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but a slash may not stand in the name of a folder; each of them would run if it became HTML or an address.
    attack = "document.title='broken';document.body.dataset.broken=1"
    names = (
        f"<script>{attack}",
        f'"><img src=x onerror={attack}>',
        f"&lt;'`</b> onmouseover={attack} x='".replace("/", ""),
    )
    monkeypatch.setattr("report_run.CATEGORIES", names)
    source = make_run(tmp_path / names[1] / "$(touch here) `x`", num_clusters=3, images_per_cluster=8)
    source.settings.name = names[0]
    store = LabelStore.open(source.of("pseudo_labels") / "labels")
    (tmp_path / "names.json").write_text(json.dumps({"names": {"2": names[1]}}))
    store.layers.add(read_edits(tmp_path / "names.json"))
    (source.of("predict") / "clusters-<script>#1?&.png").write_bytes(b"")
    Image.new("RGB", (40, 30)).save(source.of("predict") / "clusters-<script>#1?&.png")
    (source.of("manifest") / "skipped.csv").write_text(f"path,reason\n{'x'.join(names[::2])},{names[2]}\n")
    visit = Visit(browser, build_report(replace(source, problems=(names[0],)), tmp_path / "report").page)
    visit.card(1).locator(".name").fill(names[2])
    visit.page.reload()
    visit.card(1).locator("img").first.wait_for()
    visit.page.mouse.wheel(0, 30_000)
    visit.page.locator("#figures img").first.wait_for()
    assert visit.page.title() == f"{names[0]} · luss report"
    assert visit.page.locator("h1").inner_text() == names[0]
    assert visit.card(1).locator("h3").inner_text() == f"Cluster 1 {names[2]}"
    text = " ".join(visit.page.locator("main").inner_text().split())
    for name in names:
        assert name in text
    assert visit.page.evaluate("() => document.body.dataset.broken") is None
    assert visit.page.locator("main script, main b[onmouseover], img[onerror]").count() == 0
    # The picture that is there is also found, and a command that is copied means the folder.
    assert visit.page.locator("#figures img").first.evaluate(
        "async (image) => (await image.decode(), image.naturalWidth)"
    )
    typed = visit.page.locator("#labels-command").inner_text()
    assert shlex.split(typed) == ["luss", "labels", str(source.folder), "--names", "names.json"]
    visit.card(2).get_by_role("button", name="Look closer").click()
    assert names[0] in visit.page.get_by_role("dialog").inner_text()
    assert visit.complaints == []
    visit.context.close()
