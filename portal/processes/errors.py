"""What keeps the portal's processes from running."""


class ProcessesError(Exception):
    """Why the portal cannot start or go on, in words for the person at the terminal."""
