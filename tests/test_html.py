"""The page in HTML: one file that a browser shows without network, that sorts, filters and answers, and obeys no text."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from foretune.page import Column, Curve, Fact, Figure, HeatMap, Listing, Page, Quantity, Repeats, Span, Table
from foretune.pages.html import REPORT, html, is_written_html, write_html
from foretune.pages.inline_svg import inline_svg
from foretune.pages.json import read_page, write_page_json
from tests.conftest import WORDS, assert_refused, run_cli
from tests.test_targets import snapshot

HOSTILE = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=2">',
    "</script><script>window.pwned=3</script>",
    "'><svg onload=window.pwned=4>",
    "{{ 7 * 7 }} {% for %} <!-- ]]> &lt;b&gt; -->",
    "\u202etxt.exe\u202c \u2067right\u2069",
)
BAD = " ".join(HOSTILE)
VOID = {"meta", "br", "wbr", "input", "link", "hr", "img"}
LIMIT = 500_000


def hostile_page(kind: str = "reproduce") -> Page:
    """A page with hostile text wherever there is text."""
    column = Column(BAD, words=True)
    return Page(
        BAD,
        (BAD,),
        (Table((column, Column("n", ".3f")), ((BAD, 1.5), (f"{BAD}2", Span(0.1, 0.2))), BAD),),
        (Figure("f", BAD, BAD, BAD, (Curve(BAD, np.array([1.0, 2.0])),)),),
        (BAD,),
        answer=BAD,
        about=(Fact(BAD, BAD),),
        facts=(Fact(BAD, BAD),),
        details=(BAD,),
        listings=(Listing(BAD, BAD),),
        next=(BAD,),
        maps=(HeatMap(BAD, BAD, (BAD,), (BAD, "b"), ((0.5, None),)),),
        kind=kind,
        data={"about": {"settings": {"data": BAD, "seed": BAD}, "versions": {BAD: BAD}}, "identity": {BAD: [BAD]}},
    )


class Seen(HTMLParser):
    """What a parser finds: elements with attributes, balanced; the text without scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """See that it ends what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is read."""
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [found for name, found in self.elements if name == tag]


