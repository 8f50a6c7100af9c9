"""Training: the loop, the optimiser, checkpoints. `dozan.train(...)` calls `dozan.train.loop.train`."""

from __future__ import annotations

from dozan.verb import callable_as

callable_as("dozan.train", "dozan.train.loop")
