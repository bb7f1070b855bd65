"""The errors a user can meet: each message says what was given and what is accepted."""

from __future__ import annotations

import errno


class OneJumpError(Exception):
    """Base of every error that onejump raises on purpose."""


class StudyError(OneJumpError):
    """The study asks for something that cannot be: a wrong key, type, level, rank or method."""


class CorpusError(OneJumpError):
    """The text is missing, empty, undecodable or too little for the split."""


class ModelError(OneJumpError):
    """The model cannot be divided into embedding -> blocks -> final norm -> head."""


class GateError(OneJumpError):
    """A gate cannot be: there is no such kind, or a level or a threshold of it is impossible."""


class ActivationError(OneJumpError):
    """An activation is not finite, or not representable in the store."""


class MissingFileError(OneJumpError, FileNotFoundError):
    """A file that onejump wants to read is not there.

    It is a `FileNotFoundError` too. While Snakemake plans, it takes this error as the sign that a later job
    will write the file.
    """

    def __init__(self, path: object) -> None:
        super().__init__(errno.ENOENT, "no such file", str(path))

    def __str__(self) -> str:
        return f"{self.filename}: no such file"


class DamagedFileError(OneJumpError):
    """A file that onejump wrote is damaged: it fails its checksum, or a part of it is missing."""


class CorruptStoreError(DamagedFileError):
    """A stored activation shard fails its checksum, or a part of it is missing."""


class FormatError(OneJumpError):
    """A file is of another kind than expected, or of a format that this onejump does not read."""


class OutdatedFileError(FormatError, FileNotFoundError):
    """An older onejump wrote a file, in a format that this one does not read.

    It is a `FileNotFoundError` too. While Snakemake plans, it takes this error as the sign that a later job
    will write the file again.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(errno.ENOENT, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"
