"""A model's card, filled from its run: every number in it was counted, none is typed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .architecture import architecture_picture
from .data_facts import DataSet, data_sets, languages, unique
from .front_matter import eval_results_files, front_matter
from .licences import base_licence, consequences, data_consequence, on_the_hub
from .papers import citation
from .parts import Part, in_words, parts
from .rendering import markdown_table, render, signed
from .run_facts import RunFacts, public_path
from .score_pictures import score_pictures
from .score_tables import language_table, noise_table, set_table
from .scores import OTHER_RATES
from .training_command import training_command
from .training_curves import training_curves

PICTURES = "card"
FAILURES = 5
COMMIT = 40
PICTURE_TITLES = {
    "wer_by_language.png": "WER by language",
    "cer_by_language.png": "CER by language",
    "wer_by_snr.png": "WER by the ratio of speech to noise",
    "cer_by_snr.png": "CER by the ratio of speech to noise",
}
CURVES = "training.png"


@dataclass(frozen=True)
class Card:
    """A `README.md` and the files that belong to it, by their paths in the repository."""

    text: str
    files: dict[str, bytes] = field(default_factory=dict)


def model_card(run: RunFacts, repo_id: str | None = None) -> Card:
    """The card of a checkpoint. `repo_id`: what it is called where it is loaded from."""
    repo_id = repo_id or f"your-name/{run.name}"
    title = repo_id.rpartition("/")[2]
    pictures, found = pictures_of(run), parts(run)
    values = {
        "front_matter": front_matter(run, title).to_yaml(),
        "title": title,
        "repo_id": repo_id,
        **what_it_is(run, found),
        **bases_and_licences(run),
        **results(run, pictures),
        **training(run, pictures),
        "limits": limits(run),
        "failures": failures(run),
        "failures_note": "" if run.evaluation and run.evaluation.worst else "of the clips that training kept",
        "citation": citation(run),
    }
    files = {f"{PICTURES}/{name}": picture for name, picture in pictures.items()}
    files |= {path: text.encode() for path, text in eval_results_files(run).items()}
    return Card(signed(render("model_card.md.jinja", values)), files)


def what_it_is(run: RunFacts, found: list[Part]) -> dict[str, Any]:
    total, trained = sum(one.total for one in found), sum(one.trained for one in found)
    return {
        "languages": ", ".join(languages(run)),
        "summary": summary(run),
        "parts": found,
        "total": in_words(total),
        "trained": in_words(trained),
        "share": f"{100 * trained / total:.2g} %",
        "references_bases": run.config.references_bases,
    }


def summary(run: RunFacts) -> str:
    """What is put together, in part of a sentence."""
    config = run.config
    kind = config.adapter_config.model_type.replace("_", " ")
    names = [
        _linked(base_id) if on_the_hub(base_id) else f"`{public_path(base_id)}`"
        for _, base_id, _ in run.bases
    ]
    if config.family.one_base:
        said = names[0] if names else "an encoder-decoder"
        said += (
            f" with an adapter ({kind}) inside its decoder"
            if config.adapter_config.model_type != "cross_attention"
            else ""
        )
    else:
        encoder, decoder = names or ("a speech encoder", "a language model")
        said = f"an adapter ({kind}) hands what {encoder} hears to {decoder}, which writes it down"
    if config.lora_bank:
        said += f", with LoRA adapters for {', '.join(sorted(config.lora_bank))}"
        said += " and a router that chooses among them" if config.router_config else ""
    elif config.lora_config:
        said += f", with LoRA in its {' and '.join(sorted(config.lora_config))}"
    return said


def bases_and_licences(run: RunFacts) -> dict[str, Any]:
    licences = {base_id: base_licence(base_id) for _, base_id, _ in run.bases}
    rows = [
        {
            "link": _linked(base_id) if on_the_hub(base_id) else f"`{public_path(base_id)}`, on no Hub",
            "slot": slot,
            "revision": f"`{revision}`" if revision else "not pinned",
            "licence": f"{licences[base_id].id} ({licences[base_id].note})"
            if licences[base_id].note
            else licences[base_id].id,
        }
        for slot, base_id, revision in run.bases
    ]
    sentences = consequences((public_path(base_id), licence) for base_id, licence in licences.items())
    trained_on = [one for source in _training_sources(run) for one in source.licences]
    return {"bases": rows, "licence_sentences": [*sentences, *filter(None, [data_consequence(trained_on)])]}


def results(run: RunFacts, pictures: dict[str, bytes]) -> dict[str, Any]:
    evaluation = run.evaluation
    shown = [{"file": name, "title": title} for name, title in PICTURE_TITLES.items() if name in pictures]
    tables = {
        "set_table": set_table(evaluation) if evaluation else "",
        "language_table": language_table(evaluation) if evaluation else "",
        "noise_table": noise_table(evaluation) if evaluation else "",
    }
    return {"evaluation": evaluation, "score_pictures": shown, **tables}


def training(run: RunFacts, pictures: dict[str, bytes]) -> dict[str, Any]:
    """Data, phases, command, time, machine, versions."""
    told = run.results
    if not told.get("phases"):
        return {"data_table": ""}
    processes, minutes = told.get("processes") or 1, float(told.get("minutes") or 0)
    machine = told.get("machine") or {}
    accelerators = machine.get("accelerators") or []
    devices = " and ".join(unique(accelerators)) or f"a CPU ({machine.get('processor') or 'unknown'})"
    hours = minutes / 60 * processes
    return {
        "data_table": data_table(data_sets(run)),
        "phase_table": phase_table(told),
        "duration": f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.3g} minutes",
        "machine": f"{processes} × {devices}" if processes > 1 else devices,
        "cost": f"{hours:.2g} {'accelerator' if accelerators else 'CPU machine'} hours",
        "command": training_command(run.settings) if run.settings else "",
        "curves": f"{PICTURES}/{CURVES}" if CURVES in pictures else "",
        "versions": versions(told),
    }


def data_table(sets: list[DataSet]) -> str:
    rows = []
    for one in sets:
        sources = ", ".join(
            (_linked(s.hub_id, "datasets/", s.title) if s.hub_id else s.title)
            + (f" × {s.weight:g}" if s.weight else "")
            for s in one.sources
        )
        licences = unique(licence for source in one.sources for licence in source.licences)
        spoken = sorted({code for source in one.sources for code in source.languages})
        rows.append(
            [
                one.name,
                sources or "held out of the training data",
                ", ".join(spoken) or "not recorded",
                f"{one.clips:,}" if one.clips is not None else "streamed",
                f"{one.hours:.2f}" if one.hours is not None else "streamed",
                ", ".join(licences) or "not recorded",
            ]
        )
    return markdown_table(["set", "data", "languages", "clips", "hours", "licence"], rows, "lllrrl")


def phase_table(told: dict[str, Any]) -> str:
    rows = []
    settings = {one["name"]: one.get("trainer", {}) for one in told.get("data", {}).get("phases") or []}
    for phase in told["phases"]:
        loss = phase["loss"] if isinstance(phase["loss"], str) else phase["loss"].get("kind")
        trained = ", ".join(f"{part} {in_words(count)}" for part, count in phase["trained"].items())
        rate = settings.get(phase["name"], {}).get("learning_rate")
        rows.append(
            [
                phase["name"],
                loss,
                trained,
                f"{phase['steps']:,}",
                f"{rate:g}" if rate else "",
                f"{phase['minutes']:.3g}",
            ]
        )
    return markdown_table(["phase", "loss", "trains", "steps", "learning rate", "minutes"], rows, "lllrrr")


def versions(told: dict[str, Any]) -> str:
    names = [f"{name} {number}" for name, number in (told.get("versions") or {}).items() if number]
    precision = (told.get("precision") or {}).get("name")
    said = [f"Computed in {precision}, seed {told.get('seed')}."] if precision else []
    said += [f"With {', '.join(names)}."] if names else []
    return " ".join(
        said + ([f"Revision of the code: `{told['git_revision']}`."] if told.get("git_revision") else [])
    )


def limits(run: RunFacts) -> list[str]:
    """What a user should know, as far as it can be told from what was measured."""
    spoken = languages(run)
    said = [
        f"Trained on {', '.join(spoken)}; what it does with other languages is unknown."
        if spoken
        else "Which languages it was trained on is not recorded."
    ]
    hours = next((one.hours for one in data_sets(run)), None)
    if hours is not None:
        said.append(
            f"{hours:.2f} hours of speech were trained on: other voices, rooms and topics will be harder."
        )
    if not run.config.family.one_base:
        said.append(
            "A language model writes the text: where it mishears, it may write fluently what nobody said."
        )
    rates = run.evaluation.other_rates if run.evaluation else {}
    said += [
        f"On “{name}”: {100 * share:.1f} % {OTHER_RATES[rate]}."
        for name, shares in rates.items()
        for rate, share in shares.items()
        if share > 0
    ]
    for _, base_id, revision in run.bases:
        if not on_the_hub(base_id):
            said.append(f"Its base `{public_path(base_id)}` is on no Hub: nobody else can load it.")
        elif revision and len(revision) != COMMIT:
            said.append(
                f"Its base {base_id} is not the Hub's, but `{revision}`: it loads where that is installed."
            )
    return said


def failures(run: RunFacts) -> list[dict[str, Any]]:
    """The clips that went worst, each text once."""
    rows = (run.evaluation.worst if run.evaluation else None) or _kept_predictions(run)
    rows = sorted((row for row in rows if row.get("wer", 0) > 0), key=lambda row: -row["wer"])
    return list({row["said"]: row for row in reversed(rows)}.values())[::-1][:FAILURES]


def pictures_of(run: RunFacts) -> dict[str, bytes]:
    """File name -> PNG: the architecture, the scores, and the curves that training drew."""
    pictures = {"architecture.png": architecture_picture(run)}
    if run.evaluation:
        pictures |= score_pictures(run.evaluation)
    curves = training_curves(run.folder) if run.folder else None
    return pictures | ({CURVES: curves} if curves else {})


def _kept_predictions(run: RunFacts) -> list[dict[str, Any]]:
    """What the last evaluation of a run heard, as far as it was kept."""
    found = sorted(run.folder.glob("phase-*/predictions/test_*.jsonl")) if run.folder else []
    return [json.loads(line) for path in found[-1:] for line in path.read_text(encoding="utf-8").splitlines()]


def _training_sources(run: RunFacts):
    return [source for one in data_sets(run)[:1] for source in one.sources]


def _linked(hub_id: str, kind: str = "", title: str | None = None) -> str:
    return f"[{title or hub_id}](https://huggingface.co/{kind}{hub_id})"
