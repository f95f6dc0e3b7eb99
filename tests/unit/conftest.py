"""The database of the tests of jobs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lipsync_server.jobs.database.connection import Database, open_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A new SQLite database in a file."""
    database = await open_database(tmp_path / "lipsync.db")
    yield database
    await database.close()