@pytest.fixture(scope="module")
def forecast_folder(model_folder, mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real forecast with its report."""
    folder = tmp_path_factory.mktemp("forecast") / "out"
    rows = mr_data / "mr" / "train.jsonl"
    result = run_cli("forecast", model_folder("bert-masked"), rows, WORDS, "--k", 4, "--test", 8, "--out", folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_forecast_leaves_a_page_with_everything(forecast_folder: Path) -> None:
    text = (forecast_folder / REPORT).read_text(encoding="utf-8")
    seen = Seen(text)
    assert is_written_html(forecast_folder / REPORT)
    assert len(text.encode()) < LIMIT
    page = read_page(forecast_folder / "forecast.json")
    shown = " ".join(seen.text.split())
    said = [page.answer, *page.notes, *(fact.text for fact in (*page.facts, *page.about)), *page.details]
    for each in said:
        assert " ".join(each.split()) in shown
    assert shown.index(page.notes[0]) < shown.index(page.answer)
    assert {figure.name for figure in page.figures} == {"curve", "rates", "spectrum", "candidates", "label-budget"}
    assert len(seen.all("svg")) == len(page.figures)
    assert len(page.maps) == 2 and page.maps[0].title in shown
    rows = sum(len(table.rows) for table in page.tables)
    assert len(seen.all("tr")) >= rows
    for word in ("run.yaml", "torch", "seed", "weights", "Glossary"):
        assert word in shown
    config = (forecast_folder / "run.yaml").read_text().split("\n", 1)[1]
    assert " ".join(config.split()) in shown


def test_gradient_shares_of_all_modules_add_up_to_one(forecast_folder: Path) -> None:
    places = json.loads((forecast_folder / "forecast.json").read_text())["forecast"]["anatomy"]["places"]
    assert sum(place["gradient"] for place in places) == pytest.approx(1.0)
    assert all(-1e-9 <= place["alignment"] <= 1 + 1e-9 for place in places)


def test_the_spectrum_that_is_drawn_is_that_of_the_forecast(forecast_folder: Path) -> None:
    found = json.loads((forecast_folder / "forecast.json").read_text())["forecast"]
    values = found["anatomy"]["spectrum"]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(found["whole"]["largest"])
    assert max(values[-1], 0.0) == pytest.approx(found["whole"]["smallest"], abs=1e-6 * values[0])


def test_the_rate_that_is_advised_is_the_lowest_of_its_curve(forecast_folder: Path) -> None:
    found = json.loads((forecast_folder / "forecast.json").read_text())["forecast"]
    rate = found["adamw"] or found["adapter_adamw"]
    assert rate["learning_rate"] is not None
    lowest = {run["learning_rate"]: min(run["validation_losses"][1:]) for run in rate["runs"]}
    assert min(lowest, key=lambda each: lowest[each]) == rate["learning_rate"]
    assert lowest[rate["learning_rate"]] == rate["validation_loss"]


def test_the_page_names_its_parts_for_a_screen_reader(forecast_folder: Path) -> None:
    seen = Seen((forecast_folder / REPORT).read_text(encoding="utf-8"))
    assert seen.all("html") == [{"lang": "en"}]
    assert len(seen.all("h1")) == len(seen.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels[1:]))
    ids = [found["id"] for _, found in seen.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in seen.elements:
        for name in ("aria-labelledby", "for"):
            assert set((found.get(name) or "").split()) <= set(ids)
        assert (found.get("href") or "#answer")[1:] in ids
        assert "style" not in found and not any(key.startswith("on") for key in found)
    assert all(found.get("scope") in ("col", "row") for found in seen.all("th"))
    assert all(found.get("role") == "img" and found.get("aria-labelledby") for found in seen.all("svg"))
    assert seen.all("title") and seen.all("desc")


@pytest.mark.parametrize("kind", ["reproduce", "kernel", "tune"])
def test_no_text_becomes_markup(kind: str) -> None:
    seen, plain = (Seen(html(page)) for page in (hostile_page(kind), Page("t", kind=kind)))
    assert [found for tag, found in seen.elements if tag in ("img", "iframe", "b")] == []
    assert len(seen.all("script")) == len(plain.all("script"))
    assert not any(key.startswith("on") for _, found in seen.elements for key in found)
    assert seen.text.count("<script>window.pwned=1</script>") > 12
    assert "{{ 7 * 7 }}" in seen.text and "\u202e" not in seen.text and "\\u202e" in seen.text


def test_a_page_is_the_same_text_every_time() -> None:
    assert html(hostile_page(), "1.0", "c") == html(hostile_page(), "1.0", "c")


def test_every_kind_of_page_stays_small() -> None:
    """Far more rows and figures than there is room for are counted, not drawn."""
    rows = tuple((f"row {number}", number / 7, Repeats((0.1, 0.2)), Quantity(2.0)) for number in range(20_000))
    table = Table(("name", Column("value", ".3f"), "repeats", "quantity"), rows)
    curve = Curve("c", np.random.default_rng(0).normal(size=3000))
    figures = tuple(Figure(f"f{number}", f"Figure {number}", "x", "y", (curve,)) for number in range(12))
    text = html(Page("t", tables=(table,), figures=figures))
    assert len(text.encode()) < LIMIT
    assert "more rows are left out here" in text and "Not drawn here: Figure 11" in text


def test_a_figure_has_no_styles_of_its_own_and_ids_of_its_own() -> None:
    figure = Figure("f", "a & <b>", "x", "y", (Curve("one", np.array([1.0, np.inf, 3.0])),), logarithmic=True)
    roots = [ElementTree.fromstring(inline_svg(figure, name)) for name in ("a", "b")]  # noqa: S314
    ids = [{element.get("id") for element in root.iter()} - {None} for root in roots]
    assert ids[0] and not ids[0] & ids[1]
    for root in roots:
        assert all("style" not in element.attrib for element in root.iter())
        own = {element.get("id") for element in root.iter()}
        assert {value[1:] for element in root.iter() if (value := element.get("href", ""))} <= own
        assert root[0].tag == "title" and root[0].text == "a & <b>" and "inf" in (root[1].text or "")


def test_a_page_is_ours_only_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / REPORT
    write_html(file, Page("t"), "1.0")
    assert is_written_html(file)
    written = file.read_bytes()
    for changed in (written + b" ", written.replace(b"foretune</title>", b"mine</title>"), b"<html></html>", b"\xff"):
        file.write_bytes(changed)
        assert not is_written_html(file)
    file.unlink()
    file.mkdir()
    assert not is_written_html(file)


def test_a_changed_report_is_refused_before_the_work(forecast_folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "out"
    shutil.copytree(forecast_folder, new)
    with (new / REPORT).open("a") as opened:
        opened.write("mine")
    before = snapshot(new)
    for name in ("forecast", "kernel"):
        assert_refused(run_cli(name, "/nowhere", "/nowhere.jsonl", "--out", new), 2)
    config = new / "run.yaml"
    refused = run_cli("forecast", "--config", config, "--out", new)
    assert_refused(refused, 2, "report.html is not as foretune wrote it", "mv -- ")
    assert snapshot(new) == before


def test_show_writes_the_page_of_any_result(forecast_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    shown = run_cli("show", forecast_folder, "--html", file)
    assert shown.returncode == 0, shown.stderr
    assert file.read_bytes() == (forecast_folder / REPORT).read_bytes()
    assert run_cli("show", forecast_folder / "forecast.json", "--html", file).returncode == 0
    assert file.read_bytes() == (forecast_folder / REPORT).read_bytes()
    file.write_text("mine")
    assert_refused(run_cli("show", forecast_folder, "--html", file), 2, "mv -- ")
    assert file.read_text() == "mine"
    refused = run_cli("show", forecast_folder, "--html", tmp_path / "page")
    assert_refused(refused, 2, f"--html {tmp_path / 'page'}.html")
    assert_refused(run_cli("show", forecast_folder, "--html", tmp_path), 2)


def test_a_real_run_beside_a_forecast_is_drawn(forecast_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(forecast_folder, tmp_path / "a forecast")
    config = json.loads((forecast_folder / "forecast.json").read_text())["about"]["settings"]
    words = ("tune", config["model"], config["data"], WORDS, "--k", 4, "--test", 8, "--steps", 2, "--evaluate-every", 1)
    ran = run_cli(*words, "--out", tmp_path / "real & <b>")
    assert ran.returncode == 0, ran.stderr
    assert "Did it help?" in Seen((tmp_path / "real & <b>" / REPORT).read_text()).text
    other = run_cli(*words[:-1], 2, "--seed", 5, "--out", tmp_path / "other")
    assert other.returncode == 0, other.stderr
    assert run_cli("show", tmp_path / "a forecast", "--html", tmp_path / "x.html").returncode == 0
    text = Seen((tmp_path / "x.html").read_text()).text
    assert "real: real & <b>, ft at" in text and "real: other" not in text


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a screen, with a log of what it asks for."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "there is no chromium or no chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("FORETUNE_BROWSER_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def opened(browser: Any, file: Path, width: int = 1200, scheme: str = "light") -> Any:
    """The browser with a file open, and empty logs before."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(file.as_uri())
    return browser


def asked_for(browser: Any) -> list[str]:
    """Addresses that the browser asked for."""
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    return [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]


def column(browser: Any, table: str, place: int) -> list[str]:
    """The texts of a column, from the top, of the rows that are seen."""
    return browser.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter((row) => !row.hidden)"
        ".map((row) => row.cells[arguments[1]].textContent.trim())",
        table,
        place,
    )


