"""Answers that were made elsewhere: a file of `{"id", "prediction"}`, or the JSON that `dozan eval` writes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.errors import InputError
from dozan.judge.score import query, tool_set
from dozan.rows.errors import Errors
from dozan.rows.example import Example, Json
from dozan.rows.groups import hash_text
from dozan.rows.records import Broken, read_records


def read_predictions(
    path: str | Path, examples: Sequence[Example], others: Container[int] = frozenset()
) -> dict[str, str]:
    """Each prediction's text by its row's id.

    A prediction is the generated text, or a list of calls `{"name", "arguments"}`, which is written as FunctionGemma
    writes it. Where a line also has `tools` (declarations, or `RowScore.tools`) or `query`, they must be those of the
    row. Predictions for `others`, rows by the hashes of their ids, are read and passed over. Raises one InputError for
    everything that is broken. Whether each row has a prediction is not checked here.
    """
    rows = {example.id: example for example in examples}
    found: dict[str, str] = {}
    errors = Errors()
    for record in read_records(path):
        if isinstance(record, Broken):
            if not record.usable:
                errors.add(str(record))
            continue
        try:
            name, text = _read(record.value, record.place)
            if hash_text(name) in others:
                continue
            if name in found:
                raise InputError(f"{record.place}: id: {name!r} comes twice; give one prediction for a row")
            if name in rows:
                _check_row(record.value, rows[name], record.place)
            found[name] = text
        except InputError as error:
            errors.add(str(error))
    if errors:
        raise InputError(str(errors))
    if not found:
        raise InputError(f'{path}: no predictions; write one {{"id": ..., "prediction": ...}} a line')
    return found


def _read(value: Json, place: str) -> tuple[str, str]:
    if not isinstance(value, Mapping) or "id" not in value or "prediction" not in value:
        raise InputError(f'{place}: expected {{"id": ..., "prediction": ...}}')
    name, prediction = value["id"], value["prediction"]
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise InputError(f"{place}: id: expected text or a whole number, found {name!r:.60}")
    if isinstance(prediction, str):
        return str(name), prediction
    if isinstance(prediction, list):
        return str(name), _written(prediction, place)
    raise InputError(
        f'{place}: prediction: expected the generated text, or a list like [{{"name": "...", "arguments": {{...}}}}]'
    )


def _written(calls: Sequence[Json], place: str) -> str:
    """Calls as FunctionGemma writes them; no text for no calls."""
    for i, call in enumerate(calls):
        fits = isinstance(call, Mapping) and isinstance(call.get("name"), str)
        if not fits or not isinstance(call.get("arguments", {}), Mapping):
            raise InputError(f'{place}: prediction[{i}]: expected {{"name": "...", "arguments": {{...}}}}')
    if not calls:
        return ""
    asked = {"role": "user", "content": "?"}
    made = [{"type": "function", "function": {"arguments": {}, **call}} for call in calls]
    rendered = FUNCTIONGEMMA.render([asked, {"role": "assistant", "tool_calls": made}], (), place=place)
    start, end = rendered.trained[-1]
    return rendered.text[start:end]


def _check_row(value: Mapping[str, Json], example: Example, place: str) -> None:
    """Raises InputError when a line says that it answers another question or was given other tools."""
    tools, asked = value.get("tools"), value.get("query")
    if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
        tools = tool_set(Example(example.id, tuple(tools), ()))
    if tools and tools != tool_set(example):
        raise InputError(
            f"{place}: the tool set of row {example.id} ({example.place or 'given'}) is not the one that was answered "
            "with; give the rows that the predictions were made from, or make them again"
        )
    if isinstance(asked, str) and asked != query(example):
        raise InputError(
            f"{place}: row {example.id} ({example.place or 'given'}) asks {query(example)!r:.60}, the prediction "
            f"answers {asked!r:.60}; give the rows that the predictions were made from"
        )
