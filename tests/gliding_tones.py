"""Sound for tests that nobody has to say."""

import numpy as np


def glide(seconds: float, generator: np.random.Generator) -> np.ndarray:
    """A gliding tone in noise, `[seconds * 16000]`."""
    time = np.arange(int(seconds * 16000)) / 16000
    start, end = generator.uniform(100, 3000, size=2)
    phase = 2 * np.pi * (start * time + (end - start) * time**2 / (2 * seconds))
    return (0.3 * np.sin(phase) + 0.05 * generator.standard_normal(len(time))).astype(np.float32)
