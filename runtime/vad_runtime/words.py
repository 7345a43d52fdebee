"""Words for people that more than one command needs."""


def counted(number: int, what: str, many: str = "") -> str:
    """Return a number and what there are so many of, as in `1 stream` and `2 streams`.

    Args:
        number: How many.
        what: One of them.
        many: Several of them; empty = `what` with an s.
    """
    return f"{number} {what if number == 1 else many or what + 's'}"
