"""Is another round of outlines likely to pay? Numbers from the last two models, and a sentence."""

from segmentation.analysis.significance import t_interval
from segmentation.model import metrics

STEADY = 0.95  # masks of two models that agree this much hardly change any more
LITTLE = 0.01  # a gain of Dice that is not worth a round


def gain(before, now):
    """The mean difference of Dice of the same images by two models, as Interval (Student's).

    `before` and `now` map an id to Dice in [0,1]; images of one alone are left out. None if they
    share no image.
    """
    both = sorted(before.keys() & now.keys())
    return t_interval([now[name] - before[name] for name in both]) if both else None


def agreement(one, other):
    """Mean Dice between the masks of two models: uint8 N x H x W in {0,1} each -> float in [0,1].

    Two empty masks agree.
    """
    return float(metrics.dice(metrics.confusion(one.astype(bool), other.astype(bool))).mean())


ALL = "All images are outlined: there is none left to ask for."


def advice(gained, agreed):
    """One sentence on whether another round is likely to pay.

    `gained` is the last round's gain (Interval or None), `agreed` the agreement of the masks of the
    images without an outline with those of the round before (None in the first round). It pays if
    the gain is shown (its interval is above 0) or the masks still change (they agree less than
    STEADY). It does not if the masks are steady and a gain of LITTLE is outside the interval.
    """
    if agreed is None:
        return "One round cannot say what the next will bring: do another."
    steady = f"the masks of the other images agree to {100 * agreed:.0f} % with those before"
    if gained is not None and gained.low is not None and gained.low > 0:
        return f"Another round is likely to pay: the last one did, and {steady}."
    if agreed < STEADY:
        return f"Another round is likely to pay: {steady}, so they still change."
    if gained is not None and gained.high is not None and gained.high < LITTLE:
        return f"Another round is not likely to pay: the last one did not, and {steady}."
    return f"Another round may pay or not: {steady}, and there are too few images to measure more."
