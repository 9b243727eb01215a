"""What synthetic voices read beside fortunes, and a voice that goes on speaking in one process."""

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from speechllm.training.data.catalan_phrases import Phrases, catalan_phrases, dealt
from speechllm.training.data.catalan_sentences import catalan_sentences
from speechllm.training.data.catalan_things import things
from speechllm.training.data.catalan_words import WORD, forms, lexicon_words, with_plurals
from speechllm.training.data.synthetic_speech import TEXTS, prepare_synthetic
from speechllm.training.data.voices import VOICES, festival

LEXICON = [
    "MNCL",
    '("papallona" ((NC -4.776) ) () )',
    '("ulls" ((NC -4.0) ) () )',
    '("gos" ((AQ -5.0)(NC -3.9) ) () )',
    '("dones" ((NC -4.1) ) () )',
    '("ababol" ((NC -5.253) ) () )',
    '("blau" ((AQ -4.2) ) () )',
    '("gran" ((AQ -3.8) ) () )',
    '("en_Joan" ((NP -4.3) ) () )',
    '("-2,90" ((Z -3.4) ) () )',
]
ANALYSED = (
    "^papallona/papallona<n><f><sg>$\n^ulls/ull<n><m><pl>$\n^gos/gos<n><m><sg>$\n^dones/dona<n><f><pl>$"
    "/^x$\n^blau/blau<adj><m><sg>$\n^gran/gran<adj><mf><sg>$\n^obertes/obert<adj><f><pl>/obrir<vblex><pp><f><pl>$"
    "\n^xyz/*xyz$\n"
)


def test_words_seen_in_texts_have_the_gender_and_number_that_the_dictionary_says():
    known, seen = lexicon_words(LEXICON)
    assert known == {"papallona", "ulls", "gos", "dones", "ababol", "blau", "gran"}
    # The least frequency of its part of speech is that of a word that no text has.
    assert seen == {"NC": {"papallona", "ulls", "gos", "dones"}, "AQ": {"blau", "gran"}}
    assert forms(ANALYSED, "adj", {"blau", "gran"}) == {
        ("m", "sg"): {"blau", "gran"},
        ("f", "sg"): {"gran"},
    }
    assert forms(ANALYSED, "vblex><pp", {"obertes"}) == {("f", "pl"): {"obertes"}}
    assert forms(ANALYSED, "n", {"papallona"}) == {("f", "sg"): {"papallona"}}


NOUNS = {("m", "sg"): {"ull"}, ("f", "sg"): {"mà"}, ("m", "pl"): {"ulls"}, ("f", "pl"): {"mans"}}
ADJECTIVES = {("m", "sg"): {"roig"}, ("f", "sg"): {"roja"}, ("m", "pl"): {"rojos"}, ("f", "pl"): {"roges"}}


def test_phrases_agree_and_are_there_once():
    found, again = (Phrases(NOUNS, ADJECTIVES, {"obrir"}, {"mirant"}).draw(80) for _ in range(2))
    assert found == again
    assert len({one.lower() for one in found}) == 80
    # Articles agree, elide before a vowel, and melt with "de".
    for phrase in ("Un ull.", "Una mà roja.", "Unes mans d'ull.", "L'ull de la mà.", "Els ulls de l'ull."):
        assert phrase in found, sorted(found)
    assert "La mà dels ulls." in found and not any("de els" in one or "la ull" in one for one in found)
    assert "Roja." in found and "Una mà mirant un ull." in found and "Un ull per obrir la mà." in found


def test_no_word_comes_again_before_all_others_have_come():
    cards = dealt([f"word{number}" for number in range(40)], random.Random(0))
    first, second = ([next(cards) for _ in range(40)] for _ in range(2))
    assert set(first) == set(second) and len(set(first)) == 40 and first != second


# Word, what it is filed under, gender, frequency.
ENTRIES = [
    ("dona", "family", "f", "3,020"),
    ("llop", "animal-animal", "m", ""),
    ("astronauta", "astronomy", "m / f", "9"),
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
        ("f", "sg"): {"dona"},
        ("m", "sg"): {"llop", "astronauta", "panell"},
        ("f", "pl"): {"tisores"},
    }
    assert with_plurals(found, ANALYSED) == {**found, ("f", "pl"): {"tisores", "dones"}}
    assert found["f", "pl"] == {"tisores"}


def test_catalan_without_its_dictionary_is_told_with_the_command_that_brings_it(tmp_path):
    with pytest.raises(ValueError, match="install festival-ca apertium-fra-cat lttoolbox dacco-common"):
        catalan_phrases(tmp_path)


def test_every_voice_has_texts_to_read():
    assert {voice.language for voice in VOICES.values()} == set(TEXTS)


def test_texts_that_a_language_has_not_are_told_with_those_it_has(tmp_path, monkeypatch):
    monkeypatch.setitem(VOICES, "ona", replace(VOICES["ona"], is_there=lambda: True))
    with pytest.raises(ValueError, match="no 'verses' in 'ca': there are phrases, sentences"):
        prepare_synthetic(tmp_path / "to", tmp_path, language="ca", texts="verses")
    with pytest.raises(ValueError, match="the sentences of Catalan .* fortunes-es apertium apertium-spa-cat"):
        prepare_synthetic(tmp_path / "to", tmp_path, language="ca", texts="sentences")
    assert not (tmp_path / "to").exists()


# Knows some words, and marks those it does not know as Apertium does.
TRANSLATOR = """
import re, sys
assert sys.argv[1:] == ["-d", SHARE + "/apertium", "spa-cat"], sys.argv
words = {"el": "el", "perro": "gos", "can": "gos", "corre": "corre", "qui\u00e9n": "qui", "ladra": "lladra",
         "y": "i"}
def put(word):
    return words.get(word[0].lower(), "*" + word[0])
for paragraph in sys.stdin.read().split("\\n\\n"):
    print(re.sub(r"[^\\W\\d_]+", put, " ".join(paragraph.split())) + "\\n")
"""
SPANISH = """El perro corre. Corre.
%
\u00bfQui\u00e9n ladra? --- El perro ladra, y corre.
%
El perro corre 2 veces. EL PERRO LADRA. El gato corre.
%
El can
corre -- Perro y can
"""


def test_catalan_sentences_are_the_spanish_ones_that_can_be_translated(tmp_path, monkeypatch):
    (tmp_path / "apertium" / "modes").mkdir(parents=True)
    (tmp_path / "apertium" / "modes" / "spa-cat.mode").touch()
    spanish = tmp_path / "games" / "fortunes" / "es"
    spanish.mkdir(parents=True)
    (spanish / "perros.fortunes").write_text(SPANISH, encoding="utf-8")
    (spanish / "perros.fortunes.dat").write_bytes(b"\x00\xff")
    script = tmp_path / "bin" / "apertium"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nSHARE = {str(tmp_path)!r}\n{TRANSLATOR}", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    # No word alone, no number, nothing in capitals, nothing with an unknown word, and nothing twice.
    expected = ["El gos corre.", "Qui lladra?", "El gos lladra, i corre.", "Gos i gos."]
    assert catalan_sentences(tmp_path) == expected


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
