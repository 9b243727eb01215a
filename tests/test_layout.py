"""The structure holds: packages, tables, the README's tree, commands and numbers."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def test_packages_of_the_wheel_are_the_folders_with_code():
    folders = {"speechllm": "package", **PYPROJECT["tool"]["setuptools"]["package-dir"]}
    found = set()
    for name, folder in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_tree_in_the_readme_is_the_tree():
    block = README.split("## Where things are")[1].split("```")[1]
    named, parent = set(), ""
    for line in block.strip("\n").splitlines():
        name = line.split()[0].rstrip("/")
        parent = name if not line.startswith(" ") else parent
        named.add(name if parent == name else f"{parent}/{name}")
    real = {p.relative_to(ROOT).parts[0] for p in tracked() if len(p.relative_to(ROOT).parts) > 1}
    for room in ("modeling", "package", "training"):
        real |= {f"{room}/{p.parent.name}" for p in (ROOT / room).glob("*/__init__.py")}
    assert named == {folder for folder in real if not folder.startswith(".")}


def test_every_benchmark_is_named_in_the_readme_and_every_named_one_exists():
    named = set(re.findall(r"benchmarks/(\w+\.py)", README))
    there = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"conditions.py"}
    assert named == there


def test_every_page_that_is_linked_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+\.md)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


def test_files_hold_one_idea_each():
    long = {
        p.name: n for p in tracked() if p.suffix == ".py" and (n := len(p.read_text().splitlines())) > 450
    }
    assert not long


def test_no_file_names_a_machine():
    # In pieces, so that this file does not name what it looks for.
    hosts = [host + r"\.org" for host in ("pypi", "debian")]
    pattern = re.compile("|".join(["/" + folder + "/" for folder in ("root", r"home/\w+", "work")] + hosts))
    own = Path(__file__).resolve()
    text = [p for p in tracked() if p.suffix in (".py", ".md", ".toml", ".txt", "") and p.resolve() != own]
    found = [p.name for p in text if pattern.search(p.read_text(errors="ignore"))]
    assert not found


@pytest.mark.slow
def test_python_of_the_readme_runs(bases, tmp_path, clips):
    import shutil

    import soundfile
    from subprocesses import run_python

    tiny_of = {"openai": "whisper_asr", "HuggingFaceTB": "llama_tied"}
    for name in set(re.findall(r'"(openai/[\w.-]+|HuggingFaceTB/[\w.-]+)"', README)):
        tiny = tiny_of[name.partition("/")[0]]
        shutil.copytree(bases / f"tiny--{tiny}", tmp_path / "bases" / name.replace("/", "--"))
    soundfile.write(tmp_path / "talk.wav", clips[2], 16000)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    code = f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(blocks)
    env = {
        "SPEECHLLM_BASES": str(tmp_path / "bases"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    output = run_python(code, env | {"OMP_NUM_THREADS": "1"})
    assert "'trainable'" in output and "'chunks'" in output
