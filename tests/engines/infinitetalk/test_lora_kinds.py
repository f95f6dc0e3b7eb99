"""The kinds of change beside LoRA: each equals its mathematics written out in float64, and other kinds are refused."""

from pathlib import Path

import pytest
import torch
from lipsync_server.engines.infinitetalk.loading.lora import read_lora
from lipsync_server.engines.infinitetalk.loading.transformer_files import official_shapes
from lipsync_server.errors import WeightsError
from safetensors.torch import save_file
from torch import Tensor
from transformer_golden import TINY

SHAPES = official_shapes(TINY)
SQUARE, WIDE, CONVOLUTION = "blocks.0.self_attn.q", "blocks.1.ffn.0", "patch_embedding"
SCALES = (1.0, 0.3, -0.5)


class Numbers:
    """Random float64 tensors, and the file that holds them in float32."""

    def __init__(self, folder: Path) -> None:
        self._generator = torch.Generator().manual_seed(4)
        self._path = folder / "kind.safetensors"

    def __call__(self, *shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=self._generator, dtype=torch.float64)
        return drawn.float().double()

    def merged(self, layer: str, parts: dict[str, Tensor], weight: Tensor, scale: float) -> Tensor:
        """The weight of `layer` with the file's change, computed in float64. parts: by the end of their name."""
        spelled = f"lycoris_{layer.replace('.', '_')}"
        save_file({f"{spelled}.{part}": value.float().contiguous() for part, value in parts.items()}, self._path)
        lora = read_lora(self._path, scale, SHAPES)
        assert lora.targets == {f"{layer}.weight"}
        assert lora.ignored == ()
        return lora.merge(f"{layer}.weight", weight)

    def refused(self, layer: str, parts: dict[str, Tensor]) -> str:
        with pytest.raises(WeightsError) as caught:
            self.merged(layer, parts, torch.zeros(SHAPES[f"{layer}.weight"]), 1.0)
        assert "kind.safetensors" in caught.value.detail
        return caught.value.detail


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return Numbers(tmp_path)


def near(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [SQUARE, WIDE])
def test_loha_multiplies_two_low_rank_matrices_number_by_number(numbers: Numbers, layer: str, scale: float) -> None:
    rows, columns = SHAPES[f"{layer}.weight"]
    a1, b1, a2, b2 = numbers(rows, 3), numbers(3, columns), numbers(rows, 3), numbers(3, columns)
    weight = numbers(rows, columns)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(6.0)}
    dense = torch.einsum("or,ri->oi", a1, b1) * torch.einsum("or,ri->oi", a2, b2)
    near(numbers.merged(layer, parts, weight, scale), weight + scale * 6 / 3 * dense)
    del parts["hada_w2_b"]
    assert "without hada_w2_b" in numbers.refused(layer, parts)


@pytest.mark.parametrize("scale", SCALES)
def test_a_lora_with_a_core_changes_a_convolution(numbers: Numbers, scale: float) -> None:
    rows, columns, *kernel = SHAPES["patch_embedding.weight"]
    up, down, mid = numbers(rows, 3, 1, 1, 1), numbers(3, columns, 1, 1, 1), numbers(3, 3, *kernel)
    weight = numbers(rows, columns, *kernel)
    dense = torch.zeros_like(weight)
    for m in range(3):
        for n in range(3):
            outer = torch.outer(up[:, m].flatten(), down[n].flatten())
            dense += outer[:, :, None, None, None] * mid[m, n]
    parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid, "alpha": torch.tensor(1.5)}
    near(numbers.merged(CONVOLUTION, parts, weight, scale), weight + scale * 0.5 * dense)
    assert "do not fit together" in numbers.refused(CONVOLUTION, parts | {"lora_mid.weight": numbers(2, 3, *kernel)})
    assert "without its down half" in numbers.refused(
        CONVOLUTION, {"lora_up.weight": up, "lora_mid.weight": mid, "alpha": torch.tensor(1.5)}
    )


@pytest.mark.parametrize("scale", SCALES)
def test_loha_with_cores_changes_a_convolution(numbers: Numbers, scale: float) -> None:
    rows, columns, *kernel = SHAPES["patch_embedding.weight"]
    weight, halves, parts = numbers(rows, columns, *kernel), [], {"alpha": torch.tensor(4.0)}
    for n in (1, 2):
        core, left, right = numbers(2, 2, *kernel), numbers(2, rows), numbers(2, columns)
        parts |= {f"hada_t{n}": core, f"hada_w{n}_a": left, f"hada_w{n}_b": right}
        halves.append(
            sum(left[i][:, None, None, None, None] * right[j][None, :, None, None, None] * core[i, j]
                for i in range(2) for j in range(2))
        )  # fmt: skip
    near(numbers.merged(CONVOLUTION, parts, weight, scale), weight + scale * 2 * halves[0] * halves[1])
    assert "without hada_t2" in numbers.refused(CONVOLUTION, {k: v for k, v in parts.items() if k != "hada_t2"})


