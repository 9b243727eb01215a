"""Speech that changes its language: how soon Whisper base with a router notices, and what it costs in words.

    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-it-wav
    python benchmarks/code_switching.py

Telephone prompts of two languages, joined into clips that switch between sentences. A router is trained on
prompts with other texts, on the frozen encoder's states; there are no adapters, so the words are stock
Whisper's, told the language of each segment. What this is not: each language has one speaker, the same in
training and test, so the router may know the voice as well as the language; and the clips are synthetic.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from conditions import ENCODER, print_conditions


def router_pipeline(folder: Path, languages: list[str], clips: int):
    """Stock Whisper base with a router that was trained on the prompts in `folder`, and its facts."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMPipeline, SpeechLLMProcessor
    from speechllm.training.routing.router_recipe import RouterRecipe, train_model_router
    from speechllm.training.routing.router_training import RouterTraining

    model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, adapter="cross_attention")
    processor = SpeechLLMProcessor.from_bases(ENCODER, adapter="cross_attention")
    # Half a second of states at least: the router decides on windows of that size.
    training = RouterTraining(max_epochs=15, shortest_stretch=25)
    recipe = RouterRecipe({"labels": languages, "layer": 3}, training)
    train, dev = (
        [item for language in languages for item in prompts(folder, language, split, count)]
        for split, count in (("train", clips), ("dev", clips // 4))
    )
    facts = train_model_router(model, processor, train, dev, recipe=recipe)
    return SpeechLLMPipeline(model=model, processor=processor), facts


def prompts(folder: Path, language: str, split: str, count: int) -> list:
    """Utterances of 1 to 8 s, always the same ones."""
    from speechllm.training.data.utterances import read_manifest

    found = read_manifest(folder / f"prompts-{language}" / f"{split}.jsonl")
    return [item for item in found if 1 <= (item.seconds or 0) <= 8][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["en", "it"])
    parser.add_argument("--train-clips", type=int, default=40, help="of each language")
    parser.add_argument("--test-clips", type=int, default=12)
    arguments = parser.parse_args()
    from speechllm.training.data.debian_speech import prepare_debian_speech
    from speechllm.training.routing.code_switching import Switching, write_switched
    from speechllm.training.routing.switch_scoring import score_switching

    print_conditions(f"prompts in {', '.join(arguments.languages)}, one speaker each; synthetic switching")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.perf_counter()
        prepare_debian_speech(folder, sets=["prompts"], languages=arguments.languages)
        asr, facts = router_pipeline(folder, arguments.languages, arguments.train_clips)
        told = facts["development"]
        print(
            f"router: {facts['train']['clips']} clips, accuracy {told['accuracy']:.3f} on {told['clips']} others,"
            f" {time.perf_counter() - begin:.0f} s"
        )
        each = arguments.test_clips // len(arguments.languages)
        tests = {name: prompts(folder, name, "test", each) for name in arguments.languages}
        single = [item for items in tests.values() for item in items]
        for kind in ("inter", "rapid"):
            clips = write_switched(tests, folder / kind, Switching(kind, count=arguments.test_clips))
            exact = kind == "inter"
            print(kind, score_switching(asr, clips, single if exact else None))


if __name__ == "__main__":
    main()
