"""Many processes that train as one: who is there, what they agree on, and that none fails alone."""

from dozan.world.group import ALONE, World, current, is_silenced, joined, leave

__all__ = ["ALONE", "World", "current", "is_silenced", "joined", "leave"]
