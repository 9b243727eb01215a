"""Two languages with conflicting labels train apart and route apart: the whole way, on a tiny Whisper."""

import numpy as np
import pytest
import torch
from speechllm.configuration.configuration_router import RouterConfig
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.training.routing.router_clips import RouterClips
from speechllm.training.routing.router_states import encoded
from speechllm.training.routing.router_training import RouterTraining, train_router
from speechllm.training.trained_parts import set_trained_parts
from tone_languages import PITCHES, RATE, spoken

# Clip k has one rhythm in both languages, and another text in each.
TEXTS = {"it": ["abba", "cede", "fig", "hello"], "fr": ["zyx", "wuvwu", "tss", "roq"]}
LORA = {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]}
BANK = {name: {"encoder": LORA, "decoder": LORA} for name in TEXTS}


def clip(language: str, number: int, take: int = 0) -> np.ndarray:
    """`number` + 2 syllables, with the more silence behind each; every take has pitches of its own."""
    generator = np.random.default_rng([number, list(PITCHES).index(language), take])
    syllables = [
        np.concatenate([spoken(language, 0.25, generator), np.zeros(RATE // 10 * (1 + number), np.float32)])
        for _ in range(number + 2)
    ]
    return np.concatenate(syllables)


CLIPS = {language: [clip(language, number) for number in range(4)] for language in TEXTS}


@pytest.fixture(scope="module")
def composed(compose_whisper):
    """`(model, processor)` with untrained adapters and no router."""
    model, processor = compose_whisper(lora_bank=BANK, encoder_padding="longest")
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        # A fresh padding token is zeros, which no decoder can be trained to say; here it also ends texts.
        end = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(1))
        embeddings[processor.tokenizer.eos_token_id] = embeddings[5].norm() * end / end.norm()
    return model, processor


def fine_tune(model, processor, language: str) -> list[float]:
    """One adapter on its own language's clips; nothing else moves."""
    batch = processor.apply_training_request(
        CLIPS[language], TEXTS[language], language=language, sampling_rate=RATE
    )
    set_trained_parts(model, [f"bank:{language}"])
    own = model.lora_bank.parameters_of(language)
    optimizer = torch.optim.AdamW(own, lr=1e-2)
    model.use_adapters(language)
    model.train()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    model.use_adapters(None)
    return losses


def base_logits(model, processor) -> torch.Tensor:
    """What the base says, under no adapter."""
    sounds, texts = CLIPS["it"] + CLIPS["fr"], TEXTS["it"] + TEXTS["fr"]
    batch = processor.apply_training_request(sounds, texts, language="en", sampling_rate=RATE)
    with torch.no_grad():
        return model(**batch).logits


def trained_router(model, processor) -> LanguageRouter:
    """A router on the frozen encoder's states of other clips than those that will be transcribed."""
    # Layer 0: what the layers of a random encoder make of a tone says little about its pitch.
    config = RouterConfig(labels=["it", "fr"], hidden_sizes=[16], layer=0)
    torch.manual_seed(0)
    router = LanguageRouter(config, 32)
    takes = [(language, number, take) for take in (1, 2, 3) for number in range(4) for language in TEXTS]
    sounds, languages = [clip(*take) for take in takes], [language for language, _, _ in takes]
    states = encoded(model, processor, router, sounds, pooled=False)
    settings = RouterTraining(learning_rate=1e-2, max_epochs=10, batch_size=8)
    train_router(router, RouterClips(states, languages, config.labels), settings=settings)
    return router


def texts_of(model, processor, clips, **request) -> tuple[list[str], list[str]]:
    """Texts and languages."""
    inputs = processor.apply_transcription_request(clips, sampling_rate=RATE)
    inputs.pop("language")
    out = model.generate(**{**inputs, **request}, max_new_tokens=8, return_dict_in_generate=True)
    return [text.strip() for text in processor.batch_decode(out.sequences)], out.language


def test_two_languages_with_conflicting_labels_train_apart_and_route_apart(composed):
    model, processor = composed
    before = base_logits(model, processor)
    order = [("it", 0), ("fr", 0), ("fr", 1), ("it", 1), ("it", 2), ("fr", 3), ("it", 3), ("fr", 2)]
    mixed = [CLIPS[language][number] for language, number in order]
    expected = [TEXTS[language][number] for language, number in order]
    languages = [language for language, _ in order]
    others = ["fr" if language == "it" else "it" for language in languages]

    untrained, _ = texts_of(model, processor, mixed, language=languages, routing="base")
    assert not set(untrained) & set(expected)
    for language in TEXTS:
        losses = fine_tune(model, processor, language)
        assert losses[-1] < 0.6 * losses[0]
    model.set_router(trained_router(model, processor))

    assert texts_of(model, processor, mixed, routing="hard") == (expected, languages)
    # It takes the right adapter: the other one knows none of these texts.
    wrong, _ = texts_of(model, processor, mixed, language=others)
    assert all(text != right for text, right in zip(wrong, expected, strict=True))
    assert torch.equal(base_logits(model, processor), before)
    again, _ = texts_of(model, processor, mixed, language=languages, routing="base")
    assert again == untrained
