"""The components of all level sets of a map at once, by compiled sweeps over its pixels.

Level sets are nested, so their components form a tree (the max-tree of mathematical morphology): from the highest level
down, components appear, grow and merge, and never split. One union-find sweep over the pixels follows them all.

A map is given by its ranks, [H, W] uint16 in 0 … levels: how many of the ascending levels each pixel exceeds. A pixel
is foreground at level k if its rank exceeds k. Pixels are identified by their index in reading order.
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
Indices = NDArray[np.int32]

NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""The neighbours (y, x) of a pixel, clockwise; bit n of a neighbourhood stands for neighbour n."""

X0, Y0, X1, Y1, LOW, HIGH = range(6)
"""The columns of a node: a box, and the lowest and highest level at which a component has it."""

FIRST, SIZE, UNTIL, NODE = range(4, 8)
"""The columns of a component after its box: first pixel, size, lowest level at which it counts, open node or -1."""


def _compiled(function: Function) -> Function:
    """Compile a function on its first call, with an on-disk cache if a cache folder is writable."""
    try:
        compiled: Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable cache folder
        compiled = numba.njit(nogil=True)(function)
    return compiled


@_compiled
def rank_pixels(values: NDArray[np.float32] | NDArray[np.uint8], levels: NDArray[Any]) -> tuple[Ranks, Integers]:
    """Return in how many foregrounds each of ``values`` [H, W] is, and the foreground of each level, the widest first.

    ``levels`` [L] are ascending, at most 65535. Levels without pixels between them share a foreground.
    """
    ranks = np.empty(values.shape, np.uint16)
    occurs = np.zeros(len(levels) + 1, np.bool_)
    exceeded = 0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            # Neighbouring pixels are similar: the search starts at the previous count.
            while exceeded < len(levels) and values[y, x] > levels[exceeded]:
                exceeded += 1
            while exceeded > 0 and values[y, x] <= levels[exceeded - 1]:
                exceeded -= 1
            ranks[y, x] = exceeded
            occurs[exceeded] = True
    occurs[0] = True
    counts = np.zeros(len(levels) + 1, np.uint16)
    counts[1:] = np.cumsum(occurs[:-1])
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            ranks[y, x] = counts[ranks[y, x]]
    return ranks, counts[1:].astype(np.int64) - 1


def sweep(
    ranks: Ranks, levels: int, *, until: Ranks | None = None, diagonal: bool = True, outline: bool = False
) -> tuple[Integers, Integers]:
    """Return the components of all level sets of ``ranks`` [H, W].

    Args:
        ranks: [H, W].
        levels: number of levels.
        until: [H, W] the lowest level at which the component of a pixel counts; None for level 0.
        diagonal: 8-connected components; otherwise 4-connected.
        outline: the largest component is the one whose outline has the largest area, ignoring holes; of equals the one
            that begins last in reading order. Otherwise it has most pixels; of equals it begins first.

    Returns:
        The nodes [N, 6], and the box of the largest component at each level [levels, 4], zeros without one; int64.
    """
    height, width = ranks.shape
    contacts = (_contacts(diagonal) @ np.array([width, 1])).astype(np.int32)
    gains = _outline_gains() if outline else np.ones(256, np.int64)
    ends = np.zeros_like(ranks) if until is None else until
    # No two components begin at neighbouring pixels.
    capacity = -(-height // 2) * -(-width // 2) if diagonal else -(-ranks.size // 2)
    return _sweep(ranks, levels, ends, contacts, gains, outline, capacity)


@cache
def _contacts(diagonal: bool) -> Integers:
    """Return one neighbour (y, x) of each component that a neighbourhood touches: [256, 5, 2], terminated by 0, 0.

    Neighbours belong to one component if they are neighbours of each other.
    """
    table = np.zeros((256, 5, 2), dtype=np.int64)
    for bits in range(256):
        present = [n for n in range(8) if bits >> n & 1]
        group = {n: n for n in present}
        for a, b in product(present, present):
            distance = sorted(abs(i - j) for i, j in zip(NEIGHBOURS[a], NEIGHBOURS[b], strict=True))
            if distance == [0, 1] or (diagonal and distance == [1, 1]):
                group = {n: group[a] if g == group[b] else g for n, g in group.items()}
        touched = {group[n]: NEIGHBOURS[n] for n in present if diagonal or n % 2 == 0}
        table[bits, : len(touched)] = np.array(list(touched.values())).reshape(-1, 2)
    return table


@cache
def _outline_gains() -> Integers:
    """Return by how much one more pixel enlarges the outline, for each neighbourhood: [256], twice the area.

    The outline passes through pixel centres. Its area is the sum over 2x2 windows: 1 if all four pixels are foreground,
    1/2 if three are.
    """
    corners = [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 0]]
    return np.array([sum(sum(bits >> n & 1 for n in corner) >= 2 for corner in corners) for bits in range(256)])


