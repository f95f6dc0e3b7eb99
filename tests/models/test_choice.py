"""The fastest correct way is chosen by measuring, kept for the card, and never a wrong one: models/kernels/choice.py.

The clock and the ways are the test's own, so no GPU is needed and no time is measured.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from lipsync_server.errors import EngineUnavailable
from lipsync_server.kernel_choices import WAYS, parse_choices
from lipsync_server.models.kernels.choice import ROUNDS, Card, Choice, Chooser, Question, Way
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
    assert bench.timed == ["plain", "paired"] * ROUNDS
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired"


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_torn_file_is_ignored_and_written_anew(tmp_path: Path, cut: int) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    chooser(bench, tmp_path).choose(QUESTION, bench.ways())
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(path.read_bytes()[:cut])
    bench.timed = []
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired"
    assert bench.timed == ["plain", "paired"] * ROUNDS
    assert json.loads(path.read_text())["choices"]["vae 96 channels"]["way"] == "paired"


def test_a_folder_that_cannot_be_written_costs_the_measurement_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench({"plain": 2.0, "paired": 1.0})
    assert answer(chooser(bench, tmp_path / "file").choose(QUESTION, bench.ways())) == "paired"


def test_several_questions_share_the_file_of_a_card(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    for shape in ("96 channels", "192 channels"):
        chooser(bench, tmp_path).choose(replace(QUESTION, shape=shape), bench.ways())
    (path,) = tmp_path.glob("*.json")
    assert path.name.startswith("nvidia-geforce-rtx-4090-")
    assert json.loads(path.read_text())["choices"].keys() == {"vae 96 channels", "vae 192 channels"}


def test_a_fixed_way_is_used_without_a_measurement(tmp_path: Path) -> None:
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


def fails(words: str) -> Callable[[], float]:
    def run() -> float:
        raise RuntimeError(words)

    return run


def ran_out(error: Exception) -> bool:
    return "out of memory" in str(error)


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "no kernel image is available"])
def test_a_plain_computation_that_fails_ends_in_the_plain_way_with_one_line(
    words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    asked = chooser(bench, tmp_path)
    with caplog.at_level("INFO"):
        found = asked.choose(replace(QUESTION, plain=fails(words), plain_way="plain"), bench.ways())
    assert answer(found) == "plain"
    (line,) = caplog.messages
    assert "plain (the plain way, because nothing could be measured" in line
    assert words in line
    assert asked.in_use == {"vae 96 channels": "plain"}
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired", "nothing may be kept"


@pytest.mark.parametrize("unusable", [float("nan"), float("inf")])
def test_a_plain_result_without_finite_numbers_is_compared_with_nothing(unusable: float) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0}, {"plain": unusable, "paired": unusable})
    question = replace(QUESTION, plain=lambda: unusable)
    assert chooser(bench).choose(question, bench.ways()) is None
    assert answer(chooser(bench).choose(replace(question, plain_way="plain"), bench.ways())) == "plain"


def test_memory_that_ran_out_in_a_trial_decides_for_this_start_only(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    short = Chooser(CARD, bench.clock, tmp_path, ran_out=ran_out)
    ways = {**bench.ways(), "paired": Way(fails("CUDA out of memory"), 0.01)}
    assert answer(short.choose(QUESTION, ways)) == "plain"
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "paired"


def test_memory_that_ran_out_in_every_trial_ends_in_the_plain_way() -> None:
    bench = Bench({})
    short = Chooser(CARD, bench.clock, ran_out=ran_out)
    ways = {name: Way(fails("CUDA out of memory"), 0.01) for name in ("plain", "paired")}
    assert answer(short.choose(replace(QUESTION, plain_way="plain"), ways)) == "plain"


def test_a_way_that_fails_while_it_is_timed_is_left_out(tmp_path: Path) -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0, "folded": 3.0})

    def clock(run: Callable[[], object]) -> float:
        taken = bench.clock(run)
        if bench.timed.count("paired") == 2 and bench.timed[-1] == "paired":
            raise RuntimeError("CUDA error: misaligned address")
        return taken

    found = Chooser(CARD, clock, tmp_path).choose(QUESTION, bench.ways())
    assert answer(found) == "plain"
    assert answer(chooser(bench, tmp_path).choose(QUESTION, bench.ways())) == "plain"


def test_the_first_way_is_not_judged_by_a_clock_that_still_rises() -> None:
    bench = Bench({"first": 1.0, "second": 1.2})
    slow = iter([4.0])

    def clock(run: Callable[[], object]) -> float:
        return bench.clock(run) * next(slow, 1.0)

    assert answer(Chooser(CARD, clock).choose(QUESTION, bench.ways())) == "second"

    def ramp(run: Callable[[], object]) -> float:
        return bench.clock(run) * next(factors)

    factors = iter([2.0, 1.8, 1.4, 1.2, 1.0, 1.0])
    assert answer(Chooser(CARD, ramp).choose(QUESTION, bench.ways())) == "first"


def test_a_way_many_times_slower_is_timed_once() -> None:
    bench = Bench({"plain": 1.0, "slow": 9.0})
    chooser(bench).choose(QUESTION, bench.ways())
    assert bench.timed == ["plain", "slow", "plain", "plain"]


def test_a_way_that_spoils_the_card_is_left_out_by_the_next_process(tmp_path: Path) -> None:
    """An illegal access in a kernel makes every later call of the process fail, on the plain computation too."""
    bench = Bench({"plain": 2.0, "paired": 1.0})
    spoilt: list[str] = []

    def plain() -> float:
        return fails("CUDA error: an illegal memory access was encountered")() if spoilt else 1.0

    def spoils() -> float:
        spoilt.append("paired")
        return plain()

    question, asked = replace(QUESTION, plain=plain), []

    def agreed(way: str) -> str:
        asked.append(way)
        return way

    with pytest.raises(EngineUnavailable, match="The trial of paired for vae 96 channels left the GPU unusable"):
        chooser(bench, tmp_path, agreed=agreed).choose(question, {**bench.ways(), "paired": Way(spoils, 0.01)})
    assert asked == [""], "the other processes wait for an answer"
    spoilt.clear()
    following = {**bench.ways(), "paired": Way(spoils, 0.01)}
    assert answer(chooser(bench, tmp_path).choose(question, following)) == "plain"
    assert not spoilt


PROGRAM = """
import os, signal, sys
from pathlib import Path
from lipsync_server.models.kernels.choice import Card, Chooser, Question, Way

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

