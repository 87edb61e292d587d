"""What of the package runs on Linux and macOS alone."""

from __future__ import annotations


def require_posix(package: str) -> None:
    """Refuse to be imported on Windows, by an error that tells what to do there.

    Args:
        package: name of what needs POSIX's locks and signals.

    Raises:
        ImportError: the system has none.
    """
    try:
        import fcntl  # noqa: F401  whether it is there is all that is asked
    except ModuleNotFoundError:
        raise ImportError(
            f"{package} needs Linux or macOS, for locks on files and for signals; on Windows it runs in WSL. "
            "What mixes, weighs losses, reads data and evaluates needs neither."
        ) from None
