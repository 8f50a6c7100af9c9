"""Train from a clone, without installing dozan: `python src/train.py --dataset rows.jsonl --out output/run`.

Takes what `dozan train` takes; `pip install -r requirements.txt` brings what it needs, and leaves torch as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """`dozan train`, from this clone."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dozan.cli import main as dozan

    dozan(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
