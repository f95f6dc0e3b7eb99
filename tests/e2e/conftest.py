"""The client of the tests that drive an engine over real HTTP."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from jobs_of_server import TOKEN


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose every request has the token of the servers in these tests."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened
