"""Python in a process of its own, for what is settled when a library is imported."""

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

# The text of a sitecustomize.py, which Python imports at start, after the .pth file that announces an
# editable install. Unlike lines put before the code, it also reaches the processes that the child starts.
HIDE_PACKAGE = '''
import sys


class PackageIsNotInstalled:
    """Answers before every other finder, whichever way speechllm was installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "speechllm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def announces_package(finder):
    return "speechllm" in getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", ())


sys.meta_path[:] = [PackageIsNotInstalled, *(it for it in sys.meta_path if not announces_package(it))]
'''


def run_python(
    code: str, env: Mapping[str, str] | None = None, *, without_package: bool = False, timeout: float = 120
) -> str:
    """What `code` prints, run in the root folder with PATH, HOME and `env` for an environment.

    `without_package` hides an installed `speechllm` from it. Where the code fails, the test fails and shows
    the error output.
    """
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | dict(
        env or {}
    )
    with tempfile.TemporaryDirectory() as folder:
        if without_package:
            (Path(folder) / "sitecustomize.py").write_text(HIDE_PACKAGE)
            search = [folder, *filter(None, [environment.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(search)
        try:
            child = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(code)],
                cwd="/",
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as late:
            error_output = (late.stderr or b"").decode(errors="replace")
            pytest.fail(f"no end after {timeout} s\n{error_output}", pytrace=False)
    if child.returncode != 0:
        pytest.fail(f"exit status {child.returncode}\n{child.stdout}{child.stderr}", pytrace=False)
    return child.stdout
