"""The keys of a LoRA file: which tensor of which layer each one is, known from the file's header alone.

A key is a layer's name, in one of many spellings (lora_names.py), and a part's, such as `lora_down.weight`. Kinds of
change that the loader does not compute are refused here by their own names, so that a job that asks for such a file is
refused before it is accepted. Knows no tensors; no torch here. lora.py puts the parts of a layer together.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lipsync_server.engines.infinitetalk.files.lora_names import LayerNames, is_of_another_model
from lipsync_server.errors import WeightsError

# The part's name in a file -> its name here; alternatives of one part share a group.
_KEY = re.compile(
    r"^(?P<layer>.+?)[._](?:"
    r"(?P<down>(?:lora_down|lora_A|lora\.down|lora_linear_layer\.down)(?:\.default)?(?:\.weight)?)"
    r"|(?P<up>(?:lora_up|lora_B|lora\.up|lora_linear_layer\.up)(?:\.default)?(?:\.weight)?)"
    r"|(?P<mid>lora_mid(?:\.weight)?)"
    r"|(?P<glora>[ab][12])\.weight"
    r"|(?P<magnitude>dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?)"
    r"|(?P<own>lokr_w[12](?:_[ab])?|lokr_t2|hada_w[12]_[ab]|hada_t[12]|oft_blocks|rescale|alpha"
    r"|diff|diff_b|diff_m|w_norm|b_norm)"
    r")$"
)
NOT_READ: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("IA3", "on_input", re.compile(r"\.on_input$")),
    ("OFT as PEFT writes it", "oft_R.weight", re.compile(r"\.oft_[rR](?:\.\w+)*$")),
    ("BOFT as PEFT writes it", "boft_R", re.compile(r"\.boft_[Rs](?:\.\w+)*$")),
    ("VeRA", "vera_lambda_b", re.compile(r"\.vera_lambda_[bd](?:\.\w+)*$")),
    ("GLoRA with a Tucker core", "bm.weight", re.compile(r"\.bm\.weight$")),
    ("weights that replace the model's", "set_weight", re.compile(r"\.set_weight$")),
    ("a change of the weights' shapes", "reshape_weight", re.compile(r"\.reshape_weight$")),
    ("a LyCORIS change with a scalar of its own", "scalar", re.compile(r"\.scalar$")),
)
"""Kinds of change that are not computed here: the kind's name, the end of one of its keys, and the pattern of all."""
READ = "LoRA, DoRA, LoHa, LoKr, GLoRA, OFT, BOFT, Tucker cores, and differences of weights, biases and modulation"


@dataclass(frozen=True)
class LoraKey:
    """One tensor. layer: its official name. part: "down", "up", "mid", "a1", "hada_w1_a", "diff", ...

    ignores_alpha: the spelling is the reference's own, in which alpha does not count.
    """

    key: str
    layer: str
    part: str
    ignores_alpha: bool = False


def read_keys(file_name: str, keys: Iterable[str], names: LayerNames) -> tuple[list[LoraKey], list[str]]:
    """The tensors of a file that change the model whose layers are `names`, and the keys that change nothing in it.

    Raises WeightsError that names the file and the key for a kind of change that is not computed here, and for a layer
    that the model does not have.
    """
    found: list[LoraKey] = []
    ignored: list[str] = []
    for key in keys:
        if is_of_another_model(key):
            ignored.append(key)
            continue
        if kind := next((kind for kind, _, end in NOT_READ if end.search(key)), None):
            raise WeightsError(f"{file_name}: {key} is part of {kind}, which is not read here. Read are {READ}.")
        match = _KEY.match(key)
        if match is None:
            ignored.append(key)
            continue
        # Some write `NAME.modulation.diff`, others `NAME.diff_m`.
        spelled = re.sub(r"[._]modulation$", "", match["layer"])
        layer = names.official(spelled)
        if layer is None:
            raise WeightsError(
                f"{file_name} changes a layer that this model does not have ({key}). It was made for another model."
            )
        reference = key.startswith("diffusion_model.") and ".lora_down" in key
        found.append(LoraKey(key, layer, _part(match, whole=spelled != match["layer"]), reference))
    if not found:
        named = f" The first that it holds is {ignored[0]}." if ignored else ""
        raise WeightsError(
            f"{file_name} changes nothing in this model: no key of a known LoRA style was found in it.{named}"
        )
    return found, ignored


def _part(match: re.Match[str], *, whole: bool) -> str:
    """The part's name here. whole: the key's layer was a block's modulation."""
    for name in ("down", "up", "mid", "magnitude"):
        if match[name] is not None:
            return name
    own = match["glora"] or match["own"]
    return "diff_m" if whole and own == "diff" else own
