class StackError(Exception):
    """A server of the local stack cannot be had; `next_step` is the way out, for the user."""

    exit_code = 1

    def __init__(self, problem: str, next_step: str) -> None:
        super().__init__(problem)
        self.next_step = next_step
