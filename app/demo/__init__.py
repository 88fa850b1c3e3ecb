"""`model-gateway demo`: real models, real processes, real HTTP, and the story of their releases told as it
happens.
"""

from __future__ import annotations


def run(port: int | None, speed: float, once: bool) -> int:
    """Tells the story on the terminal; returns the exit status.

    `port` is the gateway's, None for 8080 or, if that is taken, any free one. `speed` divides all waiting
    times. With `once` everything stops at the end, else it stays up until Ctrl-C. 0: all happened as it
    should; 1: something did not; 130: interrupted before the end.
    """
    # scikit-learn takes a second to import: only whoever asks for the demo pays for it.
    from app.demo.play import play

    return play(port, speed, once)
