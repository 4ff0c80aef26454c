"""Labelled text: rows from files, tasks with their prompts, and few-shot splits."""
