"""How many words a system misses, by how often training said them: by people, by a synthetic voice, never.

python benchmarks/heard_words.py evaluation/transcripts/*.ca.jsonl \\
    --people corpus/debian/stamps-ca/train.jsonl --synthetic corpus/synthetic-catalan*/train.jsonl

Takes what `speechllm evaluate` wrote. Words are those of `basic/1`; a word counts as missed where another
stands, or none. What people said counts as theirs, whatever a voice says.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from speechllm.training.data.normalisers import normaliser
from speechllm.training.data.utterances import read_manifest
from speechllm.training.evaluation.alignments import Column, columns_of

NORMALISER = normaliser("basic")
KINDS = ("people", "a voice, three times or more", "a voice, once or twice", "never")
OFTEN = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("transcripts", nargs="+", type=Path)
    parser.add_argument("--people", nargs="+", type=Path, required=True, help="manifests of human speech")
    parser.add_argument("--synthetic", nargs="*", type=Path, default=[], help="manifests of synthetic speech")
    settings = parser.parse_args()
    people, voices = (said(manifests) for manifests in (settings.people, settings.synthetic))
    print("missed of the words that training had from ...")
    print(f"| system | {' | '.join(KINDS)} |\n|---{'|---' * len(KINDS)}|")
    for path in settings.transcripts:
        # Below the line about the run.
        clips = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        all_words, missed = Counter[str](), Counter[str]()
        for column in spoken(clips):
            kind = kind_of(people[column.said], voices[column.said])
            all_words[kind] += 1
            missed[kind] += bool(column.mark)
        cells = [share(missed[kind], all_words[kind]) for kind in KINDS]
        print(f"| {path.name.split('.')[0]} | {' | '.join(cells)} |")


def said(manifests: Iterable[Path]) -> Counter[str]:
    """Word -> how often it is said in the manifests."""
    texts = (item.text for manifest in manifests for item in read_manifest(manifest))
    return Counter(word for text in texts for word in NORMALISER(text).split())


def spoken(clips: Iterable[dict]) -> Iterator[Column]:
    """The words that were said, above what was heard."""
    for clip in clips:
        columns = columns_of(NORMALISER(clip["said"]), NORMALISER(clip["text"]))
        yield from (column for column in columns if column.said)


def kind_of(by_people: int, by_voices: int) -> str:
    if by_people:
        return KINDS[0]
    return KINDS[1] if by_voices >= OFTEN else KINDS[2] if by_voices else KINDS[3]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % of {whole}" if whole else "–"


if __name__ == "__main__":
    main()
