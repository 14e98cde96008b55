"""The pages in a browser that reaches no network: no error, chips choose, hostile names do nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rows import write_table
from test_rsdata_report import EVIL, image

from rsdata import cli

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
ROWS = {
    "train": ["ship ship harbor", "ship", "harbor", "storage_tank bridge", ""],
    "val": ["ship bridge", "bridge"],
}

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on the PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(5)
    # Without it a page in the background, as one without a screen may be, is told of no focus.
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report, a view and an image of a small table, and a report of hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    said = {"captions": ["Two ships and a harbor.", "The sky.", "A harbor."], "caption_source": "human"}
    rows = {
        split: [
            [
                image(f"{split}{at}", labels, split=split, dataset="ab"[at % 2], **said)
                for at, labels in enumerate(each)
            ]
        ]
        for split, each in ROWS.items()
    }
    write_table(folder / "t", rows)
    hostile = [
        image(
            "x", EVIL.replace(" ", "_"), captions=[EVIL, "<script>alert(1)</script>"], caption_source="human"
        ),
        image("<script>alert(1)</script>", "<script>alert(1)</script>", dataset="'\"><svg/onload=alert(1)>"),
    ]
    write_table(folder / "hostile", {"train": [hostile]})
    for arguments in (
        ["stats", folder / "t", "--html", folder / "report.html"],
        ["stats", folder / "hostile", "--html", folder / "hostile.html"],
        ["view", folder / "t", "--where", "boxes > 0", "-o", folder / "view.html"],
        ["show", folder / "t", "TEST/train/train0", "-o", folder / "show.html"],
        ["show", folder / "hostile", "TEST/train/x", "-o", folder / "evil.html"],
    ):
        assert CliRunner().invoke(cli.main, list(map(str, arguments))).exit_code == 0
    return folder


def look(browser: Any, page: Path, width: int = 1200) -> None:
    """Open a page, and see that nothing went wrong in it. width: of a screen, in CSS pixels."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert not browser.execute_script(
        "return performance.getEntriesByType('resource').some(e => !e.name.startsWith('data:'))"
    )


def find(browser: Any, css: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", css)
    return found


def click(browser: Any, css: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", css)


def visible(browser: Any) -> list[str]:
    """The ids of the cards of the gallery that are shown."""
    script = (
        "return [...document.querySelectorAll('[data-gallery] .card')].filter(e => e.offsetParent)"
        ".map(e => e.querySelector('figcaption').firstChild.textContent)"
    )
    return sorted(browser.execute_script(script))


@pytest.mark.parametrize("name", ["report", "view"])
def test_chips_choose_images(browser: Any, pages: Path, name: str) -> None:
    look(browser, pages / f"{name}.html")
    with_ships = {
        f"TEST/train/{split}{at}"
        for split, each in ROWS.items()
        for at, words in enumerate(each)
        if "ship" in words.split()
    }
    every = visible(browser)
    assert len(every) == 7 - (name == "view")
    click(browser, '[data-filter="classes"][data-name="ship"]')
    assert visible(browser) == sorted(with_ships)
    told = find(browser, "[data-matches]")[0]
    assert told.text == f"{len(with_ships)} of {len(every)} images: ship"
    click(browser, '[data-filter="dataset"][data-name="b"]')
    assert visible(browser) == [each for each in sorted(with_ships) if each[-1] in "13"]
    assert len(find(browser, '[aria-pressed="true"]')) == 2
    click(browser, '[data-filter="dataset"][data-name="b"]')
    assert visible(browser) == sorted(with_ships)
    click(browser, "[data-clear]")
    assert visible(browser) == every
    assert find(browser, '[aria-pressed="true"]') == []


def test_chips_obey_the_keyboard(browser: Any, pages: Path) -> None:
    look(browser, pages / "report.html")
    chip = find(browser, '[data-filter="classes"][data-name="bridge"]')[0]
    chip.send_keys(" ")
    assert len(visible(browser)) == 3
    chip.send_keys("\ue007")
    assert len(visible(browser)) == 7


def test_every_picture_decodes_and_has_its_boxes_over_it(browser: Any, pages: Path) -> None:
    look(browser, pages / "report.html")
    sizes = browser.execute_async_script(
        "const done = arguments[0], all = [...document.images];"
        "Promise.all(all.map(e => (e.loading = 'eager', e.decode())))"
        ".then(() => done(all.map(e => e.naturalWidth)))"
    )
    assert len(sizes) == 7
    assert set(sizes) == {256}
    places = browser.execute_script(
        "const all = [...document.querySelectorAll('.card')];"
        "const card = all.find(e => e.textContent.includes('TEST/train/train1'));"
        "card.scrollIntoView(); const r = e => { const b = e.getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height] };"
        "return [r(card.querySelector('img')), r(card.querySelector('path'))]"
    )
    (left, top, wide, high), box = places
    wanted = [left, top + high * 20 / 256, wide * 30 / 256, high * 40 / 256]
    assert box == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("name", ["hostile", "evil"])
def test_hostile_names_do_nothing(browser: Any, pages: Path, name: str) -> None:
    look(browser, pages / f"{name}.html")  # an alert would make the next command fail
    assert len(find(browser, "script")) == 1
    assert find(browser, "[onerror], [onload]") == []
    assert "onerror=alert(1)" in browser.execute_script("return document.body.innerText")


def test_a_script_that_slipped_in_would_not_run(browser: Any, pages: Path) -> None:
    look(browser, pages / "report.html")
    browser.execute_script(
        "const e = document.createElement('script'); e.textContent = 'window.ran = 1';"
        "document.body.append(e);"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert browser.execute_script("return window.ran") is None
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "script-src" in messages
    assert "img-src" in messages


@pytest.mark.parametrize("name", ["report", "view", "show", "hostile"])
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_down_only(browser: Any, pages: Path, name: str, width: int) -> None:
    look(browser, pages / f"{name}.html", width)
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, seen = browser.execute_script(script)
    assert (wide, seen) == (width, width)


def test_a_caption_lights_its_boxes(browser: Any, pages: Path) -> None:
    look(browser, pages / "show.html")
    captions = find(browser, ".captions button")
    lit = "return [...document.querySelectorAll('path.on')].map(e => e.dataset.key)"
    assert browser.execute_script(lit) == []
    browser.execute_script("arguments[0].focus()", captions[0])
    assert sorted(browser.execute_script(lit)) == ["b1", "b2", "b3"]
    browser.execute_script("arguments[0].focus()", captions[1])
    assert browser.execute_script(lit) == []
    captions[2].click()
    assert browser.execute_script(lit) == ["b3"]
    browser.execute_script("arguments[0].focus()", captions[0])
    assert browser.execute_script(lit) == ["b3"]  # a click holds
    captions[2].click()
    assert browser.execute_script(lit) == []
    browser.execute_script(
        "document.querySelector('path[data-key=b1]')"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"
    )
    assert [told.get_attribute("class") for told in captions] == ["on", "", ""]


def test_dark_and_light(browser: Any, pages: Path) -> None:
    look(browser, pages / "report.html")
    colours = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colours[scheme] = browser.execute_script(
            "return [document.body, document.querySelector('.chart text')].map(e => getComputedStyle(e))"
            ".map((s, at) => at ? s.fill : s.backgroundColor)"
        )
    assert colours["light"][0] == "rgb(255, 255, 255)"
    assert all(one != other for one, other in zip(*colours.values(), strict=True))
