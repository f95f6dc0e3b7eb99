"""The fastest correct way is chosen by measuring, kept for the card, and never a wrong one: models/kernels/choice.py.

The clock and the ways are the test's own, so no GPU is needed and no time is measured.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from lipsync_server.kernel_choices import WAYS, parse_choices
from lipsync_server.models.kernels.choice import Card, Choice, Chooser, Question, Way
from lipsync_server.settings import EngineSettings

CARD = Card("NVIDIA GeForce RTX 4090", "580.65.06", "torch 2.10.0")
QUESTION: Question[float] = Question("vae", "96 channels", plain=lambda: 1.0, error=lambda got, want: abs(got - want))


@dataclass
class Bench:
    """Ways with a result and a duration in ms each. timed: the ways in the order in which the clock ran them."""

    ms: dict[str, float]
    results: dict[str, float] = field(default_factory=dict)
    timed: list[str] = field(default_factory=list)
    _last: str = ""

    def ways(self) -> dict[str, Way[float]]:
        def computing(name: str) -> Callable[[], float]:
            def run() -> float:
                self._last = name
                return self.results.get(name, 1.0)

            return run

        return {name: Way(computing(name), limit=0.01) for name in self.ms}

    def clock(self, run: Callable[[], object]) -> float:
        run()
        self.timed.append(self._last)
        return self.ms[self._last]


def chooser(
    bench: Bench,
    folder: Path | None = None,
    *,
    card: Card = CARD,
    fixed: Mapping[str, str] | None = None,
    agreed: Callable[[str], str] = lambda way: way,
) -> Chooser:
    return Chooser(card, bench.clock, folder, fixed or {}, agreed)


def answer(found: Choice | None) -> str:
    assert found is not None
    return found.way


def test_the_fastest_way_is_chosen_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0, "folded": 3.0})
    with caplog.at_level("INFO"):
        assert answer(chooser(bench).choose(QUESTION, bench.ways())) == "paired"
    (line,) = caplog.messages
    assert line == ("chosen: vae 96 channels: paired (measured: paired 1.00 ms, plain 2.00 ms, folded 3.00 ms)")


@pytest.mark.parametrize("wrong", [0.9, float("nan"), float("inf")])
def test_a_wrong_way_is_never_chosen_however_fast(wrong: float) -> None:
    bench = Bench({"plain": 2.0, "paired": 0.1}, {"paired": wrong})
    assert answer(chooser(bench).choose(QUESTION, bench.ways())) == "plain"
    assert "paired" not in bench.timed


def test_a_way_that_raises_or_cannot_run_is_left_out() -> None:
    bench = Bench({"plain": 2.0})

    def fails() -> float:
        raise RuntimeError("no kernel image is available for execution on the device")

    ways = {"broken": Way(fails, 1.0), "absent": Way(lambda: 1.0, 1.0, lambda: "it needs Hopper"), **bench.ways()}
    found = chooser(bench).choose(QUESTION, ways)
    assert found == Choice("plain", "the only one that runs here")
    assert chooser(bench).choose(QUESTION, {"broken": ways["broken"]}) is None


def test_the_kept_choice_is_read_by_another_process(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    program = f"""
from pathlib import Path
from lipsync_server.models.kernels.choice import Card, Chooser, Question, Way
def clock(run):
    raise AssertionError("nothing has to be measured")
question = Question("vae", "96 channels", plain=lambda: 1.0, error=lambda got, want: abs(got - want))
chooser = Chooser(Card({CARD.name!r}, {CARD.driver!r}, {CARD.versions!r}), clock, Path({str(tmp_path)!r}))
found = chooser.choose(question, {{"plain": Way(lambda: 1.0, 0.01), "paired": Way(lambda: 1.0, 0.01)}})
print(found.way, "|", found.reason)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout.strip() == "paired | measured before: paired 1.00 ms, plain 2.00 ms"


