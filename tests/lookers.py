"""Ways of looking at a clip for tests of the check: at the top level of a module, so that workers can import them."""

import os
import signal

from helpers.check import look_at


def dying_at_b(request):
    """Look at a clip, but die at the one called b, as a crash in a decoder's C code would."""
    if request[0].stem == "b":
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from look_at(request)


def failing_at_b(request):
    """Look at a clip, but fail half-way at the one called b."""
    if request[0].stem == "b":
        yield {}
        raise KeyError("k")
    yield from look_at(request)
