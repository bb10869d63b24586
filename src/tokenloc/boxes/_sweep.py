"""Compiled sweeps over the pixels of a map; ``component_tree`` says what they are for.

Pixels are told by their place in reading order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Ranks = NDArray[np.uint16]
Integers = NDArray[np.int64]
Places = NDArray[np.int32]

AROUND = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""The neighbours (y, x) of a pixel, clockwise: bit n of a neighbourhood stands for neighbour n."""

X0, Y0, X1, Y1, LOW, HIGH = range(6)
"""The columns of a node."""

FIRST, SIZE, UNTIL, NODE = range(4, 8)
"""The columns of a component, after those of its box: its first pixel, its size, the lowest level at which it counts,
and the node that is open for it, or -1."""


def _compiled(function: Function) -> Function:
    """Compile a function when it is first called; the code is kept on disk where there is a place for it."""
    try:
        compiled: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        compiled = numba.njit(nogil=True)(function)
    return compiled


@_compiled
def rank_pixels(values: NDArray[np.float32] | NDArray[np.uint8], levels: NDArray[Any]) -> tuple[Ranks, Integers]:
    """Return how many foregrounds each pixel is in, the widest first, and which of them each level gives.

    Where no pixel exceeds just the levels before, a level has the foreground of the one before.

    Args:
        values: [H, W].
        levels: [L] ascending, of the dtype of ``values``; at most 65535.

    Returns:
        [H, W] uint16, and [L] int64.
    """
    ranks = np.empty(values.shape, np.uint16)
    met = np.zeros(len(levels) + 1, np.bool_)
    exceeded = 0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            # Pixels side by side are alike: the count is sought from the last one's.
            while exceeded < len(levels) and values[y, x] > levels[exceeded]:
                exceeded += 1
            while exceeded > 0 and values[y, x] <= levels[exceeded - 1]:
                exceeded -= 1
            ranks[y, x] = exceeded
            met[exceeded] = True
    met[0] = True
    counts = np.zeros(len(levels) + 1, np.uint16)
    counts[1:] = np.cumsum(met[:-1])
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            ranks[y, x] = counts[ranks[y, x]]
    return ranks, counts[1:].astype(np.int64) - 1


def sweep(
    ranks: Ranks, levels: int, *, until: Ranks | None = None, diagonal: bool = True, outline: bool = False
) -> tuple[Integers, Integers]:
    """Return the components of all level sets of ``ranks`` [H, W].

    Args:
        ranks: see ``component_tree``.
        levels: how many.
        until: [H, W] the lowest level at which the component of a pixel counts; None where all count down to 0.
        diagonal: 8-connected; else 4-connected.
        outline: the largest is by the area of its outline, without regard to holes, of equals the one that begins
            last in reading order; else by pixels, and the one that begins first.

    Returns:
        The nodes [N, 6], and the box of the largest component at each level [levels, 4], zeros without one; int64.
    """
    contacts = (_contacts(diagonal) @ np.array([ranks.shape[1], 1])).astype(np.int32)
    gains = _outline_gains() if outline else np.ones(256, np.int64)
    ends = np.zeros_like(ranks) if until is None else until
    height, width = ranks.shape
    # No two components begin side by side.
    most = -(-height // 2) * -(-width // 2) if diagonal else -(-ranks.size // 2)
    return _sweep(ranks, levels, ends, contacts, gains, outline, most)


@cache
def _contacts(diagonal: bool) -> Integers:
    """Return for each neighbourhood one neighbour (y, x) of each component that it touches: [256, 5, 2], ended by 0, 0.

    Neighbours are of one component where they are each other's neighbours, too.
    """
    table = np.zeros((256, 5, 2), dtype=np.int64)
    for bits in range(256):
        present = [n for n in range(8) if bits >> n & 1]
        group = {n: n for n in present}
        for a, b in product(present, present):
            apart = sorted(abs(i - j) for i, j in zip(AROUND[a], AROUND[b], strict=True))
            if apart == [0, 1] or (diagonal and apart == [1, 1]):
                group = {n: group[a] if g == group[b] else g for n, g in group.items()}
        touched = {group[n]: AROUND[n] for n in present if diagonal or n % 2 == 0}
        table[bits, : len(touched)] = np.array(list(touched.values())).reshape(-1, 2)
    return table


@cache
def _outline_gains() -> Integers:
    """Return for each neighbourhood by how much a pixel more enlarges the outline: [256], twice the area.

    The outline passes through pixels' centres. Its area is that of the 2x2 windows of them: 1 where all four are
    foreground, 1/2 where three are.
    """
    corners = [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 0]]
    return np.array([sum(sum(bits >> n & 1 for n in corner) >= 2 for corner in corners) for bits in range(256)])


