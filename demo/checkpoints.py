"""Which checkpoints the page offers, and what it can say about one before its weights are read."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from speechllm import SpeechLLMConfig
from speechllm.default_checkpoint import NAME as DEFAULT

# Every folder in here that holds a config.json is offered.
SHIPPED = Path(__file__).parent / "checkpoints"
ADAPTER_WORDS = {
    "cross_attention": "Whisper's own attention",
    "dual_attention": "two gated attentions",
}
ROUTING_WORDS = {
    "hard": "hard: the likeliest adapter alone",
    "soft": "soft: every adapter by its probability",
    "threshold": "threshold: one adapter if sure, else the likeliest few",
    "hierarchical": "hierarchical: the likeliest family, then its likeliest language",
    "segments": "segments: again wherever the language changes",
    "base": "base: no adapter",
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder or Hub id under the name that the page gives it. `routing`: its own, whatever is asked for."""

    name: str
    source: str
    config: SpeechLLMConfig
    routing: str = ""

    @property
    def description(self) -> str:
        """Bases, adapter and bank, in half a line."""
        kind = self.config.adapter_config.model_type
        ids = dict.fromkeys(filter(None, (self.config.encoder_id, self.config.decoder_id)))
        parts = [" and ".join(base_name(one) for one in ids), ADAPTER_WORDS.get(kind, f"{kind} adapter")]
        if self.routing:
            return " · ".join([*parts, ROUTING_WORDS[self.routing].rpartition(": ")[2]])
        if self.config.lora_bank:
            parts.append(f"adapters for {', '.join(self.config.lora_bank)}")
        if self.config.router_config:
            parts.append("router")
        return " · ".join(filter(None, parts))

    @property
    def languages(self) -> list[str]:
        """Those that it has an adapter or a router's label for."""
        router = self.config.router_config
        return list(dict.fromkeys([*(self.config.lora_bank or {}), *(router.labels if router else [])]))

    @property
    def routings(self) -> list[str]:
        """Ways in which its adapters can be chosen; none where there is nothing to choose."""
        router, names = self.config.router_config, ["base"] if self.config.lora_bank else []
        if router is None:
            return names
        chosen = ["hard", "soft", "threshold"] if self.config.lora_bank else []
        families = ["hierarchical"] if self.config.lora_bank and router.families else []
        return [*chosen, *families, "segments", *names]

    @property
    def has_two_attentions(self) -> bool:
        return self.config.adapter_config.model_type == "dual_attention"


def find_checkpoints(given: Iterable[str] = (), shipped: Path | None = SHIPPED) -> dict[str, Checkpoint]:
    """By name: those that are `given` as folders or Hub ids, then those in the folder `shipped`.

    Of these the one that is used where none is named comes first, for a page opens with the first.
    """
    folders = [path.parent for path in shipped.glob("*/config.json")] if shipped else []
    folders.sort(key=lambda folder: (folder.name != DEFAULT, folder.name))
    found: dict[str, Checkpoint] = {}
    for source in dict.fromkeys([*map(str, given), *map(str, folders)]):
        name = Path(source).name if Path(source).is_dir() else source
        name = source if name in found else name
        found[name] = Checkpoint(name, source, SpeechLLMConfig.from_pretrained(source))
    if not found:
        raise ValueError(
            "no checkpoint to show: name one with --model FOLDER_OR_ID (`speechllm train` makes one), "
            f"or put its folder into {shipped}"
        )
    return found


def comparable(checkpoints: dict[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The checkpoints, and those with a bank once more without it: what it is for can be heard then."""
    bare = [
        replace(one, name=f"{one.name} without adapters", routing="base")
        for one in checkpoints.values()
        if one.config.lora_bank
    ]
    return checkpoints | {one.name: one for one in bare}


def base_name(base: str) -> str:
    """ "openai/whisper-base" -> "whisper-base"."""
    return base.rstrip("/").rpartition("/")[2].rpartition("--")[2]
