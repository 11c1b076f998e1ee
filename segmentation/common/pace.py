"""How long work will take, said early, and times in words."""

WARM = 10  # optimizer steps after which the time of a step is known; the first one is slower
SHORT = 60  # seconds; nothing is said of work that takes less


def duration(seconds):
    """Seconds in words, in whole minutes from one minute on: 45 s, 7 min, 2 h 5 min."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Pace:
    """Of `steps` optimizer steps: after the first of them says once how long the others will take.

    `name` begins the line that is passed to `say`.
    """

    def __init__(self, name, steps, say=print):
        self.name, self.left, self.say = name, steps, say
        self.timed, self.seconds, self.rows = 0, 0.0, 0

    def skip(self, steps):
        """These steps need not be made: a call before has made them."""
        self.left -= steps

    def step(self, steps, seconds):
        """These steps have been made, in so many seconds."""
        self.left -= steps
        self.rows += 1
        if self.rows == 1 or self.timed >= WARM:
            return
        self.timed, self.seconds = self.timed + steps, self.seconds + seconds
        if self.timed >= WARM:
            expected = self.left * self.seconds / self.timed
            if expected >= SHORT:
                self.say(f"{self.name}: {self.left} steps to go, about {duration(expected)}")
