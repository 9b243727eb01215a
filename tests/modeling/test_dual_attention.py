"""Two cross-attentions and a gate: the base at first, trained from step one, cached, saved, explained."""

import math

import pytest
import torch
from moved_parameters import move
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.configuration.configuration_adapters import adapter_config
from speechllm.modeling.adapters.adapter_dual_attention import DualAttentionAdapter
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer

FORMS = {
    "token": {},
    "head": {"gate": "head"},
    "channel": {"gate": "channel"},
    "low rank": {"rank": 2},
    "low rank, head": {"rank": 2, "gate": "head"},
    "published": {"init": "published"},
}
TOKENS = torch.tensor([[257, 258, 264, 268, 70, 80, 90], [257, 258, 264, 268, 71, 81, 91]])


@pytest.fixture(scope="module")
def features(compose_whisper, clips) -> dict:
    _, processor = compose_whisper()
    request = processor([clips[2], clips[4]])
    return {name: request[name] for name in ("input_features", "input_features_mask") if name in request}


@pytest.fixture(scope="module")
def stock(bases):
    return WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()


@pytest.fixture(params=FORMS, ids=lambda name: name.replace(", ", "_").replace(" ", "_"))
def form(request) -> dict:
    return FORMS[request.param]


def padded(features: dict) -> torch.Tensor:
    """The features as stock Whisper wants them: 30 s."""
    given = features["input_features"]
    floor = given.amax(dim=(1, 2), keepdim=True) - 2.0
    return torch.cat([given, floor.expand(-1, given.shape[1], 3000 - given.shape[2])], dim=2)


SHORT = {"encoder_padding": "longest"}  # A twentieth of the frames, and a mask.


def trained(compose_whisper, **fields):
    """A model whose branches have gone apart."""
    model, _ = compose_whisper("dual_attention", **{**SHORT, **fields})
    move(model.model.adapter.parameters(), 0.3)
    return model


def decoded(model, features, **options) -> list:
    return model.generate(**features, language="en", max_new_tokens=8, **options).tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_untrained_model_is_the_base_bit_for_bit(compose_whisper, bases, features, form, attention):
    model, _ = compose_whisper("dual_attention", attn_implementation=attention, **form)
    folder = bases / "tiny--whisper_asr"
    base = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation=attention).eval()
    with torch.no_grad():
        wanted = base(padded(features), decoder_input_ids=TOKENS).logits
        assert torch.equal(model(**features, decoder_input_ids=TOKENS).logits, wanted)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_an_untrained_model_writes_what_the_base_writes(compose_whisper, features, form, options):
    plain, _ = compose_whisper("cross_attention", **SHORT)
    model, _ = compose_whisper("dual_attention", **SHORT, **form)
    assert decoded(model, features, **options) == decoded(plain, features, **options)


def first_gradients(model, features) -> dict[str, float]:
    model.train()
    labels = torch.tensor([[70, 80, 90, 256], [71, 81, 256, -100]])
    model(**features, decoder_prompt_ids=TOKENS[:, :4], labels=labels).loss.backward()
    named = model.model.adapter.named_parameters()
    return {name: float(parameter.grad.abs().max()) for name, parameter in named}


@pytest.mark.parametrize("gate", ["token", "head", "channel"])
def test_gate_and_secondary_have_gradient_at_the_first_step(compose_whisper, features, gate):
    model, _ = compose_whisper("dual_attention", gate=gate, **SHORT)
    gradients = first_gradients(model, features)
    still = {name.split(".", 2)[2] for name, size in gradients.items() if size == 0}
    # The gate's first layer waits for its last one, which is zero.
    assert still == {"gate.trunk.weight", "gate.trunk.bias"}


def test_gate_and_low_rank_secondary_have_gradient_at_the_first_step(compose_whisper, features):
    model, _ = compose_whisper("dual_attention", rank=2, **SHORT)
    gradients = first_gradients(model, features)
    moving = {name.split(".", 2)[2] for name, size in gradients.items() if size > 0}
    ups = {f"attention.{name}.up.weight" for name in ("q_proj", "k_proj", "v_proj", "read_proj")}
    assert moving == {"norm.weight", "norm.bias", "gate.head.weight", "gate.head.bias"} | ups


def test_the_published_gate_has_none(compose_whisper, features):
    """Why there is another start."""
    gradients = first_gradients(compose_whisper("dual_attention", init="published", **SHORT)[0], features)
    assert max(size for name, size in gradients.items() if "gate" in name) == 0
    assert min(size for name, size in gradients.items() if "attention" in name) > 0


