"""Everything that the page shows as HTML: texts are escaped here, and nowhere else."""

import difflib
from html import escape

from speechllm.cli.transcript_formats import FORMATS, Transcript, clock, one_line
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .attention import Look
from .checkpoints import Checkpoint
from .pictures import data_address, envelope, heat, spectrogram, waveform_path
from .transcription import Hearing, Request

# Of the router's labels; the rest is added up as "others".
SHOWN_SCORES = 5
GUARDED_WORDS = {
    "silence": "Nothing was said",
    "repetition": "Cut short where it began to repeat itself",
    "budget": "Cut short at the most words this long a sound can hold",
}
FILE = "application/octet-stream"
ROUTED_WORDS = {
    "one": "adapter {language}",
    "several": "each part with the adapter of its language",
    "none": "no adapter for it, so the base",
    "soft": "all adapters, by these probabilities",
    "threshold": "one adapter where sure, else the likeliest few",
    "hierarchical": "adapter of the likeliest family",
    "segments": "adapters change with the language",
}
FORMAT_WORDS = {"srt": "SRT", "vtt": "VTT", "text": "TXT", "json": "JSON"}
# Least confidence of each colour, from the highest down.
SURENESS = {"high": 0.8, "middle": 0.5, "low": 0.0}
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200)


def masthead() -> str:
    return (
        '<header class="speech masthead"><h1>speechllm</h1>'
        "<p>Speech in, text out, and what the model thought of it.</p></header>"
    )


def colophon(megabytes: int, most_minutes: float) -> str:
    """What becomes of what visitors bring."""
    return (
        '<footer class="speech quiet colophon">Everything is computed where this page is served. '
        "Files are deleted within the hour, texts are not kept. "
        f"Up to {megabytes} MB and {most_minutes:g} minutes at once.</footer>"
    )


def welcome() -> str:
    """Before anything was heard."""
    return (
        '<div class="speech empty"><p class="lead">Your transcript appears here.</p>'
        "<p>Record something, drop a file, or try one of the examples.</p></div>"
    )


def invitation() -> str:
    """Before anything was compared."""
    return (
        '<div class="speech empty"><p class="lead">Two checkpoints, one recording.</p>'
        "<p>The one on the left against the one chosen here. Words in which they differ are marked.</p></div>"
    )


def stopped() -> str:
    return '<div class="speech empty"><p class="lead">Stopped.</p></div>'


def quoted(example) -> str:
    """What is said in an example."""
    return (
        '<div class="speech quoted"><h3>What is said</h3>'
        f'<p dir="auto" lang="{escape(example.language)}">{escape(example.text)}</p></div>'
    )


def trouble(message: str) -> str:
    """One line that says what went wrong."""
    return f'<div class="speech trouble" role="alert"><b>That did not work:</b> {escape(message)}</div>'


def waiting(message: str) -> str:
    """A bar that has no end yet; the page counts the seconds."""
    return (
        f'<div class="speech"><p class="stage">{escape(message)} … <span data-since></span></p>'
        '<div class="bar endless"></div></div>'
    )


def progress(hearing: Hearing | str) -> str:
    """How far it is and the text so far, or in words what is being waited for."""
    if isinstance(hearing, str):
        return waiting(hearing)
    total, share = hearing.sound.duration, hearing.done / max(hearing.sound.duration, 1e-9)
    text = escape(hearing.transcript.text)
    left = hearing.took * (1 / max(share, 1e-9) - 1)
    return (
        f'<div class="speech"><p class="stage">Transcribed {minutes(hearing.done)} of {minutes(total)}, '
        f"about {minutes(left)} to wait</p>"
        f'<div class="bar" role="progressbar" aria-valuenow="{100 * share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{100 * share:.1f}%"></i></div>'
        f'<p class="text growing" dir="auto">{text}</p></div>'
    )


