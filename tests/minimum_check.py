"""A quick subset of the tests at the lowest versions that pyproject.toml allows.

python tests/minimum_check.py
"""

import re
import tempfile
import tomllib
from pathlib import Path

from fresh_environment import FreshEnvironment

ROOT = Path(__file__).parent.parent
SUBSET = [
    "tests/configuration",
    "tests/modeling/test_checkpoints.py",
    "tests/modeling/test_encoders.py",
    "tests/modeling/test_generation.py",
    "tests/processing",
    "tests/package/test_remote_code.py",
]


def lower_bounds() -> list[str]:
    """The package's own requirements, each at its lower bound: `["torch==2.13", ...]`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.sub(r">=([\w.]+)", r"==\1", requirement) for requirement in project["dependencies"]]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        fresh = FreshEnvironment(Path(name) / "venv")
        fresh.install(*lower_bounds(), "pytest", "pytest-xdist")
        fresh.install("--no-deps", "-e", str(ROOT))
        print(fresh.run("-m", "pytest", "-n", "2", "-q", *SUBSET, cwd=ROOT))
    print(f"minimum versions pass: {', '.join(lower_bounds())}")


if __name__ == "__main__":
    main()
