"""Copies among photographs: one picture twice, cut, shrunk or coloured otherwise the second time.

Files with equal pixels are found by their hashes. These are found in two steps:

- Pairs that look alike when they are small: the correlation of their gray pictures of SIDE x SIDE
  is at least ALIKE. At most NEAREST such pairs for each image.
- Of these, the pairs that share at least POINTS points of SIFT (Lowe 2004, Distinctive image
  features from scale-invariant keypoints), which one shift, turn and scale near 1 brings together.

Among the 2000 images of ISIC 2017 there are 14 pairs with 59 points and more; all other pairs that
look alike have 9 or fewer.
"""

import functools

import cv2
import numpy as np

SIDE = 32
ALIKE = 0.93
NEAREST = 10
LONGER = 256  # pixels of the longer side of a picture in which points are searched
MOST_POINTS = 300
RATIO = 0.8  # of the distances to the nearest and second nearest descriptor, at most
SHIFT = 4  # pixels by which a point may miss its partner
SCALE = 1.5  # the larger of two copies is at most this many times the other
POINTS = 20
BLOCK = 256  # rows of the matrix of correlations at once


def alike(images):
    """Pairs (i, j), i < j, of images that look alike when small: sorted list.

    `images` uint8 N x H x W x C. Brightness and contrast of an image do not matter. An image of one
    colour is like no other.
    """
    small = np.stack([shrunk(image) for image in images]).reshape(len(images), -1)
    small = small - small.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(small, axis=1, keepdims=True)
    small = small / np.where(lengths > 0, lengths, 1)
    pairs = set()
    for start in range(0, len(small), BLOCK):
        rows = small[start : start + BLOCK] @ small.T
        for i, row in enumerate(rows, start):
            row[i] = -1
            nearest = np.argsort(-row, kind="stable")[:NEAREST]
            pairs.update(tuple(sorted((i, int(j)))) for j in nearest if row[j] >= ALIKE)
    return sorted(pairs)


def shrunk(image):
    """uint8 H x W x C -> gray float32 SIDE x SIDE."""
    gray = image.mean(axis=2, dtype=np.float32)
    return cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def points_of(gray):
    """SIFT of a gray picture, uint8 H x W: (positions float32 P x 2, descriptors float32 P x 128).

    The picture is brought to LONGER pixels first.
    """
    share = LONGER / max(gray.shape)
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC
    gray = cv2.resize(gray, None, fx=share, fy=share, interpolation=how)
    points, found = cv2.SIFT.create(MOST_POINTS, contrastThreshold=0.01).detectAndCompute(
        gray, None
    )
    if found is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    return np.array([point.pt for point in points], np.float32), found


def shared_points(first, second):
    """How many points two pictures, as of `points_of`, share under one shift, turn and scale."""
    (places, found), (others, more) = first, second
    if min(len(found), len(more)) < 2:
        return 0
    matches = cv2.BFMatcher().knnMatch(found, more, k=2)
    good = [one for one, two in matches if one.distance < RATIO * two.distance]
    if len(good) < POINTS:
        return 0
    here = places[[match.queryIdx for match in good]]
    there = others[[match.trainIdx for match in good]]
    motion, inside = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=SHIFT)
    if motion is None or not 1 / SCALE <= np.hypot(*motion[:, 0]) <= SCALE:
        return 0
    return int(inside.sum())


def find_copies(images, gray_of):
    """Pairs (i, j), i < j, of copies: sorted list.

    `images` uint8 N x H x W x C, of any size; `gray_of(i)` is the gray picture i, uint8 h x w, as
    large as there is one.
    """
    points = functools.cache(lambda i: points_of(gray_of(i)))
    return [(i, j) for i, j in alike(images) if shared_points(points(i), points(j)) >= POINTS]
