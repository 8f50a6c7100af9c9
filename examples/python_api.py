"""Train on a JSONL file, score held-out rows, merge, export: `python examples/python_api.py rows.jsonl output/mine`."""

from __future__ import annotations

import sys
from pathlib import Path

import dozan


def main(rows: Path, out: Path) -> None:
    result = dozan.train(rows, out=out / "run", overrides=["train.epochs=2"])
    print(f"{result.steps} steps, loss {result.final_loss}")
    heldout = result.out / "data" / "heldout.jsonl"
    for name, model in (("base", dozan.EMBEDDED_BASE), ("tuned", result.out)):
        summary = dozan.evaluate(model, heldout, json=out / f"{name}.json").summary()
        print(f"{name}: strict {summary['strict']:.3f}, normalised {summary['normalised']:.3f}, n {summary['n']}")
    dozan.merge(result.out, out / "merged")
    for exported in dozan.export(result.out, gguf="q8_0", out=out / "gguf"):
        print(exported.path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