def outcome(
    hearing: Hearing, checkpoint: Checkpoint, request: Request, address: str, look: Look | None = None
) -> str:
    """A finished transcript with all that is known about it. `address`: where the browser finds the sound."""
    transcript = hearing.transcript
    parts = [
        transcript_card(transcript),
        facts(hearing, transcript, checkpoint),
        language_card(hearing, transcript, checkpoint, request),
        timeline(hearing, transcript, address),
        segment_list(transcript),
        notices(transcript),
        downloads(transcript),
        "" if look is None else inside(look),
    ]
    return f'<div class="speech">{"".join(parts)}</div>'


def transcript_card(transcript: Transcript) -> str:
    """The text, large."""
    if not transcript.text.strip():
        return '<p class="text none">No speech was recognized.</p>'
    return (
        f'<div class="transcript"><p class="text" dir="auto">{escape(transcript.text)}</p>'
        '<button type="button" class="copy" data-copy>Copy</button></div>'
    )


def facts(hearing: Hearing, transcript: Transcript, checkpoint: Checkpoint) -> str:
    """A line of numbers."""
    took, duration = hearing.took, hearing.sound.duration
    known = [
        f"<span><b>{minutes(duration)}</b> of sound in <b>{took:.1f} s</b></span>",
        f"<span>{escape(checkpoint.name)}</span>",
    ]
    if transcript.confidence is not None:
        known.insert(0, f"<span>confidence <b>{percent(transcript.confidence)}</b></span>")
    return f'<p class="facts">{"".join(known)}</p>'


def language_card(hearing: Hearing, transcript: Transcript, checkpoint: Checkpoint, request: Request) -> str:
    """What is spoken, how that is known, the router's scores as bars, and which adapter that meant."""
    if transcript.language is None:
        return ""
    bars = "".join(score_bar(label, score, transcript.language) for label, score in top(hearing.scores))
    return (
        f'<section class="languages"><h3>Language</h3><p><b>{escape(language_name(transcript.language))}</b> '
        f'<span class="quiet">{escape(how_known(hearing, checkpoint, request))}</span></p>'
        f"{f'<ul>{bars}</ul>' if bars else ''}</section>"
    )


def how_known(hearing: Hearing, checkpoint: Checkpoint, request: Request) -> str:
    """Who said which language it is, and which adapters that meant."""
    bank, language = checkpoint.config.lora_bank or {}, hearing.transcript.language
    several = len({result["language"] for result in hearing.results}) > 1
    if not hearing.scores:
        said = "as you said" if request.language else "as the model heard"
        return f"{said}; adapter {language}" if language in bank and request.routing != "base" else said
    if not bank:
        return "as the router heard"
    way = request.routing or checkpoint.config.router_config.strategy
    if way == "hard":
        way = "several" if several else "one" if language in bank else "none"
    return f"as the router heard; {ROUTED_WORDS[way].format(language=language)}"


def top(scores: dict[str, float]) -> list[tuple[str, float]]:
    """The highest few, and the sum of the others."""
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    rest = sum(score for _, score in ranked[SHOWN_SCORES:])
    return ranked[:SHOWN_SCORES] + ([("others", rest)] if len(ranked) > SHOWN_SCORES else [])


def score_bar(label: str, score: float, chosen: str) -> str:
    mark = ' class="chosen"' if label == chosen else ""
    return (
        f"<li{mark}><span>{escape(language_name(label))}</span>"
        f'<i><i style="width:{100 * score:.1f}%"></i></i><b>{percent(score)}</b></li>'
    )


def timeline(hearing: Hearing, transcript: Transcript, address: str) -> str:
    """Waveform over spectrogram, with the segments on them, and a player below."""
    duration = max(hearing.sound.duration, 1e-6)
    waveform = hearing.sound.waveform
    peaks = envelope(waveform)
    picture = heat(spectrogram(waveform, hearing.sound.sampling_rate))
    cues = "".join(timeline_cue(index, chunk, duration) for index, chunk in spoken(transcript))
    return (
        f'<section class="timeline"><h3>Sound</h3><div class="canvas" data-duration="{duration:.3f}">'
        f'<svg viewBox="0 0 {len(peaks) - 1} 2" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{waveform_path(peaks)}"/></svg>'
        f'<img src="{picture}" alt="Spectrogram of the recording">{cues}<i class="head"></i></div>'
        f'<div class="axis" aria-hidden="true">{ticks(duration)}</div>'
        f'<audio controls preload="metadata" src="{escape(address)}"></audio>'
        f'<p class="quiet legend">{legend(hearing.sound.sampling_rate)}</p></section>'
    )


