"""Training a router: it learns, the same way twice, from what is balanced; and it is made honest."""

import pytest
import torch
from speechllm.configuration.configuration_router import RouterConfig
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.modeling.router.router_heads import ROUTER_HEADS
from speechllm.training.routing.router_clips import RouterClips, balanced
from speechllm.training.routing.router_scores import (
    accuracy_by_duration,
    calibrate,
    calibration_error,
    clip_logits,
    fitted_temperature,
    score_router,
)
from speechllm.training.routing.router_training import (
    RouterTraining,
    class_weights,
    learning_rate_share,
    train_router,
)

WIDTH = 16
NAMES = ["hi", "it"]


def synthetic(count: int, seed: int, noise: float = 1.0, names=tuple(NAMES)) -> RouterClips:
    """Clips of 3 to 60 frames; languages differ in the mean of half their channels."""
    generator = torch.Generator().manual_seed(seed)
    states, labels = [], []
    for index in range(count):
        label = index % len(names)
        frames = int(torch.randint(3, 61, (), generator=generator))
        voice = torch.randn(1, WIDTH, generator=generator)
        clip = noise * torch.randn(frames, WIDTH, generator=generator) + 0.3 * noise * voice
        clip[:, label::2] += 1.0
        states.append(clip)
        labels.append(names[label])
    return RouterClips(states, labels, list(names))


def router_of(head: str = "mlp", names=tuple(NAMES), **fields) -> LanguageRouter:
    torch.manual_seed(0)
    config = RouterConfig(
        labels=list(names), head=head, hidden_sizes=[16], cnn_channels=16, lstm_size=16, **fields
    )
    return LanguageRouter(config, WIDTH)


@pytest.mark.parametrize("head", ROUTER_HEADS)
def test_every_head_learns_two_languages_to_the_last_clip(head):
    clips, unheard = synthetic(96, 1), synthetic(64, 2)
    router = router_of(head)
    assert score_router(router, clips).accuracy < 0.9
    history = train_router(router, clips, settings=RouterTraining(learning_rate=5e-3, batch_size=16))
    assert score_router(router, clips).accuracy == 1.0
    assert score_router(router, unheard).accuracy > 0.95
    assert len(history) == 20 and history[-1].loss < 0.6 * history[0].loss
    assert not router.training


def test_same_seed_trains_the_same_weights_and_another_seed_others():
    trained = []
    for seed in (3, 3, 4):
        router = router_of("cnn")
        torch.rand(seed)  # what the caller drew before must not matter
        settings = RouterTraining(max_epochs=2, seed=seed, shortest_stretch=5)
        train_router(router, synthetic(40, 1), synthetic(10, 2), settings)
        trained.append(torch.cat([p.flatten() for p in router.parameters()]))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_training_leaves_the_caller_s_random_state_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train_router(_built(), synthetic(8, 1), settings=RouterTraining(max_epochs=1))
    assert torch.equal(torch.rand(3), expected)


def _built() -> LanguageRouter:
    with torch.random.fork_rng():
        return router_of()


def test_best_epoch_on_the_development_clips_is_kept_and_training_ends_without_a_better_one():
    clips, development = synthetic(40, 1, noise=4.0), synthetic(30, 2, noise=4.0)
    router = router_of("cnn", dropout=0)
    settings = RouterTraining(
        learning_rate=2e-2, max_epochs=40, patience=3, batch_size=8, label_smoothing=0.0
    )
    history = train_router(router, clips, development, settings)
    ranks = [(epoch.development_accuracy, -epoch.development_loss) for epoch in history]
    best = max(ranks)
    assert len(history) == ranks.index(best) + 1 + 3 < 40
    assert score_router(router, development).accuracy == pytest.approx(best[0])
    logits = clip_logits(router, development)
    assert torch.nn.functional.cross_entropy(logits, development.labels).item() == pytest.approx(
        -best[1], abs=1e-6
    )


