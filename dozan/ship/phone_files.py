"""The texts of a phone bundle that people and compilers read: PROMPT.md and prompt.h."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dozan.rows.example import Json

_A_LINE = 16


def guide(prompt: Mapping[str, Json], model: str, speed: Mapping[str, Json]) -> str:
    """PROMPT.md: ten lines on how a prompt is put together, then the sheet."""
    turn, user = prompt["turn"], prompt["turn"]["user"]
    lines = [
        f"Load `{model}` with llama.cpp. Tokenise with add_special = false and parse_special = false, always.",
        f"Start with the {prompt['prefix']['tokens']} ids of `prefix.ids.json` (`prefix.txt` is their text). <bos> is "
        "the first of them: add no other.",
        "The prefix never changes: decode it once, keep its keys (llama_state_seq_save_file), and go on from there.",
        f"A turn: the ids {user['ids_before']}, then the ids of one string: the head, then the text trimmed of white "
        f"space, then the ids {prompt['ids_after_turn']}.",
        "The head is `user\\n` for the user, `developer\\n` for what your application says, such as the time; a line "
        "feed ends each.",
        "Order: prefix, the developer's turn if your rows had one behind the tools, the user's turn.",
        f"Open the model's turn with the ids {prompt['ids_open_model']}.",
        f"Decode greedily (temperature 0) until one of the ids {prompt['stop_ids']} comes, which ends the answer.",
        "Give `grammar.gbnf` (root rule `root`) to the sampler, and no call can break the schemas of `tools.json`.",
        "An answer is text, or `<start_function_call>call:NAME{KEY:VALUE,…}<end_function_call>`, once or more; strings "
        "stand between two `<escape>`, numbers, true, false, [lists] and {objects} as they are.",
    ]
    assert set(turn) == {"developer", "user"}
    steps = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    return (f"# How to ask this model\n\n{steps}\n\nIn C: `prompt.h`. In Kotlin: read `prompt.json`; the names are the "
            f"same. `manifest.json` has each file's SHA-256.\n\n{_sheet(speed)}")  # fmt: skip


def _sheet(speed: Mapping[str, Json]) -> str:
    rows = [
        ("prompt without the stored prefix", f"{speed['prompt_tokens']} tokens", speed["prompt_seconds"]),
        ("prompt with the stored prefix", f"{speed['prompt_tokens_behind_prefix']} tokens",
         speed["prompt_seconds_with_prefix"]),
        ("generation", f"{speed['generated_tokens']} tokens", speed["generated_seconds"]),
    ]  # fmt: skip
    table = "\n".join(f"| {name} | {what} | {1000 * seconds:.1f} ms |" for name, what, seconds in rows)
    mebibytes = {key: speed[key] / 2**20 for key in ("peak_rss_bytes", "rss_before_bytes")}
    return (
        "## Measured\n\n"
        f"Through llama.cpp on this CPU: {speed['cpu']}, threads used: {speed['threads']}. A phone is slower or "
        "faster: measure there.\n\n| | | time |\n|---|---|---|\n"
        f"{table}\n\nPrompt: {speed['prompt_tokens_per_second']:.0f} tokens/s without and "
        f"{speed['prompt_tokens_per_second_with_prefix']:.0f} with the stored prefix, counted over the whole prompt. "
        f"Generation: {speed['generated_tokens_per_second']:.0f} tokens/s. Peak RSS: {mebibytes['peak_rss_bytes']:.0f} "
        f"MiB, of which the Python around llama.cpp had {mebibytes['rss_before_bytes']:.0f} before it was loaded.\n"
    )


def header(prompt: Mapping[str, Json], prefix: str, prefix_ids: Sequence[int]) -> str:
    """prompt.h: the same as prompt.json, as C constants."""
    user = prompt["turn"]["user"]["ids_before"]
    return (
        "/* How a prompt is put together: see PROMPT.md. The text is UTF-8. */\n#ifndef DOZAN_PROMPT_H\n"
        "#define DOZAN_PROMPT_H\n\n"
        f"{_array('dozan_prefix_ids', prefix_ids)}"
        f"{_array('dozan_turn_ids', user)}"
        f"{_array('dozan_after_turn_ids', prompt['ids_after_turn'])}"
        f"{_array('dozan_open_model_ids', prompt['ids_open_model'])}"
        f"{_array('dozan_stop_ids', prompt['stop_ids'])}"
        '#define DOZAN_USER_HEAD "user\\n"\n#define DOZAN_DEVELOPER_HEAD "developer\\n"\n'
        f"static const char dozan_prefix[] =\n{_string(prefix)};\n\n#endif\n"
    )


def _array(name: str, ids: Sequence[int]) -> str:
    lines = [", ".join(map(str, ids[at : at + _A_LINE])) for at in range(0, len(ids), _A_LINE)]
    joined = ",\n  ".join(lines)
    return f"static const int {name}[{len(ids)}] = {{\n  {joined}\n}};\n"


def _string(text: str) -> str:
    """A C string literal, a line of text a line: bytes beyond ASCII as octal escapes, which end after three digits."""
    special = {ord("\n"): "\\n", ord('"'): '\\"', ord("\\"): "\\\\", ord("?"): "\\?"}
    lines = text.splitlines(keepends=True) or [""]
    return "\n".join(
        '  "' + "".join(special.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in line.encode()) + '"'
        for line in lines
    )
