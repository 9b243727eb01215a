"""Losses say what they should, add up over micro-batches, and smooth only what is trained."""

import pytest
import torch
from speechllm.training.losses.ctc import LogSum, ctc_of_targets
from speechllm.training.losses.loss_table import LOSSES, loss_class
from torch.nn import functional as F

TEXTS = ["ab", "c", "de", "fgh"]


@pytest.fixture()
def batch(compose, clips):
    def make(loss, adapter="mlp", smoothing=0.0, **options):
        model, processor = compose("whisper", "llama", adapter)
        torch.manual_seed(1)
        objective = LOSSES[loss](model, processor, options, smoothing)
        objective.see_corpus(TEXTS)
        return objective, dict(processor.apply_training_request(audio=clips[1:5], target=TEXTS))

    return make


def rows(inputs, start, stop):
    return {name: value[start:stop] for name, value in inputs.items()}


@pytest.mark.parametrize("loss", ["ctc", "cross_entropy"])
@pytest.mark.parametrize("adapter", ["mlp", "moe"])
def test_micro_batches_add_up_to_their_step(batch, loss, adapter):
    objective, inputs = batch(loss, adapter)
    objective.train()
    items = (inputs["labels"] != -100).sum()
    if adapter == "moe":
        # Its balance is a matter of the whole batch: with one part it must count once, not twice.
        whole = objective(**inputs, num_items_in_batch=items)["loss"]
        doubled = objective(**inputs, num_items_in_batch=2 * items)["loss"] * 2
        torch.testing.assert_close(whole, doubled)
        return
    whole = objective(**inputs, num_items_in_batch=items)["loss"]
    parts = [objective(**rows(inputs, *cut), num_items_in_batch=items)["loss"] for cut in ((0, 1), (1, 4))]
    torch.testing.assert_close(sum(parts), whole, atol=1e-5, rtol=1e-5)


def test_label_smoothing_is_that_of_shifted_labels_and_of_training_alone(batch):
    objective, inputs = batch("cross_entropy", smoothing=0.1)
    model = objective.model
    logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1]
    wanted = F.cross_entropy(logits.transpose(1, 2), inputs["labels"][:, 1:], label_smoothing=0.1)
    torch.testing.assert_close(objective.train()(**inputs)["loss"], wanted)
    plain = F.cross_entropy(logits.transpose(1, 2), inputs["labels"][:, 1:])
    torch.testing.assert_close(objective.eval()(**inputs)["loss"], plain)


def test_corruption_is_of_the_text_alone_and_in_training_alone(batch):
    objective, inputs = batch("cross_entropy", corruption=0.5)
    ids, labels = inputs["input_ids"].repeat(50, 1), inputs["labels"].repeat(50, 1)
    text = (labels != -100) & (labels != objective.model.config.end_token_id)
    misread = objective.train().misread(ids, labels)
    changed = misread != ids
    assert not changed[~text].any() and 0.3 < changed[text].float().mean() < 0.55
    assert set(misread[text].tolist()) <= set(ids[text].tolist())
    assert torch.equal(objective.eval().misread(ids, labels), ids)
    exact = objective(**inputs)["loss"]
    assert objective.train()(**inputs)["loss"] != exact


def test_corruption_that_cannot_be_is_refused(batch, compose_whisper):
    with pytest.raises(ValueError, match="a share of tokens from 0 to below 1, not 1.5"):
        batch("cross_entropy", corruption=1.5)
    with pytest.raises(ValueError, match="corruption is for bridges"):
        LOSSES["cross_entropy"](*compose_whisper(), {"corruption": 0.1})


def test_ctc_takes_its_classes_from_the_corpus_and_its_targets_without_the_end(batch):
    objective, inputs = batch("ctc")
    assert len(objective.tokens) == len(set("abcdefgh"))
    probabilities, counts, _ = objective.classified(inputs)
    assert probabilities.shape[-1] == 9
    total = 0.0
    for row, text in enumerate(TEXTS):
        ids = torch.tensor(objective.processor.tokenizer(text, add_special_tokens=False).input_ids)
        path = probabilities[row, : counts[row], None]
        target = objective.classes_of(ids)[None]
        total += F.ctc_loss(path, target, counts[row : row + 1], torch.tensor([len(ids)]), reduction="sum")
    items = sum(len(text) + 1 for text in TEXTS)
    torch.testing.assert_close(objective(**inputs)["loss"], total / items)


