"""The prompt as data, and the one place that renders it, for training and for inference."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .configuration_strict import StrictConfig, strict_config, suggest

AUDIO_TOKEN = "<|audio|>"

TASKS = {
    "transcribe": "Transcribe the speech{language}.",
    "translate": "Translate the speech{language} into English.",
    "describe": "Describe the audio.",
}


@strict_config
class PromptConfig(StrictConfig):
    """Layout of what the decoder reads before it answers.

    `user` has the slots `{audio}`, `{instruction}` and `{context}`; an instruction has the slot `{language}`.
    With a chat template `system` and `user` are two messages; without one they are joined by `plain`.
    """

    model_type = "speech_llm_prompt"

    system: str | None = None
    user: str = "{audio}\n{instruction}{context}"
    plain: str = "{system}{user}\n"
    tasks: Any = None  # dict of instructions; None for TASKS
    language: str = " in {language}"
    context: str = " These words may occur: {context}."
    chat: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.tasks is None:
            self.tasks = dict(TASKS)
        if not isinstance(self.tasks, dict) or not all(isinstance(v, str) for v in self.tasks.values()):
            raise ValueError(f"tasks must be a dict of instructions, not {self.tasks!r}")

    def validate_slots(self):
        if self.user.count("{audio}") != 1:
            raise ValueError(f"user must hold the slot {{audio}} exactly once, not as in {self.user!r}")
        if "{user}" not in self.plain:
            raise ValueError(f"plain must hold the slot {{user}}, not be {self.plain!r}")
        _check_slots("user", self.user, {"audio", "instruction", "context"})
        _check_slots("plain", self.plain, {"system", "user"})
        _check_slots("language", self.language, {"language"})
        _check_slots("context", self.context, {"context"})
        for task, instruction in self.tasks.items():
            _check_slots(f"task {task!r}", instruction, {"language"})

    def validate_audio_token(self):
        """Only the slot `{audio}` becomes the placeholder; a second one written out has no speech to hold."""
        texts = [self.system or "", self.user, self.plain, self.language, self.context, *self.tasks.values()]
        if any(AUDIO_TOKEN in text for text in texts):
            raise ValueError(f"write {{audio}} where the speech goes, not {AUDIO_TOKEN}")

    def user_text(self, audio: str = AUDIO_TOKEN, task="transcribe", language=None, context=None) -> str:
        """The user's turn; `language` is a code ("it") or a name, `context` words that may occur."""
        if task not in self.tasks:
            raise ValueError(f"no task {task!r}; {suggest(task, self.tasks)}")
        named = self.language.format(language=language_name(language)) if language else ""
        return self.user.format(
            audio=audio,
            instruction=self.tasks[task].format(language=named),
            context=self.context.format(context=context) if context else "",
        )

    def render(self, tokenizer, **slots) -> str:
        """The whole prompt as text, up to where the answer begins. `slots` as for `user_text`."""
        user = self.user_text(**slots)
        if self.chat and getattr(tokenizer, "chat_template", None):
            system = [{"role": "system", "content": self.system}] if self.system else []
            return tokenizer.apply_chat_template(
                [*system, {"role": "user", "content": user}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        start = tokenizer.bos_token if starts_with_bos(tokenizer) else ""
        system_text = f"{self.system}\n" if self.system else ""
        return start + self.plain.format(system=system_text, user=user)


def _check_slots(name: str, text: str, known: set[str]) -> None:
    """Refuse a slot that nothing fills, and a brace that belongs to none."""
    try:
        slots = {slot for _, slot, _, _ in Formatter().parse(text) if slot is not None}
    except ValueError as error:
        raise ValueError(f"{name}={text!r}: {error}; write a brace of its own as {{{{ or }}}}") from error
    for slot in sorted(slots - known):
        raise ValueError(f"{name} has no slot {slot!r}; {suggest(slot, known)}")


def starts_with_bos(tokenizer) -> bool:
    """Whether this tokenizer begins plain text with its BOS: only then has the decoder been trained so."""
    ids = tokenizer("a").input_ids
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def language_name(language: str) -> str:
    """ "it" -> "Italian"; what is no known code is taken as a name."""
    return LANGUAGES.get(language.lower(), language).title()


def prompt_config(value) -> PromptConfig:
    """A `PromptConfig` from `None`, itself, or a mapping of its fields."""
    if getattr(value, "model_type", None) == PromptConfig.model_type:
        value = value.to_dict()
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"a prompt is described by fields such as {{'system': '...'}}, not by {value!r}")
    return PromptConfig(**(value or {}))
