"""The monthly comparison comes from one formula: hours x price + storage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.cli import app
from lipsync_server.cloud.cost import DEFAULT_OFFERS, Offer, Workload, monthly_cost, video_cost
from typer.testing import CliRunner

OFFER = Offer("runpod", "RTX 4090", 0.34, 0.10, 0.20, 22.0, "")


def test_one_row_worked_out_by_hand() -> None:
    # 45 x 40 s x 22 = 39,600 s = 11 h of work; 30 starts x 13 min = 6.5 h; 17.5 h x 0.34 = 5.95
    # storage: 40 GB x (0.10 x 17.5/730 + 0.20 x 712.5/730) = 40 x 0.197603 = 7.904
    month = monthly_cost(OFFER, Workload(45, 40, 30, 3, 10, 40))
    assert month.hours == pytest.approx(17.5)
    assert month.compute == pytest.approx(5.95)
    assert month.storage == pytest.approx(7.904, abs=1e-3)
    assert month.total == pytest.approx(13.854, abs=1e-3)


@given(st.integers(1, 500), st.floats(0.2, 1800), st.integers(0, 60))
def test_more_videos_never_cost_less(videos: int, seconds: float, sessions: int) -> None:
    one = monthly_cost(OFFER, Workload(videos, seconds, sessions, 3, 10, 0)).compute
    two = monthly_cost(OFFER, Workload(videos + 1, seconds, sessions, 3, 10, 0)).compute
    assert two > one


def test_the_command_prints_a_row_for_every_offer() -> None:
    result = CliRunner().invoke(
        app, ["cost", "--videos", "45", "--seconds", "40", "--storage-gb", "40", "--price", "1"]
    )
    assert result.exit_code == 0, result.output
    for offer in DEFAULT_OFFERS:
        assert offer.provider in result.output
    assert "yours" in result.output
    assert "13.85" in result.output


def test_another_currency_needs_its_rate() -> None:
    result = CliRunner().invoke(app, ["cost", "--currency", "BRL"])
    assert result.exit_code == 2
    assert "--rate" in result.output


def test_a_video_on_a_running_machine() -> None:
    assert video_cost(60, 6, 0.36) == pytest.approx(0.036)
