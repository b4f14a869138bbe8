"""Data sets to TFRecords and back."""
