"""The encoders, by the `model_type` of their config. One line a family."""

from typing import Any

from .encoder_speecht5 import SpeechSpeechT5
from .encoder_wav2vec2_bert import SpeechWav2Vec2Bert
from .encoder_waveform import SpeechHubert, SpeechWav2Vec2, SpeechWavLM
from .encoder_whisper import SpeechWhisperEncoder

ENCODERS: dict[str, Any] = {
    "whisper": SpeechWhisperEncoder,
    "hubert": SpeechHubert,
    "wav2vec2": SpeechWav2Vec2,
    "wavlm": SpeechWavLM,
    "speecht5": SpeechSpeechT5,
    "wav2vec2-bert": SpeechWav2Vec2Bert,
}
