"""The known word that a misspelt word probably stands for. Pure."""

from collections.abc import Iterable

_LONGEST = 100
"""Letters of a word that are compared: the time grows with their square."""


def meant(word: str, known: Iterable[str]) -> str:
    """Return the known word of which *word* is probably a misspelling; empty if there is none.

    Candidates, in this order: a word that differs in the case of letters, or in one letter (two from five
    letters on); the only word that begins with *word* (from three letters on); the only word whose last part,
    behind a dot, is that of *word*. Digits have to be equal: web2 is not a misspelling of web1.
    """
    typed, words = word[:_LONGEST].lower(), sorted(set(known))
    alike = [one for one in words if _digits(one) == _digits(word)]
    scored = [(_distance(typed, one.lower()[:_LONGEST]), one) for one in alike]
    allowed = 0 if len(typed) < 3 else 1 if len(typed) < 5 else 2
    if near := [pair for pair in scored if pair[0] <= allowed]:
        return min(near)[1]
    begun = [one for one in words if len(typed) >= 3 and one.lower().startswith(typed)]
    last = typed.rpartition(".")[2]
    ended = [one for one in words if len(last) >= 3 and "." in one and one.lower().rpartition(".")[2] == last]
    for found in (begun, ended):
        if len(found) == 1:
            return found[0]
    return ""


def hint(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean ...?`` if there is such a word, else an empty string."""
    found = meant(word, known)
    return f"did you mean {found}?" if found else ""


def _digits(word: str) -> str:
    return "".join(char for char in word if char.isdigit())


def _distance(one: str, other: str) -> int:
    """Return the number of letters that are added, left out, replaced, or swapped with the next."""
    before: list[int] = [0] * (len(other) + 1)
    row: list[int] = [*range(len(other) + 1)]
    for i, a in enumerate(one, start=1):
        last, before, row = before, row, [i]
        for j, b in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + int(a != b))
            if i > 1 and j > 1 and (a, one[i - 2]) == (other[j - 2], b):
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
