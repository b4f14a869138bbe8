"""Config language: read, override, check, write pipeline configs and label maps."""
