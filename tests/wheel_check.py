"""Build the wheel, install it where nothing else is, load a saved checkpoint there and transcribe.

    python tests/wheel_check.py

The same checkpoint is then loaded where not even the package is installed, only what a base needs.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from fresh_environment import FreshEnvironment

ROOT = Path(__file__).parent.parent
TRANSCRIBE = """
import sys
from transformers import pipeline
asr = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True)
print("text:", asr(sys.argv[2], max_new_tokens=8)["text"].encode())
"""


def save_checkpoint(folder: Path) -> None:
    """A tiny checkpoint with its bases beside it, and a clip."""
    import soundfile
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
    from tiny_bases import save_decoder, save_encoder

    save_encoder("whisper", folder / "bases" / "tiny--whisper")
    save_decoder("llama_tied", folder / "bases" / "tiny--llama_tied")
    for cls in (SpeechLLMForConditionalGeneration, SpeechLLMProcessor):
        fields = {"stack_factor": 4, "hidden_size": 16}
        part = cls.from_bases("tiny/whisper", "tiny/llama_tied", "mlp", bases=folder / "bases", **fields)
        part.save_pretrained(folder / "checkpoint")
    soundfile.write(folder / "clip.wav", np.sin(np.arange(16000) * 0.1), 16000)


def check_contents(wheel: Path) -> None:
    """The wheel holds the package under one name, and nothing beside it."""
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    assert all(root == "speechllm" or root.endswith(".dist-info") for root in roots), roots
    assert "speechllm/modeling/adapters/adapter_mlp.py" in names


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        wheel = next((folder / "dist").glob("*.whl"))
        check_contents(wheel)
        save_checkpoint(folder)
        fresh = FreshEnvironment(folder / "venv")
        fresh.install(str(wheel), "-c", str(ROOT / "constraints.txt"))
        env = {**os.environ, "SPEECHLLM_BASES": str(folder / "bases"), "HF_HUB_OFFLINE": "1"}
        env |= {"HF_HOME": str(folder / "home"), "PYTHONPATH": ""}
        checkpoint, clip = str(folder / "checkpoint"), str(folder / "clip.wav")
        request = ("-c", TRANSCRIBE, checkpoint, clip)
        with_package = fresh.run(*request, cwd=folder, env=env)
        command = ("-m", "speechllm", "transcribe", "--model", checkpoint, clip)
        fresh.run(*command, cwd=folder, env=env)
        subprocess.run([fresh.python, "-m", "pip", "uninstall", "--quiet", "--yes", "speechllm"], check=True)
        without_package = fresh.run(*request, cwd=folder, env=env)
    assert with_package == without_package, (with_package, without_package)
    print(f"{wheel.name}: installed afresh, loads a checkpoint, which loads without the package too")


if __name__ == "__main__":
    main()
