"""The stock `Seq2SeqTrainer` trains, evaluates, saves and resumes these models as it does its own."""

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.modeling.lora_layers import is_lora_key
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, set_seed

pytest.importorskip("accelerate", reason="the stock trainer needs accelerate")

LORA = {"encoder": {"r": 2}, "decoder": {"r": 2, "lora_dropout": 0.3}}
BANK = {"it": {"encoder": {"r": 2, "lora_dropout": 0.3}, "decoder": {"r": 2}}, "fr": {"decoder": {"r": 2}}}
variants = pytest.mark.parametrize(
    "fields", [{}, {"lora_config": LORA}, {"lora_bank": BANK}], ids=["bridge", "lora", "whisper"]
)


class Rows(torch.utils.data.Dataset):
    """Clips with their texts."""

    def __init__(self, clips, texts):
        self.rows = list(zip(clips, texts, strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class StopAfter(TrainerCallback):
    """Ends a run early, as a job that is killed after a checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.fixture()
def parts(compose, compose_whisper):
    """`parts(fields)` -> `(model, processor)`: a bridge, or a Whisper whose adapter "it" is trained."""

    def build(fields):
        if "lora_bank" not in fields:
            return compose("whisper", "llama", **fields)
        model, processor = compose_whisper(encoder_padding="longest", **fields)
        model.use_adapters("it")
        return model, processor

    return build


@pytest.fixture()
def train(parts, clips, tmp_path):
    """`train(folder, fields, resume=..., callbacks=..., **arguments)` -> the trainer, after its run."""

    def run(name, fields, resume=None, callbacks=(), **arguments):
        model, processor = parts(fields)
        rows = Rows(clips[:4], ["ab", "c", "de", "fgh"])

        def collate(pairs):
            audio, texts = zip(*pairs, strict=True)
            return dict(processor.apply_training_request(list(audio), list(texts), language="it"))

        settings = {
            "output_dir": str(tmp_path / name),
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "max_steps": 4,
            "save_steps": 2,
            "learning_rate": 1e-2,
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 3,
            **arguments,
        }
        set_seed(3)
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(**settings),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=collate,
            processing_class=processor,
            callbacks=list(callbacks),
            compute_metrics=(lambda out: {"rows": len(out.predictions)})
            if arguments.get("predict_with_generate")
            else None,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@variants
def test_two_steps_train_what_is_new_and_leave_the_bases(train, parts, tmp_path, fields):
    before = {name: t.clone() for name, t in parts(fields)[0].state_dict().items()}
    model = train("run", fields, max_steps=2).model
    for name, tensor in model.state_dict().items():
        if model.is_base_key(name):
            assert torch.equal(tensor, before[name]), name
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(".adapter." in name for name in changed) == ("lora_bank" not in fields)
    assert any(map(is_lora_key, changed)) == bool(fields)
    assert not any(name.endswith(".fr") for name in changed)


@variants
def test_checkpoints_hold_what_was_trained_and_load_alone(train, bases, tmp_path, fields):
    trainer = train("run", fields)
    folder = tmp_path / "run" / "checkpoint-4"
    saved = load_file(folder / "model.safetensors")
    assert set(saved) == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    again = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert {"config.json", "processor_config.json", "modeling_speechllm.py"} <= {
        p.name for p in folder.iterdir()
    }


@variants
def test_resumed_run_ends_where_an_uninterrupted_one_does(train, tmp_path, fields):
    whole = train("whole", fields).model.state_dict()
    train("parts", fields, callbacks=[StopAfter(2)])
    resumed = train("parts", fields, resume=str(tmp_path / "parts" / "checkpoint-2")).model.state_dict()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@variants
def test_evaluation_generates_and_the_best_model_comes_back(train, bases, tmp_path, fields):
    trainer = train(
        "run",
        fields,
        predict_with_generate=True,
        generation_max_length=6,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        # So large that the second half is worse than the first.
        learning_rate=0.5,
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    best = tmp_path / "run" / f"checkpoint-{2 * (1 + losses.index(min(losses)))}"
    assert trainer.state.best_model_checkpoint == str(best)
    for name, tensor in load_file(best / "model.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 4
    assert abs(metrics["eval_loss"] - min(losses)) < 1e-5
    assert trainer.predict(trainer.eval_dataset).predictions.shape[0] == 4
    trainer.save_model(str(tmp_path / "end"))
    assert '"max_length": 20' not in (tmp_path / "end" / "generation_config.json").read_text()
    assert not trainer.model.training or trainer.model.eval()


def test_gradient_accumulation_weighs_every_token_once(train, compose, clips):
    """One batch of 4 and 2 of 2 take the same step: the loss is a mean over all target tokens."""
    large = train("large", {}, max_steps=1, per_device_train_batch_size=4, optim="sgd", learning_rate=1e-3)
    small = train("small", {}, max_steps=1, gradient_accumulation_steps=2, optim="sgd", learning_rate=1e-3)
    for name, tensor in large.model.state_dict().items():
        torch.testing.assert_close(small.model.state_dict()[name], tensor, atol=1e-6, rtol=1e-4)
