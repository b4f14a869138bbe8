"""What stops a case that hangs."""

from __future__ import annotations

import faulthandler
import sys

import pytest

SECONDS_UNTIL_HUNG = 300.0  # of one case, which takes milliseconds


@pytest.fixture
def no_hang():
    """A function to be called at the start of each case: one that does not end ends the process, with its traceback."""

    def begin() -> None:
        faulthandler.dump_traceback_later(SECONDS_UNTIL_HUNG, exit=True, file=sys.__stderr__)

    yield begin
    faulthandler.cancel_dump_traceback_later()
