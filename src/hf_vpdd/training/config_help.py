"""What --help says of a model's fields: the lines of the config's own docstring."""

import re


_HEAD = r"(?:\w+(?: \([^)]*\))?, )*\w+(?: \([^)]*\))?"


def field_help(cls: type) -> dict[str, str]:
    """Field -> what the docstring's `Args` say of it, without markup. One text may be about several fields."""
    _, _, text = (cls.__doc__ or "").partition("Args:\n")
    paragraphs: list[str] = []
    for line in text.splitlines():
        if re.match(r" {8}\w", line):
            paragraphs.append(line.strip())
        elif paragraphs and line.startswith(" " * 9):
            paragraphs[-1] += " " + line.strip()
        elif line.strip() and not line.startswith(" " * 8):
            break  # the next section
    found = {}
    for paragraph in paragraphs:
        # A second field may begin in the middle: "...: Cameras. history_frames (`int`): Frames of ..."
        for part in re.split(rf"(?<=[.;]) (?={_HEAD}: )(?=[^:]*\(`)", paragraph):
            head, separator, words = part.partition(": ")
            if not separator or not re.fullmatch(_HEAD, head):
                continue
            words = re.sub(r"\[`~?(?:[\w.]*\.)?(\w+)`\]", r"\1", words).replace("`", "")
            for name in re.findall(r"\w+", re.sub(r"\([^)]*\)", "", head)):
                found[name] = words
    return found
