"""A virtual environment made from nothing, for checks that an installed machine would hide."""

import subprocess
import sys
from pathlib import Path


class FreshEnvironment:
    """A new virtual environment in `folder`."""

    def __init__(self, folder: Path):
        self.python = str(folder / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def install(self, *requirements: str) -> None:
        """pip install, quietly."""
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *requirements], check=True)

    def run(self, *arguments: str, cwd: Path, env: dict | None = None) -> str:
        """What `python *arguments` prints; a failure shows all of it."""
        run = subprocess.run([self.python, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{run.stdout}{run.stderr}")
        return run.stdout
