"""The monthly comparison comes from one formula: hours x price + storage."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.bench.share import write_share
from lipsync_server.card_speeds import CardSpeeds, SharedSpeed
from lipsync_server.cli import app
from lipsync_server.cloud.costs.cost import (
    DEFAULT_OFFERS,
    DISK_GB,
    IDLE_STOP_MIN,
    Offer,
    Workload,
    monthly_cost,
    video_cost,
)
from lipsync_server.cloud.costs.measured import default_folder, measured_speeds
from lipsync_server.cloud.costs.speeds import SPEEDS, expected_speed, row_of_profile, speeds_of
from lipsync_server.engines.datasheet import Row
from lipsync_server.engines.registry import ENGINES
from lipsync_server.weights.manifest import load_manifest
from typer.main import get_command
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def no_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


OFFER = Offer("runpod", "RTX 4090", 0.34, 0.10, 0.20)


def test_a_row_of_the_bill_equals_the_sum_by_hand() -> None:
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


def test_the_bill_has_a_row_for_each_offer_engine_and_preset_with_the_source_of_its_speed() -> None:
    said = bill("--price", "1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    for offer in (*DEFAULT_OFFERS, Offer("yours", "RTX 4090", 1, 0.1, 0.1)):
        named = {row[2] for row in rows if row[:2] == [offer.provider, offer.gpu]}
        assert named == {f"{speed.engine} {speed.preset}" for speed in speeds_of(offer.gpu)}
    assert {row[5] for row in rows} == {"measured", "computed"}
    assert all(row[5] != "measured" for row in rows if row[1] == "RTX 4090")


def test_every_card_has_a_figure_for_every_engine_and_preset_with_its_source() -> None:
    wanted = {(one.engine, one.preset) for one in SPEEDS if one.card == "H100"}
    engines = set(ENGINES.names) - {"auto", "preview"}  # preview needs no rented card
    assert engines <= {engine for engine, _ in wanted}
    for card in {one.card for one in SPEEDS}:
        assert {(one.engine, one.preset) for one in speeds_of(card)} == wanted
    assert all(one.source for one in SPEEDS)


def test_every_profile_has_a_row_in_the_bill() -> None:
    for name, profile in load_manifest().profiles.items():
        if profile.engine not in ENGINES.names:
            continue  # a voice, or captions: files beside an engine's
        row = row_of_profile(load_manifest(), name, "fast" if profile.engine == "infinitetalk" else "balanced")
        assert expected_speed("RTX 4090", row), name


def shared(folder: Path, card: str, speed: SharedSpeed, measured_on: date = date(2026, 11, 28)) -> Path:
    folder.mkdir(exist_ok=True)
    return write_share(CardSpeeds(card=card, versions={}, measured_on=measured_on, speeds=(speed,)), folder)


def test_a_file_of_bench_share_replaces_the_figure_of_its_card_alone(tmp_path: Path) -> None:
    speed = SharedSpeed(engine="infinitetalk", preset="fast", resolution="480p", seconds_per_second=8.25, sound_s=30)
    path = shared(tmp_path / "given", "NVIDIA GeForce RTX 4090", speed)
    said = bill("--measured", str(path), "--preset", "fast", "--engine", "infinitetalk")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert {(row[4], row[5]) for row in rows if row[1] == "RTX 4090"} == {("8.25", "measured")}
    assert {row[4] for row in rows if row[1] == "H100 SXM"} == {"3.3"}
    assert "measured, by you on NVIDIA GeForce RTX 4090, 2026-11-28, median of 1 run of 30 s" in said


def test_the_users_folder_is_read_and_the_newest_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "lipsync" / "speeds"
    folder.parent.mkdir()
    new = SharedSpeed(engine="flashhead", preset="fast", options={"variant": "lite"}, seconds_per_second=2, sound_s=30)
    shared(folder, "NVIDIA GeForce RTX 4090", new).rename(folder / "new.json")
    old = new.model_copy(update={"seconds_per_second": 3.0})
    shared(folder, "NVIDIA GeForce RTX 4090", old, date(2026, 1, 1))
    assert default_folder() == folder
    found = measured_speeds([], default_folder())
    assert [(one.card, one.engine, one.preset, one.seconds) for one in found] == [
        ("RTX 4090", "flashhead", "lite fast", 2.0)
    ]
    assert "flashhead lite fast" in bill()


def test_a_measurement_at_another_setting_is_a_row_of_its_own(tmp_path: Path) -> None:
    speed = SharedSpeed(
        engine="infinitetalk", preset="fast", resolution="720p", options={"steps": 6}, seconds_per_second=40, sound_s=30
    )
    found = measured_speeds([shared(tmp_path / "given", "NVIDIA H100 80GB HBM3", speed)], tmp_path / "none")
    assert (found[0].card, found[0].preset) == ("H100", "fast 720p steps=6")
    fast = Row("infinitetalk", "fast")
    assert expected_speed("H100 SXM", fast, found) == expected_speed("H100", fast)


def test_a_speed_file_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}", encoding="utf-8")
    for wrong in (path, tmp_path / "missing.json"):
        result = CliRunner().invoke(app, ["cost", "--measured", str(wrong)])
        assert result.exit_code == 2
        assert wrong.name in result.output


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
    assert "about 19.03 USD" in recommended
    assert "lipsync cloud down" in recommended


def test_a_card_without_a_figure_has_no_speed() -> None:
    for other in ("RTX 4090D", "RTX 4090 Laptop GPU", "RTX 3090 Ti"):
        assert speeds_of(other) == []
    balanced = Row("infinitetalk", "balanced")
    assert expected_speed("NVIDIA GeForce RTX 4090", balanced) == expected_speed("rtx4090", balanced) is not None


def test_another_currency_needs_its_rate() -> None:
    result = CliRunner().invoke(app, ["cost", "--currency", "BRL"])
    assert result.exit_code == 2
    assert "--rate" in result.output


def test_a_video_on_a_running_machine_costs_its_seconds_of_work() -> None:
    assert video_cost(60, 6, 0.36) == pytest.approx(0.036)