def test_ctc_of_the_targets_alone_has_the_gradient_of_a_softmax_over_all_classes():
    torch.manual_seed(0)
    counts, lengths = torch.tensor([7, 4, 2, 3]), torch.tensor([3, 4, 3, 0])
    # A token twice in a row, all frames needed, more tokens than frames, no text.
    targets = torch.tensor([[2, 2, 5, 0, 0], [1, 3, 1, 4, 0], [6, 7, 8, 0, 0], [0, 0, 0, 0, 0]])
    logits = torch.randn(4, 7, 9, requires_grad=True)
    whole = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), targets, counts, lengths, reduction="sum", zero_infinity=True
    )
    (wanted,) = torch.autograd.grad(whole, logits)
    columns = torch.cat([torch.zeros(4, 1, dtype=torch.long), targets], dim=1)[:, None].expand(-1, 7, -1)
    few = logits.gather(-1, columns) - logits.logsumexp(-1, keepdim=True)
    loss = ctc_of_targets(few, counts, targets, lengths)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert found[0].abs().sum() > 0 and found[2].abs().sum() == 0


def test_sum_over_all_classes_has_the_gradient_of_the_plain_one():
    torch.manual_seed(0)
    given = [torch.randn(5, 8), torch.randn(8), torch.randn(20, 8), torch.tensor(3.0)]
    given = [tensor.requires_grad_() for tensor in given]
    frames, blank, table, scale = given
    plain = (frames @ torch.cat([blank[None], table]).T * scale).logsumexp(-1)
    wanted = torch.autograd.grad(plain.square().sum(), given)
    found = LogSum.apply(*given)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), given), wanted, atol=1e-4, rtol=1e-4)


def test_ctc_over_a_stream_has_every_token_for_nobody_knows_its_texts(batch):
    objective, inputs = batch("ctc")
    restricted = objective(**inputs)["loss"]
    objective.see_corpus(None)
    assert len(objective.tokens) == len(objective.model.get_input_embeddings().weight)
    ids = torch.tensor(objective.processor.tokenizer("never said before").input_ids)
    assert objective.tokens[objective.classes_of(ids) - 1].tolist() == ids.tolist()
    # More classes to be wrong in.
    assert objective(**inputs)["loss"] > restricted


def test_best_path_of_ctc_is_collapsed_and_without_blanks(batch, monkeypatch):
    objective, inputs = batch("ctc")
    path = torch.tensor([[0, 1, 1, 0, 2, 2, 3], [3, 3, 0, 3, 5, 5, 5]])
    scores = F.one_hot(path, 9).float()
    monkeypatch.setattr(objective, "classified", lambda _: (scores, torch.tensor([7, 4]), None))
    ids = objective.predict(inputs)
    assert [objective.processor.decode(row[row >= 0]) for row in ids] == ["abc", "cc"]


def test_contrastive_ignores_padding_repeated_texts_and_silence(batch, clips):
    objective, inputs = batch("contrastive")
    processor = objective.processor
    alone = objective(**inputs)["loss"]
    # A long silent clip more: everything is padded further, and it has no text to be like.
    padded = dict(processor.apply_training_request(audio=[*clips[1:5], clips[5]], target=[*TEXTS, ""]))
    torch.testing.assert_close(objective(**padded)["loss"], alone, atol=1e-4, rtol=1e-4)
    clip, text = torch.eye(3)[[0, 0]], torch.eye(3)[[1, 1]]
    same = torch.ones(2, 2, dtype=torch.bool)
    assert objective.pair_loss(clip, text, same) < 1e-6


def test_contrastive_lowers_and_learns_its_temperature(batch):
    objective, inputs = batch("contrastive", symmetric=True)
    before = float(objective.log_scale)
    parameters = [*objective.model.model.adapter.parameters(), objective.log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective(**inputs)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 4
    assert float(objective.log_scale) != before


def test_one_direction_is_not_two(batch):
    one, inputs = batch("contrastive", symmetric=False)
    two, _ = batch("contrastive", symmetric=True)
    assert abs(float(one(**inputs)["loss"]) - float(two(**inputs)["loss"])) > 1e-6


def test_unknown_losses_and_options_are_refused(batch):
    with pytest.raises(ValueError, match="unknown loss 'ctx'; did you mean 'ctc'"):
        loss_class("ctx")
    with pytest.raises(ValueError, match="no field 'temprature'; did you mean 'temperature'"):
        batch("contrastive", temprature=1)
