"""A person's way through the report: from the overview to a case, by mouse and by keyboard."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect


def pixels(page: Any, selector: str) -> np.ndarray:
    """What the browser really shows of an element, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"))


def frame(page: Any) -> int:
    return int(page.locator("[data-frame]").input_value())


def press_and_go(page: Any, key: str) -> None:
    """Press a key that leads to another page, and wait until that page listens to keys."""
    with page.expect_navigation(wait_until="load"):
        page.keyboard.press(key)


def canvas(name: str) -> str:
    return f'[data-pane="{name}"] canvas'


def test_from_the_overview_through_the_red_cases_and_back(tab: Any) -> None:
    page = tab.open("index.html")
    expect(page.locator("h1")).to_contain_text("6 of 9 cases not green")
    with page.expect_navigation():
        page.get_by_role("link", name="broken", exact=True).click()
    expect(page.locator("h1")).to_have_text("broken")
    seen = []
    for _ in range(6):
        seen.append(page.locator("h1").inner_text())
        press_and_go(page, "n")
    assert sorted(seen) == ["broken", "crashed", "fault", "hostile", "large", "new"]
    expect(page.locator("h1")).to_have_text("broken")
    press_and_go(page, "p")
    expect(page.locator("h1")).to_have_text("fault")
    press_and_go(page, "j")
    expect(page.locator("h1")).to_have_text("broken")
    press_and_go(page, "o")
    expect(page.locator("h1")).to_contain_text("not green")


def test_the_overview_is_walked_and_filtered_by_keyboard(tab: Any) -> None:
    page = tab.open("index.html")
    page.keyboard.press("n")
    expect(page.locator(":focus")).to_have_text("fault")
    page.keyboard.press("n")
    expect(page.locator(":focus")).to_have_text("broken")
    page.locator("[data-filter]").fill("zebra")
    expect(page.locator("[data-filter-count]")).to_have_text("0 of 9 cases")
    page.locator("[data-filter]").fill("NIBBLE")
    expect(page.locator("[data-row]:visible")).to_have_count(1)
    page.locator("[data-filter]").press("n")
    expect(page.locator("[data-filter]")).to_have_value("NIBBLEn")


def test_a_click_on_a_curve_seeks(tab: Any) -> None:
    page = tab.open("cases/broken.html")
    curve = page.locator('[data-curve="mad"]')
    box = curve.bounding_box()
    plot = (56 / 600, 590 / 600)
    for wanted in (0, 3, 6):
        x = box["width"] * (plot[0] + (plot[1] - plot[0]) * wanted / 8)
        curve.click(position={"x": x, "y": box["height"] / 2})
        assert frame(page) == wanted
        expect(page.locator("figure.curve").first.locator("[data-value]")).to_contain_text(f"at frame {wanted}")
        heads = page.locator("[data-head]").evaluate_all(
            "lines => lines.map((line) => Number(line.getAttribute('x1')))"
        )
        assert heads == pytest.approx([56 + 534 * wanted / 8] * 3)


def test_the_player_opens_at_the_worst_frame_and_shows_what_was_stored(tab: Any, make: ModuleType) -> None:
    page = tab.open("cases/broken.html")
    golden = make.drawn_clip()
    stored = {"golden": golden, "candidate": make.broken_clip(golden)}
    assert frame(page) == 8
    for wanted in (8, 2, 5):
        page.locator("[data-frame]").fill(str(wanted))
        for name, frames in stored.items():
            shown = pixels(page, canvas(name))
            height, width = shown.shape[:2]
            at = [(y, x) for y in (8, 20, 56) for x in (8, 30, 90)]
            for y, x in at:
                seen = shown[int((y + 0.5) * height / 64), int((x + 0.5) * width / 96)].astype(int)
                assert np.abs(seen - frames[wanted, y, x]).max() <= 2, (name, wanted, y, x)


