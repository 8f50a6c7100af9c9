"""Runs a LiteRT-LM model in the environment that has it: nothing here but Python and litert_lm.

Run by path, `PYTHON litert_worker.py FOLDER`: reads FOLDER/request.json, writes FOLDER/result.json. Prompts are text
with their control tokens spelt out, <bos> left to the session.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> list[str]:
    """The model's text after each prompt, at most so many tokens."""
    import litert_lm  # type: ignore[import-not-found]

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    engine = litert_lm.Engine(
        request["model"], backend=litert_lm.Backend.CPU(), max_num_tokens=request["context_tokens"]
    )
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)
    found = []
    for prompt in request["prompts"]:
        with engine.create_session(
            apply_prompt_template=False, sampler_config=greedy, max_output_tokens=request["max_new_tokens"]
        ) as session:
            session.run_prefill([prompt])
            found.append(session.run_decode().texts[0])
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    result = answer(json.loads((folder / "request.json").read_text(encoding="utf-8")))
    (folder / "result.json").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
