"""Training runs of the tests: the real entry's configuration over tiny bases and clips of sound."""

from pathlib import Path

import hydra
import numpy as np
import soundfile
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from speechllm.training.entry import CONFIGURATION
from speechllm.training.run import run_training

TEXTS = ["ab", "c d", "de", "fgh", "a", "bc", "hh", "e f g"]
TINY_NAMES = ("tiny/whisper", "tiny/llama", "mlp")
# What makes a run of any experiment one of seconds.
SHORT = (
    "trainer.batch_size=2",
    "trainer.gradient_accumulation=1",
    "trainer.eval_steps=2",
    "trainer.save_steps=2",
    "trainer.logging_steps=1",
    "trainer.max_new_tokens=4",
    "trainer.precision=float32",
    "trainer.workers=0",
    "trainer.report_to=[]",
    "trainer.tf32=null",
)


def composed(*overrides: str) -> dict:
    """The configuration of `speechllm train OVERRIDES`."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)), resolve=True)


def write_corpus(folder: Path) -> tuple[str, str]:
    """Eight short clips to train on and two to judge on; their manifests."""
    generator = np.random.default_rng(5)
    for split, texts in (("train", TEXTS), ("eval", ["ba", "gg"])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = []
        for number, text in enumerate(texts):
            path = folder / split / f"{number}.wav"
            sound = 0.3 * generator.standard_normal(4800 + 1600 * (number % 4))
            soundfile.write(path, np.clip(sound, -1, 1).astype(np.float32), 16000)
            rows.append(f'{{"audio": "{path.name}", "text": "{text}", "language": "en"}}')
        (folder / split / "manifest.jsonl").write_text("\n".join(rows))
    return f"{folder}/train/manifest.jsonl", f"{folder}/eval/manifest.jsonl"


def data_overrides(folder: Path) -> list[str]:
    """`data=manifests` over the corpus in `folder`."""
    train, judged = write_corpus(folder)
    return ["data=manifests", f"data.train={train}", f"data.eval={{test: {judged}}}"]


def tiny_run(folder: Path, bases: Path, *overrides: str, steps: int = 2) -> Path:
    """Train tiny bases on a tiny corpus, in this process; the model's folder."""
    corpus = data_overrides(folder.parent / "corpus")
    tiny = ["model=bases", "model.encoder=tiny/whisper", "model.decoder=tiny/llama", f"model.bases={bases}"]
    sizes = [f"trainer.steps={steps}", "adapter.hidden_size=16", f"output_dir={folder}"]
    config = composed(*tiny, *corpus, *SHORT, *sizes, *overrides)
    return run_training(config, folder)
