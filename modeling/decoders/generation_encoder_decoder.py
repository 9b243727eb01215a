"""`generate` of an encoder-decoder: what the tokens before a transcript say, row by row, then decoding."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationMixin
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from ...configuration.whisper_tokens import WhisperTokens
from ..encoder_pass import EncoderPass
from ..greedy_rows import SpeechGenerateOutput
from ..length_masks import input_lengths, mask_if_padded
from ..router.row_routing import Routing, adapters_settled, one_a_clip, route
from .long_form import STOCK_ARGUMENTS, transcribe_long
from .token_times import heard_frames, token_times

# What is put together of groups of rows that were decoded apart.
ROW_FIELDS = ("sequences", "token_logprobs", "looped", "exhausted", "token_times")


@dataclass
class Request:
    """What the caller wants of every clip."""

    tokens: WhisperTokens
    languages: list[str | None]
    task: str | None
    timestamps: bool
    token_times: bool
    context: list[int]
    prompt_ids: torch.Tensor | None  # [B, P], a whole prompt instead of all that
    prompt_mask: torch.Tensor | None

    def part(self, row: int) -> "Request":
        """What is wanted of one clip."""
        return replace(self, languages=self.languages[row : row + 1])

    def prompts(self, rows: list[int], device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decoder prompts of some clips, `[rows, P]`, and their mask where they differ in length."""
        if self.prompt_ids is not None:
            mask = None if self.prompt_mask is None else self.prompt_mask[rows]
            return self.prompt_ids[rows], mask
        made = [
            self.tokens.prompt(self.languages[row], self.task, self.timestamps, self.context) for row in rows
        ]
        return torch.tensor(made, device=device), None


def transcribe(
    model,
    input_features=None,
    input_features_mask=None,
    language=None,
    task=None,
    prompt_ids=None,
    routing=None,
    routing_weights=None,
    return_timestamps=False,
    return_token_timestamps=False,
    decoder_prompt_ids=None,
    decoder_prompt_mask=None,
    labels=None,
    generation_config=None,
    stop_loops=True,
    encoder_states=None,
    feature_lengths=None,
    **kwargs,
):
    """New ids `[B, N]` for a batch of clips.

    `language`: a code or name, or one a clip; without it the router or the base finds it. `routing`: how the
    bank's adapters are chosen, "hard", "soft", "threshold", "hierarchical", "oracle" (by `language`) or
    "base", the checkpoint's own way by default; `routing_weights` `[B, N]` say it themselves. `task`:
    "transcribe" or "translate". `prompt_ids` `[P]`: text that came before, or words that may occur.
    `return_timestamps` lets timestamp tokens stand among the ids; `return_token_timestamps` gives an output
    with `token_times`. `decoder_prompt_ids` `[B, P]` say all of that by themselves; `labels`, as an
    evaluating trainer passes them, are not looked at. `encoder_states` `[B, T, D]` with `feature_lengths`
    `[B]` stand in for features, once the encoder has run.
    """
    if input_features is None and encoder_states is None:
        raise ValueError("nothing to listen to: pass input_features")
    stock = {name: kwargs.pop(name) for name in STOCK_ARGUMENTS if kwargs.get(name) is not None}
    settings, arguments, limited = model.settled(generation_config, kwargs, 0)
    settings.return_dict_in_generate = bool(settings.return_dict_in_generate or return_token_timestamps)
    if decoder_prompt_ids is None:
        decoder_prompt_ids = arguments.pop("decoder_input_ids", None)
    lengths = feature_lengths
    if input_features is not None:
        lengths = input_lengths(model.config, input_features, input_features_mask)
    request = Request(
        tokens=WhisperTokens.from_generation_config(settings),
        languages=one_a_clip(language, len(lengths)),
        task=task,
        timestamps=bool(return_timestamps),
        token_times=bool(return_token_timestamps),
        context=[] if prompt_ids is None else torch.as_tensor(prompt_ids).tolist(),
        prompt_ids=decoder_prompt_ids,
        prompt_mask=decoder_prompt_mask,
    )
    heard = lengths.clamp(max=model.config.max_inputs)
    found = route(model.model, input_features, heard, request.languages, routing, routing_weights)
    if input_features is None:
        found.encoder_pass = EncoderPass.ended(model.model, encoder_states, lengths)
    request.languages = found.languages
    with adapters_settled(model.model):
        if stock or int(lengths.max()) > model.config.max_inputs:
            return transcribe_long(model, input_features, lengths, request, found, {**kwargs, **stock})
        decoding = Decoding(model, settings, arguments, limited, stop_loops)
        return decoding.run(request, found, input_features, lengths)


