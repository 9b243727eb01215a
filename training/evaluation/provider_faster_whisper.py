"""faster-whisper: Whisper in CTranslate2, quantised or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.configuration.base_resolution import is_path

from .provider_base import Heard, Provider, ProviderOptions, SpeechClip, short_language

try:
    import faster_whisper
except ImportError:
    faster_whisper = None


@dataclass(frozen=True)
class FasterWhisperOptions(ProviderOptions):
    """As its `WhisperModel` and `transcribe` have them; greedy, so that systems are compared alike."""

    device: str = "auto"
    compute_type: str = "default"
    beam_size: int = 1
    cpu_threads: int = 0
    vad_filter: bool = False


class FasterWhisperProvider(Provider):
    """A size such as `base`, or a folder of converted weights. It takes one clip at a time."""

    Options = FasterWhisperOptions
    options: FasterWhisperOptions

    def check(self) -> None:
        if faster_whisper is None:
            raise ValueError("kind faster-whisper needs faster-whisper: pip install faster-whisper")
        if is_path(self.model) and not Path(self.model).is_dir():
            raise ValueError(f"faster-whisper:{self.model}: no such folder")

    def load(self) -> None:
        options = self.options
        self.engine = faster_whisper.WhisperModel(
            self.model,
            device=options.device,
            compute_type=options.compute_type,
            cpu_threads=options.cpu_threads,
        )

    def configuration(self) -> dict[str, Any]:
        loaded = {} if self.engine is None else {"compute_type": self.engine.model.compute_type}
        return super().configuration() | loaded | {"batch_size": 1, "temperature": 0.0}

    def transcribe(self, clips: Sequence[SpeechClip]) -> list[Heard]:
        return [self._heard(clip) for clip in clips]

    def _heard(self, clip: SpeechClip) -> Heard:
        told = self.told(clip)
        segments, info = self.engine.transcribe(
            clip.waveform,
            language=told,
            beam_size=self.options.beam_size,
            # Its fallback draws at random: the same clip would give another text each time.
            temperature=0.0,
            vad_filter=self.options.vad_filter,
        )
        text = " ".join(segment.text.strip() for segment in segments)
        if told is not None:
            return Heard(text)
        scores = dict(info.all_language_probs or [])
        return Heard(text, short_language(info.language), scores or None)
