"""From bytes to YAML nodes, which know their lines.

Law: whatever the bytes are, the outcome is one root node or one `ConfigError`. A syntax error is told by what the
parser expected, without quoting the text around it, since that may be a credential.
"""

import re

import yaml

from gateway.config.mistakes import ConfigError, Mistake

_QUOTED = re.compile(r"""\s(['"])(?!<)[^'"]{2,}\1""")


def compose(content: bytes, file: str, none: str = "write into it what it is for") -> yaml.Node:
    """Return the root node of the YAML document in `content`; `file` is its name in messages. Raises ConfigError.

    `none`: the remedy where there is no document at all.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(file, line, "is not UTF-8 text", "save the file as UTF-8") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(file, line, "holds a character that YAML does not allow", "remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        bare = "${" in "".join(text.splitlines()[line - 1 : line])
        remedy = 'put "${VAR}" in quotes between braces' if bare else "mend the syntax on or above this line"
        raise _unreadable(file, line, f"is not valid YAML: {_QUOTED.sub('', said)}", remedy) from None
    except RecursionError:
        raise _unreadable(file, 1, "is nested too deeply", "close the brackets that stay open") from None
    if root is None:
        raise _unreadable(file, 1, "is empty", none)
    return root


def _unreadable(file: str, line: int, message: str, remedy: str) -> ConfigError:
    """Return the error of a file that could not even be parsed."""
    return ConfigError((Mistake(line, "file", message, remedy, file),))
