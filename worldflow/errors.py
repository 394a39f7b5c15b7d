"""The errors raised on bad input; each message names the file, the field and the remedy."""


class WorldflowError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(WorldflowError):
    """A setting is unknown, missing or contradicts another."""


class TrainingError(WorldflowError):
    """Training went wrong in a way that other settings can mend."""


class DataError(WorldflowError):
    """A dataset or an array given to a world is missing, damaged or of the wrong shape."""


class WorldFormatError(WorldflowError):
    """A world's folder is missing a file, truncated, foreign or of the wrong shape."""


class MissingHeadError(WorldFormatError):
    """A world has no reward or termination head although its use needs one."""


class SamplingError(WorldflowError):
    """A frame could not be sampled, as the world's weights do not give finite numbers."""
