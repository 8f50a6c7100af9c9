"""The five varieties of Arabic that the rows are written in."""

from __future__ import annotations

from scripts.mobile_actions_ar.dialects import egyptian, gulf, levantine, maghrebi, msa
from scripts.mobile_actions_ar.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (msa.DIALECT, egyptian.DIALECT, gulf.DIALECT, levantine.DIALECT, maghrebi.DIALECT)
