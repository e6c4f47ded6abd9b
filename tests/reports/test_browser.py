"""The report in a real browser: nothing in the console, no page wider than its window, at the width of desk and phone.

Needs Chromium, its driver and selenium; without them these tests are skipped, and test_page.py alone looks at the
page's structure.
"""

import json
import re
import shutil

import pytest

from mnemonics_jax import cli

pytest.importorskip("selenium", reason='needs selenium: pip install ".[test]"')
from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A report of arms enough for its tables to be wider than a phone."""
    root = tmp_path_factory.mktemp("runs")
    for seed, (method, kind) in enumerate(
        (m, k) for m in ("icarl", "lucir") for k in ("random", "herding", "mnemonics")
    ):
        folder = root / f"a-folder-with-a-name-that-is-long-enough-to-be-in-the-way-{method}-{kind}"
        folder.mkdir()
        accuracy = [90.0 - seed - i for i in range(6)]
        summary = {
            **{"dataset": "digits", "method": method, "exemplars": kind, "seed": 0, "accuracy": accuracy},
            **{"average_accuracy": 80.0, "average_accuracy_exemplar_model": 80.0, "last_accuracy": 70.0},
            **{"forgetting": 10.0, "seen_classes": [5, 6, 7, 8, 9, 10], "memory_bytes": 3200, "seconds": 10.0},
            **{"accuracy_exemplar_model": None, "memory_dtype": "uint8", "backend": "cpu", "compilations": 9},
            **{"accuracy_matrix": [[a if g <= i else None for g in range(6)] for i, a in enumerate(accuracy)]},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.json").write_text(json.dumps({"seed": 0, "train": {"epochs": seed}}))
    cli.main(["report", str(root)])
    return (root / "report.html").as_uri()


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desk", "phone"])
def browser(request, tmp_path, url):
    """The page, open in a window of that size."""
    width, height, scheme = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # Smooth scrolling would take a while.
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = [{"name": name, "value": value} for name, value in wishes.items()]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        driver.get(url)
        yield driver, width, scheme
    finally:
        driver.quit()


def test_the_page_looks_right(browser):
    driver, width, scheme = browser
    assert driver.get_log("browser") == []
    assert driver.execute_script("return [innerWidth, document.scrollingElement.scrollWidth]") == [width, width]
    # Folded parts as well.
    driver.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert driver.execute_script("return document.scrollingElement.scrollWidth") == width
    boxes = "return [...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect())"
    pictures = driver.execute_script(boxes)
    assert len(pictures) == 3
    assert all(box["width"] > 300 and box["height"] > 100 for box in pictures)
    inner = "return [...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])"
    scrolls = [content > room for content, room in driver.execute_script(inner)]
    assert any(scrolls) or width > 1000, "what is wide scrolls within its box"
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


HOVER = """
const mark = [...document.querySelectorAll(arguments[0])].find(e => e.querySelector('title'));
mark.scrollIntoView({block: 'center', inline: 'center'});
const place = mark.getBoundingClientRect();
const found = document.elementFromPoint(place.x + place.width / 2, place.y + place.height / 2);
return found.querySelector('title').textContent;
"""


def test_the_exact_value_is_under_the_pointer(browser):
    driver, *_ = browser
    point = driver.execute_script(HOVER, "[data-figure=accuracy] use")
    assert re.fullmatch(r"(icarl|lucir) \w+, Θ, 5 classes: \d\d\.\d\d %", point)
    cell = driver.execute_script(HOVER, "[data-figure=forgetting-icarl] path")
    assert "% on the classes of phase 0 after phase 0" in cell


def test_the_contents_lead_to_their_sections(browser):
    driver, *_ = browser
    links = driver.find_elements("css selector", "nav a")
    assert len(links) >= 8
    for link in links:
        driver.execute_script("scrollTo(0, 0); arguments[0].click()", link)
        target = link.get_attribute("href").partition("#")[2]
        top = driver.execute_script(f"return document.getElementById('{target}').getBoundingClientRect().top")
        # The last sections cannot come to the top.
        end = "return Math.ceil(scrollY + innerHeight) >= document.scrollingElement.scrollHeight"
        assert abs(top) < 40 or (top > 0 and driver.execute_script(end))
