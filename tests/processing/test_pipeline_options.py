"""The pipeline's options, and the ways to make one."""

import numpy as np
import pytest
import torch
from sounds import RATE
from speechllm import SpeechLLMPipeline, SpeechLLMProcessor
from speechllm.processing.pipeline_speechllm import token_confidence
from transformers import GenerationConfig, pipeline

# --- options --------------------------------------------------------------------------------------------


def test_confidence_is_a_probability(asr, clips):
    for result in asr(clips, return_confidence=True, return_timestamps=True):
        assert 0 < result["confidence"] <= 1
        assert [chunk["confidence"] for chunk in result["chunks"]] == [result["confidence"]]
    assert asr(clips[0], return_confidence=True, num_beams=2)["confidence"] is None
    assert asr(np.zeros(RATE, np.float32), return_confidence=True)["confidence"] is None


def test_certain_tokens_count_and_padding_does_not():
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 0]])
    # Row 0 ends after its padding token, which is its end token too; row 1 is cut at 4.
    logprobs = torch.tensor([[0.0, 0.0, -2.0, -2.0, 0.0], [-1.0, 0.0, -1.0, 0.0, 0.0]])
    confidence = token_confidence({"token_logprobs": logprobs}, ids, pad=0)
    assert confidence == pytest.approx([np.exp(-1.0), np.exp(-0.5)])
    assert token_confidence({}, ids, pad=0) == [None, None]


def test_language_is_returned_as_given(asr, clips):
    assert asr(clips[0], language="it", return_language=True)["language"] == "it"
    assert asr(clips[0], return_language=True)["language"] is None


def test_language_task_and_prompt_reach_the_decoder(asr, clips, monkeypatch):
    seen = []
    ask = SpeechLLMProcessor.apply_transcription_request
    monkeypatch.setattr(
        SpeechLLMProcessor,
        "apply_transcription_request",
        lambda self, *args: seen.append(ask(self, *args)) or seen[-1],
    )
    asr(clips[0], language="it", task="translate", prompt="Kubernetes, etcd")
    text = asr.processor.tokenizer.decode(seen[0]["input_ids"][0])
    assert "Translate the speech in Italian into English." in text
    assert "Kubernetes, etcd" in text


def test_options_of_the_call_come_before_those_of_the_construction(parts, clips):
    model, processor = parts
    own = SpeechLLMPipeline(
        model=model, processor=processor, device="cpu", language="it", return_language=True, batch_size=3,
        chunk_length_s=1.0, max_new_tokens=3, generate_kwargs={"num_beams": 2},
    )  # fmt: skip
    assert own._chosen({}).batch_size == 3
    assert own._chosen({}).generate_kwargs == {"max_new_tokens": 3, "num_beams": 2}
    assert own._chosen({"batch_size": 5, "chunk_length_s": 2}).batch_size == 5
    assert own(clips[0])["language"] == "it"
    assert own(clips[0], language="fr")["language"] == "fr"
    assert own(clips[0], language=None)["language"] == "it"
    chosen = own._chosen(own._sanitize_parameters(num_beams=1, generate_kwargs={"top_k": 3})[1])
    assert chosen.generate_kwargs == {"max_new_tokens": 3, "num_beams": 1, "top_k": 3}
    assert len(own(clips[3], return_timestamps=True)["chunks"]) > 1


