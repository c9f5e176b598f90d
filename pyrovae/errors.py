"""What pyrovae raises when something outside it is wrong. Every message says what to do next."""


class InputError(ValueError):
    """Data, an option or a program that cannot be used as given."""


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or that belongs to another model or run."""


class NonFiniteError(FloatingPointError):
    """Training met a loss, a gradient or a parameter that is not finite."""
