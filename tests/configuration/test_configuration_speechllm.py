"""`SpeechLLMConfig` refuses in one line what is unknown or contradicts itself, and survives JSON."""

import copy
import json

import pytest
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration
from speechllm.configuration.configuration_adapters import ADAPTER_CONFIGS
from speechllm.configuration.configuration_lora import LoraConfig
from speechllm.configuration.configuration_prompt import AUDIO_TOKEN, PromptConfig
from tiny_bases import tiny_tokenizer
from transformers import AutoConfig, WhisperConfig

FULL = {
    "adapter_config": {"model_type": "qformer", "hidden_size": 32},
    "lora_config": {"encoder": {"r": 2}, "decoder": {"r": 4, "target_modules": ["o_proj"]}},
    "prompt_config": {"system": "You listen.", "user": "{audio} {instruction}"},
    "encoder_id": "tiny/whisper",
    "decoder_id": "tiny/llama",
    "prompt_ids": [1, -1, 2],
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outptu_norm": "rms"}, "no field 'outptu_norm'; did you mean 'output_norm'"),
        ({"output_norm": "layer"}, "output_norm.*rms.*none.*layer"),
        ({"tokens_per_second": "ten"}, "tokens_per_second.*str"),
        ({"extra_tokens": 1.5}, "extra_tokens.*expected int"),
        ({"extra_tokens": 0, "tokens_per_second": 0}, "no clip could become any text"),
        ({"extra_tokens": -1}, "at least 0"),
        ({"chunk_length_s": 0}, "more than 0, or None, not 0"),
        ({"encoder_id": "tiny/whisper"}, "named together or not at all"),
        ({"decoder_id": "tiny/llama"}, "named together or not at all"),
        ({"bases_included": True}, "without encoder_id"),
        ({"audio_config": {"model_type": "bert"}}, "no encoder of type 'bert'; there are hubert"),
        ({"audio_config": {"model_type": "wav2vec2", "add_adapter": True}}, "add_adapter"),
        ({"audio_config": 3}, "audio_config must be a config"),
        ({"text_config": {"model_type": "whisper"}}, "causal language model, not whisper"),
        ({"text_config": {"model_type": "t5"}}, "causal language model, not t5"),
        ({"text_config": {"model_type": "hubert"}}, "causal language model, not hubert"),
        ({"audio_config": {"model_type": "hubert"}, "encoder_padding": "max_length"}, "use 'longest'"),
        ({"adapter_config": {"model_type": "mpl"}}, "unknown adapter 'mpl'"),
        ({"adapter_config": {"model_type": "mlp", "stak_factor": 3}}, "did you mean 'stack_factor'"),
        ({"prompt_config": {"user": "Transcribe."}}, "{audio} exactly once"),
        ({"prompt_config": {"plain": "Go"}}, "must hold the slot {user}"),
        ({"prompt_config": {"user": "{audio} {lang}"}}, "no slot 'lang'"),
        (
            {"prompt_config": {"tasks": {"sum": "Sum up {langage}"}}},
            "no slot 'langage'; did you mean 'language'",
        ),
        ({"prompt_config": {"user": "{audio} }"}}, "brace"),
        ({"prompt_config": {"system": f"Hear {AUDIO_TOKEN}"}}, "write {audio} where the speech goes"),
        ({"prompt_config": {"sistem": "x"}}, "did you mean 'system'"),
        ({"prompt_config": {"tasks": {"sum": 3}}}, "dict of instructions"),
        ({"prompt_config": "Transcribe"}, "a prompt is described by fields"),
        ({"prompt_ids": [1, 2]}, "exactly once"),
        ({"prompt_ids": [-1, -1]}, "exactly once"),
        ({"lora_config": {"decodr": {"r": 2}}}, "did you mean 'decoder'"),
        ({"lora_config": {"decoder": {"lora_alfa": 2}}}, "did you mean 'lora_alpha'"),
        ({"lora_config": {"decoder": 8}}, "holds fields such as"),
        ({"lora_config": {"decoder": {"r": 0}}}, "r must be at least 1"),
        ({"lora_config": {"decoder": {"lora_dropout": 1.0}}}, "lora_dropout must be in"),
        ({"lora_config": {"decoder": {"target_modules": []}}}, "must name linears"),
        ({"max_new_tokens": 5}, "'max_new_tokens' is a generation setting"),
        ({"num_beams": 2}, "'num_beams' is a generation setting"),
    ],
)
def test_senseless_config_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message.replace("{", "[{]")) as refusal:
        SpeechLLMConfig(**fields)
    assert "\n" not in str(refusal.value)


