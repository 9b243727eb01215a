"""`SpeechLLMProcessor`: audio and text in, model inputs out, text back."""

import base64
from importlib import import_module
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, BatchFeature, ProcessorMixin

from ..configuration.base_resolution import hub_arguments, load_base
from ..configuration.configuration_prompt import AUDIO_TOKEN, prompt_config, starts_with_bos
from ..configuration.configuration_speechllm import SpeechLLMConfig
from ..configuration.configuration_strict import refuse_unknown
from ..configuration.decoder_families import DECODER_FAMILIES
from ..configuration.encoder_specs import encoder_spec
from ..configuration.speech_lengths import chain_length, check_steps
from ..configuration.writing import replacing_files
from .audio_reading import read_audio
from .clip_requests import REQUESTS, one_a_clip
from .speech_features import extract_features

# Shorter clips are followed by silence: no encoder's convolutions reach a frame in less.
MINIMUM_SECONDS = 0.1

# Arguments of the model's `from_bases` that a processor has no use for.
MODEL_ARGUMENTS = frozenset(
    ["dtype", "torch_dtype", "device_map", "quantization_config", "attn_implementation", "max_memory"]
)
# What callers of stock processors pass and this one always does.
USUAL_ARGUMENTS = frozenset(["padding", "return_attention_mask", "add_special_tokens"])


