"""Proves that no sentence of a test or validation set was trained on, and that these two share none.

python benchmarks/held_out.py corpus/debian corpus/synthetic-flite corpus/synthetic-piper

Takes folders in which manifests are called train.jsonl, validation.jsonl and test.jsonl, however deep.
Sentences are compared without case and punctuation. Exits with 1 where a sentence is shared.
"""

import argparse
from pathlib import Path

from speechllm.training.data.splits import SPLITS, shared
from speechllm.training.data.utterances import read_manifest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    splits = {
        name: [
            utterance
            for folder in folders
            for manifest in sorted(folder.rglob(f"{name}.jsonl"))
            for utterance in read_manifest(manifest)
        ]
        for name in SPLITS
    }
    for name, utterances in splits.items():
        sounds = len({utterance.audio for utterance in utterances})
        print(f"{name:10} {sounds:6} clips, {len({utterance.text for utterance in utterances}):6} texts")
    overlaps = shared(splits, "text")
    for (one, other), sentences in overlaps.items():
        print(f"{one} and {other} share {len(sentences)} sentences, among them {sentences[:3]}")
    if not overlaps:
        print("no sentence is in two of them")
    return int(bool(overlaps))


if __name__ == "__main__":
    raise SystemExit(main())
