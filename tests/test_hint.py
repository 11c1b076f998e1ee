"""The hint after a round, by hand."""

import numpy as np
import pytest

from segmentation.analysis import hint
from segmentation.analysis.significance import Interval


def test_the_gain_is_that_of_images_that_both_models_were_measured_on():
    before, now = {"a": 0.5, "b": 0.7, "old": 0.0}, {"a": 0.6, "b": 0.9, "new": 1.0}
    assert hint.gain(before, now).value == pytest.approx(0.15)
    assert hint.gain({"old": 0.0}, now) is None


def test_agreement_is_dice_between_masks():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 2, (2, 3, 5, 6)).astype(np.uint8)
    one[0], other[0] = 0, 0  # both empty
    one[1], other[1] = 1, 0  # one empty
    by_hand = [1, 0, 2 * (one[2] * other[2]).sum() / (one[2].sum() + other[2].sum())]
    assert hint.agreement(one, other) == pytest.approx(np.mean(by_hand))
    assert hint.agreement(one, one) == 1


@pytest.mark.parametrize(
    ("gained", "agreed", "words"),
    [
        (None, None, "do another"),
        (Interval(0.05, 0.01, 0.09), 0.99, "is likely to pay: the last one did"),
        (Interval(0.0, -0.02, 0.005), 0.8, "is likely to pay: the masks"),
        (Interval(0.0, -0.02, 0.005), 0.97, "is not likely to pay"),
        (Interval(0.0, -0.09, 0.09), 0.97, "may pay or not"),
        (Interval(0.0), 0.97, "may pay or not"),
        (None, 0.97, "may pay or not"),
    ],
)
def test_advice(gained, agreed, words):
    assert words in hint.advice(gained, agreed)
