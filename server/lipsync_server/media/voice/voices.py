"""Kokoro's voices by name, and the language of each. Imports nothing, so that every process may read it.

The first letter of a name is the language, the second the kind of voice (f female, m male). Kokoro also has Japanese
and Chinese voices. Their sounds come from dictionaries that this server does not have, so they are left out, and
espeak-ng speaks these languages.
"""

from typing import Final

ESPEAK: Final = "espeak"
"""The name by which a caller chooses espeak-ng."""

_NAMES: Final = {
    "en-US": (
        "af_heart af_alloy af_aoede af_bella af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky "
        "am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa"
    ),
    "en-GB": "bf_emma bf_alice bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis",
    "es": "ef_dora em_alex em_santa",
    "fr": "ff_siwis",
    "hi": "hf_alpha hf_beta hm_omega hm_psi",
    "it": "if_sara im_nicola",
    "pt-BR": "pf_dora pm_alex pm_santa",
}
VOICES: Final[dict[str, str]] = {name: language for language, names in _NAMES.items() for name in names.split()}
"""Each voice of Kokoro and its language, the default voice of a language first."""


def default_voice(language: str) -> str | None:
    """Kokoro's voice for a language such as "pt" or "en-GB"; None for a language that Kokoro does not speak."""
    wanted = language.lower()
    for exact in (True, False):
        for name, spoken in VOICES.items():
            known = spoken.lower()
            if known == wanted or (not exact and known.partition("-")[0] == wanted.partition("-")[0]):
                return name
    return None
