"""The prompt as data, and the one place that renders it, for training and for inference."""

from huggingface_hub.dataclasses import strict
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .configuration_strict import StrictConfig, suggest

AUDIO_TOKEN = "<|audio|>"

TASKS = {
    "transcribe": "Transcribe the speech{language}.",
    "translate": "Translate the speech{language} into English.",
    "describe": "Describe the audio.",
}


@strict
class PromptConfig(StrictConfig):
    """Layout of what the decoder reads before it answers.

    `user` has the slots `{audio}`, `{instruction}` and `{context}`; an instruction has the slot `{language}`.
    With a chat template `system` and `user` are two messages; without one they are joined by `plain`.
    """

    model_type = "speech_llm_prompt"

    system: str | None = None
    user: str = "{audio}\n{instruction}{context}"
    plain: str = "{system}{user}\n"
    tasks: dict[str, str] | None = None
    language: str = " in {language}"
    context: str = " These words may occur: {context}."
    chat: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.tasks is None:
            self.tasks = dict(TASKS)

    def validate_slots(self):
        if self.user.count("{audio}") != 1:
            raise ValueError(f"user must hold the slot {{audio}} exactly once, not as in {self.user!r}")
        if "{user}" not in self.plain:
            raise ValueError(f"plain must hold the slot {{user}}, not be {self.plain!r}")

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
    return PromptConfig(**(value or {}))
