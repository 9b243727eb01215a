"""32 clips of .3 to 29 s: the text of each alone against its text in one batch of 32.

    python benchmarks/batch_invariance.py

Real bases, fp32. The adapter is fresh, so the texts mean nothing, but they hang on every number before them.
"""

import numpy as np
import torch
from conditions import composed, joined_speech, print_conditions

CLIPS = 32
# Published widths take minutes here; the arithmetic is the same.
NARROW = {"hidden_size": 512, "num_hidden_layers": 2, "intermediate_size": 1024, "stack_factor": 4}
FIELDS = {"transformer": NARROW}


def main() -> None:
    from speechllm import SpeechLLMPipeline
    from speechllm.modeling.adapters.adapter_table import ADAPTERS

    print_conditions(f"batch invariance: {CLIPS} clips of .3 to 29 s, batch {CLIPS} against batch 1, fp32")
    durations = np.linspace(0.3, 29.0, CLIPS)
    speech = joined_speech(29)
    clips = [speech[: round(seconds * 16000)] for seconds in np.random.default_rng(0).permutation(durations)]
    for adapter in ADAPTERS:
        model, processor = composed(adapter, dtype=torch.float32, **FIELDS.get(adapter, {}))
        asr = SpeechLLMPipeline(model, processor, device="cpu", max_new_tokens=16)
        together = asr(clips, batch_size=CLIPS)
        alone = [asr(clip, batch_size=1) for clip in clips]
        equal = sum(a["text"] == b["text"] for a, b in zip(together, alone, strict=True))
        print(
            f"{adapter:12} {equal} of {CLIPS} texts identical, "
            f"{len({r['text'] for r in alone})} different texts"
        )


if __name__ == "__main__":
    main()
