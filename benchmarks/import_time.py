"""How long `import speechllm` takes, and whether it pulls torch in.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys

from conditions import print_conditions

CODE = """
import sys, time
start = time.perf_counter()
import speechllm
print(time.perf_counter() - start, "torch" in sys.modules)
"""


def main() -> None:
    print_conditions("import time: seconds of `import speechllm` in fresh processes")
    runs = [
        subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        for _ in range(9)
    ]
    seconds, torches = zip(*(run.stdout.split() for run in runs), strict=True)
    times = [float(value) for value in seconds]
    print(f"median {statistics.median(times):.4f} s, worst {max(times):.4f} s (under 0.2 is claimed)")
    print(f"torch imported: {'yes' if 'True' in torches else 'no'}")


if __name__ == "__main__":
    main()
