"""The command line: one table of subcommands, one-line errors, honest exit codes."""

import importlib
import re
import shutil
import subprocess
import sys

import pytest
from speechllm.bases.install import write_manifest
from speechllm.cli import main as cli
from speechllm.cli.main import COMMANDS, main

FAILING = '''
"""Fails as it is told to.

example:
  speechllm fail ValueError
"""
import builtins

def add_arguments(parser):
    parser.add_argument("error")

def run(args):
    if args.error == "none":
        return 0
    raise getattr(builtins, args.error)("first line\\n   second line")
'''


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A real subcommand `fail` in a module of its own."""
    (tmp_path / "command_that_fails.py").write_text(FAILING.lstrip())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.COMMANDS, "fail", ("command_that_fails", "fail as told"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: speechllm {name}" in shown and "example" in shown and f"  speechllm {name}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_module_has_what_the_table_promises(name):
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.add_arguments) and callable(module.run) and module.__doc__


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and help_line in shown for name, (_, help_line) in COMMANDS.items())


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"speechllm \d+\.\d+\S*\n", capsys.readouterr().out)


def test_no_command_shows_the_help_and_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word, suggestion",
    [("base", "did you mean 'bases'"), ("docter", "did you mean 'doctor'"), ("zzz", "there are")],
)
def test_an_unknown_command_suggests_the_closest(word, suggestion, capsys):
    assert main([word]) == 2
    assert suggestion in capsys.readouterr().err


@pytest.mark.parametrize("error", ["ValueError", "OSError", "RuntimeError", "ImportError"])
def test_an_error_is_one_line_and_exit_code_1(failing, capsys, error):
    assert main(["fail", error]) == 1
    captured = capsys.readouterr()
    assert captured.err == "speechllm fail: first line second line\n" and captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "fail", "ValueError"], ["fail", "ValueError", "--debug"]])
def test_debug_shows_the_traceback_too(failing, capsys, arguments):
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith("speechllm fail: first line second line\n")


def test_ctrl_c_is_130(failing, capsys):
    assert main(["fail", "KeyboardInterrupt"]) == 130
    assert capsys.readouterr().err == "speechllm fail: interrupted\n"


def test_a_programming_error_is_not_hidden(failing):
    with pytest.raises(KeyError):
        main(["fail", "KeyError"])


def test_success_is_0_and_wrong_usage_2(failing, capsys):
    assert main(["fail", "none"]) == 0
    assert main(["fail"]) == 2
    assert main(["--no-such-option", "fail", "none"]) == 2
    assert "usage: speechllm" in capsys.readouterr().err


def test_the_installed_command_and_the_module_are_the_same():
    command = shutil.which("speechllm", path=str(sys.prefix) + "/bin")
    assert command, "the package is not installed with its command"
    calls = ([command, "--help"], [sys.executable, "-m", "speechllm", "--help"])
    shown = [
        subprocess.run(call, capture_output=True, text=True, check=True, cwd="/").stdout for call in calls
    ]
    assert shown[0] == shown[1] and "usage: speechllm" in shown[0]


def test_bases_list_names_what_there_is_and_what_is_installed(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "openai--whisper-base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest("openai/whisper-base", folder, "registry")
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path))
    assert main(["bases", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"openai/whisper-base +MIT +registry e37978b", line) for line in lines)
    assert any(
        re.match(r"HuggingFaceTB/SmolLM2-135M-Instruct +Apache-2.0 +not installed", line) for line in lines
    )


def test_bases_verify_fails_on_a_changed_file(tmp_path, capsys):
    folder = tmp_path / "openai--whisper-base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest("openai/whisper-base", folder, "registry")
    assert main(["bases", "verify", "--to", str(tmp_path)]) == 0
    (folder / "config.json").write_text("[]")
    assert main(["bases", "verify", "--to", str(tmp_path)]) == 1
    assert main(["bases", "verify", "a/b", "--to", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "openai--whisper-base: ok",
        "openai--whisper-base: config.json has changed: its checksum differs from the manifest's",
        "a--b: not installed",
    ]


def test_bases_install_again_verifies_and_prints_the_folder(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "openai--whisper-base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest("openai/whisper-base", folder, "registry")
    monkeypatch.delenv("SPEECHLLM_BASES", raising=False)
    assert main(["bases", "install", "openai/whisper-base", "--to", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{folder}\n"
    assert "verified" in captured.err and f"SPEECHLLM_BASES={tmp_path}" in captured.err


@pytest.mark.parametrize("arguments", [[], ["--all", "openai/whisper-base"], ["x/y"]])
def test_bases_install_names_what_there_is(arguments, tmp_path, capsys):
    assert main(["bases", "install", "--to", str(tmp_path), *arguments]) == 1
    assert "openai/whisper-base" in capsys.readouterr().err
