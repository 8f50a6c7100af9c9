"""Every rule there is, by code: `dozan data rules`."""

from __future__ import annotations

from dozan.check import row_rules
from dozan.check.finding import Catalog

RULES = Catalog(rule for catalog in (row_rules.RULES,) for rule in catalog)
