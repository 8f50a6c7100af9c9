"""The five varieties of Arabic that the rows are written in."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from scripts.mobile_actions_ar.dialects import egyptian, gulf, levantine, maghrebi, more, msa
from scripts.mobile_actions_ar.dialects.base import Dialect


def _with_more(dialect: Dialect, module: ModuleType) -> Dialect:
    """The dialect with the further frames of its training half."""
    train = dialect.train
    frames = {tool: f"{block}\n{module.FRAMES.get(tool, '')}" for tool, block in train.frames.items()}
    clauses, no_call = f"{train.clauses}\n{module.CLAUSES}", (*train.no_call, *module.NO_CALL)
    return replace(dialect, train=replace(train, frames=frames, clauses=clauses, no_call=no_call))


DIALECTS: tuple[Dialect, ...] = (
    _with_more(msa.DIALECT, more.msa),
    _with_more(egyptian.DIALECT, more.egyptian),
    _with_more(gulf.DIALECT, more.gulf),
    _with_more(levantine.DIALECT, more.levantine),
    _with_more(maghrebi.DIALECT, more.maghrebi),
)
