"""Computed speeds: the formula meets the measured figure, and a shared measurement fills its card's row."""

import json
from pathlib import Path

import pytest
from lipsync_server.bench.tables import with_tables
from lipsync_server.engines.infinitetalk import roofline
from lipsync_server.engines.infinitetalk.datasheet import SHEET

MEASURED_H100_S = 3.30
"""Seconds of work for a second of video, `fast`, int8 weights: docs/performance.md."""


def test_the_formula_gives_the_h100s_measured_window_from_its_measured_rates() -> None:
    h100 = roofline.Card(int8_tops=1979, bf16_tflops=989, gb_per_s=3350, capability="9.0")
    attention, products = roofline.ATTENTION_TFLOP / 1.085, roofline.LINEAR_TFLOP / 0.79
    computed = roofline.seconds_per_second(h100, attention / h100.int8_tops, products / h100.int8_tops)
    assert computed == pytest.approx(MEASURED_H100_S, rel=0.05)


@pytest.mark.parametrize("name", roofline.CARDS)
def test_the_bill_reads_the_same_figure_as_the_table(name: str) -> None:
    card = roofline.CARDS[name]
    (row,) = (one for one in SHEET.speeds if (one.card, one.engine, one.preset) == (name, "infinitetalk", "fast"))
    assert row.seconds == pytest.approx(roofline.usual(card), rel=0.05)
    assert roofline.fastest(card) < roofline.usual(card) < roofline.slowest(card)


def test_a_shared_file_fills_the_row_of_its_own_card(tmp_path: Path) -> None:
    shared = {
        "card": "NVIDIA GeForce RTX 4090", "driver": "580.65.06", "versions": {}, "measured_on": "2026-12-01",
        "speeds": [
            {"engine": "infinitetalk", "preset": "fast", "resolution": "480p", "seconds_per_second": 8.88, "sound_s": 9}
        ],
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(shared))
    (tmp_path / "other.json").write_text(json.dumps({**shared, "card": "NVIDIA GeForce RTX 4090 D"}))
    page = "<!-- begin other_cards {} -->\n<!-- end other_cards -->\n"
    rows = with_tables(page.format("mine.json"), tmp_path).splitlines()
    filled = [row.split("|")[1].strip() for row in rows if "**8.9** (2026-12-01, driver 580.65.06)" in row]
    assert filled == ["RTX 4090"]
    assert "(2026-12-01" not in with_tables(page.format("other.json"), tmp_path)
