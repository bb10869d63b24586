"""The boxes of one threshold by OpenCV alone, to compare with the scan of all thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import BoxScan, Protocol, find_components, largest_boxes
from tokenloc.boxes.extraction import with_protocol_ends
from tokenloc.boxes.maps import PreparedMap


def all_boxes(prepared: PreparedMap, threshold: float, protocol: Protocol) -> NDArray[np.int64]:
    """Return the boxes of all components with the protocol's ends, largest first, or its empty box: [K, 4], K >= 1."""
    boxes = with_protocol_ends(find_components(prepared, threshold, protocol).boxes, prepared.shape, protocol)
    return boxes if len(boxes) else largest_boxes(prepared, [threshold], protocol)


def boxes_at(scan: BoxScan, entry: int) -> NDArray[np.int64]:
    """Return the boxes of all components at one entry of a scan, in any order."""
    return scan.nodes.boxes[(scan.nodes.low <= entry) & (entry <= scan.nodes.high)]
