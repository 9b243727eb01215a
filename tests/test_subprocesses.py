import json

import pytest
from subprocesses import run_python

IMPORT_REPORT = """
import importlib, json
answers = {}
for name in ("speechllm", "speechllm.configuration", "speechllm.modeling.adapters", "yaml"):
    try:
        importlib.import_module(name)
        answers[name] = "found"
    except ModuleNotFoundError as error:
        answers[name] = error.name
print(json.dumps(answers))
"""


def test_output_comes_back_and_the_environment_is_clean(monkeypatch):
    monkeypatch.setenv("LEFT_BEHIND", "1")
    code = """
        import os
        print(os.getcwd(), sorted(set(os.environ) & {"PATH", "LEFT_BEHIND", "GIVEN"}))
    """
    assert run_python(code, {"GIVEN": "1"}) == "/ ['GIVEN', 'PATH']\n"


def test_a_failing_child_fails_the_test_with_its_error_output():
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        run_python("1 / 0")


def test_a_child_that_hangs_fails_the_test_with_what_it_said():
    code = "import sys, time; print('waiting', file=sys.stderr, flush=True); time.sleep(60)"
    with pytest.raises(pytest.fail.Exception, match="waiting"):
        run_python(code, timeout=1)


def test_the_package_is_there_unless_hidden():
    assert json.loads(run_python(IMPORT_REPORT))["speechllm"] == "found"


def test_a_hidden_package_cannot_be_imported_and_others_can():
    names = ("speechllm", "speechllm.configuration", "speechllm.modeling.adapters")
    expected = {**dict.fromkeys(names, "speechllm"), "yaml": "found"}
    assert json.loads(run_python(IMPORT_REPORT, without_package=True)) == expected


def test_a_hidden_package_stays_hidden_when_a_folder_on_the_path_holds_it(tmp_path):
    (tmp_path / "speechllm").mkdir()
    (tmp_path / "speechllm" / "__init__.py").touch()
    (tmp_path / "on_the_path.py").write_text("print('imported')")
    code = """
        import on_the_path
        try:
            import speechllm
        except ModuleNotFoundError as error:
            print(error)
    """
    printed = run_python(code, {"PYTHONPATH": str(tmp_path)}, without_package=True)
    assert printed == "imported\nNo module named 'speechllm'\n"


def test_the_package_is_hidden_from_the_processes_of_the_child_too():
    code = """
        import subprocess, sys
        run = subprocess.run([sys.executable, "-c", "import speechllm"], capture_output=True, text=True)
        print(run.stderr.splitlines()[-1])
    """
    assert "No module named 'speechllm'" in run_python(code, without_package=True)