class Decoding:
    """One call: clips that are encoded in the same way are decoded together."""

    def __init__(self, model, settings, arguments: dict, limited: bool, stop_loops: bool):
        self.model, self.settings, self.arguments = model, settings, arguments
        self.limited, self.stop_loops = limited, stop_loops
        self.whisper: Any = model.causal_lm

    def run(self, request: Request, found: Routing, features: torch.Tensor, lengths: torch.Tensor):
        """What `generate` returns."""
        padding, left = self.model.config.encoder_padding, found.base_rows()
        groups: dict[str, list[int]] = {}
        for row, base in enumerate(left):
            # The base was trained on 30 s and on nothing else, whatever the adapters were trained on.
            groups.setdefault("max_length" if base else padding, []).append(row)
        done = []
        for form, rows in groups.items():
            group = found if len(groups) == 1 else found.part(rows)
            heard = None if features is None else features[rows]
            done.append((rows, self.decode(request, group, rows, heard, lengths[rows], form)))
        outputs = merged(done, self.settings.pad_token_id or 0)
        if self.settings.return_dict_in_generate:
            # As items: the outputs of stock loops have no such attributes, and are read like dicts.
            outputs["language"] = request.languages
            if found.scores is not None:
                outputs["language_scores"] = found.scores
        return outputs

    def decode(self, request: Request, found: Routing, rows: list[int], features, lengths, padding: str):
        """Ids, or an output that holds them, of the clips `rows`, whose features and lengths are given."""
        bank = self.model.model.bank
        bank.use(found.weights)
        goes_on = found.encoder_pass is not None and padding == self.model.config.encoder_padding
        states, mask = self._encode(features, lengths, padding, found.encoder_pass if goes_on else None)
        if request.prompt_ids is None:
            self._detect(request, rows, states, mask)
        prompt, prompt_mask = request.prompts(rows, states.device)
        settings, arguments = self._bounded(request, prompt, lengths)
        if mask is not None:
            arguments["encoder_attention_mask"] = mask
        if prompt_mask is not None:
            arguments["decoder_attention_mask"] = prompt_mask
        # Not looked at: the stock method warns where it finds none.
        arguments["attention_mask"] = torch.ones(len(rows), 1, device=states.device)
        # The stock method fills gaps in its settings from the model's own.
        self.whisper.generation_config = settings
        outputs: Any = GenerationMixin.generate(
            self.whisper,
            decoder_input_ids=prompt,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            generation_config=settings,
            **arguments,
        )
        if "custom_generate" not in arguments:
            outputs = _without_prompt(outputs, prompt.shape[1])
        if request.token_times:
            # Rows have left the bank as they ended.
            bank.use(found.weights)
            heard = heard_frames(features, lengths, states.shape[1])
            outputs["token_times"] = token_times(
                self.whisper, prompt, prompt_mask, outputs.sequences, states, mask, heard
            )
        return outputs

    def _encode(self, features, lengths, padding: str, begun=None):
        """Encoder states `[rows, T, D]` and their mask; a pass that has begun is finished."""
        stock = padding == "max_length"
        if features is None and begun is None:
            raise ValueError(
                "clips that are left to the base need input_features: encoder_states are for adapters"
            )
        states = (begun or EncoderPass(self.model.model, features, lengths, stock, not stock)).finish()
        frames = self.model.config.encoder_frames(lengths)
        return states, None if stock else mask_if_padded(frames, states.shape[1])

    def _detect(self, request: Request, rows: list[int], states, mask) -> None:
        """Fill in the languages that nobody named, by what the base says first."""
        codes = list(request.tokens.languages)
        unknown = [place for place, row in enumerate(rows) if request.languages[row] is None]
        if not codes or not unknown:
            return
        start = torch.full((len(unknown), 1), request.tokens.start, device=states.device)
        logits = self.whisper(
            decoder_input_ids=start,
            encoder_outputs=(states[unknown],),
            encoder_attention_mask=None if mask is None else mask[unknown],
            use_cache=False,
        ).logits[:, -1]
        ids = torch.tensor([request.tokens.languages[code] for code in codes], device=states.device)
        for place, best in zip(unknown, logits[:, ids].argmax(-1).tolist(), strict=True):
            request.languages[rows[place]] = codes[best]

    def _bounded(self, request: Request, prompt: torch.Tensor, lengths: torch.Tensor):
        """Settings and arguments of one stock call, with every row held to its budget."""
        settings, arguments = copy.deepcopy(self.settings), dict(self.arguments)
        room = self.whisper.max_target_positions - prompt.shape[1]
        if room < 1:
            raise ValueError(
                f"a prompt of {prompt.shape[1]} tokens leaves no room for text: this decoder holds "
                f"{self.whisper.max_target_positions}"
            )
        budgets = self.model.token_budgets(self.model.seconds_of(lengths))
        if self.limited:
            budgets = torch.full_like(budgets, settings.max_new_tokens)
        budgets = budgets.clamp(max=room).to(prompt.device)
        settings.max_length = settings.max_new_tokens = None
        if request.timestamps:
            marks = WhisperTimeStampLogitsProcessor(settings, begin_index=prompt.shape[1])
            arguments["logits_processor"] = [*(arguments.get("logits_processor") or []), marks]
        if self.model.bound(settings, arguments, budgets, self.stop_loops, prompt.shape[1]):
            arguments["rows_kept"] = self.model.model.bank.keep
            for name, setting in (("never", "suppress_tokens"), ("never_first", "begin_suppress_tokens")):
                if getattr(settings, setting, None):
                    arguments[name] = torch.tensor(getattr(settings, setting), device=prompt.device)
                setattr(settings, setting, None)
        return settings, arguments


