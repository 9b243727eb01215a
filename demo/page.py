"""What the buttons do: transcribe with one checkpoint, or with two, and say what went wrong."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from urllib.parse import quote

from . import views
from .attention import look_inside
from .checkpoints import Checkpoint, comparable
from .recognizers import Recognizers
from .transcription import Hearing, Request, read_sound, transcribe
from .visits import Stopped, Visits

# Of which the text is for the reader; anything else is a fault of the page.
ERRORS = (ValueError, OSError, RuntimeError)


@dataclass(frozen=True)
class Page:
    """What a page is made for: checkpoints by name, what loads them, and how much it takes at once."""

    checkpoints: dict[str, Checkpoint]
    recognizers: Recognizers = field(default_factory=Recognizers)
    most_megabytes: int = 50
    most_minutes: float = 30.0
    visits: Visits = field(default_factory=Visits)

    @cached_property
    def systems(self) -> dict[str, Checkpoint]:
        """All that can be compared, by name."""
        return comparable(self.checkpoints)

    def hearings(
        self, path: str, name: str, request: Request, session: str | None = None
    ) -> Iterator[str | Hearing]:
        """What is being waited for, in words, then the transcript after every few windows."""
        check = partial(self.visits.check, session)
        check()
        source = self.systems[name].source
        if not self.recognizers.is_loaded(source):
            yield f"Loading {name}"
        pipeline = self.recognizers.get(source)
        check()
        sound = read_sound(pipeline, path, request.window_seconds, 60 * self.most_minutes)
        yield f"Listening to {views.minutes(sound.duration)} of sound with {name}"
        yield from transcribe(pipeline, sound, request, self.recognizers.computing, check)

    def transcript(self, path: str | None, name: str, *chosen, session: str | None = None) -> Iterator[str]:
        """What is shown while `path` is transcribed, and in the end; `chosen`: fields of a `Request`."""
        yield from with_troubles(self._transcript(path, name, Request(*chosen), session))

    def _transcript(
        self, path: str | None, name: str, request: Request, session: str | None
    ) -> Iterator[str]:
        sound = sounding(path)
        for hearing in self.hearings(sound, name, request, session):
            if isinstance(hearing, Hearing) and hearing.finished:
                yield self.outcome(sound, name, hearing, request)
            else:
                yield views.progress(hearing)

    def outcome(self, path: str, name: str, hearing: Hearing, request: Request) -> str:
        """The result; where there are two attentions, with what they did in the first window."""
        checkpoint, look, first = self.checkpoints[name], None, hearing.results[0]
        if checkpoint.has_two_attentions and request.task == "transcribe":
            pipeline = self.recognizers.get(checkpoint.source)
            with self.recognizers.computing:
                segment = hearing.sound.segments[0]
                look = look_inside(pipeline, segment, first["text"], first["language"])
        return views.outcome(hearing, checkpoint, request, f"gradio_api/file={quote(path)}", look)

    def compared(
        self, path: str | None, name: str, other: str, *chosen, session: str | None = None
    ) -> Iterator[str]:
        """As `transcript`, by two checkpoints, side by side."""
        yield from with_troubles(self._compared(path, (name, other), Request(*chosen), session))

    def _compared(
        self, path: str | None, names: tuple, request: Request, session: str | None
    ) -> Iterator[str]:
        sound = sounding(path)
        done: list[tuple[Checkpoint, Hearing]] = []
        for name in names:
            for hearing in self.hearings(sound, name, self.suited(request, name), session):
                if isinstance(hearing, Hearing) and hearing.finished:
                    done.append((self.systems[name], hearing))
                    yield views.comparison(done)
                else:
                    yield views.comparison(done) + views.progress(hearing)

    def suited(self, request: Request, name: str) -> Request:
        """The request with the routing that this one, of two compared ones, has by itself; or without one
        that it has not."""
        checkpoint = self.systems[name]
        kept = checkpoint.routing or (request.routing if request.routing in checkpoint.routings else "")
        return replace(request, routing=kept)


def sounding(path: str | None) -> str:
    if not path:
        raise ValueError("record something or drop a file first")
    return path


def with_troubles(stages: Iterator[str]) -> Iterator[str]:
    """What there is to show, and in the end the error that ended it: Gradio itself would leave the page as
    it stood, with its buttons waiting."""
    try:
        yield from stages
    except Stopped:
        yield views.stopped()
    except ERRORS as error:
        yield views.trouble(" ".join(str(error).split()) or type(error).__name__)
    except Exception:
        logging.getLogger(__name__).exception("the page has a fault")
        yield views.trouble("the page has a fault, which its server has written down")
