"""A model card: what the model is, its data, recipe, scores and certificate, its licence, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from dozan.judge.report_certificate import nats
from dozan.rows.example import Json

COMMAND = "شغّل ضوء المطبخ واضبط المنبّه على الساعة ٧:٣٠ صباحًا"
TOOL = '{"type": "function", "function": {"name": "set_alarm", "description": "Sets an alarm", "parameters": ' \
       '{"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]}}}'  # fmt: skip
_BEST = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")
"""The file that the examples name: the first of these that is there."""
_SETTINGS = ("rank", "alpha", "rslora", "dora", "dropout", "targets")
_TRAINING = ("epochs", "max_steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "optimizer", "seed")


@dataclass(frozen=True)
class Licence:
    """`name` as the hub spells it; `text` is a sentence."""

    name: str
    text: str


GEMMA = Licence("gemma", "Gemma is provided under and subject to the Gemma Terms of Use at "
                "https://ai.google.dev/gemma/terms. Whoever uses this model agrees to them.")  # fmt: skip
APACHE = Licence("apache-2.0", "The base is dozan's own embedded model, under Apache-2.0.")


@dataclass(frozen=True)
class Facts:
    """What a card is made of. base: a hub id, or a name. run: run.json, {} for a folder without a run. parity: of an
    export, {} without. kind: "adapter" or "model", what lies beside the GGUF `files`. languages: ISO codes."""

    repo: str
    base: str
    on_hub: bool
    embedded: bool
    run: Mapping[str, Json]
    parity: Mapping[str, Json]
    kind: str
    files: Sequence[str]
    calls_tools: bool
    languages: Sequence[str]


def write_card(facts: Facts) -> str:
    """README.md, front matter included."""
    licence = APACHE if facts.embedded else GEMMA
    parts = [
        _front(facts, licence), f"# {facts.repo.partition('/')[2]}", _what(facts), _data(facts), _recipe(facts),
        _scores(facts), _certificate(facts), "## Licence\n" + licence.text, _use(facts),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(facts: Facts, licence: Licence) -> str:
    head: dict[str, Json] = {"license": licence.name, "language": list(facts.languages)}
    if facts.on_hub:
        head["base_model"] = facts.base
    head["library_name"] = "peft" if facts.kind == "adapter" else "transformers"
    tags = ["dozan", "gemma3", *(["function-calling"] if facts.calls_tools else []), *(["gguf"] if facts.files else [])]
    head |= {"pipeline_tag": "text-generation", "tags": tags}
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _what(facts: Facts) -> str:
    what = "An adapter for" if facts.kind == "adapter" else "A model made from"
    calls = " It answers a command with calls to the tools that are declared to it." if facts.calls_tools else ""
    files = f" The GGUF {'file is' if len(facts.files) == 1 else 'files are'} for llama.cpp and what is built on it." \
        if facts.files else ""  # fmt: skip
    return f"{what} `{facts.base}`, tuned with dozan.{calls}{files}"


def _data(facts: Facts) -> str:
    run = facts.run
    if "rows" not in run:
        return ""
    said = f"{run['rows']:,} rows"
    said += f", {run['tokens']:,} tokens" if run.get("tokens") else ""
    said += f"; {run['heldout_rows']:,} rows were held out." if run.get("heldout_rows") else "."
    hashes = run.get("fingerprint") or {}
    known = [name for name in ("rows", "heldout rows") if name in hashes]
    listed = "".join(f"\n- SHA-256 of the {name}: `{hashes[name]}`" for name in known)
    return f"## Data\n{said} The rows themselves are not in this repository.{listed}"


def _recipe(facts: Facts) -> str:
    recipe = facts.run.get("recipe") or {}
    if not recipe:
        return ""
    settings = {key: recipe["adapter"][key] for key in _SETTINGS if key in recipe.get("adapter", {})}
    settings |= {key: recipe["train"][key] for key in _TRAINING if recipe.get("train", {}).get(key) is not None}
    quantised = (recipe.get("model") or {}).get("quantise", "none")
    settings |= {"base in training": "NF4"} if quantised == "nf4" else {}
    final = facts.run.get("final") or {}
    settings |= {key.replace("_", " "): f"{final[key]:.4g}" for key in ("final_loss", "eval_loss") if final.get(key)}
    rows = "".join(f"\n| {key.replace('_', ' ')} | {_plain(value)} |" for key, value in settings.items())
    return f"## Recipe\nAll of it is in `recipe.yaml`.\n\n| setting | value |\n|---|---|{rows}"


def _plain(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _scores(facts: Facts) -> str:
    scores = facts.parity.get("scores") or {}
    if not scores.get("rows"):
        return ""
    named = {"the model": scores["model"]} if scores.get("model") else {}
    named |= {f"`{name}`, llama.cpp": said["scores"] for name, said in facts.parity["files"].items()
              if name in facts.files and said.get("scores")}  # fmt: skip
    rows = "".join(
        f"\n| {name} | {_share(each['strict'])} | {_share(each['normalised'])} |" for name, each in named.items()
    )
    return (f"## Scores\nOn {scores['rows']} rows. Strict: every call, argument and value is right. "
            "Normalised: digits and surface forms aside. In parentheses 95 % intervals.\n\n"
            f"| | strict | normalised |\n|---|---:|---:|{rows}")  # fmt: skip


def _share(found: Mapping[str, Json]) -> str:
    return f"{found['right']} of {found['n']} ({100 * found['low']:.0f} to {100 * found['high']:.0f} %)"


def _certificate(facts: Facts) -> str:
    files = {name: said for name, said in (facts.parity.get("files") or {}).items() if name in facts.files}
    if not files:
        return ""
    rows = "".join(
        f"\n| `{name}` | {said['difference']['max_abs'] / max(1.0, said['difference']['spread']):.2g} | "
        f"{nats(said['difference']['mean_kl'])} | {100 * said['difference']['top1']:.1f} % | "
        f"`{said['sha256'][:16]}…` |"
        for name, said in files.items()
    )
    return (
        f"## Certificate\nEach file went through llama.cpp on {facts.parity['tokens']:,} tokens and was compared with "
        f"{facts.parity['reference']}; all of it is in `parity.json`.\n\n"
        "| file | logits apart, in spreads | KL, nats | "
        f"same first choice | SHA-256 |\n|---|---:|---:|---:|---|{rows}"
    )


def _use(facts: Facts) -> str:
    parts = ["## How to use it"]
    if facts.files:
        kinds = {facts.parity["files"][name]["kind"]: name for name in facts.files}
        best = next((kinds[kind] for kind in _BEST if kind in kinds), facts.files[0])
        parts.append(f"With dozan, here on a command in Arabic and `tools.json`, a list such as `[{TOOL}]`:\n\n"
                     f'    dozan run "{COMMAND}" --model {best} --tools tools.json')  # fmt: skip
        parts.append(f"With llama.cpp: `llama-server -m {best} --jinja`")
    if facts.kind == "adapter" and facts.on_hub:
        parts.append(
            "With PEFT:\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, "
            f'AutoTokenizer\n\nbase = AutoModelForCausalLM.from_pretrained("{facts.base}")\nmodel = '
            f'PeftModel.from_pretrained(base, "{facts.repo}")\ntokenizer = AutoTokenizer.from_pretrained('
            f'"{facts.base}")\nmessages = [{{"role": "user", "content": "{COMMAND}"}}]\nids = '
            "tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors=\"pt\")\n"
            "print(tokenizer.decode(model.generate(ids, max_new_tokens=128)[0]))\n```"
        )  # fmt: skip
    if facts.kind == "model":
        parts.append(
            "With transformers:\n\n```python\nfrom transformers import pipeline\n\n"
            f'answer = pipeline("text-generation", "{facts.repo}")\nprint(answer([{{"role": "user", "content": '
            f'"{COMMAND}"}}], max_new_tokens=128))\n```'
        )
    return "\n\n".join(parts)