def distance_after(model, features, steps: int) -> float:
    """How far the branches are apart where both are trained, of the way that the primary has gone."""
    decoder, adapter = model.model.language_model, model.model.adapter
    primaries = [layer.encoder_attn for layer in decoder.layers]
    start = [primary.v_proj.weight.detach().clone() for primary in primaries]
    for primary in primaries:
        primary.requires_grad_(True)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        labels = torch.tensor([[70, 80, 90, 256], [71, 81, 256, -100]])
        model(**features, decoder_prompt_ids=TOKENS[:, :4], labels=labels).loss.backward()
        optimizer.step()
    values = [own.attention.v_proj.weight for own in adapter.layers]
    apart = [value - one.v_proj.weight for value, one in zip(values, primaries, strict=True)]
    gone = [one.v_proj.weight - before for one, before in zip(primaries, start, strict=True)]
    return float(torch.stack(apart).detach().norm() / torch.stack(gone).detach().norm())


def test_branches_part_even_where_both_are_trained(compose_whisper, features):
    # With a gate that says the same of every token, both would go the same way, to a few thousandths.
    assert distance_after(compose_whisper("dual_attention", **SHORT)[0], features, steps=8) > 2e-2


def test_cached_and_uncached_logits_are_the_same(compose_whisper, features, form):
    model = trained(compose_whisper, **form)
    with torch.no_grad():
        whole = model(**features, decoder_input_ids=TOKENS, use_cache=False).logits
        first = model(**features, decoder_input_ids=TOKENS[:, :4], use_cache=True)
        cache, steps = first.past_key_values, [first.logits]
        for place in range(4, TOKENS.shape[1]):
            output = model(
                **features,
                decoder_input_ids=TOKENS[:, place : place + 1],
                past_key_values=cache,
                use_cache=True,
            )
            steps.append(output.logits)
    assert torch.allclose(torch.cat(steps, dim=1), whole, atol=2e-4)
    assert torch.equal(torch.cat(steps, dim=1).argmax(-1), whole.argmax(-1))


def test_branches_do_not_share_a_place_in_the_cache(compose_whisper, features):
    model = trained(compose_whisper)
    with torch.no_grad():
        cache = model(**features, decoder_input_ids=TOKENS, use_cache=True).past_key_values
    layers = cache.cross_attention_cache.layers
    assert len(layers) == 4 and len(cache.self_attention_cache.layers) == 2
    assert not any(torch.equal(layers[0].keys, other.keys) for other in layers[1:])
    before = [layer.values.clone() for layer in layers]
    cache.reorder_cache(torch.tensor([1, 1]))
    for layer, values in zip(layers, before, strict=True):
        assert torch.equal(layer.values, values[[1, 1]])


@pytest.mark.parametrize("fields", [{}, {"rank": 2}, {"gate": "head"}], ids=["token", "low_rank", "head"])
def test_every_way_of_decoding_gives_the_same_text(compose_whisper, features, fields):
    model = trained(compose_whisper, **fields)
    wanted = decoded(model, features)
    assert decoded(model, features, cache_implementation="static") == wanted
    assert decoded(model, features, num_beams=2) == decoded(model, features, num_beams=2, use_cache=False)
    rows = [decoded(model, {name: given[[row]] for name, given in features.items()})[0] for row in (0, 1)]
    ends = [row[: row.index(256) + 1] if 256 in row else row for row in wanted]
    assert [row[: len(end)] for row, end in zip(rows, ends, strict=True)] == ends


def test_sdpa_and_eager_agree_where_padding_is_hidden(compose_whisper, features):
    logits = []
    for attention in ("sdpa", "eager"):
        model = trained(compose_whisper, attn_implementation=attention)
        with torch.no_grad():
            logits.append(model(**features, decoder_input_ids=TOKENS).logits)
    assert torch.allclose(*logits, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"rank": 2, "gate": "head"}, {"noise_loss_weight": 0.1}])
