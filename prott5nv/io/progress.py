"""Progress of long work: a bar on a terminal, otherwise a line of the log each minute."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BEFORE_ESTIMATE = 5.0
_LONG = 600.0  # seconds; work that takes longer is announced


class Progress:
    """Shows how much of some work is done, and announces work of more than ten minutes.

    Nothing is shown if the logger of the package is off for level ``INFO``.

    Parameters
    ----------
    total : int, optional
        Size of the work. By default it is unknown.
    unit : str, default "residues"
        What is counted, in the plural.
    initial : int, default 0
        How much was done before, which does not count for the speed.
    advice : str, default ""
        How long work could be made shorter.
    only_long : bool, default False
        Whether to show no bar, but only lines.
    """

    def __init__(
        self,
        total: int | None = None,
        unit: str = "residues",
        *,
        initial: int = 0,
        advice: str = "",
        only_long: bool = False,
    ) -> None:
        self._total, self._unit, self._advice = total, unit, advice
        self._done = self._initial = initial
        self._start = self._last_line = self._last_update = time.monotonic()
        self._first_update: float | None = None
        self._is_announced = False
        self._bar: tqdm | None = None
        if logger.isEnabledFor(logging.INFO) and sys.stderr.isatty() and not only_long:
            self._bar = tqdm(total=total, initial=initial, unit=f" {unit}", unit_scale=True, mininterval=0.5)

    def update(self, count: int) -> None:
        """Add what was done since the last call.

        Parameters
        ----------
        count : int
        """
        now = time.monotonic()
        if not self._is_announced and self._can_be_estimated(now):
            self._is_announced = True
            self._announce(self._seconds_left(self._last_update))
        if self._first_update is None:
            self._first_update = now
        self._last_update = now
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            logger.info("%s", self._line(now))

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _can_be_estimated(self, now: float) -> bool:
        """Return whether the updates so far give a speed.

        Items that were computed together are reported one after the other. The first of them alone would give a much
        lower speed. Therefore the time after the first update must also be long enough.
        """
        return (
            self._done > self._initial
            and self._first_update is not None
            and now - self._first_update > _SECONDS_BEFORE_ESTIMATE
            and self._last_update - self._start > _SECONDS_BEFORE_ESTIMATE
        )

    def _announce(self, seconds: float | None) -> None:
        if seconds is None or seconds < _LONG:
            return
        if self._bar is not None:
            self._bar.clear()
        advice = f"; {self._advice}" if self._advice else ""
        logger.info("this will take about %s%s", duration(seconds), advice)

    def _seconds_left(self, now: float) -> float | None:
        done = self._done - self._initial
        return None if self._total is None else (self._total - self._done) * (now - self._start) / done

    def _line(self, now: float) -> str:
        speed = (self._done - self._initial) / (now - self._start)
        if self._total is None or not speed:
            return f"{self._done:,} {self._unit}, {speed:,.0f} {self._unit}/s"
        left = f", {duration((self._total - self._done) / speed)} left" if self._done < self._total else ""
        return (
            f"{self._done:,} of {self._total:,} {self._unit} ({self._done / max(1, self._total):.0%}), "
            f"{speed:,.0f} {self._unit}/s{left}"
        )


def duration(seconds: float) -> str:
    """Return a duration for people.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> duration(40), duration(700), duration(9000), duration(400_000)
    ('1 minute', '12 minutes', '2.5 hours', '4.6 days')
    """
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return f"{minutes} minute{'s' * (minutes != 1)}"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