class SpeechLLMProcessor(ProcessorMixin):
    """The encoder's feature extractor and the decoder's tokenizer, with the prompt and lengths between them.

    `feature_steps` (samples -> model inputs) and `input_steps` (model inputs -> speech tokens) are chains for
    `chain_length`; `prompt` holds the fields of `PromptConfig`; `family` is that of the model's adapter.
    `from_bases` fills all of them.
    """

    def __init__(
        self,
        feature_extractor,
        tokenizer,
        chat_template=None,
        prompt=None,
        feature_steps=None,
        input_steps=None,
        family="bridge",
    ):
        if not input_steps:
            raise ValueError(
                "this is no processor of a speech LLM: it has no lengths; make one with "
                "SpeechLLMProcessor.from_bases, or load it from a saved checkpoint"
            )
        if family not in DECODER_FAMILIES:
            raise ValueError(
                f"no family {family!r} of models; there are {', '.join(sorted(DECODER_FAMILIES))}"
            )
        self.family = family
        DECODER_FAMILIES[family].prepare(tokenizer)
        self.audio_token = AUDIO_TOKEN
        self.audio_token_id = tokenizer.get_vocab().get(AUDIO_TOKEN)
        self.prompt = prompt_config(prompt).to_diff_dict()
        self.feature_steps = feature_steps or []
        self.input_steps = input_steps
        check_steps(self.feature_steps + self.input_steps)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_bases(
        cls, encoder: str, decoder: str | None = None, adapter: str = "mlp", bases=None, **fields
    ) -> "SpeechLLMProcessor":
        """The processor for `SpeechLLMForConditionalGeneration.from_bases` with the same arguments."""
        # Arguments that say how to load weights concern the model alone.
        fields = {k: v for k, v in fields.items() if k not in MODEL_ARGUMENTS}
        config = SpeechLLMConfig.from_bases(encoder, decoder, adapter, bases=bases, **fields)
        return cls.from_config(config, bases=bases, **hub_arguments(fields))

    @classmethod
    def from_config(cls, config: SpeechLLMConfig, bases=None, **hub) -> "SpeechLLMProcessor":
        """The processor of a composed config: its bases' feature extractor and tokenizer."""
        extractor = load_base(
            AutoFeatureExtractor.from_pretrained, config.encoder_id, config.encoder_revision, bases, **hub
        )
        tokenizer = load_base(
            AutoTokenizer.from_pretrained, config.decoder_id, config.decoder_revision, bases, **hub
        )
        feature_steps = encoder_spec(config.audio_config).feature_steps(extractor)
        return cls(
            extractor,
            tokenizer,
            prompt=config.prompt_config.to_diff_dict(),
            feature_steps=feature_steps,
            input_steps=config.input_steps,
            family=config.adapter_config.family,
        )

    @property
    def sampling_rate(self) -> int:
        """Samples a second that the encoder wants."""
        return self.feature_extractor.sampling_rate

    @property
    def model_input_names(self) -> list[str]:
        return [*REQUESTS[self.family].INPUT_NAMES, "input_features", "input_features_mask"]

    def num_audio_tokens(self, samples: int) -> int:
        """Placeholders that a clip of so many samples takes in the prompt."""
        samples = max(samples, round(MINIMUM_SECONDS * self.sampling_rate))
        return chain_length(samples, self.feature_steps + self.input_steps)

    def check_matches(self, config) -> None:
        """Raise `ValueError` if this processor is not the one of a model with this config."""
        if self.input_steps != config.input_steps:
            inputs = encoder_spec(config.audio_config).inputs_per_second * 10
            own, models = chain_length(inputs, self.input_steps), config.speech_tokens(inputs)
            raise ValueError(
                f"this processor counts {own} speech tokens for 10 s by {self.input_steps}, the model makes "
                f"{models} by {config.input_steps}: they are not of one checkpoint"
            )
        if self.audio_token_id != config.audio_token_id:
            own, models = self.audio_token_id, config.audio_token_id
            raise ValueError(
                f"this processor's audio token is {own}, the model's {models}: they are not of one checkpoint"
            )

    def __call__(
        self, audio=None, text=None, sampling_rate=None, return_tensors="pt", padding_side="left", **kwargs
    ):
        """Model inputs for clips, for prompts, or for both.

        `audio`: one clip or a list, anything that `read_audio` takes; `sampling_rate` is that of bare arrays.
        `text`: one prompt or a list, each with one audio placeholder for a clip. Without text only features
        come back, for which the model has a default prompt.
        """
        refuse_unknown("the processor", kwargs, USUAL_ARGUMENTS | {"audio", "text"})
        if audio is None and text is None:
            raise ValueError("nothing to process: pass audio, text or both")
        waveforms = None if audio is None else self.read_clips(audio, sampling_rate)
        texts = [text] if isinstance(text, str) else text
        return BatchFeature(self.inputs(waveforms, texts, padding_side), tensor_type=return_tensors)

    def inputs(self, waveforms: list[np.ndarray] | None, texts, side: str) -> dict[str, torch.Tensor]:
        """Model inputs for waveforms at the encoder's rate, for texts with audio slots, or for both."""
        data: dict[str, torch.Tensor] = {}
        counts: list[int] = []
        if waveforms is not None:
            data, counts = self.speech(waveforms)
        if texts is None:
            return data
        return data | self.pad_rows([self.ids(text) for text in self.with_placeholders(texts, counts)], side)

    def read_clips(self, audio, sampling_rate=None) -> list[np.ndarray]:
        """One clip or a list of clips as float32 waveforms at the encoder's rate."""
        clips = audio if is_batch(audio) else [audio]
        if not clips:
            raise ValueError("no clips to process: the list is empty")
        return [read_audio(clip, self.sampling_rate, sampling_rate) for clip in clips]

    def speech(self, waveforms: list[np.ndarray]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Features and mask of clips, and how many speech tokens each will be."""
        shortest = round(MINIMUM_SECONDS * self.sampling_rate)
        padded = [np.pad(w, (0, shortest - len(w))) if len(w) < shortest else w for w in waveforms]
        features, mask = extract_features(self.feature_extractor, padded)
        counts = chain_length(mask.sum(-1), self.input_steps).tolist()
        return {"input_features": features, "input_features_mask": mask}, counts

    def with_placeholders(self, texts: list[str], counts: list[int]) -> list[str]:
        """Widen each text's audio slot to as many placeholders as its clip has tokens."""
        slots = sum(text.count(AUDIO_TOKEN) for text in texts)
        if slots != len(counts):
            raise ValueError(f"{len(counts)} clips for {slots} audio slots ({AUDIO_TOKEN}) in the text")
        remaining = iter(counts)
        widened = []
        for text in texts:
            head, *parts = text.split(AUDIO_TOKEN)
            widened.append(head + "".join(AUDIO_TOKEN * next(remaining) + part for part in parts))
        return widened

    def ids(self, text: str) -> list[int]:
        # The prompt is rendered whole, specials included: the tokenizer adds none.
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def pad_rows(
        self, rows: list[list[int]], side: str, labels: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        size = max(map(len, rows))

        def padded(values: list[list[int]], filler: int) -> torch.Tensor:
            fill = [[filler] * (size - len(row)) for row in values]
            both = zip(fill, values, strict=True) if side == "left" else zip(values, fill, strict=True)
            return torch.tensor([first + second for first, second in both])

        data = {
            "input_ids": padded(rows, self.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(row) for row in rows], 0),
        }
        return data if labels is None else {**data, "labels": padded(labels, -100)}

    def apply_transcription_request(
        self, audio, language=None, prompt=None, task="transcribe", sampling_rate=None, return_tensors="pt"
    ) -> BatchFeature:
        """Inputs for `model.generate`: each clip in the prompt of its task.

        `language`, `prompt` (words that may occur) and `task` are one for all clips or a list, one a clip.
        """
        request = REQUESTS[self.family](self)
        clips = self.read_clips(audio, sampling_rate)
        return request.transcription(clips, language, prompt, task, return_tensors)

    def apply_training_request(
        self, audio, target, language=None, prompt=None, task="transcribe", sampling_rate=None
    ):
        """Inputs and labels for training: the same prompts, then each clip's `target` and the end token.

        Labels are -100 on prompt, speech and padding; rows are padded on the right.
        """
        clips = self.read_clips(audio, sampling_rate)
        targets = one_a_clip("targets", [target] if isinstance(target, str) else target, len(clips))
        return REQUESTS[self.family](self).training(clips, targets, language, prompt, task)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation,
        chat_template=None,
        tokenize=False,
        return_dict=False,
        return_tensors="pt",
        sampling_rate=None,
        processor_kwargs=None,
        **kwargs,
    ):
        """As the stock method: a conversation, or a list of them, as text, or tokenized with its audio.

        A message's content is text or a list of `{"type": "text", "text": ...}` and
        `{"type": "audio", "audio" | "path" | "url": ...}`. `return_dict=True` gives all model inputs,
        otherwise only ids come back. `kwargs` go to the template.
        """
        if not conversation:
            raise ValueError("nothing to process: the conversation is empty")
        single = isinstance(conversation[0], dict)
        conversations = [conversation] if single else conversation
        template = chat_template or self.chat_template or self.tokenizer.chat_template
        clips: list = []
        texts = []
        for turns in conversations:
            messages = [{**turn, "content": _flatten_content(turn.get("content"), clips)} for turn in turns]
            texts.append(self._conversation_text(messages, template, kwargs))
        if not tokenize:
            return texts[0] if single else texts
        arguments = {"sampling_rate": sampling_rate, **(processor_kwargs or {})}
        inputs = self(clips or None, texts, return_tensors=return_tensors, **arguments)
        return inputs if return_dict else inputs["input_ids"]

    def _conversation_text(self, messages: list[dict], template, variables: dict) -> str:
        """One conversation in the words of `template`; as plain text where there is none."""
        if template is None:
            start = self.tokenizer.bos_token if starts_with_bos(self.tokenizer) else ""
            return start + "\n".join(message["content"] for message in messages) + "\n"
        return self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, **{"enable_thinking": False, **variables}
        )

    def decode(self, *args, skip_special_tokens: bool = True, **kwargs):
        """Text of ids `[N]` or `[B, N]`, without special tokens."""
        return self.tokenizer.decode(*args, skip_special_tokens=skip_special_tokens, **kwargs)

    batch_decode = decode

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As the stock method; also writes the code that loads the processor without this package."""
        if push_to_hub:
            return self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        with replacing_files(save_directory) as folder:
            super().save_pretrained(folder, **kwargs)
            if self._auto_class is None:
                import_module(f"{__name__.split('.')[0]}.remote_code").export_remote_code(folder)
        return None


def is_batch(audio) -> bool:
    """Whether `audio` is a list of clips, and not one clip given as a list of samples."""
    return isinstance(audio, (list, tuple)) and not (len(audio) > 0 and isinstance(audio[0], Real))


def _flatten_content(content, clips: list) -> str:
    """A message's content as text with audio slots; its audio is appended to `clips`."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part["type"] == "text":
            texts.append(part["text"])
        elif part["type"] == "audio":
            clips.append(_audio_of(part))
            texts.append(AUDIO_TOKEN)
        else:
            raise ValueError(f"messages hold text and audio, not {part['type']!r}")
    return "".join(texts)


def _audio_of(part: dict):
    source = next((part[key] for key in ("audio", "path", "url") if part.get(key) is not None), None)
    if source is None:
        raise ValueError(f"an audio part names its sound in audio, path or url, not only in {sorted(part)}")
    # Servers of the OpenAI protocol hand uploads over so.
    if isinstance(source, str) and source.startswith("data:"):
        return base64.b64decode(source.partition(",")[2])
    return source
