"""A display that follows a state: on a terminal only."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live


class LiveDisplay:
    """Redraws a state on a terminal; anywhere else it does nothing."""

    def __init__(
        self, console: Console, state: Callable[[], RenderableType], *, refreshes_per_second: int
    ) -> None:
        """Stay closed until started.

        Args:
            console: where to draw; it decides whether this is a terminal.
            state: what there is to see now.
            refreshes_per_second: how often the screen follows.
        """
        self._console = console
        self._state = state
        self._refreshes_per_second = refreshes_per_second
        self._live: Live | None = None

    @property
    def open(self) -> bool:
        """Whether it draws now."""
        return self._live is not None

    def start(self) -> None:
        """Begin to draw, if this is a terminal; `close` must follow, whatever happens."""
        if self._console.is_terminal:
            self._live = Live(
                self._state(), console=self._console, refresh_per_second=self._refreshes_per_second
            )
            self._live.start()

    def update(self) -> None:
        """Draw the state as it is now."""
        if self._live is not None:
            self._live.update(self._state())

    def close(self) -> None:
        """Draw the last state and let go of the screen; again is harmless."""
        if self._live is not None:
            self.update()
            self._live.stop()
            self._live = None