@_compiled
def _sweep(
    ranks: Ranks, levels: int, until: Ranks, contacts: Indices, gains: Integers, outline: bool, capacity: int
) -> tuple[Integers, Integers]:
    width = ranks.shape[1]
    pixels, starts = _by_rank(ranks.ravel(), levels)
    neighbourhoods, ends = _neighbourhoods(ranks).ravel(), until.ravel()
    labels = np.empty(ranks.size, np.int32)
    parent = np.empty(capacity, np.int32)
    components = np.empty((capacity, 8), np.int32)
    nodes = np.empty((ranks.size, 6), np.int64)  # at most one per pixel: each begins where a component grew
    largest = np.zeros((levels, 4), np.int64)
    alive = np.empty(capacity, np.int32)
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
            for index in range(1, 5):
                if contacts[bits, index] == 0:
                    break
                other = _root(labels[pixel + contacts[bits, index]], parent)
                if other != label:
                    label = _merge(label, other, parent, components, nodes, level)
        count, opened, best = _finish_level(alive, count, parent, components, nodes, opened, level, outline)
        if best >= 0:
            largest[level] = components[best, :4]
    return nodes[:opened].copy(), largest


@_compiled
def _by_rank(ranks: Ranks, levels: int) -> tuple[Indices, Integers]:
    """Return all pixels by rank, then in reading order, and the start of each rank."""
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
    """Return which neighbours are visited before each pixel: those of higher rank, and earlier ones of the same."""
    height, width = ranks.shape
    padded = np.zeros((height + 2, width + 2), np.uint16)
    padded[1:-1, 1:-1] = ranks
    bits = np.empty((height, width), np.uint8)
    for y in range(height):
        above, row, below = padded[y], padded[y + 1], padded[y + 2]
        for x in range(width):
            rank = row[x + 1]
            bits[y, x] = (
                np.uint8(row[x] >= rank)
                | np.uint8(above[x] >= rank) << 1
                | np.uint8(above[x + 1] >= rank) << 2
                | np.uint8(above[x + 2] >= rank) << 3
                | np.uint8(row[x + 2] > rank) << 4
                | np.uint8(below[x + 2] > rank) << 5
                | np.uint8(below[x + 1] > rank) << 6
                | np.uint8(below[x] > rank) << 7
            )
    return bits


