"""How the tests of a run are spread over processes."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

SETTINGS = Path(__file__).parents[2] / "pyproject.toml"
LINE = re.compile(r"\[(gw\d)\] \[ *\d+%\] PASSED (\S+?)::")


def test_all_tests_of_a_file_share_one_process(tmp_path: Path) -> None:
    """Otherwise each process would start the servers and write the model files of every module again."""
    names = ("test_a.py", "test_b.py", "test_c.py", "test_d.py")
    for name in names:
        tests = "".join(f"def test_{number}(): pass\n" for number in range(5))
        (tmp_path / name).write_text(tests)
    # No other plugin than xdist, which saves ten seconds.
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "xdist", "-c", str(SETTINGS), "--rootdir=."]
    command += ["-o", "pythonpath=", "-p", "no:cacheprovider", *names]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    processes: defaultdict[str, set[str]] = defaultdict(set)
    for process, file in LINE.findall(ended.stdout):
        processes[file].add(process)
    assert sorted(processes) == list(names)
    assert {len(found) for found in processes.values()} == {1}, processes
    assert set.union(*processes.values()) == {"gw0", "gw1"}, "both processes work"