def candidates_table(browser: Any) -> tuple[str, list[str]]:
    """The id of the table with the most rows, and its headings."""
    return tuple(
        browser.execute_script(
            "const every = [...document.querySelectorAll('table.sortable')];"
            "const found = every.sort((a, b) => b.rows.length - a.rows.length)[0];"
            "return [found.id, [...found.tHead.rows[0].cells].map((cell) => cell.textContent.trim())]"
        )
    )


def background(browser: Any) -> str:
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_nothing_goes_wrong_and_nothing_leaves_the_page(browser: Any, forecast_folder: Path, tmp_path: Path) -> None:
    write_html(tmp_path / "hostile.html", hostile_page(), "1.0")
    for file in (forecast_folder / REPORT, tmp_path / "hostile.html"):
        opened(browser, file)
        browser.find_element("id", "theme").click()
        assert asked_for(browser) == [file.as_uri()]
        assert browser.get_log("browser") == []
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_hostile_text_does_nothing_in_any_part(browser: Any, forecast_folder: Path, tmp_path: Path) -> None:
    """Labels, names and settings of a real forecast, all hostile; it comes through JSON, as forwarded results do."""
    document = json.loads((forecast_folder / "forecast.json").read_text())

    def worse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key == "form" else worse(item) for key, item in value.items()}
        if isinstance(value, list):
            return [worse(item) for item in value]
        return value + BAD if isinstance(value, str) and value not in ("inf", "-inf") else value

    for name in ("page", "about", "identity", "task"):
        document[name] = worse(document[name])
    for item in (*document["forecast"]["comparison"]["candidates"], document["forecast"]["advice"]["candidate"]):
        item["name"] += BAD
    (tmp_path / "bad.json").write_text(json.dumps(document))
    ended = run_cli("show", tmp_path / "bad.json", "--html", tmp_path / "bad.html")
    assert ended.returncode == 0, ended.stderr
    write_html(tmp_path / "page.html", hostile_page(), "1.0")
    for file in (tmp_path / "bad.html", tmp_path / "page.html"):
        opened(browser, file)
        handlers = "document.querySelectorAll('[onload], [onerror]').length"
        seen = browser.execute_script(f"return [window.pwned === undefined, document.images.length, {handlers}]")
        assert seen == [True, 0, 0]
        assert browser.get_log("browser") == []
    browser.get((tmp_path / "bad.html").as_uri())
    assert HOSTILE[0] in browser.find_element("id", "if-answer").text


