"""A transcript as text, JSON or subtitles."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Transcript:
    """What was heard in one source. `chunks` hold `text`, `timestamp` (seconds) and `confidence`.

    They are segments, or words, between which there may be pauses.
    """

    path: str
    text: str
    chunks: list[dict]
    language: str | None = None
    confidence: float | None = None
    guarded: list[dict] = field(default_factory=list)
    words: bool = False

    @classmethod
    def from_result(cls, path: str, result: dict, words: bool = False) -> "Transcript":
        """From what the pipeline returns with timestamps, language and confidence."""
        return cls(
            path,
            result["text"],
            result["chunks"],
            result["language"],
            result["confidence"],
            result.get("guarded", []),
            words,
        )

    @property
    def duration(self) -> float | None:
        """Seconds: segments cover their source without a gap; words say nothing of what is behind them."""
        if self.words:
            return None
        return self.chunks[-1]["timestamp"][1] if self.chunks else 0.0

    def as_dict(self) -> dict:
        return {
            "path": self.path,
            "text": self.text,
            "language": self.language,
            "duration": self.duration,
            "confidence": self.confidence,
            "chunks": self.chunks,
            "guarded": self.guarded,
        }


def one_line(text: str) -> str:
    return " ".join(text.split())


def as_text(transcript: Transcript) -> str:
    """The text on one line, whatever white space a model wrote."""
    return one_line(transcript.text) + "\n"


def text_columns(transcript: Transcript, label: str | None = None, confidence: bool = False) -> str:
    """The text's line, after the columns `label` and confidence where they are wanted; tabs between."""
    columns = [label] if label is not None else []
    if confidence:
        columns.append("" if transcript.confidence is None else f"{transcript.confidence:.3f}")
    return "\t".join([*columns, as_text(transcript)])


def as_json(transcript: Transcript) -> str:
    """One object on one line."""
    return json.dumps(transcript.as_dict(), ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, separated by empty lines."""
    cues = []
    for number, (start, end, text) in enumerate(spoken_cues(transcript), 1):
        # An arrow is how a line of times is told from a line of text.
        cues.append(f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text.replace('-->', '->')}\n")
    return "\n".join(cues)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT, in which the text is markup."""
    cues = ["WEBVTT\n"]
    for start, end, text in spoken_cues(transcript):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{clock(start, '.')} --> {clock(end, '.')}\n{text}\n")
    return "\n".join(cues)


def spoken_cues(transcript: Transcript) -> list[tuple[float, float, str]]:
    """Start, end and text of the chunks in which something was said."""
    cues = [(*chunk["timestamp"], one_line(chunk["text"])) for chunk in transcript.chunks]
    return [cue for cue in cues if cue[2]]


def clock(seconds: float, mark: str) -> str:
    """75.5 -> "00:01:15,500" with the decimal mark ","."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


@dataclass(frozen=True)
class TranscriptFormat:
    """How one transcript is written. `joinable`: several in one file still are of the format."""

    suffix: str
    render: Callable[[Transcript], str]
    joinable: bool


FORMATS = {
    "text": TranscriptFormat(".txt", as_text, joinable=True),
    "json": TranscriptFormat(".json", as_json, joinable=True),
    "srt": TranscriptFormat(".srt", as_srt, joinable=False),
    "vtt": TranscriptFormat(".vtt", as_vtt, joinable=False),
}


def format_of_path(path: str) -> str | None:
    """The format whose suffix `path` has; "json" for .jsonl too."""
    suffix = re.sub(r"\.jsonl$", ".json", path.lower())
    return next((name for name, form in FORMATS.items() if suffix.endswith(form.suffix)), None)
