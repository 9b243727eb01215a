"""Run the frozen encoder once over a corpus, so that training reads what it computes and does not run it.

Takes a checkpoint, or an encoder and a language model by id or folder, and manifests. Run again after an
interruption, it goes on with what is missing; on several processes each does its share.

example:
  speechllm cache-features train.jsonl test.jsonl --to features/base
  speechllm cache-features train.jsonl --to features/base --storage int8 --workers 4
  speechllm cache-features train.jsonl --model runs/first/model --to features/first
  speechllm cache-features train.jsonl --to features/noisy --augment noisy.yaml --copies 3
  accelerate launch -m speechllm cache-features train.jsonl --to features/base
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from ..configuration.configuration_adapters import adapter_config_from
from ..configuration.decoder_families import DECODER_FAMILIES
from ..device_choice import DTYPES, choose_device, choose_dtype

ENCODER, DECODER, ADAPTER = "openai/whisper-base", "HuggingFaceTB/SmolLM2-135M-Instruct", "mlp"
STORAGES = ("float16", "int8", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("manifests", nargs="+", type=Path, metavar="MANIFEST", help="JSON, JSONL, CSV or TSV")
    option("--to", type=Path, required=True, metavar="FOLDER", help="where the cache is, or is to be")
    option("--model", metavar="CHECKPOINT", help="whose encoder runs; instead of --encoder and --decoder")
    option("--encoder", default=ENCODER, help="id or folder of the base; default: %(default)s")
    option("--decoder", help=f"default: {DECODER}; none for an adapter inside an encoder-decoder")
    option("--adapter", default=ADAPTER, help="what will be trained; default: %(default)s")
    option("--bases", metavar="FOLDER", help="of bases, one sub-folder an id")
    option("--encoder-padding", choices=["longest", "max_length"], help="as the model will have it")
    option("--dtype", choices=DTYPES, default="auto", help="of the encoder, as trainer.precision in training")
    option("--device", default="auto", help="default: an accelerator where there is one, else cpu")
    option("--storage", choices=STORAGES, default=STORAGES[0], help="default: %(default)s")
    option("--batch-seconds", type=float, default=120.0, help="of sound at once; default: %(default)s")
    option("--workers", type=int, default=0, help="processes that read sounds; default: %(default)s")
    option("--augment", type=Path, metavar="YAML", help="effects, as in conf/augmentation; with --copies")
    option("--copies", type=int, default=0, help="augmented copies of each clip, beside the clip as it is")
    option("--seed", type=int, default=42, help="of the augmentation; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """A line of what is there on stdout; 1 where not one clip could be cached."""
    # Not at the top: these need the extra "train".
    from accelerate import PartialState

    from ..training.data.utterances import read_manifest
    from ..training.feature_cache.caching import CachingSettings, cache_features

    settings = CachingSettings(args.storage, args.batch_seconds, args.workers, args.copies)
    utterances = [utterance for path in args.manifests for utterance in read_manifest(path)]
    if not utterances:
        raise ValueError(f"{args.manifests[0]} holds no clips")
    augmentation = _augmentation(args, utterances)
    model, processor = _composed(args)
    model.freeze_bases()
    done = cache_features(model, processor, utterances, args.to, settings, augmentation)
    if PartialState().is_main_process:
        print(report_line(done, args.to))
    return 0 if done["rows"] else 1


def report_line(done: dict[str, Any], folder: Path) -> str:
    """What the cache holds, what was new, and what could not be had."""
    reasons = [item["reason"] for item in done["dropped"]]
    lost = ", ".join(f"{reasons.count(name)} {name}" for name in dict.fromkeys(reasons)) or "none"
    return (
        f"{folder}: {done['sounds']} sounds, {done['rows']} rows, {done['bytes'] / 1e6:.1f} MB "
        f"({done['storage']}); encoded now: {done['encoded']}; dropped: {lost}"
    )


def _composed(args: argparse.Namespace):
    """The model whose encoder runs, on its device and in its precision, with its processor."""
    from accelerate import PartialState

    from .. import SpeechLLMConfig, SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    device = choose_device(args.device)
    # Each process has an accelerator of its own, if there are any.
    device = PartialState(cpu=device.type == "cpu").device if args.device == "auto" else device
    if args.model:
        config = SpeechLLMConfig.from_pretrained(args.model)
        loading = {"bases": args.bases, "dtype": _dtype(args, device, config)}
        model = SpeechLLMForConditionalGeneration.from_pretrained(args.model, **loading)
        return model.to(device), SpeechLLMProcessor.from_pretrained(args.model)
    fields: dict[str, Any] = {"adapter": args.adapter, "bases": args.bases}
    if args.encoder_padding:
        fields["encoder_padding"] = args.encoder_padding
    family = adapter_config_from({"model_type": args.adapter}).family
    decoder = args.decoder or (None if DECODER_FAMILIES[family].one_base else DECODER)
    config = SpeechLLMConfig.from_bases(args.encoder, decoder, **fields)
    dtype = _dtype(args, device, config)
    model = SpeechLLMForConditionalGeneration.from_bases(args.encoder, decoder, dtype=dtype, **fields)
    return model.to(device), SpeechLLMProcessor.from_bases(args.encoder, decoder, **fields)


def _dtype(args: argparse.Namespace, device: torch.device, config) -> torch.dtype:
    """As asked; "auto" is what the cache was begun with, and else the same on every such machine."""
    from ..training.feature_cache.identity import MANIFEST, read_cache_manifest

    if args.dtype == "auto" and (args.to / MANIFEST).exists():
        return getattr(torch, read_cache_manifest(args.to)["encoder"]["precision"])
    # Not measured, as it is elsewhere: processes have to agree.
    name = "float32" if args.dtype == "auto" and device.type == "cpu" else args.dtype
    return choose_dtype(name, device, config)[0]


def _augmentation(args: argparse.Namespace, utterances: list):
    """The effects of a recipe, or none."""
    if args.augment is None:
        return None
    import yaml

    from ..training.augmentation.augmentation import build_augmentation
    from ..training.data.datasets import SpeechDataset

    try:
        fields = yaml.safe_load(args.augment.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{args.augment} is not YAML: {error}") from error
    voices: Any = SpeechDataset(utterances)
    return build_augmentation(fields, args.seed, voices)