@_compiled
def _sweep(
    ranks: Ranks, levels: int, until: Ranks, contacts: Places, gains: Integers, outline: bool, most: int
) -> tuple[Integers, Integers]:
    width = ranks.shape[1]
    pixels, starts = _by_rank(ranks.ravel(), levels)
    neighbourhoods, ends = _neighbourhoods(ranks).ravel(), until.ravel()
    labels = np.empty(ranks.size, np.int32)
    parent = np.empty(most, np.int32)
    components = np.empty((most, 8), np.int32)
    nodes = np.empty((ranks.size, 6), np.int64)  # never more than pixels: each begins where a component grew
    largest = np.zeros((levels, 4), np.int64)
    alive = np.empty(most, np.int32)
    count = made = opened = 0
    for level in range(levels - 1, -1, -1):
        for pixel in pixels[starts[level + 1] : starts[level + 2]]:
            bits = neighbourhoods[pixel]
            if contacts[bits, 0] == 0:
                labels[pixel] = parent[made] = alive[count] = made
                _begin(components, made, pixel, width, gains[bits])
                components[made, UNTIL] = ends[pixel]
                made += 1
                count += 1
                continue
            label = _root(labels[pixel + contacts[bits, 0]], parent)
            labels[pixel] = label
            _grow(components, label, pixel, width, gains[bits])
            for place in range(1, 5):
                if contacts[bits, place] == 0:
                    break
                other = _root(labels[pixel + contacts[bits, place]], parent)
                if other != label:
                    label = _merge(label, other, parent, components, nodes, level)
        count, opened, best = _take_stock(alive, count, parent, components, nodes, opened, level, outline)
        if best >= 0:
            largest[level] = components[best, :4]
    return nodes[:opened].copy(), largest


@_compiled
def _by_rank(ranks: Ranks, levels: int) -> tuple[Places, Integers]:
    """Return all pixels, by rank, then in reading order, and where each rank starts."""
    starts = np.zeros(levels + 2, np.int64)
    for rank in ranks:
        starts[rank + 1] += 1
    starts = np.cumsum(starts)
    pixels, ends = np.empty(ranks.size, np.int32), starts.copy()
    for pixel in range(ranks.size):
        pixels[ends[ranks[pixel]]] = pixel
        ends[ranks[pixel]] += 1
    return pixels, starts


@_compiled
def _neighbourhoods(ranks: Ranks) -> NDArray[np.uint8]:
    """Return which neighbours a pixel meets when its turn comes: those of higher rank, and of its own before it."""
    height, width = ranks.shape
    framed = np.zeros((height + 2, width + 2), np.uint16)
    framed[1:-1, 1:-1] = ranks
    found = np.empty((height, width), np.uint8)
    for y in range(height):
        above, here, below = framed[y], framed[y + 1], framed[y + 2]
        for x in range(width):
            rank = here[x + 1]
            found[y, x] = (
                np.uint8(here[x] >= rank)
                | np.uint8(above[x] >= rank) << 1
                | np.uint8(above[x + 1] >= rank) << 2
                | np.uint8(above[x + 2] >= rank) << 3
                | np.uint8(here[x + 2] > rank) << 4
                | np.uint8(below[x + 2] > rank) << 5
                | np.uint8(below[x + 1] > rank) << 6
                | np.uint8(below[x] > rank) << 7
            )
    return found


