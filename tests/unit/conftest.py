"""The database, the data folder and the stand-in provider that several unit tests use."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lipsync_server.jobs.database.connection import Database, open_database
from lipsync_server.jobs.files import JobFiles
from provider import Provider, serve_provider


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A new SQLite database in a file."""
    database = await open_database(tmp_path / "lipsync.db")
    yield database
    await database.close()


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    """A data folder without jobs, which demands no free disk space."""
    files = JobFiles(tmp_path / "data", min_free_bytes=0)
    files.prepare()
    return files


@pytest.fixture
async def api() -> AsyncIterator[Provider]:
    """A stand-in for the API of a provider of GPUs."""
    async with serve_provider() as stand_in:
        yield stand_in