def test_wrong_value_is_refused_when_it_is_set_later():
    config = SpeechLLMConfig()
    with pytest.raises(ValueError, match="^SpeechLLMConfig: .*output_norm"):
        config.output_norm = "layer"
    assert config.output_norm == "rms"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stak_factor": 4}, "did you mean 'stack_factor'"),
        ({"outptu_norm": "rms"}, "did you mean 'output_norm'"),
        ({"tokens_per_window": 3}, "no field 'tokens_per_window'"),
        ({"stack_factor": "4"}, "expected int"),
        ({"lora_config": {"decoder": {"lora_drop": 0.1}}}, "did you mean 'lora_dropout'"),
        ({"prompt_config": {"sistem": "x"}}, "did you mean 'system'"),
        ({"audio_config": {}}, "through encoder"),
        ({"adapter_config": {}}, "through adapter"),
        ({"output_norm": "x"}, "output_norm"),
    ],
)
def test_from_bases_refuses_before_it_reads_any_base(fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        SpeechLLMConfig.from_bases("no/such-encoder", "no/such-decoder", "mlp", **fields)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", sorted(ADAPTER_CONFIGS))
def test_no_field_belongs_to_both_adapter_and_model(kind):
    assert not ADAPTER_CONFIGS[kind].own_fields() & SpeechLLMConfig.own_fields()


def test_fields_reach_their_owners(bases):
    config = SpeechLLMConfig.from_bases(
        "tiny/whisper",
        "tiny/llama",
        "mlp",
        bases=bases,
        stack_factor=3,
        extra_tokens=9,
        lora_config={"decoder": {"r": 2}},
        prompt_config={"system": "Listen."},
    )
    assert config.adapter_config.stack_factor == 3
    assert config.extra_tokens == 9
    assert config.lora_config["decoder"].r == 2
    assert config.prompt_config.system == "Listen."
    assert config.encoder_id == "tiny/whisper"


def test_config_survives_its_file_and_its_dict(tmp_path):
    config = SpeechLLMConfig(**FULL)
    config.save_pretrained(tmp_path)
    again = SpeechLLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == {**config.to_dict(), "transformers_version": again.transformers_version}
    assert type(again.lora_config["decoder"]) is LoraConfig
    assert type(again.prompt_config) is PromptConfig
    assert type(again.adapter_config) is ADAPTER_CONFIGS["qformer"]
    assert AutoConfig.from_pretrained(tmp_path) == again
    assert SpeechLLMConfig.from_dict(again.to_dict()).to_dict() == again.to_dict()
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_overrides_of_a_file_pass_the_same_rules(tmp_path):
    SpeechLLMConfig(**FULL).save_pretrained(tmp_path)
    config = SpeechLLMConfig.from_pretrained(
        tmp_path,
        encoder_padding="max_length",
        adapter_config={"window_frames": 7},
        lora_config={"decoder": {}},
    )
    assert config.encoder_padding == "max_length"
    assert (config.adapter_config.window_frames, config.adapter_config.hidden_size) == (7, 32)
    assert config.lora_config["decoder"].r == 8
    for field, value in (("output_norm", "layer"), ("encoder_id", None), ("lora_config", {"x": {}})):
        with pytest.raises(ValueError) as refusal:
            SpeechLLMConfig.from_pretrained(tmp_path, **{field: value})
        assert "\n" not in str(refusal.value)


def test_unknown_key_of_a_file_is_refused(tmp_path):
    SpeechLLMConfig(**FULL).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "zeal": 1, "encoder_idd": "a"}))
    with pytest.raises(ValueError, match="no field 'encoder_idd'; did you mean 'encoder_id'"):
        SpeechLLMConfig.from_pretrained(tmp_path)


def test_nothing_given_is_altered(compose, bases, tmp_path):
    audio, given = WhisperConfig(), copy.deepcopy(FULL)
    before = audio.to_dict()
    SpeechLLMConfig(audio_config=audio, **given).audio_config.dtype = "float16"
    assert given == FULL
    assert audio.to_dict() == before
    compose()[0].save_pretrained(tmp_path)
    config = SpeechLLMConfig.from_pretrained(tmp_path)
    before = copy.deepcopy(config.__dict__)
    SpeechLLMForConditionalGeneration.from_pretrained(
        tmp_path, config=config, bases=bases, attn_implementation="eager", dtype="bfloat16"
    )
    assert config.__dict__ == before


def test_decoder_without_an_end_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        SpeechLLMConfig().set_tokens(tokenizer)


def test_default_prompt_is_the_rendered_one_with_a_gap_for_speech():
    tokenizer, config = (
        tiny_tokenizer(),
        SpeechLLMConfig(prompt_config={"user": "a{audio}b", "plain": "{user}"}),
    )
    config.set_tokens(tokenizer)
    letter = tokenizer.convert_tokens_to_ids
    assert config.prompt_ids == [letter("a"), -1, letter("b")]
    assert config.audio_token_id == letter(AUDIO_TOKEN)
    assert config.pad_token_id == tokenizer.eos_token_id
