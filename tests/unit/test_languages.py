"""The Portuguese guide names the same commands, variables and headings as the English pages."""

import re

import pytest
from lipsync_server.cli import app
from typer.main import get_command
from written_names import COMMAND, ROOT, SETTING, VERB

GENERATED = re.compile(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", re.DOTALL)
KEY = re.compile(r"\b(?:VAST|RUNPOD|TENSORDOCK)_API_KEY\b|\bAWS_[A-Z_]+\b|\bHF_[A-Z]+\b")
PORTUGUESE = (ROOT / "docs" / "pt-BR.md").read_text(encoding="utf-8")
ENGLISH = "\n".join(
    GENERATED.sub("", (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "docs/rent-a-gpu.md")
)
HEADINGS = (
    "Pré-requisitos",
    "Escolher a GPU e iniciar a máquina",
    "Entrar e conferir",
    "Pesos dos modelos",
    "Instalação",
    "A API",
    "Três jeitos de expor o servidor",
    "Teste rápido",
    "n8n",
    "Solução de problemas",
    "Tempo e custo",
    "Armazenamento, backup e provedores comparados",
)


def commands(text: str) -> set[str]:
    """The verbs of `lipsync` that a text names: `cloud up`, `weights pull`, `serve`."""
    verbs: dict[str, object] = vars(get_command(app))["commands"]
    found = set()
    for line in COMMAND.findall(text):
        words = line.split()
        if words[0] in verbs:
            below: dict[str, object] = getattr(verbs[words[0]], "commands", {})
            found.add(" ".join(words[:2]) if len(words) > 1 and words[1] in below else words[0])
    return found


def test_both_languages_name_the_same_commands() -> None:
    assert commands(PORTUGUESE) == commands(ENGLISH)


@pytest.mark.parametrize("names", [KEY, VERB], ids=["keys", "make"])
def test_both_languages_name_the_same_keys_and_verbs(names: re.Pattern[str]) -> None:
    ours = {name for name in names.findall(PORTUGUESE) if name != "test"}
    assert ours == {name for name in names.findall(ENGLISH) if name not in ("test", "docs")}


def test_the_portuguese_table_of_settings_has_every_setting_with_its_names_and_default() -> None:
    def first_cells(page: str) -> list[list[str]]:
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in page.splitlines()]
        return [row for row in rows if row and row[0].startswith("`LIPSYNC_")]

    assert first_cells(PORTUGUESE) == first_cells((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(SETTING.findall(ENGLISH)) <= set(SETTING.findall(PORTUGUESE))


def test_the_portuguese_guide_has_the_twelve_headings_of_its_readers() -> None:
    assert tuple(re.findall(r"^## \d+\. (.+)$", PORTUGUESE, re.MULTILINE)) == HEADINGS


def test_the_portuguese_table_of_costs_is_the_commands() -> None:
    from typer.testing import CliRunner

    line = "cost --videos 1 --seconds 40 --starts 0 --storage-gb 0 --provider vast --currency BRL --rate 5.40"
    assert f"lipsync {line}" in PORTUGUESE
    said = CliRunner().invoke(app, line.split(), env={"XDG_CONFIG_HOME": "/nonexistent"}).output
    origins = {"computed": "calculado", "published": "publicado por outros", "measured": "medido"}
    for row in (row for row in said.splitlines() if "RTX 4090 │" in row):
        _, _, name, _, speed, origin, _, compute, *_ = (cell.strip() for cell in row.split("│")[1:-1])
        minutes = float(speed) * 40 / 60
        written = f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"
        expected = f"| `{name}` | {written} | {compute} | {origins[origin]} |".replace(".", ",")
        assert expected in PORTUGUESE