question = Question("vae", "96 channels", plain=lambda: 1.0, error=lambda got, want: abs(got - want))
ways = {"deadly": Way(dies, 0.01), "plain": Way(lambda: 1.0, 0.01)}
print(Chooser(Card("RTX 3090"), lambda run: 1.0, Path(sys.argv[1])).choose(question, ways).way)
"""


def test_a_trial_that_ends_its_process_twice_is_not_begun_again(tmp_path: Path) -> None:
    def start() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert [start().returncode, start().returncode] == [-signal.SIGKILL] * 2
    third = start()
    assert (third.returncode, third.stdout.strip()) == (0, "plain"), third.stderr
    assert start().stdout.strip() == "plain"


WRITER = """
import sys
from pathlib import Path
from lipsync_server.models.kernels.kept_choices import Card, Kept, KeptChoices

kept = KeptChoices(Card("RTX 3090"), Path(sys.argv[1]))
for n in range(25):
    with kept.trial(f"{sys.argv[2]} {n}", "plain"):
        kept.keep(f"{sys.argv[2]} {n}", Kept(way="plain"))
"""


def test_processes_that_start_at_once_lose_none_of_their_choices(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, name]) for name in ("first", "second", "third")]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert len(content["choices"]) == 75
    assert content["trials"] == {}
    assert [other.name for other in tmp_path.glob(".*.part")] == []


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench({"plain": 2.0, "paired": 1.0})
    asked = chooser(bench, tmp_path / "file")
    for shape in ("96 channels", "192 channels"):
        assert answer(asked.choose(replace(QUESTION, shape=shape), bench.ways())) == "paired"
    assert sum("cannot be kept" in line for line in caplog.messages) == 1


def test_processes_agree_on_a_fixed_way() -> None:
    bench = Bench({"plain": 2.0, "paired": 1.0})
    asked: list[str] = []

    def agreed(way: str) -> str:
        asked.append(way)
        return way

    chooser(bench, fixed={"vae": "plain"}, agreed=agreed).choose(QUESTION, bench.ways())
    assert asked == ["plain"]


def test_the_setting_names_every_way_that_is_measured() -> None:
    pytest.importorskip("triton")
    from lipsync_server.models.kernels import attention, int8_product, product_8bit

    assert set(WAYS["product"]) == {*int8_product.TILES, product_8bit.TORCH}
    assert set(WAYS["cross_attention"]) == set(attention.GENERAL)


def test_the_setting_refuses_unknown_words_with_the_known_ones() -> None:
    assert parse_choices(["vae=plain", "product=128x128x64"]) == {"vae": "plain", "product": "128x128x64"}
    with pytest.raises(ValueError, match="'speed=best' must be KIND=WAY with KIND one of cross_attention, product"):
        parse_choices(["speed=best"])
    with pytest.raises(ValueError, match="'fast' is no way of vae; use one of plain, paired"):
        EngineSettings(choices=["vae=fast"])
