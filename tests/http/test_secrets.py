"""Promise 4: no secret in a log, and no other user can read the database."""

import logging
import stat
from pathlib import Path

import pytest
from lipsync_server.http.logs import JsonFormatter, TextFormatter
from site_kit import Site, Start


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_database_is_closed_to_others_even_in_a_folder_that_is_open(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    site: Site = await start()
    await site.ended((await site.submit(prompt="something private"))["id"])
    databases = sorted(site.data_dir.glob("lipsync.db*"))
    assert len(databases) >= 2
    assert {path.name: mode(path) for path in databases} == {path.name: 0o600 for path in databases}


async def test_an_upload_works_after_somebody_removed_the_folder_for_uploads(site: Site) -> None:
    (site.data_dir / "incoming").rmdir()
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"


async def test_a_failed_job_names_no_folder_of_the_server(site: Site) -> None:
    """The job's picture was deleted by hand while the job was queued."""
    held = await site.submit(prompt="hold")
    job = await site.submit(prompt="reads its picture")
    for path in (site.data_dir / "jobs" / job["id"]).iterdir():
        path.unlink() if path.is_file() else None
    site.executor.let_go.set()
    await site.ended(held["id"])
    error = (await site.ended(job["id"]))["error"]
    assert "The files of this job are no longer" in error["detail"]
    assert str(site.data_dir) not in error["detail"] and "/jobs/" not in error["detail"]


@pytest.mark.parametrize("formatter", [TextFormatter("%(message)s"), JsonFormatter()])
@pytest.mark.parametrize(
    "text", ["a\n12:00:00 ERROR forged", "\x1b[2J", "\x9b2J", "a\u2028b", "\u202eabc", "a\rb", "\x00"]
)
def test_a_callers_text_stays_on_its_line_and_holds_no_terminal_codes(formatter: logging.Formatter, text: str) -> None:
    line = formatter.format(logging.makeLogRecord({"msg": "GET %s", "args": (text,)}))
    assert line.isprintable()
