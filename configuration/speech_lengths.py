"""The one owner of the arithmetic samples -> feature frames -> encoder frames -> speech tokens.

A chain is data (it travels in JSON): a list of steps, each a name and whole numbers.

    ["conv", kernel, stride, padding]   (n + 2 * padding - kernel) // stride + 1
    ["windows", size, tokens]           ceil(n / size) * tokens
    ["fixed", tokens]                   tokens, whatever the length

By hand, 3 s at 16 kHz through Whisper and an `mlp` that stacks 4:
48000 samples -> conv 160/160/0: 300 mel frames -> conv 3/1/1: 300 -> conv 3/2/1: 150 -> windows 4/1: 38.
"""

LengthSteps = list[list]

STEP_SIZES = {"conv": 3, "windows": 2, "fixed": 1}


def check_steps(steps: LengthSteps) -> None:
    """Raise `ValueError` for a chain that `chain_length` could not follow."""
    for step in steps:
        name, *numbers = step or [None]
        whole = all(type(number) is int and number >= 0 for number in numbers)
        if name not in STEP_SIZES or len(numbers) != STEP_SIZES[name] or not whole:
            raise ValueError(f"{step!r} is not a length step; there are {sorted(STEP_SIZES)}")
        if name != "fixed" and 0 in numbers[: 2 if name == "conv" else 1]:
            raise ValueError(f"{step!r} has a kernel, stride or window of size 0")


def chain_length(length, steps: LengthSteps):
    """Length after `steps`; `length` is an `int` or an integer tensor of any shape, and so is the result."""
    for name, *numbers in steps:
        if name == "conv":
            kernel, stride, padding = numbers
            length = (length + 2 * padding - kernel) // stride + 1
            # Whatever is shorter than the kernel leaves nothing, never a negative count.
            length = max(length, 0) if isinstance(length, int) else length.clamp(min=0)
        elif name == "windows":
            size, tokens = numbers
            length = -(-length // size) * tokens
        else:
            length = length * 0 + numbers[0]
    return length
