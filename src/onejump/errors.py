"""The errors a user can meet: each message says what was given and what is accepted."""


class OneJumpError(Exception):
    """Base of every error that onejump raises on purpose."""


class StudyError(OneJumpError):
    """The study asks for something that cannot be: a wrong key, type, level, rank or method."""


class CorpusError(OneJumpError):
    """The text is missing, empty, undecodable or too little for the split."""


class ModelError(OneJumpError):
    """The model cannot be seen as embedding -> blocks -> final norm -> head."""


class ActivationError(OneJumpError):
    """An activation is not finite, or not representable in the store."""


class DamagedFileError(OneJumpError):
    """A file that onejump wrote is damaged: it fails its checksum, or a part of it is missing."""


class CorruptStoreError(DamagedFileError):
    """A stored activation shard fails its checksum, or a part of it is missing."""
