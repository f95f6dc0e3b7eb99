"""The documentation's tables and statements agree with the code."""

import re
from pathlib import Path

import pytest
from lipsync_server.bench.tables import with_tables
from lipsync_server.cli import app
from lipsync_server.engines.registry import ENGINES, SHIPPED
from lipsync_server.options_table import with_options
from lipsync_server.settings_table import with_table
from lipsync_server.weights.manifest import load_manifest
from typer.testing import CliRunner
from written_names import heading_ids, tracked_files

ROOT = Path(__file__).parents[2]


def test_the_readmes_settings_table_is_written_from_the_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run: python -m lipsync_server.settings_table README.md"


def test_the_tables_of_options_are_written_from_the_code() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert with_options(page) == page, "run: python -m lipsync_server.options_table docs/options.md"


@pytest.mark.parametrize("engine", SHIPPED)
def test_every_option_has_a_description_and_its_effect_on_speed_and_quality(engine: str) -> None:
    model = ENGINES.options_model(engine)
    assert model.effects.keys() == model.model_fields.keys()
    assert all(model.effects.values())
    assert all(field.description for field in model.model_fields.values())


def test_the_default_of_a_number_that_the_preset_decides_is_shown_by_preset() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert "| `steps` | whole number from 1 to 100 | quality 40, balanced 8, fast 4 |" in page
    assert "| quality 7 (720p: 11), balanced 2, fast 2 |" in page
    assert "| `steps` | whole number from 1 to 100 | quality 4, balanced 4, fast 2 |" in page


def test_no_name_of_a_class_is_shown_as_the_type_of_an_option() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert "list of up to 8 {name: text of up to 200 characters, scale: number from -4 to 4}" in page
    assert not re.search(r"\| list of [A-Z]", page)


def test_every_relative_link_in_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in (ROOT / name for name in tracked_files() if name.endswith(".md")):
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            place = page.parent / target if target else page
            if not place.exists() or (anchor and place.suffix == ".md" and anchor[1:] not in heading_ids(place)):
                broken.append(f"{page.relative_to(ROOT)}: {target}{anchor}")
    assert not broken


def test_the_cost_table_is_the_output_of_its_command_and_the_readme_sums_it_up() -> None:
    page = (ROOT / "docs" / "rent-a-gpu.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- begin cost -->\n```\n")[2].partition("```\n<!-- end cost -->")[0]
    result = CliRunner().invoke(app, ["cost", "--videos", "45", "--seconds", "40", "--provider", "vast"])
    assert shown == result.output
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if "RTX 4090 │" in line]
    totals = sorted(round(float(row[-3])) for row in rows)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"costs {totals[0]} to {totals[-2]} USD" in readme
    assert f"`quality` costs {totals[-1]}" in readme


def test_the_performance_tables_are_the_measured_numbers() -> None:
    for name in ("performance.md", "performance-h200.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        command = f"run: python -m lipsync_server.bench.tables docs/{name}"
        assert with_tables(page, ROOT / "docs" / "performance") == page, command


def test_the_readmes_tree_names_every_folder_of_the_server() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("<!-- tree: begin -->")[2].partition("<!-- tree: end -->")[0]
    named = set(re.findall(r"^  ([a-z_]+)/ ", tree, re.MULTILINE))
    package = ROOT / "server" / "lipsync_server"
    assert named == {path.name for path in package.iterdir() if path.is_dir() and not path.name.startswith("__")}
    for line in re.findall(r"^([a-z0-9./_-]+)/ ", tree, re.MULTILINE):
        assert (ROOT / line).is_dir(), line


def test_the_weights_page_names_the_licence_of_every_source() -> None:
    page = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for source in load_manifest().sources.values():
        licence = source.licence.partition(",")[0]  # terms follow a comma
        assert f"| {licence} | {source.repository} |" in page, source.repository


def test_the_tests_that_the_page_of_faults_names_exist() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:unit|http|e2e|engines|reliability)/[\w/]+\.py|n8n-node/test/[\w/.]+\.mts)`", page)
    assert len(set(named)) > 40
    assert [name for name in named if not (ROOT / "tests" / name).is_file() and not (ROOT / name).is_file()] == []
