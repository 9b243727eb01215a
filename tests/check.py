"""Every check, one command: style, types, tests, and the wheel in a fresh environment.

python tests/check.py            all of it, as CI runs it
python tests/check.py --quick    without the slow tests and the wheel
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable


def steps(quick: bool) -> dict[str, list[str]]:
    """Name of each step and its command."""
    tests = [PYTHON, "-m", "pytest", "-n", "2", "--durations", "10"]
    always = {
        "style": [PYTHON, "-m", "ruff", "check", "."],
        "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "types": [PYTHON, "tests/type_check.py"],
        "tests": [*tests, "-m", "not slow"] if quick else tests,
    }
    return always if quick else {**always, "wheel": [PYTHON, "tests/wheel_check.py"]}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every check of the project.")
    parser.add_argument("--quick", action="store_true", help="leave out slow tests and the wheel")
    failed = []
    for name, command in steps(parser.parse_args().quick).items():
        print(f"== {name}: {' '.join(command[1:])}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(command, cwd=ROOT).returncode
        print(
            f"== {name}: {'ok' if code == 0 else 'FAILED'} in {time.perf_counter() - start:.0f} s", flush=True
        )
        failed += [name] if code else []
    print(f"== failed: {', '.join(failed)}" if failed else "== every check passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
