"""`import speechllm` and the command's help are instant; the public names load when they are used."""

import pytest
import speechllm
from subprocesses import run_python

SECONDS = 0.2
HEAVY = ("torch", "transformers", "numpy", "huggingface_hub")


def fastest(code: str) -> float:
    """Best of five runs: a busy machine slows some of them, the code all of them."""
    measured = f"""
        import sys, time
        started = time.perf_counter()
        {code}
        seconds = time.perf_counter() - started
        print([name for name in {HEAVY!r} if name in sys.modules], seconds)
    """
    lines = [run_python(measured).strip().splitlines()[-1] for _ in range(5)]
    assert all(line.startswith("[] ") for line in lines), lines
    return min(float(line.split()[-1]) for line in lines)


def test_import_is_quick_and_imports_nothing_heavy():
    assert fastest("import speechllm") < SECONDS


def test_help_and_version_import_nothing_heavy():
    call = "from speechllm.cli.main import main; assert main(['--help']) == main(['--version']) == 0"
    assert fastest(call) < SECONDS


def test_listing_bases_imports_nothing_heavy():
    assert fastest("from speechllm.cli.main import main; assert main(['bases', 'list']) == 0") < SECONDS


def test_dir_lists_the_public_names_before_they_are_loaded():
    assert set(speechllm.__all__) <= set(dir(speechllm))
    assert "SpeechLLMForConditionalGeneration" in dir(speechllm)


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert speechllm.__version__ == version("speechllm")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SpeechModel'"):
        speechllm.SpeechModel  # noqa: B018 - looking it up is the test


@pytest.mark.parametrize("name", [name for name in speechllm.__all__ if not name.startswith("_")])
def test_every_public_name_loads(name):
    assert getattr(speechllm, name).__name__ == name


def test_the_first_public_name_makes_the_stock_auto_classes_know_the_model():
    code = """
        import speechllm
        speechllm.SpeechLLMConfig
        from transformers import AutoConfig
        print(AutoConfig.for_model(speechllm.SpeechLLMConfig.model_type).__class__.__name__)
    """
    assert run_python(code).strip().splitlines()[-1] == "SpeechLLMConfig"
