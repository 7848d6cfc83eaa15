"""Has something done in a child that is killed on the way."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable


def killed(run: Callable[[], object]) -> bool:
    """Run in a child; whether it was killed, and did not come to its end. The caller must have no threads."""
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed, and was not killed"
    return False
