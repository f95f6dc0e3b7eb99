"""A volume that stops answering is named when the server starts, and later delays no request. The volume is real."""

import asyncio
from pathlib import Path

import pytest
from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import LipsyncError, NotReady
from lipsync_server.http import serve
from lipsync_server.jobs.running import plan
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.settings import Settings
from stuck_volume import stuck_volume, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "weights").mkdir()
    return Settings(_env_file=None, weights_dir=tmp_path / "weights", data_dir=tmp_path / "data", device="cpu")


@pytest.mark.parametrize("variable", ["LIPSYNC_WEIGHTS_DIR", "LIPSYNC_DATA_DIR"])
async def test_a_server_whose_volume_is_stuck_names_the_volume_and_ends(
    settings: Settings, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "VOLUME_S", 0.5)
    settings.data_dir.mkdir()
    stuck = settings.weights_dir if "WEIGHTS" in variable else settings.data_dir
    await serve.check_volumes(settings)
    with stuck_volume(stuck), pytest.raises(LipsyncError, match=rf"{variable}.*its volume is stuck"):
        await serve.check_volumes(settings)


async def test_a_volume_that_stops_later_delays_no_request(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ANSWER_S", 0.5)
    planner = Planner(ENGINES, settings)
    before = await planner.offer()
    monkeypatch.setattr(plan, "_FRESH_S", 0.0)
    with stuck_volume(settings.weights_dir):
        async with asyncio.timeout(30):
            assert await planner.offer() == before
            with pytest.raises(NotReady, match="folder of weights does not answer"):
                await Planner(ENGINES, settings).offer()
    async with asyncio.timeout(30):
        while (await planner.offer()) is before:
            pass
    assert [info.name for info in (await planner.offer()).engines] == [info.name for info in before.engines]