def test_trained_parts_survive_saving_and_loading_twice(compose_whisper, bases, features, tmp_path, fields):
    model = trained(compose_whisper, **fields)
    weights, wanted = [], model(**features, decoder_input_ids=TOKENS).logits
    for generation in ("first", "second"):
        model.save_pretrained(tmp_path / generation)
        weights.append((tmp_path / generation / "model.safetensors").read_bytes())
        model = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / generation, bases=bases)
        logits = model(**features, decoder_input_ids=TOKENS).logits
        # Not equal: tensors of a file lie at other addresses, and a product's rounding depends on those.
        assert torch.allclose(logits, wanted, atol=1e-5)
    assert weights[0] == weights[1]
    # The base is referred to, not copied.
    assert len(weights[0]) < 4.2 * model.parameter_counts()["adapter"] + 20000


def test_a_shut_gate_leaves_the_base_and_an_open_one_the_secondary(compose_whisper, stock, features):
    with torch.no_grad():
        base = stock(padded(features), decoder_input_ids=TOKENS).logits
        shut = trained(compose_whisper, gate_bias=60.0, encoder_padding="max_length")
        for layer in shut.model.adapter.layers:
            layer.gate.head.weight.zero_()
        assert torch.allclose(shut(**features, decoder_input_ids=TOKENS).logits, base, atol=1e-5)
        opened = trained(compose_whisper, gate_bias=-60.0, encoder_padding="max_length")
        swapped = WhisperForConditionalGeneration(stock.config).eval()
        swapped.load_state_dict(stock.state_dict())
        for own, layer in zip(opened.model.adapter.layers, swapped.model.decoder.layers, strict=True):
            nn.init.zeros_(own.gate.head.weight)
            nn.init.zeros_(own.gate.head.bias)
            layer.encoder_attn_layer_norm.load_state_dict(own.norm.state_dict())
            state = {k.replace("read_proj", "out_proj"): v for k, v in own.attention.state_dict().items()}
            layer.encoder_attn.load_state_dict(state)
        wanted = swapped(padded(features), decoder_input_ids=TOKENS).logits
        assert not torch.allclose(wanted, base, atol=1e-2)
        assert torch.allclose(opened(**features, decoder_input_ids=TOKENS).logits, wanted, atol=1e-4)


def test_notes_tell_the_gate_and_where_both_branches_looked(compose_whisper, features):
    model = trained(compose_whisper, attn_implementation="eager", gate="head")
    seen: dict[int, torch.Tensor] = {}

    def keep(index):
        return lambda module, inputs, output: seen.__setitem__(index, output[1])

    for index, layer in enumerate(model.model.language_model.layers):
        layer.encoder_attn.register_forward_hook(keep(index))
    with torch.no_grad(), model.model.adapter.noting(maps=True) as notes:
        model(**features, decoder_input_ids=TOKENS)
    gates, primary, secondary = notes.gates(), notes.maps("primary"), notes.maps("secondary")
    assert gates.shape == (2, 2, 7, 4) and 0 < gates.min() < gates.max() < 1
    assert torch.allclose(primary, torch.stack([seen[0], seen[1]]), atol=1e-5)
    assert secondary.shape == primary.shape and not torch.allclose(primary, secondary, atol=1e-2)
    assert torch.allclose(secondary.sum(-1), torch.ones(2, 2, 4, 7), atol=1e-5)
    # The first clip is the shorter one.
    frames = int(model.config.encoder_frames(features["input_features_mask"].sum(-1))[0])
    assert not secondary[:, 0, :, :, frames:].any() and secondary[:, 0, :, :, :frames].all()
    # Outside of the block nothing is kept.
    model(**features, decoder_input_ids=TOKENS)
    assert notes.gates().shape == gates.shape


def test_notes_of_decoding_hold_every_token(compose_whisper, features):
    model = trained(compose_whisper, rank=2)
    one = {name: given[:1] for name, given in features.items()}
    with model.model.adapter.noting(maps=True) as notes:
        ids = model.generate(**one, language="en", max_new_tokens=5, min_new_tokens=5)
    assert notes.gates().shape == (2, 1, 4 + 4, 1) and ids.shape == (1, 5)
    assert notes.maps("secondary").shape[:4] == (2, 1, 4, 8)
    with pytest.raises(ValueError, match="with maps=True"), model.model.adapter.noting() as none:
        none.maps("primary")


def noise_loss(model, features, **batch):
    labels = torch.tensor([[70, 80, 90, 256], [71, 81, 256, -100]])
    adapter = model.model.adapter
    with adapter.noting() as notes:
        model(**features, decoder_prompt_ids=TOKENS[:, :4], labels=labels, **batch)
    return adapter.auxiliary_loss(notes, {**features, "labels": labels, **batch})