@_compiled
def _begin(components: Places, made: int, pixel: int, width: int, gain: int) -> None:
    y = np.int64(np.uint32(pixel) // np.uint32(width))  # unsigned, which is quicker
    x = pixel - y * width
    components[made, X0], components[made, Y0] = x, y
    components[made, X1], components[made, Y1] = x + 1, y + 1
    components[made, FIRST], components[made, SIZE], components[made, NODE] = pixel, gain, -1


@_compiled
def _grow(components: Places, grown: int, pixel: int, width: int, gain: int) -> None:
    y = np.int64(np.uint32(pixel) // np.uint32(width))
    x = pixel - y * width
    # Most pixels lie inside the box: asking is quicker than always writing the least and greatest.
    if x < components[grown, X0]:
        components[grown, X0] = x
    if x >= components[grown, X1]:
        components[grown, X1] = x + 1
    if y >= components[grown, Y1]:
        components[grown, Y1] = y + 1
    if pixel < components[grown, FIRST]:
        components[grown, FIRST], components[grown, Y0] = pixel, y
    components[grown, SIZE] += gain


@_compiled
def _merge(one: int, other: int, parent: Places, components: Places, nodes: Integers, level: int) -> int:
    """Make two components one, and end the node of one of them; return which it is now."""
    if components[one, SIZE] < components[other, SIZE]:
        one, other = other, one
    parent[other] = one
    components[one, X0] = min(components[one, X0], components[other, X0])
    components[one, Y0] = min(components[one, Y0], components[other, Y0])
    components[one, X1] = max(components[one, X1], components[other, X1])
    components[one, Y1] = max(components[one, Y1], components[other, Y1])
    components[one, FIRST] = min(components[one, FIRST], components[other, FIRST])
    components[one, SIZE] += components[other, SIZE]
    if components[one, NODE] < 0:
        components[one, NODE] = components[other, NODE]
    elif components[other, NODE] >= 0:
        nodes[components[other, NODE], LOW] = level + 1
    return one


@_compiled
def _root(component: int, parent: Places) -> int:
    """Return what a component is part of by now, and halve the way to it."""
    while parent[component] != component:
        parent[component] = parent[parent[component]]
        component = parent[component]
    return component


@_compiled
def _take_stock(
    alive: Places,
    count: int,
    parent: Places,
    components: Places,
    nodes: Integers,
    opened: int,
    level: int,
    outline: bool,
) -> tuple[int, int, int]:
    """Note the boxes that are new at ``level``, and find the largest component.

    Of the first ``count`` entries of ``alive`` those that are not merged into another, and count still, move to the
    front.

    Returns:
        How many are alive, how many nodes are opened by now, and the largest component or -1.
    """
    kept, best = 0, -1
    for component in alive[:count]:
        if parent[component] != component:
            continue
        if level < components[component, UNTIL]:
            nodes[components[component, NODE], LOW] = level + 1
            continue
        alive[kept] = component
        kept += 1
        opened = _open_node(component, components, nodes, opened, level)
        if best < 0 or _is_larger(component, best, components, outline):
            best = component
    return kept, opened, best


@_compiled
def _open_node(component: int, components: Places, nodes: Integers, opened: int, level: int) -> int:
    """Where a component's box is new, end its node and open another; return how many are opened by now."""
    node = components[component, NODE]
    if node >= 0:
        changed = False
        for side in range(4):
            changed |= nodes[node, side] != components[component, side]
        if not changed:
            return opened
        nodes[node, LOW] = level + 1
    nodes[opened, :4] = components[component, :4]
    nodes[opened, LOW], nodes[opened, HIGH] = 0, level
    components[component, NODE] = opened
    return opened + 1


@_compiled
def _is_larger(one: int, other: int, components: Places, outline: bool) -> bool:
    if components[one, SIZE] == components[other, SIZE]:
        return bool((components[one, FIRST] > components[other, FIRST]) == outline)
    return bool(components[one, SIZE] > components[other, SIZE])


@_compiled
def fill_holes(ranks: Ranks, levels: int) -> Ranks:
    """Return ``ranks`` with the holes of every level set filled: foreground are all pixels that cannot reach the edge.

    A pixel's filled rank is the least that a 4-connected way out has at its highest point. Two scans find most pixels
    that are this point themselves; from these the others are flooded, lowest ranks first.
    """
    filled = _scanned(ranks)
    floor, flood = ranks.ravel(), filled.ravel()
    dry = flood > floor  # never at the edge
    around = (-1, -ranks.shape[1], 1, ranks.shape[1])
    waiting = np.full(levels + 1, -1, np.int32)  # the pixels that wait at a rank are a linked list
    following = np.full(ranks.size, -2, np.int32)
    for pixel in np.flatnonzero(dry):
        for way in around:
            near = pixel + way
            if not dry[near] and following[near] == -2:
                following[near], waiting[flood[near]] = waiting[flood[near]], near
    for rank in range(levels + 1):
        while waiting[rank] >= 0:
            pixel = waiting[rank]
            waiting[rank] = following[pixel]
            for way in around:
                near = min(max(pixel + way, 0), ranks.size - 1)  # beyond the first and last row: a pixel at the edge
                if dry[near]:
                    dry[near] = False
                    flood[near] = max(floor[near], rank)
                    following[near], waiting[flood[near]] = waiting[flood[near]], near
    return filled


@_compiled
def _scanned(ranks: Ranks) -> Ranks:
    """Return for each pixel the highest point of a way out along rows and columns, right where it is the pixel."""
    height, width = ranks.shape
    filled: Ranks = ranks.copy()
    for y in range(1, height - 1):
        left = filled[y, 0]
        for x in range(1, width - 1):
            left = max(ranks[y, x], min(left, filled[y - 1, x]))
            filled[y, x] = left
    for y in range(height - 2, 0, -1):
        right = filled[y, width - 1]
        for x in range(width - 2, 0, -1):
            right = max(ranks[y, x], min(filled[y, x], min(right, filled[y + 1, x])))
            filled[y, x] = right
    return filled


@_compiled
def greatest(values: NDArray[np.float64], low: Integers, high: Integers, levels: int) -> NDArray[np.float64]:
    """Return the greatest of the ``values`` ≥ 0 of nodes at each level: [levels] float64; 0 where there is no node."""
    best = np.zeros(levels)
    for node in range(len(values)):
        for level in range(low[node], high[node] + 1):
            best[level] = max(best[level], values[node])
    return best
