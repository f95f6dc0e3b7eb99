"""The monthly comparison comes from one formula: hours x price + storage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.cli import app
from lipsync_server.cloud.cost import (
    DEFAULT_OFFERS,
    DISK_GB,
    IDLE_STOP_MIN,
    Offer,
    Workload,
    monthly_cost,
    video_cost,
)
from lipsync_server.cloud.speeds import expected_speed, speeds_of
from typer.main import get_command
from typer.testing import CliRunner

OFFER = Offer("runpod", "RTX 4090", 0.34, 0.10, 0.20)


def test_one_row_worked_out_by_hand() -> None:
    # 45 x 40 s x 22 = 39,600 s = 11 h of work; 30 starts x 13 min = 6.5 h; 17.5 h x 0.34 = 5.95
    # storage: 40 GB x (0.10 x 17.5/730 + 0.20 x 712.5/730) = 40 x 0.197603 = 7.904
    month = monthly_cost(OFFER, Workload(45, 40, 30, 3, 10, 40), 22.0)
    assert month.hours == pytest.approx(17.5)
    assert month.compute == pytest.approx(5.95)
    assert month.storage == pytest.approx(7.904, abs=1e-3)
    assert month.total == pytest.approx(13.854, abs=1e-3)


@given(st.integers(1, 500), st.floats(0.2, 1800), st.integers(0, 60))
def test_more_videos_never_cost_less(videos: int, seconds: float, sessions: int) -> None:
    one = monthly_cost(OFFER, Workload(videos, seconds, sessions, 3, 10, 0), 22.0).compute
    two = monthly_cost(OFFER, Workload(videos + 1, seconds, sessions, 3, 10, 0), 22.0).compute
    assert two > one


def bill(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cost", "--videos", "45", "--seconds", "40", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_bill_has_a_row_for_each_offer_engine_and_preset_and_says_where_its_speed_is_from() -> None:
    said = bill("--price", "1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    for offer in (*DEFAULT_OFFERS, Offer("yours", "RTX 4090", 1, 0.1, 0.1)):
        named = {row[2] for row in rows if row[:2] == [offer.provider, offer.gpu]}
        assert named == {f"{speed.engine} {speed.preset}" for speed in speeds_of(offer.gpu)}
    assert {row[5] for row in rows} == {"measured", "computed"}
    assert all(row[5] == "computed" for row in rows if row[1] == "RTX 4090")


def test_the_bill_counts_starts_with_the_disk_and_the_idle_stop_of_cloud_up() -> None:
    assert f"30 starts of 3 + {IDLE_STOP_MIN:g} min, {DISK_GB} GB of disk" in bill()
    up = vars(vars(get_command(app))["commands"]["cloud"])["commands"]["up"]
    options = {each.name: each.default for each in up.params}
    assert (options["disk_gb"], options["idle_stop"]) == (DISK_GB, IDLE_STOP_MIN)


def test_the_bill_warns_of_a_machine_that_nobody_stops_and_recommends_one_that_stops_itself() -> None:
    said = bill("--preset", "balanced")
    assert "A machine that nobody stops costs 234 to 1964 USD a month." in said
    recommended = said.splitlines()[-1]
    assert recommended.startswith("Recommended: 45 videos of 40 s on RTX 4090 at vast")
    assert "about 21.80 USD" in recommended
    assert "lipsync cloud down" in recommended


def test_a_card_without_a_figure_gets_none() -> None:
    assert speeds_of("RTX 4090D") == []
    assert expected_speed("NVIDIA GeForce RTX 4090") == expected_speed("rtx4090")


def test_another_currency_needs_its_rate() -> None:
    result = CliRunner().invoke(app, ["cost", "--currency", "BRL"])
    assert result.exit_code == 2
    assert "--rate" in result.output


def test_a_video_on_a_running_machine() -> None:
    assert video_cost(60, 6, 0.36) == pytest.approx(0.036)
