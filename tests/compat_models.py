"""Rows and checkpoint folders for the tests of the familiar API, named as notebooks name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nf4_models import SIZES, quantised_copy, sixteen_bits
from ship_models import NAMED, make_folder

FUNCTIONGEMMA = "unsloth/functiongemma-270m-it"
GEMMA_12B = "unsloth/gemma-3-12b-it-bnb-4bit"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# fmt: off
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "طقس مدينة", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "المدينة"},
                                         "day": {"type": "string", "description": "اليوم"}}, "required": ["city"]}}}]
# fmt: on
CITIES = ("القاهرة", "دمشق", "تونس", "عمان", "صنعاء", "الرباط", "بغداد", "بيروت", "الدوحة", "مسقط")


def call(city: str, **more: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": {"city": city, **more}}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def call_rows(count: int = 6, answered: bool = False) -> list[dict[str, Any]]:
    """Rows of a question and its call; `answered`: with the tool's answer and the sentence after it."""
    rows = []
    for i in range(count):
        city = CITIES[i % len(CITIES)]
        when = "غدا" if i % 2 else "اليوم"
        messages = [{"role": "developer", "content": "You can call functions"},
                    {"role": "user", "content": f"ما الطقس في {city} {when}؟"},
                    call(city, **({"day": when} if i % 2 else {}))]  # fmt: skip
        if answered:
            messages += [{"role": "tool", "name": "get_weather", "content": f"{20 + i} درجة"},
                         {"role": "assistant", "content": f"{20 + i} درجة في {city}"}]  # fmt: skip
        rows.append({"messages": messages, "tools": TOOLS})
    return rows


def talk_rows(count: int = 6) -> list[dict[str, Any]]:
    """Rows of Gemma 3: two questions and their answers."""
    return [{"conversations": [{"role": "user", "content": f"سؤال {i}"}, {"role": "assistant", "content": f"جواب {i}"},
                               {"role": "user", "content": "ثم؟"}, {"role": "assistant", "content": "لا شيء"}]}
            for i in range(count)]  # fmt: skip


def small_functiongemma(folder: Path) -> Path:
    return make_folder(folder, **SIZES, num_hidden_layers=2)


def small_12b(root: Path) -> Path:
    """A Gemma 3 in NF4, without FunctionGemma's tokens, at `root` / GEMMA_12B."""
    base = sixteen_bits(root / "sixteen", num_hidden_layers=1)
    tokens = (base / "tokenizer.json").read_text(encoding="utf-8")
    for number, name in NAMED.items():
        if number < 100:
            tokens = tokens.replace(json.dumps(name), json.dumps(f"<unused{number}>"))
    (base / "tokenizer.json").write_text(tokens, encoding="utf-8")
    (root / GEMMA_12B).parent.mkdir(parents=True, exist_ok=True)
    return quantised_copy(base, root / GEMMA_12B)
