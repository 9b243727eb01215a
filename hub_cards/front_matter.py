"""The metadata of a model's card, and the Hub's file of evaluation results."""

from __future__ import annotations

import re
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from speechllm.training.evaluation.evaluation_settings import ALL_SETS

from .data_facts import data_sets, languages, unique
from .licences import UNKNOWN, base_licence, combined, on_the_hub
from .run_facts import RunFacts
from .scores import METRICS, Evaluation, Score

TASK = "automatic-speech-recognition"
EVAL_RESULTS = ".eval_results/{}.yaml"


def front_matter(run: RunFacts, model_name: str) -> ModelCardData:
    """What the Hub reads of a card; what is not known is left out."""
    licence = combined(base_licence(base_id) for _, base_id, _ in run.bases)
    evaluated = [one for one in run.evaluation.whole_sets if one.set != ALL_SETS] if run.evaluation else []
    hub_bases = unique(base_id for _, base_id, _ in run.bases if on_the_hub(base_id))
    named: dict[str, Any] = {"base_model_relation": "adapter"} if hub_bases else {}
    return ModelCardData(
        language=languages(run) or None,
        license=None if licence.kind == UNKNOWN else licence.id,
        license_name=_other_name(run) if licence.id == "other" else None,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=hub_bases or None,
        datasets=unique(source.hub_id for one in data_sets(run)[:1] for source in one.sources) or None,
        metrics=unique(one.metric for one in evaluated) or None,
        tags=tags(run),
        model_name=model_name,
        eval_results=[_result(one, run.evaluation) for one in evaluated] if run.evaluation else None,
        **named,
    )


def tags(run: RunFacts) -> list[str]:
    """What one may want to find it by."""
    config = run.config
    found = ["speechllm", "speech-recognition", f"adapter-{config.adapter_config.model_type}"]
    found += ["lora"] if config.lora_config or config.lora_bank else []
    return found + (["language-routing"] if config.router_config else [])


def eval_results_files(run: RunFacts) -> dict[str, str]:
    """Path in the repository -> content, for every set that is a data set of the Hub."""
    if run.evaluation is None:
        return {}
    files = {}
    for name, source in run.evaluation.sources.items():
        scores = [one for one in run.evaluation.whole_sets if one.set == name]
        entries = [_entry(one, run.evaluation, source) for one in scores]
        path = EVAL_RESULTS.format(re.sub(r"[^\w.-]", "-", name))
        files[path] = yaml.safe_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True
        )
    return files


def _entry(score: Score, evaluation: Evaluation, source: dict[str, Any]) -> EvalResultEntry:
    return EvalResultEntry(
        dataset_id=source["id"],
        task_id=source.get("config") or "default",
        value=_percent(score.value),
        dataset_revision=source.get("revision"),
        date=(evaluation.date or "")[:10] or None,
        notes=_notes(score, evaluation, source),
    )


def _result(score: Score, evaluation: Evaluation) -> EvalResult:
    source = evaluation.sources.get(score.set) or {}
    return EvalResult(
        task_type=TASK,
        task_name="Automatic Speech Recognition",
        dataset_type=source.get("id") or score.set,
        dataset_name=score.set,
        dataset_config=source.get("config"),
        dataset_split=source.get("split"),
        dataset_revision=source.get("revision"),
        metric_type=score.metric,
        metric_name=METRICS[score.metric],
        metric_value=_percent(score.value),
    )


def _notes(score: Score, evaluation: Evaluation, source: dict[str, Any]) -> str:
    told = [METRICS[score.metric] + " in percent", f"split {source['split']}" if source.get("split") else ""]
    told += [f"normaliser {evaluation.normaliser}" if evaluation.normaliser else ""]
    if score.low is not None and score.high is not None:
        likely = _percent(evaluation.confidence or 0)
        told.append(f"{likely:g} % interval {_percent(score.low)} to {_percent(score.high)}")
    return ", ".join(filter(None, told))


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _other_name(run: RunFacts) -> str:
    """A name is asked for where the licence is none of the Hub's own."""
    named = [base_id for _, base_id, _ in run.bases if base_licence(base_id).id == "other"]
    return f"terms-of-{named[0].rpartition('/')[2].lower()}"