def test_pooled_clips_train_what_their_frames_train():
    clips = synthetic(60, 1)
    trained = []
    for pooled in (False, True):
        router = router_of("linear", dropout=0)
        if pooled:
            vectors = [router.pool(clip[None], torch.tensor([len(clip)]))[0] for clip in clips.states]
            labels = [NAMES[label] for label in clips.labels.tolist()]
            given = RouterClips(vectors, labels, NAMES)
        else:
            given = clips
        # One batch an epoch, so that sorting by length cannot part the two.
        train_router(router, given, settings=RouterTraining(max_epochs=5, batch_size=60))
        trained.append(router.head.classifier[0].weight.detach())
    torch.testing.assert_close(*trained, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="head 'cnn' learns how to pool"):
        train_router(router_of("cnn"), given)


def test_balanced_epoch_has_every_label_equally_often_and_all_of_what_fits():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    drawn = torch.tensor(balanced(labels, torch.Generator().manual_seed(0)))
    assert torch.bincount(labels[drawn]).tolist() == [20, 20, 20]
    assert set(range(50, 60)) <= set(drawn.tolist())
    assert len({index for index in drawn.tolist() if index < 50}) == 20
    again = balanced(labels, torch.Generator().manual_seed(1))
    assert set(again) != set(drawn.tolist())


def test_rare_language_is_learnt_when_balanced():
    common, rare = synthetic(380, 1, noise=5.0), synthetic(16, 5, noise=5.0)
    states = [*common.states[0::2], *rare.states[1::2]]
    clips = RouterClips(states, ["hi"] * 190 + ["it"] * 8, NAMES)
    unheard = synthetic(200, 9, noise=5.0)
    accuracies = {}
    for name, fields in {
        "plain": {"balanced": False},
        "balanced": {},
        "weighted": {"balanced": False, "class_weights": "inverse_freq"},
    }.items():
        router = router_of("linear")
        train_router(router, clips, settings=RouterTraining(learning_rate=1e-2, **fields))
        # As many unheard clips of either language: a router that always says the rare one has half of them.
        accuracies[name] = score_router(router, unheard).accuracy
    assert min(accuracies["balanced"], accuracies["weighted"]) > accuracies["plain"] + 0.05


def test_class_weights_are_those_of_their_names_with_mean_one_and_a_limit():
    counts = torch.tensor([100, 25])
    for name, ratio in (("inverse_freq", 4.0), ("inverse_sqrt", 2.0)):
        weights = class_weights(counts, RouterTraining(class_weights=name))
        assert weights.mean() == pytest.approx(1.0) and weights[1] / weights[0] == pytest.approx(ratio)
    effective = class_weights(counts, RouterTraining(class_weights="effective_number"))
    assert (effective[1] / effective[0]).item() == pytest.approx(
        (1 - 0.9999**100) / (1 - 0.9999**25), rel=1e-5
    )
    many = torch.tensor([10**6] * 30 + [1])
    assert class_weights(many, RouterTraining(class_weights="inverse_freq")).max() == 10.0
    assert class_weights(counts, RouterTraining()) is None


