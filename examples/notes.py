# /// bento
# storage_bytes = 1_048_576
# ///
"""Files: an instance's working folder is its own. It is memory of the box, and gone with the instance."""

from pathlib import Path

_NOTES = Path("notes.txt")


def write(text):
    """Files stay from call to call; one that grows beyond `storage_bytes` is an OSError, as on a full disk."""
    with _NOTES.open("a") as file:
        print(text, file=file)


def read():
    """None before the first note."""
    return _NOTES.read_text() if _NOTES.exists() else None