def test_a_column_is_sorted_by_its_numbers_and_says_so(browser: Any, forecast_folder: Path) -> None:
    opened(browser, forecast_folder / REPORT)
    table, headings = candidates_table(browser)
    place = next(number for number, text in enumerate(headings) if text == "trained")
    page = read_page(forecast_folder / "forecast.json")
    sizes = next([row[3] for row in each.rows] for each in page.tables if len(each.header) == len(headings))
    button = browser.find_element("css selector", f"#{table} thead tr > :nth-child({place + 1}) button")
    units = {"k": 1e3, "M": 1e6}

    def numbers() -> list[float]:
        found = column(browser, table, place)
        return [float(text.rstrip("kM")) * units.get(text[-1], 1) for text in found]

    for pressed, reverse in (("ascending", False), ("descending", True)):
        button.send_keys("\n" if reverse else " ")  # by the keyboard
        assert numbers() == sorted(numbers(), reverse=reverse) and len(numbers()) == len(sizes)
        head = browser.find_element("css selector", f"#{table} th[aria-sort='{pressed}']")
        assert head.text.strip().startswith("trained")


def test_rows_are_filtered_and_counted(browser: Any, forecast_folder: Path) -> None:
    opened(browser, forecast_folder / REPORT)
    table, headings = candidates_table(browser)
    method = headings.index("method")
    every = column(browser, table, method)
    field = browser.find_element("css selector", f"input[data-table={table}]")
    field.send_keys("LORA rank 4")
    kept = column(browser, table, method)
    assert kept == [text for text in every if "LoRA rank 4" in text] and 0 < len(kept) < len(every)
    status = browser.find_element("xpath", f"//input[@data-table='{table}']/ancestor::div[1]//*[@role='status']")
    assert status.text == f"{len(kept)} of {len(every)} rows"


def test_what_if_is_answered_from_the_numbers_of_the_page(browser: Any, forecast_folder: Path) -> None:
    opened(browser, forecast_folder / REPORT)
    found = json.loads((forecast_folder / "forecast.json").read_text())["forecast"]
    every = found["comparison"]["candidates"]
    field = found["comparison"]["criterion"]["field"]
    answer = browser.find_element("id", "if-answer")
    rank = browser.find_element("css selector", "#if-rank option[value='4']")
    rank.click()
    of_rank = [item for item in every if item["rank"] == 4]
    best = min(of_rank, key=lambda item: item["score"][field])
    assert f"The first of {len(of_rank)} choices" in answer.text
    assert f"({best['parameters']:,} parameters)" in answer.text and f"{best['score'][field]:.3f}" in answer.text
    limit = browser.find_element("id", "if-most")
    smallest = min(item["parameters"] for item in of_rank)
    limit.send_keys(str(smallest))
    assert f"({smallest:,} parameters)" in answer.text
    limit.clear()
    limit.send_keys("1")
    assert f"The smallest trains {smallest:,}." in answer.text
    rates = browser.find_elements("css selector", "#if-rate option")
    assert len(rates) > 1
    rates[1].click()
    assert "At learning rate 1.0e-6 the simulated validation loss" in answer.text


def test_the_page_is_dark_where_the_reader_wants_it(browser: Any, forecast_folder: Path) -> None:
    opened(browser, forecast_folder / REPORT)
    browser.execute_script("localStorage.clear()")
    opened(browser, forecast_folder / REPORT)
    light = background(browser)
    dark = background(opened(browser, forecast_folder / REPORT, scheme="dark"))
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(18, 22, 29)")
    toggle = browser.find_element("id", "theme")
    assert toggle.text == "Light page"
    toggle.click()
    assert background(browser) == light and toggle.text == "Dark page"
    browser.execute_script("localStorage.clear()")


def test_nothing_is_wider_than_a_phone(browser: Any, forecast_folder: Path, tmp_path: Path) -> None:
    write_html(tmp_path / "hostile.html", hostile_page(), "1.0")
    for file in (forecast_folder / REPORT, tmp_path / "hostile.html"):
        opened(browser, file, width=375)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 375
        assert browser.execute_script("return innerWidth") == 375


def test_the_page_reads_back_from_json_as_it_was(tmp_path: Path) -> None:
    page = hostile_page()
    write_page_json(tmp_path / "a.json", page, "1.0", "c")
    assert html(read_page(tmp_path / "a.json")) == html(page, "1.0", "c")
