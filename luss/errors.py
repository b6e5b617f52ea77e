"""The one exception a person sees: something they can mend, said in words that name the thing and the fix."""


class LussError(ValueError):
    """A mistake in the input, the configuration or the environment that the user can repair.

    The command line prints the message without a traceback. Broken invariants of the code itself are `assert`s or other
    exceptions, and keep their traceback.

    Example:
        >>> import luss
        >>> try:
        ...     luss.load_config("configs/demo.yaml", ["pretrain.epoch=3"])
        ... except luss.LussError as error:
        ...     print(error)
        unknown setting 'pretrain.epoch' in word 'pretrain.epoch=3': did you mean 'pretrain.epochs'?
    """
