"""The one family of errors that a person can act on."""


class UserError(ValueError):
    """Something in the user's input (file, record, config, flag) is wrong.

    The message says what was wrong, where, and what to do. Entry points print it without a traceback.
    """


class ConfigError(UserError):
    """A recipe, an override or a field that cannot be used; names file or field."""