def test_generation_settings_are_taken_bare_and_in_a_dict(asr, clips, texts):
    shorter = asr(clips[5], max_new_tokens=3)["text"]
    assert len(shorter) < len(texts[5])
    assert asr(clips[5], generate_kwargs={"max_new_tokens": 3})["text"] == shorter
    assert asr(clips[5], generate_kwargs=None)["text"] == texts[5]
    assert asr(clips[5], generation_config=GenerationConfig(max_new_tokens=3))["text"] != ""
    beams = asr(clips[:3], num_beams=2, max_new_tokens=5)
    assert [r["text"] for r in beams] == [asr(c, num_beams=2, max_new_tokens=5)["text"] for c in clips[:3]]
    torch.manual_seed(0)
    sampled = {asr(clips[5], do_sample=True, temperature=5.0)["text"] for _ in range(3)}
    assert len(sampled) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_timestamps": "word"}, "no source of word alignment; return_timestamps=True"),
        ({"return_timestamps": "char"}, "return_timestamps is True, False or 'word', not 'char'"),
        ({"langage": "it"}, "no option 'langage'; did you mean 'language'"),
        ({"num_beam": 2}, "no option 'num_beam'; did you mean 'num_beams'"),
        ({"zzzz": 2}, "no option 'zzzz'; there are batch_size, chunk_length_s"),
        ({"save_pretrained": 2}, "no option 'save_pretrained'"),
        ({"chunk_length_s": 31}, "more than 0 and at most 30 for this encoder, not 31"),
        ({"chunk_length_s": 0}, "more than 0 and at most 30"),
        ({"chunk_length_s": -1.0}, "more than 0 and at most 30"),
        ({"chunk_length_s": float("nan")}, "more than 0 and at most 30"),
        ({"chunk_length_s": "10"}, "not '10'"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, not 0"),
        ({"batch_size": "8"}, "not '8'"),
        ({"language": ["it", "fr"]}, "language is one text for all"),
        ({"on_error": "ignore"}, "on_error is 'raise' or 'return', not 'ignore'"),
    ],
)
def test_wrong_options_are_refused_at_once(asr, parts, clips, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        asr(clips[0], **options)
    assert "\n" not in str(caught.value)
    # A generator is not begun, and a pipeline not built.
    with pytest.raises(ValueError, match=message):
        asr(iter(clips), **options)
    model, processor = parts
    with pytest.raises(ValueError, match=message):
        SpeechLLMPipeline(model=model, processor=processor, device="cpu", **options)


def test_unknown_task_is_refused_with_the_known_ones(asr, clips):
    with pytest.raises(ValueError, match="no task 'transcribr'; did you mean 'transcribe'"):
        asr(clips[0], task="transcribr")


def test_several_texts_a_clip_are_refused(asr, clips):
    with pytest.raises(ValueError, match="set num_return_sequences to 1"):
        asr(clips[:2], num_beams=2, num_return_sequences=2)


def test_encoders_without_positions_take_any_chunk_length(compose, clips):
    model, processor = compose("hubert_base")
    own = SpeechLLMPipeline(
        model=model, processor=processor, device="cpu", chunk_length_s=45, max_new_tokens=3
    )
    assert own(np.concatenate([clips[5]] * 8))["text"]
    with pytest.raises(ValueError, match="chunk_length_s must be more than 0 for this encoder, not inf"):
        own(clips[0], chunk_length_s=float("inf"))


def test_checkpoint_says_how_long_its_chunks_are_and_the_caller_comes_first(compose, clips):
    own = SpeechLLMPipeline(*compose("whisper", "llama", "mlp", chunk_length_s=2), device="cpu")
    sound = np.tile(clips[5], 3)
    seconds = len(sound) / RATE
    assert seconds > 4
    chunks = own(sound, return_timestamps=True, max_new_tokens=2)["chunks"]
    assert len(chunks) >= seconds / 2
    whole = own(sound, return_timestamps=True, max_new_tokens=2, chunk_length_s=30)["chunks"]
    assert [one["timestamp"] for one in whole] == [(0.0, round(seconds, 3))]


def test_silence_is_left_out_and_reported(asr, clips, texts):
    quiet = np.zeros(2 * RATE, np.float32)
    assert asr(quiet) == {"text": "", "guarded": [{"timestamp": (0.0, 2.0), "reason": "silence"}]}
    batch = asr([quiet, clips[3], quiet + 1e-5], batch_size=3)
    assert [result["text"] for result in batch] == ["", texts[3], ""]
    assert "guarded" not in batch[1]
    assert batch[2]["guarded"][0]["reason"] == "silence"
    mixed = asr(np.concatenate([clips[5][: 2 * RATE], quiet]), chunk_length_s=2, return_timestamps=True)
    assert [part["reason"] for part in mixed["guarded"]] == ["silence"]
    assert mixed["guarded"][0]["timestamp"] == mixed["chunks"][-1]["timestamp"]


def test_repetition_is_cut_and_reported(asr, clips):
    letter = asr.processor.tokenizer.convert_tokens_to_ids("h")
    others = [token for token in range(len(asr.processor.tokenizer)) if token != letter]
    result = asr(clips[5], suppress_tokens=others, max_new_tokens=40)
    assert result["guarded"] == [{"timestamp": (0.0, 4.0), "reason": "repetition"}]
    assert 1 <= result["text"].count("h") == len(result["text"]) < 12
    freely = asr(clips[5], suppress_tokens=others, max_new_tokens=40, generate_kwargs={"stop_loops": False})
    assert freely == {"text": "h" * 40}


def test_text_that_its_budget_cut_is_reported_and_a_callers_limit_is_not(parts, clips, monkeypatch):
    model, processor = parts
    monkeypatch.setattr(model.config, "tokens_per_second", 1.0)
    monkeypatch.setattr(model.config, "extra_tokens", 0)
    own = SpeechLLMPipeline(model=model, processor=processor, device="cpu")
    cut = own(clips[5], eos_token_id=-2)
    assert cut["guarded"] == [{"timestamp": (0.0, 4.0), "reason": "budget"}]
    assert "guarded" not in own(clips[5], eos_token_id=-2, max_new_tokens=4)


# --- construction ---------------------------------------------------------------------------------------


def test_stock_factory_takes_the_objects(parts, clips, texts):
    model, processor = parts
    made = pipeline(
        "automatic-speech-recognition", model=model, processor=processor, pipeline_class=SpeechLLMPipeline,
        device="cpu", batch_size=2, max_new_tokens=12,
    )  # fmt: skip
    assert isinstance(made, SpeechLLMPipeline)
    assert [result["text"] for result in made(clips)] == texts
    assert made._chosen({}).batch_size == 2


@pytest.fixture()
def checkpoint(asr, bases, tmp_path, monkeypatch):
    """A checkpoint as the pipeline saves it; its code is cached by the folder's name, which is its own."""
    folder = tmp_path / f"checkpoint-of-{tmp_path.name}"
    asr.save_pretrained(folder, include_bases=False)
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    return str(folder)


def test_stock_factory_takes_a_saved_pipeline(checkpoint, clips, texts):
    trusted = pipeline("automatic-speech-recognition", model=checkpoint, trust_remote_code=True, device="cpu")
    assert type(trusted).__name__ == "SpeechLLMPipeline"
    assert [result["text"] for result in trusted(clips, max_new_tokens=12)] == texts
    own = pipeline(
        "automatic-speech-recognition", model=checkpoint, pipeline_class=SpeechLLMPipeline, device="cpu"
    )
    assert type(own) is SpeechLLMPipeline
    assert [result["text"] for result in own(clips, max_new_tokens=12)] == texts


def test_stock_factory_honours_dtype(checkpoint, clips):
    half = pipeline(
        "automatic-speech-recognition", model=checkpoint, trust_remote_code=True, device="cpu",
        dtype=torch.bfloat16,
    )  # fmt: skip
    assert half.model.dtype == torch.bfloat16
    assert half(clips[5], max_new_tokens=4)["text"]


def test_model_trains_after_the_pipeline_used_it(compose, clips):
    model, processor = compose()
    # Bases cache tables while they run (rotary frequencies of long inputs): those of inference mode could
    # not be trained with.
    cached = []
    hook = model.model.language_model.register_forward_hook(
        lambda module, args, outputs: cached.append(outputs.last_hidden_state.is_inference())
    )
    SpeechLLMPipeline(model=model, processor=processor, device="cpu")(clips[5], max_new_tokens=2)
    hook.remove()
    assert set(cached) == {False}
    model.train()
    model(**processor.apply_training_request(clips[:2], ["a", "b"])).loss.backward()
    assert all(p.grad is not None for p in model.model.adapter.parameters())


def test_processor_of_another_model_is_refused_with_both_numbers(parts, compose):
    model, _ = parts
    for other, numbers in (
        (compose(stack_factor=5)[1], "counts 100 .* makes 125"),
        (compose("hubert_base")[1], r"counts \d+ .* makes 125"),
    ):
        with pytest.raises(ValueError, match=f"{numbers} .*: they are not of one checkpoint") as caught:
            SpeechLLMPipeline(model=model, processor=other)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="needs processor="):
        SpeechLLMPipeline(model=model)
