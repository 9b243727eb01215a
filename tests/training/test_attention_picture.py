"""The picture of a clip's attentions: right axes, right tokens, both branches, the gate; and its command."""

import numpy as np
import pytest
import soundfile
from matplotlib import image as pictures
from moved_parameters import move
from speechllm.cli.main import main
from speechllm.training.pictures.attention_picture import (
    attention_notes,
    attention_picture,
    draw,
    shown,
    spread,
)


@pytest.fixture(scope="module", params=["max_length", "longest"])
def parts(request, compose_whisper):
    model, processor = compose_whisper("dual_attention", encoder_padding=request.param)
    move(model.model.adapter.parameters(), 0.2)
    return model, processor


def test_notes_are_of_the_tokens_that_are_written_and_of_the_clips_own_frames(parts, clips):
    model, processor = parts
    notes = attention_notes(model, processor, clips[2], sampling_rate=16000)
    request = processor.apply_transcription_request(clips[2], sampling_rate=16000)
    ids = model.generate(**request)[0].tolist()
    ids = ids[: ids.index(256) + 1] if 256 in ids else ids
    assert notes.tokens == [shown(processor.tokenizer.decode([token])) for token in ids]
    frames = -(-round(len(clips[2]) / 160) // 2)
    for branch in ("primary", "secondary"):
        assert notes.maps[branch].shape == (2, len(ids), frames)
        shares = notes.maps[branch].sum(-1)
        hidden = model.config.encoder_padding == "longest"
        # In 30 s of frames some attention goes to the padding.
        assert np.allclose(shares, 1, atol=1e-4) if hidden else (shares < 1.0001).all()
    assert notes.gate.shape == (2, len(ids)) and 0 < notes.gate.min() < notes.gate.max() < 1
    assert notes.seconds == len(clips[2]) / 16000 == len(notes.samples) / 16000


def test_naming_the_language_or_not_the_same_pass_is_noted(parts, clips):
    model, processor = parts
    found = model.generate(
        **processor.apply_transcription_request(clips[3], sampling_rate=16000),
        max_new_tokens=1,
        return_dict_in_generate=True,
    ).language[0]
    free = attention_notes(model, processor, clips[3], sampling_rate=16000)
    named = attention_notes(model, processor, clips[3], language=found, sampling_rate=16000)
    assert free.tokens == named.tokens and np.allclose(free.gate, named.gate, atol=1e-5)


def test_an_untrained_model_has_equal_maps(compose_whisper, clips):
    model, processor = compose_whisper("dual_attention")
    notes = attention_notes(model, processor, clips[2], language="en", sampling_rate=16000)
    np.testing.assert_array_equal(notes.maps["primary"], notes.maps["secondary"])


def test_a_picture_is_written_with_tokens_and_seconds_on_its_axes(parts, clips, tmp_path):
    model, processor = parts
    path = attention_picture(
        model, processor, clips[2], tmp_path / "new" / "a.png", layers=[1], sampling_rate=16000
    )
    drawn = pictures.imread(path)
    # Of many colours: not an empty page.
    assert drawn.shape[1] == 1500 and len(np.unique(drawn.reshape(-1, drawn.shape[2]), axis=0)) > 100
    notes = attention_notes(model, processor, clips[2], sampling_rate=16000)
    figure = draw(notes, [0, 1])
    titles = [axes.get_title() for axes in figure.axes]
    assert {"primary", "secondary", "gate: the primary's weight"} <= set(titles)
    maps = [axes for axes in figure.axes if axes.images and axes.get_xlabel() == "seconds"]
    assert len(maps) == 2
    for axes in maps:
        assert [label.get_text() for label in axes.get_yticklabels()] == notes.tokens
        assert axes.get_xlim() == (0, notes.seconds)
    gate = next(axes for axes in figure.axes if axes.get_title().startswith("gate"))
    np.testing.assert_array_equal(gate.images[0].get_array(), notes.gate)


def test_layers_are_spread_from_the_first_to_the_last():
    assert spread(12, 3) == [0, 6, 11] and spread(2, 3) == [0, 1] and spread(1, 3) == [0]


def test_labels_show_what_is_not_seen_and_are_no_formulas():
    assert [shown(text) for text in (" a", " ", "\n", "$x$")] == [" a", "' '", "'\\n'", r"\$x\$"]


def test_the_command_draws_a_checkpoint(parts, bases, clips, tmp_path, capsys):
    for part in parts:
        part.save_pretrained(tmp_path / "dual")
    soundfile.write(tmp_path / "talk.wav", clips[2], 16000)
    words = ["analyze", "attention", str(tmp_path / "talk.wav"), "--model", str(tmp_path / "dual")]
    words += [
        "--to",
        str(tmp_path / "picture.png"),
        "--bases",
        str(bases),
        "--language",
        "it",
        "--layers",
        "0",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "picture.png")
    assert pictures.imread(tmp_path / "picture.png").ndim == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "a.pdf"}, "the picture is a .png file"),
        ({"layers": [2]}, "there is no decoder layer 2; there are 0 to 1"),
        (
            {"clip": np.zeros(16000 * 31, dtype=np.float32)},
            "the clip lasts 31.0 s, a picture shows at most 30 s",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(parts, clips, tmp_path, fields, message):
    asked = {"clip": clips[0], "path": tmp_path / "a.png", "sampling_rate": 16000, "language": "it", **fields}
    with pytest.raises(ValueError, match=message):
        attention_picture(*parts, **asked)
    assert not list(tmp_path.glob("*.png"))


def test_a_model_with_one_attention_is_refused(compose_whisper, clips):
    with pytest.raises(ValueError, match="not of 'cross_attention'"):
        attention_notes(*compose_whisper(), clips[0], sampling_rate=16000)