def legend(sampling_rate: int) -> str:
    """How to read the picture."""
    high, middle = (percent(SURENESS[name]) for name in ("high", "middle"))
    return (
        f"Waveform over spectrogram, to {sampling_rate / 2000:g} kHz. Press a segment to hear it; the line "
        f'above it tells the confidence: <b class="sure high">{high} and more</b>, '
        f'<b class="sure middle">{middle} and more</b>, <b class="sure low">less</b>.'
    )


def timeline_cue(index: int, chunk: dict, duration: float) -> str:
    start, end = chunk["timestamp"]
    place = f"left:{100 * start / duration:.2f}%;width:{100 * (end - start) / duration:.2f}%"
    return (
        f'<button type="button" class="cue {sureness(chunk.get("confidence"))}" style="{place}" '
        f'data-start="{start}" data-end="{end}" title="{escape(one_line(chunk["text"]))}">{index}</button>'
    )


def ticks(duration: float) -> str:
    """Times below the picture, about six of them."""
    step = next((step for step in TICKS if duration / step <= 6), TICKS[-1])
    marks = [step * place for place in range(int(duration / step) + 1)]
    return "".join(
        f'<span style="left:{100 * mark / duration:.2f}%">{minutes(mark)}</span>'
        for mark in marks
        if mark / duration < 0.9
    )


def segment_list(transcript: Transcript) -> str:
    """Every segment with its times, text, confidence, and language where it differs by segment."""
    several = len({chunk.get("language") for _, chunk in spoken(transcript)}) > 1
    rows = "".join(segment_row(index, chunk, several) for index, chunk in spoken(transcript))
    return f'<section class="segments"><h3>Segments</h3><ol>{rows}</ol></section>' if rows else ""


def segment_row(index: int, chunk: dict, with_language: bool) -> str:
    start, end = chunk["timestamp"]
    confidence, language = chunk.get("confidence"), chunk.get("language") if with_language else None
    sure = ""
    if confidence is not None:
        sure = (
            f'<span class="sure {sureness(confidence)}" title="Confidence in what was '
            f'heard together: geometric mean of the probabilities of its tokens">{percent(confidence)}</span>'
        )
    spoken_in = ""
    if language is not None:
        spoken_in = f'<span class="code" title="{escape(language_name(language))}">{escape(language)}</span>'
    return (
        f'<li><button type="button" data-start="{start}" data-end="{end}"><span class="number">{index}</span>'
        f'<span class="times">{seconds(start)} – {seconds(end)}</span>'
        f'<span class="said" dir="auto">{escape(one_line(chunk["text"]))}</span>'
        f"{spoken_in}{sure}</button></li>"
    )


def notices(transcript: Transcript) -> str:
    """What was left out or cut short, and where."""
    lines = "".join(
        f"<li>{escape(GUARDED_WORDS.get(guard['reason'], guard['reason']))}: "
        f"{seconds(guard['timestamp'][0])} – {seconds(guard['timestamp'][1])}</li>"
        for guard in transcript.guarded
    )
    return f'<ul class="notices">{lines}</ul>' if lines else ""


def downloads(transcript: Transcript) -> str:
    """A link for each format, which holds the file itself."""
    stem = transcript.path.rpartition(".")[0] or transcript.path or "transcript"
    links = "".join(
        f'<a download="{escape(stem + FORMATS[name].suffix)}" data-format="{name}" '
        f'href="{data_address(FORMATS[name].render(transcript).encode(), FILE)}">{word}</a>'
        for name, word in FORMAT_WORDS.items()
    )
    return f'<section class="downloads"><h3>Download</h3><p>{links}</p></section>'