@pytest.mark.parametrize("scale", SCALES)
def test_lokr_with_a_core_changes_a_convolution(numbers: Numbers, scale: float) -> None:
    rows, columns, *kernel = SHAPES["patch_embedding.weight"]
    first = numbers(4, 2)
    core, left, right = numbers(3, 3, *kernel), numbers(3, rows // 4), numbers(3, columns // 2)
    weight, second = numbers(rows, columns, *kernel), torch.zeros(rows // 4, columns // 2, *kernel, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            second += left[i][:, None, None, None, None] * right[j][None, :, None, None, None] * core[i, j]
    dense = torch.cat([torch.cat([first[i, j] * second for j in range(2)], dim=1) for i in range(4)])
    parts = {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": left, "lokr_w2_b": right, "alpha": torch.tensor(6.0)}
    near(numbers.merged(CONVOLUTION, parts, weight, scale), weight + scale * 2 * dense)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [SQUARE, WIDE])
@pytest.mark.parametrize("early", [False, True])
def test_glora_adds_a_product_with_the_weight_itself(numbers: Numbers, layer: str, scale: float, early: bool) -> None:
    rows, columns = SHAPES[f"{layer}.weight"]
    weight = numbers(rows, columns)
    a1, a2, b1, b2 = numbers(columns, 3), numbers(3, columns), numbers(rows, 3), numbers(3, columns)
    dense = weight @ (a1 @ a2) + b1 @ b2
    names = ("a2", "a1", "b2", "b1") if early else ("a1", "a2", "b1", "b2")
    parts = {f"{name}.weight": value for name, value in zip(names, (a1, a2, b1, b2), strict=True)}
    near(numbers.merged(layer, parts | {"alpha": torch.tensor(6.0)}, weight, scale), weight + scale * 2 * dense)
    del parts["b2.weight"]
    assert "without b2.weight" in numbers.refused(layer, parts)


def test_glora_changes_every_place_of_a_convolutions_kernel(numbers: Numbers) -> None:
    rows, columns, *kernel = SHAPES["patch_embedding.weight"]
    weight = numbers(rows, columns, *kernel)
    a1, a2, b1, b2 = numbers(columns, 3), numbers(3, columns), numbers(rows, 3), numbers(3, columns, *kernel)
    dense = (b1 @ b2.flatten(1)).reshape(weight.shape)
    for t in range(kernel[0]):
        for y in range(kernel[1]):
            for x in range(kernel[2]):
                dense[:, :, t, y, x] += weight[:, :, t, y, x] @ a1 @ a2
    ones = (1,) * len(kernel)
    parts = {
        "a1.weight": a1.reshape(columns, 3, *ones), "a2.weight": a2.reshape(3, columns, *ones),
        "b1.weight": b1.reshape(rows, 3, *ones), "b2.weight": b2,
    }  # fmt: skip
    near(numbers.merged(CONVOLUTION, parts, weight, 1.0), weight + dense)


def rotation(block: Tensor, bound: float, norm: float) -> Tensor:
    """The Cayley transform of a block's skew part, which is shortened where all of them together are too long."""
    skew = block - block.T
    if bound and norm > bound:
        skew = skew * bound / norm
    one = torch.eye(len(block), dtype=torch.float64)
    turn: Tensor = (one + skew) @ torch.linalg.inv(one - skew)
    torch.testing.assert_close(turn @ turn.T, one, rtol=0, atol=1e-9)
    return turn


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [SQUARE, WIDE, CONVOLUTION])
@pytest.mark.parametrize("alpha", [0.0, 0.005])
def test_oft_turns_blocks_of_rows(numbers: Numbers, layer: str, scale: float, alpha: float) -> None:
    rows, *rest = SHAPES[f"{layer}.weight"]
    n = 4
    blocks, weight = numbers(rows // n, n, n), numbers(rows, *rest)
    norm = (blocks - blocks.transpose(1, 2)).norm().item() + 1e-8
    assert norm > 0.005 * rows
    wanted = weight.clone()
    for k, block in enumerate(blocks):
        turn = rotation(block, alpha * rows, norm)
        part = weight[k * n : (k + 1) * n].flatten(1)
        wanted[k * n : (k + 1) * n] = (scale * turn.T @ part + (1 - scale) * part).reshape(n, *rest)
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(alpha, dtype=torch.float64)}
    found = numbers.merged(layer, parts, weight, scale)
    # The file holds alpha in float32.
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)
    if scale == 1.0:
        factors = numbers(rows, *(1 for _ in rest))
        near(numbers.merged(layer, {"oft_blocks": blocks, "rescale": factors}, weight, 1.0),
             numbers.merged(layer, {"oft_blocks": blocks}, weight, 1.0) * factors)  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layer", [SQUARE, CONVOLUTION])
