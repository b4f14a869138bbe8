"""Where examples come from: record files, the data service."""
