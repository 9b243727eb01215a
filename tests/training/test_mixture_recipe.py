"""Joint training: the bank learns under the router's own mixtures, and the router too if it is asked to."""

import numpy as np
import pytest
import torch
from speechllm.modeling.length_masks import input_lengths
from speechllm.modeling.router.row_routing import route
from speechllm.training.routing.mixture_recipe import Mixture, mixture_weights
from speechllm.training.trained_parts import set_trained_parts
from tone_languages import RATE, spoken

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
BANK = {"it": {"decoder": LORA}, "fr": {"encoder": LORA, "decoder": LORA}, "el": {"decoder": LORA}}
ROUTER = {"labels": ["it", "fr", "el"], "hidden_sizes": [16], "layer": 0}


@pytest.fixture
def composed(compose_whisper):
    """`(model, processor, batch)`; adapters as if trained apart, and a router that is unsure."""
    model, processor = compose_whisper(lora_bank=BANK, router_config=ROUTER, encoder_padding="longest")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, processor, batch_of(processor)


def batch_of(processor) -> dict:
    generator = np.random.default_rng(0)
    languages = ["it", "fr", "it", "fr"]
    clips = [spoken(name, 0.6 + 0.2 * place, generator) for place, name in enumerate(languages)]
    return dict(
        processor.apply_training_request(
            clips, ["ab", "cd", "ef", "gh"], language=languages, sampling_rate=RATE
        )
    )


def copies(parameters) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def bank_of(model, *adapters: str) -> list[torch.Tensor]:
    return copies(p for adapter in adapters for p in model.lora_bank.parameters_of(adapter))


def router_of(model) -> list[torch.Tensor]:
    return copies(model.speech_model.router.parameters())


def unchanged(before: list[torch.Tensor], after: list[torch.Tensor]) -> list[bool]:
    assert before
    return [torch.equal(one, other) for one, other in zip(before, after, strict=True)]


def trained(model, processor, batch, parts: list[str], steps: int = 20) -> list[float]:
    """Losses of some steps of AdamW on one batch."""
    set_trained_parts(model, parts)
    objective = Mixture(model, processor, {})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(**batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def test_bank_learns_under_the_mixture_and_the_router_stays(composed):
    model, processor, batch = composed
    bank, router = bank_of(model, *BANK), router_of(model)
    losses = trained(model, processor, batch, ["bank:*"])
    assert losses[-1] < 0.8 * losses[0]
    # Soft rows give every adapter a share.
    assert not any(unchanged(bank, bank_of(model, *BANK)))
    assert all(unchanged(router, router_of(model)))


def test_chosen_adapters_alone_can_be_trained(composed):
    model, processor, batch = composed
    chosen, others = bank_of(model, "fr"), bank_of(model, "it", "el")
    trained(model, processor, batch, ["bank:fr"], steps=2)
    assert not any(unchanged(chosen, bank_of(model, "fr")))
    assert all(unchanged(others, bank_of(model, "it", "el")))


def test_router_learns_through_the_mixture_where_it_is_trained(composed):
    model, processor, batch = composed
    router = router_of(model)
    losses = trained(model, processor, batch, ["bank:*", "router"])
    assert losses[-1] < 0.8 * losses[0]
    assert not any(unchanged(router, router_of(model)))


@pytest.mark.parametrize("strategy", ["soft", "threshold", "hard"])
def test_weights_are_those_of_generation(composed, strategy):
    model, _, batch = composed
    model.train()  # dropout of the router is not for those who only ask it
    found = mixture_weights(model, batch["input_features"], batch["input_features_mask"], strategy)
    assert model.speech_model.router.training and not found.requires_grad
    model.eval()
    lengths = input_lengths(model.config, batch["input_features"], batch["input_features_mask"])
    with torch.no_grad():
        routed = route(model.speech_model, batch["input_features"], lengths, [None] * 4, strategy)
    torch.testing.assert_close(found, routed.weights)
    assert found.shape == (4, 3)


def test_evaluation_routes_as_in_use(composed):
    model, processor, batch = composed
    objective = Mixture(model, processor, {})
    given = {**batch, "routing_weights": torch.eye(3)[[2, 2, 2, 2]]}
    soft = model.generate(**batch, routing="soft", max_new_tokens=6)
    assert objective.predict(given, max_new_tokens=6).tolist() == soft.tolist()
    assert model.generate(**given, max_new_tokens=6).tolist() != soft.tolist()
    with torch.no_grad():
        assert objective(**given)["loss"] == objective(**batch)["loss"]


def test_what_cannot_be_mixed_is_refused(composed, compose_whisper):
    model, processor, batch = composed
    features = batch["input_features"]
    with pytest.raises(ValueError, match="no gradient reaches the router through 'hard' rows"):
        mixture_weights(model, features, strategy="hard", through_router=True)
    with pytest.raises(ValueError, match="no strategy 'base' of mixtures; there are hard, soft"):
        Mixture(model, processor, {"strategy": "base"})
    bare, _ = compose_whisper(lora_bank=BANK)
    with pytest.raises(ValueError, match="has no router, whose mixtures are to be trained"):
        mixture_weights(bare, features)
