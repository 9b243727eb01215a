from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class Segment:
    waveform: np.ndarray
    start: float
    end: float
    @property
    def duration(self): return self.end - self.start
    @property
    def level_db(self): return 0.0
def split_audio(blocks, sampling_rate, limit_seconds, search_seconds=None):
    w = np.concatenate(list(blocks)); n = int(limit_seconds * sampling_rate)
    for s in range(0, len(w), n):
        yield Segment(w[s:s+n], s / sampling_rate, min(len(w), s + n) / sampling_rate)