def inside(look: Look) -> str:
    """Where the two attentions of the first window looked, word by word, and how the gate stood."""
    words = "".join(f"<li>{escape(word) or '&nbsp;'}</li>" for word in look.words)
    height = f"--words:{len(look.words)}"
    maps = "".join(
        f'<figure><figcaption>{title}</figcaption><img src="{heat(values)}" alt="{alt}"></figure>'
        for title, values, alt in (
            ("Primary attention", look.primary, "Words down, time across: the base's own attention"),
            ("Secondary attention", look.secondary, "Words down, time across: the added attention"),
            ("Gate", look.shares, "Words down, layers across: the primary's share"),
        )
    )
    share = percent(float(look.shares.mean()))
    return (
        '<details class="inside" open><summary>Inside the two attentions</summary>'
        f'<p class="quiet">Each row is a word. The maps show where in the first {look.seconds:.1f} s each '
        "attention looked while it was written; the gate shows how much of the primary each decoder layer "
        f"took, {share} on average. Orange is most.</p>"
        f'<div class="maps" style="{height}"><ol>{words}</ol>{maps}</div></details>'
    )


def comparison(done: list[tuple[Checkpoint, Hearing]]) -> str:
    """Transcripts side by side; with two of them, the words in which they differ are marked."""
    texts = [hearing.transcript.text for _, hearing in done]
    marked = differing(*texts) if len(texts) == 2 else [escape(text) for text in texts]
    cards = "".join(
        comparison_card(checkpoint, hearing, text)
        for (checkpoint, hearing), text in zip(done, marked, strict=True)
    )
    return f'<div class="speech comparison">{cards}</div>'


def comparison_card(checkpoint: Checkpoint, hearing: Hearing, text: str) -> str:
    transcript = hearing.transcript
    language = language_name(transcript.language) if transcript.language else "language not told"
    best = top(hearing.scores)[:1]
    facts_line = [language + (f" {percent(best[0][1])}" if best else "")]
    if transcript.confidence is not None:
        facts_line.append(f"confidence {percent(transcript.confidence)}")
    facts_line.append(f"{hearing.took:.1f} s")
    return (
        f'<article><h3>{escape(checkpoint.name)}</h3><p class="quiet">{escape(checkpoint.description)}</p>'
        f'<p class="text" dir="auto">{text or "<i>No speech was recognized.</i>"}</p>'
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts_line)}</p></article>'
    )


def differing(left: str, right: str) -> list[str]:
    """Both texts, escaped, with the words marked that the other has not; case and marks do not count."""
    words = [left.split(), right.split()]
    plain = [["".join(filter(str.isalnum, word)).casefold() for word in side] for side in words]
    shared: list[set[int]] = [set(), set()]
    for block in difflib.SequenceMatcher(a=plain[0], b=plain[1], autojunk=False).get_matching_blocks():
        for side, first in enumerate((block.a, block.b)):
            shared[side].update(range(first, first + block.size))
    return [
        " ".join(
            escape(word) if place in shared[side] else f"<mark>{escape(word)}</mark>"
            for place, word in enumerate(words[side])
        )
        for side in range(2)
    ]


def spoken(transcript: Transcript) -> list[tuple[int, dict]]:
    """The segments in which something was said, counted from 1."""
    return list(enumerate((chunk for chunk in transcript.chunks if chunk["text"].strip()), 1))


def language_name(code: str) -> str:
    """ "it" -> "Italian"; a label that is no code stays as it is."""
    return LANGUAGES[code].title() if code in LANGUAGES else code


def sureness(confidence: float | None) -> str:
    """Class of a mark: the colour says what the number does."""
    if confidence is None:
        return "unknown"
    return next(name for name, least in SURENESS.items() if round(confidence, 2) >= least)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def seconds(time: float) -> str:
    """75.25 -> "1:15.3"; an hour or more as the subtitles write it."""
    return clock(time, ".")[:-2] if time >= 3600 else f"{int(time // 60)}:{time % 60:04.1f}"


def minutes(time: float) -> str:
    """75.5 -> "1:16"."""
    whole = round(time)
    return f"{whole // 60}:{whole % 60:02}" if whole < 3600 else clock(whole, ".")[:-4]