def test_boft_turns_rows_that_a_butterfly_has_brought_together(numbers: Numbers, layer: str, scale: float) -> None:
    rows, *rest = SHAPES[f"{layer}.weight"]
    n, steps = 4, 3
    blocks, weight = numbers(steps, rows // n, n, n), numbers(rows, *rest)
    whole = torch.eye(rows, dtype=torch.float64)
    for step in range(steps):
        reach = 2**step * n // 2
        # The rows in the order of the blocks: i and i + reach beside each other.
        order = [
            start + half * reach + i for start in range(0, rows, 2 * reach) for i in range(reach) for half in range(2)
        ]
        turn = torch.zeros(rows, rows, dtype=torch.float64)
        for k in range(rows // n):
            places = order[k * n : (k + 1) * n]
            one = torch.eye(n, dtype=torch.float64)
            block = scale * rotation(blocks[step, k], 0, 0) + (1 - scale) * one
            for i, row in enumerate(places):
                for j, column in enumerate(places):
                    turn[row, column] = block[i, j]
        whole = turn @ whole
    near(numbers.merged(layer, {"oft_blocks": blocks}, weight, scale), (whole @ weight.flatten(1)).reshape(rows, *rest))


@pytest.mark.parametrize("kind", ["loha", "lokr", "glora"])
def test_dora_sets_the_length_of_the_rows_after_any_change(numbers: Numbers, kind: str) -> None:
    rows, columns = SHAPES[f"{SQUARE}.weight"]
    weight, lengths = numbers(rows, columns), (numbers(rows, 1).abs() + 0.5).float().double()
    parts = {
        "loha": {"hada_w1_a": numbers(rows, 2), "hada_w1_b": numbers(2, columns), "hada_w2_a": numbers(rows, 2),
                 "hada_w2_b": numbers(2, columns)},
        "lokr": {"lokr_w1": numbers(4, 8), "lokr_w2": numbers(rows // 4, columns // 8)},
        "glora": {"a1.weight": numbers(columns, 2), "a2.weight": numbers(2, columns), "b1.weight": numbers(rows, 2),
                  "b2.weight": numbers(2, columns)},
    }[kind]  # fmt: skip
    moved = numbers.merged(SQUARE, parts, weight, 1.0)
    wanted = moved / moved.norm(dim=1, keepdim=True) * lengths
    near(numbers.merged(SQUARE, parts | {"dora_scale": lengths}, weight, 1.0), wanted)
    near(numbers.merged(SQUARE, parts | {"dora_scale": lengths}, weight, 0.25), 0.75 * weight + 0.25 * wanted)


REFUSED = {
    "on_input": "IA3", "oft_R.weight": "OFT as PEFT writes it", "oft_r": "OFT as PEFT writes it",
    "boft_R": "BOFT as PEFT writes it", "vera_lambda_b": "VeRA", "bm.weight": "GLoRA with a Tucker core",
    "set_weight": "weights that replace the model's", "reshape_weight": "a change of the weights' shapes",
    "scalar": "a LyCORIS change with a scalar of its own",
}  # fmt: skip


@pytest.mark.parametrize("part", REFUSED)
def test_a_kind_that_is_not_read_is_refused_by_its_name(numbers: Numbers, part: str) -> None:
    rows, columns = SHAPES[f"{SQUARE}.weight"]
    pair = {"lora_down.weight": numbers(2, columns), "lora_up.weight": numbers(rows, 2)}
    detail = numbers.refused(SQUARE, pair | {part: numbers(2)})
    assert f"{part} is part of {REFUSED[part]}, which is not read here. Read are LoRA, DoRA" in detail


def test_blocks_that_do_not_fit_the_rows_are_refused(numbers: Numbers) -> None:
    rows, _ = SHAPES[f"{SQUARE}.weight"]
    assert f"makes a {[rows - 4, SHAPES[f'{SQUARE}.weight'][1]]} change" in numbers.refused(
        SQUARE, {"oft_blocks": numbers(rows // 4 - 1, 4, 4)}
    )
    assert "do not fit together" in numbers.refused(SQUARE, {"oft_blocks": numbers(rows // 4, 4, 3)})
    assert "do not fit together" in numbers.refused(SQUARE, {"oft_blocks": numbers(9, rows // 4, 4, 4)})
    assert "without oft_blocks" in numbers.refused(SQUARE, {"rescale": numbers(rows, 1)})


def test_the_same_tensor_in_two_spellings_is_refused(tmp_path: Path) -> None:
    one, other = "diffusion_model.blocks.0.self_attn.q", "lora_unet_blocks_0_self_attn_q"
    down = torch.zeros(2, TINY.dim)
    save_file({f"{one}.lora_A.weight": down, f"{other}.lora_down.weight": down.clone()}, tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match=r"two\.safetensors holds .* and .*, which are the same tensor"):
        read_lora(tmp_path / "two.safetensors", 1.0, SHAPES)
