"""The questions that engines ask on a card, tried on a CPU: their ways compute, and a wrong way is refused."""

import pytest
import torch
from lipsync_server.engines.infinitetalk.model.choose_blocks import question_of, use_faster_blocks
from lipsync_server.models.kernels import attention, triton_here
from lipsync_server.models.kernels.card import card_of, chooser_for, milliseconds, relative_error
from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.kernels.product_8bit import TORCH, multiply_rows
from lipsync_server.models.kernels.rounding import quantize_rows
from lipsync_server.models.sampling.resume import start_of, state_after
from lipsync_server.models.wan_vae.choose_pairs import pairs_are_faster
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from torch import Tensor
from transformer_golden import TINY

CPU = torch.device("cpu")


def first_is_slow() -> Chooser:
    """A clock that calls each later way faster."""
    left = iter(range(900, 0, -1))
    return Chooser(card_of(CPU), lambda run: float(next(left)))


@pytest.mark.parametrize(("fixed", "paired"), [({}, True), ({"vae": "plain"}, False)])
def test_both_forms_of_the_vaes_convolution_are_correct_candidates(fixed: dict[str, str], paired: bool) -> None:
    chooser = first_is_slow()
    chooser.fixed = fixed
    assert pairs_are_faster(CPU, torch.float32, chooser, size=(24, 32)) is paired
    assert list(chooser.in_use.values()) == ["paired" if paired else "plain"]


def test_a_block_is_timed_on_random_states_and_compared_with_the_plain_one() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    question, ways = question_of(model, frames=2, side=4)
    wanted = question.plain()
    assert wanted.shape == (2 * 4 * 4, TINY.dim)
    assert question.error(ways["compiled"].run(), wanted) < 1e-6
    assert "GPU" in str(use_faster_blocks(model, first_is_slow(), frames=2, side=4))
    assert not model.fast_blocks


def test_streamed_blocks_can_be_timed_too() -> None:
    model = random_transformer(TINY, dtype=torch.float32, offload="blocks")
    question, ways = question_of(model, frames=2, side=4)
    assert question.error(ways["compiled"].run(), question.plain()) < 1e-6


def test_the_clock_and_the_error_measure_what_they_are_given() -> None:
    runs: list[int] = []
    assert milliseconds(lambda: runs.append(1), CPU) >= 0
    assert len(runs) == 6
    assert relative_error(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")
    assert chooser_for(CPU).card.name == "cpu"
    assert "torch" in chooser_for(CPU).card.versions


def test_a_resume_point_remembers_the_choices() -> None:
    generator = torch.Generator().manual_seed(1)
    start = start_of(state_after(2, None, generator, {"attention 8-bit": "int8_both"}), 0)
    assert (start.window, start.choices) == (3, {"attention 8-bit": "int8_both"})
    older = start_of(state_after(2, None, generator), 0)
    assert older.choices == {}


def test_candidates_for_8bit_layers_are_those_for_16_bits_and_more() -> None:
    assert set(attention.EXACT_CANDIDATES) < set(attention.ROUNDED_CANDIDATES) <= set(attention.KERNELS)


def test_every_candidate_meets_its_limit_of_error_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the plain kernels are the candidates; a kernel that omits keys is refused."""
    monkeypatch.setattr(attention, "TRIAL_TOKENS", 160)
    chooser = first_is_slow()
    trial = attention.Trial("attention", "tiny", 160, 2, 32)
    assert attention._chosen(trial, ["math", "sdpa"], CPU, torch.float32, chooser) is not None

    def forgets(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention.sdpa(q, k[:, :150], v[:, :150])

    monkeypatch.setitem(attention.KERNELS, "math", forgets)
    assert attention._chosen(trial, ["math"], CPU, torch.float32, first_is_slow()) is None


def test_blocks_of_which_no_faster_form_runs_are_computed_plainly() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    model.compile_blocks()
    model.uncompile_blocks()
    question, ways = question_of(model, frames=2, side=4)
    for form in ("compiled", "plain"):
        assert torch.equal(ways[form].run(), question.plain())
    assert question.plain_way == "plain"


def test_triton_that_cannot_start_a_kernel_is_found_before_a_model_is_loaded() -> None:
    pytest.importorskip("triton")
    assert triton_here.why_not(CPU) == "it needs an NVIDIA GPU"
    if not torch.cuda.is_available():
        assert triton_here._trial(CPU), "without a driver, no kernel starts"


def test_torchs_own_int8_product_equals_the_plain_one() -> None:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 64, generator=random), torch.randn(48, 64, generator=random)
    (x8, x_scale), (data, scale) = quantize_rows(x, "int8"), quantize_rows(weight, "int8")
    wanted = (x8.float() @ data.float().t()) * x_scale * scale.t()
    got = multiply_rows(x8, x_scale, data, scale, None, torch.bfloat16, TORCH)
    assert relative_error(got, wanted) < 0.004
