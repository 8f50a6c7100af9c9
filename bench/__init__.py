"""The benchmark: dozan and its peers side by side on the same rows of tokens, on one GPU."""