def merged(groups: list[tuple[list[int], Any]], pad: int):
    """Outputs of groups of clips, each with its clips' places, as one output in the order of the clips."""
    if len(groups) == 1:
        return groups[0][1]
    order = torch.tensor([row for rows, _ in groups for row in rows]).argsort()
    as_dict = not isinstance(groups[0][1], torch.Tensor)
    together: dict[str, Any] = {}
    for name in ROW_FIELDS if as_dict else ("sequences",):
        parts: list[Any] = [getattr(output, name, None) if as_dict else output for _, output in groups]
        if any(part is None for part in parts):
            continue
        filler = pad if name == "sequences" else 0
        if parts[0].dim() > 1:
            longest, inner = max(part.shape[1] for part in parts), (0, 0) * (parts[0].dim() - 2)
            parts = [F.pad(part, (*inner, 0, longest - part.shape[1]), value=filler) for part in parts]
        # Several sequences of a clip stand side by side.
        each = len(parts[0]) // len(groups[0][0])
        places = (order[:, None] * each + torch.arange(each)).flatten().to(parts[0].device)
        together[name] = torch.cat(parts)[places]
    return SpeechGenerateOutput(**together) if as_dict else together["sequences"]


def _without_prompt(outputs, prompt: int):
    if isinstance(outputs, torch.Tensor):
        return outputs[:, prompt:]
    outputs.sequences = outputs.sequences[:, prompt:]
    return outputs
