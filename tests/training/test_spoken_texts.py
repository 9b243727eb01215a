"""What synthetic voices read beside fortunes, and a voice that goes on speaking in one process."""

import sys

import numpy as np
import pytest
import soundfile
from speechllm.training.data.catalan_phrases import (
    WORD,
    catalan_phrases,
    drawn_phrases,
    forms,
    lexicon_words,
    with_plurals,
)
from speechllm.training.data.catalan_things import FREQUENT_WEIGHT, SEEN_WEIGHT, things
from speechllm.training.data.synthetic_speech import TEXTS
from speechllm.training.data.voices import VOICES, festival

LEXICON = [
    "MNCL",
    '("papallona" ((NC -4.776) ) () )',
    '("ulls" ((NC -4.0) ) () )',
    '("gos" ((AQ -5.0)(NC -3.9) ) () )',
    '("dones" ((NC -4.1) ) () )',
    '("blau" ((AQ -4.2) ) () )',
    '("gran" ((AQ -3.8) ) () )',
    '("en_Joan" ((NP -4.3) ) () )',
    '("-2,90" ((Z -3.4) ) () )',
]
ANALYSED = (
    "^papallona/papallona<n><f><sg>$\n^ulls/ull<n><m><pl>$\n^gos/gos<n><m><sg>$\n^dones/dona<n><f><pl>$"
    "/^x$\n^blau/blau<adj><m><sg>$\n^gran/gran<adj><mf><sg>$\n^xyz/*xyz$\n"
)


def test_words_have_the_gender_and_number_that_the_dictionary_says():
    words = lexicon_words(LEXICON)
    assert set(words["n"]) == {"papallona", "ulls", "gos", "dones"}
    assert words["adj"] == {"gos": pytest.approx(1e-5), "blau": 10**-4.2, "gran": 10**-3.8}
    assert forms(ANALYSED, "adj", words["adj"]) == {
        ("m", "sg"): {"blau": 10**-4.2},
        ("mf", "sg"): {"gran": 10**-3.8},
    }
    assert forms(ANALYSED, "n", words["n"])["f", "sg"] == {"papallona": 10**-4.776}


def test_phrases_agree_and_are_there_once():
    nouns = {("m", "sg"): {"ull": 1.0}, ("f", "sg"): {"mà": 1.0}, ("m", "pl"): {"ulls": 1.0}}
    nouns["f", "pl"] = {"mans": 1.0}
    numbers = {("m", "sg"): "roig", ("f", "sg"): "roja", ("m", "pl"): "rojos", ("f", "pl"): "roges"}
    adjectives = {kind: {word: 1.0} for kind, word in numbers.items()}
    found = drawn_phrases(nouns, adjectives, 45)
    assert found == drawn_phrases(nouns, adjectives, 45) and len({one.lower() for one in found}) == 45
    # Articles agree, elide before a vowel, and melt with "de".
    for phrase in ("Un ull.", "Una mà roja.", "Unes mans d'ull.", "L'ull de la mà.", "Els ulls de l'ull."):
        assert phrase in found, sorted(found)
    assert "La mà dels ulls." in found and not any("de els" in one or "la ull" in one for one in found)


# Word, what it is filed under, gender, frequency.
ENTRIES = [
    ("dona", "family", "f", "3,020"),
    ("llop", "animal-animal", "m", ""),
    ("panell", "", "m", "9000"),
    ("narcisisme", "", "m", "40"),
    ("Gabon", "", "m", "9000"),
    ("bisbe", "religious", "m", "9000"),
    ("tisores", "tools", "fpl", "9"),
]
ENTRY = """<Entry frequency="{3}">{0}<nouns><translations><translation catagory="{1}" gender="{2}">...
</translation></translations></nouns><expressions>{0} de mar
<translations><translation catagory="animal" gender="m">...
</translation></translations></expressions></Entry>"""


def test_things_are_what_one_can_see_and_words_that_are_frequent(tmp_path):
    entries = "\n".join(ENTRY.format(*entry) for entry in ENTRIES)
    (tmp_path / "a.dic").write_text(f"<dictionary>{entries}</dictionary>", encoding="utf-8")
    found = things(tmp_path, WORD)
    assert found == {
        ("f", "sg"): {"dona": SEEN_WEIGHT},
        ("m", "sg"): {"llop": SEEN_WEIGHT, "panell": FREQUENT_WEIGHT},
        ("f", "pl"): {"tisores": SEEN_WEIGHT},
    }
    grown = with_plurals(found, ANALYSED)
    assert grown["f", "pl"] == {"tisores": SEEN_WEIGHT, "dones": SEEN_WEIGHT}
    assert ("m", "pl") not in grown and ("f", "pl") in found and len(found["f", "pl"]) == 1


def test_catalan_without_its_dictionary_is_told_with_the_command_that_brings_it(tmp_path):
    with pytest.raises(ValueError, match="install festival-ca apertium-fra-cat lttoolbox dacco-common"):
        catalan_phrases(tmp_path)


def test_every_voice_has_texts_to_read():
    assert {voice.language for voice in VOICES.values()} == set(TEXTS)


# Answers as `festival --pipe` does, and counts how often it was started.
PROGRAM = """
import re, sys, numpy, soundfile
with open(__file__ + ".starts", "a") as starts:
    starts.write("x")
said, text = [], ""
while True:
    letter = sys.stdin.buffer.read(1).decode("iso-8859-15")
    if not letter:
        break
    text += letter
    if text.endswith("(fflush nil)"):
        spoken, path = re.search(r'Text "(.*?)"\\)\\) "(.*?)"', text).groups()
        if "mute" not in spoken:
            soundfile.write(path, numpy.full(len(spoken), 0.5), 16000, format="WAV")
        print("spoken", flush=True)
        text = ""
"""


def test_festival_speaks_all_texts_in_one_process(tmp_path, monkeypatch):
    script = tmp_path / "festival"
    script.write_text(f"#!{sys.executable}\n{PROGRAM}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    voice = festival("festvox-any", "catalan/any", "ca", "iso-8859-15")
    for number, text in enumerate(["Una libèl·lula.", 'Un "gos".']):
        voice.speak(text, tmp_path / f"{number}.wav")
        samples, rate = soundfile.read(tmp_path / f"{number}.wav")
        assert rate == 16000 and np.array_equal(samples, np.full(len(text), 0.5))
    assert (tmp_path / "festival.starts").read_text() == "x"
    with pytest.raises(RuntimeError, match="voice_any could not speak 'mute'"):
        voice.speak("mute", tmp_path / "none.wav")
    assert not voice.is_there() and "festvox-any" in voice.install
