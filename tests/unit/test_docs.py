"""What the documentation says is what the code does."""

import re
from pathlib import Path

from lipsync_server.bench.tables import with_tables
from lipsync_server.cli import app
from lipsync_server.options_table import with_options
from lipsync_server.settings_table import with_table
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


def test_the_readmes_settings_table_is_the_codes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run: python -m lipsync_server.settings_table README.md"


def test_the_options_page_is_the_codes() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert with_options(page) == page, "run: python -m lipsync_server.options_table docs/options.md"


def test_every_relative_link_in_the_documentation_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "n8n-node").glob("*.md"))]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_the_readmes_cost_table_is_the_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<!-- begin cost -->\n```\n")[2].partition("```\n<!-- end cost -->")[0]
    result = CliRunner().invoke(app, ["cost", "--videos", "45", "--seconds", "40", "--storage-gb", "40"])
    assert shown == result.output


def test_the_performance_tables_are_the_measured_numbers() -> None:
    for name in ("performance.md", "performance-h200.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        command = f"run: python -m lipsync_server.bench.tables docs/{name}"
        assert with_tables(page, ROOT / "docs" / "performance") == page, command
