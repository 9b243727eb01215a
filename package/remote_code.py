"""Copies the package's model code, flat, into a checkpoint: it loads where the package is not installed."""

import ast
import json
import os
from pathlib import Path

ROOMS = ("configuration", "modeling", "processing")
AUTO_MAP = {
    "AutoConfig": "configuration_speechllm.SpeechLLMConfig",
    "AutoModel": "modeling_speechllm.SpeechLLMModel",
    "AutoModelForSpeechSeq2Seq": "modeling_speechllm.SpeechLLMForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_speechllm.SpeechLLMForConditionalGeneration",
    "AutoProcessor": "processing_speechllm.SpeechLLMProcessor",
}
CUSTOM_PIPELINES = {
    "automatic-speech-recognition": {
        "impl": "pipeline_speechllm.SpeechLLMPipeline",
        "pt": ["AutoModelForSpeechSeq2Seq"],
        "type": "multimodal",
    }
}
# Which keys go into which file of a checkpoint, if the file is there.
REGISTRATIONS: dict[str, dict] = {
    "config.json": {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES},
    "processor_config.json": {"auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}},
}


def bundle_files() -> list[Path]:
    """Every source file that ships with a checkpoint: the rooms' files, in a fixed order."""
    import speechllm.configuration
    import speechllm.modeling
    import speechllm.processing

    rooms = [Path(getattr(speechllm, room).__path__[0]) for room in ROOMS]
    return [path for room in rooms for path in sorted(room.rglob("*.py")) if path.name != "__init__.py"]


def flatten_source(source: str, names: set[str]) -> str:
    """Rewrite every import of an own module as an import of a sibling file."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").split(".")[0] == "speechllm"
        ):
            leaf = (node.module or "").rpartition(".")[2]
            if leaf not in names:
                raise ValueError(f"line {node.lineno}: {node.module!r} is not among the files that ship")
            line = lines[node.lineno - 1]
            start = line.index("from")
            lines[node.lineno - 1] = f"{line[:start]}from .{leaf} {line[line.index('import', start) :]}"
    return "".join(lines)


def remote_code() -> dict[str, str]:
    """File name -> source, of all that a checkpoint needs to load by itself."""
    files = bundle_files()
    names = {path.stem for path in files}
    return {path.name: flatten_source(path.read_text(encoding="utf-8"), names) for path in files}


def registered(path: Path) -> str:
    """One of a checkpoint's JSON files with the keys that tell the Auto classes where the code is."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({**content, **REGISTRATIONS[path.name]}, indent=2, sort_keys=True) + "\n"


def export_remote_code(folder) -> None:
    """Write the code into a checkpoint folder and register it in the folder's configs."""
    folder = Path(folder)
    for name, source in remote_code().items():
        write_text(folder / name, source)
    for name in REGISTRATIONS:
        if (folder / name).exists():
            write_text(folder / name, registered(folder / name))


def replace_stock_card(folder, repo_id: str) -> None:
    """Put a card of ours in the place of the stock one, where the libraries that make cards are installed."""
    try:
        from speechllm.hub_cards.cards import replace_stock_card
    except ImportError:
        return
    replace_stock_card(Path(folder), repo_id)


def write_text(path: Path, text: str) -> None:
    """Write beside the place, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
