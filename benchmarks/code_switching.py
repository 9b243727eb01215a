"""Speech that changes its language: how soon Whisper base with a router notices, and what it costs in words.

    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-it-wav
    python benchmarks/code_switching.py

Telephone prompts of two languages, joined into clips that switch between sentences. A router is trained on
prompts with other texts, on the frozen encoder's states; there are no adapters, so the words are stock
Whisper's, told the language of each segment. What this is not: each language has one speaker, the same in
training and test, so the router may know the voice as well as the language; the clips are synthetic; and the
defaults are few clips, for a run of five minutes: take more for numbers that mean something.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from conditions import ENCODER, print_conditions


def prompts(languages: list[str]) -> dict[str, dict[str, list]]:
    """Split -> language -> utterances of 1 to 8 s; no text is in two splits."""
    from speechllm.training.data.debian_speech import parts, read_parts
    from speechllm.training.data.sounds import sound_seconds
    from speechllm.training.data.splits import split_by_text

    found: dict[str, dict[str, list]] = {}
    for name, utterances in read_parts(parts(["prompts"], languages), Path("/usr/share")).items():
        # Texts in brackets are of tones and other sounds.
        spoken = [item for item in utterances if item.text and "[" not in item.text]
        timed = [replace(item, seconds=sound_seconds(item)) for item in spoken]
        splits = split_by_text([item for item in timed if 1 <= item.seconds <= 8])
        for split, items in splits.items():
            found.setdefault(split, {})[name.rpartition("-")[2]] = items
    return found


def router_pipeline(train: list, development: list, languages: list[str]):
    """Stock Whisper base with a router that was trained on these utterances, and its facts."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMPipeline, SpeechLLMProcessor
    from speechllm.training.routing.router_recipe import RouterRecipe, train_model_router
    from speechllm.training.routing.router_training import RouterTraining

    model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, adapter="cross_attention")
    processor = SpeechLLMProcessor.from_bases(ENCODER, adapter="cross_attention")
    # Half a second of states at least: the router decides on windows of that size.
    training = RouterTraining(max_epochs=15, shortest_stretch=25)
    recipe = RouterRecipe({"labels": languages, "layer": 3}, training)
    facts = train_model_router(model, processor, train, development, recipe=recipe)
    return SpeechLLMPipeline(model=model, processor=processor), facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["en", "it"])
    parser.add_argument("--train-clips", type=int, default=20, help="of each language")
    parser.add_argument("--test-clips", type=int, default=6)
    arguments = parser.parse_args()
    from speechllm.training.routing.code_switching import Switching, write_switched
    from speechllm.training.routing.switch_scoring import score_switching

    languages, begin = arguments.languages, time.perf_counter()
    print_conditions(f"prompts in {', '.join(languages)}, one speaker each; synthetic switching")
    splits = prompts(languages)

    def some(split: str, count: int) -> list:
        return [item for items in splits[split].values() for item in items[:count]]

    train, development = some("train", arguments.train_clips), some("validation", arguments.train_clips // 4)
    asr, facts = router_pipeline(train, development, languages)
    told = facts["development"]
    print(f"router: {len(train)} clips, accuracy {told['accuracy']:.3f} on {told['clips']} others")
    print(f"trained in {time.perf_counter() - begin:.0f} s")
    each = arguments.test_clips // len(languages)
    tests = {language: items[:each] for language, items in splits["test"].items()}
    single = [item for items in tests.values() for item in items]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("inter", "rapid"):
            clips = write_switched(tests, Path(folder) / kind, Switching(kind, count=arguments.test_clips))
            # Texts of phrases are estimates.
            print(kind, score_switching(asr, clips, single if kind == "inter" else None))


if __name__ == "__main__":
    main()
