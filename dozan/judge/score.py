"""Scores predictions against rows: strict, normalised and graded, never one number; and says what went wrong in each.

A call is right only if its name is right. Parallel calls are matched without regard to order (an ordered score stands
beside). A row that asks for no call is right when none is made and nothing is malformed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from dozan.chat.encode import gold as gold_answer
from dozan.chat.format import Call, ChatFormat, Parsed
from dozan.check.view import content_text
from dozan.errors import InputError
from dozan.judge.calls import Schemas, alike, graded, pair_calls, same_call, similar_call
from dozan.judge.faults import find_faults
from dozan.judge.summary import ARGUMENT_KINDS, FAULTS, ArgumentScore, CallScore, RowScore, Scores
from dozan.judge.values import Schema, is_copied, strictly_equal
from dozan.rows.example import Example, Json

__all__ = ["RowScore", "Scores", "score_row", "score_rows"]

_SHOWN = 20


def score_rows(
    examples: Sequence[Example], predictions: Sequence[str] | Mapping[str, str], chat: ChatFormat | None = None
) -> Scores:
    """Scores the generated text of each row, in order or by row id, as `chat` reads it (FunctionGemma's by default).

    Raises InputError when there are no rows, when ids repeat, when a row has no answer to compare with, or when the
    predictions are not for these rows.
    """
    from dozan.chat.functiongemma import FUNCTIONGEMMA

    reader = chat or FUNCTIONGEMMA
    texts = _aligned(examples, predictions)
    golds = _golds(examples)
    rows = zip(examples, golds, texts, strict=True)
    return Scores(tuple(score_row(example, gold, reader.parse(text), text) for example, gold, text in rows))


def score_row(example: Example, gold: Parsed, predicted: Parsed, text: str) -> RowScore:
    """Scores one row whose prediction `text` was read as `predicted`."""
    schemas = tool_schemas(example)
    paired = pair_calls(gold.calls, predicted.calls, schemas)
    partners = [predicted.calls[paired[i]] if i in paired else None for i in range(len(gold.calls))]
    call_scores = tuple(_call_score(call, made, schemas) for call, made in zip(gold.calls, partners, strict=True))
    complete = not predicted.problems and len(gold.calls) == len(predicted.calls)
    faults = find_faults(gold, predicted, paired, schemas, _said(example))
    strict = complete and all(call.strict for call in call_scores)
    return RowScore(
        id=example.id,
        place=example.place,
        query=query(example),
        dialect=str(example.meta.get("dialect") or ""),
        kind=str(example.meta.get("kind") or ""),
        gold=gold.calls,
        gold_text=gold.text,
        prediction=text,
        calls=predicted.calls,
        problems=predicted.problems,
        strict=strict,
        strict_ordered=complete and all(map(same_call, gold.calls, predicted.calls)),
        normalised=complete and all(call.normalised for call in call_scores),
        tool_name=Counter(call.name for call in gold.calls) == Counter(call.name for call in predicted.calls),
        graded=graded(gold.calls, predicted.calls, schemas),
        error=None if strict else min((fault.kind for fault in faults), key=FAULTS.index),
        faults=faults,
        call_scores=call_scores,
        arguments=_argument_scores(example, gold.calls, partners, schemas),
        normalised_ordered=complete and all(map(partial(similar_call, schemas=schemas), gold.calls, predicted.calls)),
        tools=tool_set(example),
    )


def tool_schemas(example: Example) -> dict[str, Schema]:
    """Each tool's parameters by its name; parameters in a JSON string are parsed, as the renderer does."""
    functions = [tool.get("function", tool) for tool in example.tools]
    return {function["name"]: _parameters(function) for function in functions}


def tool_set(example: Example) -> str:
    """12 hexadecimal digits that tell the row's declarations, in any order, from others."""
    functions = [tool.get("function", tool) for tool in example.tools]
    plain = [{**function, "parameters": _parameters(function)} for function in functions]
    written = sorted(json.dumps(function, sort_keys=True, ensure_ascii=False) for function in plain)
    return hashlib.sha256("\n".join(written).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _parameters(function: Mapping[str, Json]) -> Schema:
    found = function.get("parameters") or {}
    return json.loads(found) or {} if isinstance(found, str) else found


def _aligned(examples: Sequence[Example], predictions: Sequence[str] | Mapping[str, str]) -> list[str]:
    """The predictions in the order of the rows."""
    if not examples:
        raise InputError("no rows to score; give at least one row with an assistant message")
    repeated = [name for name, times in Counter(example.id for example in examples).items() if times > 1]
    if repeated:
        raise InputError(f"row ids repeat: {', '.join(repeated[:_SHOWN])}; give each row its own id")
    if not isinstance(predictions, Mapping):
        if len(predictions) != len(examples):
            raise InputError(f"{len(predictions)} predictions for {len(examples)} rows; give one for each, in order")
        return list(predictions)
    ids = [example.id for example in examples]
    unknown, absent = sorted(predictions.keys() - set(ids)), [name for name in ids if name not in predictions]
    if unknown or absent:
        raise InputError(
            f"the predictions are not for these rows: {len(absent)} rows have none ({', '.join(absent[:5])}), "
            f"{len(unknown)} are for other rows ({', '.join(unknown[:5])}); give the rows they were made from"
        )
    return [predictions[name] for name in ids]


def _golds(examples: Sequence[Example]) -> list[Parsed]:
    golds: list[Parsed] = []
    errors: list[str] = []
    for example in examples:
        try:
            golds.append(gold_answer(example))
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError(f"{len(errors)} of {len(examples)} rows cannot be scored:\n" + "\n".join(errors[:_SHOWN]))
    return golds


def _said(example: Example) -> str:
    """The text of the conversation before its last assistant message."""
    roles = [message.get("role") for message in example.messages]
    end = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else len(roles)
    return "\n".join(content_text(message.get("content")) for message in example.messages[:end])


def query(example: Example) -> str:
    """The last user message."""
    texts = [message.get("content") for message in example.messages if message.get("role") == "user"]
    return str(texts[-1]) if texts else ""


def _call_score(gold: Call, predicted: Call | None, schemas: Schemas) -> CallScore:
    if predicted is None or predicted.name != gold.name:
        return CallScore(gold.name, False, False, False)
    return CallScore(gold.name, True, same_call(gold, predicted), similar_call(gold, predicted, schemas))


def _argument_scores(
    example: Example, gold: Sequence[Call], partners: Sequence[Call | None], schemas: Schemas
) -> tuple[ArgumentScore, ...]:
    user = "\n".join(str(message.get("content")) for message in example.messages if message.get("role") == "user")
    scores: list[ArgumentScore] = []
    for i, (call, made) in enumerate(zip(gold, partners, strict=True)):
        partner = made if made is not None and made.name == call.name else None
        if not call.arguments:
            empty = partner is not None and not partner.arguments
            scores.append(ArgumentScore(call.name, "", "absent", empty, empty))
        for key, value in call.arguments.items():
            kind = _given_kind(example, i, call.name, key) or ("copied" if is_copied(value, user) else "computed")
            strict = normalised = False
            if partner is not None and key in partner.arguments:
                strict = strictly_equal(value, partner.arguments[key])
                normalised = alike(call, partner, key, schemas)
            scores.append(ArgumentScore(call.name, key, kind, strict, normalised))
    return tuple(scores)


def _given_kind(example: Example, i: int, tool: str, key: str) -> str | None:
    """What the row's `argument_kinds` (or their part for call `i`) says of an argument, under `tool.key` or `key`."""
    given: Json = example.meta.get("argument_kinds") or {}
    given = given[i] if isinstance(given, list) and i < len(given) else given
    if not isinstance(given, Mapping):
        return None
    found = given.get(f"{tool}.{key}", given.get(key))
    if found is not None and found not in ARGUMENT_KINDS:
        raise InputError(
            f"{example.place or example.id}: argument_kinds: {key}: {found!r} is not one of {', '.join(ARGUMENT_KINDS)}"
        )
    return found
