"""Parameters of the adapters over the bases of the published systems, and reload parity with real bases.

python benchmarks/parameters.py
"""

import tempfile
from pathlib import Path

import torch
from conditions import composed, print_conditions

# kind, encoder width, decoder width, fields, what it is
PUBLISHED = [
    ("mlp", 1024, 2048, {}, "HuBERT-large -> SmolLM3"),
    ("mlp", 1280, 2048, {}, "HuBERT-xlarge -> SmolLM3"),
    ("prefix", 768, 4096, {}, "ArTST -> 4096"),
    ("prefix", 768, 5120, {}, "ArTST -> Jais-13b"),
    ("prefix", 768, 5120, {"hidden_size": 1024}, "ArTST -> Jais-13b, narrow"),
    ("prefix", 768, 5120, {"hidden_size": 2048}, "ArTST -> Jais-13b, narrow"),
    ("transformer", 512, 2560, {}, "SenseVoice -> Qwen3-4B"),
    ("conv", 512, 576, {}, "Whisper base -> SmolLM2-135M"),
    ("qformer", 512, 576, {}, "Whisper base -> SmolLM2-135M"),
    ("moe", 512, 576, {}, "Whisper base -> SmolLM2-135M"),
]


def main() -> None:
    from speechllm import SpeechLLMForConditionalGeneration
    from speechllm.configuration.configuration_adapters import adapter_config
    from speechllm.modeling.adapters.adapter_table import ADAPTERS, build_adapter

    print_conditions("parameters of adapters, counted on the modules; reload parity over the real bases")
    for kind, source, target, fields, what in PUBLISHED:
        with torch.device("meta"):
            adapter = build_adapter(adapter_config(kind, **fields), source, target)
        count = sum(parameter.numel() for parameter in adapter.parameters())
        print(f"{kind:12} {count:>12,}  {what} {fields or ''}")
    ids = torch.arange(1, 60)[None]
    features = torch.randn(1, 80, 300, generator=torch.Generator().manual_seed(0))
    for kind in ADAPTERS:
        model, _ = composed(kind, dtype=torch.float32)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder)
            size = (Path(folder) / "model.safetensors").stat().st_size
            again = SpeechLLMForConditionalGeneration.from_pretrained(folder)
            prompt, mask = model.default_prompt(features)
            request = {"input_ids": prompt, "attention_mask": mask, "input_features": features}
            same = torch.equal(model(**request).logits, again(**request).logits)
            same = same and torch.equal(model(ids).logits, again(ids).logits)
        trained = 4 * model.parameter_counts()["trainable"]
        print(
            f"{kind:12} reload bit-identical: {same}; file {size:,} bytes, "
            f"{size - trained:,} more than its parameters"
        )


if __name__ == "__main__":
    main()
