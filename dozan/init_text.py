"""What `dozan init` writes: the recipe with a reason at each setting, the project's README and .gitignore."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from dozan.recipe import Recipe

_WIDTH = 100
Reason = Callable[[Any, Recipe, str], str]


def _said(text: str) -> Reason:
    return lambda value, recipe, card: text


def _chat(value: Any, recipe: Recipe, card: str) -> str:
    if value == "functiongemma":
        return "Tools are declared, called and answered in FunctionGemma's own signs."
    return "Turns of user and model, as Gemma 3 was tuned with."


def _pack(value: Any, recipe: Recipe, card: str) -> str:
    if value == "tries":
        return "Rows begin with the same tool declarations: these are computed once for all rows of a step."
    return "Rows share little at their beginning: what they share is not looked for."


def _quantise(value: Any, recipe: Recipe, card: str) -> str:
    if value == "none":
        return "The frozen weights stay as they are; nf4 holds them in 4 bits."
    return f"The frozen weights in 4 bits: in 16 they do not fit on {card}."


def _alpha(value: Any, recipe: Recipe, card: str) -> str:
    adapter = recipe.adapter
    scale = value / adapter.rank ** (0.5 if adapter.rslora else 1.0)
    return f"What the update is multiplied by: alpha / {'sqrt(rank)' if adapter.rslora else 'rank'} = {scale:g}."


def _rate(value: Any, recipe: Recipe, card: str) -> str:
    return "The first thing to vary. The larger the model, the smaller: 1e-3 suits 270M, 2e-4 suits 12B."


REASONS: Mapping[str, Reason] = {
    "chat": _chat,
    "pack": _pack,
    "model.quantise": _quantise,
    "adapter.rank": _said("Room for what is new. Rows in thousands may use more; `dozan sweep` tells."),
    "adapter.alpha": _alpha,
    "adapter.rslora": _said("true: the scale falls with sqrt(rank) instead of rank, so that a high rank still learns."),
    "adapter.dora": _said("true: magnitude and direction are trained apart, for about 6 % more time."),
    "data.max_tokens": _said("A longer row is refused, never cut."),
    "data.holdout": _said("Not trained on, to measure with; rows of one sentence pattern stay on one side."),
    "train.seed": _said("Another seed is another run: differences smaller than between seeds are none."),
    "train.epochs": _said("Passes over the rows. When the held-out loss rises before the end, take fewer."),
    "train.batch_size": _said("Rows an optimiser step."),
    "train.micro_batch_size": _said("Rows computed at once: bounds the memory, changes no result."),
    "train.pack_tokens": _said("Tokens computed at once: bounds the memory, changes no result."),
    "train.learning_rate": _rate,
    "train.warmup_steps": _said("The rate rises over so many steps; cut to a tenth of the steps on short runs."),
    "train.optimizer": _said("adamw_8bit keeps the moments in a quarter of the memory."),
    "train.save_steps": _said("At most so many steps are lost when the session ends."),
    "train.mirror": _said("Each checkpoint is copied to Drive, where a new session goes on. One folder a run."),
    "score.rows": _said("So many held-out rows are answered at each evaluation; the adapter that calls best is kept."),
}
"""Why a setting is as it is: from its value, the recipe and the card."""


def recipe_text(recipe: Recipe, card: str) -> str:
    """The recipe as YAML that `load_recipe` reads back: what there is a reason for, and what is not the default.

    card: in a sentence, such as `a t4`."""
    default, lines = Recipe(), ["# What is not here has its default: dozan train --recipe recipe.yaml --print-config"]
    for field in Recipe.model_fields:
        section, usual = getattr(recipe, field), getattr(default, field)
        if not isinstance(section, BaseModel):
            lines += _setting(field, section, recipe, card, "", section != usual)
            continue
        inner = [line for key in type(section).model_fields
                 for line in _setting(f"{field}.{key}", getattr(section, key), recipe, card, "  ",
                                      getattr(section, key) != getattr(usual, key))]  # fmt: skip
        lines += [f"{field}:", *inner] if inner else []
    return "\n".join(lines) + "\n"


def _setting(name: str, value: Any, recipe: Recipe, card: str, indent: str, other: bool) -> Iterator[str]:
    """The lines of a setting; none where nothing is to be said of a default."""
    reason = REASONS.get(name)
    if not other and (reason is None or value is None or value == 0 or name in _ONLY_WHEN_SET):
        return
    if reason is not None:
        yield from textwrap.wrap(reason(value, recipe, card), _WIDTH, initial_indent=f"{indent}# ",
                                 subsequent_indent=f"{indent}# ")  # fmt: skip
    yield f"{indent}{name.rpartition('.')[2]}: {_plain(value)}"


def _plain(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


_ONLY_WHEN_SET = ("model.quantise", "train.optimizer", "train.pack_tokens")


def gitignore() -> str:
    """What a repository of the project leaves out."""
    return (
        "# Runs: large, and made again from recipe and rows.\noutput/\n*.gguf\n"
        "# Secrets.\n.env\n*.token\n"
        "# Python.\n.venv/\n__pycache__/\n.ipynb_checkpoints/\n"
        "# Rows that nobody else may see stay out of the repository: take the # away.\n# data/\n"
    )


_COLAB = """
## In Colab
Choose a GPU (Runtime, Change runtime type), then, a cell each:

```python
from google.colab import drive
drive.mount("/content/drive")
```

```python
%cd /content
!git clone YOUR-REPOSITORY {name}
%cd {name}
!pip install --quiet 'dozan[hub]'
```

```python
!{train}
```

Every checkpoint is copied to `train.mirror` (recipe.yaml). After a disconnect run the same cells again: the run comes
back from there and goes on.
"""

_SERVER = """
## On the server
Bring this folder there (`git clone`, or `rsync -a ./ HOST:{name}/`), install dozan, and train where a closed connection
ends nothing:

```bash
tmux new -s train
{train}
```

`Ctrl-b d` leaves it running, `tmux attach -t train` comes back. A run that was stopped goes on with
`dozan resume output/first`.
"""


def readme(name: str, where: str, commands: Sequence[str]) -> str:
    """The project's README: what lies where, and what to do in which order."""
    first = "\n".join(commands)
    place = {"colab": _COLAB, "server": _SERVER}.get(where, "").format(name=name, train=commands[-1])
    return f"""# {name}
| | |
|---|---|
| `data/` | rows to train on, one JSON object a line |
| `recipe.yaml` | what a run is, with reasons |
| `output/` | runs; not in the repository |

## First
```bash
{first}
```

Then look at what came of it:

```bash
dozan eval --model output/first --data output/first/data/heldout.jsonl
dozan export output/first --gguf q8_0 --out output/gguf
dozan run --model output/first "…"
```
{place}
## Keep what was good
```bash
git init
git add .
git commit -m "Rows and recipe of the first run"
git tag -a first -m "what it scored, on which rows"
```
"""
