"""Published results made again with real weights: `dozan.reproduce(...)`."""

from dozan.verb import callable_as

callable_as("dozan.reproduce", "dozan.reproduce.reproduce")
