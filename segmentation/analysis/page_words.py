"""The words of the report: numbers, intervals and lists as text."""


def count_of(count, noun):
    """`1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def correlation_text(correlation):
    """`+0.71 [+0.40, +0.88]` of a correlation, an Interval or None where it is not defined."""
    if correlation is None:
        return "not defined, because all images have the same value"
    value, low, high = correlation
    return f"{value:+.2f} " + ("[no interval]" if low is None else f"[{low:+.2f}, {high:+.2f}]")


def seconds_of(log):
    """The seconds that the epochs of a log took; None if it does not say."""
    return float(log["seconds"].sum()) if "seconds" in log else None


def value_text(value):
    """A setting, as in a table."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def score_text(score):
    """A score with three digits; empty if there is none."""
    try:
        return f"{float(score):.3g}"
    except (TypeError, ValueError):
        return ""


def short_list(names, most=3):
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def last_measured(closer):
    """The last round of a training that has metrics; None if there is none."""
    rounds = [entry for entry in closer.rounds if entry.metrics] if closer else []
    return rounds[-1] if rounds else None
