"""Who is having something computed, and who of them has had enough."""

from collections.abc import Callable

import torch
from transformers import StoppingCriteria


class Stopped(Exception):  # noqa: N818  as it is no error: the visitor wanted it
    """What was being computed is no longer wanted."""


class Visits:
    """Sessions in which something is computed or waits for its turn, by the key that Gradio gives them."""

    def __init__(self):
        self._stopped: dict[str | None, bool] = {}

    def begin(self, session: str | None) -> None:
        self._stopped[session] = False

    def others(self, session: str | None) -> bool:
        """Whether somebody else has something under way."""
        return bool(self._stopped.keys() - {session})

    def stop(self, session: str | None) -> None:
        """End what the session has under way; nothing happens where there is nothing."""
        if session in self._stopped:
            self._stopped[session] = True

    def end(self, session: str | None) -> None:
        self._stopped.pop(session, None)

    def check(self, session: str | None) -> None:
        """Raise `Stopped` where that was asked for."""
        if self._stopped.get(session):
            raise Stopped


class CheckedAtEveryToken(StoppingCriteria):
    """Lets `check` end a decoding by raising. Gradio's own way of cancelling waits for the whole window, and
    meanwhile breaks whatever the visitor starts next."""

    def __init__(self, check: Callable[[], None]):
        self.check = check

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        self.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
