"""The definitions taken literally, one pixel, region and threshold at a time: slow, and independent of `luss`."""

import itertools
import math

import numpy as np

IGNORE = 1000


def naive_boundary(labels):
    """Pixels whose (2d + 1) square leaves the image or meets another label."""
    height, width = labels.shape
    d = max(1, round(0.03 * math.sqrt(height**2 + width**2)))
    marks = np.ones((height, width), bool)
    side = 2 * d + 1
    for y in range(d, height - d) if width >= side else ():
        squares = np.lib.stride_tricks.sliding_window_view(labels[y - d : y + d + 1], side, axis=1)
        marks[y, d : width - d] = (squares != labels[y, d : width - d, None]).any(axis=(0, 2))
    return marks


def cut(prediction, attention, threshold):
    """The prediction with pixels below the threshold set to background, compared in float32."""
    return np.where(attention < np.float32(threshold), 0, prediction)


def apply_matching(prediction, matching):
    """Categories for clusters; ids that the matching does not know stay."""
    return np.vectorize(lambda cluster: matching.get(cluster, cluster), otypes=[np.int64])(prediction)


def cooccurrence(items, num_classes):
    """(C, C) images that hold cluster i + 1 on a counted pixel and category j + 1."""
    table = np.zeros((num_classes, num_classes), np.int64)
    for prediction, mask in items:
        counted = mask != IGNORE
        for i in set(prediction[counted].tolist()) & set(range(1, num_classes + 1)):
            for j in set(mask[counted].tolist()) - {0}:
                table[i - 1, j - 1] += 1
    return table


def best_total(table):
    """The largest sum of a one-to-one matching, by trying all."""
    size = len(table)
    return max(sum(table[i, p[i]] for i in range(size)) for p in itertools.permutations(range(size)))


def iou_of(pairs, num_classes):
    """IoU of 0..C and pixels of truth, from a list of (predicted, true) arrays; ids outside 0..C count nowhere."""
    hit, predicted, true = (np.zeros(num_classes + 1, np.int64) for _ in range(3))
    for p, t in pairs:
        for c in range(num_classes + 1):
            predicted[c] += (p == c).sum()
            true[c] += (t == c).sum()
            hit[c] += ((p == c) & (t == c)).sum()
    return 100 * hit / (predicted + true - hit + 1e-10), true


def size_group(mask, category):
    """Position of a category's size group in S, MS, ML, L."""
    share = np.float32(100) * np.float32((mask == category).sum()) / np.float32((mask != IGNORE).sum())
    return sum(math.ceil(share) > limit for limit in (5, 25, 50))


def naive_f_measure(prediction, mask):
    """F-measure of one image, beta squared 0.3, in percent."""
    counted = mask != IGNORE
    p, t = prediction[counted] > 0, mask[counted] > 0
    hits = (p & t).sum()
    precision, recall = hits / (p.sum() + 1e-20), hits / (t.sum() + 1e-20)
    return 100 * 1.3 * precision * recall / (0.3 * precision + recall + 1e-20)


def naive_correct(prediction, mask):
    """Whether the most frequent non-zero id (lowest of equals) is in the mask."""
    ids = prediction[(mask != IGNORE) & (prediction > 0)]
    if ids.size == 0:
        return False
    return int(np.bincount(ids).argmax()) in set(mask[mask != IGNORE].tolist())


def naive_metrics(items, num_classes, matching):
    """Every metric of (prediction, mask) pairs under a matching, as a dictionary of percentages."""
    matched = [(apply_matching(prediction, matching), mask.astype(np.int64)) for prediction, mask in items]
    plain, edges = [], []
    grouped = {(kind, group): [] for kind in ("miou", "boundary_miou") for group in range(4)}
    for prediction, mask in matched:
        counted = mask != IGNORE
        # Off the boundary a pixel is on no category's side: -1 and -2 never meet.
        edge_p = np.where(naive_boundary(prediction), prediction, -1)
        edge_t = np.where(naive_boundary(mask), mask, -2)
        plain.append((prediction[counted], mask[counted]))
        edges.append((edge_p[counted], edge_t[counted]))
        categories = set(mask[counted].tolist()) - {0}
        for group in {size_group(mask, c) for c in categories}:
            members = [0, *(c for c in categories if size_group(mask, c) == group)]
            kept = np.isin(mask, members)
            grouped["miou", group].append((prediction[kept], mask[kept]))
            grouped["boundary_miou", group].append((edge_p[kept], edge_t[kept]))
    ious, boundary_ious = iou_of(plain, num_classes)[0], iou_of(edges, num_classes)[0]
    groups = {"miou": {}, "boundary_miou": {}}
    for (kind, group), pairs in grouped.items():
        scores, true = iou_of(pairs, num_classes)
        groups[kind][["S", "MS", "ML", "L"][group]] = scores[true > 0].mean() if pairs else None
    return {
        "miou": ious.mean(),
        "boundary_miou": boundary_ious.mean(),
        "image_accuracy": 100 * np.mean([naive_correct(p, m) for p, m in matched]),
        "f_measure": np.mean([naive_f_measure(p, m) for p, m in items]),
        "ious": ious,
        "boundary_ious": boundary_ious,
        "groups": groups,
    }


def plain(counts):
    """Everything that counts hold, in values that compare."""
    tallies = [
        (part.keys.tolist(), part.values.tolist()) for part in (counts.pixels, counts.cooccurrence, counts.largest)
    ]
    return counts.num_classes, counts.thresholds, counts.num_images, tallies, counts.f_measure.tolist(), counts.ties
