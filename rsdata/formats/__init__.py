"""Readers and writers of raw annotation formats; the file name is the format name."""
