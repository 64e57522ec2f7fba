"""The composition root: from the configuration to a process that runs. Enter at ``service.py``."""