@pytest.mark.parametrize(
    "target, batch",
    [
        ("spectrum", {"noise_features": torch.randn(2, 80, 310)}),
        ("snr", {"snr_db": torch.tensor([math.inf, 5.0])}),
    ],
)
def test_the_noise_loss_teaches_the_secondary(compose_whisper, features, target, batch):
    model, _ = compose_whisper("dual_attention", noise_loss_weight=0.5, noise_target=target, **SHORT)
    model.train()
    optimizer = torch.optim.Adam(model.model.adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = noise_loss(model, features, **batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and math.isfinite(losses[0])
    for own in model.model.adapter.layers:
        assert own.attention.v_proj.weight.grad.abs().max() > 0


def test_the_noise_loss_is_off_by_default_and_wants_noise_where_it_is_on(compose_whisper, features):
    assert noise_loss(compose_whisper("dual_attention")[0], features) is None
    model, _ = compose_whisper("dual_attention", noise_loss_weight=0.5, **SHORT)
    assert noise_loss(model, features) is None  # an evaluation without noise
    model.train()
    with pytest.raises(ValueError, match="the batch has no 'noise_features'"):
        noise_loss(model, features)


def test_padding_of_labels_and_of_features_does_not_count_in_the_noise_loss(compose_whisper, features):
    model, _ = compose_whisper("dual_attention", noise_loss_weight=0.5, **SHORT)
    noise = torch.randn(2, 80, features["input_features"].shape[2])
    loss = noise_loss(model, features, noise_features=noise)
    beyond = noise.masked_fill(~features["input_features_mask"].bool()[:, None], 100.0)
    assert torch.allclose(noise_loss(model, features, noise_features=beyond), loss)


@pytest.mark.parametrize(
    "width, heads, layers, count",
    [(768, 12, 12, 49_609_740), (1024, 16, 24, 176_332_824), (1280, 20, 32, 367_288_352)],
    ids=["small", "medium", "large"],
)
def test_parameters_are_as_many_as_published_and_a_tenth_in_low_rank(width, heads, layers, count):
    config = WhisperConfig(d_model=width, decoder_attention_heads=heads, decoder_layers=layers, vocab_size=9)
    with torch.device("meta"):
        base = nn.ModuleList([WhisperDecoderLayer(config, index) for index in range(layers)])
        sizes = []
        for fields in ({"init": "published"}, {"rank": 16}, {"rank": width // 16}):
            adapter = DualAttentionAdapter(adapter_config("dual_attention", **fields), config, base)
            sizes.append(sum(parameter.numel() for parameter in adapter.parameters()))
    assert sizes[0] == count
    assert sizes[1] <= sizes[2] <= count / 10


def test_a_base_in_half_precision_can_have_a_second_attention_in_full(compose_whisper, features, form):
    model, _ = compose_whisper("dual_attention", dtype=torch.bfloat16, **SHORT, **form)
    parts = {"language_model": torch.bfloat16, "adapter": torch.float32}
    for part, dtype in parts.items():
        assert next(getattr(model.model, part).parameters()).dtype == dtype
    assert model(**features, decoder_input_ids=TOKENS).logits.isfinite().all()
    assert decoded(model, features)


def test_a_low_rank_secondary_follows_lora_on_the_base(compose_whisper, features):
    lora = {"decoder": {"r": 2, "target_modules": ["encoder_attn.q_proj", "encoder_attn.out_proj"]}}
    model, _ = compose_whisper("dual_attention", rank=2, lora_config=lora)
    plain, _ = compose_whisper("cross_attention", lora_config=lora)
    with torch.no_grad():
        lora = {name: torch.randn_like(one) for name, one in plain.named_parameters() if "lora" in name}
        for one in (model, plain):
            one.load_state_dict(lora, strict=False)
        wanted = plain(**features, decoder_input_ids=TOKENS).logits
        assert torch.equal(model(**features, decoder_input_ids=TOKENS).logits, wanted)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"gate": "frame"}, "gate"),
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"gate_gain": 2.0}, "gate_gain=2.0 must be from 0 to 1"),
        ({"noise_loss_weight": -1.0}, "noise_loss_weight"),
        ({"gate_biass": 1.0}, "did you mean 'gate_bias'"),
    ],
)
def test_wrong_fields_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        adapter_config("dual_attention", **fields)
    assert "\n" not in str(caught.value)
