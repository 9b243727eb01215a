"""mypy over the package under its installed name.

    python tests/type_check.py

mypy cannot follow the mapping of an editable install, so the rooms are linked together as the wheel has them.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def link_package(target: Path) -> None:
    """Make `target/speechllm` of links to the folders that `pyproject.toml` maps."""
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    package = target / "speechllm"
    package.mkdir()
    for entry in (ROOT / mapping.pop("speechllm")).iterdir():
        (package / entry.name).symlink_to(entry)
    for name, folder in mapping.items():
        (package / name.rpartition(".")[2]).symlink_to(ROOT / folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        link_package(Path(name))
        mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command = [*mypy, "-p", "speechllm"]
        return subprocess.run(command, cwd=name, env={**os.environ, "MYPYPATH": name}).returncode


if __name__ == "__main__":
    sys.exit(main())
