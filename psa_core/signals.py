"""Which signals tell a process to stop. Little is imported here: see `cli`."""

import signal


def stop_signals() -> list[int]:
    """Those beside Ctrl-C: SIGTERM and, unless `nohup` or a shell shields the process from it, its terminal's end."""
    hang_up: int | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, hang_up]
