"""The tokens that tell Whisper's decoder what to do, and the one place that puts them in order."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from .configuration_strict import suggest

WHISPER_TASKS = ("transcribe", "translate")


def language_code(language: str) -> str | None:
    """ "Italian", "it" or "<|it|>" -> "it"; `None` for what is no language that Whisper was trained on."""
    given = language.lower().strip("<|>")
    return given if given in LANGUAGES else TO_LANGUAGE_CODE.get(given)


@dataclass(frozen=True)
class WhisperTokens:
    """Ids of the special tokens; `languages` and `tasks` are empty for an English-only Whisper."""

    start: int
    no_timestamps: int | None
    previous: int | None
    languages: Mapping[str, int]  # by code, "it"
    tasks: Mapping[str, int]

    @classmethod
    def from_generation_config(cls, settings) -> "WhisperTokens":
        """As a Whisper's generation config names them."""
        by_token = getattr(settings, "lang_to_id", None) or {}
        return cls(
            start=settings.decoder_start_token_id,
            no_timestamps=getattr(settings, "no_timestamps_token_id", None),
            previous=getattr(settings, "prev_sot_token_id", None),
            languages={token.strip("<|>"): number for token, number in by_token.items()},
            tasks=getattr(settings, "task_to_id", None) or {},
        )

    @classmethod
    def from_tokenizer(cls, tokenizer) -> "WhisperTokens":
        """As its tokenizer names them."""
        ids = tokenizer.get_vocab()
        if "<|startoftranscript|>" not in ids:
            raise ValueError("this tokenizer is no Whisper's: it has no <|startoftranscript|>")
        languages = {code: ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
        # An English-only tokenizer knows the tokens, too, but the model was never shown them.
        multilingual = "<|transcribe|>" in ids and ids["<|endoftext|>"] != ENGLISH_ONLY_END
        return cls(
            start=ids["<|startoftranscript|>"],
            no_timestamps=ids.get("<|notimestamps|>"),
            previous=ids.get("<|startofprev|>"),
            languages=languages if multilingual else {},
            tasks={task: ids[f"<|{task}|>"] for task in WHISPER_TASKS} if multilingual else {},
        )

    @property
    def first_timestamp(self) -> int | None:
        """Id of `<|0.00|>`; every 20 ms are one more."""
        return None if self.no_timestamps is None else self.no_timestamps + 1

    def code(self, language: str) -> str:
        """ "Italian", "it" or "<|it|>" -> "it"; one that this model does not know is a `ValueError`."""
        code = language_code(language)
        if not self.languages:
            raise ValueError(f"this Whisper knows English only: leave language={language!r} out")
        if code is None or code not in self.languages:
            raise ValueError(f"no language {language!r}; {suggest(language.lower(), self.languages)}")
        return code

    def prompt(
        self, language: str | None = None, task: str | None = None, timestamps: bool = False, context=()
    ) -> list[int]:
        """Ids `[P]` that a transcript begins after. `context`: ids of text that came before, or of words."""
        before = [self.previous, *context] if len(context) and self.previous is not None else []
        ids = [*before, self.start]
        if language is not None:
            ids.append(self.languages[self.code(language)])
        if self.tasks:
            ids.append(self.task_id(task))
        elif task not in (None, "transcribe"):
            raise ValueError(f"this Whisper knows no task {task!r}; it transcribes English")
        if not timestamps and self.no_timestamps is not None:
            ids.append(self.no_timestamps)
        return ids

    def task_id(self, task: str | None) -> int:
        """Id of a task; none is to transcribe."""
        if (task or "transcribe") not in self.tasks:
            raise ValueError(f"no task {task!r}; {suggest(str(task), self.tasks)}")
        return self.tasks[task or "transcribe"]


# The end token of the English-only vocabulary, which is shorter by one.
ENGLISH_ONLY_END = 50256