@_compiled
def _begin(components: Indices, made: int, pixel: int, width: int, gain: int) -> None:
    y = np.int64(np.uint32(pixel) // np.uint32(width))  # unsigned division is faster
    x = pixel - y * width
    components[made, X0], components[made, Y0] = x, y
    components[made, X1], components[made, Y1] = x + 1, y + 1
    components[made, FIRST], components[made, SIZE], components[made, NODE] = pixel, gain, -1


@_compiled
def _grow(components: Indices, grown: int, pixel: int, width: int, gain: int) -> None:
    y = np.int64(np.uint32(pixel) // np.uint32(width))
    x = pixel - y * width
    # Most pixels are inside the box: comparing is faster than always writing the minimum and maximum.
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
def _merge(one: int, other: int, parent: Indices, components: Indices, nodes: Integers, level: int) -> int:
    """Merge two components, close the node of one of them, and return the merged component."""
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
def _root(component: int, parent: Indices) -> int:
    """Return the component that a component was merged into, with path halving."""
    while parent[component] != component:
        parent[component] = parent[parent[component]]
        component = parent[component]
    return component


@_compiled
def _finish_level(
    alive: Indices,
    count: int,
    parent: Indices,
    components: Indices,
    nodes: Integers,
    opened: int,
    level: int,
    outline: bool,
) -> tuple[int, int, int]:
    """Open nodes for the boxes that are new at ``level``, and remove merged and ended components from ``alive``.

    Returns the number of components alive, the number of open nodes, and the largest component or -1.
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
def _open_node(component: int, components: Indices, nodes: Integers, opened: int, level: int) -> int:
    """If the box of a component changed, close its node and open another; return the number of open nodes."""
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
def _is_larger(one: int, other: int, components: Indices, outline: bool) -> bool:
    if components[one, SIZE] == components[other, SIZE]:
        return bool((components[one, FIRST] > components[other, FIRST]) == outline)
    return bool(components[one, SIZE] > components[other, SIZE])


def hole_outlines(ranks: Ranks, filled: Ranks, levels: int) -> Integers:
    """Return the nodes of the holes' outlines, which OpenCV traces through the surrounding pixels.

    A hole is a 4-connected component of background that does not reach the edge. In the inverted map, holes are
    components of level sets: level k becomes levels - 1 - k. A hole ends at its rank in ``filled``, ``fill_holes``.
    """
    inverted = (np.uint16(levels) - ranks) * (filled > ranks)
    nodes, _ = sweep(inverted, levels, until=np.uint16(levels) - filled, diagonal=False)
    nodes[:, :4] += np.array([-1, -1, 1, 1])
    nodes[:, [LOW, HIGH]] = levels - 1 - nodes[:, [HIGH, LOW]]
    return nodes


@_compiled
def fill_holes(ranks: Ranks, levels: int) -> Ranks:
    """Return ``ranks`` with the holes of every level set filled: every pixel that cannot reach the edge is foreground.

    The filled rank of a pixel is the lowest maximum along any 4-connected path to the edge. Two scans find most pixels
    that are that maximum themselves; the others are flooded from these, lowest ranks first.
    """
    filled = _scan_paths(ranks)
    floor, flood = ranks.ravel(), filled.ravel()
    dry = flood > floor  # never at the edge
    steps = (-1, -ranks.shape[1], 1, ranks.shape[1])
    queue = np.full(levels + 1, -1, np.int32)  # a linked list of pixels for each rank
    following = np.full(ranks.size, -2, np.int32)
    for pixel in np.flatnonzero(dry):
        for step in steps:
            near = pixel + step
            if not dry[near] and following[near] == -2:
                following[near], queue[flood[near]] = queue[flood[near]], near
    for rank in range(levels + 1):
        while queue[rank] >= 0:
            pixel = queue[rank]
            queue[rank] = following[pixel]
            for step in steps:
                near = min(max(pixel + step, 0), ranks.size - 1)  # beyond the first and last row: a pixel at the edge
                if dry[near]:
                    dry[near] = False
                    flood[near] = max(floor[near], rank)
                    following[near], queue[flood[near]] = queue[flood[near]], near
    return filled


@_compiled
def _scan_paths(ranks: Ranks) -> Ranks:
    """Return an upper bound of each filled rank, by paths along rows and columns; exact at the maximum of a path."""
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
    """Return the maximum of the ``values`` ≥ 0 of the nodes at each level, [levels] float64; 0 without a node."""
    best = np.zeros(levels)
    for node in range(len(values)):
        for level in range(low[node], high[node] + 1):
            best[level] = max(best[level], values[node])
    return best
