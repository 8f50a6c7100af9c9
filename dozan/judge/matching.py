"""The best one-to-one matching of two short lists, in O(n³)."""

from __future__ import annotations

from collections.abc import Sequence


def best_matching(gain: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs (row, column) of a matching with the greatest total gain (all gains >= 0), one for each of the fewer side.

    The Hungarian algorithm with potentials (Kuhn 1955; Munkres 1957), on costs -gain. Pairs come in order of rows.
    """
    if not gain or not gain[0]:
        return []
    if len(gain) > len(gain[0]):
        swapped = best_matching([list(column) for column in zip(*gain, strict=True)])
        return sorted((row, column) for column, row in swapped)
    rows, columns = len(gain), len(gain[0])
    row_potential, column_potential = [0] * (rows + 1), [0] * (columns + 1)
    owner = [0] * (columns + 1)
    for row in range(1, rows + 1):
        _augment(gain, row, row_potential, column_potential, owner)
    return sorted((owner[column] - 1, column - 1) for column in range(1, columns + 1) if owner[column])


def _augment(
    gain: Sequence[Sequence[int]], row: int, row_potential: list[int], column_potential: list[int], owner: list[int]
) -> None:
    """Give `row` (1-based) a column along the cheapest augmenting path; column 0 stands for "not yet"."""
    columns = len(owner) - 1
    owner[0], at = row, 0
    least: list[float] = [float("inf")] * (columns + 1)
    previous, done = [0] * (columns + 1), [False] * (columns + 1)
    while owner[at]:
        done[at] = True
        for column in range(1, columns + 1):
            if not done[column]:
                slack = -gain[owner[at] - 1][column - 1] - row_potential[owner[at]] - column_potential[column]
                if slack < least[column]:
                    least[column], previous[column] = slack, at
        following = min((c for c in range(1, columns + 1) if not done[c]), key=lambda c: least[c])
        step = int(least[following])
        for column in range(columns + 1):
            if done[column]:
                row_potential[owner[column]] += step
                column_potential[column] -= step
            else:
                least[column] -= step
        at = following
    while at:
        owner[at] = owner[previous[at]]
        at = previous[at]
