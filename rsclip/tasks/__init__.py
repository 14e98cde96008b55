"""Benchmark tasks; the file name is the task name."""
