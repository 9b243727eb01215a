"""`SpeechLLMPipeline`: anything that holds sound in, text out, in batches and in bounded memory."""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline

from ..configuration.configuration_strict import refuse_unknown
from ..configuration.encoder_specs import encoder_spec
from .audio_reading import open_audio
from .audio_segments import Segment, split_audio

# Quieter than this (RMS, dB below full scale) nobody speaks, but a language model would go on writing.
SILENCE_DB = -60.0
# Segments are gathered, sorted by length and batched in windows of so many batches ...
WINDOW_BATCHES = 8
# ... and no more than so many seconds: the bound on memory for long recordings.
WINDOW_SECONDS = 600.0
DEFAULT_BATCH_SIZE = 8
DEFAULT_CHUNK_SECONDS = 30.0


@dataclass(frozen=True)
class TranscriptionOptions:
    """What a call, or the pipeline's construction, may ask for."""

    language: str | None = None
    task: str | None = None
    prompt: str | None = None
    return_timestamps: bool | str = False
    return_language: bool = False
    return_confidence: bool = False
    chunk_length_s: float | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    sampling_rate: int | None = None
    generate_kwargs: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.return_timestamps == "word":
            raise ValueError(
                "this checkpoint has no source of word alignment; return_timestamps=True gives the segments' times"
            )
        if self.return_timestamps not in (True, False):
            raise ValueError(f"return_timestamps is True, False or 'word', not {self.return_timestamps!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")


@dataclass
class Piece:
    """One segment of one source on its way: what it sounds like, then what it says."""

    source: int
    segment: Segment
    text: str = ""
    confidence: float | None = None
    guarded: str | None = None

    @property
    def timestamp(self) -> tuple[float, float]:
        return (round(self.segment.start, 3), round(self.segment.end, 3))


class SpeechLLMPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribes paths, URLs, bytes, arrays, `{"array", "sampling_rate"}`, dataset columns, lists and generators.

    A list gives a list, a generator or dataset an iterator, anything else one result: `{"text": ...}`, with
    `"chunks"`, `"language"`, `"confidence"` where asked for, and `"guarded"` where something was left out.
    """

    _load_processor, _load_tokenizer, _load_feature_extractor = True, False, False
    # The stock constructor assigns a type by tables of class names, which decide nothing here.
    type = property(lambda self: "seq2seq", lambda self, value: None)

    def __init__(self, model, processor=None, **kwargs):
        if processor is None:
            raise ValueError(
                "SpeechLLMPipeline needs processor=..., the SpeechLLMProcessor of the checkpoint"
            )
        super().__init__(model=model, processor=processor, **kwargs)
        processor.check_matches(model.config)
        if self._batch_size is not None:
            self._forward_params = {"batch_size": self._batch_size, **self._forward_params}

    def _sanitize_parameters(self, **options):
        # Stock arguments that have no meaning for this pipeline, whatever they are set to.
        options = {
            k: v for k, v in options.items() if k not in ("stride_length_s", "ignore_warning", "num_workers")
        }
        known = {option.name for option in fields(TranscriptionOptions)}
        generation = {
            k: options.pop(k)
            for k in list(options)
            if k not in known and hasattr(self.model.generation_config, k)
        }
        refuse_unknown("the pipeline", options, known)
        if generation:
            options["generate_kwargs"] = {**(options.get("generate_kwargs") or {}), **generation}
        return {}, options, {}

    def __call__(self, inputs, **options):
        """Transcribe `inputs`; `options` are the fields of `TranscriptionOptions`, or settings of `generate`."""
        _, call_options, _ = self._sanitize_parameters(**{k: v for k, v in options.items() if v is not None})
        merged = {**self._forward_params, **call_options}
        merged["generate_kwargs"] = {
            **self._generate_kwargs,
            **self._forward_params.get("generate_kwargs", {}),
            **call_options.get("generate_kwargs", {}),
        }
        chosen = self._with_chunk_length(TranscriptionOptions(**merged))
        if isinstance(inputs, (list, tuple)) and not (inputs and isinstance(inputs[0], (int, float))):
            return list(self._results(inputs, chosen))
        if is_single(inputs):
            return next(self._results([inputs], chosen))
        return self._results(inputs, chosen)

    def _with_chunk_length(self, options: TranscriptionOptions) -> TranscriptionOptions:
        spec, audio_config = encoder_spec(self.model.config.audio_config), self.model.config.audio_config
        inputs = spec.max_inputs(audio_config)
        longest = inputs / spec.inputs_per_second if inputs else None
        length = options.chunk_length_s or min(DEFAULT_CHUNK_SECONDS, longest or DEFAULT_CHUNK_SECONDS)
        if length <= 0 or (longest and length > longest):
            bound = f"more than 0 and at most {longest:g}" if longest else "more than 0"
            raise ValueError(f"chunk_length_s must be {bound} for this encoder, not {length:g}")
        return replace(options, chunk_length_s=float(length))

    def _results(self, sources: Iterable, options: TranscriptionOptions) -> Iterator[dict]:
        """Results in the order of `sources`, each as soon as its last segment is done."""
        open_sources: collections.deque[list[Piece]] = collections.deque()
        for window in self._windows(sources, options, open_sources):
            for batch in batches(window, options.batch_size):
                self._forward(batch, options)
            while len(open_sources) > 1 or (open_sources and window.closed):
                yield self.postprocess(open_sources.popleft(), options)

    def _windows(self, sources, options, open_sources) -> "Iterator[Window]":
        """Gather segments up to the bound of a window; `open_sources` gets each source's list of pieces."""
        window = Window()
        for number, source in enumerate(sources):
            pieces: list[Piece] = []
            for segment in self.preprocess(source, options):
                if window.full(options.batch_size):
                    window.closed = not pieces
                    yield window
                    window = Window()
                piece = Piece(number, segment)
                if not pieces:
                    open_sources.append(pieces)
                pieces.append(piece)
                window.add(piece)
        window.closed = True
        if window.pieces or open_sources:
            yield window

    def preprocess(self, source, options: TranscriptionOptions) -> Iterator[Segment]:
        """A source's segments, each no longer than the encoder hears at once."""
        rate = self.processor.sampling_rate
        blocks = open_audio(source, rate, options.sampling_rate)
        return split_audio(blocks, rate, options.chunk_length_s)

    def _forward(self, batch: list[Piece], options: TranscriptionOptions) -> None:
        """Write text, confidence and guards into the pieces of a batch."""
        spoken = [piece for piece in batch if piece.segment.level_db > SILENCE_DB]
        for piece in batch:
            piece.guarded = None if piece in spoken else "silence"
        if not spoken:
            return
        with torch.inference_mode():
            inputs = self.processor.apply_transcription_request(
                [piece.segment.waveform for piece in spoken], options.language, options.prompt, options.task
            ).to(self.model.device)
            generate = {**options.generate_kwargs, "return_dict_in_generate": True}
            outputs = self.model.generate(**inputs, **generate)
        new_ids = outputs.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new_ids)
        confidences = token_confidence(outputs, new_ids, len(spoken))
        looped = outputs.get("looped")
        for row, piece in enumerate(spoken):
            piece.text = texts[row].strip()
            piece.confidence = confidences[row]
            piece.guarded = "repetition" if looped is not None and bool(looped[row]) else None
            # What was heard is no longer needed; an hour of it would be.
            piece.segment = replace(piece.segment, waveform=np.zeros(0, dtype=np.float32))

    def postprocess(self, pieces: list[Piece], options: TranscriptionOptions) -> dict:
        """The result of one source from its pieces."""
        result: dict = {"text": " ".join(piece.text for piece in pieces if piece.text)}
        if options.return_timestamps:
            result["chunks"] = [self._chunk(piece, options) for piece in pieces]
        if options.return_language:
            result["language"] = options.language
        if options.return_confidence:
            known = [piece.confidence for piece in pieces if piece.confidence is not None]
            result["confidence"] = float(np.mean(known)) if known else None
        guarded = [
            {"timestamp": piece.timestamp, "reason": piece.guarded} for piece in pieces if piece.guarded
        ]
        return {**result, "guarded": guarded} if guarded else result

    def _chunk(self, piece: Piece, options: TranscriptionOptions) -> dict:
        chunk: dict = {"text": piece.text, "timestamp": piece.timestamp}
        if options.return_confidence:
            chunk["confidence"] = piece.confidence
        return chunk

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save the model and its processor; together they load as this pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


class Window:
    """Segments gathered for sorting. `closed` says that its last source ends in it."""

    def __init__(self):
        self.pieces: list[Piece] = []
        self.seconds = 0.0
        self.closed = False

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.seconds += piece.segment.duration

    def full(self, batch_size: int) -> bool:
        return len(self.pieces) >= WINDOW_BATCHES * batch_size or self.seconds >= WINDOW_SECONDS


def batches(window: Window, batch_size: int) -> Iterator[list[Piece]]:
    """A window's pieces, longest first: what shares a batch is of about one length, and memory peaks at once."""
    ordered = sorted(window.pieces, key=lambda piece: -piece.segment.duration)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def token_confidence(outputs, new_ids: torch.Tensor, rows: int) -> list[float | None]:
    """Geometric mean of the probabilities of each row's tokens; `None` where the decoding kept none."""
    logprobs = outputs.get("token_logprobs")
    if logprobs is None:
        return [None] * rows
    written = (logprobs != 0).sum(-1).clamp(min=1)
    return (logprobs.sum(-1) / written).exp().tolist()


def is_single(inputs) -> bool:
    """Whether `inputs` is one source, and not a collection of them."""
    if isinstance(inputs, (str, bytes, bytearray, dict, np.ndarray, torch.Tensor)) or hasattr(inputs, "read"):
        return True
    return (
        hasattr(inputs, "__fspath__")
        or hasattr(inputs, "get_all_samples")
        or isinstance(inputs, (list, tuple))
    )
