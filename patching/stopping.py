"""What a person's code is ended by, and what is said of it."""

from __future__ import annotations


class Stopped(BaseException):
    """Raised in a thread from another one, to end what it does."""


class Overdue(Exception):
    """A person's code took longer than ``seconds``. ``returned`` says that no single call took most of them, ``ended``
    that nothing goes on in the background."""

    def __init__(self, seconds: float):
        super().__init__(f"it took longer than {seconds:g} s")
        self.seconds = seconds
        self.returned = True
        self.ended = True
