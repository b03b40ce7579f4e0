"""What is raised for a folder, a model or data that are not what a command needs."""


class RunError(ValueError):
    """A run's folder, or its data, are not what a command needs: one sentence that says what to do."""


class InUseError(RunError):
    """Another process works in the folder of the run."""