def test_frames_step_play_and_return_to_the_worst(tab: Any) -> None:
    page = tab.open("cases/broken.html")
    page.keyboard.press("ArrowLeft")
    assert frame(page) == 7
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert frame(page) == 7
    page.locator("main").focus()
    page.keyboard.press(" ")
    page.wait_for_function("() => document.querySelector('[data-frame]').value === '3'")
    expect(page.locator("[data-play]")).to_have_attribute("aria-label", "pause")
    page.keyboard.press(" ")
    expect(page.locator("[data-play]")).to_have_attribute("aria-label", "play")
    page.keyboard.press("w")
    assert frame(page) == 8
    page.locator("table.limits [data-seek]").first.click()
    assert frame(page) == 8


def test_every_view(tab: Any, make: ModuleType) -> None:
    page = tab.open("cases/broken.html")
    golden = make.drawn_clip()
    broken = make.broken_clip(golden)
    page.evaluate("document.querySelectorAll('[data-mark]').forEach((mark) => { mark.style.opacity = 0; })")

    def at(picture: np.ndarray, y: int, x: int) -> np.ndarray:
        height, width = picture.shape[:2]
        return picture[int((y + 0.5) * height / 64), int((x + 0.5) * width / 96)].astype(int)

    page.keyboard.press("4")
    shown = pixels(page, canvas("both"))
    gap = np.abs(golden[8].astype(int) - broken[8]) * 8
    for y, x in ((5, 5), (40, 60), (50, 90)):
        assert np.abs(at(shown, y, x) - np.minimum(255, gap[y, x])).max() <= 10
    page.locator("[data-gain]").select_option("1")
    assert np.abs(at(pixels(page, canvas("both")), 50, 90) - gap[50, 90] // 8).max() <= 2

    page.keyboard.press("2")
    page.locator("[data-divider-range]").fill("75")
    shown = pixels(page, canvas("both"))
    assert np.abs(at(shown, 50, 60) - golden[8, 50, 60]).max() <= 2
    assert np.abs(at(shown, 50, 90) - broken[8, 50, 90]).max() <= 2
    box = page.locator("[data-picture]").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.up()
    assert int(page.locator("[data-divider-range]").input_value()) == 25

    page.keyboard.press("3")
    for name in ("golden", "candidate", "golden"):
        expect(page.locator("[data-both-name]")).to_have_text(name)
    page.locator("[data-flicker-hold]").click()
    name = page.locator("[data-both-name]").inner_text()
    wanted = {"golden": golden, "candidate": broken}[name]
    assert np.abs(at(pixels(page, canvas("both")), 50, 90) - wanted[8, 50, 90]).max() <= 2

    for key, visible in (("1", {"golden", "candidate"}), ("5", {"golden"}), ("6", {"candidate"})):
        page.keyboard.press(key)
        panes = page.locator("[data-pane]:visible").evaluate_all("panes => panes.map((pane) => pane.dataset.pane)")
        assert set(panes) == visible
    page.keyboard.press("v")
    expect(page.locator('[data-view="side"]')).to_have_attribute("aria-pressed", "true")


def test_a_large_clip_plays_lossy_and_decides_on_lossless_frames(tab: Any) -> None:
    page = tab.open("cases/large.html")
    page.keyboard.press("4")
    quality = page.locator('[data-pane="both"] [data-quality]')
    expect(quality).to_have_text("lossless")
    page.locator("[data-frame]").fill("2")
    expect(quality).to_have_text("lossy preview")
    page.locator("[data-nearest]").click()
    assert frame(page) == 0
    expect(quality).to_have_text("lossless")
    page.wait_for_selector("[data-player][data-drawn=true]")
    inside = pixels(page, canvas("both"))[10:-10, 10:-10]  # the corners are round
    assert inside.max() <= 1


def test_a_case_without_a_golden_shows_its_candidate(tab: Any) -> None:
    page = tab.open("cases/new.html")
    expect(page.locator("[data-pane]:visible")).to_have_count(1)
    expect(page.locator("[data-view]")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("v")
    page.keyboard.press("4")
    assert frame(page) == 1


def test_a_prompt_full_of_html_and_script_does_nothing(tab: Any, make: ModuleType) -> None:
    for name in ("index.html", "cases/hostile.html"):
        page = tab.open(name)
        assert "owned" not in page.title().split("·")[0]
        assert page.evaluate("document.title") != "owned"
        assert page.locator("img[src=x], svg[onload]").count() == 0
        expect(page.locator("body")).to_contain_text("document.title='owned'")
    for key in ("c", "1", "2", "3", "4", "5", "6", "v", "w", " ", "?"):
        page.keyboard.press(key)
    assert page.evaluate("document.title") != "owned"
    assert page.evaluate("49 === Number(document.body.innerText.match(/\\{\\{7\\*7\\}\\}/) && 49)")


def test_the_policy_stops_what_escaping_would_let_through(chromium: Browser, report: Path, tmp_path: Path) -> None:
    """Were a template ever to forget to escape: inline script, handler and a foreign picture are refused."""
    page_text = (report / "cases" / "crashed.html").read_text()
    hole = "<script>document.title='owned'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title='owned'\">"
    bad = report / "cases" / "hole.html"
    bad.write_text(page_text.replace("</main>", hole + "</main>"))
    try:
        page = chromium.new_page()
        refused: list[str] = []
        page.on("console", lambda message: refused.append(message.text))
        page.goto(bad.as_uri())
        page.wait_for_timeout(200)
        assert page.title() != "owned"
        assert len([text for text in refused if "Content Security Policy" in text]) >= 2
        page.close()
    finally:
        bad.unlink()


def test_copy_puts_the_command_on_the_clipboard(tab: Any, context: Any) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = tab.open("cases/broken.html")
    page.keyboard.press("c")
    expect(page.locator("[data-said]")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == "pytest cases/tiny.yaml::broken --runner cpu"


def test_theme_is_the_systems_until_it_is_chosen_and_is_kept(tab: Any) -> None:
    page = tab.open("index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour)
    assert dark != light
    page.keyboard.press("t")
    assert page.evaluate(colour) == light
    page = tab.open("cases/broken.html")
    assert page.evaluate(colour) == light


def test_single_keys_can_be_switched_off(tab: Any) -> None:
    page = tab.open("cases/broken.html")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.locator("[data-keys-toggle]").uncheck()
    page.locator("[data-help-close]").click()
    page.keyboard.press("ArrowLeft")
    assert frame(page) == 8


@pytest.mark.parametrize("name", ["index.html", "cases/broken.html", "cases/fault.html", "cases/hostile.html"])
def test_nothing_is_wider_than_a_phone(chromium: Browser, report: Path, name: str) -> None:
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    page.goto((report / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_it_works_from_an_unpacked_zip(chromium: Browser, report: Path, tmp_path: Path) -> None:
    import shutil
    import zipfile

    archive = shutil.make_archive(str(tmp_path / "artifact"), "zip", report)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "a folder with ümläuts & spaces")
    page = chromium.new_page()
    page.goto((tmp_path / "a folder with ümläuts & spaces" / "cases" / "broken.html").as_uri())
    page.wait_for_selector("[data-player][data-drawn=true]")
    state = json.loads(page.locator("[data-player]").get_attribute("data-state"))
    assert state["frames"] == 9
    page.close()


def test_without_scripts_everything_but_the_player_is_there(chromium: Browser, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((report / "cases" / "broken.html").as_uri())
    expect(page.locator(".sentence")).to_be_visible()
    expect(page.locator("[data-main-command]")).to_be_visible()
    assert page.locator("svg[data-curve] polyline").count() == 3
    assert page.locator(".tiles img").evaluate_all("pictures => pictures.every((one) => one.naturalWidth > 0)")
    context.close()
