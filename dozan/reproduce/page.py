"""A reproduction's README.md: what was run, on what, what came of it beside what was published, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dozan.reproduce.published import DATA_SETS, DataSet, known
from dozan.rows.example import Json
from dozan.train.checkpoint import write_text

_MODELS = {"base": "base", "tuned": "tuned", "gguf": "tuned, Q8_0 through llama.cpp"}


def write_page(path: Path, record: Mapping[str, Json]) -> None:
    """Write the page of a record that is done."""
    parts = (_head, _checks, _scores, _others, _training, _export, _made)
    write_text(path, "\n\n".join(part(record) for part in parts) + "\n")


def _head(record: Mapping[str, Json]) -> str:
    asked, rows = record["asked"], record["steps"]["rows"]
    tuned, base = (record["steps"][name]["strict"] for name in ("tuned", "base"))
    before = f"`{asked['model']}` gets {_share(base)} of {rows['test_rows']:,} test rows exactly right"
    trained = f"tuned with dozan {asked['dozan']} on {rows['train_rows']:,} rows of `{asked['data']}`"
    said = f"{before}; {trained} it gets {_share(tuned)}. In parentheses 95 % intervals."
    return f"# {asked['recipe']}, reproduced\n\n{said}\n\n```\n{record['command']}\n```"


def _checks(record: Mapping[str, Json]) -> str:
    rendering, logits, rows = (record["steps"][name] for name in ("rendering", "logits", "rows"))
    leaked, same = rows["test_queries_in_training"], _percent(logits["same_first_choice"])
    return (
        "## Before the training\n"
        f"- Token ids of {rendering['rows_equal']} prompts are those of the checkpoint's own chat template and "
        f"tokenizer; {rendering['rows_repaired']} rows were left out, which that template corrupts.\n"
        f"- Logits at {logits['positions']} positions are at most {logits['max_abs']:.2g} from transformers' in fp32 "
        f"(the largest is {logits['largest_logit']:.3g}); the first choice is the same at {same}.\n"
        f"- {leaked} of {rows['test_rows']:,} test queries are queries to train on, once Arabic spellings are folded; "
        "they are scored all the same, as published figures do."
    )


def _scores(record: Mapping[str, Json]) -> str:
    lines = ["## Scores", "| model | strict | normalised | seconds |", "|---|---:|---:|---:|"]
    for name, title in _MODELS.items():
        found = record["steps"][name]
        cells = (title, _share(found["strict"]), _share(found["normalised"]), f"{found['seconds']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    told = "Strict: every call, argument and value is right. Normalised: digits and surface forms aside."
    return "\n".join([*lines, "", told])


def _others(record: Mapping[str, Json]) -> str:
    """Both presets: that of these rows beside what was published on them, the other one for orientation."""
    own = known(record["steps"]["rows"]["published_set"] or "")
    parts = [_preset(record, each, each is own) for each in sorted(DATA_SETS, key=lambda each: each is not own)]
    return "## As others score\n" + "\n\n".join(parts)


def _preset(record: Mapping[str, Json], data: DataSet, is_own: bool) -> str:
    found = {name: record["steps"][name]["presets"][data.preset] for name in _MODELS}
    shown = list(dict.fromkeys(each.metric for each in data.published))
    shown += [name for name in found["tuned"]["figures"] if name not in shown and not name.startswith("gap")]
    lines = [f"### `{data.preset}`", found["tuned"]["rules"] + ".", ""]
    lines += [f"| | {' | '.join(_MODELS.values())} |", f"|---|{'---:|' * len(_MODELS)}"]
    for name in shown:
        lines.append(f"| {name} | {' | '.join(_measured(each['figures'][name]) for each in found.values())} |")
    other = f"Published on {data.id}, which is **not** what was scored here: no comparison, for orientation alone"
    said = "Published on these rows' set" if is_own else other
    lines += ["", f"{said}:", "", "| system | metric | published | source |", "|---|---|---:|---|"]
    lines += [f"| {p.system} | {p.metric} | {_percent(p.value)} | {p.source} |" for p in data.published]
    return "\n".join(lines)


def _training(record: Mapping[str, Json]) -> str:
    found = record["steps"]["training"]
    recipe, changed = found["recipe"], record["asked"]["overrides"]
    adapter, train = recipe["adapter"], recipe["train"]
    said = f" with {', '.join(f'`{text}`' for text in changed)}" if changed else ", unchanged"
    return (
        "## Training\n"
        f"Recipe `{record['asked']['recipe']}`{said}: r = {adapter['rank']}, α = {adapter['alpha']:g}, "
        f"rate {train['learning_rate']:g}, {train['schedule']}, {train['batch_size']} rows a step. "
        f"{found['steps']:,} steps, {found['tokens']:,} tokens, {found['step_seconds']:,.0f} s; "
        f"{found['trainable_parameters']:,} parameters; loss {_loss(found['final_loss'])}, on held-out training rows "
        f"{_loss(found['eval_loss'])}. All of it is in `run/recipe.yaml` and `run/metrics.jsonl`."
    )


def _export(record: Mapping[str, Json]) -> str:
    found = record["steps"]["export"]
    file = f"`{found['file']}`, {found['bytes'] / 2**20:,.1f} MiB, SHA-256 `{found['sha256']}`"
    same = _percent(found["same_first_choice"])
    return (f"## Certificate\n{file}: logits at most {found['max_abs']:.2g} from the tuned model's, KL "
            f"{found['mean_kl']:.2g} nats, the same first choice at {same}, {found['lines_equal']} of {found['lines']} "
            "texts tokenised alike. All of it is in `gguf/parity.json`.")  # fmt: skip


def _made(record: Mapping[str, Json]) -> str:
    rows, machine = record["steps"]["rows"], record["machine"]
    facts = {
        "device": machine["device"], "system": f"{machine['system']}, {machine['processor']}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "checkpoint, SHA-256": record["steps"]["checkpoint"]["sha256"], "training rows, SHA-256": rows["train_sha256"],
        "test rows, SHA-256": rows["test_sha256"],
        "seconds": ", ".join(f"{name} {found['seconds']:,.0f}" for name, found in record["steps"].items()),
    }  # fmt: skip
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"## How it was made\n| | |\n|---|---|\n{lines}"


def _share(found: Mapping[str, Json]) -> str:
    return f"{_percent(found['right'] / found['n'])} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _measured(found: Mapping[str, Json]) -> str:
    if found["value"] is None:
        return "–"
    span = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return f"{_percent(found['value'])}{span}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
