"""`lipsync selftest`: three seconds of the shipped sample, and a verdict in words on the weights that rendered them."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.engines.registry import ENGINES

if TYPE_CHECKING:
    from lipsync_server.selftest import Rendered

EXIT_BAD = 3
"""Exit status for weights that do not pass."""
REPORT = Path("lipsync-selftest.zip")


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(selftest)


def selftest(
    engine: Annotated[str | None, typer.Option(help=f"One of {', '.join(ENGINES.names)}.", show_default="auto")] = None,
    preset: Annotated[str | None, typer.Option(help="quality, balanced or fast.", show_default="balanced")] = None,
    server: Annotated[str, typer.Option(help="Test a running server at this address instead.", metavar="URL")] = "",
    token: Annotated[str, typer.Option(help="The server's token.", envvar="LIPSYNC_TOKEN")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="The report to write, for an issue.")] = REPORT,
) -> None:
    """Render three seconds, say whether the weights work, and write a report for an issue."""
    with console.errors_as_sentences():
        if not run(engine, preset, server, token, output):
            raise SystemExit(EXIT_BAD)


def run(engine: str | None, preset: str | None, server: str, token: str, output: Path) -> bool:
    """Render, print the verdict and write the report; returns whether the weights passed."""
    from lipsync_server import selftest as test

    with tempfile.TemporaryDirectory(prefix="lipsync-") as scratch:
        folder = Path(scratch)
        test.write_speech(folder / "speech.wav")
        if server:
            rendered = asyncio.run(_on_server(server.rstrip("/"), token, engine, preset, folder))
        else:
            rendered = _here(engine, preset, folder)
        (folder / "video.mp4").write_bytes(rendered.video)
        verdict = test.judge_render(rendered, folder / "video.mp4")
    test.write_report(output, rendered, verdict)
    for line in test.lines_of(rendered, verdict):
        typer.echo(line)
    typer.echo(f"report      {output}: report.txt, report.json, sheet.jpg and video.mp4, to attach to an issue")
    return verdict.passed


def _here(engine: str | None, preset: str | None, folder: Path) -> "Rendered":
    """Render the sample in this process. folder: holds the recording, and receives the video and the sheet."""
    from lipsync_server.cli.job import CliJob, ask_from, run_job
    from lipsync_server.engines.registry import ENGINES
    from lipsync_server.selftest import PORTRAIT, Rendered, card_of_this_machine

    settings = console.settings_from({"engine": engine})
    ask = ask_from(check=True, **({"preset": preset} if preset else {}))
    job = CliJob(PORTRAIT, folder / "speech.wav", folder / "out.mp4", ask, sheet=folder / "sheet.jpg")
    result = run_job(job, settings)
    outcome = result.outcome
    if outcome.quality is None:
        console.fail(outcome.unchecked, console.EXIT_FAILED)
    work_s = outcome.render_s - outcome.stage_s.get("load", 0.0) - outcome.stage_s.get("check", 0.0)
    return Rendered(
        engine=result.engine,
        preset=preset or settings.preset,
        video=job.output.read_bytes(),
        sheet=(folder / "sheet.jpg").read_bytes(),
        quality=outcome.quality,
        seconds_per_second=work_s / outcome.duration_s,
        card="" if ENGINES.data_sheet(result.engine).runs_on_cpu else card_of_this_machine(),
        warnings=outcome.warnings,
    )


async def _on_server(url: str, token: str, engine: str | None, preset: str | None, folder: Path) -> "Rendered":
    """Render the sample on the server at `url`. Raises LipsyncError if it refuses, fails or does not answer."""
    import aiohttp

    from lipsync_server.check.quality import Finding, Quality
    from lipsync_server.errors import LipsyncError
    from lipsync_server.selftest import PORTRAIT, Rendered

    form = aiohttp.FormData()
    fields = {"check": "true", "engine": engine or "", "preset": preset or ""}
    for name, value in fields.items():
        if value:
            form.add_field(name, value)
    form.add_field("image", PORTRAIT.read_bytes(), filename="portrait.jpg", content_type="image/jpeg")
    form.add_field("audio", (folder / "speech.wav").read_bytes(), filename="speech.wav", content_type="audio/wav")
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def read(session: aiohttp.ClientSession, path: str, body: aiohttp.FormData | None = None) -> bytes:
        try:
            async with session.request("POST" if body is not None else "GET", url + path, data=body) as answer:
                content = await answer.read()
                if answer.status >= 400:
                    raise LipsyncError(f"The server at {url} answered {answer.status}: {_detail(content)}")
                return content
        except (aiohttp.ClientError, TimeoutError) as error:
            raise LipsyncError(f"The server at {url} does not answer: {error or type(error).__name__}") from error

    import json

    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=600)) as session:
        job = json.loads(await read(session, "/v1/jobs", form))
        shown_at = time.monotonic()
        while job["state"] in ("queued", "running"):
            await asyncio.sleep(0.5)
            job = json.loads(await read(session, f"/v1/jobs/{job['id']}"))
            if time.monotonic() - shown_at > 10:
                shown_at = time.monotonic()
                typer.echo(f"{job['progress']['stage']}, {job['progress']['fraction']:.0%}")
        if job["state"] != "succeeded":
            raise LipsyncError(f"The render failed: {(job['error'] or {}).get('detail', 'it was cancelled')}")
        video = await read(session, f"/v1/jobs/{job['id']}/video")
        sheet = await read(session, f"/v1/jobs/{job['id']}/sheet")
        machine = json.loads(await read(session, "/v1/engines"))
    result, timings = job["result"], job["timings"]
    checked = result["quality"]
    card = next((each["device"] for each in machine["engines"] if each["name"] == job["engine"]), "")
    return Rendered(
        engine=job["engine"],
        preset=preset or str(machine["defaults"].get("preset", "")),
        video=video,
        sheet=sheet,
        quality=Quality(**{**checked, "findings": tuple(Finding(**each) for each in checked["findings"])}),
        seconds_per_second=(result["render_s"] - timings["load_s"] - timings["check_s"]) / result["duration_s"],
        card="" if card == "cpu" else card,
        warnings=tuple(result["warnings"]),
    )


def _detail(content: bytes) -> str:
    """The message in the body of an error, else the start of the body."""
    import json

    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
