"""`SpeechLLMPipeline`: anything that holds sound in, text out, in batches and in bounded memory."""

import collections
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import Any, cast

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline, GenerationConfig

from ..configuration.configuration_strict import suggest
from ..configuration.encoder_specs import encoder_spec
from .audio_reading import open_audio
from .audio_segments import Segment, split_audio
from .clip_requests import REQUESTS
from .language_segments import SEGMENTS, in_segments, routing_of, split_by_language
from .memory_release import release_freed_memory
from .pipeline_windows import NOTHING, Piece, Window
from .processing_speechllm import SpeechLLMProcessor, is_batch
from .word_list import BEAMS, WordList
from .word_times import WORDS, timed_words

DEFAULT_BATCH_SIZE = 8
DEFAULT_CHUNK_SECONDS = 30.0
# What may be given beside the options, as to every stock pipeline that generates.
GENERATION_SETTINGS = {
    "generation_config",
    *(name for name in vars(GenerationConfig()) if not name.startswith("_")),
}
# Stock arguments that have no meaning here, whatever they are set to.
IGNORED_OPTIONS = ("stride_length_s", "ignore_warning", "num_workers")
ONE_TEXT = "the pipeline gives one text a clip; set num_return_sequences to 1"
# Thai, Lao, Burmese, Khmer; Chinese and Japanese with their punctuation. Not Korean.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class TranscriptionOptions:
    """What a call, or the pipeline's construction, may ask for."""

    language: str | None = None
    task: str | None = None
    prompt: str | None = None
    word_list: str | os.PathLike | None = None
    return_timestamps: bool | str = False
    return_language: bool = False
    return_confidence: bool = False
    routing: str | None = None
    chunk_length_s: float | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    sampling_rate: int | None = None
    on_error: str = "raise"
    generate_kwargs: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("language", "task", "prompt", "routing"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                raise ValueError(f"{name} is one text for all that is transcribed, not {value!r}")
        if self.return_timestamps not in (True, False, WORDS):
            raise ValueError(f"return_timestamps is True, False or 'word', not {self.return_timestamps!r}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number from 1 on, not {self.batch_size!r}")
        if self.on_error not in ("raise", "return"):
            raise ValueError(f"on_error is 'raise' or 'return', not {self.on_error!r}")
        if not isinstance(self.word_list, (str, os.PathLike, NoneType)):
            raise ValueError(f"word_list is a file with a word a line, not {self.word_list!r}")
        if self.word_list is not None:
            if not (isinstance(self.beams, int) and self.beams > 1):
                raise ValueError(f"word_list chooses among beams: num_beams is 2 or more, not {self.beams!r}")
            if self.generate_kwargs.get("num_return_sequences") not in (None, 1):
                raise ValueError(ONE_TEXT)

    @property
    def beams(self) -> Any:
        """Among how many ways to write a clip down a word list chooses."""
        given = self.generate_kwargs.get("num_beams")
        config = self.generate_kwargs.get("generation_config")
        return getattr(config, "num_beams", None) or BEAMS if given is None else given


class SpeechLLMPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribes paths, URLs, bytes, arrays, `{"array", "sampling_rate"}`, and collections of these.

    A list gives a list, a generator or dataset an iterator, anything else one result: `{"text": ...}`, with
    `"chunks"`, `"language"`, `"confidence"` where asked for, and `"guarded"` where something was left out.
    A source that cannot be read ends the call, or with `on_error="return"` has the result `{"error": ...}`.
    """

    model: Any
    processor: SpeechLLMProcessor
    _load_processor, _load_tokenizer, _load_feature_extractor = True, False, False
    # The stock constructor assigns a type by tables of class names, which decide nothing here.
    type = property(lambda self: "seq2seq", lambda self, value: None)

    def __init__(self, model, processor=None, **kwargs):
        if processor is None:
            raise ValueError(
                "SpeechLLMPipeline needs processor=..., the SpeechLLMProcessor of the checkpoint"
            )
        processor.check_matches(model.config)
        self.requests = REQUESTS[processor.family](processor)
        super().__init__(model=model, processor=processor, **kwargs)
        if self._batch_size is not None:
            self._forward_params = {"batch_size": self._batch_size, **self._forward_params}
        self._word_lists: dict[str, WordList] = {}
        # What is wrong with them is told now, not when the first file has been read.
        self._chosen({})

    def _sanitize_parameters(self, **options):  # type: ignore[override]
        options = {k: v for k, v in options.items() if v is not None and k not in IGNORED_OPTIONS}
        known = {option.name for option in fields(TranscriptionOptions)}
        generation = {k: options.pop(k) for k in list(options) if k in GENERATION_SETTINGS - known}
        unknown = next((name for name in options if name not in known), None)
        if unknown:
            hint = suggest(unknown, known | GENERATION_SETTINGS)
            # Where nothing is alike, the options alone are a list that is long enough.
            hint = hint if hint.startswith("did you mean") else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"the pipeline has no option {unknown!r}; {hint}")
        if generation:
            options["generate_kwargs"] = {**options.get("generate_kwargs", {}), **generation}
        return {}, options, {}

    def __call__(self, inputs, **options):  # type: ignore[override]
        """Transcribe `inputs`; `options`: fields of `TranscriptionOptions`, or settings of `generate`."""
        _, call_options, _ = self._sanitize_parameters(**options)
        chosen = self._chosen(call_options)
        if is_single(inputs):
            return next(self._results([inputs], chosen))
        results = self._results(inputs, chosen)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def _chosen(self, call_options: dict) -> TranscriptionOptions:
        """The options of a call over those of the construction."""
        merged = {**self._forward_params, **call_options}
        merged["generate_kwargs"] = {
            **self._generate_kwargs,
            **self._forward_params.get("generate_kwargs", {}),
            **call_options.get("generate_kwargs", {}),
        }
        options = TranscriptionOptions(**merged)
        if options.return_timestamps == WORDS and not self.requests.TIMES_WORDS:
            raise ValueError(
                "this checkpoint has no source of word alignment; "
                "return_timestamps=True gives the segments' times"
            )
        if options.routing == SEGMENTS:
            options = in_segments(options, self.model.config)
        if options.word_list is not None and str(options.word_list) not in self._word_lists:
            self._word_lists[str(options.word_list)] = WordList.read(options.word_list)
        return self._with_chunk_length(options)

    def _with_chunk_length(self, options: TranscriptionOptions) -> TranscriptionOptions:
        spec, audio_config = encoder_spec(self.model.config.audio_config), self.model.config.audio_config
        inputs = spec.max_inputs(audio_config)
        longest = inputs / spec.inputs_per_second if inputs else math.inf
        length = options.chunk_length_s
        if length is None:
            length = min(self.model.config.chunk_length_s or DEFAULT_CHUNK_SECONDS, longest)
        if not (isinstance(length, (int, float)) and 0 < length <= longest and length < math.inf):
            bound = f"more than 0 and at most {longest:g}" if inputs else "more than 0"
            raise ValueError(f"chunk_length_s must be {bound} for this encoder, not {length!r}")
        return replace(options, chunk_length_s=float(length))

    def _results(self, sources: Iterable, options: TranscriptionOptions) -> Iterator[dict]:
        """Results in the order of `sources`, each as soon as its last segment is done."""
        open_sources: collections.deque[list[Piece]] = collections.deque()
        for window in self._windows(sources, options, open_sources):
            cut = window
            if options.routing == SEGMENTS:
                cut = split_by_language(window, self.model, self.processor)
            for batch in cut.batches():
                self._forward(batch, options)
                release_freed_memory()
            while len(open_sources) > 1 or (open_sources and window.closed):
                yield self.postprocess(open_sources.popleft(), options)

    def _windows(self, sources, options, open_sources) -> "Iterator[Window]":
        """Gather segments up to the bound of a window; `open_sources` gets each source's list of pieces."""
        window = Window(options.batch_size)
        for source in sources:
            pieces: list[Piece] = []
            open_sources.append(pieces)
            for piece in self._pieces(source, options):
                if window.full():
                    yield window
                    window = Window(options.batch_size)
                pieces.append(piece)
                if piece.guarded is None and piece.error is None:
                    window.add(piece)
            # A source of which nothing is left to do waits for no other one.
            if window.full() or not window.pieces:
                window.closed = True
                yield window
                window = Window(options.batch_size)
        if window.pieces:
            window.closed = True
            yield window

    def _pieces(self, source, options: TranscriptionOptions) -> Iterator[Piece]:
        """A source's segments; where errors are returned, an empty piece that holds one ends them."""
        try:
            for segment in self.preprocess(source, options):
                yield Piece.of(segment)
        except ValueError as error:
            if options.on_error == "raise":
                raise
            yield Piece(Segment(NOTHING, 0.0, 0.0), error=str(error))

    # The stock steps hand dicts of tensors to each other, these hand on pieces of sources.
    def preprocess(self, source, options: TranscriptionOptions) -> Iterator[Segment]:  # type: ignore[override]
        """A source's segments, each no longer than the encoder hears at once."""
        rate = self.processor.sampling_rate
        blocks = open_audio(source, rate, options.sampling_rate)
        return split_audio(blocks, rate, cast(float, options.chunk_length_s))

    def _forward(self, batch: list[Piece], options: TranscriptionOptions) -> None:  # type: ignore[override]
        """Write text, confidence and guards into the pieces of a batch, and release their sound."""
        outputs, new_ids = self._written(batch, options)
        if len(new_ids) != len(batch):
            raise ValueError(ONE_TEXT)
        texts = self.processor.batch_decode(new_ids)
        confidences = token_confidence(outputs, new_ids, self.processor.tokenizer.pad_token_id)
        guards = {"repetition": outputs.get("looped")}
        if not {"max_new_tokens", "max_length", "generation_config"} & set(options.generate_kwargs):
            # A caller's own limit is no news.
            guards["budget"] = outputs.get("exhausted")
        for row, piece in enumerate(batch):
            piece.text = texts[row].strip()
            piece.confidence = confidences[row]
            for name in ("language", "language_scores"):
                if outputs.get(name) is not None:
                    setattr(piece, name, outputs[name][row])
            if options.return_timestamps == WORDS:
                piece.words = self._words(piece, options, outputs, new_ids, row)
            elif options.return_timestamps:
                piece.spans = self.requests.spans(new_ids[row].tolist(), piece.segment.duration)
            piece.guarded = next(
                (name for name, rows in guards.items() if rows is not None and bool(rows[row])), None
            )
            piece.release()

    def _written(self, batch: list[Piece], options: TranscriptionOptions) -> tuple[Any, torch.Tensor]:
        """What `generate` gives for a batch, and its new ids `[B, N]`."""
        asked = self.requests.generation(options.return_timestamps) | routing_of(batch, options)
        generate = {**asked, **options.generate_kwargs, "return_dict_in_generate": True}
        if options.word_list is not None:
            generate |= {"num_beams": options.beams, "num_return_sequences": options.beams}
            if generate.get("return_timestamps"):
                # Beams that write times as well say a short word over and over; segments have their own.
                generate["return_timestamps"] = False
        # Not inference mode: tables that bases cache on their way could never be trained with afterwards.
        with torch.no_grad():
            languages = [piece.language or options.language for piece in batch]
            inputs = self.processor.apply_transcription_request(
                [piece.segment.waveform for piece in batch], languages, options.prompt, options.task
            ).to(self.model.device)
            outputs = self.model.generate(**inputs, **generate)
        new_ids = self.requests.new_ids(outputs, inputs)
        if options.word_list is None:
            return outputs, new_ids
        words = self._word_lists[str(options.word_list)]
        # The beams of a clip stand side by side, the likeliest first.
        texts, each = self.processor.batch_decode(new_ids), options.beams
        rows = [first + words.best(texts[first : first + each]) for first in range(0, len(texts), each)]
        if outputs.get("token_times") is not None:
            outputs["token_times"] = outputs["token_times"][rows]
        return outputs, new_ids[rows]

    def _words(self, piece: Piece, options: TranscriptionOptions, outputs, new_ids, row: int) -> list:
        """Words of a piece, whose ids are a row of `new_ids` `[B, N]`, with their times and confidence."""
        logprobs = outputs.get("token_logprobs")
        return timed_words(
            self.processor.tokenizer,
            new_ids[row].tolist(),
            outputs["token_times"][row].tolist(),
            None if logprobs is None else logprobs[row].tolist(),
            piece.language or options.language,
            piece.segment.duration,
        )

    def postprocess(self, pieces: list[Piece], options: TranscriptionOptions) -> dict:  # type: ignore[override]
        """The result of one source from its pieces."""
        pieces = [part for piece in pieces for part in piece.parts or [piece]]
        if pieces and pieces[-1].error is not None:
            return {"error": pieces[-1].error}
        result: dict = {"text": joined([piece.text for piece in pieces if piece.text])}
        if options.return_timestamps or options.routing == SEGMENTS:
            result["chunks"] = [chunk for piece in pieces for chunk in self._chunks(piece, options)]
        result |= self._language(pieces, options)
        if options.return_confidence:
            known = [piece.confidence for piece in pieces if piece.confidence is not None]
            result["confidence"] = float(np.mean(known)) if known else None
        guarded = [
            {"timestamp": piece.timestamp, "reason": piece.guarded} for piece in pieces if piece.guarded
        ]
        return {**result, "guarded": guarded} if guarded else result

    def _chunks(self, piece: Piece, options: TranscriptionOptions) -> Iterator[dict]:
        """A segment, its parts where the decoder wrote their times, or its words."""
        spans = piece.spans or [(0.0, piece.segment.duration, piece.text)]
        parts = [(*span, piece.confidence) for span in spans]
        if options.return_timestamps == WORDS:
            parts = [(word.start, word.end, word.text, word.confidence) for word in piece.words]
        for start, end, text, confidence in parts:
            chunk: dict = {"text": text, "timestamp": piece.times(start, end)}
            if options.return_confidence:
                chunk["confidence"] = confidence
            if options.return_language and piece.language is not None:
                chunk["language"] = piece.language
            yield chunk

    def _language(self, pieces: list[Piece], options: TranscriptionOptions) -> dict:
        """The language of most of a source, and the mean of the router's scores, weighted by duration."""
        if not options.return_language and all(piece.language_scores is None for piece in pieces):
            return {}
        seconds: dict[str, float] = collections.defaultdict(float)
        scores: dict[str, float] = collections.defaultdict(float)
        routed = 0.0
        for piece in pieces:
            if piece.language is not None:
                seconds[piece.language] += piece.segment.duration
            for label, score in (piece.language_scores or {}).items():
                scores[label] += score * piece.segment.duration
            routed += piece.segment.duration if piece.language_scores else 0.0
        language = max(seconds, key=seconds.__getitem__) if seconds else options.language
        if not routed:
            return {"language": language}
        return {"language": language, "language_scores": {k: v / routed for k, v in scores.items()}}

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save the model and its processor; together they load as this pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        own = ("include_bases", "state_dict", "max_shard_size", "is_main_process")
        self.processor.save_pretrained(
            save_directory, **{name: value for name, value in kwargs.items() if name not in own}
        )


def joined(texts: list[str]) -> str:
    """Segments' texts as one, with spaces between them except inside scripts that have none."""
    seams = [
        "" if UNSPACED.match(before[-1]) and UNSPACED.match(after[0]) else " "
        for before, after in itertools.pairwise(texts)
    ]
    return "".join(text + seam for text, seam in zip(texts, [*seams, ""], strict=False))


def token_confidence(outputs, new_ids: torch.Tensor, pad: int) -> list[float | None]:
    """Geometric mean of the probabilities of each row's tokens; `None` where the decoding kept none.

    Behind a row's end are padding and zeros; within it, zero is the log-probability of a certain token.
    """
    logprobs = outputs.get("token_logprobs")
    if logprobs is None:
        return [None] * len(new_ids)
    places = torch.arange(1, new_ids.shape[1] + 1, device=new_ids.device)
    written = (((new_ids != pad) | (logprobs != 0)) * places).amax(-1).clamp(min=1)
    return (logprobs.sum(-1) / written).exp().tolist()


def is_single(inputs) -> bool:
    """Whether `inputs` is one source, and not a collection of them."""
    if isinstance(inputs, (list, tuple)):
        return not is_batch(inputs)
    if isinstance(inputs, SINGLE_KINDS) or any(hasattr(inputs, name) for name in SINGLE_METHODS):
        return True
    # What cannot be gone through is one source, of which reading says what is wrong with it.
    return not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__"))


SINGLE_KINDS = (str, bytes, bytearray, memoryview, dict, np.ndarray, torch.Tensor)
# Of binary files, paths and audio decoders, some of which can be gone through as well.
SINGLE_METHODS = ("read", "__fspath__", "get_all_samples")
