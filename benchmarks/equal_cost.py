"""Bridges of about the same size after the same steps of CTC on the same clips.

python benchmarks/equal_cost.py FOLDER

To be run where corpus/ lies as the header of training/conf/data/debian_english.yaml says; runs go to FOLDER,
and one that is finished there is not trained again.
"""

import json
import sys
from pathlib import Path

from conditions import print_conditions
from speechllm.training.train import main as train

# Ten tokens a second each; widths such that each has about 2.4 million parameters. Rate: what it bears.
BRIDGES = {
    "mlp": (2e-3, {"stack_factor": 5, "hidden_size": 760}),
    "conv": (1e-3, {"strides": [5], "kernel_size": 7, "hidden_size": 520}),
    "moe": (1e-3, {"stack_factor": 5, "hidden_size": 150}),
    "qformer": (
        1e-3,
        {
            "window_frames": 50,
            "tokens_per_window": 10,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 960,
        },
    ),
    "prefix": (
        2e-3,
        {
            "window_frames": 50,
            "num_prefix_tokens": 10,
            "hidden_size": 432,
            "num_attention_heads": 6,
            "intermediate_size": 1296,
        },
    ),
    "transformer": (
        1e-3,
        {
            "stack_factor": 5,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
    ),
}
STEPS, BATCH_SECONDS = 240, 320


def main(folder: Path) -> None:
    print_conditions(f"{STEPS} steps of CTC with {BATCH_SECONDS} s of speech each, validation prompts")
    for kind in BRIDGES:
        if not (folder / kind / "results.json").exists() and (failed := train(overrides(kind, folder))):
            raise SystemExit(failed)
        phase = json.loads((folder / kind / "results.json").read_text())["phases"][0]
        print(
            f"{kind:12} {phase['trained']['adapter']:9,} parameters, {phase['minutes']:5.1f} minutes, "
            f"WER {100 * phase['best_metric']['wer']:.1f} %",
            flush=True,
        )


def overrides(kind: str, folder: Path) -> list[str]:
    """What `speechllm train` is told."""
    rate, fields = BRIDGES[kind]
    phase = f"{{name: spell, loss: ctc, train: [adapter], steps: {STEPS}, learning_rate: {rate}}}"
    return [
        "model=whisper_smollm",
        f"adapter={kind}",
        *(f"adapter.{name}={value}" for name, value in fields.items()),
        "data=debian_english",
        f"phases=[{phase}]",
        f"trainer.batch_seconds={BATCH_SECONDS}",
        f"trainer.eval_steps={STEPS}",
        f"trainer.save_steps={STEPS}",
        "trainer.eval_batch_size=32",
        f"name={kind}",
        f"output_dir={folder / kind}",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
