"""The command line starts quickly, has a flag for every setting, and reports every error in a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lipsync_server import __version__
from lipsync_server.bench.finishing import Part, numbers_of
from lipsync_server.bench.finishing_tables import finishing_table
from lipsync_server.bench.whole_runs import Run, medians, repeat_recording
from lipsync_server.card_speeds import read_card_speeds
from lipsync_server.cli import app
from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import InvalidAudio, InvalidInput, LipsyncError
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.settings import Settings
from material import make_picture, make_recording
from typer.testing import CliRunner

PORTRAIT = SAMPLES_DIR / "portrait.jpg"


def invoke(*arguments: object) -> tuple[int, str]:
    """The exit status and the output, in which each run of blanks and line ends is one blank."""
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def test_help_imports_nothing_heavy() -> None:
    check = (
        "import sys, lipsync_server.cli\n"
        "heavy = {'numpy', 'av', 'cv2', 'aiohttp', 'torch', 'librosa', 'PIL', 'psutil', 'soundfile', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


def test_every_setting_is_a_flag_of_serve_with_its_description() -> None:
    status, text = invoke("serve", "--help")
    assert status == 0
    text = " ".join(text.replace("│", " ").split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description
        assert field.description.split()[0] in text
    assert "--no-compile" in text
    assert "Default: 5000." in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "many"], "Setting --port (LIPSYNC_PORT) cannot be 'many'"),
        (["--port", "99999"], "less than or equal to 65535"),
        (["--engine", "magic"], "Setting --engine (LIPSYNC_ENGINE) cannot be 'magic'"),
        (["--resolution", "4k"], "must be 480p or 720p"),
        (["--device", "gpu"], "must be auto, cpu, cuda, or cuda:N"),
    ],
)
def test_a_bad_flag_of_serve_ends_with_a_sentence_and_status_2(arguments: list[str], says: str) -> None:
    status, text = invoke("serve", *arguments)
    assert status == 2
    assert says in text
    assert "Traceback" not in text


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSYNC_MAX_QUEUE", "lots")
    status, text = invoke("serve")
    assert status == 2
    assert "LIPSYNC_MAX_QUEUE" in text
    assert "'lots'" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{here}/none.png", "{audio}"], "There is no file"),
        (["{picture}", "{here}/none.wav"], "There is no file"),
        (["{picture}", "{audio}", "-o", "{here}/video.avi"], "name it"),
        (["{picture}", "{audio}", "--option", "head_motion"], "takes KEY=VALUE"),
        (["{picture}", "{audio}", "--option", "head_motion=9"], "less than or equal to 2"),
        (["{picture}", "{audio}", "--option", "beard=true"], "no option 'beard'"),
        (["{picture}", "{audio}", "--face-index", "-1"], "--face-index cannot be -1"),
        (["{picture}", "{audio}", "--engine", "magic"], "--engine"),
        (["{audio}", "{audio}"], "picture"),
        (["{picture}", "{picture}"], "recording"),
        (["{picture}", "{short}"], "0.05"),
    ],
)
def test_bad_input_of_render_ends_with_a_sentence_and_status_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    places = {
        "here": tmp_path,
        "picture": make_picture(tmp_path),
        "audio": make_recording(tmp_path, 1),
        "short": make_recording(tmp_path, 0.05),
    }
    before = sorted(tmp_path.iterdir())
    defaults = [] if "-o" in arguments else ["-o", str(tmp_path / "video.mp4")]
    engine = [] if "--engine" in arguments else ["--engine", "preview"]
    status, text = invoke("render", *(argument.format(**places) for argument in arguments), *defaults, *engine)
    assert (status, "Error:" in text) == (2, True), text
    assert says in text
    assert "Traceback" not in text
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_that_cannot_run_names_the_remedy(tmp_path: Path) -> None:
    weights = tmp_path / "no-weights"
    result = CliRunner(env={"LIPSYNC_WEIGHTS_DIR": str(weights), "COLUMNS": "200"}).invoke(
        app, ["render", str(make_picture(tmp_path)), str(make_recording(tmp_path, 1)), "--engine", "infinitetalk"]
    )
    assert result.exit_code == 2
    assert "Engine infinitetalk cannot run here: " in result.output


def test_a_file_that_bench_share_did_not_write_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"card": "RTX 4090", "versions": {}, "measured_on": "2026-11-28", "speeds": []}')
    with pytest.raises(InvalidInput, match=r"other\.json is no file of `lipsync bench --share`: speeds: "):
        read_card_speeds(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_card_speeds(tmp_path / "none.json")
    assert invoke("bench", "--random-weights", "--share")[0] == 2


def test_bench_of_the_finishing_parts_refuses_what_it_would_ignore() -> None:
    status, output = invoke("bench", "--finishing", "--engine", "preview", "--durations", "3")
    assert status == 2 and "--finishing measures the shipped picture" in output


def test_the_table_of_the_finishing_parts_has_shares_of_the_render_and_names_unmeasured_parts() -> None:
    parts = [
        Part("the render itself (preview)", 0.2, 0.3, 3),
        Part("check", 0.3, 0.4, 3),
        Part("speech from text, Kokoro", why_not="Kokoro is not here."),
    ]
    shown = finishing_table(numbers_of(parts, "preview"))
    assert "| check | 0.300 s | 0.400 s | 150% |" in shown
    assert "| speech from text, Kokoro | not measured |" in shown


def test_bench_refuses_durations_that_are_not_positive_numbers() -> None:
    for text in ("", "abc", "5,-1", "0"):
        status, output = invoke("bench", "--engine", "preview", "--durations", text)
        assert status == 2
        assert "--durations takes seconds" in output


def test_a_repeated_recording_is_exactly_as_long_as_asked(tmp_path: Path) -> None:
    source, target = make_recording(tmp_path, 0.3), tmp_path / "repeated.wav"
    samples, _ = soundfile.read(source, dtype="int16")
    for duration_s in (0.1, 0.3, 1.0, 7.013):
        repeat_recording(source, target, duration_s)
        repeated, rate_hz = soundfile.read(target, dtype="int16")
        assert len(repeated) == round(duration_s * rate_hz)
        assert np.array_equal(repeated, np.resize(samples, len(repeated)))
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InvalidAudio, match="cannot be repeated"):
        repeat_recording(tmp_path / "text.wav", target, 1)


def test_medians_take_the_middle_run_of_each_length() -> None:
    runs = [Run(5, wall, {"generate": wall - 1}, peak) for wall, peak in ((3.0, 10), (9.0, 30), (4.0, 20))]
    assert medians([*runs, Run(30, 7.0, {"generate": 6.0}, 5)]) == [
        Run(5, 4.0, {"generate": 3.0}, 30),
        Run(30, 7.0, {"generate": 6.0}, 5),
    ]


def test_every_error_class_keeps_its_message_across_a_pipe() -> None:
    import pickle

    families: list[type[LipsyncError]] = [LipsyncError, *LipsyncError.__subclasses__()]
    for family in families:
        error = pickle.loads(pickle.dumps(family("what to do", field="seed", retry_after_s=3.0)))
        assert (type(error), error.detail, error.field, error.retry_after_s) == (family, "what to do", "seed", 3.0)


def test_engines_are_listed_with_the_reason_why_one_cannot_run(tmp_path: Path) -> None:
    result = CliRunner(env={"LIPSYNC_WEIGHTS_DIR": str(tmp_path), "COLUMNS": "300"}).invoke(app, ["engines"])
    assert result.exit_code == 0
    assert "preview runs here" in result.output
    assert "infinitetalk does not run here" in result.output
    assert "lipsync weights pull" in result.output


@pytest.mark.parametrize("engine", list(ENGINES.entries))
def test_the_options_of_every_engine_are_listed(engine: str) -> None:
    status, text = invoke("engines", engine)
    assert status == 0
    for name in ENGINES.options_model(engine).model_fields:
        assert f" {name} " in text


def test_the_version_is_the_same_for_python_and_for_npm() -> None:
    package = json.loads((Path(__file__).parents[2] / "n8n-node" / "package.json").read_text(encoding="utf-8"))
    assert invoke("--version") == (0, f"lipsync {__version__}")
    assert package["version"] == __version__


@pytest.mark.parametrize("place", ["environment", "file"])
def test_an_unknown_variable_is_named_with_the_nearest_right_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if place == "file":
        (tmp_path / ".env").write_text("LIPSYNC_PROT=1\nLIPSYNC_PORT=5001\nOTHER=1\n")
    else:
        monkeypatch.setenv("LIPSYNC_PROT", "1")
    monkeypatch.setenv("LIPSYNC_TOKEN", "t")
    monkeypatch.setenv("LIPSYNC_IMAGE", "some/image")
    status, text = invoke("engines", "preview")
    assert status == 0
    assert text.count("Note:") == 1
    assert "'LIPSYNC_PROT' in" in text
    assert "Did you mean LIPSYNC_PORT?" in text


def test_the_help_of_render_lists_the_options_of_each_engine() -> None:
    status, text = invoke("render", "--help")
    assert status == 0
    assert "with engine infinitetalk: seed (whole number from 0)" in text
    assert "audio_guidance (number from 1 to 15)" in text


@pytest.mark.parametrize("arguments", [["--option", "beard=1"], ["--preset", "best"], ["--resolution", "8k"]])
def test_a_wrong_option_on_the_command_line_lists_the_options_that_exist(tmp_path: Path, arguments: list[str]) -> None:
    files = [make_picture(tmp_path), make_recording(tmp_path, 1), "-o", tmp_path / "x.mp4", "--engine", "preview"]
    status, text = invoke("render", *files, *arguments)
    assert status == 2
    assert any(word in text for word in ("it has: seed", "'balanced'", "'720p'"))


def test_an_option_that_the_engine_ignores_is_reported_on_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "video.mp4"
    files = [PORTRAIT, make_recording(tmp_path, 0.3), "-o", output, "--engine", "preview"]
    status, text = invoke("render", *files, "--prompt", "at sea", "--preset", "quality", "--resolution", "720p")
    assert status == 0, text
    assert "Note: Engine preview does not read a prompt" in text
    assert "no option preset" in text and "no option resolution" in text
    assert "This is preview quality" in text


def test_a_data_folder_that_cannot_be_used_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    folder = tmp_path / "a-file" / "data"
    ended = CliRunner().invoke(app, ["serve", "--port", "0"], env={"LIPSYNC_DATA_DIR": str(folder)})
    assert ended.exit_code == 1
    assert f"The server cannot use {folder}: Not a directory." in " ".join(ended.stderr.split())
    assert "set LIPSYNC_DATA_DIR to another folder" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.output
