"""What a guard did, in words that tell nothing of what a viewer bans.

Which category a judge saw is not said: that it is hidden from this viewer would tell that the viewer bans it.
"""

from collections.abc import Sequence

_DONE = {"blur": "blurred", "replace": "replaced"}


def told(count: int, viewers: int, rounds: Sequence[Sequence[int]], how: str, judge: str) -> str:
    """A line for the whole batch, then one for each picture that failed at any time.

    Args:
        count: pictures; picture i is viewer i mod `viewers`'s.
        rounds: the numbers of those that failed: of all at first, then, each time, of those drawn again.
        how: they were hidden.
    """
    hidden = set(rounds[-1])
    lines = [f"{count} pictures looked at by {judge}: {count - len(hidden)} shown, {len(hidden)} hidden."]
    for number in sorted(rounds[0]):
        failed = sum(number in each for each in rounds)
        who = f"Picture {number + 1} (viewer {number % viewers + 1})"
        again = f"drawn again {_times(failed - (number in hidden))} with more strength"
        if number not in hidden:
            lines.append(f"{who}: {again}, and shown. Before, it showed something that this viewer does not want.")
        elif len(rounds) > 1:
            lines.append(
                f"{who}: {_DONE[how]}. It was {again}, and still shows something that this viewer does not want."
            )
        else:
            lines.append(f"{who}: {_DONE[how]}. It shows something that this viewer does not want.")
    return "\n".join(lines)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
