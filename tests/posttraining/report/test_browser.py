"""The page in a real browser without a network: drawn, quiet, sortable, legible on a phone and in both themes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from switchq.posttraining.ptq import load_methods
from switchq.posttraining.report import build, read_sources, render

from .conftest import RECORDS, Page
from .test_leaderboard import run as leaderboard_run
from .test_leaderboard import write as write_leaderboard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="needs chromium and chromedriver on the path: the page is tried in a browser",
)
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, offline, that keeps what pages say on the console."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


def wait_drawn(browser: Any, theme: str) -> None:
    """Return when all charts are drawn in a theme."""
    browser.execute_async_script(
        """const [theme, done] = arguments, poll = setInterval(() => {
             if (document.documentElement.dataset.drawn === theme) { clearInterval(poll); done(); }
           }, 25);""",
        theme,
    )


def visit(browser: Any, path: Path, width: int = 1280, theme: str = "light") -> None:
    browser.get_log("browser")
    features = [{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    wait_drawn(browser, theme)


def said(browser: Any) -> list[str]:
    """Everything on the console since the last visit, warnings included."""
    return [entry["message"] for entry in browser.get_log("browser")]


MARKS = """return [...document.querySelectorAll('.chart')].map(chart => {
  const drawn = chart.querySelector('.live svg');
  const box = drawn.getBoundingClientRect();
  return [chart.dataset.figure, drawn.querySelectorAll('.mark-symbol path, .mark-line path, .mark-rect path').length,
          box.width, box.height, getComputedStyle(chart.querySelector('.still')).display];
});"""


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_every_plot_is_drawn_and_the_console_is_silent(browser: Any, page: Page, width: int, theme: str) -> None:
    visit(browser, page.path, width, theme)
    drawn = browser.execute_script(MARKS)
    assert [name for name, *_ in drawn] == [one.slug for one in page.report.figures]
    for name, marks, across, down, still in drawn:
        assert marks > 0, name
        assert width * 0.25 < across <= width, name
        assert down > 50, name
        assert still == "none", name
    assert said(browser) == []


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_the_page(browser: Any, page: Page, width: int) -> None:
    visit(browser, page.path, width)
    browser.execute_script("document.querySelectorAll('details.made').forEach(one => one.open = true)")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].some(one => one.scrollWidth > one.clientWidth)"
    )
    assert wide or width > 400, "wide tables scroll in their own box"
    assert said(browser) == []


LEGEND = """const box = document.querySelector('.chart .live svg').getBoundingClientRect();
return [...document.querySelectorAll('.chart .live svg .role-legend-label text')].map(one => {
  const { left, top, right } = one.getBoundingClientRect();
  return [one.textContent, left >= box.left && top >= box.top && right <= box.right + 1];
});"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_leaderboard_of_many_methods_has_room_for_their_names(browser: Any, tmp_path: Path, width: int) -> None:
    runs = [leaderboard_run(name, 4, 20.0 + place) for place, name in enumerate(sorted(load_methods()))]
    report = build(read_sources([write_leaderboard(tmp_path / "ptq", runs=runs)]))
    (tmp_path / "page.html").write_text(render(report))
    visit(browser, tmp_path / "page.html", width)
    inside = dict(browser.execute_script(LEGEND))
    assert len(inside) > len(runs)
    assert all(inside.values()), inside


COLUMN = """const table = [...document.querySelectorAll('.table')].find(one => one.id.startsWith('results-'));
const place = [...table.querySelectorAll('thead th')].findIndex(head => head.textContent === arguments[0]);
return [...table.querySelectorAll('tbody tr')].map(row => row.cells[place].textContent);"""

HEAD = """const table = [...document.querySelectorAll('.table')].find(one => one.id.startsWith('results-'));
return [...table.querySelectorAll('thead th')].find(head => head.textContent === arguments[0]);"""


def test_a_heading_sorts_both_ways(browser: Any, page: Page) -> None:
    visit(browser, page.path)
    expected = sorted(browser.execute_script(COLUMN, "Weights MB"), key=lambda text: float(text.replace(",", "")))
    assert browser.execute_script(COLUMN, "Weights MB") != expected
    head = browser.execute_script(HEAD, "Weights MB")
    button = head.find_element("tag name", "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    button.click()
    assert browser.execute_script(COLUMN, "Weights MB") == expected
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert browser.execute_script(COLUMN, "Weights MB") == expected[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    assert len(expected) == len(RECORDS) + 3 + 1, "results, the run, and the dev set of the search"


def test_the_keyboard_sorts_too_and_empty_cells_come_last(browser: Any, page: Page) -> None:
    visit(browser, page.path)
    head = browser.execute_script(HEAD, "F1 before %")
    button = head.find_element("tag name", "button")
    button.send_keys("\ue007")  # Enter
    up = [text for text in browser.execute_script(COLUMN, "F1 before %")]
    assert up[:3] == ["39.5", "39.8", "40.0"]
    assert set(up[3:]) == {""}
    button.send_keys(" ")
    down = browser.execute_script(COLUMN, "F1 before %")
    assert down[:3] == ["40.0", "39.8", "39.5"]
    assert set(down[3:]) == {""}


def test_the_button_changes_the_theme_and_draws_again(browser: Any, page: Page) -> None:
    visit(browser, page.path)
    look = """return [getComputedStyle(document.body).backgroundColor,
      [...document.querySelectorAll('.live svg .mark-symbol path')].map(one => one.getAttribute('fill')).join()];"""
    light = browser.execute_script(look)
    button = browser.find_element("id", "theme")
    assert button.text == "Dark"
    button.click()
    wait_drawn(browser, "dark")
    dark = browser.execute_script(look)
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    assert button.text == "Light"
    button.click()
    wait_drawn(browser, "light")
    assert browser.execute_script(look) == light
    assert said(browser) == []


def test_a_hostile_page_does_nothing(browser: Any, hostile: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(hostile, encoding="utf-8")
    visit(browser, path, 360)
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.execute_script("return document.scripts.length") == 3
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert all(marks > 0 for _, marks, *_ in browser.execute_script(MARKS))
    assert said(browser) == []


def test_without_scripts_the_still_pictures_show(browser: Any, page: Page) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page.path.as_uri())
        stills = browser.find_elements("css selector", ".still")
        assert len(stills) == len(page.report.figures)
        assert all(one.is_displayed() and one.size["height"] > 50 for one in stills)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
