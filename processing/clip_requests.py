"""What is asked of a model about clips, and what it should answer, as its family wants it told."""

from typing import Any

import torch
from transformers import BatchFeature

from ..configuration.configuration_prompt import AUDIO_TOKEN, prompt_config
from ..configuration.whisper_tokens import WhisperTokens
from .word_times import WORDS

# Whisper's timestamp tokens count in these steps.
SECONDS_A_TIMESTAMP = 0.02


class BridgeRequests:
    """A bridge is asked in words, around placeholders for the speech."""

    INPUT_NAMES = ("input_ids", "attention_mask")
    TIMES_WORDS = False

    def __init__(self, processor):
        self.processor = processor

    def transcription(self, clips, language, prompt, task, return_tensors) -> BatchFeature:
        """Features and prompts, padded on the left."""
        texts = self.texts(len(clips), language, prompt, task)
        return BatchFeature(self.processor.inputs(clips, texts, "left"), tensor_type=return_tensors)

    def training(self, clips, targets: list[str], language, prompt, task) -> BatchFeature:
        """Features, prompts with the targets after them, and labels, padded on the right."""
        features, counts = self.processor.speech(clips)
        return BatchFeature({**self.training_text(counts, targets, language, prompt, task), **features})

    def training_text(self, counts: list[int], targets: list[str], language, prompt, task) -> dict:
        """What `training` gives beside the features, for clips of so many speech tokens."""
        processor = self.processor
        if any(AUDIO_TOKEN in target for target in targets):
            raise ValueError(f"a target holds the audio slot {AUDIO_TOKEN}, which only prompts may")
        texts = processor.with_placeholders(self.texts(len(counts), language, prompt, task), counts)
        prompts = [processor.ids(text) for text in texts]
        answers = [processor.ids(target) + [processor.tokenizer.eos_token_id] for target in targets]
        rows = [before + after for before, after in zip(prompts, answers, strict=True)]
        labels = [[-100] * len(before) + after for before, after in zip(prompts, answers, strict=True)]
        return processor.pad_rows(rows, "right", labels)

    def new_ids(self, outputs, inputs) -> torch.Tensor:
        """What `generate` wrote, `[B, N]`: here it comes behind the prompt."""
        return outputs.sequences[:, inputs["input_ids"].shape[1] :]

    def generation(self, return_timestamps: bool | str) -> dict:
        """Arguments of `generate`; times are those of the segments, whatever the decoder writes."""
        return {}

    def spans(self, ids: list[int], seconds: float) -> list[tuple[float, float, str]]:
        """Parts of a segment with their times in it; a language model knows none within."""
        return [(0.0, seconds, self.processor.decode(ids).strip())]

    def texts(self, count: int, language, prompt, task) -> list[str]:
        """The prompts of `count` clips, each with one audio slot."""
        layout = prompt_config(self.processor.prompt)
        return [
            layout.render(self.processor.tokenizer, language=one, context=words, task=kind or "transcribe")
            for one, words, kind in _slots(count, language, prompt, task)
        ]


class EncoderDecoderRequests:
    """An encoder-decoder is asked in special tokens, some of which it may have to find out first."""

    INPUT_NAMES = ("decoder_prompt_ids",)
    TIMES_WORDS = True

    def __init__(self, processor):
        self.processor = processor

    def transcription(self, clips, language, prompt, task, return_tensors) -> BatchFeature:
        """Features, and beside them what `generate` makes the tokens of."""
        words, tasks = set(_listed(prompt)), set(_listed(task))
        if len(words) > 1 or len(tasks) > 1:
            raise ValueError("prompt and task are one for all clips of a batch: ask for the others apart")
        inputs = BatchFeature(self.processor.speech(clips)[0], tensor_type=return_tensors)
        inputs["language"] = one_a_clip("languages", language, len(clips))
        inputs["task"] = tasks.pop() if tasks else None
        text = words.pop() if words else None
        if text:
            inputs["prompt_ids"] = torch.tensor(self.processor.ids(f" {text.strip()}"))
        return inputs

    def training(self, clips, targets: list[str], language, prompt, task) -> BatchFeature:
        """Features, the tokens before each transcript (padded on the left), and labels (on the right)."""
        features, counts = self.processor.speech(clips)
        return BatchFeature({**features, **self.training_text(counts, targets, language, prompt, task)})

    def training_text(self, counts: list[int], targets: list[str], language, prompt, task) -> dict:
        """What `training` gives beside the features; how many frames a clip has does not matter here."""
        processor, tokens = self.processor, WhisperTokens.from_tokenizer(self.processor.tokenizer)
        prompts = []
        for one, words, kind in _slots(len(counts), language, prompt, task):
            if one is None and tokens.languages:
                raise ValueError("a target needs its language: the decoder is told it before the transcript")
            context = processor.ids(f" {words.strip()}") if words else []
            prompts.append(tokens.prompt(one if tokens.languages else None, kind, False, context))
        answers = [processor.ids(target) + [processor.tokenizer.eos_token_id] for target in targets]
        before = processor.pad_rows(prompts, "left")
        data: dict[str, Any] = {"decoder_prompt_ids": before["input_ids"]}
        if not bool(before["attention_mask"].all()):
            data["decoder_prompt_mask"] = before["attention_mask"]
        return {**data, "labels": processor.pad_rows(answers, "right", answers)["labels"]}

    def new_ids(self, outputs, inputs) -> torch.Tensor:
        """What `generate` wrote, `[B, N]`."""
        return outputs.sequences

    def generation(self, return_timestamps: bool | str) -> dict:
        """Arguments of `generate`."""
        asked = {"return_timestamps": True} if return_timestamps else {}
        return asked | ({"return_token_timestamps": True} if return_timestamps == WORDS else {})

    def spans(self, ids: list[int], seconds: float) -> list[tuple[float, float, str]]:
        """Parts of a segment between the timestamps that the decoder wrote, in seconds from its start."""
        first = WhisperTokens.from_tokenizer(self.processor.tokenizer).first_timestamp
        parts: list[tuple[float, float, str]] = []
        begin, words = 0.0, []
        for token in ids:
            if first is None or token < first:
                words.append(token)
                continue
            time = min((token - first) * SECONDS_A_TIMESTAMP, seconds)
            text = self.processor.decode(words).strip()
            if text:
                parts.append((begin, time, text))
            begin, words = time, []
        rest = self.processor.decode(words).strip()
        return [*parts, (begin, seconds, rest)] if rest else parts


REQUESTS: dict[str, Any] = {
    "bridge": BridgeRequests,
    "encoder_decoder": EncoderDecoderRequests,
}


def _slots(count: int, language, prompt, task):
    """`(language, words, task)` of every clip."""
    named = (("languages", language), ("prompts", prompt), ("tasks", task))
    return zip(*(one_a_clip(name, value, count) for name, value in named), strict=True)


def _listed(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def one_a_clip(name: str, value, count: int) -> list:
    """`value` for every clip, or as it is where it is a list."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} {name} for {count} clips; give one a clip")
    return list(value)
