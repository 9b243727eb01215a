"""What a run came to: the model's folder, and the facts of its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .speech_trainer import write_text

RESULTS = "results.json"


def gather_results(
    name: str, facts: dict[str, Any], phases: list[dict], metrics: dict[str, Any], model, data: dict[str, Any]
) -> dict[str, Any]:
    """All that a card says about training, as plain values."""
    counts = model.parameter_counts()
    trained: dict[str, int] = {}
    for phase in phases:
        trained.update(phase["trained"])
    return {
        "name": name,
        **facts,
        "parameters": {"total": counts["total"], "trained": sum(trained.values()), "trained_parts": trained},
        "bases": {
            "encoder": [model.config.encoder_id, model.config.encoder_revision],
            "decoder": [model.config.decoder_id, model.config.decoder_revision],
        },
        "adapter": model.config.adapter_config.own_values(),
        "data": data,
        "phases": phases,
        # The last phase that trained it knows how well it chooses.
        "router": next((phase["router"] for phase in reversed(phases) if "router" in phase), None),
        "steps": sum(phase["steps"] for phase in phases),
        "minutes": round(sum(phase["minutes"] for phase in phases), 2),
        "metrics": metrics,
    }


def metrics_by_set(metrics: dict[str, float], sets: list[str], prefix: str = "test") -> dict[str, dict]:
    """`{"test_NAME_wer": x}` -> `{NAME: {"wer": x}}`."""
    return {
        one: {
            key.removeprefix(f"{prefix}_{one}_"): value
            for key, value in metrics.items()
            if key.startswith(f"{prefix}_{one}_")
        }
        for one in sets
    }


def write_results(results: dict[str, Any], *folders: Path) -> None:
    """`results.json` in each folder."""
    for folder in folders:
        write_text(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False, default=str) + "\n")
