"""The web page in a real headless Chromium against a real server with the preview engine."""

import asyncio
import io
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
import soundfile
from aiohttp import web
from lipsync_server.paths import SAMPLES_DIR
from playwright.async_api import Browser, FileChooser, FilePayload, Page, async_playwright, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout
from served import served
from server_process import ServerProcess
from site_kit import wav

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
TOKEN = "page-test-token"
PORTRAIT = SAMPLES_DIR / "portrait.jpg"
SPEECH = SAMPLES_DIR / "speech.wav"
RENDER_MS = 180_000

# One event loop for the module, because all tests use one Chromium.
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium: apt-get install chromium"
    ),
]


def excerpt(seconds: float) -> FilePayload:
    """The beginning of the shipped recording, which renders sooner than the whole one."""
    samples, rate_hz = soundfile.read(SPEECH)
    file = io.BytesIO()
    soundfile.write(file, samples[: round(seconds * rate_hz)], rate_hz, format="WAV")
    return {"name": "speech.wav", "mimeType": "audio/wav", "buffer": file.getvalue()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = {"ENGINE": "preview", "TOKENS": TOKEN}
    with ServerProcess(tmp_path_factory.mktemp("page") / "data", "product", options).running() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """Chromium, started once: a start costs four seconds of processor time."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Chromium without anything that an earlier test stored. Every page has a profile of its own."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, server: ServerProcess) -> Page:
    page = await browser.new_page()
    await sign_in(page, server.url + "/")
    return page


async def sign_in(page: Page, url: str, token: str = TOKEN) -> None:
    await page.goto(url)
    await page.get_by_label("Token").fill(token)
    await page.keyboard.press("Enter")
    if token == TOKEN:
        await expect(page.locator("#make")).to_be_visible()


async def choose_inputs(page: Page, audio: Path | None = None) -> None:
    """Choose the shipped portrait and `audio`, or three seconds of the shipped recording."""
    await page.locator("#image").set_input_files(PORTRAIT)
    await page.locator("#audio").set_input_files(audio or excerpt(3.0))


async def expect_playing_video(page: Page) -> None:
    await expect(page.get_by_role("link", name="Download")).to_be_visible(timeout=RENDER_MS)
    await page.evaluate("document.getElementById('video').muted = true")
    await page.evaluate("document.getElementById('video').play()")
    await expect(page.locator("#video")).to_have_js_property("paused", False)
    # wait_for_function would need 'unsafe-eval' in the page's content security policy; a JavaScript promise does not.
    await page.evaluate(
        """() => new Promise((resolve) => {
            const video = document.getElementById('video');
            video.addEventListener('timeupdate', () => video.currentTime > 0.2 && resolve());
        })"""
    )
    assert await page.evaluate("document.getElementById('video').videoWidth") > 0


async def test_a_picture_and_a_recording_become_a_video_that_plays_and_downloads(page: Page, tmp_path: Path) -> None:
    await choose_inputs(page)
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator("#job-bar")).to_be_visible()
    await expect_playing_video(page)
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download").click()
    saved = tmp_path / "saved.mp4"
    await (await download.value).save_as(saved)
    assert (await download.value).suggested_filename == "portrait-lipsync.mp4"
    assert saved.read_bytes()[4:8] == b"ftyp"
    await expect(page.locator("#jobs li").first).to_contain_text("ready")


async def test_the_spoken_words_become_captions_that_can_be_downloaded(page: Page, tmp_path: Path) -> None:
    await choose_inputs(page)
    await page.get_by_text("Captions", exact=True).click()
    await page.get_by_label("What is said").fill("Hello! I used to be a still picture.")
    await page.get_by_label("Show the captions").select_option("words")
    await page.get_by_role("button", name="Make the video").click()
    for kind, beginning in (("SRT", b"1\n00:00:0"), ("VTT", b"WEBVTT")):
        async with page.expect_download(timeout=RENDER_MS) as download:
            await page.get_by_role("link", name=f"Captions ({kind})").click(timeout=RENDER_MS)
        saved = tmp_path / "captions"
        await (await download.value).save_as(saved)
        assert (await download.value).suggested_filename == f"portrait-lipsync.{kind.lower()}"
        assert saved.read_bytes().startswith(beginning)


async def test_words_in_place_of_a_recording_become_a_video_with_its_sound_and_a_label(
    page: Page, tmp_path: Path
) -> None:
    await page.locator("#image").set_input_files(PORTRAIT)
    await page.get_by_text("Words to speak").click()
    await page.get_by_label("Text", exact=True).fill("Hello! I am made of text.")
    await page.get_by_text("More options").click()
    await page.get_by_label("Visible label").fill("AI generated")
    await page.get_by_label("Corner of the label").select_option("bottom right")
    await page.get_by_role("button", name="Make the video").click()
    async with page.expect_download(timeout=RENDER_MS) as download:
        await page.get_by_role("link", name="Sound (WAV)").click(timeout=RENDER_MS)
    saved = tmp_path / "sound"
    await (await download.value).save_as(saved)
    assert (await download.value).suggested_filename == "portrait-lipsync.wav"
    assert saved.read_bytes()[:4] == b"RIFF"


async def test_a_checked_video_shows_its_score_its_findings_and_its_sheet(page: Page) -> None:
    await choose_inputs(page, SPEECH)
    await page.get_by_text("More options").click()
    await page.get_by_label("Check the finished video").select_option("yes")
    await page.get_by_role("button", name="Make the video").click()
    await page.get_by_text("Check: no score").click(timeout=RENDER_MS)
    await expect(page.locator("#findings li").first).to_contain_text("same prediction")
    await expect(page.locator("#sheet")).to_be_visible()
    await expect(page.locator("#sheet")).not_to_have_js_property("naturalWidth", 0)


async def test_a_video_plays_while_it_is_rendered(browser: Browser, tmp_path: Path) -> None:
    speech = tmp_path / "speech.wav"
    speech.write_bytes(wav(20))
    with ServerProcess(tmp_path / "data", options={"TOKENS": TOKEN}).running() as server:
        page = await browser.new_page()
        await sign_in(page, server.url + "/")
        await choose_inputs(page, speech)
        await page.get_by_text("More options").click()
        await page.get_by_label("save every").fill("25")
        await page.get_by_label("seconds per frame").fill("0.02")
        await page.get_by_role("button", name="Make the video").click()
        await expect(page.locator("#live")).to_be_visible(timeout=RENDER_MS)
        await page.evaluate(
            """() => new Promise((resolve) => {
                const live = document.getElementById('live');
                live.addEventListener('timeupdate', () => live.currentTime > 0.5 && resolve());
            })"""
        )
        await expect(page.locator("#job-running")).to_be_visible()
        assert await page.evaluate("document.getElementById('live').videoWidth") == 64
        at = await page.evaluate("document.getElementById('live').currentTime")
        await expect(page.locator("#live")).to_be_hidden(timeout=RENDER_MS)
        await expect(page.get_by_role("link", name="Download")).to_be_visible()
        assert await page.evaluate("document.getElementById('video').currentTime") >= at, (
            "the video continues from where it was"
        )


async def test_files_can_be_dropped(page: Page) -> None:
    await page.evaluate(
        """async () => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array([1, 2, 3])], 'dropped.png', {type: 'image/png'}));
            document.getElementById('image-drop').dispatchEvent(
                new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }"""
    )
    await expect(page.locator("#image-name")).to_have_text("dropped.png")


async def test_the_token_is_asked_for_once(page: Page) -> None:
    await page.reload()
    await expect(page.locator("#make")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.reload()
    await expect(page.locator("#token-form")).to_be_visible()


async def test_a_token_that_was_revoked_is_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    """The server starts again with another token, while the page is open and has a job to send."""
    with ServerProcess(tmp_path / "data", options={"TOKENS": TOKEN}).running() as server:
        context = await browser.new_context()
        page = await context.new_page()
        await sign_in(page, server.url + "/")
        other = await context.new_page()
        await other.goto(server.url + "/")
        await expect(other.locator("#token-form")).to_be_visible()
        await choose_inputs(page)
        server.kill()
        server.settings |= {"TOKENS": "another"}
        server.start()
        await asyncio.to_thread(server.wait_until_it_listens, 60)
        await page.get_by_role("button", name="Make the video").click()
        await expect(page.locator("#token-problem")).to_contain_text("token is not one of this server's")
        await expect(page.locator("#make")).to_be_hidden()
        await page.reload()
        await expect(page.get_by_label("Token")).to_be_focused()
        assert await page.evaluate("sessionStorage.length + localStorage.length") == 0


async def test_a_wrong_token_shows_the_servers_message(browser: Browser, server: ServerProcess) -> None:
    page = await browser.new_page()
    await sign_in(page, server.url + "/", token="wrong")
    await expect(page.locator("#token-problem")).to_contain_text("token is not one of this server's")


async def test_a_bad_picture_is_reported_beside_the_picture(page: Page, tmp_path: Path) -> None:
    fake = tmp_path / "text.png"
    fake.write_text("this is no picture")
    await choose_inputs(page)
    await page.locator("#image").set_input_files(fake)
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator("#image-problem")).not_to_be_empty()
    await expect(page.locator("#job")).to_be_hidden()


async def test_a_missing_recording_is_reported_before_anything_is_sent(page: Page) -> None:
    await page.locator("#image").set_input_files(PORTRAIT)
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator("#audio-problem")).to_have_text("Choose a recording first, or write words to speak.")


async def test_the_microphone_records(page: Page) -> None:
    await page.locator("#image").set_input_files(PORTRAIT)
    await page.get_by_role("button", name="Record with the microphone").click()
    stop = page.get_by_role("button", name="Stop recording")
    await expect(stop).to_be_visible()
    await page.wait_for_timeout(1500)  # the length of the recording, not a wait for something to happen
    await stop.click()
    await expect(page.locator("#audio-name")).to_contain_text("recording.")
    await page.get_by_role("button", name="Make the video").click()
    await expect_playing_video(page)


async def test_a_reload_in_the_middle_of_a_job_still_shows_the_job(page: Page) -> None:
    await choose_inputs(page, SPEECH)
    await page.get_by_role("button", name="Make the video").click()
    await expect(page.locator("#job-running")).to_be_visible()
    await page.reload()
    await expect_playing_video(page)


async def choose_with_space(page: Page) -> FileChooser:
    """Open the file dialogue with the space bar. A busy Chromium sometimes drops the first key press."""
    for _ in range(4):
        try:
            async with page.expect_file_chooser(timeout=8_000) as chooser:
                await page.keyboard.press("Space")
            return await chooser.value
        except PlaywrightTimeout:
            continue
    raise AssertionError("the space bar opens no file dialogue")


async def test_every_step_works_by_keyboard_alone(page: Page) -> None:
    async def tab_to(target: str) -> None:
        for _ in range(40):
            if await page.evaluate("document.activeElement.id") == target:
                return
            await page.keyboard.press("Tab")
        raise AssertionError(f"{target} is not reached with the Tab key")

    for name, path in (("image", PORTRAIT), ("audio", SPEECH)):
        await tab_to(name)
        await (await choose_with_space(page)).set_files(path)
    await tab_to("submit")
    await page.keyboard.press("Enter")
    await expect(page.locator("#job-title")).to_be_focused()
    await expect(page.get_by_role("link", name="Download")).to_be_visible(timeout=RENDER_MS)


async def test_a_job_can_be_cancelled(page: Page, tmp_path: Path, server: ServerProcess) -> None:
    long = tmp_path / "long.wav"
    soundfile.write(long, (np.random.default_rng(1).standard_normal(16_000 * 600) * 0.1).astype(np.float32), 16_000)
    await choose_inputs(page, long)
    await page.get_by_role("button", name="Make the video").click()
    await page.get_by_role("button", name="Cancel").click(timeout=30_000)
    await expect(page.locator("#job-problem")).to_have_text("It was cancelled.", timeout=30_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_everything_without_sideways_scrolling(
    browser: Browser, server: ServerProcess, scheme: Literal["light", "dark"]
) -> None:
    context = await browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = await context.new_page()
    await sign_in(page, server.url + "/")
    await page.get_by_text("More options").click()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness > 600) == (scheme == "light")


async def test_a_rented_machine_counts_down_and_can_be_kept(browser: Browser, tmp_path: Path) -> None:
    options = {"TOKENS": TOKEN, "IDLE_STOP": "5", "IDLE_STOP_COMMAND": "true", "PRICE_PER_HOUR": "0.45"}
    with ServerProcess(tmp_path / "data", options=options).running() as server:
        page = await browser.new_page()
        await sign_in(page, server.url + "/")
        await expect(page.locator("#idle-text")).to_contain_text(re.compile(r"stops in [45]:\d\d min"), timeout=30_000)
        await expect(page.locator("#idle-cost")).to_contain_text("A start costs about 0.060 USD: 3 min")
        first = await page.locator("#idle-text").text_content()
        await expect(page.locator("#idle-text")).not_to_have_text(str(first))
        await page.get_by_role("button", name="Keep the machine").click()
        await expect(page.locator("#idle-text")).to_contain_text(re.compile(r"stops in (30:00|29:\d\d) min"))


async def test_a_machine_without_an_idle_stop_shows_no_countdown(page: Page) -> None:
    await expect(page.locator("#idle")).to_be_hidden()


async def test_the_page_works_behind_a_path_prefix(browser: Browser, server: ServerProcess) -> None:
    async def forward(request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            headers = {k: v for k, v in request.headers.items() if k not in ("Host", "Origin")}
            url = f"{server.url}/{request.match_info['path']}?{request.query_string}"
            async with session.request(request.method, url, headers=headers, data=request.content) as answer:
                kept = ("Content-Type", "Location", "Content-Security-Policy")
                back = web.StreamResponse(
                    status=answer.status, headers={k: answer.headers[k] for k in kept if k in answer.headers}
                )
                await back.prepare(request)
                async for part in answer.content.iter_any():
                    await back.write(part)
                return back

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/user/me/proxy/5000/{path:.*}", forward)
    async with served(app) as port:
        page = await browser.new_page()
        await sign_in(page, f"http://127.0.0.1:{port}/user/me/proxy/5000/")
        await choose_inputs(page)
        await page.get_by_role("button", name="Make the video").click()
        await expect_playing_video(page)
