"""Train a speech recognizer: `accelerate launch training/train.py +experiment=smoke`.

The same code as `python -m speechllm.training.train` and `speechllm train`.
"""

import sys

if __name__ == "__main__" and not __package__:
    # As a script its folder comes first among the places of modules, and `data` or `metrics` would be ours.
    sys.path.pop(0)

from speechllm.training.entry import main

if __name__ == "__main__":
    sys.exit(main())
