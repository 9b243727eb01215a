"""What a run can be told of its machine: compiled, quantized, stopped early, in half precision."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file
from speechllm.training import arguments
from speechllm.training.material import save_llama, save_whisper
from training_runs import tiny_run
from transformers import TrainingArguments

LORA = "model.lora_config={decoder: {r: 2, target_modules: [q_proj, v_proj]}}"
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.slow
def test_a_compiled_run_trains_what_an_uncompiled_one_trains(bases, tmp_path, monkeypatch):
    def traced(torch_compile, **rest):
        # Traced and differentiated as for any backend; the stock one compiles C++ for minutes.
        backend = {"torch_compile_backend": "aot_eager"} if torch_compile else {}
        return TrainingArguments(torch_compile=torch_compile, **backend, **rest)

    monkeypatch.setattr(arguments, "TrainingArguments", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ends = []
    for wanted in ("false", "true"):
        tiny_run(tmp_path / wanted, bases, f"trainer.compile={wanted}", "trainer.learning_rate=0.01")
        frames = torch._dynamo.utils.counters["frames"]["ok"]
        assert (frames > 0) == (wanted == "true")
        ends.append(load_file(tmp_path / wanted / "phase-1-write" / "checkpoint-2" / "model.safetensors"))
    assert set(ends[0]) == set(ends[1])
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Bases 64 wide: four-bit kernels take nothing narrower."""
    folder = tmp_path_factory.mktemp("wide")
    save_whisper(folder / "wide--whisper")
    save_llama(folder / "wide--llama")
    return folder


WIDE = ["model.encoder=wide/whisper", "model.decoder=wide/llama"]


@pytest.mark.slow
@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_lora_and_adapter_are_trained_around_quantized_bases(wide, tmp_path, quantization):
    parts = ["phases.0.train=[adapter, lora]", LORA, f"model.quantization={quantization}"]
    model = tiny_run(tmp_path / "run", wide, *WIDE, *parts, "trainer.learning_rate=0.01")
    tensors = load_file(model / "model.safetensors")
    assert all(".adapter." in name or "speech_norm" in name or ".lora_" in name for name in tensors)
    # Fresh, they are all zeros.
    assert all(tensor.any() for name, tensor in tensors.items() if ".lora_B." in name)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@needs_bitsandbytes
def test_a_quantized_base_is_not_trained_itself(wide, tmp_path):
    more = ["model.quantization=8bit", "phases.0.train=[adapter, decoder]"]
    with pytest.raises(ValueError, match="is quantized and can't be trained: train LoRA around it"):
        tiny_run(tmp_path / "run", wide, *WIDE, *more)
    assert not list((tmp_path / "run").glob("phase-*"))


def test_quantization_without_its_library_is_told_before_anything_is_read(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(
        ValueError, match="model.quantization=4bit needs bitsandbytes, which is not installed"
    ):
        tiny_run(tmp_path / "run", bases, "model.quantization=4bit", "data.train=nowhere.jsonl")
    assert not (tmp_path / "run").exists()


def test_a_phase_ends_when_nothing_improves_any_more(bases, tmp_path):
    # Nothing is learned, so nothing improves after the first evaluation.
    run = tmp_path / "run"
    tiny_run(run, bases, "trainer.learning_rate=0.0", "trainer.patience=2", steps=12)
    assert json.loads((run / "phase-1-write" / "phase.json").read_text())["steps"] == 6


@pytest.mark.parametrize("schedule, share", [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_learning_rate_follows_its_schedule_after_the_warm_up(bases, tmp_path, schedule, share):
    run = tmp_path / "run"
    more = [f"trainer.schedule={schedule}", "trainer.warmup=2", "trainer.learning_rate=0.01"]
    tiny_run(run, bases, *more, "trainer.eval_steps=6", "trainer.save_steps=6", steps=6)
    log = json.loads((run / "phase-1-write" / "checkpoint-6" / "trainer_state.json").read_text())[
        "log_history"
    ]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    # Two steps up, and two of the four down.
    assert rates[:3] == pytest.approx([0.0, 0.005, 0.01]) and rates[4] == pytest.approx(0.01 * share)


def test_bfloat16_computes_in_half_and_trains_and_saves_in_float32(bases, tmp_path):
    model = tiny_run(tmp_path / "run", bases, "trainer.precision=bfloat16")
    results = json.loads((model / "results.json").read_text())
    assert results["precision"]["name"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(model / "model.safetensors").values()} == {torch.float32}
    assert "computing in bfloat16" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    "override, told",
    [
        ("trainer.precision=float16", "precision=float16 needs an accelerator"),
        ("trainer.tf32=true", "tf32=true needs an NVIDIA GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="refused where there is no accelerator")
def test_what_this_machine_cannot_compute_in_is_refused_before_the_first_step(
    bases, tmp_path, override, told
):
    with pytest.raises(ValueError, match=told):
        tiny_run(tmp_path / "run", bases, override)
