"""Tomihari and Sato 2024: linear probing, then fine-tuning."""
