"""More training frames, one module a dialect: written without reading the test halves; what came too near was cut."""

from scripts.mobile_actions_ar.dialects.more import egyptian, gulf, levantine, maghrebi, msa

__all__ = ["egyptian", "gulf", "levantine", "maghrebi", "msa"]