def test_learning_rate_rises_in_a_line_and_falls_to_nothing():
    shares = [learning_rate_share(step, 100, 10) for step in range(101)]
    assert shares[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert shares[10] == 1.0 and shares[55] == pytest.approx(0.5) and shares[100] == pytest.approx(0.0)


def test_batches_hold_like_lengths_and_every_clip_once():
    clips = synthetic(200, 3)
    batches = clips.batches(list(range(200)), 8, torch.Generator().manual_seed(0))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    padding = sum(int(clips.lengths[batch].max()) * len(batch) for batch in batches)
    assert padding < 1.15 * int(clips.lengths.sum())
    longest = [int(clips.lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_stretches_are_within_their_clips_and_of_every_length():
    clips = RouterClips([torch.arange(40.0)[:, None].expand(40, 2)], ["it"], NAMES)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(300):
        states, lengths, labels = clips.batch([0], generator, shortest=10)
        assert torch.equal(states[0, :, 0], states[0, 0, 0] + torch.arange(float(lengths[0])))
        assert labels.tolist() == [1]
        seen.add(int(lengths[0]))
    assert min(seen) == 10 and max(seen) == 40


def test_padded_states_become_clips_without_their_padding():
    states = torch.randn(2, 9, WIDTH)
    clips = RouterClips.from_padded(states, torch.tensor([9, 4]), ["it", "hi"], NAMES)
    assert clips.lengths.tolist() == [9, 4] and clips.labels.tolist() == [1, 0]
    assert torch.equal(clips[1][0], states[1, :4])


def test_calibration_of_an_overconfident_router_lowers_its_error():
    noisy = synthetic(600, 4, noise=6.0)
    router = router_of("linear")
    train_router(router, noisy, settings=RouterTraining(max_epochs=10))
    router.head.classifier[0].weight.data *= 12
    router.head.classifier[0].bias.data *= 12
    result = calibrate(router, synthetic(600, 6, noise=6.0))
    assert result.error_before > 0.1 and result.error_after < 0.4 * result.error_before
    assert router.config.temperature == result.temperature > 2
    held_out = synthetic(600, 8, noise=6.0)
    assert score_router(router, held_out).calibration_error < 0.6 * result.error_before


def test_fitted_temperature_is_the_one_the_labels_were_drawn_with():
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(20000, 4, generator=generator)
    for true in (0.5, 1.0, 3.0):
        labels = torch.multinomial((logits / true).softmax(-1), 1, generator=generator)[:, 0]
        assert fitted_temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_router_that_is_always_right_does_not_become_infinitely_sure():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(10, 1)
    temperature = fitted_temperature(logits, torch.tensor([0, 1] * 10))
    confidence = (logits / temperature).softmax(-1).max().item()
    assert 0.95 < confidence < 0.99  # 20 right clips: about one mistake in 40


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = torch.tensor([[0.9, 0.1]]).repeat(10, 1)
    assert calibration_error(sure, torch.tensor([0] * 9 + [1])) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(sure, torch.tensor([0] * 4 + [1] * 6)) == pytest.approx(0.5, abs=1e-6)
    certain = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert calibration_error(certain, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


def test_scores_name_the_confusion_and_the_short_clips():
    names = ["hi", "it", "pa"]
    router = router_of("linear", names)
    weight = router.head.classifier[0].weight.data
    weight.zero_()
    router.head.classifier[0].bias.data.zero_()
    weight[0, 0], weight[1, 1] = 1.0, 1.0  # nothing is ever Punjabi
    states = []
    for label, frames in ((0, 20), (0, 300), (1, 100), (2, 30)):
        clip = torch.zeros(frames, WIDTH)
        clip[:, 0 if label == 2 else label] = 1.0
        states.append(clip)
    scores = score_router(router, RouterClips(states, ["hi", "hi", "it", "pa"], names), 50.0)
    assert scores.accuracy == 0.75
    assert scores.confusion["pa"] == {"hi": 1, "it": 0, "pa": 0}
    assert scores.most_confused() == ("pa", "hi", 1)
    assert scores.by_duration == {"below 1 s": 0.5, "1 to 5 s": 1.0, "5 to 15 s": 1.0}
    exact = accuracy_by_duration(torch.tensor([True, False]), torch.tensor([1.0, 5.0]))
    assert exact == {"1 to 5 s": 1.0, "5 to 15 s": 0.0}


def test_labels_that_do_not_fit_the_router_are_named():
    clip = torch.zeros(4, WIDTH)
    with pytest.raises(ValueError, match="labels de, fr are unknown to the router of hi, it"):
        RouterClips([clip] * 3, ["fr", "hi", "de"], NAMES)
    with pytest.raises(ValueError, match="no training clip of it"):
        train_router(router_of(), RouterClips([clip], ["hi"], NAMES))
    with pytest.raises(
        ValueError, match=r"labelled by \['it', 'hi'\], the router's labels are \['hi', 'it'\]"
    ):
        train_router(router_of(), RouterClips([clip] * 2, NAMES, NAMES[::-1]))
    with pytest.raises(ValueError, match="2 clips with 1 labels"):
        RouterClips([clip] * 2, ["hi"], NAMES)
    with pytest.raises(ValueError, match="all are"):
        RouterClips([clip, clip[0]], NAMES, NAMES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_weights": "sqrt"}, "no class_weights 'sqrt'; there are inverse_freq, inverse_sqrt"),
        ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"label_smoothing": 1}, "label_smoothing=1"),
        ({"shortest_stretch": 0}, "shortest_stretch=0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RouterTraining(**fields)
