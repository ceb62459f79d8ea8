# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The report page in a real Chromium: what a reader sees, hears and can reach, and what the page may not do."""

import base64
import json
import shutil

import pytest
from helpers.report_pages import HOSTILE, hostile_result, make_result, make_rows, seen
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium_axe_python import Axe

from hf_cbft.analysis.mechanisms import mechanisms
from hf_cbft.reporting.page import page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def start_browser():
    """A headless Chromium that keeps its console and every request in its logs."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail("These tests need Chromium and its driver: apt-get install chromium chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A dialog of the page is left open, so that a test sees it.
    options.unhandled_prompt_behavior = "ignore"
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def result():
    return make_result()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, result):
    """Files of the page, by what it shows."""
    folder = tmp_path_factory.mktemp("pages")
    report = mechanisms(result)
    hostile, rows = hostile_result()
    texts = {
        "images": page(result, make_rows(result, "image"), report, "hf-cbft evaluate A B --dataset digits"),
        "texts": page(result, make_rows(result), report),
        "groups": page(make_result(("cue",), 5, 40, groups=["land", "water"])),
        "hostile": page(hostile, rows, mechanisms(hostile), "hf-cbft evaluate '<script>alert(9)</script>'"),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, pages):
    """Opens a page as a reader with these habits would."""

    def opened(name, scheme="light", width=1280, media="", scripts=True):
        command = browser.execute_cdp_cmd
        phone = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        command("Emulation.setDeviceMetricsOverride", phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command("Emulation.setEmulatedMedia", {"media": media, "features": features})
        command("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        browser.get((pages / f"{name}.html").as_uri())
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def drawn(browser):
    return json.loads(browser.find_element(By.ID, "chart").get_attribute("textContent"))


def told(browser):
    return browser.find_element(By.ID, "live").text


def sentence(chart, panel, point, one):
    """What the page tells of a value."""
    of_set = chart["panels"][panel]["sets"][one]
    unit = f" {chart['panels'][panel]['unit']}" if chart["panels"][panel]["unit"] else ""
    band = f", band {of_set['band'][point]}" if of_set["band"] and of_set["band"][point] else ""
    title = chart["panels"][panel]["title"].lower()
    return f"alpha {chart['alphas'][point]}, {of_set['name']}: {title} {of_set['text'][point]}{unit}{band}"


@pytest.mark.parametrize("name", ["images", "texts", "groups", "hostile"])
def test_nothing_leaves_the_page_and_nothing_fails(show, name):
    browser = show(name)
    browser.get_log("performance"), browser.get_log("browser")
    browser.refresh()
    browser.execute_script("scrollTo(0, document.body.scrollHeight)")
    browser.find_element(By.CSS_SELECTOR, ".plot").click()
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [browser.current_url]
    assert browser.get_log("browser") == []


def test_the_policy_stops_what_would_leave(show):
    # The test above sees nothing on a page that is quiet; this one, that a page which is not would be held.
    browser = show("images")
    browser.get_log("browser")
    script = (
        "const image = new Image(); image.onerror = () => arguments[0]('held'); image.src = 'https://example.org/x'"
    )
    assert browser.execute_async_script(script) == "held"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("images", 1280), ("texts", 360), ("groups", 360)])
def test_axe_finds_no_violation(show, name, width, scheme):
    browser = show(name, scheme, width)
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    browser.set_script_timeout(300)
    axe = Axe(browser)
    axe.inject()
    found = axe.run()
    assert not found["violations"], axe.report(found["violations"])
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]
    # What axe cannot judge are signs and the charts, whose colours tests/test_report.py computes, and what is scrolled
    # out of a table.
    open_rules = {rule["id"]: rule["nodes"] for rule in found["incomplete"]}
    assert set(open_rules) <= {"color-contrast"}
    reasons = {check["data"]["messageKey"] for node in open_rules.get("color-contrast", ()) for check in node["any"]}
    assert reasons <= {"nonBmp", "imgNode", "shortTextContent", "elmPartiallyObscured"}


def test_the_keyboard_alone_reaches_every_value(show):
    browser = show("images")
    chart = drawn(browser)
    for number, panel in enumerate(chart["panels"]):
        for _ in range(20):
            webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
            plot = browser.switch_to.active_element
            if plot.get_attribute("data-panel") == str(number):
                break
        assert plot.get_attribute("data-panel") == str(number)
        assert plot.value_of_css_property("outline-style") == "solid"
        heard = set()
        for _ in panel["sets"]:
            plot.send_keys(Keys.HOME)
            for _ in chart["alphas"]:
                heard.add(told(browser))
                plot.send_keys(Keys.RIGHT)
            plot.send_keys(Keys.DOWN)
        points, sets = range(len(chart["alphas"])), range(len(panel["sets"]))
        assert heard == {sentence(chart, number, point, one) for point in points for one in sets}
        plot.send_keys(Keys.END, Keys.LEFT)
        assert told(browser).startswith(f"alpha {chart['alphas'][-2]},")


def test_the_pointer_shows_the_value_below_it(show):
    browser = show("images")
    chart = drawn(browser)
    place = """
        const svg = document.querySelectorAll(".plot svg")[arguments[0]];
        svg.scrollIntoView({block: "center", behavior: "instant"});
        const at = new DOMPoint(arguments[1], arguments[2]).matrixTransform(svg.getScreenCTM());
        return {x: at.x, y: at.y};
    """
    for number, panel in enumerate(chart["panels"]):
        assert len(panel["sets"]) == 4
        for of_set in panel["sets"]:
            for point in (1, 5, 9):
                at = browser.execute_script(place, number, panel["x"][point], of_set["y"][point])
                browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})
                # Sets with the same value lie on top of each other.
                same = [i for i, other in enumerate(panel["sets"]) if abs(other["y"][point] - of_set["y"][point]) < 1]
                assert told(browser) in [sentence(chart, number, point, i) for i in same]
                cells = browser.find_elements(By.CSS_SELECTOR, f"figure:nth-of-type({number + 1}) .now")
                assert [cell.text for cell in cells] == [other["text"][point] for other in panel["sets"]]


def test_a_finger_shows_the_value_below_it(show):
    browser = show("images", width=360)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", plot)
    for share, alpha in ((0.14, "0"), (0.95, "1")):
        at = {"x": box["x"] + share * box["width"], "y": box["y"] + 0.5 * box["height"]}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert told(browser).startswith(f"alpha {alpha},")
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_hostile_words_stay_words(show):
    # A dialog would be an open door, and an element that is on no other page one left ajar.
    kinds = "return [...new Set([...document.querySelectorAll('*')].map((one) => one.localName))]"
    calm = set(show("texts").execute_script(kinds)) | set(show("groups").execute_script(kinds))
    browser = show("hostile")
    assert set(browser.execute_script(kinds)) <= calm
    for selector, number in {"script": 2, "h1": 1, "style": 1, "main": 1}.items():
        assert len(browser.find_elements(By.CSS_SELECTOR, selector)) == number
    places = {
        "set": ".sets th[scope=row]",
        "group": ".groups td:nth-child(2)",
        "text": "blockquote",
        "label": ".label, .runs b",
        "chart": ".legend th[scope=row]",
    }
    for place, selector in places.items():
        texts = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
        )
        for words in HOSTILE:
            start = seen(words)[:400]
            assert any(start in " ".join(text.split()) for text in texts), (place, words)
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    for _ in HOSTILE:
        plot.send_keys(Keys.DOWN)
    assert set(browser.execute_script(kinds)) <= calm
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", ["images", "texts", "groups", "hostile"])
def test_a_phone_needs_no_sideways_scroll(show, name):
    browser = show(name, width=360)
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert browser.execute_script("return innerWidth") == 360
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    # Charts are read, not guessed: their words are at least 10 pixels high.
    sizes = "return [...document.querySelectorAll('.plot text')].map((one) => one.getBoundingClientRect().height)"
    assert min(browser.execute_script(sizes)) >= 10


def test_paper_has_everything(show):
    browser = show("images", scheme="dark")
    browser.execute_script("""
        addEventListener("beforeprint", () => {
            window.printed = [...document.querySelectorAll("table")].map((one) => one.offsetHeight);
            window.paper = getComputedStyle(document.body).backgroundColor;
        });
    """)
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF")
    assert min(browser.execute_script("return window.printed")) > 0
    assert not browser.find_elements(By.CSS_SELECTOR, "details[open]")
    assert show("images", "dark", media="print").find_element(By.TAG_NAME, "body").value_of_css_property(
        "background-color"
    ) in ("rgba(255, 255, 255, 1)", "rgb(255, 255, 255)")


def test_without_scripts_the_tables_are_there(show, result):
    browser = show("images", scripts=False)
    assert not told(browser).strip()
    assert len(browser.find_elements(By.CSS_SELECTOR, ".sets tbody tr")) == 4
    browser.find_element(By.CSS_SELECTOR, "summary").click()
    rows = browser.find_elements(By.CSS_SELECTOR, "details[open] tbody tr")
    assert rows[5].text.split() == ["0.5", *(f"{losses[5]:.3f}" for losses in result.losses.values())]