def test_a_kept_way_that_became_wrong_is_measured_again(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    bench.results["paired"] = 7.0
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "plain"
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "plain"


@pytest.mark.parametrize(
    "other", [Card(CARD.name, "590.1", CARD.versions), Card(CARD.name, CARD.driver, "torch 2.13"), Card("RTX 3090")]
)
def test_another_card_driver_or_version_measures_again(tmp_path: Path, other: Card) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    bench.ms, bench.timed = {"plain": 1.0, "paired": 2.0}, []
    assert answer(chooser(bench, tmp_path, card=other).choose(QUESTION, bench.ways())) == "plain"
    assert bench.timed == ["plain", "paired"]
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired"


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_torn_file_is_ignored_and_written_anew(tmp_path: Path, cut: int) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    bench.timed = []
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired"
    assert bench.timed == ["plain", "paired"]
    assert json.loads(path.read_text())["choices"]["vae 96 channels"]["way"] == "paired"


def test_a_folder_that_cannot_be_written_costs_the_measurement_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench({"plain": 2.0, "paired": 1.0})
    assert answer(chooser(bench, tmp_path / "file").choose(QUESTION, bench.ways())) == "paired"


def test_several_questions_share_the_file_of_a_card(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    for shape in ("96 channels", "192 channels"):
        chooser(bench, tmp_path).choose(replace(QUESTION, shape=shape), bench.ways())
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("nvidia-geforce-rtx-4090-")
    assert json.loads(path.read_text())["choices"].keys() == {"vae 96 channels", "vae 192 channels"}


def test_a_switch_wins_over_all_and_measures_nothing(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    bench.timed = []
    fixed = chooser(bench, tmp_path, fixed={"vae": "plain"})
    fixed.recall({"vae 96 channels": "paired"})
    assert fixed.choose(QUESTION, bench.ways()) == Choice("plain", "as set")
    assert bench.timed == []


def test_a_resumed_job_computes_as_its_first_part_did(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    first = chooser(bench, tmp_path, fixed={"vae": "plain"})
    first.choose(QUESTION, bench.ways())
    remembered = first.in_use
    assert remembered == {"vae 96 channels": "plain"}
    after = chooser(bench, tmp_path)
    assert answer(after.choose(QUESTION, bench.ways())) == "paired"
    assert after.recall(remembered)
    assert answer(after.choose(QUESTION, bench.ways())) == "plain"
    assert not after.recall(remembered)
    # The next job has nothing to remember: the card's own choice is back.
    assert after.recall({})
    assert answer(after.choose(QUESTION, bench.ways())) == "paired"


def test_a_remembered_way_that_cannot_run_here_gives_way(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    resumed = chooser(bench, tmp_path)
    resumed.recall({"vae 96 channels": "of another card"})
    assert answer(resumed.choose(QUESTION, bench.ways())) == "paired"


def test_processes_of_one_video_use_the_way_of_the_first() -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    second = chooser(bench, agreed=lambda way: "plain")
    assert answer(second.choose(QUESTION, bench.ways())) == "plain"
    assert second.in_use == {"vae 96 channels": "plain"}


def test_the_setting_names_every_way_that_is_measured() -> None:
    pytest.importorskip("triton")
    from lipsync_server.models.kernels import attention, int8_product

    assert set(WAYS["product"]) == set(int8_product.TILES)
    assert set(WAYS["cross_attention"]) == set(attention.GENERAL)


def test_the_setting_refuses_unknown_words_with_the_known_ones() -> None:
    assert parse_choices(["vae=plain", "product=128x128x64"]) == {"vae": "plain", "product": "128x128x64"}
    with pytest.raises(ValueError, match="'speed=best' must be KIND=WAY with KIND one of cross_attention, product"):
        parse_choices(["speed=best"])
    with pytest.raises(ValueError, match="'fast' is no way of vae; use one of plain, paired"):
        EngineSettings(choices=["vae=fast"])
