"""Every rule there is, by code: `dozan data rules`."""

from __future__ import annotations

from dozan.check import row_rules, set_rules, tokens
from dozan.check.finding import Catalog
from dozan.check.reading_rules import READING

RULES = Catalog(rule for catalog in (READING, row_rules.RULES, set_rules.RULES, tokens.RULES) for rule in catalog)
