"""Rahimi Afzal et al. 2024 and 2025: what the spectrum of the kernel says of fine-tuning."""
