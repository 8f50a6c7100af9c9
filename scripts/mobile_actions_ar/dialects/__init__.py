"""The five varieties of Arabic that the rows are written in."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from scripts.mobile_actions_ar.dialects import dev, egyptian, extra, gulf, levantine, maghrebi, more, msa
from scripts.mobile_actions_ar.dialects.base import Dialect


def _whole(name: str, dialect: Dialect) -> Dialect:
    """The dialect with its development half and the further frames, words and requests of its training half."""
    first, second = getattr(more, name), getattr(extra, name)
    train = dialect.train
    frames = {tool: _joined(block, first.FRAMES.get(tool, ""), second.FRAMES.get(tool, ""))
              for tool, block in train.frames.items()}  # fmt: skip
    train = replace(
        train,
        frames=frames,
        clauses=_joined(train.clauses, first.CLAUSES, second.CLAUSES),
        no_call=(*train.no_call, *first.NO_CALL, *second.NO_CALL),
        bodies=_joined(train.bodies, second.BODIES),
        body_heads=_joined(train.body_heads, second.BODY_HEADS),
        body_objects=_joined(train.body_objects, second.BODY_OBJECTS),
        kin=_joined(train.kin, second.KIN),
        women=second.KIN_FEMALE,
    )
    half: ModuleType = getattr(dev, name)
    return replace(dialect, train=train, dev=half.DEV)


def _joined(*blocks: str) -> str:
    return "\n".join(blocks)


DIALECTS: tuple[Dialect, ...] = tuple(
    _whole(name, module.DIALECT)
    for name, module in (
        ("msa", msa), ("egyptian", egyptian), ("gulf", gulf), ("levantine", levantine), ("maghrebi", maghrebi),
    )
)  # fmt: skip
